"""Words counted and weighed, the peer of every text classifier: TF-IDF and logistic regression on a recipe's own split.

    python benchmarks/text.py                               # the recipe reviews_sentiment
    python benchmarks/text.py reviews_sentiment data.target=rating --json
    python benchmarks/text.py --run runs/sst2-1 --run runs/sst2-2     # the data of these runs, and theirs beside it

What the vectors hold, how strong the penalty is and how classes weigh are chosen on validation: for accuracy, for the
area under the ROC curve and for macro-F1 each by itself. Test is looked at once for each. Runs are read with the data
that their own recipes name, all of them the same; a run was chosen on validation by its own recipe.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

from toolkit import checkpoint
from toolkit.plugins import current_toolkit
from toolkit.recipe import Recipe, from_document, load
from toolkit.resolve import resolve
from toolkit.trained import evaluate

SPACE = {
    "ngram_range": [(1, 1), (1, 2)],
    "min_df": [1, 2, 5],
    "C": [0.3, 1.0, 3.0, 10.0, 30.0],
    "class_weight": [None, "balanced"],
}
METRICS = ("accuracy", "auroc", "macro_f1")


def splits(recipe: Recipe) -> dict[str, tuple[list[str], np.ndarray]]:
    """Return the texts and labels of each split, as the recipe's own data module splits them."""
    data: Any = resolve(recipe).data.build()
    data.prepare_data()
    return {name: (part.texts, np.array(part.labels)) for name, part in data.read_splits().items()}


def scores(model: LogisticRegression, vectors: Any, labels: np.ndarray) -> dict[str, float]:
    probabilities = model.predict_proba(vectors)
    two = len(model.classes_) == 2
    area = (
        roc_auc_score(labels == model.classes_[1], probabilities[:, 1])
        if two
        else roc_auc_score(labels, probabilities, multi_class="ovr", labels=model.classes_)
    )
    chosen = model.classes_[probabilities.argmax(1)]
    return {
        "accuracy": float(accuracy_score(labels, chosen)),
        "auroc": float(area),
        "macro_f1": float(f1_score(labels, chosen, average="macro")),
    }


def tuned(parts: dict[str, tuple[list[str], np.ndarray]]) -> dict[str, Any]:
    """Try the whole space on validation, and look at test with the best."""
    best: dict[str, Any] = {}
    for ngram_range, min_df in itertools.product(SPACE["ngram_range"], SPACE["min_df"]):
        vectorizer = TfidfVectorizer(ngram_range=ngram_range, min_df=min_df, sublinear_tf=True)
        vectors = {"train": vectorizer.fit_transform(parts["train"][0])}
        vectors |= {name: vectorizer.transform(parts[name][0]) for name in ("val", "test")}
        for penalty, class_weight in itertools.product(SPACE["C"], SPACE["class_weight"]):
            model = LogisticRegression(C=penalty, class_weight=class_weight, max_iter=2000)
            model.fit(vectors["train"], parts["train"][1])
            found = scores(model, vectors["val"], parts["val"][1])
            settings = {"ngram_range": ngram_range, "min_df": min_df, "C": penalty, "class_weight": class_weight}
            for metric in METRICS:
                if metric not in best or found[metric] > best[metric]["val"]:
                    best[metric] = {"val": found[metric], "settings": settings, "look": (model, vectors["test"])}
    for metric, each in best.items():
        model, test = each.pop("look")
        each["test"] = scores(model, test, parts["test"][1])[metric]
    return best


def measured(run: Path) -> dict[str, dict[str, float]]:
    """Return a run's metrics on validation and test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # training told them
        return {split: evaluate(run, [], split=split).metrics for split in ("val", "test")}


def recipe_of(runs: list[Path]) -> Recipe:
    """Return the recipe of the runs. Raises: SystemExit where they were not trained on the same data."""
    documents = [checkpoint.restore(run).payload.recipe for run in runs]

    def rows(document: Any) -> dict[str, Any]:
        """What decides which rows lie in which split, and not how they are read by a model."""
        model_only = {
            *("tokenizer", "vocabulary", "min_count", "lowercase", "max_length", "too_long", "train_windows"),
            *("batch_size", "batch_tokens", "workers", "keep", "learn_from"),
        }
        return {key: value for key, value in document["data"].items() if key not in model_only}

    for run, document in zip(runs, documents, strict=True):
        if rows(document) != rows(documents[0]):
            raise SystemExit(f"{run} was trained on other data than {runs[0]}: {rows(document)}, {rows(documents[0])}")
    return from_document(documents[0], f"the recipe inside {runs[0]}")


def shown(parts: Any, best: dict[str, Any], runs: dict[str, Any]) -> None:
    print(", ".join(f"{name} {len(texts)}" for name, (texts, _) in parts.items()))
    print(f"{'':30} {'metric':10} {'val':>7} {'test':>7}")
    for metric, each in best.items():
        print(
            f"{'TF-IDF, logistic regression':30} {metric:10} {each['val']:7.4f} {each['test']:7.4f}  {each['settings']}"
        )
    for metric in METRICS:
        for run, found in runs.items():
            if f"val/{metric}" in found["val"]:
                values = found["val"][f"val/{metric}"], found["test"][f"test/{metric}"]
                print(f"{Path(run).name:30} {metric:10} {values[0]:7.4f} {values[1]:7.4f}")
        test = [each["test"][f"test/{metric}"] for each in runs.values() if f"test/{metric}" in each["test"]]
        if len(test) > 1:
            spread = statistics.stdev(test)
            print(f"{f'mean of {len(test)} runs':30} {metric:10} {'':7} {statistics.mean(test):7.4f} +/- {spread:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--run", type=Path, action="append", default=[], metavar="RUN", help="a run to show beside it")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.run and given.recipe:
        parser.error("a run names its own data: give --run, or a recipe")
    recipe = (
        recipe_of(given.run)
        if given.run
        else load(given.recipe or "reviews_sentiment", current_toolkit(), given.overrides)
    )
    parts = splits(recipe)
    best = tuned(parts)
    runs = {str(run): measured(run) for run in given.run}
    if given.json:
        print(json.dumps({"rows": {name: len(each[0]) for name, each in parts.items()}, "tfidf": best, "runs": runs}))
    else:
        shown(parts, best, runs)


if __name__ == "__main__":
    main()
