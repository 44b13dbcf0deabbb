"""A pool of made pictures, from which a discriminator sees earlier ones (Shrivastava et al., 2017; CycleGAN's has 50).

Half of the pictures that are made, once the pool is full, are exchanged with one of it: the discriminator sees the
earlier picture, the pool keeps the new one. Which ones is a pure function of the seed and of the position in the
training stream, decided on the host ahead of the step, which itself depends on no value of the host.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from airank_fast.data.sampling import Purpose, philox


class Exchange(NamedTuple):
    """What happens to the first k pictures of a batch; later ones are shown as they are.

    slots: of the pool, int64 [k], all different. kept: the pool keeps this picture, bool [k]. old: the picture of the
    slot is shown instead of this one, bool [k].
    """

    slots: np.ndarray
    kept: np.ndarray
    old: np.ndarray


def exchanges(seed: int, position: int, number: int, size: int, count: int) -> Exchange:
    """What happens to `number` pictures.

    position: of the first in the training stream. size: of the pool. count: pictures that came before, which fill the
    pool first. At most `size` pictures of a batch are exchanged.
    """
    filled = min(size, count)
    words = philox(seed, Purpose.POOL, (0, position)).random_raw(size + number)
    order = np.argsort(words[:size], kind="stable")
    fresh = np.arange(filled, min(size, filled + number))
    slots = np.concatenate([fresh, order[order < filled]])[:number]
    is_fresh = np.arange(len(slots)) < len(fresh)
    heads = (words[size:] >> np.uint64(63)).astype(bool)[: len(slots)]
    return Exchange(slots, is_fresh | heads, heads & ~is_fresh)


class ImagePool:
    """`size` pictures of `shape`, (C, H, W), float32 on the device."""

    def __init__(self, size: int, shape: tuple[int, int, int], device: torch.device) -> None:
        self.pictures = torch.zeros(size, *shape, device=device)

    def exchange(self, made: Tensor, slots: Tensor, kept: Tensor, old: Tensor) -> Tensor:
        """The pictures that are shown, in the dtype of `made` [N, C, H, W]; see `Exchange` for the other tensors."""
        first, rest = made[: len(slots)], made[len(slots) :]
        before = self.pictures[slots]
        new = first.to(before.dtype)
        self.pictures.index_copy_(0, slots, torch.where(kept.view(-1, 1, 1, 1), new, before))
        shown = torch.where(old.view(-1, 1, 1, 1), before.to(made.dtype), first)
        shown = torch.cat([shown, rest]) if len(rest) else shown
        return shown.contiguous(memory_format=torch.channels_last)
