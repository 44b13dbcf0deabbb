"""Texts as bags of letter trigrams in a fixed number of buckets, DSSM's input (Huang et al., 2013: word hashing).

A text is put into lower case and cut into words, runs of letters and digits. A word is written between two #, and its
trigrams are counted: `cat` gives #ca, cat, at#. The bucket of a trigram is the CRC-32 (that of zlib and zip files) of
its UTF-8 bytes, modulo the number of buckets: the same in every process and version, unlike Python's own hash of text.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

_WORDS = re.compile(r"[^\W_]+")


def trigrams(text: str) -> list[str]:
    """The trigrams of a text in their order, one for each letter or digit."""
    words = (f"#{word}#" for word in _WORDS.findall(text.lower()))
    return [word[start : start + 3] for word in words for start in range(len(word) - 2)]


def bucket(trigram: str, num_buckets: int) -> int:
    """The bucket of a trigram, 0 ... num_buckets - 1."""
    return zlib.crc32(trigram.encode("utf-8", "surrogatepass")) % num_buckets


class Bags(NamedTuple):
    """n texts: the distinct buckets of each, ascending, with a weight.

    ids: int64 [T]; weights: float32 [T]; offsets: int64 [n + 1], the start of each text, and T.
    """

    ids: np.ndarray
    weights: np.ndarray
    offsets: np.ndarray

    @staticmethod
    def of(texts: Sequence[str], num_buckets: int) -> Bags:
        """The counts of the trigrams of each text; one without letters and digits is empty."""
        counted = [
            np.unique([bucket(each, num_buckets) for each in trigrams(text)], return_counts=True) for text in texts
        ]
        ids = np.concatenate([np.zeros(0), *(buckets for buckets, _ in counted)]).astype(np.int64)
        counts = np.concatenate([np.zeros(0), *(count for _, count in counted)]).astype(np.float32)
        return Bags(ids, counts, np.cumsum([0, *(len(buckets) for buckets, _ in counted)], dtype=np.int64))

    @property
    def num_texts(self) -> int:
        """The number of texts."""
        return len(self.offsets) - 1

    def take(self, texts: np.ndarray) -> Bags:
        """The texts with these numbers, int64 [m], in this order."""
        lengths = np.diff(self.offsets)[texts]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        chosen = np.arange(offsets[-1]) + np.repeat(self.offsets[texts] - offsets[:-1], lengths)
        return Bags(self.ids[chosen], self.weights[chosen], offsets)

    def weighted(self, rarity: np.ndarray) -> Bags:
        """With the weights count * rarity of the bucket, of which each text's squares sum to 1."""
        weights = self.weights * rarity[self.ids]
        rows = np.repeat(np.arange(self.num_texts), np.diff(self.offsets))
        norms = np.sqrt(np.bincount(rows, weights.astype(np.float64) ** 2, minlength=self.num_texts))
        return Bags(self.ids, (weights / norms[rows]).astype(np.float32), self.offsets)


def rarity(parts: Iterable[Bags], num_buckets: int) -> np.ndarray:
    """The inverse document frequency of each bucket, log((1 + n) / (1 + df)) + 1: float32 [num_buckets].

    n: the texts of all parts; df: those that have the bucket (Salton's idf, smoothed as scikit-learn's).
    """
    parts = list(parts)
    frequency = sum(np.bincount(bags.ids, minlength=num_buckets) for bags in parts)
    return (np.log((1 + sum(bags.num_texts for bags in parts)) / (1 + frequency)) + 1).astype(np.float32)
