"""Batches of pictures with their texts: turned crops with DB's maps to train on, whole pictures to evaluate on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from airank_fast.data.images.batches import Normalise
from airank_fast.data.images.geometry import TurnedCrop, turned_crop
from airank_fast.data.images.place import Place
from airank_fast.data.images.resize import resize_into
from airank_fast.data.images.segmentation_reader import MEAN, PADDING, STD
from airank_fast.data.images.text_maps import NUM_MAPS, text_maps
from airank_fast.data.images.text_scenes import Scenes
from airank_fast.data.images.workers import Broken, WorkerReader
from airank_fast.data.prefetch import Batch, moved
from airank_fast.data.prefetch import prefetch as any_prefetch
from airank_fast.data.sampling import Request, TrainStream, flip_draws

_PLACES = 6  # that are tried for a crop
_ROOM = 0.5  # pixels by which a text may reach out of a crop and still be whole


class TextCrops(NamedTuple):
    """Training crops of `height` x `width` pixels.

    Pictures are scaled by min_scale to max_scale and turned by up to `degrees` either way, both uniformly. flip: half
    of them are mirrored. What a picture does not fill is padding.
    """

    height: int
    width: int
    min_scale: float
    max_scale: float
    degrees: float
    flip: bool

    def place(
        self, size: tuple[int, int], quads: np.ndarray, ignored: np.ndarray, u: np.ndarray, mirrored: bool
    ) -> TurnedCrop:
        """The crop of a picture of this size (height, width), from a picture's draws (sampling.NUM_DRAWS).

        Of six places around texts that are not ignored it is the one that cuts the fewest texts.
        """
        scale = self.min_scale + (self.max_scale - self.min_scale) * u[0]
        whole = turned_crop(size, scale, self.degrees * (2 * u[1] - 1), mirrored and self.flip)
        crop = np.array([self.width, self.height])
        height, width = size
        corners = whole.points(np.array([[0, 0], [width, 0], [width, height], [0, height]]))
        edges = np.stack([corners.min(0), corners.max(0) - crop])
        texts = whole.points(quads)
        low, high = texts.min(1), texts.max(1)
        chosen = np.flatnonzero(~ignored)
        best, fewest = edges[0], len(quads) + 1
        for which, *offset in u[2 : 2 + 3 * _PLACES].reshape(_PLACES, 3):
            first, last = edges.min(0), edges.max(0)
            if len(chosen):
                text = chosen[int(which * len(chosen))]
                around = np.stack([high[text] - crop, low[text]])
                first, last = (np.clip(side(around, 0), first, last) for side in (np.min, np.max))
            shift = np.round(first + np.array(offset) * (last - first))
            cut = _is_in_part(low - shift, high - shift, crop).sum()
            if cut < fewest:
                best, fewest = shift, cut
        return whole.moved(best)


def _is_in_part(low: np.ndarray, high: np.ndarray, crop: np.ndarray) -> np.ndarray:
    """Which of the boxes [n, 2] to [n, 2] a crop (width, height) cuts."""
    is_whole = np.all((low >= -_ROOM) & (high <= crop + _ROOM), axis=1)
    return np.asarray(~is_whole & np.all((high > 0) & (low < crop), axis=1))


class Truth(NamedTuple):
    """The texts of b pictures, on the host. Of each: quads, float32 [n, 4, 2], ignored, bool [n], size (h, w)."""

    quads: tuple[np.ndarray, ...]
    ignored: tuple[np.ndarray, ...]
    sizes: tuple[tuple[int, int], ...]


@dataclass
class MapBatch(Batch):
    """b crops on the device. images: [b, 3, H, W], channels_last; maps: uint8 [b, 4, H, W], see `text_maps`."""

    images: Tensor
    maps: Tensor

    @property
    def num_samples(self) -> int:
        """Crops in this batch."""
        return len(self.images)


@dataclass
class SceneBatch(Batch):
    """b pictures, stretched to one size. images: [b, 3, H, W] on the device; truth: in the pictures' own pixels."""

    images: Tensor
    truth: Truth

    @property
    def num_samples(self) -> int:
        """Pictures in this batch."""
        return len(self.images)


class _Crops(Dataset):
    """Request -> pictures uint8 [b, H, W, 3], maps uint8 [b, 4, H, W]."""

    def __init__(self, scenes: Scenes, crops: TextCrops):
        self.scenes, self.crops = scenes, crops

    def __getitem__(self, request: Request) -> tuple[Tensor, Tensor] | Broken:
        crops, u = self.crops, request.draws
        assert u is not None, "only evaluation requests have no draws"
        shape = crops.height, crops.width
        pictures = np.empty((len(u), *shape, 3), np.uint8)
        pictures[:] = PADDING
        maps = np.empty((len(u), NUM_MAPS, *shape), np.uint8)
        for row, (number, mirrored) in enumerate(zip(request.indices, flip_draws(u), strict=True)):
            found = self.scenes.read(number)
            if isinstance(found, Broken):
                return found
            picture, quads, ignored = found
            size = picture.shape[:2]
            quads = quads.clip(0, size[::-1])
            crop = crops.place(size, quads, ignored, u[row], bool(mirrored))
            crop.draw(picture, pictures[row])
            texts = crop.points(quads)
            cut = _is_in_part(texts.min(1), texts.max(1), np.array(shape[::-1]))
            maps[row] = text_maps(texts, ignored | cut, shape)
        return torch.from_numpy(pictures), torch.from_numpy(maps)


class _Whole(Dataset):
    """Request -> pictures uint8 [b, H, W, 3], sizes int64 [b, 2], and of all texts quads, ignored, counts int64 [b]."""

    def __init__(self, scenes: Scenes, height: int, width: int):
        self.scenes, self.shape = scenes, (height, width, 3)

    def __getitem__(self, request: Request) -> tuple[Tensor, ...] | Broken:
        pictures = np.empty((len(request.indices), *self.shape), np.uint8)
        sizes, quads, ignored = [], [], []
        for row, number in zip(pictures, request.indices, strict=True):
            found = self.scenes.read(number)
            if isinstance(found, Broken):
                return found
            picture, its_quads, its_ignored = found
            resize_into(row, np.array(picture), mirrored=False)
            sizes.append(picture.shape[:2])
            quads.append(its_quads)
            ignored.append(its_ignored)
        counts = np.array([len(each) for each in quads])
        texts = np.concatenate(quads), np.concatenate(ignored), counts
        return tuple(map(torch.from_numpy, (pictures, np.array(sizes), *texts)))


class TextSceneReader(WorkerReader):
    """Crops of a training set, and whole pictures of a validation set, stretched to eval_size (height, width)."""

    name = "torch"

    def __init__(
        self,
        train: Scenes,
        val: Scenes,
        stream: TrainStream,
        place: Place,
        crops: TextCrops,
        eval_size: tuple[int, int],
    ):
        super().__init__(_Crops(train, crops), _Whole(val, *eval_size), len(val), stream, place)


def prefetch_crops(
    batches: Iterable[tuple[Tensor, ...]], device: torch.device | str, dtype: torch.dtype
) -> Iterator[MapBatch]:
    """A reader's training batches on the device, normalised. Closing it closes `batches`."""
    device = torch.device(device)
    normalise = Normalise(MEAN, STD, dtype, device)

    def move(item: tuple[Tensor, ...]) -> MapBatch:
        pictures, maps = moved((part.numpy() for part in item), device)
        return MapBatch(normalise(pictures), maps)

    return any_prefetch(batches, device, move)


def prefetch_pictures(
    batches: Iterable[tuple[Tensor, ...]], device: torch.device | str, dtype: torch.dtype
) -> Iterator[SceneBatch]:
    """A reader's evaluation batches, pictures on the device and normalised. Closing it closes `batches`."""
    device = torch.device(device)
    normalise = Normalise(MEAN, STD, dtype, device)

    def move(item: tuple[Tensor, ...]) -> SceneBatch:
        pictures, sizes, quads, ignored, counts = (part.numpy() for part in item)
        on_device = normalise(moved((pictures,), device)[0])
        ends = counts.cumsum()[:-1]
        quads_of, ignored_of = (tuple(np.split(each, ends)) for each in (quads, ignored))
        return SceneBatch(on_device, Truth(quads_of, ignored_of, tuple((h, w) for h, w in sizes.tolist())))

    return any_prefetch(batches, device, move)
