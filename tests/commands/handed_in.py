"""Whether the commands behind training take a run: verify, score, report, package."""

from __future__ import annotations

import re

from commands.inprocess import run_without_torch

from airank_fast import package, report, score, verify


def assert_handed_in(run, title, directory, errors=()):
    """The run is verified with no other errors than these rules', scored, reported under its title, and packaged.

    Files go to `directory`.
    """
    verified = run_without_torch(verify, run)
    found = re.findall(r": error: .*\[([\w.]+):", verified.stdout)
    assert (set(found), verified.returncode) == (set(errors), int(bool(errors))), verified.stdout + verified.stderr
    scored = run_without_torch(score, run)
    assert scored.returncode in (0, 1), scored.stderr
    reported = run_without_torch(report, run, "--output", directory / "report")
    assert reported.returncode == 0, reported.stderr
    assert title in (directory / "report" / "report.zh.md").read_text(encoding="utf-8")
    named = ("--set", "submitter=Nobody", "--set", "hardware_name=Machine", "--allow-names", "--allow-errors")
    packaged = run_without_torch(package, "--format", "airank", "--output", directory / "package", *named, run)
    assert packaged.returncode in (0, 1), packaged.stderr
    assert list((directory / "package").rglob("*.log"))
