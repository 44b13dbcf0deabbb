"""Batches of pictures of two domains: a random window of each to train on, whole pictures to evaluate on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from airank_fast.data.images.batches import Normalise
from airank_fast.data.images.domains import Domain, Domains
from airank_fast.data.images.geometry import ScaledCrop
from airank_fast.data.images.image_folder import corrupt_error
from airank_fast.data.images.place import Place
from airank_fast.data.images.workers import Broken, WorkerReader
from airank_fast.data.prefetch import Batch, moved
from airank_fast.data.prefetch import prefetch as any_prefetch
from airank_fast.data.sampling import Request, TrainStream, flip_draws, offset_draws, spare_draws

_MEAN = _STD = 0.5  # of levels in [0, 1]: the networks see and make -1 ... 1


class View(NamedTuple):
    """How pictures are seen, as junyanz's resize_and_crop: stretched to a square of load_size pixels, of which a random
    window of crop_size pixels is taken, and half of them mirrored where `flip`. To evaluate, stretched to crop_size."""

    load_size: int
    crop_size: int
    flip: bool

    def window(self, size: tuple[int, int], offset: np.ndarray | None, mirrored: bool) -> ScaledCrop:
        """Of a picture of this size (height, width). offset: (y, x) in [0, 1); None: the whole picture."""
        if offset is None:
            return ScaledCrop(0, 0, *size, self.crop_size, self.crop_size)
        spans = [max(1, round(side * self.crop_size / self.load_size)) for side in size]
        top, left = (int(o * (side - span + 1)) for o, side, span in zip(offset, size, spans, strict=True))
        return ScaledCrop(top, left, spans[0], spans[1], self.crop_size, self.crop_size, mirrored)


@dataclass
class PictureBatch(Batch):
    """N pictures of each domain on the device, levels from -1 to 1. Of pairs, a[i] and b[i] are partners.

    a, b: [N, C, S, S], channels_last. ids: int64 [N], the samples' numbers. counts: bool [N, 2], whether a[i] and b[i]
    count in a quality measure: where domains to evaluate on differ in size, pictures of the smaller one come again.
    """

    a: Tensor
    b: Tensor
    ids: Tensor
    counts: Tensor

    @property
    def num_samples(self) -> int:
        """Pairs, or pictures of each domain, in this batch."""
        return len(self.ids)


class _Batches(Dataset):
    """Request -> pictures a and b, uint8 [b, S, S, C]; numbers int64 [b]; which pictures count, bool [b, 2]."""

    def __init__(self, domains: Domains, view: View):
        self.domains, self.view = domains, view

    def __getitem__(self, request: Request) -> tuple[Tensor, ...] | Broken:
        domains, numbers, u = self.domains, request.indices, request.draws
        sizes = len(domains.a), len(domains.b)
        chosen = [numbers % size for size in sizes]
        counts = np.stack([numbers < size for size in sizes], 1)
        offsets: list = [[None] * len(numbers)] * 2
        flips = np.zeros((2, len(numbers)), bool)
        if u is not None:
            offsets = [offset_draws(u)] * 2
            flips[:] = flip_draws(u) & self.view.flip
            if not domains.paired:
                chosen[1] = (spare_draws(u) * sizes[1]).astype(np.int64)
                offsets[1], flips[1] = u[:, :2], (u[:, 2] < 0.5) & self.view.flip
        sides = [_empty(domain, len(numbers), self.view) for domain in (domains.a, domains.b)]
        for row in range(len(numbers)):  # first both pictures of a pair: they may be halves of one file
            for place, domain in enumerate((domains.a, domains.b)):
                drawn = offsets[place][row], bool(flips[place][row])
                broken = _draw(domain, chosen[place][row], self.view, sides[place][row], *drawn)
                if broken is not None:
                    return broken
        return tuple(map(torch.from_numpy, (*sides, numbers, counts)))


def _empty(domain: Domain, number: int, view: View) -> np.ndarray:
    """For so many windows: uint8 [b, S, S, C]."""
    return np.empty((number, view.crop_size, view.crop_size, domain.channels), np.uint8)


def _draw(
    domain: Domain, number: int, view: View, out: np.ndarray, offset: np.ndarray | None = None, mirrored: bool = False
) -> Broken | None:
    """Draw the window of a picture into `out`, uint8 [S, S, C]; returns what is wrong with its file."""
    picture = domain.picture(number)
    if isinstance(picture, Broken):
        return picture
    height, width = picture.shape[:2]
    view.window((height, width), offset, mirrored).draw(picture, out)
    return None


class DomainReader(WorkerReader):
    """Pictures of two domains. The batches are pure functions of seed and position in the training stream.

    Pairs have one window and are mirrored together. Without pairs an epoch has as many samples as the larger domain;
    A is in the epoch's order (from its beginning again, where it is the smaller one), and B is drawn at random.
    """

    name = "torch"

    def __init__(self, train: Domains, val: Domains, stream: TrainStream, place: Place, view: View):
        super().__init__(_Batches(train, view), _Batches(val, view), len(val), stream, place)


def prefetch(
    batches: Iterable[tuple[Tensor, ...]], device: torch.device | str, dtype: torch.dtype
) -> Iterator[PictureBatch]:
    """A reader's batches on the device, with levels from -1 to 1. Closing it closes `batches`."""
    device = torch.device(device)
    normalise = {channels: Normalise([_MEAN] * channels, [_STD] * channels, dtype, device) for channels in (1, 3)}

    def move(item: tuple[Tensor, ...]) -> PictureBatch:
        a, b, ids, counts = moved((part.numpy() for part in item), device)
        return PictureBatch(normalise[a.shape[3]](a), normalise[b.shape[3]](b), ids, counts)

    return any_prefetch(batches, device, move)


def noise(number: int, channels: tuple[int, int], size: int, device: torch.device, dtype: torch.dtype) -> PictureBatch:
    """A batch of noise in the shape of a training batch."""
    a, b = (
        torch.rand(number, each, size, size, device=device).mul(2).sub(1).to(dtype, memory_format=torch.channels_last)
        for each in channels
    )
    ids = torch.arange(number, device=device)
    return PictureBatch(a, b, ids, torch.ones(number, 2, dtype=torch.bool, device=device))


def thumbnails(domain: Domain, side: int, most: int) -> Tensor:
    """At most `most` pictures from all parts of a domain, stretched to squares: float32 [n, C, side, side], -1 ... 1.

    UserError names a file that cannot be read.
    """
    numbers = np.linspace(0, len(domain) - 1, min(most, len(domain))).round().astype(np.int64)
    view = View(side, side, flip=False)
    pictures = _empty(domain, len(numbers), view)
    for row, number in zip(pictures, numbers, strict=True):
        if (broken := _draw(domain, number, view, row)) is not None:
            raise corrupt_error(*broken)
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def levels(pictures: Tensor) -> Tensor:
    """Pictures of -1 ... 1 as they are saved: uint8 of the same shape, 0 ... 255."""
    return pictures.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
