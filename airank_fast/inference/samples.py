"""The evaluation set of a job, sample by sample, as a load generator requests it.

Preprocessing, post-processing and the meter are those of training's evaluation, so that both give the same quality.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from airank_fast.data.prefetch import Batch
from airank_fast.data.text.tokens import PackedBatch
from airank_fast.engine.distributed import World
from airank_fast.errors import UserError, require
from airank_fast.inference.loading import load_job
from airank_fast.job import Job, Meter, Networks, Sampled
from airank_fast.quality.accuracy import Accuracy

__all__ = ["ALONE", "CPU", "Samples", "load_job", "open_data", "read", "require_one_pass"]

CPU = torch.device("cpu")
ALONE = World(0, 1, 0, 1, CPU)
"""The only rank, on the CPU: samples are in its memory, and an engine moves them to its device."""


def require_one_pass(job: Job, networks: Networks | None = None) -> None:
    """UserError for a task whose prediction is more than one pass of one network, such as a beam search."""
    what = "a task whose prediction is one pass of one network"
    several = networks is not None and len(networks) > 1
    require(isinstance(job, Sampled) and not several, "infer", what, job.benchmark)


def open_data(job: Job) -> dict[str, Any]:
    """Index the job's data set for the CPU; returns the fields of a `data` event."""
    return job.open_data(ALONE, CPU, torch.float32)


def read(job: Job, indices: Sequence[int]) -> list[Batch]:
    """The evaluation samples with these numbers, one a batch, in this order. The job's data must be open."""
    assert isinstance(job, Sampled)
    batches: list[Any] = list(job.eval_samples(list(indices)))
    assert len(batches) == len(indices), f"{len(indices)} samples requested, {len(batches)} read"
    return batches


class Samples:
    """The evaluation set of a job; a sample is in memory, float32 on the CPU, from `load` to `unload`.

    What a meter reads of a sample (its label) is kept for `score`, once it has been loaded. `facts` are the fields of
    the data set's `data` event: source, checksum, eval_samples.

    Raises:
        UserError: a task whose prediction is more than one pass; a data set that cannot be read.
    """

    def __init__(self, job: Job) -> None:
        require_one_pass(job)
        self.job = job
        self.facts = open_data(job)
        self._loaded: dict[int, Batch] = {}
        self._truths: dict[int, Batch] = {}
        self._is_classifier = isinstance(job.meter(), Accuracy)

    def __len__(self) -> int:
        return self.facts["eval_samples"]

    def load(self, indices: Sequence[int]) -> None:
        """Read those of the samples that are not in memory. UserError for a file that cannot be read."""
        missing = sorted(set(indices) - self._loaded.keys())
        if missing:
            last = len(self) - 1
            require(missing[0] >= 0 and missing[-1] <= last, "samples", f"numbered 0 to {last}", missing[-1])
            self._loaded |= zip(missing, read(self.job, missing), strict=True)

    def unload(self, indices: Sequence[int]) -> None:
        """Free samples, apart from what a meter reads of them."""
        for index in indices:
            if index in self._loaded:
                self._truths[index] = _truth(self._loaded.pop(index))

    def batch(self, indices: Sequence[int]) -> Batch:
        """Loaded samples as one batch; `split` takes its outputs apart. One may come several times.

        They are in the order of `indices`; sequences in that of their lengths, where neighbours cost least.

        Raises:
            UserError: samples of different sizes, which no batch can have; a sample that is not loaded.
        """
        parts = [self._loaded_one(indices[place]) for place in self._order(indices)]
        if len(parts) == 1:
            return parts[0]
        try:
            return type(parts[0]).merged(parts)
        except ValueError as error:
            raise UserError(f"--max-batch: must be 1 for {self.job.benchmark} on this data set ({error})") from None

    def lengths(self) -> Sequence[int] | None:
        """Tokens of every sample, for sorting; 0 of one that was never loaded. None where samples have no length."""
        known = self._loaded or self._truths
        if not known:
            self.load([0])
        if not isinstance(next(iter((self._loaded or self._truths).values())), PackedBatch):
            return None
        return [self._length(index) for index in range(len(self))]

    def split(self, outputs: Any, indices: Sequence[int]) -> list[Any]:
        """The outputs of `batch(indices)` by sample, each as of a batch of that sample alone.

        ValueError: another number of rows than the samples have.
        """
        order = self._order(indices)
        counts = [self._any(indices[place]).num_outputs for place in order]
        by_sample: list[Any] = [None] * len(order)
        for place, part in zip(order, _split(outputs, counts), strict=True):
            by_sample[place] = part
        return by_sample

    def response(self, output: Any) -> bytes:
        """A sample's output for LoadGen's accuracy log, float32 and little endian.

        Of a classifier the label, of a masked language model the token at each mask, else all numbers.
        """
        if self._is_classifier:
            output = output.argmax(1)
        return b"".join(np.ascontiguousarray(each, "<f4").tobytes() for each in _arrays(output))

    def score(self, outputs: Mapping[int, Any]) -> tuple[dict[str, float], dict[str, int]]:
        """({metric: value}, correct and counted where the metric is a share) by the job's meter.

        outputs: of each sample of the set by its number. UserError where one is missing.
        """
        meter, values = self._measured(outputs)
        return values, dict(meter.counts)

    def _measured(self, outputs: Mapping[int, Any]) -> tuple[Meter, dict[str, float]]:
        self._require_all(outputs)
        meter = self.job.meter()
        for index in range(len(self)):
            meter.update(outputs[index], self._truths.get(index) or self._loaded[index])
        return meter, meter.values(ALONE)

    def results(self, outputs: Mapping[int, Any]) -> list[int] | None:
        """1 for each sample that is right and 0 for the others, in their order.

        None where the metric is not a share of samples: of masked tokens, an area under a curve. A meter that judges
        samples by others as well, as windows of one text, has `results`.
        """
        if hasattr(self.job.meter(), "results"):
            whole, _ = self._measured(outputs)
            known: list[int] | None = getattr(whole, "results", None)
            return known
        self._require_all(outputs)
        found: list[int] = []
        for index in range(len(self)):
            meter = self.job.meter()
            meter.update(outputs[index], self._truths.get(index) or self._loaded[index])
            if not found and not self._is_share(meter):
                return None
            meter.values(ALONE)
            if meter.counts.get("counted") != 1:
                return None
            found.append(meter.counts["correct"])
        return found

    def agreement(self, outputs: Mapping[int, Any], reference: Mapping[int, Any]) -> tuple[float, float]:
        """(the share of samples with the same `response`, the largest difference of a number in the outputs).

        Outputs of different shapes, as other numbers of objects found, have no difference: inf.
        """
        require(outputs.keys() == reference.keys() and outputs, "reference", "of the same samples", len(reference))
        same, largest = 0, 0.0
        for index, output in outputs.items():
            theirs = reference[index]
            same += self.response(output) == self.response(theirs)
            largest = max(largest, _difference(_arrays(output), _arrays(theirs)))
        return same / len(outputs), largest

    def close(self) -> None:
        """Stop readers."""
        self.job.close()

    def _is_share(self, meter: Any) -> bool:
        """Whether the meter counts samples one by one; some meters need all at once."""
        try:
            meter.values(ALONE)
        except UserError:
            return False
        return bool(meter.counts)

    def _require_all(self, outputs: Mapping[int, Any]) -> None:
        missing = [index for index in range(len(self)) if index not in outputs]
        if missing:
            raise UserError(
                f"accuracy: must have the output of each of {len(self)} samples, "
                f"got none of {len(missing)}, the first of them sample {missing[0]}"
            )
        unknown = [index for index in range(len(self)) if index not in self._truths and index not in self._loaded]
        for index, batch in zip(unknown, read(self.job, unknown) if unknown else (), strict=True):
            self._truths[index] = _truth(batch)

    def _loaded_one(self, index: int) -> Batch:
        require(index in self._loaded, f"sample {index}", "loaded before it is requested", "unloaded")
        return self._loaded[index]

    def _any(self, index: int) -> Batch:
        return self._loaded.get(index) or self._truths[index]

    def _length(self, index: int) -> int:
        known = self._loaded.get(index) or self._truths.get(index)
        return sum(known.lengths) if isinstance(known, PackedBatch) else 0

    def _order(self, indices: Sequence[int]) -> list[int]:
        """Places of `indices` in the order in which a batch has them."""
        places = list(range(len(indices)))
        return sorted(places, key=lambda place: self._length(indices[place])) if self._has_lengths(indices) else places

    def _has_lengths(self, indices: Sequence[int]) -> bool:
        return bool(indices) and isinstance(self._any(indices[0]), PackedBatch)


def _truth(batch: Batch) -> Batch:
    """What a meter reads of a sample. Other tensors are copies, as they may be parts of one with the inputs."""
    kept = copy.copy(batch)
    for name, tensor in batch.tensors().items():
        setattr(kept, name, tensor.new_empty(0) if name in batch.INPUTS else tensor.clone())
    return kept


def _split(outputs: Any, counts: Sequence[int]) -> list[Any]:
    """Outputs by sample, which has so many rows of each tensor or entries of each list."""
    if isinstance(outputs, list):
        ends = np.cumsum(counts).tolist()
        _require_rows(len(outputs), sum(counts))
        return [outputs[end - count : end] for count, end in zip(counts, ends, strict=True)]
    if isinstance(outputs, tuple):
        parts = zip(*(_split(each, counts) for each in outputs), strict=True)
        return [type(outputs)(*part) if hasattr(outputs, "_fields") else part for part in parts]
    _require_rows(len(outputs), sum(counts))
    return list(outputs.split(list(counts)))


def _require_rows(got: int, required: int) -> None:
    if got != required:
        raise ValueError(f"outputs: must have {required} rows for the samples of their batch, got {got}")


def _arrays(output: Any) -> list[np.ndarray]:
    """The numbers of an output: tensors, arrays, and what is inside tuples and lists, in their order."""
    if isinstance(output, Tensor):
        return [output.detach().float().cpu().numpy()]
    if isinstance(output, np.ndarray):
        return [output]
    if isinstance(output, tuple | list):
        return [array for each in output if each is not None for array in _arrays(each)]
    if isinstance(output, int | float):
        return [np.array([output])]
    raise TypeError(f"outputs: must be tensors, arrays, and tuples and lists of them, got {type(output).__name__}")


def _difference(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    if [each.shape for each in a] != [each.shape for each in b]:
        return float("inf")
    return max(
        (float(np.abs(x.astype(np.float64) - y).max()) for x, y in zip(a, b, strict=True) if x.size), default=0.0
    )
