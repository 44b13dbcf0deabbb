"""Turns a reader's uint8 NHWC pictures into a network's input: one pass normalises, rounds once to the dtype and writes
channels_last."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from airank_fast.data.prefetch import Batch
from airank_fast.data.prefetch import prefetch as any_prefetch


@dataclass
class ImageBatch(Batch):
    """b pictures on the device, or b clips of T, one behind the other.

    images: [b, 3, S, S] or [b * T, 3, S, S], channels_last; labels: int64 [b].
    """

    images: torch.Tensor
    labels: torch.Tensor

    @property
    def num_samples(self) -> int:
        """Pictures, or clips, in this batch."""
        return len(self.labels)


class Normalise:
    """uint8 [b, S, S, 3] -> (x / 255 - mean) / std as dtype [b, 3, S, S] channels_last; computed in fp32.

    mean, std: per channel, of pictures scaled to 0 ... 1.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype, device: torch.device):
        self._scale = [1 / (255 * s) for s in std]
        self._shift = [-m / s for m, s in zip(mean, std, strict=True)]
        self._dtype, self._device = dtype, device
        self._rows: dict[int, tuple[torch.Tensor, ...]] = {}

    def _row(self, size: int) -> tuple[torch.Tensor, ...]:
        """Scale and shift for a whole row of a picture, so that the innermost loop is long and contiguous."""
        if size not in self._rows:
            self._rows[size] = tuple(
                torch.tensor(v, dtype=torch.float32).repeat(size).to(self._device) for v in (self._scale, self._shift)
            )
        return self._rows[size]

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        b, height, width, channels = pictures.shape
        scale, shift = self._row(width)
        rows = pictures.reshape(b * height, width * channels)
        out = torch.empty(rows.shape, dtype=self._dtype, device=pictures.device)
        torch.addcmul(shift, rows, scale, out=out)  # one pass: reads uint8, computes fp32, writes the dtype
        return out.view(b, height, width, channels).permute(0, 3, 1, 2)


def as_pictures(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """The inverse of `Normalise`, on the host: [b, C, H, W] -> uint8 [b, H, W, C]."""
    channels_last = images.detach().float().cpu().permute(0, 2, 3, 1)
    scaled = 255 * (channels_last * torch.tensor(std) + torch.tensor(mean))
    return scaled.round().clamp(0, 255).to(torch.uint8).numpy()


def prefetch(
    batches: Iterable[tuple[torch.Tensor, ...]],
    device: torch.device | str,
    dtype: torch.dtype,
    mean: Sequence[float],
    std: Sequence[float],
) -> Generator[ImageBatch, None, None]:
    """A reader's batches on the device, normalised. Closing it closes `batches`; the reader's errors are raised."""
    device = torch.device(device)
    normalise = Normalise(mean, std, dtype, device)

    def to_device(tensor: torch.Tensor) -> torch.Tensor:
        if device.type == "cuda" and not (tensor.is_cuda or tensor.is_pinned()):
            tensor = tensor.pin_memory()
        return tensor.to(device, non_blocking=True)

    def move(item: tuple[torch.Tensor, ...]) -> ImageBatch:
        pictures, labels = item
        return ImageBatch(normalise(to_device(pictures)), to_device(labels))

    return any_prefetch(batches, device, move)
