"""The results of inference runs: MLPerf's metric of each scenario, AI-Rank's table rows, and coverage.

Source: mlcommons/inference_policies, inference_rules.adoc, and the submission checker's RESULT_FIELD; AI-Rank
docs/software/inference_{cloud,mobile}.md, 评价指标. docs/scoring.md states the decisions that they leave open. GP2BM's
score has no inference part.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace

from airank_fast import tasks
from airank_fast.errors import UserError
from airank_fast.numeric import is_float
from airank_fast.record.events import dictionary
from airank_fast.record.formats.airank_inference import MIB
from airank_fast.record.inference_metrics import LoadTest
from airank_fast.record.inference_reading import InferenceRun
from airank_fast.record.tables import table
from airank_fast.rules import early_stopping, inference_profiles

_MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
_MS, _QPS, _SAMPLES = "ms", "queries/s", "samples/s"
_SCENARIOS = ("singlestream", "multistream", "server", "offline")
_PER_QUERY = 8  # samples of a MultiStream query
# The terminal devices that AI-Rank's mobile text prescribes, and those that it admits: name -> words in a system's.
_REQUIRED = {
    "Snapdragon 865": ("snapdragon 865", "qualcomm865", "sm8250"),
    "Snapdragon 835": ("snapdragon 835", "qualcomm835", "msm8998"),
    "Snapdragon 625": ("snapdragon 625", "qualcomm625", "msm8953"),
    "Kirin 990": ("kirin 990", "kirin990"),
    "RK3399": ("rk3399",),
}
_RASPBERRY = {"Raspberry Pi 4B": ("raspberry pi 4",)}
_OPTIONAL = {
    "RK3288": ("rk3288",),
    "iPhone 11": ("iphone 11",),
    "iPhone XR": ("iphone xr",),
    "iPhone 6s": ("iphone 6s", "iphone6s"),
    "iPhone 5s": ("iphone 5s", "iphone5s"),
    "Jetson AGX Xavier": ("agx xavier",),
    "Jetson Nano": ("jetson nano",),
    "Jetson TX2": ("jetson tx2",),
}
DEVICES = {  # profile -> (prescribed, admitted)
    "airank-2020-12": (_REQUIRED | _RASPBERRY, _OPTIONAL),
    "airank-2021-05": (_REQUIRED, _OPTIONAL | _RASPBERRY),
}


@dataclass(frozen=True)
class Result:
    """A scenario's result; `inferred` says what it follows from where the scenario was not run."""

    run: str
    model: str
    profile: str
    division: str | None
    system: str
    precision: str | None
    scenario: str
    metric: str
    value: float | None
    unit: str
    accuracy: float | None
    inferred: str | None = None
    problems: tuple[str, ...] = ()

    @property
    def valid(self) -> bool:
        """Whether it can be handed in."""
        return self.value is not None and not self.problems


@dataclass(frozen=True)
class Row:
    """A row of AI-Rank's summary: of the cloud text with `online`, of the mobile text with the other figures."""

    run: str
    model: str
    device: str  # cloud | mobile
    profile: str
    hardware: str
    offline: float | None = None  # samples/s
    online: float | None = None  # samples/s
    latency_ms: float | None = None
    max_batch: float | None = None
    memory_mib: float | None = None
    accuracy: float | None = None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Coverage:
    """Models with a sound row, of those that a text lists; of the mobile text pairs of device and model too."""

    profile: str
    device: str
    models: tuple[str, ...]
    num_models: int
    hardware: tuple[str, ...] = ()
    num_hardware: int = 0
    pairs: int = 0
    num_pairs: int = 0


@dataclass(frozen=True)
class InferenceScore:
    """MLPerf's results, AI-Rank's rows and their coverage; notes on scenarios that are neither."""

    results: list[Result] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    coverage: list[Coverage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def valid(self) -> bool:
        """Whether there is a result or row, and each of them is sound."""
        sound = [each.valid for each in self.results] + [not row.problems for row in self.rows]
        return bool(sound) and all(sound)


def score(runs: Sequence[InferenceRun], is_rehearsal: bool = False, rules: str = "all") -> InferenceScore:
    """The results of inference runs by the rules of mlperf, airank or all.

    With `is_rehearsal` short runs and embedded data are judged as well. UserError for a run with malformed events.
    """
    results, rows, notes = [], [], []
    for run in runs:
        notes += _left_out(run)
        try:
            results += mlperf_results(run, is_rehearsal) if rules != "airank" else []
            rows += airank_rows(run, is_rehearsal) if rules != "mlperf" else []
        except _MALFORMED as error:
            required = "must have events with the fields of their kinds"
            raise UserError(f"{run.path}: {required}, got {type(error).__name__}: {error}") from None
    return InferenceScore(results, rows, coverage(rows), notes)


def to_json(found: InferenceScore) -> dict:
    """The score as JSON values."""
    results = [asdict(result) | {"valid": result.valid} for result in found.results]
    airank = {"rows": [asdict(row) for row in found.rows], "coverage": [asdict(each) for each in found.coverage]}
    return {"mlperf": results, "airank": airank, "valid": found.valid, "gp2bm": None, "notes": found.notes}


def _left_out(run: InferenceRun) -> list[str]:
    """Scenarios that were measured under a profile of other rules: figures, but no result and no row."""
    profile, measured = str(run.summary["profile"]), run.summary["scenarios"]
    own = measured if profile.startswith("airank") else [name for name in measured if name in _SCENARIOS]
    left = [name for name in measured if profile == "flagperf" or name not in own]
    rules = (
        "FlagPerf has no score" if profile == "flagperf" else f"measured under {profile}, which AI-Rank's rows are not"
    )
    return [f"{run.path}: no result of {', '.join(left)}: {rules}"] if left else []


# MLPerf


def mlperf_results(run: InferenceRun, is_rehearsal: bool = False) -> list[Result]:
    """The result of each scenario of a run of MLPerf's profiles, and those that an edge system may infer."""
    profile = inference_profiles.PROFILES.get(str(run.summary["profile"]))
    if profile is None or not profile.scenarios:
        return []
    names = [name for name in run.tally.scenarios() if name in _SCENARIOS]
    measured = {name: run.tally.performance(name) for name in names}
    results = []
    for name, test in measured.items():
        metric, value, unit = _metric(test, run.summary["scenarios"][name])
        results.append(_result(run, name, metric, value, unit, _problems(run, name, is_rehearsal)))
    if "server" not in measured and profile.scenarios["singlestream"].early_stopping:  # an edge system
        results += _inferred(run, measured, is_rehearsal)
    return results


def _metric(test: LoadTest, figures: dict) -> tuple[str, float | None, str]:
    """(name of the field that counts, value, unit) of a scenario."""
    metric, early = figures["metric"] or {}, figures["early_stopping"]
    if test.scenario in ("singlestream", "multistream"):
        if early is not None:
            return f"early_stopping_latency_{test.scenario[0]}s", _ms(early["estimate_s"]), _MS
        share = "p90" if test.scenario == "singlestream" else "p99"
        return f"latency_{share}", _ms(metric.get(f"latency_{share}_s", figures[f"latency_{share}_s"])), _MS
    if test.scenario == "server":
        return "result_scheduled_samples_per_sec", metric.get("scheduled_qps"), _QPS
    return "result_samples_per_second", metric.get("samples_per_s", figures["samples_per_s"]), _SAMPLES


def _inferred(run: InferenceRun, measured: dict[str, LoadTest], is_rehearsal: bool) -> list[Result]:
    """MultiStream = 8 x SingleStream's early-stopping p99; Offline = samples of a query / its mean latency."""
    single, multi = measured.get("singlestream"), measured.get("multistream")
    found = []
    if single is not None and multi is None:
        estimate_s = early_stopping.estimate(sorted(single.latency_s), 0.99)
        value = None if estimate_s is None else _ms(_PER_QUERY * estimate_s)
        problems = _problems(run, "singlestream", is_rehearsal)
        if value is None:
            problems = (*problems, "too few SingleStream queries for an early-stopping estimate of p99")
        what = "8 x SingleStream's early-stopping p99"
        found.append(
            _result(run, "multistream", "early_stopping_latency_ms", value, _MS, problems, what, "singlestream")
        )
    source, size = (multi, _PER_QUERY) if multi is not None else (single, 1)
    if source is not None and "offline" not in measured:
        mean_s = run.summary["scenarios"][source.scenario]["latency_mean_s"]
        what = f"{size} / mean latency of {source.scenario}"
        problems = _problems(run, source.scenario, is_rehearsal)
        value = size / mean_s if mean_s else None
        name = "result_samples_per_second"
        found.append(_result(run, "offline", name, value, _SAMPLES, problems, what, source.scenario))
    return found


def _result(
    run: InferenceRun,
    scenario: str,
    metric: str,
    value: float | None,
    unit: str,
    problems: tuple[str, ...],
    inferred: str | None = None,
    source: str | None = None,
) -> Result:
    summary = run.summary
    return Result(
        run=str(run.path),
        model=str(summary["benchmark"]),
        profile=str(summary["profile"]),
        division=_text(summary["division"]),
        system=hardware_of(run),
        precision=_text(summary["precision"]),
        scenario=scenario,
        metric=metric,
        value=_number(value),
        unit=unit,
        accuracy=_accuracy(run, source or scenario),
        inferred=inferred,
        problems=problems,
    )


def _problems(run: InferenceRun, scenario: str, is_rehearsal: bool) -> tuple[str, ...]:
    """The reasons why a scenario's figure is no result."""
    summary = run.summary
    figures, judged = summary["scenarios"][scenario], run.tally.accuracy_of(scenario)
    problems = [] if figures["valid"] else ["not valid: " + ("; ".join(figures["reasons"] or ()) or "no reason given")]
    if not judged:
        problems.append("no accuracy run")
    elif not judged.get("passed"):
        problems.append("accuracy below its bound")
    if not is_rehearsal:
        if summary["is_rehearsal"] or summary["is_quick"]:
            problems.append("a rehearsal: embedded data, or a short run")
        elif summary["division"] == "closed" and summary["trained_here"]:
            problems.append("weights that were trained here: the open division only")
    failed = [name for name, passed in summary["compliance"].get(scenario, {}).items() if not passed]
    return (*problems, *(f"{name} failed" for name in failed))


def _accuracy(run: InferenceRun, scenario: str) -> float | None:
    accuracies = run.summary["accuracy"]
    found = accuracies.get(scenario) or (next(iter(accuracies.values())) if len(accuracies) == 1 else {})
    return _number(found.get("value"))


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else _number(seconds) * 1e3


def _number(value: object) -> float | None:
    """A figure of an event, which anybody may have written; TypeError if it is no number."""
    if value is not None and not is_float(value):
        raise TypeError(f"a number is required, got {type(value).__name__}")
    return value


def _text(value: object) -> str | None:
    return None if value is None else str(value)


# AI-Rank


def airank_rows(run: InferenceRun, is_rehearsal: bool = False) -> list[Row]:
    """The rows of a run of AI-Rank's profiles: one of the cloud text, one of the mobile text, as far as it has them."""
    profile, figures = str(run.summary["profile"]), run.summary["scenarios"]
    if not profile.startswith("airank"):
        return []
    is_mobile = run.tally.system.get("hardware_type") == "mobile"
    devices = {"cloud": ("online",), "mobile": ("latency", "max-batch")}
    found = []
    for device, own in devices.items():
        has_own = any(name in figures for name in own)
        if has_own or ("offline" in figures and is_mobile == (device == "mobile")):
            names = [name for name in ("offline", *own) if name in figures]
            found.append(_row(run, device, names, is_rehearsal))
    return found


def _row(run: InferenceRun, device: str, names: list[str], is_rehearsal: bool) -> Row:
    figures, profile = run.summary["scenarios"], str(run.summary["profile"])
    problems = dict.fromkeys(text for name in names for text in _problems(run, name, is_rehearsal))
    batch = dictionary(figures.get("max-batch"))
    used = dictionary(batch.get("memory")).get("total_bytes") if profile == "airank-2020-12" else None

    def figure(scenario: str, name: str) -> float | None:
        return _number(dictionary(figures.get(scenario)).get(name)) if scenario in names else None

    return Row(
        run=str(run.path),
        model=str(run.summary["benchmark"]),
        device=device,
        profile=profile,
        hardware=hardware_of(run),
        offline=figure("offline", "samples_per_s"),
        online=figure("online", "samples_per_s"),
        latency_ms=_ms(figure("latency", "latency_p90_linear_s")),
        max_batch=_number(dictionary(batch.get("metric")).get("batch")) if "max-batch" in names else None,
        memory_mib=None if used is None or device != "mobile" else _number(used) / MIB,
        accuracy=_accuracy(run, names[0]),
        problems=tuple(problems),
    )


def coverage(rows: Iterable[Row]) -> list[Coverage]:
    """The coverage of each profile and text among the rows; rows with problems do not count."""
    rows, found = list(rows), []
    for profile, device in dict.fromkeys((row.profile, row.device) for row in rows):
        sound = [row for row in rows if (row.profile, row.device) == (profile, device) and not row.problems]
        listed = inference_profiles.models_of(profile, device)
        models = {row: task.name for row in sound if (task := tasks.find(row.model)) and task.name in listed}
        each = Coverage(profile, device, tuple(sorted(set(models.values()))), len(listed))
        if device == "mobile":
            each = _with_hardware(each, models)
        found.append(each)
    return found


def _with_hardware(found: Coverage, models: dict[Row, str]) -> Coverage:
    """硬件适配能力: the tasks completed on the listed devices / all of them, prescribed and admitted."""
    prescribed, admitted = DEVICES[found.profile]
    pairs = {(device, name) for row, name in models.items() if (device := device_of(row.hardware, found.profile))}
    num_devices = len(prescribed) + len(admitted)
    return replace(
        found,
        hardware=tuple(sorted({device for device, _ in pairs})),
        num_hardware=num_devices,
        pairs=len(pairs),
        num_pairs=num_devices * found.num_models,
    )


def device_of(hardware: str, profile: str) -> str | None:
    """The listed terminal device that a system's name names; None of another."""
    prescribed, admitted = DEVICES[profile]
    text = " ".join(hardware.lower().split())
    return next((name for name, words in (prescribed | admitted).items() if any(word in text for word in words)), None)


def hardware_of(run: InferenceRun) -> str:
    """The system's name, with its accelerator's, or its processor's without one."""
    system = run.tally.system
    accelerator = system.get("accelerator_name")
    part = system.get("host_processor_name") if accelerator in (None, "", "N/A") else accelerator
    return ", ".join(dict.fromkeys(str(each) for each in (system.get("hardware_name"), part) if each)) or "not stated"


# text


def text(found: InferenceScore) -> list[str]:
    """The score as lines for a terminal."""
    lines = [f"note: {note}" for note in found.notes]
    if found.results:
        lines += ["MLPerf inference", *_results_table(found.results)]
        lines += _problem_lines((f"{r.run} {r.scenario}", r.problems) for r in found.results)
        lines += ["GP2BM: its score has no inference part", ""]
    for device, title in (("cloud", "AI-Rank inference, cloud (云端)"), ("mobile", "AI-Rank inference, mobile (终端)")):
        rows = [row for row in found.rows if row.device == device]
        if rows:
            lines += [title, *_rows_table(rows, device)]
            lines += _problem_lines((f"{row.run} {device}", row.problems) for row in rows)
            for each in (each for each in found.coverage if each.device == device):
                lines += _coverage_lines(each)
            lines.append("")
    return lines


def _results_table(results: list[Result]) -> list[str]:
    cells = [
        [
            result.run,
            result.model,
            result.profile,
            result.division or "-",
            result.precision or "-",
            result.scenario + (" (inferred)" if result.inferred else ""),
            f"{_cell(result.value, '.6g')} {result.unit}",
            result.metric,
            _cell(result.accuracy, ".4%"),
            "yes" if result.valid else "no",
        ]
        for result in results
    ]
    header = ["run", "model", "profile", "division", "precision", "scenario", "result", "metric", "accuracy", "valid"]
    return table(header, cells)


def _rows_table(rows: list[Row], device: str) -> list[str]:
    header = ["model", "profile", "hardware"]
    own = {"offline": "离线吞吐(samples/sec)"}
    if device == "cloud":
        own |= {"online": "在线吞吐(samples/sec)"}
    else:
        own = {"latency_ms": "时延(ms)"} | own | {"max_batch": "最大并发推理量"}
        if any(row.memory_mib is not None for row in rows):
            own |= {"memory_mib": "内存占用(MiB)"}
    cells = [
        [
            *(row.model, row.profile, row.hardware),
            *(_cell(getattr(row, name), ".6g") for name in own),
            *(_cell(row.accuracy, ".4%"), "no" if row.problems else "yes"),
        ]
        for row in rows
    ]
    return table([*header, *own.values(), "准确率", "counts"], cells)


def _problem_lines(problems: Iterable[tuple[str, tuple[str, ...]]]) -> list[str]:
    return [f"problem: {place}: {problem}" for place, each in problems for problem in each]


def _coverage_lines(each: Coverage) -> list[str]:
    names = ", ".join(each.models) or "none"
    lines = [f"model coverage of {each.profile}: {len(each.models)}/{each.num_models} ({names})"]
    if each.device == "mobile":
        devices = ", ".join(each.hardware) or "none"
        share = each.pairs / each.num_pairs if each.num_pairs else 0.0
        lines.append(f"hardware coverage: {len(each.hardware)}/{each.num_hardware} ({devices})")
        lines.append(f"硬件适配能力: {each.pairs}/{each.num_pairs} = {share:.3f}")
    return lines


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
