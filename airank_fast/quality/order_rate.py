"""The share of pairs in order: a query's matching document scores above one that does not match.

Of equal scores half counts, as in the area under the ROC curve, which is the same share over the pairs of all queries
together. Both are counted exactly, over every sample at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from airank_fast.errors import require
from airank_fast.quality.auc import area
from airank_fast.quality.records import Column, Records

NEAREST = 10  # documents of recall_at_10


def halves_in_order(matching: np.ndarray, others: np.ndarray) -> int:
    """Twice the number of pairs of a score of `matching` [m] above one of `others` [n]; an equal pair counts one."""
    ascending = np.sort(others)
    return sum(int(np.searchsorted(ascending, matching, side).sum()) for side in ("left", "right"))


class OrderRate(Records):
    """order_rate and auc of pairs with labels. Outputs: vectors of queries and documents, [b, d] each, of length 1.

    The batch has `samples`, `query` and `labels`, int64 [b]. The pairs of order_rate are those of one query.
    """

    def record(self, outputs: tuple[Tensor, Tensor], batch: Any) -> tuple[Tensor, dict[str, Column]]:
        """The score of each pair, the cosine, with its query and label."""
        queries, documents = outputs
        scores = (queries.float() * documents.float()).sum(1)
        return batch.samples, {"score": scores, "query": batch.query, "label": batch.labels}

    def compute(self, columns: dict[str, np.ndarray]) -> dict[str, float]:
        """UserError where no query has documents of both labels."""
        order = np.argsort(columns["query"], kind="stable")
        score, query, match = columns["score"][order], columns["query"][order], columns["label"][order] == 1
        first_of_queries = np.flatnonzero(np.diff(query)) + 1
        in_order = pairs = 0
        for scores, matches in zip(np.split(score, first_of_queries), np.split(match, first_of_queries), strict=True):
            in_order += halves_in_order(scores[matches], scores[~matches])
            pairs += 2 * int(matches.sum()) * int((~matches).sum())
        require(pairs, "evaluation set", "one with a query whose documents match and do not match", "none")
        return {"order_rate": in_order / pairs, "auc": area(score, match.astype(int))}


class Retrieval(Records):
    """order_rate, auc and recall_at_10 of each query's own document among the documents of all n queries.

    Outputs: vectors of queries and of their own documents, [b, d] each, of length 1; the batch has `samples`, int64
    [b]. n * n scores are held at once. recall_at_10 is the share of queries with less than 10 other documents that
    score at least as high as their own.
    """

    def record(self, outputs: tuple[Tensor, Tensor], batch: Any) -> tuple[Tensor, dict[str, Column]]:
        """The vectors of each pair."""
        queries, documents = outputs
        return batch.samples, {"query": queries, "document": documents}

    def compute(self, columns: dict[str, np.ndarray]) -> dict[str, float]:
        """UserError for a single query."""
        return of_scores(columns["query"] @ columns["document"].T)


def of_scores(scores: np.ndarray) -> dict[str, float]:
    """order_rate, auc and recall_at_10 of the scores of n queries and documents, [n, n], their own on the diagonal."""
    num = len(scores)
    require(num > 1, "evaluation set", "one with at least 2 queries", num)
    own = scores.diagonal()
    below, equal = (scores < own[:, None]).sum(1), (scores == own[:, None]).sum(1) - 1
    others = num * (num - 1)
    return {
        "order_rate": int((2 * below + equal).sum()) / (2 * others),
        "auc": area(scores.ravel(), np.eye(num, dtype=int).ravel()),
        "recall_at_10": float((num - 1 - below < NEAREST).mean()),
    }
