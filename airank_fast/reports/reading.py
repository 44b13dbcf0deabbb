"""Reads a run for a report: vetted figures and thinned curves, whichever program wrote its log. `read` decides whether
it is one of training or of inference (inference_reading.py).

Text of a log is cleaned here (no control characters, bounded length). A figure that is no number becomes None, and
`missing` lists what the log lacks.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from pathlib import Path

from airank_fast.errors import UserError
from airank_fast.record.events import Event, effective
from airank_fast.record.foreign.read import Run, cards_in_name, read_run
from airank_fast.record.formats.flagperf import flagperf
from airank_fast.record.inference_reading import is_inference
from airank_fast.reports import inference_reading
from airank_fast.reports.cleaning import MAX_ITEMS, clean, number
from airank_fast.reports.curves import Curve, RateOverTime, thin
from airank_fast.reports.examples import Example, read_examples
from airank_fast.reports.inference_reading import InferenceRun
from airank_fast.reports.judging import Verdict, judge

_MALFORMED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
_RATES = ("p_whole", "p_train", "p_core", "avg_ips")
_TYPES = {  # of the fields of run_config that figures and groups use
    "benchmark": str,
    "unit": str,
    "precision": str,
    "target": float,
    "world_size": int,
    "global_batch_size": int,
    "samples_per_epoch": int,
}


@dataclass
class ReportedRun:
    """A run's figures (see metrics.summarize; None where the log gives none), its setting and its curves."""

    name: str
    path: Path
    format: str
    summary: dict
    config: Event
    system: Event
    data: Event
    flagperf: dict
    start_t: float | None  # unix seconds
    ended: bool
    stated: dict[str, tuple[float, str]]  # figures that the log alone states: value, unit
    evaluations: Curve  # accuracy over seconds since run_start
    loss: Curve  # over samples
    learning_rate: Curve  # over samples
    throughput: Curve  # over seconds since run_start
    seconds: dict[str, float]  # where the time from run_start to run_stop went
    verdict: Verdict  # what the rule books find
    warnings: list[str] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  # what the log lacks, as keys of texts.py without missing_

    @property
    def total_s(self) -> float | None:
        """Seconds from run_start to run_stop."""
        return self.summary["total_time"]

    @property
    def notes(self) -> list[str]:
        """Remarks about the figures."""
        return self.summary["notes"]

    @property
    def detail(self) -> str | None:
        """How the run ended, in its own words."""
        return self.summary["detail"]

    @property
    def counts(self) -> bool:
        """Whether the run was not resumed, aborted or cut off, so that its figures may be in a summary."""
        status, reason = self.summary["status"], self.summary["reason"]
        return self.ended and self.summary["comparable"] and (status in ("success", None) or reason == "epochs")

    def figure(self, name: str, stated: str) -> tuple[float | None, bool]:
        """A figure, and whether the log alone states it, under the name `stated`."""
        value = self.summary.get(name)
        if value is None and stated in self.stated:
            return self.stated[stated][0], True
        return value, False


def read(path: Path, given: dict | None = None) -> ReportedRun | InferenceRun:
    """The run at `path`, one of training or of inference; `given` has facts that its log may lack (see settings.py).

    UserError if none can be read.
    """
    given = dict(given or {})
    if cards := cards_in_name(path):
        given.setdefault("world_size", cards)
    try:
        if is_inference(path):
            return inference_reading.read(path, given)
        return _reported(read_run(path, given or None), given)
    except UserError:
        raise
    except _MALFORMED as error:
        required = "must have events with the fields of their kinds"
        raise UserError(f"{path}: {required}, got {type(error).__name__}: {error}") from None


def _reported(run: Run, given: dict) -> ReportedRun:
    config = _config(run.first("run_config"))
    events = [{**event, **config} if event["kind"] == "run_config" else event for event in run.events]
    stated = {name: config.get(name) for name in ("benchmark", "precision", "unit", "target", "world_size")}
    summary = _vetted(run.summary) | dict.fromkeys(_absent(run), None) | stated
    events = effective(events) if summary["num_resumes"] else events
    start_t = number(run.first("run_start").get("t"))
    loss, learning_rate = _loss_and_learning_rate(events)
    reported = ReportedRun(
        name=clean(run.path.resolve().name, 200),
        path=run.path,
        format=run.format,
        summary=summary,
        config=config,
        system=clean(run.first("system")),
        data=clean(run.first("data")),
        flagperf=_flagperf(events, summary),
        start_t=start_t,
        ended=any(event["kind"] == "run_stop" for event in events),
        stated=_stated(run.events),
        evaluations=_evaluations(events, start_t),
        loss=loss,
        learning_rate=learning_rate,
        throughput=_throughput(events, start_t, summary["units_per_sample"] or 1),
        seconds=_seconds(run, summary),
        verdict=judge(run.path, config, given),
        examples=read_examples(run.path, run.first("examples")),
        warnings=[clean(str(event.get("message"))) for event in run.events if event["kind"] == "warning"][:MAX_ITEMS],
    )
    reported.missing = _missing(reported)
    return reported


def _config(event: Event) -> Event:
    """A run_config with clean text, and None for fields of the wrong type."""
    config = clean({key: value for key, value in event.items() if key not in ("t", "kind", "command")})
    for name, required in _TYPES.items():
        value = config.get(name) if required is str else number(config.get(name))
        if required is int:
            fits = isinstance(value, int) and 0 < value < 1 << 53
        else:
            fits = isinstance(value, str if required is str else (int, float))
        config[name] = value if fits else None
    if isinstance(command := event.get("command"), list):
        config["command"] = [clean(str(word), 20_000) for word in command]
    return config


def _vetted(summary: dict) -> dict:
    """The figures with None for those that are no number, and for rates of no counted sample."""
    found = {}
    for key, value in summary.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        found[key] = number(value) if is_number else clean(value)
    if not summary.get("trained_samples", True):
        found.update(dict.fromkeys(("trained_samples", *_RATES), None))
    return found


def _flagperf(events: list[Event], summary: dict) -> dict:
    """FlagPerf's columns, with None for figures that the log does not give."""
    figures = flagperf(events)
    vetted = {name: summary[name] for name in ("e2e_time", *_RATES)}
    return _vetted({**figures, "device": str(figures["device"]), **vetted})


def _absent(run: Run) -> set[str]:
    """Figures that the log does not give although they are numbers, because a sum over nothing is 0."""
    kinds = {event["kind"] for event in run.events}
    absent = set() if "process_start" in kinds else {"e2e_time"}
    absent |= set() if "epoch_stop" in kinds else {"epochs"}
    timed = any(event.get("core_s") for event in run.events)
    return absent if timed else absent | {"core_s", "data_wait_s", "h2d_s", "measure_s"}


def _stated(events: list[Event]) -> dict[str, tuple[float, str]]:
    figures = [event for event in events if event["kind"] == "figure" and number(event.get("value")) is not None]
    return {clean(str(event["name"])): (event["value"], clean(str(event.get("unit") or ""))) for event in figures}


def _evaluations(events: list[Event], start_t: float | None) -> Curve:
    if start_t is None:
        return Curve()
    stops = [event for event in events if event["kind"] == "eval_stop" and number(event.get("accuracy")) is not None]
    return thin([event["t"] - start_t for event in stops], [event["accuracy"] for event in stops])


def _loss_and_learning_rate(events: list[Event]) -> tuple[Curve, Curve]:
    """Loss and learning rate over the samples trained when their step began."""
    samples, losses, rates = array("d"), array("d"), array("d")
    trained = 0.0
    for event in events:
        if event["kind"] != "steps":
            continue
        count = event["num_steps"]
        step_samples = event["samples"] / count if count else 0.0
        first = (event["first_step"] - 1) * step_samples or trained
        for index, (loss, rate) in enumerate(zip(event.get("loss") or (), event.get("lr") or (), strict=False)):
            samples.append(first + index * step_samples)
            losses.append(loss)
            rates.append(rate)
        trained = first + event["samples"]
    return thin(samples, losses), thin(samples, rates)


def _throughput(events: list[Event], start_t: float | None, units: float) -> Curve:
    """Throughput in units a second, where a sample has so many `units`."""
    rates = RateOverTime()
    since = None  # the begin of the training that the next event reports
    in_steps = trained = 0.0  # samples of this block that `steps` report; those of the run
    for event in events if start_t is not None else ():
        kind, t = event["kind"], event["t"]
        if kind == "block_start":
            since, in_steps = t, 0.0
        elif kind in ("eval_stop", "checkpoint") and since is not None:
            since = t
        elif kind == "steps" and since is not None:
            rates.add(since - start_t, t - start_t, event["samples"] * units)
            since, in_steps, trained = t, in_steps + event["samples"], trained + event["samples"]
        elif kind in ("block_stop", "process_start", "run_stop"):
            samples = number(event.get("samples")) or 0.0
            if since is not None and not in_steps and samples > trained:  # a log without steps
                rates.add(since - start_t, t - start_t, (samples - trained) * units)
            since, trained = None, max(trained, samples)
    return rates.curve()


def _seconds(run: Run, summary: dict) -> dict[str, float]:
    """The time from run_start to run_stop in parts that add up to it; {} where the log gives no part.

    Parts: core, wait, h2d (what of the copies did not run beside core), rest (of the steps), evaluation, other
    (outside steps and evaluations); or steps, where the log does not divide them. Core and wait are
    the largest over ranks and are cut where they would exceed what is left.
    """
    total_s = summary["total_time"]
    steps_s = _block_seconds(run.events)
    if total_s is None or not total_s > 0 or not (steps_s or summary["evaluation_s"]):
        return {}
    if summary["evaluations"] and summary["evaluation_s"] is None:  # their share of a block is not stated
        return {}
    left_s = total_s
    parts = {"evaluation": min(summary["evaluation_s"] or 0.0, left_s)}
    left_s -= parts["evaluation"]
    steps_s = min(steps_s, left_s)
    parts["other"] = left_s - steps_s
    if not summary["core_s"]:
        return {"steps": steps_s, **parts} if steps_s else {}
    core_s, wait_s, h2d_s = summary["core_s"], summary["data_wait_s"] or 0.0, summary["h2d_s"] or 0.0
    if not run.first("system").get("accelerators_per_node", 1):
        wait_s = max(wait_s - h2d_s, 0.0)  # on a CPU the batch is converted while the step waits for it
    found = {}
    for name, spent_s in (("core", core_s), ("wait", wait_s), ("h2d", h2d_s)):
        found[name] = min(spent_s, steps_s)
        steps_s -= found[name]
    return {**found, "rest": steps_s, **parts}


def _block_seconds(events: list[Event]) -> float:
    """Time in blocks of training; one that its process left open ends with that process's last event."""
    spent_s, since, last_t = 0.0, None, None
    for event in events:
        kind, t = event["kind"], event["t"]
        if since is not None and kind in ("block_stop", "run_stop", "block_start", "process_start", "resume"):
            spent_s += max((last_t if kind in ("process_start", "resume") else t) - since, 0.0)
            since = None
        if kind == "block_start":
            since = t
        last_t = t
    return spent_s + (last_t - since if since is not None else 0.0)


def _missing(run: ReportedRun) -> list[str]:
    carried = {
        "run_stop": run.ended,
        "benchmark": run.config.get("benchmark"),
        "world_size": run.config.get("world_size"),
        "target": run.config.get("target") is not None,
        "samples": run.summary["trained_samples"],
        "evaluations": len(run.evaluations),
        "steps": len(run.loss),
        "seconds": run.seconds,
        "memory": run.summary["mem_used_gib"] is not None,
        "system": run.system,
        "recipe": run.config.get("recipe") or run.config.get("reported"),
        "command": run.config.get("command"),
        "seed": run.config.get("seed") is not None,
    }
    return [name for name, is_there in carried.items() if not is_there]
