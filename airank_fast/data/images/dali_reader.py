"""The fast reader: one DALI pipeline for training, one for evaluation.

Python hands over paths and random numbers alone. DALI's threads (and the GPU, where there is one) read and decode the
window that is needed; a GPU also resizes and mirrors it, on a CPU `resize` is faster. The graph repeats `sampling`'s
window arithmetic, because the picture's size is in the file.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from nvidia.dali import fn, math, types
from nvidia.dali.pipeline import Pipeline

from airank_fast.data.images.image_folder import ImageFolder, Split, corrupt_error, find_corrupt, why_corrupt
from airank_fast.data.images.place import Place
from airank_fast.data.images.resize import resize_into
from airank_fast.data.sampling import (
    ATTEMPT_LIMITS,
    NUM_ATTEMPTS,
    Crop,
    Request,
    TrainStream,
    crop_factors,
    flip_draws,
    offset_draws,
)

_DEPTH = 2  # batches that DALI works on ahead of the caller
_TAIL_BYTES = 32  # at the end of a file, in which its end marker must be
_END_MARKERS = (b"\xff\xd9", b"IEND")  # JPEG, PNG


# The window functions of `sampling`, operation by operation, on float32 nodes: (start, shape), each (y, x).
# Every node takes time in every batch, so they are few.


def _random_resized(size, factors, offset):
    side = math.sqrt(size[0] * size[1])
    needed = fn.reductions.max(factors * fn.expand_dims(side / size, axes=[1]), axes=[0])
    precedence = np.arange(NUM_ATTEMPTS, 0, -1, dtype=np.float32)
    score = (needed <= types.Constant(ATTEMPT_LIMITS)) * types.Constant(precedence)
    chosen = fn.reductions.sum(factors * (score == fn.reductions.max(score, axes=[0])), axes=[1])
    shape = math.max(1.0, math.min(size, math.floor(chosen * side + 0.5)))
    return _placed(size, shape, offset), shape


def _square(size, crop: Crop, offset):
    shorter = fn.reductions.min(size, axes=[0])
    side = math.max(1.0, math.floor(float(crop.image_size) * shorter / float(crop.eval_resize) + 0.5))
    shape = fn.stack(side, side)
    return math.floor((size - shape) * 0.5) if offset is None else _placed(size, shape, offset), shape


def _placed(size, shape, offset):
    return math.floor(offset * (size - shape + 1.0))


def _build(
    source,
    crop: Crop,
    train: bool,
    *,
    max_batch_size: int,
    num_threads: int,
    device: torch.device,
    resize_in_graph: bool,
):
    """A pipeline from the inputs of `_Run._feed` to (pictures or windows, uint8 HWC; last bytes of the file)."""
    on_gpu = device.type == "cuda"
    # The dynamic executor gives each batch memory of its own, so that it may be handed out. The static one, a few per
    # cent faster, reuses its memory: enough for windows that are resized before the next run.
    pipeline = Pipeline(
        max_batch_size,
        num_threads,
        (device.index or 0) if on_gpu else None,
        prefetch_queue_depth=_DEPTH,
        exec_dynamic=resize_in_graph,
    )
    with pipeline:
        inputs = fn.external_source(source, num_outputs=len(_inputs(crop, train, resize_in_graph)), batch=True)
        given = dict(zip(_inputs(crop, train, resize_in_graph), inputs, strict=True))
        encoded = fn.io.file.read(given["path"], dont_use_mmap=True)
        size = fn.peek_image_shape(encoded, adjust_orientation=False, dtype=types.FLOAT)[:2]
        if "factors" in given:
            start, shape = _random_resized(size, given["factors"], given["offset"])
        else:
            start, shape = _square(size, crop, given.get("offset"))
        pictures = fn.decoders.image_slice(
            encoded,
            start,
            shape,
            device="mixed" if on_gpu else "cpu",
            normalized_anchor=False,
            normalized_shape=False,
            axes=[0, 1],
            adjust_orientation=False,
        )
        if resize_in_graph:
            # DALI mirrors a region of interest whose start is right of its end; fn.flip would be another pass.
            turn = shape * given["mirror"] if train else 0.0 * shape
            pictures = fn.resize(
                pictures,
                size=[crop.image_size] * 2,
                roi_start=turn,
                roi_end=shape - turn,
                interp_type=types.INTERP_LINEAR,
                antialias=True,
            )
        pipeline.set_outputs(pictures, encoded[-_TAIL_BYTES:])
    pipeline.build()
    return pipeline


def _inputs(crop: Crop, train: bool, resize_in_graph: bool) -> list[str]:
    """Names of a pipeline's inputs: those alone that it uses, as DALI warns of others."""
    required = {
        "offset": train,
        "factors": train and crop.train_crop == "random_resized",
        "mirror": train and resize_in_graph,
    }
    return ["path", *(name for name, is_required in required.items() if is_required)]


class _Pending(NamedTuple):
    """A batch that DALI is working on."""

    indices: np.ndarray  # int64 [b]
    mirror: np.ndarray  # float32 [b, 2], (y, x); 1 is mirrored


class _Run:
    """A running pipeline, with its pending batches: their labels, and their files in case of an error."""

    def __init__(self, split: Split, crop: Crop, train: bool, *, resize_in_graph: bool, **build):
        self._split, self._crop, self._resize_in_graph = split, crop, resize_in_graph
        self._inputs = _inputs(crop, train, resize_in_graph)
        self._requests: Iterator[Request] = iter(())
        self._pending: deque[_Pending] = deque()
        self._odd_but_whole: set[str] = set()
        self._pipeline = _build(self._feed, crop, train, resize_in_graph=resize_in_graph, **build)

    def _feed(self):
        indices, u, *_ = next(self._requests)  # StopIteration ends the pipeline's epoch
        given: dict[str, Any] = {
            "path": [np.frombuffer(os.fsencode(self._split.files[i]), np.uint8) for i in indices],
            "mirror": np.zeros((len(indices), 2), np.float32),
        }
        if u is not None:
            given["mirror"][:, 1] = flip_draws(u) & self._crop.flip
            given["offset"] = offset_draws(u)
            if "factors" in self._inputs:
                given["factors"] = crop_factors(u, self._crop.min_area)
        self._pending.append(_Pending(indices, given["mirror"]))
        return [given[name] for name in self._inputs]

    def batches(self, requests: Iterator[Request]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        self._requests = requests
        self._pipeline.reset()
        while self._pipeline is not None:
            try:
                pictures, tails = self._pipeline.run()
            except StopIteration:
                return
            except RuntimeError as error:
                raise self._explained(error) from error
            indices, mirror = self._pending.popleft()
            self._check_tails(indices, tails)
            yield self._pictures(pictures, mirror), torch.from_numpy(self._split.labels[indices])

    def _pictures(self, pictures, mirror: np.ndarray) -> torch.Tensor:
        if self._resize_in_graph:
            return torch.from_dlpack(pictures.as_tensor())  # keeps DALI's memory alive; nothing is copied
        out = np.empty((len(mirror), self._crop.image_size, self._crop.image_size, 3), np.uint8)
        for i, window in enumerate(pictures):
            resize_into(out[i], np.asarray(window), mirrored=bool(mirror[i, 1]))
        return torch.from_numpy(out)

    def _check_tails(self, indices: np.ndarray, tails) -> None:
        """UserError for a picture without an end marker: libjpeg fills it with grey, and DALI accepts that."""
        for index, tail in zip(indices, np.asarray(tails.as_tensor()), strict=True):
            if not any(marker in tail.tobytes() for marker in _END_MARKERS):
                path = self._split.files[index]
                if path not in self._odd_but_whole:
                    if why := why_corrupt(path):
                        raise corrupt_error(path, why)
                    self._odd_but_whole.add(path)

    def _explained(self, error: RuntimeError) -> Exception:
        """The error for the first corrupt file among the pending ones, as DALI does not name it; else `error`."""
        for path, why in find_corrupt(self._split.files[i] for batch in self._pending for i in batch.indices):
            return corrupt_error(path, why)
        return error

    def is_idle(self) -> bool:
        """Whether `batches` may be called: neither closed nor left in the middle."""
        return self._pipeline is not None and not self._pending

    def close(self) -> None:
        self._pipeline = None  # the last reference: DALI's destructor joins its threads


class DaliReader:
    """See `make_reader`. num_workers: DALI's threads."""

    name = "dali"
    resize_in_graph = False  # on the CPU; tests set it, to check a GPU's graph without one

    def __init__(self, folder: ImageFolder, stream: TrainStream, crop: Crop, place: Place):
        self._folder, self._stream, self._crop, self._place = folder, stream, crop, place
        self._build: dict[str, Any] = {
            "num_threads": max(1, place.num_workers),
            "device": place.device,
            "resize_in_graph": self.resize_in_graph or place.device.type == "cuda",
        }
        self._train_run: _Run | None = None
        self._eval_run: _Run | None = None

    def train(self, first_step: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Endless local batches from global step `first_step` on. UserError names an unreadable file."""
        if self._train_run is not None:
            self._train_run.close()
        self._train_run = _Run(
            self._folder.train, self._crop, True, **self._build, max_batch_size=self._stream.batch_size_local
        )
        return self._train_run.batches(self._stream.requests(first_step))

    def evaluate(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """This rank's part of the validation set, in order, the last batch smaller."""
        if self._eval_run is None or not self._eval_run.is_idle():
            self._eval_run = _Run(
                self._folder.val, self._crop, False, **self._build, max_batch_size=self._place.eval_batch_size
            )
        return self._eval_run.batches(self._place.eval_requests(len(self._folder.val)))

    def close(self) -> None:
        """Stops DALI's threads and ends its iterators. Batches handed out stay valid."""
        for run in (self._train_run, self._eval_run):
            if run is not None:
                run.close()
        self._train_run = self._eval_run = None
