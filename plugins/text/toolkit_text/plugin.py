"""What the text plugin brings, by address: nothing here imports torch."""

from __future__ import annotations

from toolkit.hookspecs import Register, hookimpl

HAN = "Yang et al. 2016, Hierarchical Attention Networks for Document Classification, NAACL"
TRANSFORMER = "Vaswani et al. 2017, arXiv:1706.03762"
MEMORY_NETWORK = "Sukhbaatar et al. 2015, End-To-End Memory Networks, arXiv:1503.08895"
BABI = "Weston et al. 2015, Towards AI-Complete Question Answering, arXiv:1502.05698"
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
        "babi",
        "toolkit_text.data.babi:BAbI",
        summary="The twenty bAbI tasks: questions about simulated worlds, from a folder",
        source=BABI,
        extra="text",
    )


@hookimpl
def register_tasks(register: Register) -> None:
    register("classification", "toolkit_text.tasks.classification:TextClassification", summary="One class for each text", extra="text")
    register(
        "answering", "toolkit_text.tasks.answering:Answering", summary="Answers to questions about stories", extra="text"
    )


@hookimpl
def register_models(register: Register) -> None:
    register(
        "memory_network",
        "toolkit_text.models.memory_network:MemoryNetwork",
        summary="Looks at the sentences of a story several times, with any attention mechanism",
        source=MEMORY_NETWORK,
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
        register(name, f"toolkit_text.metrics:{name}", summary=summary, source=BABI, extra="text")


@hookimpl
def register_recipes(register: Register) -> None:
    register("reviews_sentiment", "toolkit_recipes:reviews_sentiment.yaml", summary="Recommended or not, from a review")
