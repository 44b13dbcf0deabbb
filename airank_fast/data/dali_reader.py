"""The fast reader: one DALI pipeline for training, one for evaluation.

Python only says which files and which random numbers; DALI's threads (and the GPU, where there is one) read,
decode just the window that is needed, resize and mirror. The window arithmetic is `sampling`'s, in the graph,
because it needs the picture's size, which only the file knows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from nvidia.dali import fn, math, types
from nvidia.dali.pipeline import Pipeline

from airank_fast.data.image_folder import ImageFolder, Split, corrupt_error, find_corrupt, why_corrupt
from airank_fast.data.sampling import (
    MAX_RATIO,
    NUM_ATTEMPTS,
    Crop,
    Request,
    TrainStream,
    crop_factors,
    eval_batches,
    flip_draws,
    offset_draws,
)

_DEPTH = 2                  # batches that DALI works on ahead of the caller
_TAIL_BYTES = 32            # where a whole file's end marker is looked for
_END_MARKERS = (b"\xff\xd9", b"IEND")       # JPEG, PNG


class _Window(NamedTuple):
    """Graph nodes, float32 (y, x): the whole pixels to decode, and the part of them to resize."""

    start: object
    shape: object
    roi_start: object
    roi_end: object


def _random_resized(size, factors, offset) -> _Window:
    """`sampling.random_resized_window`, operation by operation, on float32 [2] nodes."""
    tries = math.floor(math.sqrt(size[0] * size[1]) * factors + 0.5)             # [2, NUM_ATTEMPTS]
    h, w = tries[0], tries[1]
    fits = (h >= 1) & (h <= size[0]) & (w >= 1) & (w <= size[1])
    number = types.Constant(np.arange(NUM_ATTEMPTS, dtype=np.float32))
    first = fn.reductions.min(fits * number + (fits ^ True) * float(NUM_ATTEMPTS), axes=[0])
    found = first < NUM_ATTEMPTS
    centred = math.max(1.0, math.min(size, math.floor(fn.stack(size[1], size[0]) * MAX_RATIO + 0.5)))
    shape = fn.reductions.sum(tries * (number == first), axes=[1]) * found + centred * (found ^ True)
    offset = offset * found + 0.5 * (found ^ True)
    start = math.min(math.floor(offset * (size - shape + 1.0)), size - shape)
    return _Window(start, shape, 0.0 * shape, shape)


def _mirrored(window: _Window, mirror) -> _Window:
    """A region of interest that runs from right to left comes out mirrored, without a pass of its own."""
    step = (window.roi_end - window.roi_start) * mirror
    return window._replace(roi_start=window.roi_start + step, roi_end=window.roi_end - step)


def _resized(size, crop: Crop, offset) -> _Window:
    """`sampling.resized_window`; offset None is the centre. Decodes as far around as the filter reaches."""
    scale = fn.reductions.min(size, axes=[0]) / float(crop.eval_resize)
    side = float(crop.image_size) * scale
    if offset is None:
        start = (size - side) * 0.5
    else:
        room = math.floor(size / scale + 0.001) - float(crop.image_size)
        start = math.min(math.floor(offset * (room + 1.0)), room) * scale
    margin = math.ceil(scale) + 1.0
    first = math.max(0.0, math.floor(start - margin))
    last = math.min(size, math.ceil(start + side + margin))
    return _Window(first, last - first, start - first, start - first + side)


def _build(source, crop: Crop, train: bool, *, max_batch_size: int, num_threads: int, device: torch.device):
    """A pipeline from what `_Run._feed` says to (pictures uint8 [S, S, 3], last bytes of the file)."""
    on_gpu = device.type == "cuda"
    pipeline = Pipeline(max_batch_size, num_threads, device.index or 0 if on_gpu else None,
                        prefetch_queue_depth=_DEPTH)
    with pipeline:
        paths, *numbers = fn.external_source(source, num_outputs=_num_inputs(crop, train), batch=True)
        encoded = fn.io.file.read(paths)
        size = fn.cast(fn.peek_image_shape(encoded, adjust_orientation=False)[:2], dtype=types.FLOAT)
        if not train:
            window = _resized(size, crop, None)
        elif crop.train_crop == "shift":
            window = _mirrored(_resized(size, crop, numbers[1]), numbers[0])
        else:
            window = _mirrored(_random_resized(size, numbers[2], numbers[1]), numbers[0])
        whole = {"dtype": types.INT32}
        pictures = fn.decoders.image_slice(
            encoded, device="mixed" if on_gpu else "cpu", start=fn.cast(window.start, **whole),
            shape=fn.cast(window.shape, **whole), axes=[0, 1], adjust_orientation=False)
        pictures = fn.resize(pictures, size=[crop.image_size] * 2, roi_start=window.roi_start,
                             roi_end=window.roi_end, interp_type=types.INTERP_LINEAR, antialias=True)
        pipeline.set_outputs(pictures, encoded[-_TAIL_BYTES:])
    pipeline.build()
    return pipeline


def _num_inputs(crop: Crop, train: bool) -> int:
    """Paths; for training also mirror and offset; for random_resized also factors."""
    return 1 if not train else 3 if crop.train_crop == "shift" else 4


class _Run:
    """A pipeline at work. What was asked of it and not yet handed out is kept, for labels and for blame."""

    def __init__(self, split: Split, crop: Crop, train: bool, **build):
        self._split, self._crop, self._num_inputs = split, crop, _num_inputs(crop, train)
        self._requests: Iterator[Request] = iter(())
        self._asked: deque[np.ndarray] = deque()
        self._odd_but_whole: set[str] = set()
        self._pipeline = _build(self._feed, crop, train, **build)

    def _feed(self):
        indices, u = next(self._requests)       # StopIteration ends the pipeline's epoch
        self._asked.append(indices)
        inputs = [[np.frombuffer(self._split.files[i].encode(), np.uint8) for i in indices]]
        if self._num_inputs > 1:
            mirror = np.zeros((len(indices), 2), np.float32)            # (y, x)
            mirror[:, 1] = flip_draws(u) & self._crop.flip
            inputs += [mirror, offset_draws(u)]
        if self._num_inputs > 3:
            inputs.append(crop_factors(u, self._crop.min_area))
        return inputs

    def batches(self, requests: Iterator[Request]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        self._requests = requests
        self._asked.clear()
        self._pipeline.reset()
        while self._pipeline is not None:
            try:
                pictures, tails = self._pipeline.run()
            except StopIteration:
                return
            except RuntimeError as error:
                raise self._blame(error) from error
            indices = self._asked.popleft()
            self._check_tails(indices, tails)
            yield torch.from_dlpack(pictures.as_tensor()), torch.from_numpy(self._split.labels[indices])

    def _check_tails(self, indices: np.ndarray, tails) -> None:
        """libjpeg fills up a truncated picture with grey and DALI takes it; a missing end marker tells."""
        for index, tail in zip(indices, np.asarray(tails.as_tensor()), strict=True):
            if not any(marker in tail.tobytes() for marker in _END_MARKERS):
                path = self._split.files[index]
                if path not in self._odd_but_whole:
                    if why := why_corrupt(path):
                        raise corrupt_error(path, why)
                    self._odd_but_whole.add(path)

    def _blame(self, error: RuntimeError) -> Exception:
        """The file that DALI stumbled over is among those asked for; which one, it does not say."""
        for path, why in find_corrupt(self._split.files[i] for indices in self._asked for i in indices):
            return corrupt_error(path, why)
        return error

    def close(self) -> None:
        self._pipeline = None               # the last reference: DALI's destructor joins its threads


class DaliReader:
    """See `make_reader`. num_workers: DALI's threads."""

    name = "dali"

    def __init__(self, folder: ImageFolder, stream: TrainStream, crop: Crop, *, eval_batch_size: int,
                 rank: int, world_size: int, device: torch.device, num_workers: int):
        self._folder, self._stream, self._crop = folder, stream, crop
        self._eval = (eval_batch_size, rank, world_size)
        self._build = {"num_threads": max(1, num_workers), "device": device}
        self._train_run: _Run | None = None
        self._eval_run: _Run | None = None

    def train(self, first_step: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Endless local batches from global step `first_step` on. UserError names an unreadable file."""
        if self._train_run is not None:
            self._train_run.close()
        self._train_run = _Run(self._folder.train, self._crop, True, **self._build,
                               max_batch_size=self._stream.batch_size_local)
        return self._train_run.batches(self._stream.requests(first_step))

    def evaluate(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """This rank's part of the validation set, in order, the last batch smaller."""
        if self._eval_run is None:
            self._eval_run = _Run(self._folder.val, self._crop, False, **self._build,
                                  max_batch_size=self._eval[0])
        return self._eval_run.batches(Request(indices, None) for indices in
                                      eval_batches(len(self._folder.val), *self._eval))

    def close(self) -> None:
        """Stops DALI's threads and ends its iterators. Batches handed out stay valid."""
        for run in (self._train_run, self._eval_run):
            if run is not None:
                run.close()
        self._train_run = self._eval_run = None
