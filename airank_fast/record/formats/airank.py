"""The AI-Rank training log (docs/software/train.md of AI-Rank), profiles 2020-12 and 2021-05.

    - AI-Rank-log 1558631910.424 test_begin
    - AI-Rank-log 1558631912.424 eval_accuracy:0.1675, total_epoch_cnt:2
    - AI-Rank-log 1558631916.424 eval_accuracy:0.7605, total_epoch_cnt:10
    - AI-Rank-log 1558631916.424 target_quality_time:6.000sec
    - AI-Rank-log 1558631922.454 test_finish
    - AI-Rank-log 1558631922.454 total_use_time:12.030sec
    - AI-Rank-log 1558631922.454 avg_ips:1190.000images/sec

The published sample disagrees with the definitions beside it (the target's time, the order of the last
timestamps). Here the definitions hold: the target's line carries the timestamp of the evaluation that reached
it, timestamps never run backwards, and a time is the difference of the printed timestamps, to the ms.
Profile 2021-05 adds `load_data, checksum:<hash>` before test_begin, at the same timestamp as in its sample.
"""

import re
from collections.abc import Iterable, Iterator

from airank_fast.errors import UserError
from airank_fast.record.events import Event
from airank_fast.record.metrics import Tally

PROFILES = ("2020-12", "2021-05")

_LINE = re.compile(r"^\s*(?:- *)?AI-Rank-log\s+(\d+(?:\.\d+)?)\s+(.*?)\s*$")
_EVALUATION = re.compile(r"^eval_accuracy: *([^,\s]+) *, *total_epoch_cnt: *(\d+)$")
_FIGURE = re.compile(r"^(target_quality_time|total_use_time|avg_ips): *([-+.\deE]+|nan|inf) *(\S*)$")
_LOAD_DATA = re.compile(r"^load_data *, *checksum: *(\S+)$")


class AIRankLog:
    """Events to lines of the log, as they happen."""

    def __init__(self, profile: str = PROFILES[0]):
        if profile not in PROFILES:
            raise UserError(f"airank profile: one of {', '.join(PROFILES)} is required, got {profile}")
        self._tally = Tally()
        self._checksum: str | None = None
        self._waits_for_data = profile == "2021-05"
        self._begun = self._finished = False
        self._num_evaluations = 0
        self._target_told = False

    def feed(self, event: Event) -> list[str]:
        """The lines that this event completes, without newlines."""
        self._tally.feed(event)
        kind = event["kind"]
        if kind == "data":
            self._checksum = event.get("checksum") or self._checksum
        if self._tally.run_start_t is None or self._finished:
            return []
        lines = []
        if not self._begun and (not self._waits_for_data or kind in ("data", "eval_stop", "run_stop")):
            lines += self._begin()
        if kind == "eval_stop":
            lines += self._evaluation()
        elif kind == "run_stop":
            lines += self._finish()
        return lines

    def close(self) -> list[str]:
        """The end of a log that was cut off: the run is taken to stop with its last event."""
        if self._tally.run_start_t is None or self._finished:
            return []
        return ([] if self._begun else self._begin()) + self._finish()

    def _begin(self) -> list[str]:
        self._begun = True
        t = self._tally.run_start_t
        load_data = [_line(t, f"load_data, checksum:{self._checksum}")] if self._checksum else []
        return [*(load_data if self._waits_for_data else []), _line(t, "test_begin")]

    def _evaluation(self) -> list[str]:
        if len(self._tally.evaluations) == self._num_evaluations:  # one that was done again after a resume
            return []
        event = self._tally.evaluations[-1]
        self._num_evaluations += 1
        lines = [_line(event["t"], f"eval_accuracy:{event['accuracy']!r}, total_epoch_cnt:{event['epoch']}")]
        if not self._target_told and self._tally.reached() is event:
            self._target_told = True
            lines.append(_line(event["t"], f"target_quality_time:{self._since_start(event['t'])}sec"))
        return lines

    def _finish(self) -> list[str]:
        self._finished = True
        t = self._tally.end_t()
        ips = self._tally.avg_ips()[0] or 0.0
        unit = "images" if self._tally.unit == "images" else "samples"
        return [
            _line(t, "test_finish"),
            _line(t, f"total_use_time:{self._since_start(t)}sec"),
            _line(t, f"avg_ips:{ips:.3f}{unit}/sec"),
        ]

    def _since_start(self, t: float) -> str:
        return f"{round(t, 3) - round(self._tally.run_start_t, 3):.3f}"


def _line(t: float, text: str) -> str:
    return f"- AI-Rank-log {t:.3f} {text}"


def parse(lines: Iterable[str]) -> Iterator[Event]:
    """Lines of a log, ours or another program's, back to events; other lines are passed over.

    run_start, eval_stop {accuracy, epoch}, run_stop and data {checksum}. What the log *states* rather than
    what happened comes as `figure` {name: target_quality_time | total_use_time | avg_ips, value, unit}.
    A line with the prefix that says nothing known: UserError with its number.
    """
    for number, line in enumerate(lines, 1):
        match = _LINE.match(line)
        if match is None:
            continue
        t, text = float(match[1]), match[2]
        if text == "test_begin":
            yield {"t": t, "kind": "run_start"}
        elif text == "test_finish":
            yield {"t": t, "kind": "run_stop"}
        elif evaluation := _EVALUATION.match(text):
            yield {"t": t, "kind": "eval_stop", **_accuracy(evaluation, number)}
        elif figure := _FIGURE.match(text):
            yield {"t": t, "kind": "figure", **_figure(figure, number)}
        elif load_data := _LOAD_DATA.match(text):
            yield {"t": t, "kind": "data", "checksum": load_data[1]}
        else:
            raise UserError(f"line {number}: a line of the AI-Rank log is required, got {text!r}")


def _accuracy(match: re.Match, number: int) -> dict:
    return {"accuracy": _number(match[1], number), "epoch": int(match[2])}


def _figure(match: re.Match, number: int) -> dict:
    return {"name": match[1], "value": _number(match[2], number), "unit": match[3]}


def _number(text: str, number: int) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"line {number}: a number is required, got {text!r}") from None
