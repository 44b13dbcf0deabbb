"""The findings of verify about users' logs (tests/cases): the named rules are broken, and no others."""

from pathlib import Path

import pytest

from airank_fast import tasks
from airank_fast.rules import verifying
from airank_fast.rules.facts import Facts

CASES = Path(__file__).parents[1] / "cases"
INCOMPLETE = {"mlperf.required", "mlperf.event_order", "mlperf.num_runs"}  # the logs hold only what the case is about


def found(case: str, severity: str, **facts) -> list:
    return [each for each in verifying.verify(CASES / case, Facts(**facts)) if each.severity == severity]


@pytest.mark.parametrize(
    ("case", "rules"),
    [
        ("percent/resnet", {"mlperf.accuracy", "mlperf.target", "mlperf.status"}),
        ("percent/GPUx8.log", {"airank.accuracy"}),
        ("same_epoch/GPUx8.log", set()),
        ("same_epoch/mlperf_bert.txt", {"mlperf.evaluation_cadence"}),
        ("clock/seconds", {"mlperf.time_unit"}),
    ],
)
def test_errors(case, rules):
    assert {finding.rule for finding in found(case, "error")} - INCOMPLETE == rules


def test_an_accuracy_in_per_cent_is_read_as_what_it_must_mean():
    required = [finding.required for finding in found("percent/GPUx8.log", "error", task=tasks.find("tsm"))]
    assert [fraction for text in required for fraction in ("0.3125", "0.584", "0.761") if fraction in text] == [
        "0.3125",
        "0.584",
        "0.761",
    ]


def test_two_evaluations_of_an_epoch_are_a_question_not_an_error():
    assert [(each.rule, each.line) for each in found("same_epoch/GPUx8.log", "warning")] == [("airank.epochs", 3)]
    (cadence,) = (each for each in found("same_epoch/mlperf_bert.txt", "error") if "cadence" in each.rule)
    assert "BERT's epoch_num counts samples" in cadence.required
