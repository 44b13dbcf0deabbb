"""The AI-Rank training log (docs/software/train.md of AI-Rank), profiles 2020-12 and 2021-05.

    - AI-Rank-log 1558631910.424 test_begin
    - AI-Rank-log 1558631912.424 eval_accuracy:0.1675, total_epoch_cnt:2
    - AI-Rank-log 1558631916.424 eval_accuracy:0.7605, total_epoch_cnt:10
    - AI-Rank-log 1558631916.424 target_quality_time:6.000sec
    - AI-Rank-log 1558631922.454 test_finish
    - AI-Rank-log 1558631922.454 total_use_time:12.030sec
    - AI-Rank-log 1558631922.454 avg_ips:1190.000images/sec

The published sample disagrees with the definitions beside it (the target's time, the order of the last
timestamps). We follow the definitions: the target's line has the timestamp of the evaluation that reached it,
timestamps never run backwards, and a time is the difference of the printed timestamps, to the ms.
Profile 2021-05 adds `load_data, checksum:<hash>` before test_begin, at the same timestamp as in its sample.
"""

import re
from collections.abc import Iterable, Iterator

from airank_fast.errors import UserError
from airank_fast.record.entries import BROKEN, Entry, Trouble, quote, strict
from airank_fast.record.events import Event
from airank_fast.record.metrics import Tally

PROFILES = ("2020-12", "2021-05")

PREFIX = "AI-Rank-log"

_SAMPLES = ("images", "videos")  # that are written as such; others are samples

MAX_STATEMENT = 1000  # characters of a line that are read; the rest is other output

_START = re.compile(  # text before the prefix, without the spaces around it: a rank and a dash
    r"(?:(?:\[(?:\d+,)?(?:rank|default|worker)? *(?P<bracket>\d{1,9})\](?:<std(?:out|err)>)?|"
    r"(?:rank *)?(?P<bare>\d{1,9})) {0,9}[:>|])? {0,9}-?$",
    re.ASCII | re.IGNORECASE,
)
_TIMESTAMP = re.compile(r"[\s:]+(\d{1,20}(?:\.\d{0,20})?)(?=\s)", re.ASCII)
_FULL_WIDTH = str.maketrans("：，．％", ":,.%")


class AIRankLog:
    """Events to lines of the log, as they happen."""

    def __init__(self, profile: str = PROFILES[0], stated_ips: float | None = None):
        """`stated_ips` is written as avg_ips where the events give none; without it the line is left out."""
        if profile not in PROFILES:
            raise UserError(f"airank profile: must be one of {', '.join(PROFILES)}, got {profile}")
        self._tally = Tally()
        self._checksum: str | None = None
        self._stated_ips = stated_ips
        self._waits_for_data = profile == "2021-05"
        self._begun = self._finished = False
        self._num_evaluations = 0
        self._target_written = False

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
        """The end of a log that was cut off: the run stops with its last event."""
        if self._tally.run_start_t is None or self._finished:
            return []
        return ([] if self._begun else self._begin()) + self._finish()

    def _begin(self) -> list[str]:
        self._begun = True
        t = self._tally.run_start_t
        load_data = [_line(t, f"load_data, checksum:{self._checksum}")] if self._checksum else []
        return [*(load_data if self._waits_for_data else []), _line(t, "test_begin")]

    def _evaluation(self) -> list[str]:
        if len(self._tally.evaluations) == self._num_evaluations:  # repeated after a resume
            return []
        event = self._tally.evaluations[-1]
        self._num_evaluations += 1
        lines = [_line(event["t"], f"eval_accuracy:{event['accuracy']!r}, total_epoch_cnt:{event['epoch']}")]
        if not self._target_written and self._tally.reached() is event:
            self._target_written = True
            lines.append(_line(event["t"], f"target_quality_time:{self._since_start(event['t'])}sec"))
        return lines

    def _finish(self) -> list[str]:
        self._finished = True
        t = self._tally.end_t()
        ips = self._tally.avg_ips()[0]
        if ips is None:
            ips = 0.0 if self._tally.is_ours else self._stated_ips
        counts_samples = self._tally.units_per_sample is None  # tokens are not samples
        unit = "samples" if counts_samples and self._tally.unit not in _SAMPLES else self._tally.unit
        return [
            _line(t, "test_finish"),
            _line(t, f"total_use_time:{self._since_start(t)}sec"),
            *([] if ips is None else [_line(t, f"avg_ips:{ips:.3f}{unit}/sec")]),
        ]

    def _since_start(self, t: float) -> str:
        return f"{round(t, 3) - round(self._tally.run_start_t, 3):.3f}"


def _line(t: float, text: str) -> str:
    return f"- AI-Rank-log {t:.3f} {text}"


def read(lines: Iterable[str]) -> Iterator[Entry]:
    """The entries of a log, ours or another program's; lines without the prefix are skipped.

    run_start, eval_stop {accuracy, epoch}, run_stop and data {checksum}. Figures that the log states become
    `figure` {name: target_quality_time | total_use_time | avg_ips, value, unit}.

    A statement may stand behind a progress bar's carriage return or a rank (`0: `, `[rank0]: `), have full-width
    punctuation, times in milliseconds or accuracies in per cent. Of several ranks the first in the log is read.
    Kinds of trouble beside BROKEN: ranks, interleaved, full_width, milliseconds, whole_seconds, per_cent.
    """
    first_rank, is_reported = None, False
    for number, line in enumerate(lines, 1):
        if PREFIX not in line:
            continue
        for piece in line.split("\r"):
            before, *statements = piece.split(PREFIX)
            before = before.strip()
            start = _START.match(before) if len(before) <= 40 else None
            for index, statement in enumerate(statements):
                text = (before if index == 0 else "") + PREFIX + statement
                if index + 1 < len(statements):
                    statement = statement.rstrip(" -")
                if start is None and not _TIMESTAMP.match(statement):
                    continue  # prose that names the prefix
                rank = start and (start["bracket"] or start["bare"])
                if rank is not None and first_rank is None:
                    first_rank = rank
                if rank != first_rank and rank is not None:
                    if not is_reported:
                        is_reported = True
                        yield Entry(number, None, (_other_rank(rank, first_rank),), text)
                    continue
                event, troubles = _understand(statement)
                if start is None or index:
                    found = PREFIX + statements[index - 1] if index else before
                    troubles.insert(0, Trouble("interleaved", f"{quote(found)} on the same line", "a line of its own"))
                yield Entry(number, event, tuple(troubles), text)


def _other_rank(rank: str, first: str) -> Trouble:
    return Trouble("ranks", f"lines of rank {quote(rank, 20)} beside those of rank {quote(first, 20)}", "one rank's")


def _understand(statement: str) -> tuple[Event | None, list[Trouble]]:
    """The event of the text behind the prefix, and its troubles."""
    troubles = []
    statement = statement[:MAX_STATEMENT]
    plain = statement.translate(_FULL_WIDTH)
    if plain != statement:
        troubles.append(Trouble("full_width", f"full-width punctuation in {quote(statement.strip())}", "ASCII"))
    stamp = _TIMESTAMP.match(plain)
    if stamp is None:
        found = quote(plain.strip())
        return None, [*troubles, Trouble(BROKEN, found, "a timestamp in unix seconds and a statement")]
    t, text = float(stamp[1]), plain[stamp.end() :].strip()
    if t >= 1e11:  # the year 5138 in seconds, 1973 in milliseconds
        troubles.append(Trouble("milliseconds", f"timestamp {quote(stamp[1])}", f"seconds, {t / 1000:.3f}"))
        t /= 1000
    elif "." not in stamp[1]:
        troubles.append(Trouble("whole_seconds", f"timestamp {stamp[1]}", "a timestamp to the millisecond"))
    if t >= 1e11:
        return None, [*troubles, Trouble(BROKEN, quote(stamp[1]), "a timestamp in unix seconds")]
    for pattern, understand in _STATEMENTS:
        if match := pattern.match(text):
            event = {"t": t, **understand(match, troubles)}
            if rest := text[match.end() :].strip():
                troubles.append(Trouble("interleaved", f"{quote(rest)} behind it", "a line of its own"))
            return event, troubles
    return None, [*troubles, Trouble(BROKEN, quote(text), "a line of the AI-Rank log")]


def _evaluation(match: re.Match, troubles: list[Trouble]) -> Event:
    accuracy = float(match[1])
    if match[2]:
        accuracy /= 100
        troubles.append(Trouble("per_cent", f"eval_accuracy {match[1]}%", f"a fraction, {accuracy:g}"))
    epoch = float(match[3]) if "." in match[3] else int(match[3])
    return {"kind": "eval_stop", "accuracy": accuracy, "epoch": epoch}


def _figure(match: re.Match, troubles: list[Trouble]) -> Event:
    return {"kind": "figure", "name": match[1], "value": float(match[2]), "unit": match[3] or ""}


_ENDS = r"(?=[\s,;]|$)"
_NUMBER = r"[-+]?(?:nan|inf|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
_STATEMENTS = [
    (re.compile(pattern + _ENDS, re.ASCII), understand)
    for pattern, understand in (
        (r"test_begin", lambda match, troubles: {"kind": "run_start"}),
        (r"test_finish", lambda match, troubles: {"kind": "run_stop"}),
        (rf"eval_accuracy *: *({_NUMBER}) *(%?) *, *total_epoch_cnt *: *([-+]?\d{{1,12}}(?:\.\d+)?)", _evaluation),
        (rf"(target_quality_time|total_use_time|avg_ips) *: *({_NUMBER}) *([a-zA-Z][^\s\d,;]*)?", _figure),
        (r"load_data *, *checksum *: *(\S+)", lambda match, troubles: {"kind": "data", "checksum": match[1]}),
    )
]


def parse(lines: Iterable[str]) -> Iterator[Event]:
    """The events that `read` finds. UserError, with the number, for a line with the prefix that gives none."""
    return strict(read(lines))
