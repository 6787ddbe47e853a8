"""What the text plugin brings, by address: nothing here imports torch."""

from __future__ import annotations

from toolkit.hookspecs import Register, hookimpl

HAN = "Yang et al. 2016, Hierarchical Attention Networks for Document Classification, NAACL"
TRANSFORMER = "Vaswani et al. 2017, arXiv:1706.03762"
MEMORY_NETWORK = "Sukhbaatar et al. 2015, End-To-End Memory Networks, arXiv:1503.08895"
BABI = "Weston et al. 2015, Towards AI-Complete Question Answering, arXiv:1502.05698"
GPT2 = "Radford et al. 2019, Language Models are Unsupervised Multitask Learners"
REVIEWS = "Agarap 2018, arXiv:1805.03687"


@hookimpl
def register_data(register: Register) -> None:
    register(
        "files",
        "toolkit_text.data.files:TextFiles",
        summary="Your own texts with a class each: CSV, TSV, JSON lines, Parquet",
        extra="text",
    )
    register(
        "reviews",
        "toolkit_text.data.reviews:ClothingReviews",
        summary="22,641 reviews of clothing: recommended or not, or stars",
        source=REVIEWS,
        extra="text",
    )
    register(
        "stories",
        "toolkit_text.data.stories:Stories",
        summary="Small stories made on the spot, whose supporting sentences are known",
        extra="text",
    )
    register(
        "babi",
        "toolkit_text.data.babi:BAbI",
        summary="The twenty bAbI tasks: questions about simulated worlds, from a folder",
        source=BABI,
        extra="text",
    )
    register(
        "corpus",
        "toolkit_text.data.corpus:TextFolder",
        summary="Any files of text, split by file, as a stream of byte-level tokens",
        extra="text",
    )
    register(
        "python",
        "toolkit_text.data.python_source:PythonSource",
        summary="The source of Python's own standard library, split by file",
        extra="text",
    )


@hookimpl
def register_tasks(register: Register) -> None:
    register("classification", "toolkit_text.tasks.classification:TextClassification", summary="One class for each text", extra="text")
    register(
        "answering", "toolkit_text.tasks.answering:Answering", summary="Answers to questions about stories", extra="text"
    )
    register(
        "language_modelling",
        "toolkit_text.tasks.language_modelling:LanguageModelling",
        summary="The next token of a text: perplexity, bits per byte, `toolkit generate`",
        extra="text",
    )


@hookimpl
def register_models(register: Register) -> None:
    register(
        "language_model",
        "toolkit_text.models.language_model:LanguageModel",
        summary="Decoder-only transformer with any causal attention mechanism",
        source=GPT2,
        extra="text",
    )
    register(
        "memory_network",
        "toolkit_text.models.memory_network:MemoryNetwork",
        summary="Looks at the sentences of a story several times, with any attention mechanism",
        source=MEMORY_NETWORK,
        extra="text",
    )
    register(
        "story_transformer",
        "toolkit_text.models.story_transformer:StoryTransformer",
        summary="Reads a question and its story as one sequence, with any attention mechanism",
        source=TRANSFORMER,
        extra="text",
    )
    register(
        "recurrent",
        "toolkit_text.models.recurrent:RecurrentClassifier",
        summary="Bidirectional LSTM, pooled by any attention mechanism",
        source=HAN,
        extra="text",
    )
    register(
        "transformer",
        "toolkit_text.models.transformer:TransformerClassifier",
        summary="Transformer encoder with any attention mechanism, trained from the start",
        source=TRANSFORMER,
        extra="text",
    )
    register(
        "pretrained",
        "toolkit_text.models.pretrained:PretrainedClassifier",
        summary="A pretrained Hugging Face encoder, fine-tuned",
        extra="text",
    )


@hookimpl
def register_metrics(register: Register) -> None:
    for name, summary in {
        "task_errors": "Error of each task",
        "mean_task_error": "Mean of the tasks' errors",
        "solved_tasks": "Number of tasks with an error of 5 % at most",
        "support_mass": "Share of attention on the sentences that an answer follows from",
    }.items():
        register(name, f"toolkit_text.story_metrics:{name}", summary=summary, source=BABI, extra="text")
    register("perplexity", "toolkit_text.metrics:perplexity", summary="exp of the mean nats of a token", extra="text")
    register(
        "bits_per_byte",
        "toolkit_text.metrics:bits_per_byte",
        summary="Bits that a byte of text takes: comparable between tokenizers and with compressors",
        extra="text",
    )


@hookimpl
def register_recipes(register: Register) -> None:
    register("lm_python", "toolkit_recipes:lm_python.yaml", summary="What comes next in Python's standard library")
    register("stories", "toolkit_recipes:stories.yaml", summary="Questions about small stories made on the spot")
    register("reviews_sentiment", "toolkit_recipes:reviews_sentiment.yaml", summary="Recommended or not, from a review")
