"""AI-Rank's inference logs, read: this program's, and others' with the departures that published logs have.

A line gives one event, in which times are seconds and memory is bytes:

    data          checksum
    test_start, test_stop, warm_up_stop
    warm_up_start samples
    sample        id, correct (None where the line does not say whether the result is right)
    progress      accuracy, samples, max_latency_s, memory_bytes: those that the line states
    figure        name (target_qps | samples_cnt_each_case | avg_ips), value, unit
    case_start, case_stop   number, from 1
    case          number, latency_s
    percentile    p90_s, min_s, max_s

Kinds of trouble beside BROKEN: prefix (AI-Rank-Log, with a time of day instead of unix seconds), interleaved (other
text before the prefix), full_width, spelling (another name of a line), result (`same num=2`), top (a Top-N line in
place of total_accuracy), other (a line that the texts do not have), no_accuracy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from airank_fast.record.entries import BROKEN, Entry, Trouble, quote, strict
from airank_fast.record.events import Event
from airank_fast.record.formats.airank_inference import MIB

_MARK = re.compile(r"AI-Rank-[Ll]og")
_UNIX = re.compile(r"AI-Rank-log[\s:]+(\d{1,20}(?:\.\d{0,20})?)\s+(\S.*)", re.ASCII)
_CLOCK = re.compile(  # [ AI-Rank-Log  4/ 7 20:44: 7.880 ]
    r"AI-Rank-[Ll]og +(\d{1,2})/ *(\d{1,2}) +(\d{1,2}): *(\d{1,2}): *(\d{1,2})\. *(\d{1,3}) *\] *(.*)", re.ASCII
)
_FULL_WIDTH = str.maketrans("：，．％＝", ":,.%=")
_MAX_STATEMENT = 1000  # characters of a line that are read
_VALUE = r"[-+]?(?:nan|inf|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
_NUMBER = f"({_VALUE})"


def read(lines: Iterable[str]) -> Iterator[Entry]:
    """The entries of a log; lines without the prefix are skipped."""
    for number, line in enumerate(lines, 1):
        mark = _MARK.search(line)
        if mark is None:
            continue
        before, statement = line[: mark.start()].strip(), line[mark.start() :][:_MAX_STATEMENT].rstrip()
        if before not in ("", "-", "[") and not _UNIX.match(statement):
            continue  # prose that names the prefix
        event, troubles = _understand(statement)
        if before not in ("", "-", "["):
            troubles.insert(0, Trouble("interleaved", f"{quote(before)} on the same line", "a line of its own"))
        yield Entry(number, event, tuple(troubles), line[:_MAX_STATEMENT])


def parse(lines: Iterable[str]) -> Iterator[Event]:
    """The events that `read` finds. UserError, with the number, for a line with the prefix that gives none."""
    return strict(read(lines))


def _understand(statement: str) -> tuple[Event | None, list[Trouble]]:
    troubles = []
    plain = statement.translate(_FULL_WIDTH)
    if plain != statement:
        troubles.append(Trouble("full_width", f"full-width punctuation in {quote(statement)}", "ASCII"))
    clock = _CLOCK.match(plain)
    unix = None if clock else _UNIX.match(plain)
    if clock:
        t, text = _time_of_day(clock), clock[7].strip()
        found = f"{quote(plain[: clock.start(7)].strip())} before the statement"
        troubles.append(Trouble("prefix", found, "AI-Rank-log and unix seconds"))
    elif unix:
        t, text = float(unix[1]), unix[2].strip()
    else:
        return None, [*troubles, Trouble(BROKEN, quote(plain), "AI-Rank-log, unix seconds and a statement")]
    for pattern, understand in _STATEMENTS:
        if match := pattern.fullmatch(text):
            return {"t": t, **understand(match, troubles)}, troubles
    if clock:  # its programs write other output with the same prefix
        return None, [*troubles, Trouble("other", quote(text), "a line of the AI-Rank log")]
    return None, [*troubles, Trouble(BROKEN, quote(text), "a line of the AI-Rank log")]


def _time_of_day(match: re.Match) -> float:
    """Seconds since an unknown year's begin, of months of 31 days: differences within a month are right."""
    month, day, hour, minute, second, milli = (int(match[index]) for index in range(1, 7))
    return (((month - 1) * 31 + day - 1) * 24 + hour) * 3600 + minute * 60 + second + milli / 1000


def _spelled(kind: str, usual: str) -> Callable[[re.Match, list[Trouble]], Event]:
    def understand(match: re.Match, troubles: list[Trouble]) -> Event:
        if match[0] != usual:
            troubles.append(Trouble("spelling", quote(match[0]), usual))
        return {"kind": kind}

    return understand


def _data(match: re.Match, troubles: list[Trouble]) -> Event:
    if match[1] != "load_data":
        troubles.append(Trouble("spelling", quote(match[1]), "load_data"))
    return {"kind": "data", "checksum": match[2]}


def _sample(match: re.Match, troubles: list[Trouble]) -> Event:
    word = match[2].rpartition("=")[2].strip()
    if word not in ("true", "false"):
        troubles.append(Trouble("result", f"{quote(match[2])} of sample {quote(match[1], 30)}", "result=true or false"))
    return {"kind": "sample", "id": match[1], "correct": {"true": True, "false": False}.get(word)}


def _progress(match: re.Match, troubles: list[Trouble]) -> Event:
    event: Event = {"kind": "progress"}
    names = {"total_accuracy": "accuracy", "max_latency": "max_latency_s", "total_samples_cnt": "samples"}
    names["max_memory_use"] = "memory_bytes"
    scales = {"max_latency": 1e-3, "max_memory_use": MIB}
    for name, number, unit in _PART.findall(match[0]):
        if name in names:
            value = float(number) * scales.get(name, 1)
            is_count = name == "total_samples_cnt" and value.is_integer()
            event[names[name]] = int(value) if is_count else value
            usual = {"max_latency": "ms", "max_memory_use": "M"}.get(name, "")
            if unit.strip() != usual:
                troubles.append(Trouble("spelling", f"{name} in {unit.strip() or 'no unit'}", usual or "no unit"))
    if "accuracy" not in event:
        troubles.append(Trouble("no_accuracy", quote(match[0]), "total_accuracy in the same line"))
    return event


def _top(match: re.Match, troubles: list[Trouble]) -> Event:
    troubles.append(Trouble("top", quote(match[0]), "total_accuracy with a value"))
    first = match[1] == "1"
    return {"kind": "progress", "accuracy": float(match[2])} if first else {"kind": "other", "text": match[0]}


def _figure(match: re.Match, troubles: list[Trouble]) -> Event:
    return {"kind": "figure", "name": match[1], "value": float(match[2]), "unit": (match[3] or "").strip()}


def _percentile(match: re.Match, troubles: list[Trouble]) -> Event:
    names = {"90th_percentile_latency": "p90_s", "min_latency": "min_s", "max_latency": "max_s"}
    found = {names[name]: float(number) / 1e3 for name, number, _ in _PART.findall(match[0]) if name in names}
    return {"kind": "percentile", **found}


def _one_case(match: re.Match, troubles: list[Trouble]) -> Event:
    return {"kind": "case", "number": int(match[1]), "latency_s": float(match[2]) / 1e3}


def _warm_up(match: re.Match, troubles: list[Trouble]) -> Event:
    return {"kind": "warm_up_start", "samples": int(match[1])}


def _case(match: re.Match, troubles: list[Trouble]) -> Event:
    return {"kind": {"begin": "case_start", "finish": "case_stop"}[match[2]], "number": int(match[1])}


_PART = re.compile(rf"(\w+) *: *{_NUMBER} *([A-Za-z/]*)", re.ASCII)
_NAMES = "(?:total_accuracy|max_latency|total_samples_cnt|max_memory_use)"
_PROGRESS = rf"{_NAMES} *: *{_VALUE} *[A-Za-z]*(?: *, *{_NAMES} *: *{_VALUE} *[A-Za-z]*){{0,3}}"
_STATEMENTS = [
    (re.compile(pattern, re.ASCII), understand)
    for pattern, understand in (
        (r"sampleid *: *(.{1,500}?) *, *(result *= *(?:true|false)|same num *= *\d{1,9})", _sample),
        (_PROGRESS, _progress),
        (rf"latency_case(\d{{1,9}})_latency *: *{_NUMBER} *ms", _one_case),
        (r"latency_case(\d{1,9})_(begin|finish)", _case),
        (r"(load_data|load \w+) *, *checksum *: *(\S+)", _data),
        (r"test_begin|[Tt]est begin", _spelled("test_start", "test_begin")),
        (r"test_end|test_finish|[Tt]est (?:end|finish)", _spelled("test_stop", "test_end")),
        (r"warmup_begin *, *warmup_samples *: *(\d{1,12})", _warm_up),
        (r"warmup_finish", _spelled("warm_up_stop", "warmup_finish")),
        (rf"(target_qps|samples_cnt_each_case|avg_ips) *: *{_NUMBER} *([A-Za-z][^\s\d,;]*)?", _figure),
        (rf"90th_percentile_latency *: *{_VALUE} *ms(?: *, *(?:min|max)_latency *: *{_VALUE} *ms){{0,2}}", _percentile),
        (rf"Top-(\d{{1,3}}) Accuracy *: *{_NUMBER}", _top),
    )
]
