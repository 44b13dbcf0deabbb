"""A report on runs: every text, table and picture that the templates show."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path

from airank_fast import __version__, tasks
from airank_fast.record.events import Event, dictionary
from airank_fast.record.formats import flagperf
from airank_fast.reports import inference_page, judging, pictures, plots
from airank_fast.reports.cleaning import clean, number
from airank_fast.reports.columns import Columns
from airank_fast.reports.examples import Example
from airank_fast.reports.files import checksums
from airank_fast.reports.groups import Group, amp_ratios, grouped, recipe_of, summary_rows
from airank_fast.reports.inference_page import InferenceModel
from airank_fast.reports.inference_reading import InferenceRun
from airank_fast.reports.reading import ReportedRun
from airank_fast.reports.reproduce import check_commands, requirements, training_command
from airank_fast.reports.texts import Texts
from airank_fast.rules.findings import ERROR, NOTE, WARNING

MAX_FILES = 500  # listed of a run


class Report:
    """The content of a report on `runs` in one language; the templates read its attributes."""

    def __init__(
        self,
        runs: list[ReportedRun | InferenceRun],
        language: str,
        mark: str = "",
        settings: Sequence[str] = (),
        leave_out: Path | None = None,
    ):
        _name_apart(runs)
        self.runs, self.language, self.mark = runs, language, clean(mark)
        self.options = ["--lang", language, *(["--mark", mark] if mark else [])]
        self.options += [word for setting in settings for word in ("--set", setting)]
        self.t = Texts(language)
        self.version = __version__
        trained = [run for run in runs if isinstance(run, ReportedRun)]
        self.models = [Model(groups, number, self.t) for number, groups in enumerate(grouped(trained))]
        self.inference = _inference_models([run for run in runs if isinstance(run, InferenceRun)], self.t)
        self.files = {run.name: checksums(run.path, leave_out) for run in runs}
        self.max_files, self.max_findings = MAX_FILES, judging.MAX_ROWS

    @property
    def title(self) -> str:
        return self.t("title")

    @property
    def subtitle(self) -> str:
        names = " · ".join(dict.fromkeys(model.title for model in (*self.models, *self.inference)))
        return f"{names} · {self.t('runs_count', count=len(self.runs))}"

    @property
    def period(self) -> str:
        spans = [(run.start_t, run.start_t + (run.total_s or 0.0)) for run in self.runs if run.start_t is not None]
        if not spans:
            return ""
        starts, stops = zip(*spans, strict=True)
        return self.t("period", first=moment(min(starts)), last=moment(max(stops)))

    @property
    def alerts(self) -> list[tuple[str, str]]:
        """(run, the states that a reader must be warned of)."""
        found = []
        for run in self.runs:
            of_kind = inference_page.states if isinstance(run, InferenceRun) else states
            grave = [state for state, is_grave in of_kind(run, self.t) if is_grave]
            if grave and isinstance(run, ReportedRun) and not run.counts:
                grave.append(self.t("not_counted"))
            found += [(run.name, self.t("semicolon").join(grave))] if grave else []
        return found

    def verdict(self, run: ReportedRun | InferenceRun) -> str:
        """How many findings of each severity there are about a run."""
        if not run.verdict.has_rules:
            return self.t("no_rules")
        names = {ERROR: "errors", WARNING: "finding_warnings", NOTE: "finding_notes"}
        return self.t("and").join(self.t(name, count=run.verdict.counts[key]) for key, name in names.items())

    def severity(self, row: judging.ShownFinding) -> str:
        """The severity of a finding in this language."""
        return self.t("error" if row.severity == ERROR else "finding_warning")

    @cached_property
    def examples(self) -> list[tuple[str, list[tuple[str, Example]]]]:
        """(run, [(file name, picture of a prediction)]) of the runs that have left some."""
        return [
            (run.name, [(f"examples-{at}-{number:02d}.png", each) for number, each in enumerate(run.examples, 1)])
            for at, run in enumerate(self.runs, 1)
            if run.examples
        ]

    @property
    def has_uncaptioned(self) -> bool:
        """Whether some pictures show the prediction and the truth themselves."""
        return any(not self.caption(example) for _, examples in self.examples for _, example in examples)

    def caption(self, example: Example) -> str:
        """What was predicted, and what is true; "" where the picture shows it."""
        return self.t("example", **example._asdict()) if example.truth or example.predicted else ""

    @property
    def has_stated(self) -> bool:
        rows = [row for model in self.models for row in model.rows]
        return any(figure.stated for row in rows for figure in (row.time2train, row.throughput, row.accuracy))

    @property
    def _names(self) -> list[str]:
        return [run.name for run in self.runs]

    @cached_property
    def system(self) -> Columns:
        hidden = {"t", "kind", "versions", "kernels"}
        return Columns(
            self._names,
            [
                {
                    self.t.field(key): value
                    for key, value in run.system.items()
                    if key not in hidden | ({"software_stack"} if run.system.get("versions") else set())
                }
                for run in self.runs
            ],
            self.t,
        )

    @cached_property
    def versions(self) -> Columns:
        return Columns(self._names, [dictionary(run.system.get("versions")) for run in self.runs], self.t)

    @cached_property
    def kernels(self) -> Columns:
        return Columns(
            self._names,
            [
                {
                    op: " · ".join(f"{device}: {what}" for device, what in found.items())
                    if isinstance(found, dict)
                    else found
                    for op, found in dictionary(run.system.get("kernels")).items()
                }
                for run in self.runs
            ],
            self.t,
        )

    @property
    def requirements(self) -> str:
        found = requirements(self.runs)
        return "pip install " + " ".join(found) if found else ""

    @cached_property
    def data(self) -> list[tuple[str, dict]]:
        """(runs, the fields of their data events) for each data set."""
        found: dict[str, tuple[list[str], dict]] = {}
        for run in self.runs:
            if run.data:
                shown = {
                    self.t(f"data_{name}"): run.data[key]
                    for name, key in (
                        ("source", "source"),
                        ("train", "train_samples"),
                        ("eval", "eval_samples"),
                        ("checksum", "checksum"),
                    )
                    if run.data.get(key) is not None
                }
                if isinstance(corrupt := run.data.get("corrupt_files"), list):
                    shown[self.t("data_corrupt")] = len(corrupt)
                found.setdefault(repr(shown), ([], shown))[0].append(run.name)
        return [
            (self.t("all_runs") if len(names) == len(self.runs) else ", ".join(names), shown)
            for names, shown in found.values()
        ]

    @property
    def commands(self) -> list[tuple[str, str | None]]:
        return [
            (run.name, inference_page.command(run) if isinstance(run, InferenceRun) else training_command(run))
            for run in self.runs
        ]

    @property
    def kind(self) -> str:
        """What the commands do, as texts.py names the step and the note about it."""
        if self.models and self.inference:
            return "train_and_infer"
        return "train" if self.models else "infer"

    @property
    def definitions(self) -> list[str]:
        """The definitions of the figures that the report has."""
        found = ["def_time2train", "def_throughput", "def_accuracy", "def_p"] if self.models else []
        return found + (["def_metric", "def_early_stopping", "def_gate"] if self.inference else [])

    @property
    def has_commands(self) -> bool:
        return any(command is not None for _, command in self.commands)

    @property
    def check_commands(self) -> str:
        return "\n".join(clean(line, 20_000) for line in check_commands(self.runs, self.options))

    @property
    def notes(self) -> list[tuple[str, list[str]]]:
        """(run, remarks: notes of the figures, warnings, what its log lacks)."""
        found = []
        for run in self.runs:
            missing = self.t("and").join(self.t(f"missing_{name}") for name in run.missing)
            remarks = [*run.notes, *(f"{self.t('warning')}: {text}" for text in run.warnings[:50])]
            remarks += [f"{self.t('detail')}: {run.detail}"] if run.detail else []
            if isinstance(run, ReportedRun) and (found_in := _qualities(run)):
                remarks.append(f"{self.t('quality')}: {found_in}")
            remarks += [f"{metric}: {text}" for metric, text in dictionary(run.data.get("signatures")).items()]
            found.append((run.name, remarks + ([f"{self.t('missing')}: {missing}"] if missing else [])))
        return [(name, remarks) for name, remarks in found if remarks]


class Model:
    """One benchmark of a report: its rows, pictures, runs and recipe."""

    def __init__(self, groups: list[Group], number: int, t: Texts):
        self.groups, self.t = groups, t
        self.key = f"m{number + 1}-{slug(groups[0].benchmark)}"
        self.title = _title(groups[0].runs[0].config) or t("unknown_benchmark")
        self.labels = {group.number: _label(group, t) for group in groups}
        self.runs = [(group, run) for group in groups for run in group.runs]
        self.rows = summary_rows(groups)
        self.pictures = plots.pictures(groups, self.key, self.labels, t)
        self.metric = tasks.headline(groups[0].runs[0].config)
        self.drawn = {picture.name: pictures.inline(picture) for picture in self.pictures if picture.height}
        empty = [picture.title for picture in self.pictures if not picture.height]
        self.not_drawn = t("not_drawn", names=t("and").join(empty)) if empty else ""
        self.unit = t.unit(self.runs[0][1].summary["unit"])

    @property
    def targets(self) -> str:
        found = sorted({group.target for group in self.groups if group.target is not None})
        return ", ".join(plots.percent_or_number(target, self.metric) for target in found)

    def columns(self, table: Sequence[tuple[str, str, int, int]]) -> list[tuple[str, str, int, int]]:
        """Key, heading, decimals and factor of the columns; accuracies are printed as the task's metric is."""
        unit = self.metric.digits, self.metric.scale
        return [(key, self.heading(text), *(unit if key.endswith("accuracy") else rest)) for key, text, *rest in table]

    def heading(self, text: str) -> str:
        """The heading of a column; of a metric that is not printed in per cent with the metric's name."""
        heading = self.t(text)
        return heading if self.metric.scale == 100 else heading.replace("(%)", f"({self.metric.name})")

    @property
    def amp(self) -> list[str]:
        return [
            self.t(
                "amp_ratio",
                cards=cards(amp.group, self.t),
                ratio=f"{ratio:.2f}",
                amp=f"{amp.throughput.value:.1f}",
                fp32=f"{fp32.throughput.value:.1f}",
            )
            for amp, fp32, ratio in amp_ratios(self.rows)
        ]

    @cached_property
    def recipe(self) -> Columns:
        names = [self.labels[group.number] for group in self.groups]
        return Columns(names, [recipe_of(group.runs[0]) for group in self.groups], self.t)

    def states(self, run: ReportedRun) -> list[tuple[str, bool]]:
        return states(run, self.t)

    @property
    def figures(self) -> list[list[str]]:
        """The cells of FlagPerf's table, a row for each run that states its number of cards."""
        runs = [run for group, run in self.runs if group.cards is not None]
        return [flagperf.row(_printable(run))[2:-2].split(" | ") for run in runs]

    @property
    def indicators(self) -> list[tuple[str, str, str]]:
        """FlagPerf's common figures: (name, value, remark)."""
        t, run = self.t, self.runs[0][1]
        task = tasks.of(run.config)
        title = task.title.get(t.language, "") if task else ""
        device = ", ".join(dict.fromkeys(str(run.flagperf["device"]) for _, run in self.runs if run.flagperf["device"]))
        data = ", ".join(dict.fromkeys(str(run.data["source"]) for _, run in self.runs if run.data.get("source")))
        names = (
            ("precision", "precision"),
            ("fix_hp", "fix_hp"),
            ("mem", "mem"),
            ("e2e", "e2e_time"),
            ("whole", "p_whole"),
            ("train", "p_train"),
            ("core", "p_core"),
            ("acc", "acc"),
        )
        seen = [(t(f"fp_{key}"), t("fp_see", name=name), t(f"fp_{key}_remark")) for key, name in names]
        head = [(t("fp_task"), title, ""), (t("model"), self.title, ""), (t("fp_data"), data, "")]
        return [*head, *seen[:2], (t("fp_device"), device, ""), *seen[2:], (t("fp_extra"), t("unknown"), "")]


def states(run: ReportedRun, t: Texts) -> list[tuple[str, bool]]:
    """(how the run ended, whether a reader must be warned of it)."""
    summary, reason = run.summary, run.summary["reason"]
    time2train, is_stated = run.figure("time2train", "target_quality_time")
    found = [(t("state_resumed", count=summary["num_resumes"]), True)] if not summary["comparable"] else []
    if not run.ended:
        return [*found, (t("state_unfinished"), True)]
    if summary["status"] == "aborted" and reason == "epochs":
        return [*found, (t("state_epochs"), True)]
    if summary["status"] not in ("success", None):
        return [*found, (t("state_aborted", reason=reason or summary["status"]), True)]
    if time2train is not None:
        key = "state_stated" if is_stated else "state_reached"
    else:
        key = "state_success" if summary["status"] else "state_ended"
    return [*found, (t(key), False)]


def cards(group: Group, t: Texts) -> str:
    """How many cards, in words."""
    return t("cards_unknown") if group.cards is None else t("cards", count=group.cards)


def moment(t: float) -> str:
    """A time of the log as UTC, to the second."""
    try:
        return datetime.fromtimestamp(t, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, OSError, ValueError):
        return f"{t:.0f}"


def slug(text: object) -> str:
    """Text as part of a file name or an anchor."""
    return re.sub(r"[^a-z0-9]+", "-", str(text or "unknown").lower()).strip("-")[:40] or "unknown"


def _inference_models(runs: list[InferenceRun], t: Texts) -> list[InferenceModel]:
    """The inference runs of each benchmark, in the order of the runs."""
    by_benchmark: dict[str | None, list[InferenceRun]] = {}
    for run in runs:
        by_benchmark.setdefault(run.config["benchmark"], []).append(run)
    return [
        InferenceModel(found, f"i{place}-{slug(name)}", _title(found[0].config) or t("unknown_benchmark"), t)
        for place, (name, found) in enumerate(by_benchmark.items(), 1)
    ]


def _title(config: Event) -> str:
    """The model as its authors write it, with the words that distinguish its networks: BERT-large of bert_large."""
    benchmark, task = str(config.get("benchmark") or ""), tasks.of(config)
    if task is None or not benchmark.startswith(task.name):
        return benchmark
    return "-".join([task.model, *benchmark.removeprefix(task.name).split("_")[1:]])


def _qualities(run: ReportedRun) -> str:
    """The metrics of the last evaluation, where it has several."""
    found, task = dictionary(run.summary["quality"]), tasks.of(run.config)
    names = [name for name in found if number(found[name]) is not None and "/" not in name]
    metrics = {name: task and task.metric(name) for name in names}
    texts = [f"{name} {(each or tasks.Metric(name, '.4g')).text(found[name])}" for name, each in metrics.items()]
    return ", ".join(texts) if len(texts) > 1 else ""


def _label(group: Group, t: Texts) -> str:
    return " · ".join(str(part) for part in (cards(group, t), group.precision, group.distinction) if part)


def _printable(run: ReportedRun) -> dict:
    """FlagPerf's columns as text without the table's separator."""
    found = {key: value.replace("|", "/") if isinstance(value, str) else value for key, value in run.flagperf.items()}
    if found["mem_total"] is None:
        found["mem_used"] = None
    return {**found, "precision": str(found["precision"] or "")}


def _name_apart(runs: list[ReportedRun | InferenceRun]) -> None:
    """Give runs of one name as much of their paths as distinguishes them, or a number where nothing does."""
    for depth in range(2, 6):
        names = Counter(run.name for run in runs)
        for run in runs:
            if names[run.name] > 1:
                run.name = clean("/".join(run.path.resolve().parts[-depth:]), 200)
    names = Counter(run.name for run in runs)
    for place, run in enumerate(runs, 1):
        if names[run.name] > 1:
            run.name = f"{run.name} #{place}"
