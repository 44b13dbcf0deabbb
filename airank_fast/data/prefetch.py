"""From a reader's uint8 NHWC pictures to what the model eats: one pass that normalises, rounds once to the
dtype and leaves channels_last; on CUDA one batch ahead of the step, on a stream of its own."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch


@dataclass
class Batch:
    """A batch on the device, and what it took to get there.

    images: [b, 3, S, S] channels_last; labels: int64 [b].
    """

    images: torch.Tensor
    labels: torch.Tensor
    _copy_s: float = 0.0
    _copy_events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None

    def h2d_s(self) -> float | None:
        """Seconds of transfer and conversion: on CUDA between events, None while they are not finished."""
        if self._copy_events is None:
            return self._copy_s
        start, stop = self._copy_events
        return start.elapsed_time(stop) / 1e3 if stop.query() else None


class Normalise:
    """uint8 [b, S, S, 3] -> (x / 255 - mean) / std as dtype [b, 3, S, S] channels_last; computed in fp32.

    mean, std: per channel, of pictures scaled to 0 ... 1.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype, device: torch.device):
        self._scale = [1 / (255 * s) for s in std]
        self._shift = [-m / s for m, s in zip(mean, std, strict=True)]
        self._dtype, self._device = dtype, device
        self._rows: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def _row(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale and shift for a whole picture row, so that the innermost loop is long and contiguous."""
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


def prefetch(
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    device: torch.device | str,
    dtype: torch.dtype,
    mean: Sequence[float],
    std: Sequence[float],
) -> Iterator[Batch]:
    """Batches on the device. Closing it closes `batches`; an error of the reader comes out as it is."""
    device = torch.device(device)
    normalise = Normalise(mean, std, dtype, device)
    source = iter(batches)
    try:
        yield from (_cuda if device.type == "cuda" else _cpu)(source, device, normalise)
    finally:
        if hasattr(source, "close"):
            source.close()


def _cpu(source: Iterator, device: torch.device, normalise: Normalise) -> Iterator[Batch]:
    for pictures, labels in source:
        start = time.perf_counter()
        images = normalise(pictures)
        yield Batch(images, labels, time.perf_counter() - start)


def _cuda(source: Iterator, device: torch.device, normalise: Normalise) -> Iterator[Batch]:
    side = torch.cuda.Stream(device)
    ahead = None
    being_read: deque[tuple[torch.cuda.Event, torch.Tensor]] = deque()
    for pictures, labels in source:
        pictures, labels = (t if t.is_cuda or t.is_pinned() else t.pin_memory() for t in (pictures, labels))
        if pictures.is_cuda:
            side.wait_stream(torch.cuda.current_stream(device))
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        with torch.cuda.stream(side):
            start.record()
            images = normalise(pictures.to(device, non_blocking=True))
            labels = labels.to(device, non_blocking=True)
            stop.record()
        # A reader's memory on the device is not torch's: it must not go back while the side stream reads it.
        being_read.append((stop, pictures))
        while being_read and being_read[0][0].query():
            being_read.popleft()
        now, ahead = ahead, Batch(images, labels, _copy_events=(start, stop))
        if now is not None:
            yield _handed_over(now, device)
    if ahead is not None:
        yield _handed_over(ahead, device)


def _handed_over(batch: Batch, device: torch.device) -> Batch:
    """Order the step after the copy, and keep the memory from being reused before the step has read it."""
    stream = torch.cuda.current_stream(device)
    stream.wait_event(batch._copy_events[1])
    batch.images.record_stream(stream)
    batch.labels.record_stream(stream)
    return batch
