"""Batches of pictures of text lines: grey, stretched to one height and width, with their texts as CTC takes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from airank_fast.data.images.batches import Normalise
from airank_fast.data.images.image_folder import why_corrupt
from airank_fast.data.images.place import Place
from airank_fast.data.images.resize import resize_into
from airank_fast.data.images.text_lines import Lines
from airank_fast.data.images.workers import Broken, WorkerReader, decode
from airank_fast.data.prefetch import Batch, moved
from airank_fast.data.prefetch import prefetch as any_prefetch
from airank_fast.data.sampling import Request, TrainStream

MEAN = STD = (0.5,)  # of grey levels in [0, 1], as crnn.pytorch: the network sees -1 ... 1


class Targets(NamedTuple):
    """The texts of b lines on the host, where CTC reads them: cuDNN's takes no others, torch's own copies them.

    classes: int32 [sum of lengths], 1 or more, one text behind the other; lengths: of each text.
    """

    classes: Tensor
    lengths: tuple[int, ...]

    def each(self) -> list[tuple[int, ...]]:
        """The classes of each text."""
        return [tuple(part.tolist()) for part in self.classes.split(self.lengths)]


@dataclass
class LineBatch(Batch):
    """b lines. images: [b, 1, H, W] on the device, channels_last; samples: int64 [b], the lines' numbers."""

    images: Tensor
    targets: Targets
    samples: Tensor

    @property
    def num_samples(self) -> int:
        """Lines in this batch."""
        return len(self.samples)


class _Batches(Dataset):
    """Request -> pictures uint8 [b, H, W, 1], classes int32 [sum of lengths], lengths int64 [b], numbers int64 [b]."""

    def __init__(self, lines: Lines, height: int, width: int):
        self.lines, self.shape = lines, (height, width, 1)

    def __getitem__(self, request: Request) -> tuple[Tensor, ...] | Broken:
        pictures = np.empty((len(request.indices), *self.shape), np.uint8)
        for row, line in zip(pictures, request.indices, strict=True):
            picture = self.lines.picture(line)
            try:
                grey = np.array(decode(picture, "L"))
            except Exception as error:
                return Broken(self.lines.where(line), why_corrupt(picture) or f"{type(error).__name__}: {error}")
            resize_into(row, grey[:, :, None], mirrored=False)
        classes, lengths = self.lines.targets(request.indices)
        return tuple(map(torch.from_numpy, (pictures, classes, lengths, request.indices)))


class LineReader(WorkerReader):
    """Lines of a training and a validation set, stretched to `height` x `width` pixels."""

    name = "torch"

    def __init__(self, train: Lines, val: Lines, stream: TrainStream, place: Place, *, height: int, width: int):
        super().__init__(_Batches(train, height, width), _Batches(val, height, width), len(val), stream, place)


def prefetch(
    batches: Iterable[tuple[Tensor, ...]], device: torch.device | str, dtype: torch.dtype
) -> Iterator[LineBatch]:
    """A reader's batches on the device, with grey levels from -1 to 1. Closing it closes `batches`."""
    device = torch.device(device)
    normalise = Normalise(MEAN, STD, dtype, device)

    def move(item: tuple[Tensor, ...]) -> LineBatch:
        pictures, classes, lengths, samples = item
        on_device, numbers = moved((pictures.numpy(), samples.numpy()), device)
        return LineBatch(normalise(on_device), Targets(classes, tuple(lengths.tolist())), numbers)

    return any_prefetch(batches, device, move)
