"""Several evaluations of one epoch, or with the same epoch number, all count; a resume alone makes one void."""

import json
from pathlib import Path

import pytest
from commands.inprocess import run

from airank_fast import convert, score
from airank_fast.record.events import effective
from airank_fast.record.foreign.read import read_run
from airank_fast.record.metrics import summarize
from airank_fast.reports import reading

CASES = Path(__file__).parents[1] / "cases/same_epoch"
AIRANK, MLPERF = CASES / "GPUx8.log", CASES / "mlperf_bert.txt"


def accuracies(events):
    return [event["accuracy"] for event in events if event["kind"] == "eval_stop"]


def test_an_airank_log():
    summary = read_run(AIRANK, {"target": 0.711}).summary
    assert (summary["evaluations"], summary["best_accuracy"], summary["final_accuracy"]) == (2, 0.7125, 0.7125)
    assert summary["time2train"] == 2000
    assert list(reading.read(AIRANK).evaluations.y) == [0.5125, 0.7125]


def test_an_mlperf_log():
    summary = read_run(MLPERF, {"target": 0.72}).summary
    assert (summary["evaluations"], summary["final_accuracy"], summary["time2train"]) == (2, 0.721, 1000)


@pytest.mark.parametrize(
    ("path", "to"),
    [(AIRANK, to) for to in ("airank", "mlperf", "dllogger", "perflog", "events")]
    + [(MLPERF, to) for to in ("mlperf", "perflog", "events")],
)
def test_convert_writes_them_all_in_order(path, to, tmp_path):
    output = tmp_path / "GPUx8.log"
    assert run(convert, path, "--to", to, "--incomplete", "--set", "target=0.711", "--output", output).returncode == 0
    assert accuracies(read_run(output).events) == accuracies(read_run(path).events)


def test_score_has_the_run_that_reached_its_target_at_the_second():
    done = json.loads(run(score, "--json", "--rules", "airank", AIRANK, "--set", "target=0.711").stdout)
    [row] = done["airank"]["rows"]
    assert (row["time2train"], row["accuracy"], row["num_reached"]) == (2000, 0.7125, 1)
    done = json.loads(run(score, "--json", "--rules", "mlperf", MLPERF).stdout)
    assert done["mlperf"][0]["runs"][0]["minutes"] == pytest.approx(1000.5 / 60)


def test_our_own_run_may_evaluate_twice_in_an_epoch(story):
    run = story().begin().block(1, until=5).evaluate(1, 0.4).block(1, until=9).evaluate(1, 0.77).stop()
    assert accuracies(effective(run.events)) == [0.4, 0.77]
    assert summarize(run.events)["evaluations"] == 2


def test_a_resume_makes_void_what_lies_past_its_step_and_what_is_done_again_at_it(story):
    run = story().begin().block(1).evaluate(1, 0.3)
    at = run.step
    run.block(2).evaluate(2, 0.5).resume(at).evaluate(1, 0.3).block(2).evaluate(2, 0.77).stop()
    assert accuracies(effective(run.events)) == [0.3, 0.77]
    assert summarize(run.events)["evaluations"] == 2
    run = story().begin().block(1, until=5).evaluate(1, 0.3)
    run.resume(2).train(5).evaluate(1, 0.4).stop()  # the step was evaluated before, but what it was is void
    assert accuracies(effective(run.events)) == [0.4]
    assert summarize(run.events)["final_accuracy"] == 0.4
