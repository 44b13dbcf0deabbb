"""The training step as CUDA graphs, one for each shape of its batches: one launch instead of thousands.

A replay reads the addresses of the capture. Weights, optimizer state, learning rate and loss scale stay at theirs; each
batch is copied to those of the captured one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from airank_fast.engine.step import TrainingStep
from airank_fast.job import Batch


class CapturedStep:
    """A TrainingStep of one rank that is captured when a shape comes for the second time, and replayed from then on.

    The first time it runs eagerly, which selects kernels. Graphs share their memory, as only one runs at a time.
    A batch's `shape_key()` has what selects kernels besides the shapes of its tensors. capture: see
    `capture_on_device`.
    """

    def __init__(self, step: TrainingStep, capture: Callable | None = None) -> None:
        self.step = step
        self._capture = capture or capture_on_device()
        self._seen: set[tuple] = set()
        self._captured: dict[tuple, tuple[list[Batch], Callable[[], Tensor]]] = {}

    def __call__(self, batches: list[Batch], learning_rate: float) -> Tensor:
        """As TrainingStep's; the returned losses are valid until the next step."""
        self.step.set_learning_rate(learning_rate)
        key = tuple(map(_shape, batches))
        if key not in self._seen:
            self._seen.add(key)
            return self.step.run(batches)
        if key not in self._captured:
            inputs = [_copy(batch) for batch in batches]
            self._captured[key] = inputs, self._capture(lambda: self.step.run(inputs))
        inputs, replay = self._captured[key]
        for batch, place in zip(batches, inputs, strict=True):
            for name, tensor in batch.tensors().items():
                getattr(place, name).copy_(tensor, non_blocking=True)
        return replay()


def capture_on_device() -> Callable[[Callable[[], Tensor]], Callable[[], Tensor]]:
    """A function that captures another one, without running it, and returns what replays it; for one CUDA device."""
    pool = torch.cuda.graph_pool_handle()

    def capture(function: Callable[[], Tensor]) -> Callable[[], Tensor]:
        graph = torch.cuda.CUDAGraph()
        # thread_local: readers' threads may allocate on the device during the capture.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            result = function()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay

    return capture


def _shape(batch: Batch) -> tuple:
    shapes = tuple((name, tuple(tensor.shape), tensor.dtype) for name, tensor in batch.tensors().items())
    return (*shapes, batch.shape_key())


def _copy(batch: Batch) -> Batch:
    """The batch with copies of its tensors."""
    copied = copy.copy(batch)
    for name, tensor in batch.tensors().items():
        setattr(copied, name, tensor.clone())
    return copied
