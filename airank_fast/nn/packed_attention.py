"""Attention inside each of many sequences that lie one behind the other: no token is padding, no work is lost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

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


def packed_attention(q: Tensor, k: Tensor, v: Tensor, sequences: PackedSequences, dropout_p: float = 0.0) -> Tensor:
    """softmax(q k^T / sqrt(d)) v within each sequence, with dropout of the probabilities.

    q, k, v and the result: ``[T, heads, d]``.

    What runs was chosen by measuring (``bench/bert.py --attention``). A batch of one length is one call of torch's
    SDPA. Of several lengths: on CUDA, SDPA over jagged tensors, which is the variable-length flash kernel and knows
    dropout (`torch.nn.attention.varlen` does not). On a CPU one call for each run of
    equal lengths: padding costs twice to six times as much, jagged tensors ten times. There the two products written
    out are twice as fast as SDPA in 16 bits; with dropout, which SDPA's CPU kernel has not, in float32 too.
    """
    if q.device.type == "cuda" and (len(sequences.runs) > 1 or sequences.longest is not None):
        return _jagged(q, k, v, sequences, dropout_p)
    write_out = q.device.type == "cpu" and (dropout_p > 0 or q.dtype in (torch.bfloat16, torch.float16))
    attend = _written_out if write_out else F.scaled_dot_product_attention
    sizes = [length * count for length, count in sequences.runs]
    # split and cat, not slices: their backward passes are one copy, a slice's is a sum over all tokens for each run
    parts = zip(*(tensor.split(sizes) for tensor in (q, k, v)), sequences.runs, strict=True)
    outputs = []
    for *qkv, (length, count) in parts:
        by_head = (tensor.unflatten(0, (count, length)).transpose(1, 2) for tensor in qkv)
        output = attend(*by_head, dropout_p=dropout_p)
        outputs.append(output.transpose(1, 2).reshape(count * length, *q.shape[1:]))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _written_out(q: Tensor, k: Tensor, v: Tensor, dropout_p: float) -> Tensor:
    scores = torch.matmul(q * (1 / math.sqrt(q.shape[-1])), k.transpose(-1, -2))
    return torch.matmul(F.dropout(scores.softmax(-1), dropout_p), v)


def _jagged(q: Tensor, k: Tensor, v: Tensor, sequences: PackedSequences, dropout_p: float) -> Tensor:
    # without these torch asks the device
    limits = {"min_seqlen": min(sequences.lengths), "max_seqlen": max(sequences.lengths)}
    if sequences.longest is not None:
        limits = {"min_seqlen": 1, "max_seqlen": sequences.longest}
    by_head = (
        torch.nested.nested_tensor_from_jagged(tensor, sequences.offsets, **limits).transpose(1, 2)
        for tensor in (q, k, v)
    )
    return F.scaled_dot_product_attention(*by_head, dropout_p=dropout_p).transpose(1, 2).values()
