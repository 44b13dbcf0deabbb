"""Random pictures, made once: training steps without a data set, to measure p_core alone."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import torch

from airank_fast.data.sampling import Purpose, TrainStream, eval_batches, philox

_NUM_POOL_STEPS = 4


class SyntheticReader:
    """Random pictures and labels; training cycles over those of 4 steps, kept on `device`.

    A picture depends on (seed, row in the global batch, step modulo 4), not on the number of ranks. The same tensors
    are handed out every 4 steps: do not write to them.
    """

    name = "synthetic"

    def __init__(
        self,
        *,
        image_size: int,
        batch_size_local: int,
        global_batch_size: int,
        rank: int,
        world_size: int,
        seed: int,
        device: torch.device,
        num_classes: int,
        num_eval_samples: int,
        eval_batch_size: int,
    ):
        self._rank, self._world_size = rank, world_size
        self._shape, self._seed, self._num_classes = (image_size, image_size, 3), seed, num_classes
        self._device, self._num_eval_samples = device, num_eval_samples
        self._eval_batch_size = eval_batch_size
        stream = TrainStream(
            _NUM_POOL_STEPS * global_batch_size,
            seed,
            batch_size_local=batch_size_local,
            global_batch_size=global_batch_size,
            rank=rank,
            world_size=world_size,
        )
        first_row = rank * (global_batch_size // world_size)
        self._batches_per_step = stream.batches_per_step
        firsts = [
            step * global_batch_size + first_row + part * batch_size_local
            for step in range(_NUM_POOL_STEPS)
            for part in range(stream.batches_per_step)
        ]
        self._pool = [self._pictures(first, batch_size_local) for first in firsts]

    def _pictures(self, first: int, num: int) -> tuple[torch.Tensor, torch.Tensor]:
        size = self._shape[0] * self._shape[1] * self._shape[2]
        words = -(-size // 8) + 1  # one more for the label
        words += -words % 4  # whole Philox counts per picture
        raw = philox(self._seed, Purpose.PICTURES, (first * words // 4, 0)).random_raw(num * words)
        raw = raw.reshape(num, words)
        labels = torch.from_numpy((raw[:, 0] >> 33).astype("int64") % self._num_classes)
        images = torch.from_numpy(raw[:, 1:].view("uint8")[:, :size].reshape(num, *self._shape).copy())
        return images.to(self._device), labels.to(self._device)

    def train(self, first_step: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Endless local batches from global step `first_step` on."""
        return (self._pool[i % len(self._pool)] for i in count(first_step * self._batches_per_step))

    def evaluate(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """This rank's part of `num_eval_samples` pictures: slices of the training pool, under its labels."""
        for indices in eval_batches(self._num_eval_samples, self._eval_batch_size, self._rank, self._world_size):
            images, labels = self._pool[0]
            while len(images) < len(indices):
                images, labels = torch.cat([images, images]), torch.cat([labels, labels])
            yield images[: len(indices)], labels[: len(indices)]

    def close(self) -> None:
        """Nothing runs in the background."""
