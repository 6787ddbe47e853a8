"""The core's own names, registered through the same hooks as anybody else's."""

from __future__ import annotations

from toolkit.hookspecs import Register, hookimpl

GAT_PAPER = "Velickovic et al. 2018, Graph Attention Networks, arXiv:1710.10903"
GATV2_PAPER = "Brody et al. 2022, How Attentive are Graph Attention Networks?, arXiv:2105.14491"
TRANSFORMER_PAPER = "Vaswani et al. 2017, Attention Is All You Need, arXiv:1706.03762"
SPARSE_PAPER = "Child et al. 2019, Generating Long Sequences with Sparse Transformers, arXiv:1904.10509"

LUONG_PAPER = "Luong et al. 2015, Effective Approaches to Attention-based Neural Machine Translation, arXiv:1508.04025"
_SCORES_AND_MEMORY = (
    ("dot", "dot:Dot", "Inner product, without a scale", LUONG_PAPER),
    ("general", "dot:General", "Inner product through a learned matrix", LUONG_PAPER),
    (
        "cosine",
        "dot:Cosine",
        "Cosine over a temperature, learned or fixed",
        "Liu et al. 2022, Swin Transformer V2, arXiv:2111.09883",
    ),
    (
        "additive",
        "additive:Additive",
        "v . tanh(q + k + b)",
        "Bahdanau et al. 2014, Neural Machine Translation by Jointly Learning to Align and Translate, arXiv:1409.0473",
    ),
    ("luong", "luong:Luong", "Global or local attention; monotonic, or around a predicted position", LUONG_PAPER),
    (
        "location_aware",
        "location_aware:LocationAware",
        "Additive, and aware of where the query before looked",
        "Chorowski et al. 2015, Attention-Based Models for Speech Recognition, arXiv:1506.07503",
    ),
    (
        "din",
        "din:DIN",
        "MLP over query, key, difference and product; weights are not normalised",
        "Zhou et al. 2018, Deep Interest Network for Click-Through Rate Prediction, arXiv:1706.06978",
    ),
    (
        "hard",
        "hard:Hard",
        "Looks at one key: REINFORCE or straight-through",
        "Xu et al. 2015, Show, Attend and Tell, arXiv:1502.03044",
    ),
    (
        "persistent_memory",
        "persistent_memory:PersistentMemory",
        "Learned keys and values beside the context",
        "Sukhbaatar et al. 2019, Augmenting Self-attention with Persistent Memory, arXiv:1907.01470",
    ),
    (
        "external_memory",
        "external_memory:ExternalMemory",
        "The nearest keys of past calls, joined by a gate",
        "Wu et al. 2022, Memorizing Transformers, arXiv:2203.08913",
    ),
    (
        "memory_hops",
        "memory_hops:MemoryHops",
        "Attention repeated over the same memory",
        "Sukhbaatar et al. 2015, End-To-End Memory Networks, arXiv:1503.08895",
    ),
)

_TWO_MAPS_AND_MIXED_HEADS = (
    (
        "differential",
        "differential:Differential",
        "One map of weights minus another, each of half the features",
        "Ye et al. 2024, Differential Transformer, arXiv:2410.05258",
    ),
    (
        "talking_heads",
        "talking_heads:TalkingHeads",
        "Heads mix their scores before softmax and their weights after",
        "Shazeer et al. 2020, Talking-Heads Attention, arXiv:2003.02436",
    ),
)

_LINEAR_AND_LOW_RANK = (
    (
        "linear",
        "linear:Linear",
        "Kernel elu + 1 instead of exp: linear in the length, recurrent",
        "Katharopoulos et al. 2020, Transformers are RNNs, arXiv:2006.16236",
    ),
    (
        "performer",
        "performer:Performer",
        "Softmax estimated by positive random features (FAVOR+)",
        "Choromanski et al. 2021, Rethinking Attention with Performers, arXiv:2009.14794",
    ),
    (
        "linformer",
        "linformer:Linformer",
        "Softmax over a few learned mixtures of the keys",
        "Wang et al. 2020, Linformer: Self-Attention with Linear Complexity, arXiv:2006.04768",
    ),
    (
        "nystrom",
        "nystrom:Nystrom",
        "Softmax rebuilt from a few landmarks",
        "Xiong et al. 2021, Nystromformer, arXiv:2102.03902",
    ),
)

_POSITIONS_AND_SPARSE = (
    (
        "rotary",
        "rotary:Rotary",
        "Queries and keys turned by their positions",
        "Su et al. 2021, RoFormer, arXiv:2104.09864",
    ),
    (
        "alibi",
        "alibi:ALiBi",
        "A penalty that grows with distance, by a slope a head",
        "Press et al. 2022, Train Short, Test Long, arXiv:2108.12409",
    ),
    (
        "t5_relative",
        "t5_relative:T5Relative",
        "A learned bias for each bucket of distances",
        "Raffel et al. 2020, Exploring the Limits of Transfer Learning (T5), arXiv:1910.10683",
    ),
    (
        "soft_capped",
        "soft_capped:SoftCapped",
        "Scores kept within a cap by tanh",
        "Gemma Team 2024, Gemma 2, arXiv:2408.00118",
    ),
    (
        "sliding_window",
        "sliding_window:SlidingWindow",
        "Near keys and global tokens, in linear time",
        "Beltagy et al. 2020, Longformer, arXiv:2004.05150",
    ),
    (
        "block_local",
        "block_sparse:BlockLocal",
        "Keys of the own block and of blocks around it",
        "Parmar et al. 2018, Image Transformer, arXiv:1802.05751",
    ),
    (
        "big_bird",
        "block_sparse:BigBird",
        "Near, global and random blocks",
        "Zaheer et al. 2020, Big Bird, arXiv:2007.14062",
    ),
    ("strided", "sparse_transformer:StridedSparse", "Near keys, and those whole strides away", SPARSE_PAPER),
    ("fixed", "sparse_transformer:FixedSparse", "The own block, and the last keys of every block", SPARSE_PAPER),
    (
        "top_k",
        "top_k:TopK",
        "The k largest scores of each query",
        "Gupta et al. 2021, Memory-efficient Transformers via Top-k Attention, arXiv:2106.06899",
    ),
)

_SALIENCY = (
    (
        "saliency_pooling",
        "saliency_pooling:SaliencyPooling",
        "How salient each key is by itself: pooling of texts and graphs",
        "Yang et al. 2016, Hierarchical Attention Networks, https://aclanthology.org/N16-1174",
    ),
    (
        "bottom_up",
        "bottom_up:BottomUp",
        "Dot product, and how much a key stands out by itself",
        "Our own formula, after Itti, Koch, Niebur 1998, IEEE PAMI 20(11)",
    ),
)

_FEATURE_MAPS = (
    (
        "squeeze_excitation",
        "squeeze_excitation:SqueezeExcitation",
        "Each channel of a feature map by a gate of all channels' averages",
        "Hu et al. 2018, Squeeze-and-Excitation Networks, arXiv:1709.01507",
    ),
    (
        "cbam",
        "cbam:CBAM",
        "A gate of channels, then a gate of places",
        "Woo et al. 2018, CBAM: Convolutional Block Attention Module, arXiv:1807.06521",
    ),
    (
        "deformable",
        "deformable:Deformable",
        "Queries read a few points of each feature map, at offsets they predict",
        "Zhu et al. 2021, Deformable DETR, arXiv:2010.04159",
    ),
)


@hookimpl
def register_attention(register: Register) -> None:
    register(
        "gat",
        "toolkit.attention.gat:GAT",
        summary="Additive score of two linear terms, before a LeakyReLU",
        source=GAT_PAPER,
    )
    register(
        "gatv2",
        "toolkit.attention.gatv2:GATv2",
        summary="Additive score after a LeakyReLU: ranks keys by query",
        source=GATV2_PAPER,
    )
    register(
        "scaled_dot_product",
        "toolkit.attention.scaled_dot_product:ScaledDotProduct",
        summary="Dot product over sqrt(dim); on edges, the graph transformer",
        source=TRANSFORMER_PAPER,
    )
    for name, attribute, summary, source in (
        *_SCORES_AND_MEMORY,
        *_TWO_MAPS_AND_MIXED_HEADS,
        *_LINEAR_AND_LOW_RANK,
        *_POSITIONS_AND_SPARSE,
        *_SALIENCY,
    ):
        register(name, f"toolkit.attention.{attribute}", summary=summary, source=source)
    for name, attribute, summary, source in _FEATURE_MAPS:
        register(name, f"toolkit.attention.feature_maps.{attribute}", summary=summary, source=source)


@hookimpl
def register_optimizers(register: Register) -> None:
    for name, attribute in {
        "adam": "Adam",
        "adamw": "AdamW",
        "nadam": "NAdam",
        "radam": "RAdam",
        "adagrad": "Adagrad",
        "rmsprop": "RMSprop",
        "sgd": "SGD",
    }.items():
        register(name, f"torch.optim:{attribute}", summary=f"{attribute} as in torch.optim")


@hookimpl
def register_schedules(register: Register) -> None:
    register("cosine", "toolkit.schedules:cosine", summary="Linear warm-up, then a half cosine to a floor")
    register("linear", "toolkit.schedules:linear", summary="Linear warm-up, then a straight line to a floor")
    register(
        "inverse_sqrt",
        "toolkit.schedules:inverse_sqrt",
        summary="Linear warm-up, then 1/sqrt(step)",
        source=TRANSFORMER_PAPER,
    )
    register("step", "torch.optim.lr_scheduler:StepLR", summary="Multiply by gamma every step_size steps")
    register("exponential", "torch.optim.lr_scheduler:ExponentialLR", summary="Multiply by gamma every step")


@hookimpl
def register_metrics(register: Register) -> None:
    register("accuracy", "toolkit.metrics:accuracy", summary="Share of right answers")
    register("macro_f1", "toolkit.metrics:macro_f1", summary="F1 averaged over classes")
    register("auroc", "toolkit.metrics:auroc", summary="Area under the ROC curve, averaged over classes")
    register("calibration_error", "toolkit.metrics:calibration_error", summary="Expected calibration error, 15 bins")


@hookimpl
def register_callbacks(register: Register) -> None:
    register(
        "learning_rate_monitor",
        "pytorch_lightning.callbacks:LearningRateMonitor",
        summary="Log the learning rate",
    )
    register("gradient_norm", "toolkit.callbacks.gradients:GradientNorm", summary="Log the norm of the gradient")
    register(
        "weight_average",
        "toolkit.callbacks.averaging:WeightAverage",
        summary="Validate, test and keep a moving average of the weights",
        source="Tarvainen & Valpola 2017, arXiv:1703.01780",
    )
    register("timer", "pytorch_lightning.callbacks:Timer", summary="Stop after a given time (duration: DD:HH:MM:SS)")


@hookimpl
def register_loggers(register: Register) -> None:
    register("csv", "toolkit.loggers:CSVLogger", summary="metrics.csv in the run directory")
    register(
        "tensorboard",
        "toolkit.loggers:TensorBoard",
        summary="TensorBoard event files in the run directory",
    )
    register("wandb", "pytorch_lightning.loggers:WandbLogger", summary="Weights & Biases", extra="wandb")
    register("mlflow", "toolkit.loggers:MLflow", summary="MLflow", extra="mlflow-skinny")
