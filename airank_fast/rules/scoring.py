"""The result of a set of MLPerf runs, and the GP2BM score of two results.

Source: mlcommons/training_policies, training_rules.adoc (Benchmark Results, Reference Convergence Points), at the
commit that the GP2BM document names. docs/scoring.md states the decisions that the rules leave open.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from airank_fast import tasks
from airank_fast.record.events import dictionary, effective
from airank_fast.record.foreign.read import Run
from airank_fast.rules.mlperf import rcp
from airank_fast.rules.mlperf.result import same_start
from airank_fast.rules.mlperf.rules import ROUND
from airank_fast.rules.systems import UNSTATED, System, system_of


@dataclass(frozen=True)
class Benchmark:
    """What the rules fix for a benchmark: its runs, its target, and the minutes that count 1 in GP2BM's score."""

    name: str
    num_runs: int
    target: float
    reference_minutes: float
    unit: str  # of its epoch_num
    network: str  # by our name
    train_samples: int | None  # of its data set


def _benchmark(name: str, reference_minutes: float) -> Benchmark:
    task = tasks.find(name)
    target = task.headline_target("mlperf", ROUND)
    unit, network, size = task.counted_in, task.network, task.train_samples
    return Benchmark(name, rcp.NUM_RUNS[name], target, reference_minutes, unit, network, size)


BENCHMARKS = {"resnet": _benchmark("resnet", 7.19), "bert": _benchmark("bert", 9.05)}


@dataclass(frozen=True)
class RunResult:
    """The result of one run; `converged_at` is its last evaluation, in the benchmark's unit.

    Times are in ms, as in the log. `doubts` are reasons why the run cannot be submitted.
    """

    name: str
    start_ms: int
    minutes: float | None  # None: it did not converge
    converged_at: float | None = None
    global_batch_size: int | None = None
    world_size: int | None = None
    seed: int | None = None
    system: System = UNSTATED
    division: str | None = None
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReferencePoint:
    """Reference convergence at a batch size: the olympic mean of the reference's runs, and the accepted minimum."""

    mean: float
    minimum: float


@dataclass(frozen=True)
class SetResult:
    """The result of a benchmark: `minutes`, or None without a result; `problems` are the reasons and other faults.

    `chosen` are the runs that count. `windows` are the results of all windows of consecutive runs, inf for an invalid
    one. `minutes` is `olympic_minutes` x `scaling`.
    """

    benchmark: Benchmark
    runs: list[RunResult]
    chosen: list[RunResult]
    minutes: float | None = None
    olympic_minutes: float | None = None
    converged_at: float | None = None  # olympic mean
    scaling: float = 1.0
    windows: list[float] = field(default_factory=list)
    reference: ReferencePoint | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def num_missing(self) -> int:
        """The number of missing runs."""
        return max(0, self.benchmark.num_runs - len(self.runs))

    @property
    def valid(self) -> bool:
        """Whether the set can be submitted."""
        return self.minutes is not None and not self.problems


def benchmark_of(name: object) -> Benchmark | None:
    """The MLPerf benchmark of a run's benchmark (`resnet50`, `bert_large`); None if it has no score."""
    task = tasks.find(name)
    return BENCHMARKS.get(task.names.get("mlperf")) if task else None


def run_result(run: Run, own_target: bool = False) -> RunResult:
    """The result of a run, which converged if it ended as a success and its last evaluation reached the target.

    The target is MLPerf's, or with `own_target` the run's own: a rehearsal, whose network and data may be smaller.
    """
    config, benchmark = run.first("run_config"), benchmark_of(run.summary["benchmark"])
    target = config.get("target") if own_target and config.get("target") is not None else benchmark.target
    events = effective(run.events)
    start = next((event["t"] for event in events if event["kind"] == "run_start"), None)
    stop = next((event for event in events if event["kind"] == "run_stop"), {})
    evaluations = [event for event in events if event["kind"] == "eval_stop" and event["t"] <= stop.get("t", math.inf)]
    last = evaluations[-1] if evaluations else {}
    success = stop.get("status") == "success" and start is not None
    reached = last.get("accuracy") is not None and last["accuracy"] >= target
    seed, batch = config.get("seed"), config.get("global_batch_size") or run.first("data").get("global_batch_size")
    start_ms = round((start if start is not None else run.events[0]["t"]) * 1000)
    doubts = [] if run.summary["comparable"] else ["was resumed: its clock is not comparable"]
    doubts += [] if own_target else _other_task(run, benchmark)
    if success and benchmark.unit == "samples" and last and last.get("samples") is None:
        doubts.append("does not state after how many samples it converged: it cannot be compared with the reference")
    if success and not reached:
        doubts.append(f"ends as a success below the target {target:g}: it counts as not converged")
    return RunResult(
        name=str(run.path),
        start_ms=start_ms,
        minutes=(round(stop["t"] * 1000) - start_ms) / 60000 if success and reached else None,
        converged_at=last.get("samples" if benchmark.unit == "samples" else "epoch"),
        global_batch_size=batch if type(batch) is int else None,
        world_size=config.get("world_size"),
        seed=seed if type(seed) is int else None,
        system=system_of(run),
        division=dictionary(config.get("submission")).get("division"),
        doubts=tuple(doubts),
    )


def _other_task(run: Run, benchmark: Benchmark) -> list[str]:
    """How a run is smaller than the benchmark, as far as the run states it."""
    doubts, name = [], run.summary["benchmark"]
    task, data = tasks.find(name), run.first("data")
    is_open_division = dictionary(run.first("run_config").get("submission")).get("division") == "open"
    if not is_open_division and not task.is_spelled(name):
        doubts.append(f"is of {name}, the benchmark of {benchmark.network}")
    samples = data.get("train_samples") or run.first("run_config").get("train_samples")
    if benchmark.train_samples and isinstance(samples, int) and samples < benchmark.train_samples:
        doubts.append(f"trains on {samples:,} samples, the benchmark has {benchmark.train_samples:,}")
    if not task.has_classes(data.get("classes")):
        doubts.append(f"trains on {data['classes']} classes, the benchmark has {task.classes}")
    return doubts


def is_open(runs: Iterable[RunResult]) -> bool:
    """Whether a run of the set is of the open division."""
    return any(run.division == "open" for run in runs)


def reference_point(name: str, runs: Iterable[RunResult]) -> ReferencePoint | None:
    """mlperf-logging's point for the runs' batch size; None if it is not installed or the batch sizes differ.

    None for the open division, whose rules have no reference points.
    """
    runs = list(runs)
    if is_open(runs):
        return None
    batches = {run.global_batch_size for run in runs} - {None}
    found = rcp.point(name, batches.pop()) if len(batches) == 1 else None
    return ReferencePoint(found.mean, found.minimum) if found else None


def olympic_mean(values: Sequence[float | None]) -> float | None:
    """The mean without the best and the worst. None (not converged) is the worst; two of them give None."""
    ordered = sorted(math.inf if value is None else value for value in values)[1:-1]
    mean = sum(ordered) / len(ordered) if ordered else None
    return None if mean is None or math.isinf(mean) else mean


def set_result(benchmark: Benchmark, runs: Iterable[RunResult], reference: ReferencePoint | None = None) -> SetResult:
    """The result of the runs of a benchmark; with more runs than required, the result of the median window.

    Of an even number of windows the slower one in the middle counts, so that the choice gives no advantage.
    """
    runs = sorted(runs, key=lambda run: (run.start_ms, run.name))
    count = benchmark.num_runs
    problems = _problems(benchmark, runs)
    if len(runs) < count:
        return SetResult(benchmark, runs, runs, problems=[f"{count - len(runs)} of {count} runs missing", *problems])
    windows = [runs[first : first + count] for first in range(len(runs) - count + 1)]
    results = [olympic_mean([run.minutes for run in window]) for window in windows]
    scores = [math.inf if minutes is None else minutes for minutes in results]
    median = sorted(range(len(windows)), key=lambda index: (scores[index], index))[len(windows) // 2]
    chosen, minutes = windows[median], results[median]
    if minutes is None:
        num_failed = sum(run.minutes is None for run in chosen)
        problems.insert(0, f"{num_failed} of {count} runs did not converge, at most 1 may")
        return SetResult(benchmark, runs, chosen, windows=scores, problems=problems)
    at, scaling = _convergence(chosen), 1.0
    if reference is not None and at is not None:
        if not accepts(reference, at):
            problems.append(
                f"converges after {at:g} {benchmark.unit}, sooner than the reference's minimum {reference.minimum:g}"
            )
        scaling = max(1.0, reference.mean / at)
    return SetResult(benchmark, runs, chosen, minutes * scaling, minutes, at, scaling, scores, reference, problems)


def _convergence(runs: list[RunResult]) -> float | None:
    """The olympic mean of `converged_at`; None if a run that converged does not state it."""
    moments = [run.converged_at for run in runs if run.minutes is not None]
    if any(moment is None for moment in moments):
        return None
    return olympic_mean(moments + [None] * (len(runs) - len(moments)))


def accepts(reference: ReferencePoint, converged_at: float) -> bool:
    """Whether a set with this mean converges no sooner than the reference's minimum."""
    return converged_at >= reference.minimum


def _problems(benchmark: Benchmark, runs: list[RunResult]) -> list[str]:
    """The reasons why the runs are no valid set."""
    problems = [f"{run.name}: {doubt}" for run in runs for doubt in run.doubts]
    for name, what in (("global_batch_size", "global batch sizes"), ("world_size", "numbers of accelerators")):
        values = sorted({getattr(run, name) for run in runs} - {None})
        if len(values) > 1:
            problems.append(f"{len(values)} {what} in one set: {', '.join(map(str, values))}")
    systems = sorted({str(run.system) for run in runs})
    if len(systems) > 1:
        problems.append(f"{len(systems)} systems in one set: {', '.join(systems)}")
    for places in same_start([run.start_ms for run in runs]):
        names = " and ".join(runs[place].name for place in places)
        problems.append(f"{names} start at the same millisecond: {runs[places[0]].start_ms}")
    seeded = sorted((run for run in runs if run.seed is not None), key=lambda run: run.seed)
    for seed, same in groupby(seeded, key=lambda run: run.seed):
        names = [run.name for run in same]
        if len(names) > 1:
            problems.append(f"{' and '.join(names)} have the same seed: {seed}")
    return problems


def gp2bm_score(r_minutes: float, b_minutes: float) -> float:
    """GP2BM's score of the results of ResNet and BERT; higher is better."""
    return BENCHMARKS["resnet"].reference_minutes / r_minutes + BENCHMARKS["bert"].reference_minutes / b_minutes


def required_minutes(benchmark: Benchmark, score: float, other: Benchmark, other_minutes: float) -> float:
    """The result of `benchmark` that gives a score, given the other's result; inf if the other reaches it alone."""
    rest = score - other.reference_minutes / other_minutes
    return benchmark.reference_minutes / rest if rest > 0 else math.inf
