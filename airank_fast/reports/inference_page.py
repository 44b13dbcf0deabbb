"""The inference runs of a report: their states, tables, pictures and remarks, in one language."""

from __future__ import annotations

import shlex
from collections import Counter
from functools import cached_property

from airank_fast import tasks
from airank_fast.record.events import dictionary
from airank_fast.record.inference_metrics import ACCURACY, PERFORMANCE
from airank_fast.reports import inference_plots, pictures
from airank_fast.reports.cleaning import number
from airank_fast.reports.columns import Cell, Columns, Table
from airank_fast.reports.inference_reading import InferenceRun, Test
from airank_fast.reports.inference_texts import INFERENCE_TEXTS
from airank_fast.reports.texts import Texts

MIB = 1 << 20
_MAX_SIZES = 8  # of batches in a cell
_BLANK = Cell("-")
_SETTING = ("task", "command", "submission", "data", "checkpoint", "devices")  # of infer_config, shown elsewhere


class InferenceModel:
    """The inference runs of one benchmark: their tables and pictures."""

    def __init__(self, runs: list[InferenceRun], key: str, title: str, t: Texts):
        self.runs, self.key, self.title, self.t = runs, key, title, t
        self.metric = tasks.headline(runs[0].config)
        self.unit = t.unit(runs[0].config.get("unit"))
        self.labels = _labels(runs)
        self.pictures = inference_plots.pictures(runs, self.labels, key, self.metric, t)
        self.drawn = {picture.name: pictures.inline(picture) for picture in self.pictures if picture.height}
        empty = [picture.title for picture in self.pictures if not picture.height]
        self.not_drawn = t("not_recorded", names=t("and").join(empty)) if empty else ""

    @cached_property
    def results(self) -> list[Table]:
        """What ran, and the result of each scenario."""
        return [self._ran(), *([self._scenarios()] if any(run.tests for run in self.runs) else [])]

    @cached_property
    def details(self) -> list[Table]:
        """The accuracy runs, and the latencies and batches of each scenario."""
        accuracies = any(run.accuracies for run in self.runs)
        measured = any(run.measured for run in self.runs)
        return [*([self._accuracies()] if accuracies else []), *([self._latencies()] if measured else [])]

    @property
    def remarks(self) -> list[str]:
        """How the quantised runs were calibrated."""
        return [
            f"{label}: " + self.t("quantised", method=method, count=count, seed=run.quantize.get("seed"))
            for run, label in zip(self.runs, self.labels, strict=True)
            if (method := run.quantize.get("method")) and (count := number(run.quantize.get("num_samples"))) is not None
        ]

    @cached_property
    def setting(self) -> Columns:
        """What was requested of each run."""
        requested = [{key: v for key, v in run.config.items() if key not in _SETTING} for run in self.runs]
        return Columns(self.labels, requested, self.t)

    def _ran(self) -> Table:
        t = self.t
        numbers = ("file_size", "load_time", "export_time", "first_inference")
        names = ("run", "status", "engine", "precision_ran", "device", "threads", "rules_of", "weights", *numbers)
        rows = []
        for run in self.runs:
            engine = f"{run.engine.get('name') or run.config.get('backend') or '-'} {run.engine.get('version') or ''}"
            bytes_, first_s = number(run.model.get("file_bytes")), number(run.model.get("first_inference_s"))
            rows.append(
                [
                    Cell(run.name),
                    _states_cell(run, t),
                    Cell(engine.strip()),
                    Cell(self._precision(run)),
                    Cell(_device(run)),
                    Cell(_plain(run.engine.get("threads") or run.config.get("threads"))),
                    Cell(_plain(run.config["profile"])),
                    Cell(_weights(run, t)),
                    _fixed(bytes_ and bytes_ / MIB, 1),
                    _fixed(number(run.model.get("load_s")), 2),
                    _fixed(number(run.model.get("export_s")), 2),
                    _fixed(first_s and 1000 * first_s, 2),
                ]
            )
        return Table(t("ran"), [(t(name), name in numbers) for name in names], rows)

    def _scenarios(self) -> Table:
        t = self.t
        texts = ("run", "scenario", "verdict", "result", "accuracy_run", "latency_columns", "early_estimate")
        numbers = ("bound", "queries", "duration", "peak_memory")
        rows = [
            [
                Cell(label),
                Cell(_name(test, t)),
                _verdict(test, t, test in run.counted),
                Cell(self._result(test) if test.valid else "-"),
                self._accuracy_cell(run.accuracy_of(test.scenario)),
                Cell(" / ".join(_ms(test.ms(f"latency_{name}_s")) for name in ("p50", "p90", "p99"))),
                Cell(_estimate(test, t)),
                Cell(_bound(test, t)),
                _fixed(test.figures.get("num_queries"), 0),
                _fixed(test.figures.get("duration_s"), 1),
                _fixed(_mib(test.memory.get("total_bytes")), 0),
            ]
            for run, label in zip(self.runs, self.labels, strict=True)
            for test in run.tests
            if test.mode != ACCURACY
        ]
        columns = [*((t(name), False) for name in texts), *((t(name), True) for name in numbers)]
        return Table(t("scenarios"), columns, rows, t("scenarios_note"))

    def _accuracies(self) -> Table:
        t = self.t
        names = ("run", "scenario", "verdict", "accuracy_run", "counts", "reference", "required", "agreement")
        rows = []
        for run, label in zip(self.runs, self.labels, strict=True):
            for scenario, found in run.accuracies.items():
                counts = [found["correct"], found["counted"]]
                rows.append(
                    [
                        Cell(label),
                        Cell(scenario_name(scenario, t)),
                        Cell(t("passed"), "good") if found["passed"] else Cell(t("not_passed"), "bad"),
                        Cell(self._value(found["value"])),
                        Cell("-" if None in counts else "{:.0f} / {:.0f}".format(*counts)),
                        Cell(self._value(found["reference"])),
                        Cell(self._value(found["required"])),
                        _fixed(found["agreement"] and 100 * found["agreement"], 2),
                        Cell("-" if found["largest_error"] is None else f"{found['largest_error']:.2g}"),
                    ]
                )
        columns = [(t(name), position > 2) for position, name in enumerate((*names, "largest_error"))]
        return Table(t("accuracy_table"), columns, rows)

    def _latencies(self) -> Table:
        t = self.t
        names = ("mean_latency", "p95_latency", "p999_latency", "queueing", "service", "stall_share", "open_p99")
        rows = [
            [
                Cell(label),
                Cell(_name(test, t)),
                Cell(_ms(test.ms("latency_mean_s"))),
                Cell(_ms(test.ms("latency_p95_s"))),
                Cell(_ms(test.ms("latency_p99_9_s"))),
                Cell(" / ".join(_ms(test.ms(f"queue_{name}_s")) for name in ("p50", "p99"))),
                Cell(" / ".join(_ms(test.ms(f"service_{name}_s")) for name in ("p50", "p99"))),
                _fixed(_percent(test.figures.get("stall_share")), 2),
                Cell(_ms(test.ms("latency_p99_open_s"))),
                Cell(_sizes(test, t)),
            ]
            for run, label in zip(self.runs, self.labels, strict=True)
            for test in run.counted
            if test.mode == PERFORMANCE
        ]
        columns = [(t("run"), False), (t("scenario"), False), *((t(name), True) for name in names)]
        return Table(t("details"), [*columns, (t("batch_sizes"), False)], rows, t("stall_note"))

    def _precision(self, run: InferenceRun) -> str:
        asked = run.config.get("precision")
        return self.t("precision_asked", ran=run.precision, asked=asked) if asked != run.precision else run.precision

    def _value(self, value: float | None) -> str:
        return "-" if value is None else self.metric.text(value)

    def _accuracy_cell(self, found: dict) -> Cell:
        if not found or found["value"] is None:
            return _BLANK
        text = self._value(found["value"])
        if found["required"] is not None:
            text = self.t("accuracy_needed", value=text, required=self._value(found["required"]))
        return Cell(text, "" if found["passed"] else "bad")

    def _result(self, test: Test) -> str:
        """The figures that the test states as its result, in words."""
        texts = []
        for name, value in test.metric.items():
            shown = 1000 * value if name.endswith("_s") and not name.endswith("per_s") else value
            key = f"figure_{name}"
            known = key in INFERENCE_TEXTS
            texts.append(self.t(key, value=amount(shown), unit=self.unit) if known else f"{name} {amount(value)}")
        return self.t("semicolon").join(texts) or "-"


def states(run: InferenceRun, t: Texts) -> list[tuple[str, bool]]:
    """(how the run ended, whether a reader must be warned of it), what is grave first."""
    found = [(t("state_rehearsal"), True)] if run.config.get("is_rehearsal") else []
    accurate = all(each["passed"] for each in run.accuracies.values())
    if not accurate:
        found.append((t("state_inaccurate"), True))
    for test in run.counted:
        if not test.ended:
            found.append((t("state_test_unfinished", scenario=_name(test, t)), True))
        elif not test.valid:
            reason = t("semicolon").join(test.reasons) or t("no_reason")
            found.append((t("state_test", scenario=_name(test, t), reason=reason), True))
    if run.stop is None:
        return [*found, (t("state_unfinished"), True)]
    status, reason = run.stop.get("status"), run.stop.get("reason")
    if status != "success" and reason not in ("not_valid", "accuracy"):
        return [*found, (t("state_aborted", reason=reason or status), True)]
    if status == "success" and reason in (None, "valid") and accurate and all(test.valid for test in run.counted):
        return [*found, (t("state_valid"), False)]
    return found if any(is_grave for _, is_grave in found) else [(t("state_not_valid"), True)]


def command(run: InferenceRun) -> str | None:
    """The command line of the run for a shell; None where its log does not carry one.

    A program's path and `python -m` before it become `python -m airank_fast.infer`.
    """
    words = run.config.get("command")
    if not isinstance(words, list) or not words:
        return None
    if words[0].replace("\\", "/").endswith("airank_fast/infer.py"):
        words = ["python", "-m", "airank_fast.infer", *words[1:]]
    return shlex.join(words)


def scenario_name(scenario: str, t: Texts) -> str:
    """A scenario in words; one without words by its own name."""
    key = f"scenario_{scenario}"
    return t(key) if key in INFERENCE_TEXTS else scenario


def amount(value: float) -> str:
    """A figure with four digits, or one decimal from 1000 on."""
    return f"{value:.1f}" if abs(value) >= 1000 else f"{value:.4g}"


def _labels(runs: list[InferenceRun]) -> list[str]:
    """Engine and precision of each run; with the run's name where two are alike."""
    labels = [
        " · ".join(filter(None, (str(run.engine.get("name") or run.config.get("backend") or ""), run.precision)))
        or run.name
        for run in runs
    ]
    counts = Counter(labels)
    return [f"{label} · {run.name}" if counts[label] > 1 else label for run, label in zip(runs, labels, strict=True)]


def _name(test: Test, t: Texts) -> str:
    name = scenario_name(test.scenario, t)
    return name if test.mode == PERFORMANCE else f"{name} · {test.mode}"


def _states_cell(run: InferenceRun, t: Texts) -> Cell:
    found = states(run, t)
    return Cell(t("semicolon").join(text for text, _ in found), "bad" if any(grave for _, grave in found) else "good")


def _verdict(test: Test, t: Texts, counts: bool) -> Cell:
    if not counts:
        return Cell(t("earlier_attempt"))
    if not test.ended:
        return Cell(t("unfinished"), "bad")
    return Cell(t("valid"), "good") if test.valid else Cell(t("not_valid"), "bad")


def _device(run: InferenceRun) -> str:
    devices = run.config.get("devices")
    names = [str(name) for name in devices] if isinstance(devices, list) else []
    counts = Counter(names)
    shown = [f"{count} × {name}" if count > 1 else name for name, count in counts.items()]
    return ", ".join(shown) or str(run.config.get("device") or "-")


def _weights(run: InferenceRun, t: Texts) -> str:
    checkpoint = dictionary(run.config.get("checkpoint"))
    name = str(checkpoint.get("file") or "-").rpartition("/")[2]
    return t("weights_own" if checkpoint.get("trained_here") else "weights_given", name=name)


def _estimate(test: Test, t: Texts) -> str:
    if test.estimate_ms is None:
        return "-"
    share, value = test.estimate_ms
    return t("estimate_of", percent=f"{100 * share:g}", value=_ms(value))


def _bound(test: Test, t: Texts) -> str:
    if test.bound_ms is None:
        return "-"
    over = test.figures.get("over_latency")
    return _ms(test.bound_ms) + (f" ({t('over_bound', count=int(over))})" if over else "")


def _sizes(test: Test, t: Texts) -> str:
    most = sorted(test.batches.items(), key=lambda item: -item[1])
    shown = sorted(most[:_MAX_SIZES], key=lambda item: (len(item[0]), item[0]))
    texts = [f"{size}: {count:.0f}" for size, count in shown]
    more = len(most) - len(shown)
    return t("and").join(texts + ([t("more_sizes", count=more)] if more else [])) or "-"


def _ms(value: float | None) -> str:
    return "-" if value is None else amount(value)


def _mib(value: float | None) -> float | None:
    return None if value is None else value / MIB


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _fixed(value: float | None, digits: int) -> Cell:
    return _BLANK if value is None else Cell(f"{value:.{digits}f}")


def _plain(value: object) -> str:
    return "-" if value is None else str(value)
