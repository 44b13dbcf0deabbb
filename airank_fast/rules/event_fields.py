"""Checks that an event is well-formed: the fields of each kind, as record/events.py documents them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from airank_fast.numeric import is_float, is_number
from airank_fast.record.entries import quote
from airank_fast.record.events import Event
from airank_fast.record.formats import events
from airank_fast.record.lines import Lines
from airank_fast.rules.findings import Finding, Rule

_LARGEST = 1e15  # larger counts and seconds are no measurement; float sums would lose whole units


class Book(Protocol):
    """Checks a run, one well-formed event after the other."""

    def feed(self, number: int, event: Event) -> Iterator[Finding]:
        """The findings about the event of a line."""

    def finish(self) -> Iterator[Finding]:
        """The findings about the whole run."""


def check_lines(
    lines: Lines, book: Book, malformed: Callable[[Event], list[tuple[str, str]]], line_rule: Rule, field_rule: Rule
) -> Iterator[Finding]:
    """The findings about one events.jsonl by a book, which is given the well-formed events.

    malformed: (found, required) of each field of an event that breaks `field_rule`. A line that is no event breaks
    `line_rule`.
    """
    for number, event, troubles, _ in events.read(lines):
        for trouble in troubles:
            yield line_rule.broken(lines.path, number, trouble.found, f"{trouble.required} is required")
        if event is None:
            continue
        broken = malformed(event)
        for found, required in broken:
            yield field_rule.broken(lines.path, number, found, required)
        if not broken:
            yield from book.feed(number, event)
    yield from book.finish()


def _is_number(value) -> bool:
    return is_number(value, _LARGEST)


def _is_float(value) -> bool:
    return is_float(value, _LARGEST)


def _is_count(value) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST


def _is_seconds(value) -> bool:
    return _is_number(value) and value >= 0


def _is_pair(value) -> bool:
    return isinstance(value, list) and len(value) == 2 and _is_count(value[0]) and _is_seconds(value[1])


def _list_of(is_item: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and all(map(is_item, value))


def _object_of(is_item: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, dict) and all(map(is_item, value.values()))


# name -> (what is required, test). A name with ? may be missing or null.
_TYPES: dict[str, tuple[str, Callable[[object], bool]]] = {
    "any": ("any value", lambda value: True),
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "count": ("a whole number from 0 on", _is_count),
    "counts": ("a list of whole numbers", _list_of(_is_count)),
    "float": ("a number, or 'nan', 'inf'", _is_float),
    "float_object": ("an object of numbers", _object_of(_is_float)),
    "floats": ("a list of numbers", _list_of(_is_float)),
    "floats_object": ("an object of lists of numbers", _object_of(_list_of(_is_float))),
    "list": ("a list", lambda value: isinstance(value, list)),
    "number": ("a number", _is_number),
    "object": ("an object", lambda value: isinstance(value, dict)),
    "pairs": ("a list of [count, seconds]", _list_of(_is_pair)),
    "positive": ("a whole number from 1 on", lambda value: _is_count(value) and value > 0),
    "seconds": ("a number of seconds", _is_seconds),
    "seconds_list": ("a list of seconds", _list_of(_is_seconds)),
    "text": ("a string", lambda value: isinstance(value, str)),
    "text_object": ("an object of strings", _object_of(lambda value: isinstance(value, str))),
    "texts": ("a list of strings", _list_of(lambda value: isinstance(value, str))),
}
_CLOCKS = "core_s:seconds_list wait_s:seconds_list h2d_s:seconds_list"
_PLACE = "step:count samples:count"
_KINDS = {
    "process_start": "pid:count",
    "run_config": (
        "benchmark:text? recipe:object? options:object? seed:any? precision:text? "
        "precision_reason:text? world_size:positive? devices:list? global_batch_size:positive? "
        "gradient_accumulation_steps:positive? train_samples:count? eval_samples:count? "
        "samples_per_epoch:positive? unit:text? target:number? task:object? warmup_epochs_excluded:number? "
        "reported:object? submission:object?"
    ),
    "system": "",
    "cache_clear": "value:any",
    "init_start": "",
    "init_stop": "",
    "run_start": "",
    "block_start": f"{_PLACE} first_epoch:number? epoch_count:number?",
    "block_stop": f"{_PLACE} {_CLOCKS} measure_s:seconds_list units:counts?",
    "epoch_stop": f"epoch:count {_PLACE}",
    "steps": (
        f"first_step:positive num_steps:positive samples:count loss:floats losses:floats_object? lr:floats {_CLOCKS} "
        "units:counts?"
    ),
    "eval_start": f"epoch:number {_PLACE}",
    "eval_stop": f"epoch:number {_PLACE} correct:count? counted:count? accuracy:float quality:float_object?",
    "checkpoint": "step:count path:text duration_s:seconds",
    "data": (
        "train_samples:count? eval_samples:count? classes:any? source:any? corrupt_files:any? total_steps:count? "
        "checksum:text? reported:object? init_checkpoint:object? signatures:text_object?"
    ),
    "memory": "used_bytes:count total_bytes:count per_rank:counts?",
    "warning": "message:text",
    "examples": "files:texts predicted:texts truth:texts",
    "resume": _PLACE,
    "run_stop": "status:text reason:text? detail:text?",
    "process_stop": "",
}


def table(kinds: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The fields of each kind of event, {kind: {field: type}}, of their texts."""
    return {kind: dict(field.split(":") for field in fields.split()) for kind, fields in kinds.items()}


FIELDS = table(_KINDS)


def troubles(event: Event, known: Mapping[str, Mapping[str, str]] = FIELDS) -> list[tuple[str, str]]:
    """(found, required) of each field that is missing or has the wrong type; [] for an undocumented kind of event."""
    kind, found = event["kind"], []
    for name, type_name in known.get(kind, {}).items():
        required, test = _TYPES[type_name.removesuffix("?")]
        if event.get(name) is None:
            if not type_name.endswith("?"):
                found.append((f"{kind} without {name}", f"{required} is required"))
        elif not test(event[name]):
            found.append((f"{kind} with {name} {quote(_show(event[name]), 40)}", f"{required} is required"))
    if kind == "block_start" and (event.get("first_epoch") is None) != (event.get("epoch_count") is None):
        found.append(("block_start with one of first_epoch and epoch_count", "both or none are required"))
    if kind == "eval_stop" and (event.get("correct") is None) != (event.get("counted") is None):
        found.append(("eval_stop with one of correct and counted", "both or none are required"))
    return found


def _show(value) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int):
        return str(value) if abs(value) <= _LARGEST else "a number beyond 1e15"
    return type(value).__name__ if isinstance(value, (list, dict)) else str(value)
