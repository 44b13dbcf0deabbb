"""The reader for a machine without DALI: torch's DataLoader, with Pillow decoding in its workers.

A worker gets the request of a whole batch and returns its uint8 tensor, so that nothing is collated. 16-bit grey
becomes 8-bit by v / 257, rounded, as in DALI; of 16-bit colours Pillow takes the upper 8 bits, within one level of it.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Generator, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from airank_fast.data.images.image_folder import FORMATS, ImageFolder, Split, corrupt_error, why_corrupt
from airank_fast.data.images.place import Place
from airank_fast.data.images.resize import resize_into
from airank_fast.data.processes import end_with
from airank_fast.data.sampling import (
    Crop,
    Request,
    TrainStream,
    crop_factors,
    flip_draws,
    offset_draws,
    random_resized_window,
    square_window,
)


class _Broken(NamedTuple):
    """Sent by a worker instead of a batch, as an exception would arrive inside a traceback."""

    path: str
    why: str


def _decode(path: str) -> Image.Image:
    with Image.open(path, formats=FORMATS) as image:
        image.load()
        narrow = _eight_bits(image) if image.mode.startswith("I") else image
        return narrow if narrow.mode == "RGB" else narrow.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey as in DALI: v / 257, rounded. Pillow's own conversion makes all values above 255 white."""
    grey = np.asarray(image).astype(np.uint32)
    return Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8))


class _Batches(Dataset):
    """Request -> (uint8 [b, S, S, 3], int64 [b]); evaluation requests have no draws."""

    def __init__(self, split: Split, crop: Crop):
        self.split, self.crop = split, crop

    def __getitem__(self, request: Request) -> tuple[torch.Tensor, torch.Tensor] | _Broken:
        crop, u, num = self.crop, request.draws, len(request.indices)
        out = np.empty((num, crop.image_size, crop.image_size, 3), np.uint8)
        if u is not None:
            factors, offsets = crop_factors(u, crop.min_area), offset_draws(u)
            flips = flip_draws(u) & crop.flip
        for i, index in enumerate(request.indices):
            path = self.split.files[index]
            try:
                image = _decode(path)
            except Exception as error:
                return _Broken(path, why_corrupt(path) or f"{type(error).__name__}: {error}")
            if u is not None and crop.train_crop == "random_resized":
                y, x, h, w = random_resized_window(image.height, image.width, factors[i], offsets[i])
            else:
                y, x, h, w = square_window(
                    image.height, image.width, crop.eval_resize, crop.image_size, None if u is None else offsets[i]
                )
            window = np.array(image.crop((x, y, x + w, y + h)))
            resize_into(out[i], window, mirrored=u is not None and bool(flips[i]))
        return torch.from_numpy(out), torch.from_numpy(self.split.labels[request.indices])


class TorchReader:
    """See `make_reader`. num_workers 0 decodes in the calling thread."""

    name = "torch"

    def __init__(self, folder: ImageFolder, stream: TrainStream, crop: Crop, place: Place):
        self._stream, self._place = stream, place
        self._train, self._val = _Batches(folder.train, crop), _Batches(folder.val, crop)
        self._training: Generator | None = None

    def _run(self, dataset: _Batches, requests) -> Generator[tuple[torch.Tensor, torch.Tensor], None, None]:
        loader = DataLoader(
            dataset,
            batch_size=None,
            sampler=requests,
            num_workers=self._place.num_workers,
            pin_memory=self._place.device.type == "cuda",
            prefetch_factor=2 if self._place.num_workers else None,
            worker_init_fn=partial(end_with, os.getpid()),
            generator=torch.Generator(),  # else it draws from the run's random state
        )
        gc.freeze()  # a forked worker must not collect what it inherits, such as DALI
        try:
            batches = iter(loader)
        finally:
            gc.unfreeze()
        try:
            for batch in batches:
                if isinstance(batch, _Broken):
                    raise corrupt_error(*batch)
                yield tuple(batch)
        finally:
            del batches  # ends the workers now; in the garbage of an exception each would take 5 s

    def train(self, first_step: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Endless local batches from global step `first_step` on. UserError names an unreadable file."""
        self.close()
        self._training = self._run(self._train, _Sampler(lambda: self._stream.requests(first_step)))
        return self._training

    def evaluate(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """This rank's part of the validation set, in order, the last batch smaller."""
        return self._run(self._val, _Sampler(lambda: self._place.eval_requests(len(self._val.split))))

    def close(self) -> None:
        """Stops the workers."""
        if self._training is not None:
            self._training.close()


class _Sampler:
    """An iterable over what a function returns, which is all that DataLoader requires of a sampler."""

    def __init__(self, make):
        self._make = make

    def __iter__(self):
        return iter(self._make())
