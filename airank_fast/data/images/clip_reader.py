"""Batches of clips: of each, one frame of every segment, under one crop and one flip for all of them."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from airank_fast.data.images.clips import Clips, segment_frames
from airank_fast.data.images.place import Place
from airank_fast.data.images.resize import resize_into
from airank_fast.data.images.workers import Broken, WorkerReader
from airank_fast.data.sampling import Crop, Request, TrainStream, flip_draws, offset_draws, spare_draws, square_window

MOST_SEGMENTS = 20  # draws of a clip before those of its window
SCALES = (1.0, 0.875, 0.75, 0.66)  # of a training window, in shorter sides of the picture
_PLACES = (0, 0), (0, 4), (4, 0), (4, 4), (2, 2), (0, 2), (2, 0), (2, 4), (4, 2), (1, 1), (1, 3), (3, 1), (3, 3)


class Window(NamedTuple):
    """A window of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int


def multi_scale_window(height: int, width: int, image_size: int, u: float, v: float) -> Window:
    """A window of the multi-scale crops of TSN and TSM (Wang et al., 2016; mit-han-lab's GroupMultiScaleCrop).

    Its height and width are two of SCALES, equal or next to each other, times the picture's shorter side; within 2
    pixels of image_size they are image_size. It lies at one of 13 places in quarters of the room that it has: corners,
    middles of the sides, centre, and between centre and corners. u, v: in [0, 1), for its size and place.
    """
    sides = [int(min(height, width) * scale) for scale in SCALES]
    sides = [image_size if abs(side - image_size) < 3 else side for side in sides]
    sides = [min(side, height, width) for side in sides]
    pairs = [(i, j) for i in range(len(sides)) for j in range(len(sides)) if abs(i - j) <= 1]
    i, j = pairs[int(u * len(pairs))]
    down, across = _PLACES[int(v * len(_PLACES))]
    return Window((height - sides[i]) // 4 * down, (width - sides[j]) // 4 * across, sides[i], sides[j])


class _Batches(Dataset):
    """Request -> (uint8 [b * T, S, S, 3], frames of a clip one behind the other; labels int64 [b])."""

    def __init__(self, clips: Clips, num_segments: int, crop: Crop):
        self.clips, self.num_segments, self.crop = clips, num_segments, crop

    def __getitem__(self, request: Request) -> tuple[Tensor, Tensor] | Broken:
        side, num = self.crop.image_size, len(request.indices)
        out = np.empty((num, self.num_segments, side, side, 3), np.uint8)
        for row, (frames, index) in enumerate(zip(out, request.indices, strict=True)):
            try:
                self._read(frames, int(index), None if request.draws is None else request.draws[row : row + 1])
            except Exception as error:
                why = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
                return Broken(self.clips.where(index), why, "a whole video or folder of frames")
        return torch.from_numpy(out.reshape(-1, *out.shape[2:])), torch.from_numpy(self.clips.labels[request.indices])

    def _read(self, out: np.ndarray, index: int, u: np.ndarray | None) -> None:
        clip = self.clips.open(index)
        pictures = clip.pictures(segment_frames(len(clip), self.num_segments, None if u is None else u[0]))
        shapes = {picture.shape for picture in pictures}
        if len(shapes) > 1:
            raise ValueError("its frames are of different sizes")
        height, width, _ = pictures[0].shape
        window = self._window(height, width, u)
        mirrored = u is not None and self.crop.flip and bool(flip_draws(u)[0])
        for frame, picture in zip(out, pictures, strict=True):
            down = slice(window.top, window.top + window.height)
            across = slice(window.left, window.left + window.width)
            resize_into(frame, np.ascontiguousarray(picture[down, across]), mirrored)

    def _window(self, height: int, width: int, u: np.ndarray | None) -> Window:
        crop = self.crop
        if u is not None and crop.train_crop == "multi_scale":
            return multi_scale_window(height, width, crop.image_size, spare_draws(u)[0], offset_draws(u)[0, 0])
        offset = None if u is None else offset_draws(u)[0]
        return Window._make(square_window(height, width, crop.eval_resize, crop.image_size, offset))


class ClipReader(WorkerReader):
    """Clips of a training and a validation set as num_segments pictures each, of crop.image_size pixels.

    crop.train_crop: "multi_scale", see `multi_scale_window`, or "shift", see `make_reader`.
    """

    name = "torch"

    def __init__(self, train: Clips, val: Clips, stream: TrainStream, place: Place, *, num_segments: int, crop: Crop):
        assert num_segments <= MOST_SEGMENTS, num_segments
        batches = partial(_Batches, num_segments=num_segments, crop=crop)
        super().__init__(batches(train), batches(val), len(val.labels), stream, place)
