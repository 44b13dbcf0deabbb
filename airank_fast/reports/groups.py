"""Groups runs by setting, makes their rows of the summary, and finds how settings differ."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from airank_fast.record.events import dictionary
from airank_fast.reports.reading import ReportedRun
from airank_fast.rules.airank_score import AMP, FP32, middle


@dataclass
class Group:
    """Runs of one benchmark with the same recipe, precision, number of cards and data: repetitions."""

    runs: list[ReportedRun]
    number: int = 0  # among the groups of its benchmark
    distinction: str = ""  # how it differs from another with as many cards and the same precision

    @property
    def benchmark(self) -> str | None:
        return self.runs[0].config.get("benchmark")

    @property
    def cards(self) -> int | None:
        cards = self.runs[0].config.get("world_size")
        return cards if isinstance(cards, int) and not isinstance(cards, bool) else None

    @property
    def precision(self) -> str | None:
        return self.runs[0].config.get("precision")

    @property
    def target(self) -> float | None:
        target = self.runs[0].summary["target"]
        return target if isinstance(target, (int, float)) else None


@dataclass(frozen=True)
class Figure:
    """A figure of the run that represents several, with the smallest and largest; None where there is none."""

    value: float | None
    low: float | None = None
    high: float | None = None
    stated: bool = False  # by the log alone

    @property
    def spreads(self) -> bool:
        return self.low is not None and self.high is not None and self.low < self.high


@dataclass
class Row:
    """A group in the summary table. Runs that were resumed, aborted or cut off do not count; all figures are those
    of the run with the median Time2train (see rules.airank_score.middle)."""

    group: Group
    counted: list[ReportedRun]
    num_missed: int
    time2train: Figure
    throughput: Figure
    accuracy: Figure
    speedup: float | None = None


def grouped(runs: Iterable[ReportedRun]) -> list[list[Group]]:
    """The groups of each benchmark, by number of cards and precision; the order of the runs decides the rest."""
    by_setting: dict[str, Group] = {}
    for run in runs:
        by_setting.setdefault(_setting_key(run), Group([])).runs.append(run)
    by_benchmark: dict[str | None, list[Group]] = {}
    for group in by_setting.values():
        by_benchmark.setdefault(group.benchmark, []).append(group)
    for groups in by_benchmark.values():
        groups.sort(key=lambda group: (group.cards is None, group.cards or 0, str(group.precision)))
        for index, group in enumerate(groups):
            group.number = index
        _distinguish(groups)
    return list(by_benchmark.values())


def summary_rows(groups: list[Group]) -> list[Row]:
    """A row for each group of a benchmark. A run that missed the target counts as one that never ends."""
    rows = [_row(group) for group in groups]
    for row in rows:
        base = [other for other in rows if other.group.cards == 1 and _comparable(other.group, row.group)]
        if len(base) == 1 and base[0].time2train.value and row.time2train.value and row.group.cards:
            row.speedup = base[0].time2train.value / row.time2train.value
    return rows


def amp_ratios(rows: list[Row]) -> list[tuple[Row, Row, float]]:
    """(row with AMP, row in FP32, ratio of their throughputs) where there is one of each for a number of cards."""
    found = []
    for cards in dict.fromkeys(row.group.cards for row in rows if row.group.cards):
        same = [row for row in rows if row.group.cards == cards and row.throughput.value]
        amp = [row for row in same if row.group.precision in AMP]
        fp32 = [row for row in same if row.group.precision == FP32]
        if len(amp) == len(fp32) == 1:
            found.append((amp[0], fp32[0], amp[0].throughput.value / fp32[0].throughput.value))
    return found


def split(columns: list[dict]) -> tuple[dict, list[tuple[str, list]]]:
    """(items that all the dictionaries share, the others as (key, its value in each, None where it is missing))."""
    keys = dict.fromkeys(key for column in columns for key in column)
    common = {key: columns[0][key] for key in keys if all(key in c and c[key] == columns[0][key] for c in columns)}
    return common, [(key, [column.get(key) for column in columns]) for key in keys if key not in common]


def flat(values: dict, prefix: str = "") -> dict:
    """Nested dictionaries as one, with dots in the keys."""
    found = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            found.update(flat(value, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = value
    return found


def recipe_of(run: ReportedRun) -> dict:
    """Every setting that decides what a run computes, except its seed."""
    config = run.config
    recipe = dictionary(config.get("recipe"))
    names = ("precision", "world_size", "target", "global_batch_size", "gradient_accumulation_steps")
    found = {**flat(recipe), **{key: config[key] for key in names if config.get(key) is not None}}
    for source in (config, run.data):
        found.update(flat(dictionary(source.get("reported")), "reported."))
    found.update({f"data.{key}": run.data[key] for key in ("train_samples", "eval_samples") if key in run.data})
    found.pop("seed", None)
    return found


def _setting_key(run: ReportedRun) -> str:
    devices = run.config.get("devices")
    names = sorted(set(map(str, devices))) if isinstance(devices, list) else devices
    return json.dumps([run.config.get("benchmark"), names, recipe_of(run)], sort_keys=True, default=str)


def _distinguish(groups: list[Group]) -> None:
    """Give groups of one name the settings in which they differ, two at most."""
    for group in groups:
        alike = [other for other in groups if (other.cards, other.precision) == (group.cards, group.precision)]
        if len(alike) > 1:
            recipes = [{**recipe_of(other.runs[0]), "devices": other.runs[0].config.get("devices")} for other in alike]
            _, different = split(recipes)
            at = alike.index(group)
            texts = [f"{key}={values[at]}"[:60] for key, values in different if not key.startswith("reported.")]
            group.distinction = ", ".join(texts[:2]) or f"#{at + 1}"


def _row(group: Group) -> Row:
    counted = [run for run in group.runs if run.counts]
    times = {run.path: run.figure("time2train", "target_quality_time") for run in counted}
    with_target = [times[run.path][0] for run in counted if run.summary["target"] is not None]

    def seconds(run: ReportedRun) -> float:
        value, _ = times[run.path]
        return math.inf if value is None else value

    shown = middle(counted, seconds) if counted else None
    rates = {run.path: run.figure("avg_ips", "avg_ips") for run in counted}
    best = {run.path: (run.summary["best_accuracy"], False) for run in counted}
    figures = [_figure(values, shown) for values in (times, rates, best)]
    return Row(group, counted, with_target.count(None), *figures)


def _figure(values: dict[Path, tuple[float | None, bool]], shown: ReportedRun | None) -> Figure:
    """The figure of the run that is shown, with the spread of all; a value comes with whether the log states it."""
    found = [value for value, _ in values.values() if value is not None]
    value, stated = values[shown.path] if shown else (None, False)
    return Figure(value, min(found, default=None), max(found, default=None), stated)


def _comparable(one: Group, other: Group) -> bool:
    return (one.precision, one.target) == (other.precision, other.target)
