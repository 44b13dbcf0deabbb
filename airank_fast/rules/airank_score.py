"""AI-Rank's figures of a set of runs: Time2train, throughput, accuracy, 加速比, coverage, and a composite score.

Source: docs/software/train.md of AI-Rank (2020-12-01), "评价指标"; the speed-up by precision from its first draft.
AI-Rank announces a composite score and does not define it; docs/scoring.md defines the one computed here.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from airank_fast import tasks
from airank_fast.record.events import dictionary
from airank_fast.record.foreign.read import Run
from airank_fast.rules.systems import UNSTATED, System, system_of
from airank_fast.tasks import Target, Task

AnyRun = TypeVar("AnyRun")  # has a path
PROFILES = ("2020-12", "2021-05")
MODELS = {  # of each profile
    profile: tuple(task.names["airank"] for task in tasks.all_tasks() if task.is_listed("airank", profile))
    for profile in PROFILES
}
OPERATING_SYSTEMS = ("Linux", "Windows")  # prescribed by AI-Rank
AMP = ("bf16", "fp16", "amp")
FP32 = "fp32"
# Time2train (s) that counts 1 in the composite score, by model and cards: NVIDIA's PyTorch ResNet-50 on
# V100-SXM2-16GB in AI-Rank's result_v0.1, as `convert` reads its logs (docs/scoring.md).
REFERENCES = {("resnet50", 1): 126731.680, ("resnet50", 8): 17468.738, ("resnet50", 32): 5128.033}


@dataclass(frozen=True)
class Weights:
    """Weights of the parts of the composite score; each exponent is a weight / the sum of the weights."""

    performance: float = 0.4
    coverage: float = 0.4
    operating_systems: float = 0.2


@dataclass(frozen=True)
class Row:
    """One configuration of one model; of several runs the one with the median Time2train, the slower of two."""

    model: str
    operating_system: str | None
    precision: str | None
    num_cards: int | None
    source: str
    num_runs: int
    num_reached: int
    time2train: float | None  # s; None: the target was not reached
    throughput: float | None  # avg_ips, samples/s
    accuracy: float | None  # the best, in the unit of the task's headline metric
    is_task: bool  # whether it counts as coverage and performance
    card_speedup: float | None = None  # 加速比: T1 / TN
    card_efficiency: float | None = None  # 加速效率: T1 / TN / N
    accuracy_format: str = ".2%"
    hardware: System = UNSTATED


@dataclass(frozen=True)
class AmpSpeedup:
    """加速比 by precision: throughput in mixed precision over that in fp32 with the same cards."""

    model: str
    operating_system: str | None
    num_cards: int
    speedup: float
    efficiency: float | None  # speedup / the ratio of the peak rates; None without the ratio


@dataclass(frozen=True)
class Composite:
    """The parts and the score; a part that cannot be computed is None, and then so is the score."""

    performance: float | None  # geometric mean of reference / Time2train
    coverage: float
    operating_systems: float | None
    score: float | None
    compared: list[str] = field(default_factory=list)
    without_reference: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class AIRankResult:
    """The rows, the speed-ups by precision, the models that reached their target, and the composite score."""

    rows: list[Row]
    amp: list[AmpSpeedup]
    models: list[str]  # of the profile's, that reached their target
    num_models: int
    operating_systems: list[str]  # on which one did
    composite: Composite


def airank_result(
    runs: Iterable[Run],
    profile: str = "2020-12",
    weights: Weights = Weights(),
    references: dict[tuple[str, int], float] | None = None,
    amp_peak_ratio: float | None = None,
    own_targets: bool = False,
) -> AIRankResult:
    """The figures of all runs. `amp_peak_ratio` is the hardware's peak rate in mixed precision / that in fp32.

    `own_targets` marks a rehearsal: smaller tasks count like AI-Rank's, and only `references` are compared.
    """
    rows = _with_speedups(_rows(runs, profile, own_targets))
    reached = [row for row in rows if row.time2train is not None and row.is_task]
    models = sorted({name for row in reached if (name := model_of(row.model)) in MODELS[profile]})
    systems = sorted({row.operating_system for row in reached if row.operating_system})
    references = {**({} if own_targets else REFERENCES), **(references or {})}
    composite = _composite(rows, models, systems, len(MODELS[profile]), references, weights)
    return AIRankResult(rows, _amp(rows, amp_peak_ratio), models, len(MODELS[profile]), systems, composite)


def model_of(benchmark: object) -> str | None:
    """AI-Rank's model name of a run's benchmark: bert_large is BERT, mask_rcnn is MaskRCNN."""
    task = tasks.find(benchmark)
    return task.names.get("airank") if task else None


def operating_system(run: Run) -> str | None:
    """Linux, Windows or another name, from the system that the run records."""
    text = {**dictionary(run.first("run_config").get("system")), **run.first("system")}.get("operating_system")
    if not isinstance(text, str) or text == "unknown":
        return None
    if "windows" in text.lower():
        return "Windows"
    linux = ("linux", "ubuntu", "debian", "centos", "red hat", "fedora", "suse", "kylin", "openeuler", "anolis")
    return "Linux" if any(name in text.lower() for name in linux) else text


def _own_name(benchmark: str) -> str:
    """The task's name for any spelling of a model; a smaller network keeps its own name."""
    task = tasks.find(benchmark)
    return task.name if task and not tasks.is_smaller(benchmark) else benchmark


def required(task: Task, profile: str) -> Target | None:
    """The target of a task in a profile; if its row is blank, the target of the last document."""
    return task.target("airank", profile) or task.target("airank", PROFILES[-1])


def is_task(run: Run, profile: str) -> bool:
    """Whether a run is of a task of the profile: its network, target and data set, as far as the run states them."""
    config, target = run.first("run_config"), run.summary["target"]
    task = tasks.of(config)
    if task is None or not task.is_listed("airank", profile) or tasks.is_smaller(config.get("benchmark")):
        return False
    least = required(task, profile)
    stated = tasks.target_of_facts(config.get("task")) or {task.headline.name: target}
    if least and target is not None:
        # A log of another program states its headline alone.
        compared = least.values if "task" in config else least.values.keys() & stated.keys()
        if not task.reached(stated, {name: least.values[name] for name in compared}):
            return False
    if not task.has_classes(run.first("data").get("classes")):
        return False
    samples = _train_samples(run, task)
    return samples is None or samples >= (task.least_samples or task.train_samples or 0)


def _train_samples(run: Run, task: Task) -> int | None:
    """The size of the run's data set; None where the log does not state it."""
    data, config = run.first("data"), run.first("run_config")
    samples = data.get("train_samples") or config.get("train_samples") or config.get("samples_per_epoch")
    if run.format == "mlperf" and task.counted_in == "samples":
        return None  # may be the samples to converge
    return samples if type(samples) is int else None


def _rows(runs: Iterable[Run], profile: str, own_targets: bool) -> list[Row]:
    groups = defaultdict(list)
    for run in runs:
        summary = run.summary
        precision = "amp" if summary["precision"] in AMP else summary["precision"]
        counts = own_targets or is_task(run, profile)
        key = summary["benchmark"] or "unknown", operating_system(run), precision, summary["world_size"], counts
        groups[(*key, system_of(run))].append(run)
    rows = []
    for (model, system, precision, num_cards, counts, hardware), group in groups.items():
        run = middle(group, _seconds)
        time2train, best = _seconds(run), run.summary["best_accuracy"]
        num_reached = sum(math.isfinite(_seconds(run)) for run in group)
        task = tasks.of(run.first("run_config"))
        rows.append(
            Row(
                model,
                system,
                precision,
                num_cards,
                str(run.path),
                len(group),
                num_reached,
                time2train if math.isfinite(time2train) else None,
                run.summary["avg_ips"],
                best,
                counts,
                accuracy_format=task.headline.format if task else ".2%",
                hardware=hardware,
            )
        )
    return sorted(
        rows,
        key=lambda row: (
            row.model,
            str(row.operating_system),
            str(row.precision),
            row.num_cards or 0,
            row.hardware.order,
        ),
    )


def middle(runs: Iterable[AnyRun], seconds: Callable[[AnyRun], float]) -> AnyRun:
    """The run that represents several of one configuration: the one with the median time, of two the slower.

    The time of a run that did not reach its target is inf.
    """
    ordered = sorted(runs, key=lambda run: (seconds(run), str(run.path)))
    return ordered[len(ordered) // 2]


def _seconds(run: Run) -> float:
    """Time2train; inf if the target was not reached or the run was resumed."""
    seconds = run.summary["time2train"]
    return math.inf if seconds is None or not run.summary["comparable"] else seconds


def _same(row: Row) -> tuple:
    """The key that two rows must share for their times to be comparable."""
    hardware = (
        row.hardware.organization,
        row.hardware.accelerator,
    )  # not the name: it often includes the number of cards
    return row.model, row.operating_system, row.precision, row.is_task, hardware


def _with_speedups(rows: list[Row]) -> list[Row]:
    """The rows with T1 / TN, if there is a row of one card in the same precision."""
    one_card = {_same(row): row.time2train for row in rows if row.num_cards == 1}
    found = []
    for row in rows:
        first = one_card.get(_same(row))
        if first and first > 0 and (row.time2train or 0) > 0 and row.num_cards:
            speedup = first / row.time2train
            row = replace(row, card_speedup=speedup, card_efficiency=speedup / row.num_cards)
        found.append(row)
    return found


def _amp(rows: list[Row], peak_ratio: float | None) -> list[AmpSpeedup]:
    rated = [row for row in rows if row.throughput and row.num_cards]
    fp32 = {(_same(replace(row, precision="amp")), row.num_cards): row for row in rated if row.precision == FP32}
    found = []
    for row in rated:
        base = fp32.get((_same(row), row.num_cards))
        if base is not None:
            speedup = row.throughput / base.throughput
            efficiency = speedup / peak_ratio if peak_ratio else None
            found.append(AmpSpeedup(row.model, row.operating_system, row.num_cards, speedup, efficiency))
    return found


def _composite(rows, models, systems, num_models, references, weights: Weights) -> Composite:
    """100 x performance^p x coverage^c x systems^s; each exponent is a weight / the sum of the weights."""
    best: dict[tuple[str, int], float] = {}
    for row in rows:
        if row.is_task and (row.time2train or 0) > 0 and row.num_cards:
            key = row.model, row.num_cards
            best[key] = min(row.time2train, best.get(key, math.inf))
    references = {(_own_name(model), cards): seconds for (model, cards), seconds in references.items()}
    seconds = {key: found for key in best if (found := references.get((_own_name(key[0]), key[1])))}
    compared = sorted(seconds)
    by_model = defaultdict(list)
    for key in compared:
        by_model[_own_name(key[0])].append(math.log(seconds[key] / best[key]))
    means = [math.fsum(logs) / len(logs) for logs in by_model.values()]
    performance = math.exp(math.fsum(means) / len(means)) if means else None
    coverage = len(models) / num_models
    share = min(1.0, len(systems) / len(OPERATING_SYSTEMS)) if systems else None
    parts = [(performance, weights.performance), (coverage, weights.coverage), (share, weights.operating_systems)]
    parts = [(part, weight) for part, weight in parts if weight > 0]
    score = None
    if all(part is not None for part, _ in parts):
        total = sum(weight for _, weight in parts)
        score = 100 * math.prod(part ** (weight / total) for part, weight in parts)
    names = [f"{model} x{cards}" for model, cards in compared]
    missing = [f"{model} x{cards}" for model, cards in sorted(best) if (model, cards) not in seconds]
    return Composite(performance, coverage, share, score, names, missing)
