"""Which log formats a file holds, by what stands in it, never by its name."""

from __future__ import annotations

import json
import mmap
import os
import re
from itertools import islice

from airank_fast.errors import UserError
from airank_fast.record.lines import Lines

FORMATS = ("events", "airank", "mlperf", "flagperf", "flagperf_table", "perflog", "dllogger")

_MARKS = {"airank": "AI-Rank-log ", "mlperf": ":::MLLOG", "perflog": "[PerfLog]"}
_HEADER_CELL = ("|", "p_whole", "|")  # of a Markdown table, with spaces between
_ENCODINGS = ("utf-8", "utf-16-le", "utf-16-be")
_HEAD_LINES = 50


def detect(path: str | os.PathLike) -> list[str]:
    """The formats of a file, several where a program's output holds several kinds of line; [] if none is known.

    events          our events.jsonl
    airank          AI-Rank training log, either profile
    mlperf          :::MLLOG lines
    flagperf        a JSON object with FlagPerf's figures (flagperf.json)
    flagperf_table  a Markdown table with FlagPerf's columns
    perflog         FlagPerf's [PerfLog] lines
    dllogger        NVIDIA DLLogger, text (`DLL 2020-...`) or JSON lines (`DLLL {...}`)

    Searches the whole file for marks without reading it into memory. UserError if it cannot be read.
    """
    path = os.fspath(path)
    try:
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                return []
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                found = [name for name, mark in _MARKS.items() if _holds(content, mark)]
                found += ["flagperf_table"] if _has_cell(content) else []
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: a file that can be read is required, got {reason}") from None
    head = [line for line in islice(Lines(path), _HEAD_LINES) if line.strip()]
    name = _of_head(head)
    if name == "events":  # whatever its texts say
        return [name]
    return found or ([name] if name else [])


def _holds(content: mmap.mmap, mark: str) -> bool:
    return any(content.find(mark.encode(encoding)) >= 0 for encoding in _ENCODINGS)


def _has_cell(content: mmap.mmap) -> bool:
    for encoding in _ENCODINGS:
        spaces = b"(?:" + re.escape(" ".encode(encoding)) + b")*"
        pattern = spaces.join(re.escape(part.encode(encoding)) for part in _HEADER_CELL)
        if re.search(pattern, content):
            return True
    return False


def _of_head(head: list[str]) -> str | None:
    for line in head:
        if line.startswith(("DLL ", "DLLL ")):
            return "dllogger"
    if not head or not head[0].lstrip().startswith("{"):
        return None
    first = _json_object(head[0])
    if "t" in first and "kind" in first:
        return "events"
    if {"datetime", "elapsedtime"} <= first.keys() or {"type", "step", "data"} <= first.keys():
        return "dllogger"
    text = "".join(head)
    return "flagperf" if '"p_whole"' in text and '"trained_samples"' not in text else None  # not our summary.json


def _json_object(text: str) -> dict:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
