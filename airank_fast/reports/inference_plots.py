"""The pictures of inference runs: distribution and course of latency, the QPS search, throughput, accuracy, memory."""

from __future__ import annotations

from collections.abc import Iterable

from airank_fast import tasks
from airank_fast.record.inference_metrics import PERFORMANCE, WHOLE_SET
from airank_fast.reports import axes
from airank_fast.reports.curves import Curve
from airank_fast.reports.inference_reading import InferenceRun, Test, nines
from airank_fast.reports.inference_texts import INFERENCE_TEXTS
from airank_fast.reports.pictures import Picture, Series, bar_plot, colour, line_plot
from airank_fast.reports.texts import Texts

MIB = 1 << 20
LOG_FROM = 30.0  # ratio of latencies from which their axis is logarithmic
_GREEN, _RED = 2, 7  # numbers of colours
_TICKS = ((0.0, "0%"), (nines(0.5), "50%"), (1.0, "90%"), (2.0, "99%"), (3.0, "99.9%"), (4.0, "99.99%"))
_RATES = ("samples_per_s", "p_infer_whole", "scheduled_qps")  # of the picture of accuracy and throughput
_BY_RATE = ("offline", "flagperf", "online", "server")


def pictures(
    runs: list[InferenceRun], labels: list[str], name: str, metric: tasks.Metric, texts: Texts
) -> list[Picture]:
    """The pictures of one benchmark's inference runs; `name` begins the names of their files."""
    plots = _Plots(runs, labels, name, metric, texts)
    found = [plots.distribution(each) for each in plots.file_names if plots.has_latencies(each)]
    found += [plots.over_time(each) for each in plots.file_names]
    found += [plots.search()] if any(_searched(run) for run in runs) else []
    found += [plots.batch()]
    found += [plots.tradeoff()] if len(runs) > 1 else []
    return [*found, plots.memory()]


class _Plots:
    def __init__(self, runs: list[InferenceRun], labels: list[str], name: str, metric: tasks.Metric, texts: Texts):
        self.runs, self.labels, self.name, self.metric, self.texts = runs, labels, name, metric, texts
        self.unit = texts.unit(runs[0].config.get("unit"))
        scenarios = dict.fromkeys(test.scenario for run in runs for test in run.measured)
        # Names of files; a log may name its scenarios as it likes.
        self.file_names = {
            scenario: scenario if f"scenario_{scenario}" in INFERENCE_TEXTS else f"other-{place}"
            for place, scenario in enumerate(scenarios, 1)
        }

    def has_latencies(self, scenario: str) -> bool:
        """Whether some test of the scenario has a latency for each query."""
        return any(len(test.distribution) for _, test in self._tests(scenario))

    def distribution(self, scenario: str) -> Picture:
        """Latency by percentile, with the bound and the early-stopping estimates."""
        tests = [(number, test) for number, test in self._tests(scenario) if len(test.distribution)]
        series, values, last = [], [], 1.0
        for number, test in tests:
            curve = test.distribution
            series.append(Series(self.labels[number], number, curve))
            values += curve.y
            last = max(last, curve.x[-1])
            if test.estimate_ms is not None:
                at, value = nines(test.estimate_ms[0]), test.estimate_ms[1]
                series.append(_dots(self.labels[number], number, [(at, value)]))
                values.append(value)
                last = max(last, at)
        x = axes.Axis(0.0, last, tuple(tick for tick in _TICKS if tick[0] <= last))
        title = self.texts("plot_distribution", scenario=self._word(scenario))
        description = self.texts("semicolon").join(self._percentiles(number, test) for number, test in tests)
        note = self.texts("distribution_note")
        name = f"distribution-{self.file_names[scenario]}"
        return self._lines(name, title, series, x, values, "axis_percentile", description, tests, note)

    def over_time(self, scenario: str) -> Picture:
        """The latency of the queries by the time of their issue; of a whole set the time of each batch."""
        key = "plot_batches_over_time" if scenario in WHOLE_SET else "plot_over_time"
        title = self.texts(key, scenario=self._word(scenario))
        tests = [(number, test) for number, test in self._tests(scenario) if len(test.over_time)]
        if not tests:
            return Picture(f"{self.name}-time-{self.file_names[scenario]}", title)
        series = [Series(self.labels[number], number, test.over_time) for number, test in tests]
        values = [value for _, test in tests for value in (*test.over_time.low, *test.over_time.high)]
        x = axes.span([value for _, test in tests for value in test.over_time.x])
        description = self._range(values)
        note = self.texts("over_time_note")
        name = f"time-{self.file_names[scenario]}"
        return self._lines(name, title, series, x, values, "axis_seconds", description, tests, note)

    def search(self) -> Picture:
        """Every probe of the QPS search, and what it found."""
        probes = [probe for run in self.runs for probe in _searched(run)]
        series = [
            _dots(self.texts(key), number, sorted((each["target_qps"], 1000 * each["p99_s"]) for each in chosen))
            for key, number, valid in (("probe_valid", _GREEN, True), ("probe_refused", _RED, False))
            if (chosen := [probe for probe in probes if probe["valid"] is valid])
        ]
        values = [value for item in series for value in item.middle.y]
        x = axes.span([value for item in series for value in item.middle.x])
        tests = self._tests("server")
        title, note = self.texts("plot_search"), self.texts("search_note")
        description = self.texts("semicolon").join(self._found(run) for run in self.runs if _searched(run))
        legend = tuple((f"fill {colour(item.number)}", item.label) for item in series)
        return self._lines("search", title, series, x, values, "axis_qps", description, tests, note, legend)

    def batch(self) -> Picture:
        """Throughput of each prepared batch."""
        title = self.texts("plot_batch", unit=self.unit)
        timed = [(number, run.warm_up) for number, run in enumerate(self.runs) if len(run.warm_up) > 1]
        if not timed:
            return Picture(f"{self.name}-batch", title)
        series = []
        for number, times in timed:
            sizes, rates = [size for size, _ in times], [size / seconds for size, seconds in times]
            curve = Curve(sizes, rates, rates, rates)
            series.append(Series(self.labels[number], number, curve, dots=True))
        values = [value for item in series for value in item.middle.y]
        x = axes.span([size for _, times in timed for size, _ in times], log=True)
        body, height = line_plot(x, axes.linear(values, zero=True), series, self.texts("axis_batch"))
        description = self._range(values)
        note = self.texts("batch_note")
        return Picture(f"{self.name}-batch", title, note, body, height, self._legend(), description)

    def tradeoff(self) -> Picture:
        """Accuracy against throughput, a dot for each run."""
        title = self.texts("plot_tradeoff")
        points = {number: point for number, run in enumerate(self.runs) if (point := _point(run)) is not None}
        if not points:
            return Picture(f"{self.name}-tradeoff", title)
        series = [_dots(self.labels[number], number, [point]) for number, point in points.items()]
        needed = {each["required"] for run in self.runs for each in run.accuracies.values()} - {None}
        target = needed.pop() if len(needed) == 1 else None
        values = [accuracy for _, accuracy in points.values()] + ([] if target is None else [target])
        y = axes.linear(values, percent=self.metric.scale == 100)
        line = None if target is None else (target, self.texts("required_line", value=self.metric.text(target)))
        label = self.texts("axis_rate", unit=self.unit)
        body, height = line_plot(axes.span([rate for rate, _ in points.values()]), y, series, label, line)
        description = self.texts("semicolon").join(
            self.texts(
                "point_of",
                name=self.labels[number],
                accuracy=self.metric.text(accuracy),
                rate=axes.compact(rate),
                unit=self.unit,
            )
            for number, (rate, accuracy) in points.items()
        )
        note = self.texts("tradeoff_note")
        return Picture(f"{self.name}-tradeoff", title, note, body, height, self._legend(), description)

    def memory(self) -> Picture:
        """The peak of each test's process, in the parts of the runtime and the model."""
        title = self.texts("plot_memory")
        found = [
            (number, test, test.memory["total_bytes"])
            for number, run in enumerate(self.runs)
            for test in run.counted
            if test.mode == PERFORMANCE and test.memory.get("total_bytes", 0) > 0
        ]
        if not found:
            return Picture(f"{self.name}-memory", title)
        most, rows, texts = max(total for _, _, total in found), [], []
        for number, test, total in found:
            model = test.memory.get("model_bytes")
            pieces, text = self._parts(number, total, model, most)
            scenario = self._word(test.scenario)
            name = scenario if len(self.runs) == 1 else f"{self.labels[number]} · {scenario}"
            rows.append((name, f"{total / MIB:.0f} MiB", pieces))  # room for the name on a telephone
            texts.append(f"{name}: {text}")
        body, height = bar_plot(rows)
        legend = (("part-other", self.texts("memory_runtime")), (f"fill {colour(0)}", self.texts("memory_model")))
        description = self.texts("semicolon").join(texts[:20])
        note = self.texts("memory_parts_note")
        return Picture(f"{self.name}-memory", title, note, body, height, legend, description)

    def _parts(
        self, number: int, total: float, model: float | None, most: float
    ) -> tuple[list[tuple[str, float, str]], str]:
        """The pieces of a bar and its text."""
        shown = f"{total / MIB:.0f}"
        if model is None or not 0 <= model <= total:
            text = self.texts("memory_text_whole", total=shown)
            return [(f"fill {colour(number)}", total / most, f"{self.texts('memory_whole')} {text}")], text
        runtime, text = total - model, self.texts("memory_text", total=shown, model=f"{model / MIB:.0f}")
        return [
            ("part-other", runtime / most, f"{self.texts('memory_runtime')} {runtime / MIB:.0f} MiB"),
            (f"fill {colour(number)}", model / most, f"{self.texts('memory_model')} {model / MIB:.0f} MiB"),
        ], text

    def _lines(
        self,
        name: str,
        title: str,
        series: list[Series],
        x: axes.Axis,
        values: list[float],
        x_label: str,
        description: str,
        tests: Iterable[tuple[int, Test]],
        note: str,
        legend: tuple[tuple[str, str], ...] | None = None,
    ) -> Picture:
        """A picture of latencies in ms, with the bound of the tests where they share one."""
        bounds = {test.bound_ms for _, test in tests} - {None}
        bound = bounds.pop() if len(bounds) == 1 else None
        y = _latency_axis([*values, *([] if bound is None else [bound])])
        line = None if bound is None else (bound, self.texts("bound_line", value=axes.compact(bound)))
        description = self.texts("semicolon").join(filter(None, [description, line and line[1]]))
        body, height = line_plot(x, y, series, self.texts(x_label), line)
        legend = self._legend() if legend is None else legend
        return Picture(f"{self.name}-{name}", title, note, body, height, legend, description)

    def _tests(self, scenario: str) -> list[tuple[int, Test]]:
        """(a run's number, its test of the scenario that counts)."""
        return [
            (number, test)
            for number, run in enumerate(self.runs)
            for test in run.counted
            if (test.scenario, test.mode) == (scenario, PERFORMANCE)
        ]

    def _word(self, scenario: str) -> str:
        key = f"scenario_{scenario}"
        return self.texts(key) if key in INFERENCE_TEXTS else scenario

    def _percentiles(self, number: int, test: Test) -> str:
        shown = {name: axes.compact(test.ms(f"latency_{name}_s") or 0.0) for name in ("p50", "p90", "p99")}
        return self.texts("distribution_of", name=self.labels[number], **shown)

    def _found(self, run: InferenceRun) -> str:
        count = len(_searched(run))
        search = run.searches[-1] if run.searches else {}
        valid, refused = (search.get(name) for name in ("valid_qps", "refused_qps"))
        if valid is None:
            return self.texts("search_none", count=count)
        if refused is None:
            return self.texts("search_open", valid=axes.compact(valid), count=count)
        return self.texts("search_found", valid=axes.compact(valid), refused=axes.compact(refused), count=count)

    def _range(self, values: list[float]) -> str:
        return self.texts("range", low=axes.compact(min(values)), high=axes.compact(max(values)))

    def _legend(self) -> tuple[tuple[str, str], ...]:
        if len(self.runs) == 1:
            return ()
        return tuple((f"fill {colour(number)}", label) for number, label in enumerate(self.labels))


def _searched(run: InferenceRun) -> list[dict]:
    return [
        probe
        for probe in run.probes
        if probe["purpose"] == "search" and probe["target_qps"] is not None and probe["p99_s"] is not None
    ]


def _point(run: InferenceRun) -> tuple[float, float] | None:
    """(throughput, accuracy) of a run, both of the same scenario."""
    for scenario in _BY_RATE:
        accuracy = run.accuracy_of(scenario).get("value")
        for test in run.counted:
            rate = next((test.metric[name] for name in _RATES if name in test.metric), None)
            if test.scenario == scenario and test.valid and rate is not None and accuracy is not None:
                return rate, accuracy
    return None


def _dots(label: str, number: int, points: list[tuple[float, float]]) -> Series:
    """A series of dots without a line."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return Series(label, number, Curve(xs, ys, ys, ys), dots=True, band_only=True)


def _latency_axis(values: list[float]) -> axes.Axis:
    """Linear from 0, or logarithmic where the latencies lie far apart."""
    low, high = min(values), max(values)
    return axes.span(values, log=True) if low > 0 and high / low > LOG_FROM else axes.linear(values, zero=True)
