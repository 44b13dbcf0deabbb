"""Convert a log of any known format into another: DLLogger, [PerfLog], MLLOG, AI-Rank, events.

python -m airank_fast.convert GPUx8.log --to airank --set target=0.759 --set samples_per_epoch=1281167 --set unit=images
python -m airank_fast.convert events.jsonl --to mlperf --output result_0.txt

Facts that the other format requires and the log lacks are given by --set NAME=VALUE or left out by --incomplete, never
guessed. Standard error lists what is lost. Exit status: 0, or 2 if something is missing or unreadable.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import zoneinfo
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta, timezone, tzinfo
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from airank_fast.cli import run_command
from airank_fast.errors import UserError, require
from airank_fast.record.foreign import convert as converting
from airank_fast.record.foreign.read import LogReader, cards_in_name, find_log
from airank_fast.record.formats import dllogger, perflog
from airank_fast.record.lines import Lines
from airank_fast.record.settings import parse_settings

FILES = {
    "airank": "airank.log",
    "mlperf": "mlperf.log",
    "flagperf": "flagperf.json",
    "events": "events.jsonl",
    "dllogger": "dllogger.json",
    "perflog": "perflog.log",
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Convert a log into another format."""

    log: Annotated[Path, tyro.conf.Positional]
    """A log, or a run directory."""
    to: Literal["airank", "mlperf", "flagperf", "events", "dllogger", "perflog"]
    """The format to write; flagperf is the JSON of its figures, or its table where --output ends in .md."""
    output: Path | None = None
    """File, or directory for a file of the format's usual name. Default: standard output."""
    source: Literal["events", "mlperf", "airank", "perflog", "dllogger"] | None = None
    """The format to read, where a file holds several. Default: the one with the most information."""
    set: tyro.conf.UseAppendAction[list[str]] = field(default_factory=list)
    """A fact that the log lacks: NAME=VALUE. GPUx8.log means world_size=8."""
    incomplete: bool = False
    """Leave out what is missing instead of requiring it."""
    accuracy_metric: str | None = None
    """The metric that is the accuracy. Default: val.top1, val.accuracy or top1_accuracy of DLLogger, and those of
    FlagPerf's BERT and ResNet-50."""
    accuracy_unit: Literal["percent", "fraction"] | None = None
    """Unit of the accuracy, where the log does not state it."""
    time_zone: str | None = None
    """Zone of times without one (text of DLLogger), as +08:00 or Europe/Berlin. Default: UTC, and a note about it."""
    airank_profile: Literal["2020-12", "2021-05"] = "2020-12"
    """AI-Rank's text to follow."""


def main() -> int:
    """Write the converted log; omissions to standard error."""
    options = tyro.cli(Options, description=__doc__)
    omissions = converting.Omissions()
    source, name = find_log(options.log, options.source)
    cards = cards_in_name(options.log)
    given = ({"world_size": cards} if cards else {}) | parse_settings(options.set)
    events = LogReader(source, name, given, readers(options, omissions.count_line)).events
    try:
        requirements = converting.Requirements(options.to, events(), given)
        if requirements.missing and not options.incomplete:
            settings = ", ".join(f"--set {each}=" for each in requirements.missing)
            raise UserError(f"--to {options.to}: must have {settings} or --incomplete, got none of them")
        omissions.notes += requirements.notes(name, has_zone=options.time_zone is not None)
        omissions.notes += [f"{each}: not in the log, left out" for each in requirements.missing]
        converting.scan(name, Lines(source), omissions)
        markdown = options.output is not None and options.output.suffix == ".md"
        kept = events() if options.to == "events" else converting.without_superseded(events(), requirements.kinds)
        lines = converting.convert(kept, options.to, omissions, options.airank_profile, markdown, requirements.stated)
        write(lines, destination(options.output, options.to), source)
    except UserError as error:
        text = str(error)
        named = text.startswith((str(source), "--"))
        raise UserError(text if named else f"{source}: {text}") from None
    for line in omissions.lines():
        print(line, file=sys.stderr)
    return 0


def readers(options: Options, lost: Callable[[int, str], object]) -> dict:
    """The parsers that this command has options for."""
    zone = time_zone(options.time_zone)
    metric = options.accuracy_metric
    return {
        "dllogger": partial(dllogger.parse, zone=zone, accuracy=metric, unit=options.accuracy_unit, lost=lost),
        "perflog": partial(perflog.parse, accuracy=metric, unit=options.accuracy_unit, lost=lost),
    }


def time_zone(text: str | None) -> tzinfo:
    """+08:00 or Asia/Shanghai as a time zone."""
    if text is None:
        return timezone.utc
    match = re.fullmatch(r"([+-])(\d\d):([0-5]\d)", text)
    if match is None:
        with contextlib.suppress(ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
            return zoneinfo.ZoneInfo(text)
    require(match and int(match[2]) < 24, "--time-zone", "+HH:MM, -HH:MM or the name of a zone, Europe/Berlin", text)
    offset = timedelta(hours=int(match[2]), minutes=int(match[3]))
    return timezone(-offset if match[1] == "-" else offset)


def destination(output: Path | None, to: str) -> Path | None:
    """The file to write."""
    return output / FILES[to] if output is not None and output.is_dir() else output


def write(lines: Iterator[str], path: Path | None, source: Path) -> None:
    """Lines to a file, whole or not at all, or to standard output."""
    if path is None:
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(encoding="utf-8")
        for line in lines:
            print(line)
        return
    if path.exists() and path.samefile(source):
        raise UserError(f"--output: must be another file than the log, got {path}")
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            file.writelines(line + "\n" for line in lines)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"--output: must be a file that can be written, got {path} ({error.strerror})") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


if __name__ == "__main__":
    run_command(main)
