"""Runs `make test` and saves the result for docs/status.md.

    python bench/suite.py [--save] [--kernels] [-- options of pytest]

The exit status is make's. Options of pytest become part of the case's name, so that a part of the suite is not taken
for the whole. With --kernels it runs the tests of the CUDA kernels on a CPU, and saves the checksum of their sources,
with which the whole suite then skips them (tests/cuda_on_cpu/unchanged.py).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from xml.etree import ElementTree

import harness

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))
from cuda_on_cpu import unchanged  # noqa: E402


def counts(report: Path) -> dict[str, int]:
    """passed, failed and skipped of a report in JUnit's form, as pytest writes it: each test once."""
    passed = failed = skipped = 0
    for case in ElementTree.parse(report).iter("testcase"):
        outcomes = {child.tag for child in case}
        if outcomes & {"failure", "error"}:
            failed += 1
        elif "skipped" in outcomes:
            skipped += 1
        else:
            passed += 1
    return {"passed": passed, "failed": failed, "skipped": skipped}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="append to bench/results")
    parser.add_argument("--kernels", action="store_true", help="tests/cuda_on_cpu alone")
    parser.add_argument("options", nargs="*", help="options of pytest, after --")
    arguments = parser.parse_args()
    case, facts = " ".join(["all", *arguments.options]), {}
    if arguments.kernels:
        case, facts = "CUDA kernels on a CPU", {"checksum": unchanged.checksum()}
        arguments.options = ["tests/cuda_on_cpu", "--kernels"]
    with tempfile.TemporaryDirectory() as directory:
        report, begin = Path(directory) / "report.xml", time.perf_counter()
        command = ["make", "test", " ".join([f"ARGS=--junitxml={report}", *arguments.options])]
        status = subprocess.run(command, cwd=ROOT, check=False).returncode
        seconds = time.perf_counter() - begin
        if arguments.save and report.exists():
            harness.append("suite", case, **facts, **counts(report), seconds=round(seconds, 1))
    return status


if __name__ == "__main__":
    sys.exit(main())
