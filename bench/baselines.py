"""What simple methods reach on the embedded data sets, beside the targets of the tasks that are trained on them.

    python bench/baselines.py [--save]

AUC of logistic regression and of boosted trees (scikit-learn) on the tables, with the split of the recipes; of tf-idf
over letter trigrams the share of pairs in order, on docstrings and functions; BLEU of translations without training.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import harness
import numpy as np
import sacrebleu
import sklearn
from scipy import sparse
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import OneHotEncoder

from airank_fast.data.tables import Rows, Table, adult, flights
from airank_fast.data.text import code_search, home_assistant
from airank_fast.data.text.query_pairs import Line, Pairs
from airank_fast.data.text.trigrams import Bags, rarity
from airank_fast.quality.auc import area
from airank_fast.quality.order_rate import of_scores
from airank_fast.recipes import deepfm, dssm, transformer

TEXTS = [place for place, name in enumerate(adult.SLOTS) if name not in adult.NUMBERS]


def one_hot(table: Table, columns: list[int] | slice) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Numbers, and a column for each id, of both sides."""
    encoder = OneHotEncoder(handle_unknown="ignore").fit(table.train.ids[:, columns])

    def encoded(rows: Rows) -> sparse.csr_matrix:
        return sparse.hstack([rows.dense, encoder.transform(rows.ids[:, columns])]).tocsr()

    return encoded(table.train), encoded(table.held_out)


def logistic(table: Table, columns: list[int] | slice) -> float:
    """AUC of logistic regression, the better of two penalties."""
    train, held_out = one_hot(table, columns)
    found = []
    for strength in (0.1, 1.0):
        model = LogisticRegression(C=strength, max_iter=1000).fit(train, table.train.labels)
        found.append(area(model.decision_function(held_out), table.held_out.labels))
    return max(found)


def trees(table: Table, columns: list[int] | slice) -> float:
    """AUC of boosted trees with the library's settings; ids are ordered numbers to them."""
    sides = (np.column_stack([rows.dense, rows.ids[:, columns]]) for rows in (table.train, table.held_out))
    train, held_out = sides
    model = HistGradientBoostingClassifier(random_state=0).fit(train, table.train.labels)
    return area(model.decision_function(held_out), table.held_out.labels)


def lexical() -> float:
    """The share of pairs in order by tf-idf over the trigrams that DSSM takes."""
    buckets = dssm.RECIPES["code_search"].buckets
    train, held_out, _ = code_search.load()
    sides = [[Line(each.query, each.document, 1) for each in side] for side in (train, held_out)]
    pairs, others = (Pairs.of(side, buckets) for side in sides)
    weighted = others.weighted(pairs.rarity(buckets))
    dense = []
    for bags in (weighted.queries, weighted.documents):
        rows = np.repeat(np.arange(bags.num_texts), np.diff(bags.offsets))
        dense.append(np.zeros((bags.num_texts, buckets), np.float32))
        dense[-1][rows, bags.ids] = bags.weights
    return of_scores(dense[0][weighted.query] @ dense[1][weighted.document].T)["order_rate"]


def translations(split: home_assistant.Split) -> Iterator[tuple[str, float]]:
    """BLEU of the source itself, and of the translation of the nearest training text by tf-idf over letter trigrams."""
    buckets = dssm.RECIPES["code_search"].buckets
    sides = home_assistant.load(split)
    bags = [Bags.of([pair.source for pair in side], buckets) for side in sides]
    weighted = [each.weighted(rarity(bags[:1], buckets)) for each in bags]
    memory, queries = (sparse.csr_matrix((w.weights, w.ids, w.offsets), (w.num_texts, buckets)) for w in weighted)
    nearest = (queries @ memory.T).toarray().argmax(1)
    train, held_out = sides
    references = [[pair.target for pair in held_out]]
    yield "copying the source", sacrebleu.corpus_bleu([pair.source for pair in held_out], references).score
    yield "translation memory", sacrebleu.corpus_bleu([train[n].target for n in nearest], references).score


def cases() -> Iterator[tuple[str, str, float, object]]:
    """Data set, method, value, the recipe's target."""
    people, late = adult.load(), flights.load()
    targets = {name: deepfm.RECIPES[name].target for name in ("adult", "flights")}
    every = slice(None)
    yield adult.NAME, "logistic regression on numbers and text columns", logistic(people, TEXTS), targets["adult"]
    yield adult.NAME, "logistic regression on numbers and categories", logistic(people, every), targets["adult"]
    yield adult.NAME, "boosted trees on numbers and text columns", trees(people, TEXTS), targets["adult"]
    yield flights.NAME, "logistic regression on numbers and categories", logistic(late, every), targets["flights"]
    yield flights.NAME, "boosted trees on numbers and categories", trees(late, every), targets["flights"]
    for split in ("text", "component"):
        for method, bleu in translations(split):
            target = transformer.RECIPES["interface"].target if split == "text" else None
            yield f"{home_assistant.NAME}, split by {split}", method, bleu, target
    yield "docstrings and functions", "tf-idf over letter trigrams", lexical(), dssm.RECIPES["code_search"].target


def main() -> None:
    """Compute, print; save on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="append to bench/results/baselines.jsonl")
    arguments = parser.parse_args()
    for data_set, method, value, target in cases():
        print(f"{data_set}, {method}: {value:.4f}; target {target}")
        if arguments.save:
            facts = {"data_set": data_set, "method": method, "value": value, "target": target}
            harness.append("baselines", f"{data_set}, {method}", **facts, sklearn=sklearn.__version__)


if __name__ == "__main__":
    main()
