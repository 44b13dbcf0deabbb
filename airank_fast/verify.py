"""Check logs and submissions against the rule books of AI-Rank, MLPerf and FlagPerf.

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
from airank_fast.rules.facts import Facts
from airank_fast.rules.findings import ERROR, SEVERITIES


@dataclass(frozen=True, kw_only=True)
class Options:
    """Check logs, run directories and submission trees against the rules of their formats.

    Exit status: 0 no error; 1 errors; 2 a path that cannot be used (missing, empty, no recognised format in it)."""

    paths: Annotated[list[Path], tyro.conf.Positional]
    """Log files and directories, of this program or others."""
    json: bool = False
    """Print each finding as one line of JSON instead of text."""
    profile: Literal["2020-12", "2021-05"] | None = None
    """The AI-Rank document that the log follows. Default: 2021-05 if it has a load_data line, else 2020-12."""
    model: str | None = None
    """The trained task, by its name in any rule book: resnet50, ResNet-50, bert_large, Wide&Deep. It sets the target
    accuracy that the log must reach, and the samples of an epoch if every preparation of the task's data has the same
    size (resnet50: 1,281,167). docs/tasks.md lists the tasks."""
    target: float | None = None
    """The accuracy that the run had to reach, a fraction (BLEU: up to 100). Replaces the target of --model."""
    samples_per_epoch: int | None = None
    """Training samples of an epoch, to check avg_ips and e2e_time. Replaces the number of --model."""
    warmup_epochs: int | None = None
    """Warm-up epochs that an AI-Rank log leaves out of avg_ips."""
    epochs: float | None = None
    """Trained epochs, if the log does not state them."""

    def facts(self) -> Facts:
        """The facts that the options state; UserError for an invalid one."""
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
        return Facts(task=task, **{name: getattr(self, name) for name in names})


def main() -> int:
    """Print every finding. Returns 1 if one of them is an error, 2 if a path cannot be used."""
    options = tyro.cli(Options, prog="python -m airank_fast.verify", description=__doc__)
    require(bool(options.paths), "paths", "at least one file or directory", "none")
    facts = options.facts()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # a file's name may be anything
    counts: Counter[str] = Counter()
    unusable = False
    for path in options.paths:
        try:
            for finding in verifying.verify(path, facts):
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
