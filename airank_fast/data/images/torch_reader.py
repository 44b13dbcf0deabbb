"""The reader for a machine without DALI: Pillow decodes in worker processes, see `workers`."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import Dataset

from airank_fast.data.images.image_folder import ImageFolder, Split, why_corrupt
from airank_fast.data.images.place import Place
from airank_fast.data.images.resize import resize_into
from airank_fast.data.images.workers import Broken, WorkerReader, decode
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


class _Batches(Dataset):
    """Request -> (uint8 [b, S, S, 3], int64 [b]); evaluation requests have no draws."""

    def __init__(self, split: Split, crop: Crop):
        self.split, self.crop = split, crop

    def __getitem__(self, request: Request) -> tuple[torch.Tensor, torch.Tensor] | Broken:
        crop, u, num = self.crop, request.draws, len(request.indices)
        out = np.empty((num, crop.image_size, crop.image_size, 3), np.uint8)
        if u is not None:
            factors, offsets = crop_factors(u, crop.min_area), offset_draws(u)
            flips = flip_draws(u) & crop.flip
        for i, index in enumerate(request.indices):
            path = self.split.files[index]
            try:
                image = decode(path)
            except Exception as error:
                return Broken(path, why_corrupt(path) or f"{type(error).__name__}: {error}")
            if u is not None and crop.train_crop == "random_resized":
                y, x, h, w = random_resized_window(image.height, image.width, factors[i], offsets[i])
            else:
                y, x, h, w = square_window(
                    image.height, image.width, crop.eval_resize, crop.image_size, None if u is None else offsets[i]
                )
            window = np.array(image.crop((x, y, x + w, y + h)))
            resize_into(out[i], window, mirrored=u is not None and bool(flips[i]))
        return torch.from_numpy(out), torch.from_numpy(self.split.labels[request.indices])


class TorchReader(WorkerReader):
    """See `make_reader`. num_workers 0 decodes in the calling thread."""

    name = "torch"

    def __init__(self, folder: ImageFolder, stream: TrainStream, crop: Crop, place: Place):
        super().__init__(_Batches(folder.train, crop), _Batches(folder.val, crop), len(folder.val), stream, place)
