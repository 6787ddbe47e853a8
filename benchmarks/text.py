"""Words counted and weighed, the peer of every text classifier: TF-IDF and logistic regression on a recipe's own split.

    python benchmarks/text.py                               # the recipe reviews_sentiment
    python benchmarks/text.py reviews_sentiment data.target=rating --json

What the vectors hold, how strong the penalty is and how classes weigh are chosen on validation: for the area under the
ROC curve and for macro-F1 each by itself. Test is looked at once for each. Compare with `toolkit verify`.
"""

from __future__ import annotations

import argparse
import itertools
import json
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score

from toolkit.plugins import current_toolkit
from toolkit.recipe import load
from toolkit.resolve import resolve

SPACE = {
    "ngram_range": [(1, 1), (1, 2)],
    "min_df": [2, 5],
    "C": [0.3, 1.0, 3.0, 10.0],
    "class_weight": [None, "balanced"],
}


def splits(recipe: str, overrides: list[str]) -> dict[str, tuple[list[str], np.ndarray]]:
    """Return the texts and labels of each split, as the recipe's own data module splits them."""
    data: Any = resolve(load(recipe, current_toolkit(), overrides)).data.build()
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
    return {"auroc": float(area), "macro_f1": float(f1_score(labels, model.predict(vectors), average="macro"))}


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
            for metric in ("auroc", "macro_f1"):
                if metric not in best or found[metric] > best[metric]["val"]:
                    best[metric] = {"val": found[metric], "settings": settings, "look": (model, vectors["test"])}
    for metric, each in best.items():
        model, test = each.pop("look")
        each["test"] = scores(model, test, parts["test"][1])[metric]
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="reviews_sentiment")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    parts = splits(given.recipe, given.overrides)
    found = tuned(parts)
    if given.json:
        print(json.dumps(found, indent=2))
        return
    print(", ".join(f"{name} {len(texts)}" for name, (texts, _) in parts.items()))
    for metric, each in found.items():
        print(f"{metric:10} val {each['val']:.4f}   test {each['test']:.4f}   {each['settings']}")


if __name__ == "__main__":
    main()
