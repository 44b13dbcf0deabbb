"""Random samples with a limited share of positives, of anchors and of regions, as a pure function of a key.

Which candidates a picture's samples are depends on its key, the number of candidates and which of them are positive
and negative, and on nothing else: neither on other pictures, ranks or earlier steps, nor on the device.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_LOW = 0xFFFFFFFF


class Samples(NamedTuple):
    """The samples of each picture, positives first.

    indices: int64 [N, S], into the picture's candidates. positive, taken: bool [N, S]; where there are too few
    candidates, the last places of a picture are not taken.
    """

    indices: Tensor
    positive: Tensor
    taken: Tensor


def random_order(keys: Tensor, number: int) -> Tensor:
    """A random rank of each of `number` candidates: int64 [N, number], of 32 bits, different within a row.

    keys: int64 [N]. Each half of a key is followed by MurmurHash3's 32-bit finaliser, a bijection.
    """
    order = torch.arange(number, device=keys.device).expand(len(keys), number)
    for half in (keys, keys >> 32):
        order = (order + (half & _LOW)[:, None]) & _LOW
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            order = ((order ^ (order >> shift)) * factor) & _LOW
        order = order ^ (order >> 16)
    return order


def balanced_samples(positive: Tensor, negative: Tensor, keys: Tensor, number: int, fraction: float) -> Samples:
    """At most `number` candidates of each picture, at most `fraction` of them positive, each with the same chance.

    As torchvision's BalancedPositiveNegativeSampler: where there are fewer positives, there are more negatives; where
    there are fewer negatives, there are fewer samples. Shapes follow from those of the arguments, and nothing waits for
    the device.

    positive, negative: bool [N, A], disjoint; candidates that are neither are not taken. keys: int64 [N].
    """
    order = random_order(keys, positive.shape[1])
    limit = int(number * fraction)
    there, indices = _first(order, positive, limit)
    there_too, others = _first(order, negative, number)
    room = number - there.sum(1, keepdim=True)
    there_too &= torch.arange(others.shape[1], device=keys.device) < room
    is_positive = torch.cat([there, torch.zeros_like(there_too)], 1)
    taken = torch.cat([there, there_too], 1)
    packed = (~taken).to(torch.uint8).argsort(dim=1, stable=True)[:, :number]
    indices = torch.cat([indices, others], 1)
    return Samples(indices.gather(1, packed), is_positive.gather(1, packed), taken.gather(1, packed))


def _first(order: Tensor, candidates: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """The candidates of the highest rank: whether there is one, bool [N, number or fewer], and where."""
    found, indices = torch.where(candidates, order, -1).topk(min(number, order.shape[1]))
    return found >= 0, indices
