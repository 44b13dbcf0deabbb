"""BERT's training samples, of different lengths, end to end in seven arrays, without padding.

samples[5]                              one sample, as a dict of arrays
samples.take([3, 1, 2])                 some of them, in this order
samples.padded(512, 76)                 the six arrays [n, ...] that NVIDIA's scripts write
samples.tensors()                       torch, for a model that takes cumulative lengths
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from airank_fast.data.host import host


@dataclass(frozen=True, eq=False)
class Samples:
    """Sample i has the tokens from token_offsets[i] to token_offsets[i + 1]; likewise the masked tokens."""

    input_ids: np.ndarray  # int32 [num_tokens], with [CLS] and [SEP], masked
    segment_ids: np.ndarray  # int8 [num_tokens], 0 or 1
    token_offsets: np.ndarray  # int64 [n + 1]; the cumulative lengths
    masked_lm_positions: np.ndarray  # int32 [num_masked], within the sample, ascending
    masked_lm_ids: np.ndarray  # int32 [num_masked], the original ids there
    masked_offsets: np.ndarray  # int64 [n + 1]
    next_sentence_labels: np.ndarray  # int8 [n]; 1: the second part is from elsewhere

    def __len__(self) -> int:
        return len(self.next_sentence_labels)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        index = range(len(self))[index]
        tokens = slice(self.token_offsets[index], self.token_offsets[index + 1])
        masked = slice(self.masked_offsets[index], self.masked_offsets[index + 1])
        return {
            "input_ids": self.input_ids[tokens],
            "segment_ids": self.segment_ids[tokens],
            "masked_lm_positions": self.masked_lm_positions[masked],
            "masked_lm_ids": self.masked_lm_ids[masked],
            "next_sentence_label": self.next_sentence_labels[index],
        }

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sample: int64 [n]."""
        return np.diff(self.token_offsets)

    @property
    def num_masked(self) -> np.ndarray:
        """Masked tokens of each sample: int64 [n]."""
        return np.diff(self.masked_offsets)

    def take(self, indices: Sequence[int] | np.ndarray) -> Samples:
        """The samples with these indices, in this order, copied."""
        indices = np.ascontiguousarray(indices, np.int64)
        assert not len(indices) or (indices.min() >= 0 and indices.max() < len(self))
        tokens, masked = _offsets(self.lengths[indices]), _offsets(self.num_masked[indices])
        return Samples(
            take_rows(self.input_ids, self.token_offsets, indices),
            take_rows(self.segment_ids, self.token_offsets, indices),
            tokens,
            take_rows(self.masked_lm_positions, self.masked_offsets, indices),
            take_rows(self.masked_lm_ids, self.masked_offsets, indices),
            masked,
            self.next_sentence_labels[indices],
        )

    @staticmethod
    def concatenate(parts: Iterable[Samples]) -> Samples:
        """The samples of all parts, one after the other; with no parts, no samples."""
        parts = list(parts) or [empty()]
        merged = {
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(Samples)
            if not field.name.endswith("_offsets")
        }
        return Samples(
            token_offsets=_offsets(np.concatenate([part.lengths for part in parts])),
            masked_offsets=_offsets(np.concatenate([part.num_masked for part in parts])),
            **merged,
        )

    def padded(self, max_seq_length: int, max_predictions: int) -> dict[str, np.ndarray]:
        """The arrays of NVIDIA's padded form, zeros for padding.

        input_ids int32, input_mask int8 and segment_ids int8 [n, max_seq_length]; masked_lm_positions int32 and
        masked_lm_ids int32 [n, max_predictions]; next_sentence_labels int8 [n]. No sample may be longer.
        """
        assert self.lengths.max(initial=0) <= max_seq_length, "a sample is longer than max_seq_length"
        assert self.num_masked.max(initial=0) <= max_predictions, "a sample has more than max_predictions"
        ones = np.ones(len(self.input_ids), np.int8)
        return {
            "input_ids": pad_rows(self.input_ids, self.token_offsets, max_seq_length),
            "input_mask": pad_rows(ones, self.token_offsets, max_seq_length),
            "segment_ids": pad_rows(self.segment_ids, self.token_offsets, max_seq_length),
            "masked_lm_positions": pad_rows(self.masked_lm_positions, self.masked_offsets, max_predictions),
            "masked_lm_ids": pad_rows(self.masked_lm_ids, self.masked_offsets, max_predictions),
            "next_sentence_labels": self.next_sentence_labels,
        }

    def tensors(self) -> dict[str, torch.Tensor]:
        """The seven arrays as int64 tensors, by their names."""
        return {field.name: torch.from_numpy(getattr(self, field.name).astype(np.int64)) for field in fields(self)}

    def digests(self) -> list[int]:
        """A 128-bit hash of each sample's content."""
        tokens, masked = self.token_offsets.tolist(), self.masked_offsets.tolist()
        arrays = (self.input_ids, self.segment_ids, self.masked_lm_positions, self.masked_lm_ids)
        ids, segments, positions, originals = (array.data.cast("B") for array in arrays)
        out = []
        for i, label in enumerate(self.next_sentence_labels.tolist()):
            digest = hashlib.blake2b(ids[4 * tokens[i] : 4 * tokens[i + 1]], digest_size=16, salt=bytes([label]))
            digest.update(segments[tokens[i] : tokens[i + 1]])
            digest.update(positions[4 * masked[i] : 4 * masked[i + 1]])
            digest.update(originals[4 * masked[i] : 4 * masked[i + 1]])
            out.append(int.from_bytes(digest.digest(), "little"))
        return out


def empty() -> Samples:
    """No samples."""
    ids, small, offsets = np.empty(0, np.int32), np.empty(0, np.int8), np.zeros(1, np.int64)
    return Samples(ids, small, offsets, ids, ids, offsets, small)


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def take_rows(values: np.ndarray, offsets: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Rows of a ragged array (row i: values[offsets[i]:offsets[i + 1]]), end to end. indices: int64, in range."""
    if host is None:
        return take_rows_reference(values, offsets, indices)
    size = int((offsets[indices + 1] - offsets[indices]).sum())
    return host.take_rows(values, offsets, indices, size)


def take_rows_reference(values: np.ndarray, offsets: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """The same in NumPy."""
    rows = [values[offsets[i] : offsets[i + 1]] for i in indices]
    return np.concatenate(rows) if rows else values[:0]


def pad_rows(values: np.ndarray, offsets: np.ndarray, width: int) -> np.ndarray:
    """A ragged array as [n, width], zeros after the end of each row; no row may be longer."""
    return pad_rows_reference(values, offsets, width) if host is None else host.pad_rows(values, offsets, width)


def pad_rows_reference(values: np.ndarray, offsets: np.ndarray, width: int) -> np.ndarray:
    """The same in NumPy."""
    out = np.zeros((len(offsets) - 1, width), values.dtype)
    out[np.arange(width) < np.diff(offsets)[:, None]] = values
    return out
