"""Check logs and submissions against the rule books, before a reviewer does.

python -m airank_fast.verify runs/*/ mlperf.log submission/
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from airank_fast.cli import run_command
from airank_fast.rules import verifying
from airank_fast.rules.findings import ERROR, SEVERITIES, Finding, worst


@dataclass(frozen=True, kw_only=True)
class Options:
    """Check logs, run directories and submission trees against the rules they were made for."""

    paths: Annotated[list[Path], tyro.conf.Positional]
    """Files and directories, ours or anybody's."""
    json: bool = False
    """A JSON object a finding on standard output instead of text."""


def main() -> int:
    """Print every finding; 1 if one of them is an error."""
    options = tyro.cli(Options, description=__doc__)
    findings: list[Finding] = []
    for path in options.paths:
        for finding in verifying.verify(path):
            findings.append(finding)
            print(json.dumps(finding.to_json(), ensure_ascii=False) if options.json else finding)
    if not options.json:
        counts = [f"{sum(f.severity == severity for f in findings)} {severity}s" for severity in SEVERITIES]
        print(", ".join(counts), file=sys.stderr)
    return int(worst(findings) == ERROR)


if __name__ == "__main__":
    run_command(main)
