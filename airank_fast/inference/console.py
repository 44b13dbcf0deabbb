"""Shows an inference run: a line for each stage as it ends, and the table of all scenarios at the end.

Everything shown comes from events and from the figures that are made from them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

from airank_fast import tasks
from airank_fast.record.events import Event
from airank_fast.record.tables import table

HEADER = ("scenario", "result", "accuracy", "p50", "p90", "p99", "samples/s", "memory", "verdict")
_RESULTS: Mapping[str, tuple[str, str]] = {  # scenario -> its figure and how it is shown
    "offline": ("samples_per_s", "samples/s"),
    "server": ("scheduled_qps", "queries/s"),
    "singlestream": ("latency_p90_s", "p90"),
    "multistream": ("latency_p99_s", "p99"),
    "online": ("concurrency", "clients"),
    "latency": ("latency_p90_s", "p90"),
    "max-batch": ("batch", "samples"),
    "flagperf": ("p_infer_core", "samples/s (core)"),
}

_TRIED = {"target_qps": "queries/s", "concurrency": "clients", "batch": "samples"}  # by the fields of a probe


class Console:
    """A subscriber of the event log that writes to `stream`. A stream that has gone away silences it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._metric = tasks.headline({})
        self._gone = False

    def __call__(self, event: Event) -> None:
        handle: Callable[[Event], str | None] | None = getattr(self, "_on_" + event["kind"], None)
        line = None if handle is None or self._gone else handle(event)
        if not line:
            return
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # ValueError: the stream was closed
            self._gone = True

    def _on_infer_config(self, event: Event) -> str:
        self._metric = tasks.headline(event)
        checkpoint, data = event["checkpoint"], event["data"]
        lines = [f"{event['benchmark']}: {checkpoint['file']}, on {data['source']} ({data['eval_samples']} samples)"]
        if event["is_rehearsal"]:
            lines.append("a rehearsal: nothing of this run may be handed in (docs/inference.md)")
        return "\n".join(lines)

    def _on_model(self, event: Event) -> str:
        engine = event["engine"]
        return (
            f"engine: {engine.get('name')} {engine.get('version', '')}, {engine.get('precision')}, "
            f"{engine.get('threads')} threads, {_mib(event.get('file_bytes'))}, "
            f"loaded in {seconds(event.get('load_s'))}, first inference {seconds(event.get('first_inference_s'))}"
        )

    def _on_quantize(self, event: Event) -> str:
        return f"int8: calibrated on {event['num_samples']} training samples"

    def _on_reference(self, event: Event) -> str:
        return f"reference: {self._quality(event)} ({event['source']})"

    def _on_accuracy(self, event: Event) -> str:
        verdict = "enough" if event["passed"] else "NOT enough"
        required = self._metric.text(event["required"])
        return f"{event['scenario']}: accuracy {self._quality(event)}, {verdict}: at least {required} is required"

    def _on_probe(self, event: Event) -> str:
        verdict = "valid" if event["valid"] else "not valid"
        named = ((event.get(name), word) for name, word in _TRIED.items())
        tried = ", ".join(f"{value:.4g} {word}" for value, word in named if value is not None)
        return f"{event['scenario']}: {event['purpose']}, {tried}: {verdict}"

    def _on_test_start(self, event: Event) -> str:
        least_s = event["settings"].get("min_duration_s")
        length = f", at least {least_s:.0f} s" if least_s and event["mode"] != "accuracy" else ""
        return f"{event['scenario']}: {event['mode']}{length} ..."

    def _on_test_stop(self, event: Event) -> str | None:
        if event["mode"] == "accuracy":
            return None
        verdict = "valid" if event["valid"] else f"NOT valid: {'; '.join(event['reasons'])}"
        return f"{event['scenario']}: {event['mode']} {result(event['scenario'], event['metric'])}, {verdict}"

    def _on_search(self, event: Event) -> str:
        rates = ((event["valid_qps"], "valid"), (event["refused_qps"], "not valid"))
        shown = " and ".join(f"{qps:.4g} {word}" for qps, word in rates if qps)
        return f"{event['scenario']}: of {event['probes']} rates {shown}"

    def _on_warning(self, event: Event) -> str:
        return f"warning: {event['message']}"

    def _on_run_stop(self, event: Event) -> str:
        return f"{event['status']} ({event['reason']})"

    def _quality(self, event: Event) -> str:
        if event.get("counted"):
            return (
                f"{event['correct']} of {event['counted']} ({self._metric.text(event['correct'] / event['counted'])})"
            )
        return self._metric.text(event["quality"][self._metric.name])


def result(scenario: str, metric: Mapping[str, Any]) -> str:
    """The figure of a scenario: 12.3 queries/s, p90 7.1 ms."""
    name, word = _RESULTS[scenario]
    value = metric.get(name)
    if value is None:
        return "-"
    if name.endswith("_s") and word.startswith("p"):
        return f"{word} {milliseconds(value)} ms"
    return f"{value:.4g} {word}"


def final_table(summary: Mapping[str, Any]) -> str:
    """The figures of `inference_metrics.summarize`, a row for each scenario; latencies in ms, memory in MiB.

    Below the rows is why a scenario is not valid.
    """
    scenarios: Mapping[str, Mapping[str, Any]] = summary["scenarios"]
    if not scenarios:
        return "no scenario was measured"
    rows = [_row(name, figures, summary) for name, figures in scenarios.items()]
    reasons = [f"{name}: {each}" for name, figures in scenarios.items() for each in figures.get("reasons") or ()]
    return "\n".join([*table(HEADER, rows), *reasons])


def _row(scenario: str, figures: Mapping[str, Any], summary: Mapping[str, Any]) -> Sequence[str]:
    accuracies: Mapping[str, Any] = summary["accuracy"]
    accuracy: Mapping[str, Any] = accuracies.get(scenario) or next(iter(accuracies.values()), {})
    metric, value = tasks.headline(summary), accuracy.get("value")
    memory = figures.get("memory") or {}
    return (
        scenario,
        result(scenario, figures.get("metric") or {}),
        "-" if value is None else metric.text(value),
        *(milliseconds(figures.get(f"latency_{name}_s")) for name in ("p50", "p90", "p99")),
        "-" if figures.get("samples_per_s") is None else f"{figures['samples_per_s']:.4g}",
        _mib(memory.get("total_bytes")),
        "valid" if figures.get("valid") else "NOT valid",
    )


def milliseconds(value_s: float | None) -> str:
    """Seconds as ms with four digits; - for None."""
    return "-" if value_s is None else f"{1000 * value_s:.4g}"


def seconds(value_s: float | None) -> str:
    """Seconds with three digits; - for None."""
    return "-" if value_s is None else f"{value_s:.3g} s"


def _mib(size_bytes: float | None) -> str:
    return "-" if size_bytes is None else f"{size_bytes / 2**20:.0f} MiB"
