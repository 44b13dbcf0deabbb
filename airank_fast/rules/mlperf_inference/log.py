"""Checks the log of one LoadGen test, alone or in a submission; settings.py, performance.py and summary.py judge it.

list(check(Lines("mlperf_log_detail.txt")))     # alone, with the summary and the accuracy log beside it
judge(path, detail, Context(PROFILES["v6.1"], BENCHMARKS["resnet"], is_submission=True))
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from airank_fast.record.formats.loadgen import DETAIL, SUMMARY, Detail, read_detail, read_summary
from airank_fast.record.lines import Lines
from airank_fast.rules.facts import Facts
from airank_fast.rules.findings import Finding
from airank_fast.rules.inference_profiles import PROFILES, Profile
from airank_fast.rules.mlperf_inference import accuracy, rules, summary
from airank_fast.rules.mlperf_inference.judge import Context, Judge
from airank_fast.rules.mlperf_inference.performance import judge_figures
from airank_fast.rules.mlperf_inference.settings import SEED_KEYS, judge_settings

_NO_FACTS = Facts()
_RUNS = ("performance", "accuracy")


def check(lines: Lines, facts: Facts = _NO_FACTS) -> Iterator[Finding]:
    """The findings about a detail log that stands alone, and about the files of the same test beside it.

    `facts.task` names the benchmark, if it is one of MLPerf's. The round is that of the log's seeds. What only a
    submission requires of a sound test, such as 600 s, is a warning.
    """
    path, detail = Path(lines.path), read_detail(lines)
    benchmark = rules.BENCHMARKS.get(rules.BY_TASK.get(facts.task.name if facts.task else "", ""))
    context = Context(profile_of(detail), benchmark, test_of(path, detail))
    yield from judge(path, detail, context)
    if path.name == DETAIL:
        yield from beside(path.parent, detail)
        if context.test == "accuracy":
            yield from accuracy.judge_folder(path.parent, context, detail)


def judge(path: Path, detail: Detail, context: Context) -> list[Finding]:
    """The findings about a detail log by the rules of its context, in the order of its lines."""
    judged = Judge(path, detail, context)
    judge_settings(judged)
    if judged.is_performance:
        judge_figures(judged)
    return sorted(judged.findings, key=lambda finding: (finding.line is None, finding.line or 0))


def beside(folder: Path, detail: Detail) -> Iterator[Finding]:
    """The findings about the summary in the folder of a detail log, if there is one."""
    path = folder / SUMMARY
    if path.is_file():
        yield from summary.differences(path, read_summary(Lines(path)), detail)


def profile_of(detail: Detail) -> Profile | None:
    """The round whose seeds a test has, those of TEST05 included; None of any other seeds."""
    seeds = tuple(detail.value(key) for key in SEED_KEYS)
    for profile in PROFILES.values():
        if profile.scenarios and seeds in (profile.seeds, profile.test05_seeds):
            return profile
    return None


def test_of(path: Path, detail: Detail) -> str:
    """Which test a log is of: the name of a folder above it (TEST01, performance), else what its settings state.

    In a folder of that name a log with the settings of another test is no sound performance or accuracy run.
    """
    above = path.parts[-5:-1]
    named = next((part for names in (rules.TESTS, _RUNS) for part in reversed(above) if part in names), None)
    if named:
        return named
    if detail.value("effective_test_mode") == "AccuracyOnly":
        return "accuracy"
    return "TEST04" if detail.value("effective_performance_issue_same") is True else "performance"
