"""A report as text: the HTML page, and Markdown with its pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup, escape

from airank_fast.record.formats import flagperf
from airank_fast.reports.cleaning import clean
from airank_fast.reports.files import FileSum
from airank_fast.reports.groups import Figure
from airank_fast.reports.page import Report, moment
from airank_fast.reports.pictures import shorten, standalone
from airank_fast.reports.reading import ReportedRun

_TEMPLATES = Path(__file__).parent / "templates"
_SECTIONS = (
    "summary",
    "pictures",
    "examples",
    "runs",
    "findings",
    "flagperf",
    "system",
    "recipe",
    "reproduce",
    "checksums",
    "notes",
)
_OF_TRAINING = {"summary", "pictures", "examples", "runs", "flagperf", "recipe"}
_OF_INFERENCE = ("inference", "inference_pictures", "inference_details")  # before the findings
# Columns of the tables of runs: key in the summary, text, decimals, factor.
_RESULTS = (
    ("time2train", "time2train", 2, 1),
    ("total_time", "total_time", 2, 1),
    ("e2e_time", "e2e_time", 2, 1),
    ("best_accuracy", "best_accuracy", 2, 100),
    ("final_accuracy", "final_accuracy", 2, 100),
    ("epochs", "epochs_done", 0, 1),
    ("evaluations", "evaluations", 0, 1),
)
_PERFORMANCE = (
    ("trained_samples", "trained", 0, 1),
    ("avg_ips", "avg_ips", 1, 1),
    ("p_whole", "p_whole", 1, 1),
    ("p_train", "p_train", 1, 1),
    ("p_core", "p_core", 1, 1),
    ("data_wait_s", "data_wait", 2, 1),
    ("h2d_s", "h2d", 2, 1),
    ("measure_s", "measure", 3, 1),
    ("mem_used_gib", "memory", 2, 1),
)


def html(report: Report) -> str:
    """The report as one HTML page without other files."""
    return _render("report.html.j2", report, style=_read("picture.css") + _read("page.css"))


def markdown(report: Report, folder: str) -> str:
    """The report as GitHub's Markdown; its pictures are expected in `folder`."""
    return "\n".join(_spaced(_render("report.md.j2", report, folder=folder).splitlines())) + "\n"


def picture_files(report: Report) -> dict[str, str | bytes]:
    """File name -> content of each picture: drawings as SVG, predictions as PNG."""
    style = _read("picture.css")
    drawn = {
        f"{picture.name}.svg": standalone(picture, style, report.mark)
        for model in (*report.models, *report.inference)
        for picture in model.pictures
        if picture.height
    }
    return drawn | {name: example.content for _, examples in report.examples for name, example in examples}


def escape_markdown(text: object) -> str:
    """Text that Markdown shows as it is, on one line, also in a table."""
    line = clean(str(text)).replace("&", "&amp;").replace("<", "&lt;")
    line = re.sub(r"([\\`*_\[\]|~])", r"\\\1", line).replace(">", "&gt;")
    line = re.sub(r"^(\s*)([#+\-=!])", r"\1\\\2", line)
    line = re.sub(r"^(\s*\d+)([.)])(?=\s|$)", r"\1\\\2", line)
    return re.sub(r"(?i)\b(https?|ftp|mailto|www)([:.])", r"\1&#8203;\2", line).replace("@", "&#64;")


def fenced(text: str, language: str) -> str:
    """A block of code whose fence is longer than any in the text."""
    runs = re.findall(r"`{3,}", text)
    fence = "`" * (1 + max(map(len, runs), default=2))
    return f"{fence}{language}\n{text}\n{fence}"


def _spaced(lines: Sequence[str]) -> Iterator[str]:
    """The lines with one empty line between a heading, a table, a list and a paragraph; code as it is."""
    before, fence = "", None
    for line in lines:
        if fence is not None:
            yield line
            fence = None if line == fence else fence
            before = "code"
            continue
        if not line.strip():
            continue
        start = line.split(" ", 1)[0]
        kind = start if start in ("|", "-", "*", ">") else line
        if before and kind != before:
            yield ""
        yield line
        before = kind
        fence = re.match("`{3,}", line)[0] if line.startswith("```") else None


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=lambda template: template is None or template.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        figure=_figure,
        range=_range,
        fixed=_fixed,
        shown=_shown,
        steps=_steps,
        started=_started,
        clean=clean,
        short=lambda text, length: shorten(str(text), length),
        md=escape_markdown,
        code=fenced,
        breaks=_breaks,
        sums=_sums,
    )
    return environment


def _render(name: str, report: Report, **more) -> str:
    columns = [column.strip() for column in flagperf.HEADER.splitlines()[0].strip("| ").split("|")]
    return (
        _environment()
        .get_template(name)
        .render(
            r=report,
            sections=_sections(report),
            results=_RESULTS,
            performance=_PERFORMANCE,
            flagperf_columns=columns,
            **more,
        )
    )


def _sections(report: Report) -> list[str]:
    """The sections that a report has, in their order."""
    left_out = set() if report.models else _OF_TRAINING
    found = [name for name in _SECTIONS if name not in left_out and (name != "examples" or report.examples)]
    if report.inference:
        at = found.index("findings")
        found[at:at] = _OF_INFERENCE
    return found


def _read(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _fixed(value: object, digits: int, scale: float = 1) -> str:
    return f"{value * scale:.{digits}f}" if isinstance(value, (int, float)) else "-"


def _figure(figure: Figure, digits: int, scale: float = 1) -> str:
    return _fixed(figure.value, digits, scale)


def _range(figure: Figure, digits: int, scale: float = 1) -> str:
    return f"{_fixed(figure.low, digits, scale)}–{_fixed(figure.high, digits, scale)}"


@pass_context
def _shown(context: Context, value: object) -> str:
    """A value of a recipe or a system as text."""
    if value is None:
        return context["r"].t("unknown")
    if isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _steps(run: ReportedRun) -> str:
    times = [run.summary[f"step_time_p{percent}"] for percent in (50, 95, 99)]
    return " / ".join("-" if time is None else f"{time * 1000:.2f}" for time in times) if any(times) else "-"


def _started(run: ReportedRun) -> str:
    return "-" if run.start_t is None else moment(run.start_t)


def _breaks(text: str) -> Markup:
    """A name that may be broken behind its underscores and dots."""
    return Markup(re.sub(r"([_.])", r"\1<wbr>", str(escape(text))))


def _sums(files: Sequence[FileSum], count: int) -> str:
    return "\n".join(f"{file.sha256}  {clean(file.path)}" for file in files[:count])
