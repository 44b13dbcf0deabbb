"""Builds BERT's training samples from tokenised documents: two parts, next or not, and masked tokens.

The method is that of Google's create_pretraining_data.py (Devlin et al. 2018, appendix A.2), with other random
numbers: a sample depends on (seed, block, duplicate, document) alone. So it is the same with any number of workers,
and in Python and C++ (csrc/host/samples.h), which agree exactly.

Per duplicate and document, from one stream of random words (splitmix64; `below(n)` is the high half of word * n):
1. One word: below `short_threshold`, and a target length of 2 ... room is drawn, room being max_seq_length - 3; else
   the target is room.
2. Sentences are gathered until they have `target` tokens or the document ends. The first part gets 1 + below(num - 1)
   of them, or the single one.
3. A coin decides whether the second part is from elsewhere; for a single sentence it is, without a word. Its document
   is the first of up to ten below(num_documents) that is another one, else this one; its first sentence is
   below(sentences of that); sentences follow until there are target - len(first part) tokens. The gathered sentences
   that it displaces come next in 2. Otherwise the second part is the rest of the gathered sentences.
4. While both together are longer than room, the longer one (the second, if equal) loses a token: a coin, front or end.
5. Of the positions without [CLS] and [SEP], num_masked[length] are picked by a partial Fisher-Yates shuffle, one word
   each, and sorted. For each: below(10) is 0 ... 7: [MASK]; 8: unchanged; 9: below(vocab_size).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from airank_fast.data.host import host
from airank_fast.data.text.samples import Samples
from airank_fast.errors import require

_WORD = 2**64 - 1


@dataclass(frozen=True)
class PairOptions:
    """The options of the samples. UserError names an option whose value is out of range."""

    max_seq_length: int
    max_predictions: int
    vocab_size: int
    cls_id: int
    sep_id: int
    mask_id: int
    masked_lm_prob: float = 0.15
    short_seq_prob: float = 0.1
    num_duplicates: int = 1
    seed: int = 0

    def __post_init__(self):
        require(8 <= self.max_seq_length <= 32767, "--max-seq-length", "8 ... 32767", self.max_seq_length)
        require(
            1 <= self.max_predictions < self.max_seq_length,
            "--max-predictions",
            f"1 ... {self.max_seq_length - 1}",
            self.max_predictions,
        )
        require(0 < self.masked_lm_prob <= 1, "--masked-lm-prob", "above 0, at most 1", self.masked_lm_prob)
        require(0 <= self.short_seq_prob <= 1, "--short-seq-prob", "0 ... 1", self.short_seq_prob)
        require(self.num_duplicates >= 1, "--duplicates", "at least 1", self.num_duplicates)
        require(0 <= self.seed <= _WORD, "--seed", "0 ... 2^64 - 1", self.seed)

    @property
    def num_masked(self) -> np.ndarray:
        """The number of masked tokens in a sample of each length: int32 [max_seq_length + 1]."""
        of_all = np.floor(np.arange(self.max_seq_length + 1) * self.masked_lm_prob + 0.5)
        return np.clip(of_all, 1, self.max_predictions).astype(np.int32)

    @property
    def short_threshold(self) -> int:
        """A random 64-bit word is below it with probability short_seq_prob."""
        return min(int(self.short_seq_prob * 2**64), _WORD)


@dataclass(frozen=True, eq=False)
class Documents:
    """Tokenised documents, end to end; no sentence and no document is empty."""

    tokens: np.ndarray  # int32 [num_tokens]
    sentence_offsets: np.ndarray  # int64 [num_sentences + 1], into tokens
    document_offsets: np.ndarray  # int64 [num_documents + 1], into sentences

    def __len__(self) -> int:
        return len(self.document_offsets) - 1

    @staticmethod
    def of(documents: list[list[list[int]]]) -> Documents:
        """From documents as lists of sentences, a sentence as a list of token ids; empty ones are left out."""
        documents = [kept for document in documents if (kept := [s for s in document if len(s)])]
        sentences = [sentence for document in documents for sentence in document]
        tokens = np.fromiter((token for sentence in sentences for token in sentence), np.int32)
        return Documents(
            tokens,
            np.cumsum([0, *map(len, sentences)], dtype=np.int64),
            np.cumsum([0, *map(len, documents)], dtype=np.int64),
        )


def build_samples(documents: Documents, options: PairOptions, block: int = 0) -> Samples:
    """All samples of `documents`, in the order of duplicate, document, place in it.

    block: number of this group of documents. Second parts from elsewhere are from the same group; each block has random
    numbers of its own.
    """
    _check(documents, options)
    if host is None:
        return build_samples_reference(documents, options, block)
    return Samples(
        *host.build(
            documents.tokens,
            documents.sentence_offsets,
            documents.document_offsets,
            options.num_masked,
            options.cls_id,
            options.sep_id,
            options.mask_id,
            options.vocab_size,
            options.short_threshold,
            options.seed,
            block,
            options.num_duplicates,
        )
    )


def build_samples_reference(documents: Documents, options: PairOptions, block: int = 0) -> Samples:
    """The same in Python: the oracle of the C++ in tests, and what runs where that was not built."""
    built = []
    tokens, sentences = documents.tokens.tolist(), documents.sentence_offsets.tolist()
    starts, num_masked = documents.document_offsets.tolist(), options.num_masked.tolist()
    for duplicate in range(options.num_duplicates):
        for document in range(len(documents)):
            random = Random(options.seed, block, duplicate, document)
            for a, b, is_random in _pairs(document, sentences, starts, options, random):
                built.append(_sample(tokens[a[0] : a[1]], tokens[b[0] : b[1]], is_random, options, num_masked, random))
    ids, segments, positions, originals, labels = map(list, zip(*built, strict=True)) if built else [[]] * 5
    return Samples(
        _flat(ids, np.int32),
        _flat(segments, np.int8),
        np.cumsum([0, *map(len, ids)], dtype=np.int64),
        _flat(positions, np.int32),
        _flat(originals, np.int32),
        np.cumsum([0, *map(len, positions)], dtype=np.int64),
        np.array(labels, np.int8),
    )


class Random:
    """splitmix64, with a state made from a seed and three numbers."""

    def __init__(self, seed: int, *words: int):
        self._state = seed
        for word in words:
            self._state = (self.next() + word) & _WORD

    def next(self) -> int:
        """A 64-bit word."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _WORD
        z = self._state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _WORD
        return z ^ (z >> 31)

    def below(self, n: int) -> int:
        """0 ... n - 1."""
        return (self.next() * n) >> 64

    def coin(self) -> bool:
        """Half of the time."""
        return self.next() >= 2**63


def _pairs(document: int, sentences: list[int], starts: list[int], options: PairOptions, random: Random):
    """Steps 1 to 4: (first part, second part, whether it is from elsewhere), the parts as (begin, end) in the tokens.

    The caller masks each pair before it requests the next, because both draw from the same stream.
    """
    room = options.max_seq_length - 3
    target = 2 + random.below(room - 1) if random.next() < options.short_threshold else room
    first, last = starts[document], starts[document + 1]
    while first < last:
        end = first + 1
        while end < last and sentences[end] - sentences[first] < target:
            end += 1
        split = first + (1 + random.below(end - first - 1) if end - first > 1 else 1)
        a = sentences[first], sentences[split]
        is_random = end - first == 1 or random.coin()
        if is_random:
            b = _elsewhere(document, target - (a[1] - a[0]), sentences, starts, random)
        else:
            b = sentences[split], sentences[end]
        yield *_truncated(a, b, room, random), is_random
        first = split if is_random else end


def _elsewhere(document: int, target: int, sentences: list[int], starts: list[int], random: Random) -> tuple[int, int]:
    for _ in range(10):
        other = random.below(len(starts) - 1)
        if other != document:
            break
    last = starts[other + 1]
    first = starts[other] + random.below(last - starts[other])
    end = first + 1
    while end < last and sentences[end] - sentences[first] < target:
        end += 1
    return sentences[first], sentences[end]


def _truncated(a: tuple[int, int], b: tuple[int, int], room: int, random: Random):
    (a_begin, a_end), (b_begin, b_end) = a, b
    while (a_end - a_begin) + (b_end - b_begin) > room:
        front = random.coin()
        if a_end - a_begin > b_end - b_begin:
            a_begin, a_end = (a_begin + 1, a_end) if front else (a_begin, a_end - 1)
        else:
            b_begin, b_end = (b_begin + 1, b_end) if front else (b_begin, b_end - 1)
    return (a_begin, a_end), (b_begin, b_end)


def _sample(a: list[int], b: list[int], is_random: bool, options: PairOptions, num_masked: list[int], random: Random):
    """Step 5: (input_ids, segment_ids, masked_lm_positions, masked_lm_ids, next_sentence_label)."""
    ids = [options.cls_id, *a, options.sep_id, *b, options.sep_id]
    candidates = [*range(1, len(a) + 1), *range(len(a) + 2, len(ids) - 1)]
    num = min(num_masked[len(ids)], len(candidates))
    for i in range(num):
        j = i + random.below(len(candidates) - i)
        candidates[i], candidates[j] = candidates[j], candidates[i]
    positions = sorted(candidates[:num])
    originals = [ids[position] for position in positions]
    for position in positions:
        fate = random.below(10)
        if fate < 8:
            ids[position] = options.mask_id
        elif fate == 9:
            ids[position] = random.below(options.vocab_size)
    return ids, [0] * (len(a) + 2) + [1] * (len(b) + 1), positions, originals, int(is_random)


def _flat(rows: list[list[int]], dtype) -> np.ndarray:
    return np.fromiter((value for row in rows for value in row), dtype, sum(map(len, rows)))


def _check(documents: Documents, options: PairOptions) -> None:
    """The invariants on which the C++ relies."""
    tokens, sentences, starts = documents.tokens, documents.sentence_offsets, documents.document_offsets
    assert (tokens.dtype.name, sentences.dtype.name, starts.dtype.name) == ("int32", "int64", "int64")
    assert len(documents), "a document is required"
    assert (sentences[0], sentences[-1], starts[0], starts[-1]) == (0, len(tokens), 0, len(sentences) - 1)
    assert np.diff(sentences).min() > 0 < np.diff(starts).min()
    assert 0 <= tokens.min() <= tokens.max() < options.vocab_size
