"""Logs changed one thing at a time: ours refuses what the rules forbid and nothing else, and all that the official
compliance checker refuses."""

import json
from pathlib import Path

import pytest
from rules.mlperf_logs import compliant, official
from rules.mutations import ALL, MUTATIONS

from airank_fast.record.lines import Lines
from airank_fast.rules.findings import ERROR, Rule, worst
from airank_fast.rules.mlperf import order
from airank_fast.rules.mlperf import rules as mlperf_rules

OF_FILES_AND_SETS = {
    f"mlperf.{name}"
    for name in (
        "encoding",
        "num_runs",
        "converged",
        "same_system",
        "same_hyperparameters",
        "seeds_differ",
        "seeds_of_all",
        "copy",
        "rcp",
    )
}
CASES = [(name, mutation) for name in ALL for mutation in MUTATIONS if name in mutation.on]


def test_there_are_enough():
    for name in ALL:
        assert sum(name == log and mutation.forbidden for log, mutation in CASES) >= 40
        names = [mutation.name for log, mutation in CASES if log == name]
        assert len(set(names)) == len(names)


def test_every_rule_that_refuses_a_log_is_broken_by_one(tmp_path):
    path, broken = tmp_path / "result_0.txt", set()
    for name, mutation in CASES:
        path.write_text("\n".join(mutation.mutate(compliant(name))), encoding="utf-8")
        broken |= {finding.rule for finding in order.check(Lines(path)) if finding.severity == ERROR}
    rules = {rule.name for rule in vars(mlperf_rules).values() if isinstance(rule, Rule) and rule.severity == ERROR}
    assert broken - {"mlperf.intervals"} == rules - OF_FILES_AND_SETS


@pytest.mark.parametrize(("name", "mutation"), CASES, ids=lambda case: getattr(case, "name", case))
def test_mutation(name, mutation, tmp_path):
    path = tmp_path / "result_0.txt"
    lines = compliant(name)
    changed = mutation.mutate(lines)
    assert (changed == lines) == (mutation.name == "unchanged")
    path.write_bytes(("\n".join(changed) + "\n" * (mutation.name != "no newline at the end")).encode())
    findings = list(order.check(Lines(path)))
    refuses = worst(findings) == ERROR
    assert refuses == mutation.forbidden, [str(finding) for finding in findings]
    if official(path) != "passes":
        assert mutation.forbidden


def test_the_published_table_is_of_these():
    lines = (Path(__file__).parents[2] / "bench" / "results" / "verify_mutations.jsonl").read_text().splitlines()
    judged = [each for line in lines for each in json.loads(line)["judged"]]
    found = {(each["log"], each["mutation"]): (each["forbidden"], bool(each["rules"])) for each in judged}
    assert found == {(name, mutation.name): (mutation.forbidden,) * 2 for name, mutation in CASES}
