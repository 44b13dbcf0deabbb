"""A report as text: the HTML page, and Markdown with its pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from airank_fast.record.formats import flagperf
from airank_fast.reports.files import FileSum
from airank_fast.reports.groups import Figure
from airank_fast.reports.page import Report, moment
from airank_fast.reports.pictures import shorten, standalone
from airank_fast.reports.reading import ReportedRun, clean

_TEMPLATES = Path(__file__).parent / "templates"
_SECTIONS = ("summary", "pictures", "runs", "flagperf", "system", "recipe", "reproduce", "checksums", "notes")
# Column of the table of runs: key in the summary, text, decimals, factor.
_RUN_COLUMNS = (
    ("time2train", "time2train", 2, 1), ("total_time", "total_time", 2, 1), ("e2e_time", "e2e_time", 2, 1),
    ("best_accuracy", "best_accuracy", 2, 100), ("final_accuracy", "final_accuracy", 2, 100),
    ("avg_ips", "avg_ips", 1, 1), ("p_whole", "p_whole", 1, 1), ("p_train", "p_train", 1, 1),
    ("p_core", "p_core", 1, 1), ("trained_samples", "trained", 0, 1), ("epochs", "epochs_done", 0, 1),
    ("evaluations", "evaluations", 0, 1), ("data_wait_s", "data_wait", 2, 1), ("h2d_s", "h2d", 2, 1),
    ("measure_s", "measure", 3, 1), ("mem_used_gib", "memory", 2, 1),
)  # fmt: skip


def html(report: Report) -> str:
    """The report as one HTML page that needs nothing beside itself."""
    return _render("report.html.j2", report, style=_read("picture.css") + _read("page.css"))


def markdown(report: Report, folder: str) -> str:
    """The report as GitHub's Markdown; its pictures are expected in `folder`."""
    text = _render("report.md.j2", report, folder=folder)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def picture_files(report: Report) -> dict[str, str]:
    """File name -> SVG of each picture."""
    style = _read("picture.css")
    return {f"{picture.name}.svg": standalone(picture, style)
            for model in report.models for picture in model.pictures if picture.height}  # fmt: skip


def escape_markdown(text: object) -> str:
    """Text that Markdown shows as it is, on one line, also in a table."""
    line = clean(str(text)).replace("&", "&amp;").replace("<", "&lt;")
    line = re.sub(r"([\\`*_\[\]|~])", r"\\\1", line).replace(">", "&gt;")
    line = re.sub(r"^(\s*)([#+\-=!])", r"\1\\\2", line)
    line = re.sub(r"^(\s*\d+)([.)])", r"\1\\\2", line)
    return re.sub(r"(?i)\b(https?|ftp|mailto|www)([:.])", r"\1&#8203;\2", line).replace("@", "&#64;")


def fenced(text: str, language: str) -> str:
    """A block of code whose fence is longer than any in the text."""
    runs = re.findall(r"`{3,}", text)
    fence = "`" * (1 + max(map(len, runs), default=2))
    return f"{fence}{language}\n{text}\n{fence}"


def _render(name: str, report: Report, **more) -> str:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=lambda template: template is None or template.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        figure=_figure, range=_range, fixed=_fixed, plain=_plain, steps=_steps, started=_started, clean=clean,
        short=lambda text, length: shorten(str(text), length), md=escape_markdown, code=fenced, sums=_sums,
    )  # fmt: skip
    columns = [name.strip() for name in flagperf.HEADER.splitlines()[0].strip("| ").split("|")]
    return environment.get_template(name).render(
        r=report, sections=_SECTIONS, run_columns=_RUN_COLUMNS, flagperf_columns=columns, **more
    )


def _read(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _fixed(value: object, digits: int, scale: float = 1) -> str:
    return f"{value * scale:.{digits}f}" if isinstance(value, (int, float)) else "-"


def _figure(figure: Figure, digits: int, scale: float = 1) -> str:
    return _fixed(figure.value, digits, scale)


def _range(figure: Figure, digits: int, scale: float = 1) -> str:
    return f"{_fixed(figure.low, digits, scale)}–{_fixed(figure.high, digits, scale)}"


def _plain(value: object) -> str:
    """A value of a recipe or a system as a person reads it."""
    if isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _steps(run: ReportedRun) -> str:
    times = [run.summary[f"step_time_p{percent}"] for percent in (50, 95, 99)]
    return " / ".join("-" if time is None else f"{time * 1000:.2f}" for time in times) if any(times) else "-"


def _started(run: ReportedRun) -> str:
    return "-" if run.start_t is None else moment(run.start_t)


def _sums(files: Sequence[FileSum], count: int) -> str:
    return "\n".join(f"{file.sha256}  {clean(file.path)}" for file in files[:count])
