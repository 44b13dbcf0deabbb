"""Write the test and reproduction report of runs, as one HTML page and as Markdown.

python -m airank_fast.report runs/* --lang zh --output report
python -m airank_fast.report GPUx1.log GPUx8.log --set benchmark=resnet50 --set target=0.759 --lang en
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from airank_fast.cli import run_command
from airank_fast.errors import UserError
from airank_fast.record.settings import parse_settings


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write the test and reproduction report of one or several runs."""

    paths: Annotated[list[Path], tyro.conf.Positional]
    """Run directories and log files, ours or another program's."""
    lang: Literal["zh", "en"] = "zh"
    """Chinese or English."""
    output: Path = Path("report")
    """Directory for report.LANG.html, report.LANG.md and the pictures that the latter shows."""
    mark: str = ""
    """A mark on top of every page, such as "演练" or "rehearsal"."""
    set: tyro.conf.UseAppendAction[list[str]] = field(default_factory=list)
    """A fact that logs lack: NAME=VALUE for all of them, 'PATTERN:NAME=VALUE' for paths that match. A log's own comes
    first. GPUx8.log means world_size=8."""


def main() -> int:
    """Read the runs, write the files, print their names."""
    options = tyro.cli(Options, description=__doc__)
    if missing := [name for name in ("jinja2", "markupsafe") if importlib.util.find_spec(name) is None]:
        raise UserError(f"report: must be installed by pip install 'airank-fast[report]', got no {missing[0]}")
    from airank_fast.reports import page, reading, rendering

    parse_settings(options.set)
    runs = [reading.read(path, parse_settings(options.set, str(path))) for path in options.paths]
    report = page.Report(runs, options.lang, options.mark, options.set, leave_out=options.output.resolve())
    folder = f"report.{options.lang}"
    files = {f"{folder}.html": rendering.html(report), f"{folder}.md": rendering.markdown(report, folder)}
    files |= {f"{folder}/{name}": content for name, content in rendering.picture_files(report).items()}
    try:
        (options.output / folder).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (options.output / name).write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    except OSError as error:
        required = "must be a directory that can be written"
        raise UserError(f"--output: {required}, got {options.output} ({error})") from None
    for name in (f"{folder}.html", f"{folder}.md"):
        print(options.output / name)
    return 0


if __name__ == "__main__":
    run_command(main)
