"""Attention inside each of many sequences that lie one behind the other: no token is padding, no work is lost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from airank_fast.errors import UserError


@dataclass
class PackedSequences:
    """How T tokens in a row divide into sequences.

    Args:
        lengths: tokens of each sequence, in order, each at least 1; numbers on the host, so that nobody waits for the
            device to learn a shape. Sequences of equal length cost least side by side.
        device: where the tokens are.
        offsets: int64 [number of sequences + 1] on the device, where each begins, and T; made from ``lengths`` if it
            is not there already.
        longest: for a step that is captured on CUDA and replayed with other lengths: no sequence will be longer.

    ``runs`` is ``[(length, how many of it in a row), ...]``.
    """

    lengths: Sequence[int]
    device: torch.device | str = "cpu"
    offsets: Tensor | None = field(default=None, repr=False)
    longest: int | None = None
    runs: list[tuple[int, int]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.lengths) == 0 or min(self.lengths) < 1:
            raise UserError(f"sequences: must have lengths of at least 1, got {list(self.lengths)}")
        if self.offsets is None:
            lengths = torch.tensor(self.lengths, dtype=torch.int64)
            offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
            if torch.device(self.device).type == "cuda":
                offsets = offsets.pin_memory().to(self.device, non_blocking=True)
            self.offsets = offsets
        self.runs = [(length, len(list(group))) for length, group in groupby(self.lengths)]

    @property
    def num_tokens(self) -> int:
        """T."""
        return sum(length * count for length, count in self.runs)


# On a CPU, forward and backward, one more call of SDPA costs as much as so many attention scores of one head, and the
# copies of a token's query, key and value of that head as so many: see bench/transformer_step.py --attention.
_CALL, _COPIES = 8_000, 16


def packed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sequences: PackedSequences,
    dropout_p: float = 0.0,
    *,
    causal: bool = False,
    key_sequences: PackedSequences | None = None,
) -> Tensor:
    """softmax(q k^T / sqrt(d)) v within each sequence, with dropout of the probabilities.

    q, k, v and the result: ``[T, heads, d]``. causal: a token attends to itself and to those before it in its sequence.
    key_sequences: of k and v, ``[S, heads, d]``, where they are of other sequences than q, as in a decoder's attention
    to the encoder's output; as many, and the tokens of q's first attend to all of k's first, and so on.

    What runs was chosen by measuring (``--attention`` of ``bench/bert.py`` and ``bench/transformer_step.py``). A batch
    of one length is one call of torch's SDPA. Of several lengths: on CUDA, SDPA over jagged tensors, which is the
    variable-length flash kernel and knows dropout (`torch.nn.attention.varlen` does not). On a CPU neighbours are one
    call, padded to the longest of them, where that costs less than two: sentences of similar length, but paragraphs
    only of the same. All in one call costs twice to six times as much for paragraphs, jagged tensors ten times. There
    the two products written out are twice as fast as SDPA in 16 bits; with dropout, which SDPA's CPU kernel has not, in
    float32 too. So neighbours of similar length cost least: in the order of the queries' lengths, then of the keys'.

    Raises:
        UserError: causal with key_sequences, or another number of key_sequences than of sequences.
    """
    keys = sequences if key_sequences is None else key_sequences
    if causal and key_sequences is not None:
        raise UserError("packed_attention: causal must be without key_sequences, got both")
    if len(keys.lengths) != len(sequences.lengths):
        raise UserError(
            f"packed_attention: key_sequences must be as many as sequences, {len(sequences.lengths)}, "
            f"got {len(keys.lengths)}"
        )
    several = any(len(s.runs) > 1 or s.longest is not None for s in (sequences, keys))
    if q.device.type == "cuda" and several and not (causal and q.dtype == torch.float64):  # which no kernel has
        return _jagged(q, k, v, sequences, keys, dropout_p, causal)
    write_out = q.device.type == "cpu" and (dropout_p > 0 or q.dtype in (torch.bfloat16, torch.float16))
    attend = _written_out if write_out else F.scaled_dot_product_attention
    layout = _layout(tuple(sequences.lengths), tuple(keys.lengths), causal, _CALL // q.shape[1])
    # split and cat, not slices: their backward passes are one copy, a slice's is a sum over all tokens for each group
    parts = zip(layout.queries.split(q), layout.keys.split(k), layout.keys.split(v), layout.groups, strict=True)
    outputs = []
    for *qkv, (count, padding) in parts:
        by_head = (tensor.unflatten(0, (count, -1)).transpose(1, 2) for tensor in qkv)
        mask = None if padding is None else torch.from_numpy(padding).to(q)
        output = attend(*by_head, attn_mask=mask, dropout_p=dropout_p, is_causal=causal)
        outputs.append(output.transpose(1, 2).reshape(-1, *q.shape[1:]))
    return layout.queries.join(outputs)


class _Rows(NamedTuple):
    """Packed tokens as rows of the groups, so many each. places: of each token; None where no row is padding.

    tokens: that of each row, any for padding; padding: those rows. On the host, as all of a layout, since tensors would
    be of the mode in which it is made first, such as torch.export's.
    """

    sizes: list[int]
    places: np.ndarray | None = None
    tokens: np.ndarray | None = None
    padding: np.ndarray | None = None

    def split(self, packed: Tensor) -> tuple[Tensor, ...]:
        rows = packed if self.places is None else _Padded.apply(packed, *self._indices(packed.device))
        return rows.split(self.sizes)

    def join(self, parts: list[Tensor]) -> Tensor:
        rows = parts[0] if len(parts) == 1 else torch.cat(parts)
        return rows if self.places is None else _Unpadded.apply(rows, *self._indices(rows.device))

    def _indices(self, device: torch.device) -> list[Tensor]:
        return [torch.from_numpy(index).to(device) for index in (self.places, self.tokens, self.padding)]


class _Layout(NamedTuple):
    """groups: how many sequences are one call, and what is added to their scores, -inf at keys that are padding."""

    groups: list[tuple[int, np.ndarray | None]]
    queries: _Rows
    keys: _Rows


class _Padded(torch.autograd.Function):
    """Tokens to rows, zeros for padding. Backward passes by index_select: torch's own add up row by row."""

    @staticmethod
    def forward(ctx, x: Tensor, places: Tensor, tokens: Tensor, padding: Tensor) -> Tensor:
        ctx.save_for_backward(places, tokens, padding)
        return x.index_select(0, tokens).index_fill_(0, padding, 0)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return _Unpadded.apply(grad, *ctx.saved_tensors), None, None, None


class _Unpadded(torch.autograd.Function):
    """Rows to tokens."""

    @staticmethod
    def forward(ctx, x: Tensor, places: Tensor, tokens: Tensor, padding: Tensor) -> Tensor:
        ctx.save_for_backward(places, tokens, padding)
        return x.index_select(0, places)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return _Padded.apply(grad, *ctx.saved_tensors), None, None, None


@lru_cache(maxsize=64)  # the same for all layers of a step
def _layout(queries: tuple[int, ...], keys: tuple[int, ...], causal: bool, call: int) -> _Layout:
    """Of groups that are (how many sequences, longest of their queries, longest of their keys)."""
    runs = [(len(list(run)), *pair) for pair, run in groupby(zip(queries, keys, strict=True))]
    groups = _merged(runs, call)

    def cost(of: list[tuple[int, int, int]]) -> int:
        return call * len(of) + sum(map(math.prod, of))

    if cost(groups) + _COPIES * (sum(queries) + sum(keys)) >= cost(runs):
        groups = runs
    counts = [count for count, *_ in groups]
    masks: list[np.ndarray | None] = []
    for its, (*_, longest) in zip(np.split(np.array(keys), np.cumsum(counts)[:-1]), groups, strict=True):
        mask = np.where(np.arange(longest) < its[:, None], 0.0, -np.inf).astype(np.float32)[:, None, None]
        masks.append(mask if mask.any() and not causal else None)  # a causal query is before the padding
    of_queries, of_keys = (
        _rows(np.array(lengths), [group[i] for group in groups], counts) for i, lengths in ((1, queries), (2, keys))
    )
    return _Layout(list(zip(counts, masks, strict=True)), of_queries, of_keys)


def _merged(runs: list[tuple[int, int, int]], call: int) -> list[tuple[int, int, int]]:
    """Neighbours as one group where its additional scores cost no more than a call."""
    merged = runs[:1]
    for run in runs[1:]:
        last = merged[-1]
        both = (last[0] + run[0], max(last[1], run[1]), max(last[2], run[2]))
        if math.prod(both) - math.prod(last) - math.prod(run) <= call:
            merged[-1] = both
        else:
            merged.append(run)
    return merged


def _rows(lengths: np.ndarray, longest: list[int], counts: list[int]) -> _Rows:
    """For groups of `counts` sequences, padded to `longest`."""
    sizes = [count * length for count, length in zip(counts, longest, strict=True)]
    if sum(sizes) == lengths.sum():
        return _Rows(sizes)
    padding = np.repeat(longest, counts) - lengths
    places = np.arange(lengths.sum()) + np.repeat(np.cumsum(padding) - padding, lengths)
    tokens = np.full(sum(sizes), -1)
    tokens[places] = np.arange(len(places))
    return _Rows(sizes, places, np.maximum(tokens, 0), np.flatnonzero(tokens < 0))


def _written_out(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
) -> Tensor:
    scores = torch.matmul(q * (1 / math.sqrt(q.shape[-1])), k.transpose(-1, -2))
    if is_causal:
        attn_mask = scores.new_full(scores.shape[-2:], -math.inf).triu_(1)
    if attn_mask is not None:
        scores += attn_mask
    return torch.matmul(F.dropout(scores.softmax(-1), dropout_p), v)


def _jagged(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sequences: PackedSequences,
    key_sequences: PackedSequences,
    dropout_p: float,
    causal: bool,
) -> Tensor:
    by_head = (
        torch.nested.nested_tensor_from_jagged(tensor, its.offsets, **_limits(its)).transpose(1, 2)
        for tensor, its in ((q, sequences), (k, key_sequences), (v, key_sequences))
    )
    output = F.scaled_dot_product_attention(*by_head, dropout_p=dropout_p, is_causal=causal)
    return output.transpose(1, 2).values()


def _limits(sequences: PackedSequences) -> dict[str, int]:
    """Of the lengths; without these torch asks the device."""
    if sequences.longest is not None:
        return {"min_seqlen": 1, "max_seqlen": sequences.longest}
    return {"min_seqlen": min(sequences.lengths), "max_seqlen": max(sequences.lengths)}
