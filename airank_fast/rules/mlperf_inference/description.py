"""Judges what describes a hand-in: the system description, and a scenario's measurements file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from airank_fast.rules.findings import Finding
from airank_fast.rules.mlperf_inference import rules
from airank_fast.rules.tree_files import is_blank, json_object

REHEARSAL = "REHEARSAL"  # stands in the description of a tree that only shows what a hand-in looks like


def read_system(path: Path) -> dict:
    """The fields of a system description; {} if it cannot be read."""
    return json_object(path) or {}


def is_rehearsal(fields: dict) -> bool:
    """Whether a description says that its tree is a rehearsal."""
    return any(REHEARSAL in str(fields.get(name)) for name in ("submitter", "hw_notes", "sw_notes", "system_name"))


def judge_system(path: Path, organization: str, division: str | None) -> Iterator[Finding]:
    """The findings about the description of a system in the folder of an organization and division."""
    fields = json_object(path)
    if fields is None:
        required = f"the {len(rules.SYSTEM_FIELDS)} fields are required"
        yield rules.SYSTEM.broken(str(path), None, "no JSON object" if path.is_file() else "no such file", required)
        return
    missing = [name for name in rules.SYSTEM_FIELDS if name not in fields]
    blank = [name for name in rules.SYSTEM_FIELDS if name in fields and is_blank(fields[name])]
    for name in missing:
        yield rules.SYSTEM.broken(str(path), None, f"{name}: missing", "it is required")
    for name in blank:
        if name not in rules.MAY_BE_BLANK:
            yield rules.SYSTEM.broken(str(path), None, f"{name}: blank", "a meaningful value is required")
    for name in rules.SYSTEM_NUMBERS:
        value = fields.get(name)
        if name in fields and not is_blank(value) and not re.fullmatch(r"\d+", str(value).strip()):
            yield rules.SYSTEM.broken(str(path), None, f"{name}: {value!r}", "a whole number is required")
    for name, words in (("system_type", rules.SYSTEM_TYPES), ("status", rules.AVAILABILITIES)):
        value = fields.get(name)
        text = value.lower() if isinstance(value, str) and name == "status" else value
        if name in fields and not is_blank(value) and text not in words:
            yield rules.SYSTEM.broken(str(path), None, f"{name}: {value!r}", f"one of {'; '.join(words)} is required")
    for name, folder in (("submitter", organization), ("division", division)):
        value = fields.get(name)
        if folder is not None and isinstance(value, str) and value.strip().lower() != folder.lower():
            required = f"{folder}, the folder's name, is required"
            yield rules.SYSTEM.broken(str(path), None, f"{name}: {value!r}", required)
    if division in ("closed", "network"):
        is_network = str(fields.get("is_network", "false")).lower() == "true"
        if is_network != (division == "network"):
            found = f"is_network: {fields.get('is_network')!r} in division {division}"
            yield rules.SYSTEM.broken(str(path), None, found, "true in network, false in closed, is required")


def judge_measurements(path: Path | None, folder: Path, round_name: str) -> Iterator[Finding]:
    """The findings about a scenario's measurements: the JSON file (None: there is none) and the files beside it."""
    for name in rules.MEASUREMENT_FILES[round_name]:
        file = folder / name
        if not file.is_file() or not file.stat().st_size:
            found = "an empty file" if file.is_file() else "no such file"
            yield rules.MEASUREMENTS.broken(str(file), None, found, "it is required")
    if path is None:
        yield rules.MEASUREMENTS.broken(str(folder), None, "no measurements file", "it is required")
        return
    fields = json_object(path)
    if fields is None:
        required = f"{', '.join(rules.MEASUREMENT_FIELDS)} are required"
        yield rules.MEASUREMENTS.broken(str(path), None, "no JSON object", required)
        return
    for name in rules.MEASUREMENT_FIELDS:
        if is_blank(fields.get(name)):
            found = f"{name}: {'blank' if name in fields else 'missing'}"
            yield rules.MEASUREMENTS.broken(str(path), None, found, "it is required")
