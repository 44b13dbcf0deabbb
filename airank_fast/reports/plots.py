"""The six pictures of a benchmark: accuracy, loss, learning rate, throughput, where the time went, memory."""

from __future__ import annotations

from collections.abc import Callable

from airank_fast import tasks
from airank_fast.reports import axes
from airank_fast.reports.cleaning import number
from airank_fast.reports.curves import Curve, spread
from airank_fast.reports.groups import Group
from airank_fast.reports.pictures import Picture, Series, bar_plot, colour, line_plot
from airank_fast.reports.reading import ReportedRun
from airank_fast.reports.texts import Texts

MAX_LINES = 12  # runs of a group that have lines of their own
LOG_FROM = 6.0  # ratio of runs' lengths from which time is logarithmic
PARTS = ("core", "steps", "wait", "h2d", "rest", "evaluation", "other")
Labels = dict[int, str]  # a group's number: its name


def pictures(groups: list[Group], name: str, labels: Labels, texts: Texts) -> list[Picture]:
    """The pictures of one benchmark; `name` begins the names of their files."""
    plots = _Plots(groups, name, labels, texts)
    return [
        plots.accuracy(),
        plots.throughput(),
        plots.over_samples("loss", lambda run: run.loss),
        plots.over_samples("learning_rate", lambda run: run.learning_rate),
        plots.seconds(),
        plots.memory(),
    ]


def percent_or_number(value: float, metric: tasks.Metric) -> str:
    """A target as short as it can be written: 75.9%, 25."""
    return f"{value * 100:.4g}%" if metric.scale == 100 else f"{value:.6g}"


class _Plots:
    def __init__(self, groups: list[Group], name: str, labels: Labels, texts: Texts):
        self.groups, self.name, self.labels, self.texts = groups, name, labels, texts
        self.runs = [run for group in groups for run in group.runs]

    def accuracy(self) -> Picture:
        series = self._series(lambda run: run.evaluations, dots=True)
        values = [value for item in series for _, curve in item.lines for value in curve.y]
        if not values:
            return self._empty("accuracy")
        targets = sorted({group.target for group in self.groups if group.target is not None})
        target = targets[0] if len(targets) == 1 else None
        x, label, series = self._time(series, lambda item: [curve for _, curve in item.lines])
        metric = tasks.headline(self.runs[0].config)
        y = axes.linear([*values, *targets, 0.0], percent=metric.scale == 100)
        shown = None if target is None else percent_or_number(target, metric)
        line = None if target is None else (target, self.texts("target_line", value=shown))
        reached = sum(run.figure("time2train", "target_quality_time")[0] is not None for run in self.runs)
        best = metric.text(metric.best(values))
        key = "accuracy_summary" if targets or reached else "accuracy_summary_best"
        description = self.texts(key, best=best, reached=reached, runs=len(self.runs))
        return self._lines("accuracy", series, x, y, label, description, line)

    def throughput(self) -> Picture:
        series = self._series(lambda run: run.throughput)
        values = [value for item in series for _, curve in item.lines for value in curve.y]
        if not values:
            return self._empty("throughput")
        x, label, series = self._time(series, lambda item: [curve for _, curve in item.lines])
        y = axes.linear(values, zero=True)
        return self._lines("throughput", series, x, y, label, self._range(values))

    def over_samples(self, name: str, of: Callable[[ReportedRun], Curve]) -> Picture:
        series = self._series(of)
        values = [value for item in series for _, curve in item.lines for value in curve.y]
        if not values:
            return self._empty(name)
        epochs = {number(run.data.get("train_samples")) or run.config.get("samples_per_epoch") for run in self.runs}
        epoch = epochs.pop() if len(epochs) == 1 else None
        by_epoch = epoch is not None and epoch > 0
        series = [_scaled(item, epoch if by_epoch else 1) for item in series]
        x = axes.span([value for item in series for _, curve in item.lines for value in curve.x])
        y = axes.linear(values, zero=True)
        left_out = sum(of(run).num_left_out for run in self.runs)
        note = self.texts("left_out", count=left_out) if left_out else ""
        x_label = self.texts("epochs" if by_epoch else "samples")
        return self._lines(name, series, x, y, x_label, self._range(values), note=note)

    def seconds(self) -> Picture:
        runs = [(group, run) for group in self.groups for run in group.runs if run.seconds]
        if not runs:
            return self._empty("seconds")
        rows = []
        for group, run in runs:
            total_s = sum(run.seconds.values())
            pieces = [
                (f"part-{part}", run.seconds[part] / total_s, self._spent(part, run.seconds[part], total_s))
                for part in PARTS
                if part in run.seconds
            ]
            rows.append((self._row_name(group, run), duration(total_s), pieces))
        body, height = bar_plot(rows)
        used = [part for part in PARTS if any(run.seconds.get(part) for _, run in runs)]
        legend = tuple((f"part-{part}", self.texts(f"part_{part}")) for part in used)
        description = "; ".join(f"{name}: " + ", ".join(piece[2] for piece in pieces) for name, _, pieces in rows[:20])
        title = self.texts("picture_seconds")
        return Picture(f"{self.name}-seconds", title, self.texts("seconds_note"), body, height, legend, description)

    def memory(self) -> Picture:
        runs = [
            (group, run)
            for group in self.groups
            for run in group.runs
            if run.summary["mem_used_gib"] and run.summary["mem_total_gib"]
        ]
        if not runs:
            return self._empty("memory")
        rows = []
        for group, run in runs:
            used, total = run.summary["mem_used_gib"], run.summary["mem_total_gib"]
            text = f"{used:.2f} / {total:.1f} GiB ({used / total:.0%})"
            rows.append((self._row_name(group, run), text, [(f"fill {colour(group.number)}", used / total, text)]))
        body, height = bar_plot(rows)
        description = "; ".join(f"{name}: {text}" for name, text, _ in rows[:20])
        title = self.texts("picture_memory")
        note = self.texts("memory_note")
        return Picture(f"{self.name}-memory", title, note, body, height, self._legend(), description)

    def _series(self, of: Callable[[ReportedRun], Curve], dots: bool = False) -> list[Series]:
        """For each group the spread of the runs that count, and every run's own line."""
        found = []
        for group in self.groups:
            lines = [(run.name, of(run)) for run in group.runs if len(of(run))]
            if lines:
                whole = [of(run) for run in group.runs if run.counts] or [lines[0][1]]
                found.append(Series(self.labels[group.number], group.number, spread(whole), lines, dots))
        return found

    def _time(self, series: list[Series], of: Callable[[Series], list[Curve]]) -> tuple[axes.Axis, str, list[Series]]:
        """An axis of time in a unit that reads well, its label, and the series over that unit."""
        ends = [max(curve.x[-1] for curve in of(item)) for item in series]
        unit, size = axes.time_unit(max(ends))
        series = [_scaled(item, size) for item in series]
        xs = [x for item in series for _, curve in item.lines for x in curve.x]
        log = min(ends) > 0 and max(ends) / min(ends) > LOG_FROM and min(xs) > 0
        x = axes.span(xs, log=log)
        return x, self.texts("time_log" if log else "time", unit=self.texts(f"unit_{unit}")), series

    def _lines(
        self,
        name: str,
        series: list[Series],
        x: axes.Axis,
        y: axes.Axis,
        x_label: str,
        description: str,
        target: tuple[float, str] | None = None,
        note: str = "",
    ) -> Picture:
        series = [_drawn(item) for item in series]
        body, height = line_plot(x, y, series, x_label, target)
        banded = any(list(item.middle.low) != list(item.middle.high) for item in series)
        several = any(len(group.runs) > 1 for group in self.groups)
        if several:
            key = "spread_evaluations" if name == "accuracy" else "spread_runs"
        else:
            key = "spread_bins" if banded else "no_spread"
        caption = " ".join(filter(None, [self.texts(key), note]))
        return Picture(f"{self.name}-{name}", self._heading(name), caption, body, height, self._legend(), description)

    def _range(self, values: list[float]) -> str:
        return self.texts("range", low=axes.compact(min(values)), high=axes.compact(max(values)))

    def _heading(self, name: str) -> str:
        """The title of a picture. Where a log does not state when evaluations begin, its rate includes them."""
        unit = self.texts.unit(self.runs[0].summary["unit"])
        if name == "throughput" and any(r.summary["evaluations"] and not r.summary["p_train"] for r in self.runs):
            name = "throughput_whole"
        return self.texts(f"picture_{name}", unit=unit)

    def _legend(self) -> tuple[tuple[str, str], ...]:
        if len(self.groups) == 1:
            return ()
        return tuple((f"fill {colour(group.number)}", self.labels[group.number]) for group in self.groups)

    def _row_name(self, group: Group, run: ReportedRun) -> str:
        return run.name if len(self.groups) == 1 else f"{run.name} · {self.labels[group.number]}"

    def _spent(self, part: str, seconds: float, total_s: float) -> str:
        return f"{self.texts(f'part_{part}')} {duration(seconds)} ({seconds / total_s:.1%})"

    def _empty(self, name: str) -> Picture:
        return Picture(f"{self.name}-{name}", self._heading(name))


def _drawn(series: Series) -> Series:
    """The drawn part of a series: runs' own lines where there is no spread, of evaluations everywhere."""
    middle, lines = series.middle, series.lines
    if len(lines) == 1:
        return Series(series.label, series.number, lines[0][1], lines if series.dots else (), series.dots)
    if len(middle) > 1 and not series.dots:
        lines = [(name, part) for name, curve in lines for part in curve.outside(middle.x[0], middle.x[-1])]
    elif series.dots and len(lines) <= MAX_LINES:
        return Series(series.label, series.number, middle, lines, dots=True, band_only=True)
    return Series(series.label, series.number, middle, () if series.dots else lines, series.dots)


def duration(seconds: float) -> str:
    """A time in seconds with three or four digits: 1234 s, 12.3 s, 1.23 s."""
    return f"{seconds:.0f} s" if seconds >= 1000 else f"{seconds:.1f} s" if seconds >= 10 else f"{seconds:.2f} s"


def _scaled(series: Series, size: float) -> Series:
    lines = [(name, _over(curve, size)) for name, curve in series.lines]
    return Series(series.label, series.number, _over(series.middle, size), lines, series.dots)


def _over(curve: Curve, size: float) -> Curve:
    return Curve([x / size for x in curve.x], curve.y, curve.low, curve.high, curve.num_left_out)
