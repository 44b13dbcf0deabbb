"""Recognises the log formats of a file by its content, never by its name."""

from __future__ import annotations

import codecs
import json
import os
import re
from itertools import islice
from typing import BinaryIO

from airank_fast.errors import UserError
from airank_fast.record.events import dictionary
from airank_fast.record.lines import BLOCK_BYTES, Lines, opened

FORMATS = ("events", "airank", "mlperf", "loadgen", "flagperf", "flagperf_table", "perflog", "dllogger")

COMPRESSIONS = {".7z", ".lz4", ".rar", ".tar", ".tgz", ".zst"}  # in a folder these are reported, not read
# In a folder these are skipped: programs quote lines of logs.
PROGRAMS = {".c", ".cc", ".cpp", ".cu", ".cuh", ".go", ".h", ".hpp", ".html", ".ipynb", ".js", ".py", ".rs", ".sh"}

# Text that a file of the format has, behind any prefix of a launcher.
_MARKS = {
    "airank": ("AI-Rank-log ",),
    "mlperf": (":::MLLOG",),
    "loadgen": ('"loadgen_version"', '"effective_scenario"'),  # in lines of :::MLLOG
    "perflog": ("[PerfLog]",),
    "flagperf_table": ("p_whole",),  # if it is a cell
    "dllogger": ("DLL 20", "DLLL {"),
}
_CELL = ("|", "p_whole", "|")  # with spaces between
_EDGE_BYTES = 256  # at the end of a block, searched again with the next one
_HEAD_LINES = 50


def detect(path: str | os.PathLike) -> list[str]:
    """The formats of a file, several where a program's output holds several kinds of line; [] if it holds none.

    events          our events.jsonl
    airank          AI-Rank training log, either profile
    mlperf          :::MLLOG lines of a training log
    loadgen         :::MLLOG lines of LoadGen, the load generator of MLPerf inference (mlperf_log_detail.txt)
    flagperf        a JSON object with FlagPerf's figures (flagperf.json)
    flagperf_table  a Markdown table with FlagPerf's columns
    perflog         FlagPerf's [PerfLog] lines
    dllogger        NVIDIA DLLogger, text (`DLL 2020-...`) or JSON lines (`DLLL {...}`)

    Searches the whole file for marks, a block at a time. UserError if it cannot be read.
    """
    path = os.fspath(path)
    try:
        with opened(path) as file:
            found = _marks_in(file)
    except UserError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: must be a file that can be read, got {reason}") from None
    head = [line for line in islice(Lines(path), _HEAD_LINES) if line.strip()]
    name = _of_head(head)
    if name == "events":  # texts of its events may hold other marks
        return [name]
    return found or ([name] if name else [])


def _marks_in(file: BinaryIO) -> list[str]:
    """The formats whose mark is somewhere in the file."""
    block = file.read(BLOCK_BYTES)
    encoding = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}.get(block[:2], "utf-8")
    sought = {name: [mark.encode(encoding) for mark in marks] for name, marks in _MARKS.items()}
    spaces = b"(?:" + re.escape(" ".encode(encoding)) + b"){0,40}"
    cell = re.compile(spaces.join(re.escape(part.encode(encoding)) for part in _CELL))
    while block and sought:
        found = [name for name, marks in sought.items() if any(mark in block for mark in marks)]
        for name in found:
            if name != "flagperf_table" or cell.search(block):
                del sought[name]
        new = file.read(BLOCK_BYTES)
        block = new and block[-_EDGE_BYTES:] + new
    marked = [name for name in _MARKS if name not in sought]
    # Both logs have lines of :::MLLOG; that of a training has no version of LoadGen.
    without = "mlperf" if {"mlperf", "loadgen"} <= set(marked) else "loadgen"
    return [name for name in marked if name != without]


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
        return dictionary(json.loads(text))
    except (ValueError, RecursionError):
        return {}
