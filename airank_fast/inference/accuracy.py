"""Judges the predictions of an engine: against the labels, and against those of torch in float32.

    reference = torch_reference(job, networks, samples, device)
    event = judge("server", predictions, reference, request.factor, samples)
    event["passed"]            # correct / counted is at least 0.99 of the reference's, by whole numbers

An engine must reach a share of the float32 accuracy: of torch on the same weights, or, for the weights that MLPerf
publishes, of the number in its rules.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from airank_fast.inference.engine import open_engine
from airank_fast.inference.samples import Samples
from airank_fast.job import Illustrated, Job, Networks
from airank_fast.rules.inference_profiles import Bound
from airank_fast.tasks import Task

SAME_WEIGHTS = "torch fp32 on the same weights"
NUM_SHOWN = 8  # predictions of an engine that is not accurate enough
CHUNK = 64  # samples in memory at a time


@dataclass
class Reference:
    """The float32 predictions and their quality. stated: the bound of a profile, where that is what must be reached.

    whole_s, core_s: seconds of the pass with and without the reading of samples.
    """

    outputs: Mapping[int, Any]
    quality: dict[str, float]
    counts: dict[str, int] = field(default_factory=dict)
    stated: Bound | None = None
    whole_s: float = 0.0
    core_s: float = 0.0

    def rates(self) -> dict[str, float]:
        """Samples a second of the pass, under FlagPerf's names of validation."""
        seconds = {"p_val_whole": self.whole_s, "p_val_core": self.core_s}
        return {name: len(self.outputs) / took for name, took in seconds.items() if took > 0}

    def event(self) -> dict[str, Any]:
        """The fields of the `reference` event."""
        if self.stated is not None:
            return {"quality": {self.stated.metric: self.stated.reference}, "source": self.stated.source}
        return {"quality": self.quality, **self.counts, "source": SAME_WEIGHTS}


@dataclass(frozen=True)
class Predictions:
    """What an accuracy run of an engine gave: the quality by the job's meter, and each sample's response and output.

    outputs: None where they are objects of different sizes, as the boxes of a detector. results: 1 for each sample that
    is right, in their order, None where the metric does not say that.
    """

    quality: dict[str, float]
    counts: dict[str, int]
    responses: Mapping[int, bytes]
    outputs: Mapping[int, Any] | None
    results: list[int] | None = None

    @staticmethod
    def read(path: Path, quality: Mapping[str, float], counts: Mapping[str, int]) -> Predictions:
        """From the file of an accuracy run, as `measuring.save_predictions` writes it."""
        with np.load(path, allow_pickle=False) as file:
            indices, ends, values = file["index"].tolist(), file["offset"].tolist(), file["response"]
            stacked, right = file.get("output"), file.get("result")
        spans = zip(indices, ends[:-1], ends[1:], strict=True)
        responses = {index: np.ascontiguousarray(values[first:end], "<f4").tobytes() for index, first, end in spans}
        outputs = None if stacked is None else dict(zip(indices, map(torch.from_numpy, stacked), strict=True))
        return Predictions(dict(quality), dict(counts), responses, outputs, None if right is None else right.tolist())


def torch_reference(
    job: Job,
    networks: Networks,
    samples: Samples,
    device: torch.device,
    leave_if_requested: Callable[[], None] = lambda: None,
) -> Reference:
    """Torch's own predictions in float32 and their quality.

    On a CPU the networks run as training evaluates them, without anything that an engine does to them.
    """
    outputs: dict[int, Any] = {}
    core_s, begin = 0.0, time.perf_counter()
    with torch.inference_mode(), _float32(job, networks, device) as predict:
        for indices in loaded(samples, range(len(samples))):
            leave_if_requested()
            started = time.perf_counter()
            found = predict(samples.batch(indices))
            core_s += time.perf_counter() - started
            outputs.update(zip(indices, samples.split(found, indices), strict=True))
    whole_s = time.perf_counter() - begin
    quality, counts = samples.score(outputs)
    return Reference(outputs, quality, counts, whole_s=whole_s, core_s=core_s)


@contextmanager
def _float32(job: Job, networks: Networks, device: torch.device) -> Iterator[Callable[[Any], Any]]:
    if device.type == "cpu":
        yield lambda batch: job.predict(networks, batch)
        return
    threads = torch.get_num_threads()
    engine = open_engine(
        "torch", job, networks, device=device, precision="fp32", threads=threads, max_batch=CHUNK, calibration=None
    )
    yield engine.run


def loaded(samples: Samples, indices: Sequence[int], size: int = CHUNK) -> Iterator[list[int]]:
    """The indices in chunks, each of which is in memory while it is handled."""
    for first in range(0, len(indices), size):
        chunk = list(indices[first : first + size])
        samples.load(chunk)
        try:
            yield chunk
        finally:
            samples.unload(chunk)


def judge(
    scenario: str, predictions: Predictions, reference: Reference, factor: float, samples: Samples
) -> dict[str, Any]:
    """The fields of the `accuracy` event, without its files. UserError where a sample has no prediction.

    factor: of the reference, which must be reached.
    """
    task, quality, counts = samples.job.task, predictions.quality, predictions.counts
    least, passed = gate(task, quality, counts, reference, factor)
    agreement, largest_error = compare(predictions, reference, samples)
    return {
        "scenario": scenario,
        "quality": quality,
        **counts,
        "required": least,
        "factor": factor,
        "reference": reference_value(task, reference),
        "passed": passed,
        "agreement": agreement,
        "largest_error": largest_error,
        **({} if predictions.results is None else {"sample_results": predictions.results}),
    }


def reference_value(task: Task, reference: Reference) -> float:
    """The headline metric of the reference, as its event states it."""
    stated = reference.event()["quality"]
    return stated.get(task.headline.name, next(iter(stated.values())))


def gate(
    task: Task, quality: Mapping[str, float], counts: Mapping[str, int], reference: Reference, factor: float
) -> tuple[float, bool]:
    """(the value that is required of the headline metric, whether all metrics have what is required).

    A share of samples is compared by counts, without rounding: 0.99 x 352 of 355 requires 349 (348.48) right ones.
    """
    metric, stated = task.headline, reference.stated
    if stated is not None:
        if counts:
            return stated.required, counts["correct"] >= stated.least_correct(counts["counted"])
        return stated.required, stated.is_reached(quality[metric.name])
    if counts and reference.counts:
        share = Fraction(str(factor)) * Fraction(reference.counts["correct"], reference.counts["counted"])
        return _at_most(share), Fraction(counts["correct"], counts["counted"]) >= share
    required = {m.name: _required(reference.quality[m.name], factor, m.direction) for m in task.metrics}
    passed = all(m.reaches(quality[m.name], required[m.name]) for m in task.metrics)
    return required[metric.name], passed


def _at_most(share: Fraction) -> float:
    """The share as a float that, as it is written, is not above it: who reads it must not require one more."""
    value = float(share)
    while Fraction(repr(value)) > share:
        value = math.nextafter(value, 0.0)
    return value


def _required(value: float, factor: float, direction: str) -> float:
    """What a factor of a reference requires of a metric; of one that should be small, 1 % more than the reference."""
    return value * factor if direction == "up" else value * (2 - factor)


def compare(predictions: Predictions, reference: Reference, samples: Samples) -> tuple[float | None, float | None]:
    """(share of the samples with the reference's prediction, largest difference of an output; None without outputs)."""
    if predictions.outputs is not None:
        return samples.agreement(predictions.outputs, reference.outputs)
    same = sum(samples.response(output) == predictions.responses.get(i) for i, output in reference.outputs.items())
    return same / len(reference.outputs), None


def shown(predictions: Predictions, samples: Samples) -> list[str]:
    """The first predictions with their names, which show what is wrong: labels shifted by one, one class for all."""
    job = samples.job
    if predictions.outputs is None or not isinstance(job, Illustrated):
        return []
    lines = []
    for indices in loaded(samples, sorted(predictions.outputs)[:NUM_SHOWN]):
        for index in indices:
            examples = job.examples(predictions.outputs[index], samples.batch([index]))
            lines += [
                f"sample {index}: predicted {one.predicted}, is {one.truth}"
                for one in examples
                if one.predicted or one.truth
            ]
    return lines
