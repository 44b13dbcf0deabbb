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

FORMATS = ("events", "airank", "mlperf", "flagperf", "flagperf_table", "perflog", "dllogger")
INFERENCE_FORMATS = (
    "inference_events",
    "airank_inference",
    "loadgen",
    "flagperf_inference",
    "flagperf_inference_table",
)

COMPRESSIONS = {".7z", ".lz4", ".rar", ".tar", ".tgz", ".zst"}  # in a folder these are reported, not read
# In a folder these are skipped: programs quote lines of logs.
PROGRAMS = {".c", ".cc", ".cpp", ".cu", ".cuh", ".go", ".h", ".hpp", ".html", ".ipynb", ".js", ".py", ".rs", ".sh"}

# Text that a file of the format has, behind any prefix of a launcher.
_MARKS = {
    "airank": ("AI-Rank-log ", "AI-Rank-Log "),
    "mlperf": (":::MLLOG",),
    "loadgen": ('"loadgen_version"', '"effective_scenario"'),  # in lines of :::MLLOG
    "perflog": ("[PerfLog]",),
    "flagperf_table": ("p_whole",),  # if it is a cell
    "flagperf_inference": ("p_inference_whole(qps)",),
    "flagperf_inference_table": ("p_infer_whole",),  # if it is a cell
    "dllogger": ("DLL 20", "DLLL {"),
}
_CELLS = {"flagperf_table": "p_whole", "flagperf_inference_table": "p_infer_whole"}  # between bars and spaces
_AIRANK_LINES = {  # what tells logs of inference from logs of training, which have one prefix
    "airank": r"eval_accuracy|total_epoch_cnt|target_quality_time|total_use_time",
    "airank_inference": (
        r"sampleid|warmup_(?:begin|finish)|total_samples_cnt|total_accuracy|target_qps|samples_cnt_each_case|"
        r"latency_case\d|90th_percentile_latency|Test begin|test_end"
    ),
}
_AIRANK_WORDS = "|".join(f"(?P<{name}>{words})" for name, words in _AIRANK_LINES.items())
_AIRANK_LINE = re.compile(f"AI-Rank-[Ll]og.{{1,60}}?(?:{_AIRANK_WORDS})")
_EDGE_BYTES = 256  # at the end of a block, searched again with the next one
_HEAD_LINES = 50


def detect(path: str | os.PathLike) -> list[str]:
    """The formats of a file, several where a program's output holds several kinds of line; [] if it holds none.

    events          our events.jsonl
    inference_events  events.jsonl of an inference run
    airank          AI-Rank training log, either profile
    airank_inference  AI-Rank inference log
    mlperf          :::MLLOG lines of a training log
    loadgen         :::MLLOG lines of LoadGen, the load generator of MLPerf inference (mlperf_log_detail.txt)
    flagperf        a JSON object with FlagPerf's figures (flagperf.json)
    flagperf_table  a Markdown table with FlagPerf's columns
    flagperf_inference, flagperf_inference_table  the same of FlagPerf's inference benchmarks
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
    if name in ("events", "inference_events"):  # texts of its events may hold other marks
        return [name]
    if "airank" in found:
        found[found.index("airank") : found.index("airank") + 1] = _airank_formats(path)
    return found or ([name] if name else [])


def _marks_in(file: BinaryIO) -> list[str]:
    """The formats whose mark is somewhere in the file."""
    block = file.read(BLOCK_BYTES)
    encoding = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}.get(block[:2], "utf-8")
    sought = {name: [mark.encode(encoding) for mark in marks] for name, marks in _MARKS.items()}
    spaces = b"(?:" + re.escape(" ".encode(encoding)) + b"){0,40}"
    cells = {
        name: re.compile(spaces.join(re.escape(part.encode(encoding)) for part in ("|", word, "|")))
        for name, word in _CELLS.items()
    }
    while block and sought:
        found = [name for name, marks in sought.items() if any(mark in block for mark in marks)]
        for name in found:
            if name not in cells or cells[name].search(block):
                del sought[name]
        new = file.read(BLOCK_BYTES)
        block = new and block[-_EDGE_BYTES:] + new
    marked = [name for name in _MARKS if name not in sought]
    # Both logs have lines of :::MLLOG; that of a training has no version of LoadGen.
    without = "mlperf" if {"mlperf", "loadgen"} <= set(marked) else "loadgen"
    return [name for name in marked if name != without]


def _airank_formats(path: str) -> list[str]:
    """Which of AI-Rank's logs a file is, by the first line that tells; without one a training log, if spelled so."""
    has_prefix = False
    for line in Lines(path):
        if "AI-Rank-" in line:
            has_prefix = has_prefix or "AI-Rank-log " in line
            match = _AIRANK_LINE.search(line[:1000])
            if match is not None:
                return [match.lastgroup]
    return ["airank"] if has_prefix else []


def _of_head(head: list[str]) -> str | None:
    for line in head:
        if line.startswith(("DLL ", "DLLL ")):
            return "dllogger"
    if not head or not head[0].lstrip().startswith("{"):
        return None
    first = _json_object(head[0])
    if "t" in first and "kind" in first:
        kinds = (_json_object(line).get("kind") for line in head if "infer_config" in line)
        return "inference_events" if "infer_config" in kinds else "events"
    if {"datetime", "elapsedtime"} <= first.keys() or {"type", "step", "data"} <= first.keys():
        return "dllogger"
    text = "".join(head)
    return "flagperf" if '"p_whole"' in text and '"trained_samples"' not in text else None  # not our summary.json


def _json_object(text: str) -> dict:
    try:
        return dictionary(json.loads(text))
    except (ValueError, RecursionError):
        return {}
