"""What the text plugin brings, by address: nothing here imports torch."""

from __future__ import annotations

from toolkit.hookspecs import Register, hookimpl

HAN = "Yang et al. 2016, Hierarchical Attention Networks for Document Classification, NAACL"
TRANSFORMER = "Vaswani et al. 2017, arXiv:1706.03762"
MEMORY_NETWORK = "Sukhbaatar et al. 2015, End-To-End Memory Networks, arXiv:1503.08895"
BABI = "Weston et al. 2015, Towards AI-Complete Question Answering, arXiv:1502.05698"
ADDITIVE = "Bahdanau et al. 2014, arXiv:1409.0473"
MULTI30K = "Elliott et al. 2016, arXiv:1605.00459"
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
        "hub",
        "toolkit_text.data.hub:HubTexts",
        summary="Texts with a class each from any data set of the Hugging Face hub",
        extra="text",
    )
    for name, target, summary, source in (
        ("sst2", "SST2", "9613 sentences of film reviews: negative or positive", "Socher et al. 2013, EMNLP"),
        ("ag_news", "AGNews", "127,600 news by topic", "Zhang et al. 2015, arXiv:1509.01626"),
        ("trec", "TREC", "5952 questions by what they ask for", "Li and Roth 2002, COLING"),
        ("imdb", "IMDB", "50,000 long film reviews: negative or positive", "Maas et al. 2011, ACL"),
    ):
        register(name, f"toolkit_text.data.named:{target}", summary=summary, source=source, extra="text")
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
    register(
        "dates",
        "toolkit_text.data.dates:Dates",
        summary="Dates as thirty locales write them, beside ISO form, made on the spot",
        extra="text",
    )
    register(
        "parallel",
        "toolkit_text.data.parallel_files:ParallelFiles",
        summary="Your own texts and their translations: two files line by line, or two columns of one",
        extra="text",
    )
    register(
        "multi30k",
        "toolkit_text.data.multi30k:Multi30k",
        summary="29,000 captions of pictures in English and German",
        source=MULTI30K,
        extra="text",
    )


@hookimpl
def register_tasks(register: Register) -> None:
    register(
        "classification",
        "toolkit_text.tasks.classification:TextClassification",
        summary="One class for each text",
        extra="text",
    )
    register(
        "answering",
        "toolkit_text.tasks.answering:Answering",
        summary="Answers to questions about stories",
        extra="text",
    )
    register(
        "language_modelling",
        "toolkit_text.tasks.language_modelling:LanguageModelling",
        summary="The next token of a text: perplexity, bits per byte, `toolkit generate`",
        extra="text",
    )
    register(
        "translation",
        "toolkit_text.tasks.translation:Translation",
        summary="A text for a text: beam search, BLEU, chrF, `toolkit align`",
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
        "recurrent_translator",
        "toolkit_text.models.recurrent_translator:RecurrentTranslator",
        summary="A GRU reads and a GRU writes, aligned by any attention mechanism",
        source=ADDITIVE,
        extra="text",
    )
    register(
        "transformer_translator",
        "toolkit_text.models.transformer_translator:TransformerTranslator",
        summary="Transformer encoder and decoder with any attention mechanism",
        source=TRANSFORMER,
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
        "hierarchical",
        "toolkit_text.models.hierarchical:HierarchicalClassifier",
        summary="Words make sentences, sentences the document; any attention mechanism pools both",
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
    for name, summary, source in (
        ("bleu", "sacreBLEU's BLEU, from 0 to 100", "Post 2018, arXiv:1804.08771"),
        ("bleu_lowercase", "The same of texts in lower case", "Post 2018, arXiv:1804.08771"),
        ("chrf", "sacreBLEU's chrF2, from 0 to 100", "Popovic 2015, chrF: character n-gram F-score, WMT"),
        ("exact_match", "Share of texts that are exactly right", ""),
        ("token_accuracy", "Share of tokens that are right, given those before", ""),
    ):
        register(name, f"toolkit_text.translation_metrics:{name}", summary=summary, source=source, extra="text")
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
    for name, summary in {
        "babi": "The bAbI tasks, 10,000 questions each, by a memory network",
        "babi_1k": "The bAbI tasks, 1,000 questions each, by a memory network",
        "babi_transformer": "The bAbI tasks, 10,000 questions each, by a transformer",
    }.items():
        register(name, f"toolkit_recipes:{name}.yaml", summary=summary, source=BABI)
    register("stories", "toolkit_recipes:stories.yaml", summary="Questions about small stories made on the spot")
    register("multi30k_bahdanau", "toolkit_recipes:multi30k_bahdanau.yaml", summary="Captions into German, by a GRU")
    register("multi30k_transformer", "toolkit_recipes:multi30k_transformer.yaml", summary="Captions into German")
    register(
        "date_normalisation", "toolkit_recipes:date_normalisation.yaml", summary="Dates of all kinds into ISO form"
    )
    register("reviews_sentiment", "toolkit_recipes:reviews_sentiment.yaml", summary="Recommended or not, from a review")
    register(
        "reviews_minilm", "toolkit_recipes:reviews_minilm.yaml", summary="Recommended or not, from a review, by MiniLM"
    )
    register("sst2", "toolkit_recipes:sst2.yaml", summary="Negative or positive, from a sentence of a film review")
    register(
        "sst2_minilm", "toolkit_recipes:sst2_minilm.yaml", summary="Negative or positive, from a sentence, by MiniLM"
    )
    register("ag_news", "toolkit_recipes:ag_news.yaml", summary="What a piece of news is about")
    register("trec", "toolkit_recipes:trec.yaml", summary="What a question asks for")
    register("imdb", "toolkit_recipes:imdb.yaml", summary="Negative or positive, from a long film review")
