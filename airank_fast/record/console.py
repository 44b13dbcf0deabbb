"""Shows a run: a progress bar on a terminal, else a line every few seconds; and the table of figures at its end.

Everything shown comes from events, so that showing it never makes the device wait.
"""

import math
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TextIO

from airank_fast import tasks
from airank_fast.record.events import Event, dictionary
from airank_fast.record.metrics import goal

_NOT_SAMPLES = ("tokens", "words")  # units of which a sample has many


class Console:
    """A subscriber of the event log that reports on `stream` (default: stderr).

    On a terminal a tqdm bar over `total_steps` (None: those of the data event); elsewhere a line at most
    every `interval_s` seconds. `history`: the events of an earlier process that this one resumes. A stream
    that has gone away (a closed pipe) silences it; it never ends a run.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        total_steps: int | None = None,
        interval_s: float = 5.0,
        history: Iterable[Event] = (),
    ):
        self._stream = sys.stderr if stream is None else stream
        self._gone = False
        self._total_steps = total_steps
        self._interval_s = interval_s
        self._shown_at = -interval_s
        self._bar = None
        self._epoch = 1
        self._step = 0
        self._rate_from: float | None = None  # when the last rate was shown
        self._counted = 0  # since then, in what `_unit` names
        self._best: float | None = None
        self._task: tasks.Task | None = None
        self._metric = tasks.headline({})
        self._target: Mapping[str, float] = {}
        self._unit = "samples"
        self._num_ranks = 1
        for event in history:
            if event["kind"] in ("run_config", "data"):
                self(event)
            elif event["kind"] == "eval_stop":
                self._keep_best(event["accuracy"])

    def __call__(self, event: Event) -> None:
        handle = getattr(self, "_on_" + event["kind"], None)
        if handle is None or self._gone:
            return
        try:
            handle(event)
        except (OSError, ValueError):  # ValueError: the stream was closed
            self._gone = True

    def close(self) -> None:
        """Keep the bar on the screen and end its line."""
        with suppress(OSError, ValueError):
            if self._bar is not None:
                self._bar.close()
        self._bar = None

    def _on_run_config(self, event: Event) -> None:
        self._task, self._metric, self._unit = tasks.of(event), tasks.headline(event), event.get("unit") or "samples"
        self._num_ranks = event.get("world_size") or 1
        self._target = goal(event)
        if event.get("precision_reason"):
            self._print(f"precision: {event['precision']} ({event['precision_reason']})")

    def _on_data(self, event: Event) -> None:
        self._total_steps = event.get("total_steps") or self._total_steps
        for metric, signature in dictionary(event.get("signatures")).items():
            self._print(f"{metric}: {signature}")

    def _on_resume(self, event: Event) -> None:
        self._step = event["step"]
        self._print(f"resumed at step {event['step']}")

    def _on_block_start(self, event: Event) -> None:
        self._rate_from, self._counted = event["t"], 0
        self._epoch = event.get("first_epoch", self._epoch)

    def _on_epoch_stop(self, event: Event) -> None:
        self._epoch = event["epoch"] + 1

    def _on_steps(self, event: Event) -> None:
        num_new = event["num_steps"]
        self._step = event["first_step"] + num_new - 1
        units = event.get("units")
        self._counted += event["samples"] if units is None else sum(units) * self._num_ranks  # units are rank 0's
        terminal = self._stream.isatty()
        if not terminal and time.monotonic() - self._shown_at < self._interval_s:
            return
        self._shown_at = time.monotonic()
        parts = [f"loss {event['loss'][-1]:.4f}", f"lr {event['lr'][-1]:.5f}"]
        if self._rate_from is not None and event["t"] > self._rate_from:
            unit = "samples" if units is None and self._unit in _NOT_SAMPLES else self._unit
            parts.append(f"{self._counted / (event['t'] - self._rate_from):.0f} {unit}/s")
        self._rate_from, self._counted = event["t"], 0
        if self._best is not None:
            parts.append(f"best {self._metric.text(self._best)}")
        if terminal:
            self._show_bar("  ".join(parts), since=event["first_step"] - 1)
        else:
            total = f"/{self._total_steps}" if self._total_steps else ""
            self._print("  ".join([f"epoch {self._epoch}", f"step {self._step}{total}", *parts]))

    def _on_eval_stop(self, event: Event) -> None:
        self._keep_best(event["accuracy"])
        of = "" if event.get("counted") is None else f" ({event['correct']} of {event['counted']})"
        parts = [f"accuracy {self._metric.text(event['accuracy'])}{of}"]
        others = {**dictionary(event.get("quality"))}
        others.pop(self._metric.name, None)
        parts += [f"{name} {self._text(name, value)}" for name, value in others.items() if "/" not in name]
        parts += [] if self._best is None else [f"best {self._metric.text(self._best)}"]
        parts += [_target_text(self._target, self._task, self._metric)] if self._target else []
        self._print(f"epoch {event['epoch']}: {', '.join(parts)}")

    def _keep_best(self, accuracy: float) -> None:
        numbers = [value for value in (accuracy, self._best) if value is not None and not math.isnan(value)]
        self._best = self._metric.best(numbers)

    def _text(self, name: str, value: float) -> str:
        """A value of any metric of the task, as printed."""
        return _metric(self._task, name).text(value)

    def _on_checkpoint(self, event: Event) -> None:
        self._print(f"step {event['step']}: checkpoint {event['path']} ({event['duration_s']:.1f} s)")

    def _on_warning(self, event: Event) -> None:
        self._print(f"warning: {event['message']}")

    def _on_run_stop(self, event: Event) -> None:
        self.close()
        self._print(f"{event['status']} ({event['reason']})")  # the detail is the command's last line

    def _show_bar(self, text: str, since: int) -> None:
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=self._total_steps, initial=since, file=self._stream, unit="step", dynamic_ncols=True)
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(self._step - self._bar.n)

    def _print(self, text: str) -> None:
        if self._bar is not None:
            self._bar.clear()
        self._stream.write(text + "\n")
        self._stream.flush()
        if self._bar is not None:
            self._bar.refresh()


def _metric(task: tasks.Task | None, name: str) -> tasks.Metric:
    return (task and task.metric(name)) or tasks.Metric(name, ".4g")


def _target_text(target: Mapping[str, float], task: tasks.Task | None, headline: tasks.Metric) -> str:
    """The target; with the names of its metrics, unless it is of the headline one alone."""
    if target.keys() == {headline.name}:
        return f"target {headline.text(target[headline.name])}"
    return f"target {' and '.join(f'{name} {_metric(task, name).text(value)}' for name, value in target.items())}"


def final_table(summary: dict) -> str:
    """The figures of `metrics.summarize` as aligned lines; `-` where the run gives none."""
    unit = summary["unit"]
    metric = tasks.headline(summary)
    target = goal(summary)
    reached = _target_text(target, tasks.of(summary), metric) if target else ""
    warmup = summary["avg_ips_warmup_epochs"]
    rows = [
        ("time2train", _value(summary["time2train"], ".3f", "s"), reached),
        ("e2e_time", _value(summary["e2e_time"], ".3f", "s"), "process start to end"),
        ("total time", _value(summary["total_time"], ".3f", "s"), "run_start to run_stop"),
        ("p_whole", _value(summary["p_whole"], ".1f", f"{unit}/s"), "over the total time"),
        ("p_train", _value(summary["p_train"], ".1f", f"{unit}/s"), "without evaluations"),
        ("p_core", _value(summary["p_core"], ".1f", f"{unit}/s"), "without data as well"),
        ("avg_ips", _value(summary["avg_ips"], ".1f", f"{unit}/s"), f"{warmup} warm-up epochs left out"),
        (
            "accuracy",
            _value(summary["best_accuracy"], metric.format),
            f"last {_value(summary['final_accuracy'], metric.format)}",
        ),
        (
            "memory",
            _value(summary["mem_used_gib"], ".2f", "GiB"),
            f"of {_value(summary['mem_total_gib'], '.2f', 'GiB')}",
        ),
        (
            "data wait",
            _value(summary["data_wait_s"], ".3f", "s"),
            f"copy {_value(summary['h2d_s'], '.3f', 's')}",
        ),
        ("step time p50", _milliseconds(summary["step_time_p50"]), ""),
        ("step time p95", _milliseconds(summary["step_time_p95"]), ""),
        ("step time p99", _milliseconds(summary["step_time_p99"]), ""),
        ("measuring", _value(summary["measure_s"], ".3f", "s"), ""),
        (
            "trained",
            _value(summary["trained_samples"], "d", "samples" if summary["units_per_sample"] else unit),
            f"{_value(summary['steps'], 'd')} steps, {_value(summary['epochs'], 'd')} epochs",
        ),
        ("status", str(summary["status"]), summary["reason"] or ""),
    ]
    rows += [("note", note, "") for note in summary["notes"]]
    width = max(len(value) for name, value, _ in rows if name != "note")
    return "\n".join(f"{name:<14}  {value:<{width}}  {remark}".rstrip() for name, value, remark in rows)


def _value(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}} {unit}".rstrip()


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.2f} ms"
