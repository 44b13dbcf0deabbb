"""Runs the test suite and saves the result for docs/status.md.

    python bench/suite.py [--save] [-- options of pytest]

The exit status is pytest's. Options of pytest become part of the case's name, so that a part of the suite is not taken
for the whole.
"""

from __future__ import annotations

import argparse
import sys
import time

import harness
import pytest


class Count:
    """A plugin of pytest that counts outcomes."""

    def __init__(self) -> None:
        self.passed = self.failed = self.skipped = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test once: by its call, or by the phase before or after it that failed or skipped it."""
        if report.failed:
            self.failed += 1
        elif report.skipped:
            self.skipped += 1
        elif report.when == "call":
            self.passed += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="append to bench/results")
    parser.add_argument("options", nargs="*", help="options of pytest, after --")
    arguments = parser.parse_args()
    count, begin = Count(), time.perf_counter()
    status = pytest.main(["-q", *arguments.options], plugins=[count])
    seconds = time.perf_counter() - begin
    if arguments.save and status in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        case = " ".join(["all", *arguments.options])
        harness.append("suite", case, **vars(count), seconds=round(seconds, 1))
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
