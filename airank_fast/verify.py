"""Check logs and submissions against the rule books, before a reviewer does.

python -m airank_fast.verify runs/*/ mlperf.log submission/
python -m airank_fast.verify GPUx8.log --model resnet50 --profile 2021-05
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from airank_fast import tasks
from airank_fast.cli import run_command
from airank_fast.errors import UserError, require
from airank_fast.rules import verifying
from airank_fast.rules.findings import ERROR, SEVERITIES
from airank_fast.rules.known import Known


@dataclass(frozen=True, kw_only=True)
class Options:
    """Check logs, run directories and submission trees against the rules they were made for.

    Exit status: 0 no error, 1 errors, 2 something that cannot be used (missing, empty, nothing known in it)."""

    paths: Annotated[list[Path], tyro.conf.Positional]
    """Files and directories, ours or anybody's."""
    json: bool = False
    """A JSON object a finding on standard output instead of text."""
    profile: Literal["2020-12", "2021-05"] | None = None
    """Which of AI-Rank's documents a log follows. Default: 2021-05 if it has a load_data line, else 2020-12."""
    model: str | None = None
    """What was trained, by any rule book's name of it: gives the target, and of resnet50 the samples of an epoch
    (ImageNet)."""
    target: float | None = None
    """Accuracy that the run had to reach, a fraction (BLEU: up to 100); goes before the model's."""
    samples_per_epoch: int | None = None
    """Training samples of an epoch, for the figures that logs do not carry enough for."""
    warmup_epochs: int | None = None
    """Epochs that an AI-Rank log leaves out of avg_ips."""
    epochs: float | None = None
    """Epochs that were trained, where the log does not say."""

    def known(self) -> Known:
        """The facts among the options; UserError for one that cannot be."""
        for name, least in (("samples_per_epoch", 1), ("warmup_epochs", 0), ("epochs", 0)):
            value = getattr(self, name)
            option = f"--{name.replace('_', '-')}"
            require(value is None or least <= value <= 10**12, option, f"at least {least}", value)
        task = tasks.find(self.model)
        names = ", ".join(each.name for each in tasks.all_tasks())
        require(self.model is None or task is not None, "--model", f"one of {names}", self.model)
        maximum = task.headline.maximum if task else 1.0
        is_target = self.target is None or 0 < self.target <= maximum
        require(is_target, "--target", f"a number in (0, {maximum:g}]", self.target)
        names = ("profile", "target", "samples_per_epoch", "warmup_epochs", "epochs")
        return Known(task=task, **{name: getattr(self, name) for name in names})


def main() -> int:
    """Print every finding; 1 if one of them is an error, 2 if a path could not be used."""
    options = tyro.cli(Options, prog="python -m airank_fast.verify", description=__doc__)
    require(bool(options.paths), "paths", "at least one file or directory", "none")
    known = options.known()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # a file's name may be anything
    counts: Counter[str] = Counter()
    unusable = False
    for path in options.paths:
        try:
            for finding in verifying.verify(path, known):
                counts[finding.severity] += 1
                print(json.dumps(finding.to_json()) if options.json else finding)
        except UserError as error:
            unusable = True
            print("error:", " ".join(str(error).split()), file=sys.stderr)
    if not options.json:
        print(", ".join(f"{counts[severity]} {severity}s" for severity in SEVERITIES), file=sys.stderr)
    return 2 if unusable else int(counts[ERROR] > 0)


if __name__ == "__main__":
    run_command(main)
