"""MLPerf's result and GP2BM's score: by hand, and against the official result summarizer on the same files."""

import math
import random
import statistics

import pytest
from rules.mlperf_runs import Runs, events

from airank_fast.record.events import to_line
from airank_fast.record.foreign.read import read_run
from airank_fast.rules.scoring import (
    BENCHMARKS,
    ReferencePoint,
    RunResult,
    accepts,
    benchmark_of,
    gp2bm_score,
    olympic_mean,
    required_minutes,
    run_result,
    set_result,
)

RESNET, BERT = BENCHMARKS["resnet"], BENCHMARKS["bert"]


@pytest.fixture(name="runs")
def runs_fixture(tmp_path):
    return Runs(tmp_path)


def official(runs, benchmark):
    """(minutes, scaling factor) by mlperf-logging, with the convergence check of closed submissions."""
    pytest.importorskip("mlperf_logging")
    from mlperf_logging.rcp_checker import rcp_checker
    from mlperf_logging.result_summarizer import result_summarizer

    folder = str(runs.folder)
    passed, *_ = rcp_checker.check_directory(
        folder, "training", "4.0.0", False, False, rcp_pass="pruned_rcps", set_scaling=True
    )
    score, _, factor = result_summarizer._compute_strong_score_standalone(
        benchmark, "system", False, folder, "training", "4.0.0"
    )
    return score, factor, passed


def reference_point(benchmark, batch):
    from mlperf_logging.rcp_checker import rcp_checker

    point = rcp_checker.RCP_Checker("training", "4.0.0", benchmark, False)._find_rcp(batch, "pruned_rcps")
    return ReferencePoint(point["RCP Mean"], point["Min Epochs"])


def minutes(count, seed=0):
    dice = random.Random(seed)
    return [round(dice.uniform(15, 25), 3) for _ in range(count)]


@pytest.mark.parametrize("failed", [(), (0,), (3,), (1, 2)])
@pytest.mark.parametrize(
    ("name", "benchmark", "batch", "epochs"), [("resnet50", RESNET, 1632, 36), ("bert_large", BERT, 448, 2_500_000)]
)
def test_the_result_summarizer_gives_the_same(runs, name, benchmark, batch, epochs, failed):
    read = runs.read(name, minutes(benchmark.num_runs), failed=failed)
    ours = set_result(benchmark, [run_result(run) for run in read], reference_point(benchmark.name, batch))
    theirs, factor, _ = official(runs, benchmark.name)
    assert ours.minutes == (None if theirs is None else pytest.approx(theirs, rel=1e-12))
    assert ours.valid == (len(failed) < 2)
    assert ours.scaling == factor == 1.0


@pytest.mark.parametrize(
    ("name", "benchmark", "batch", "moments"),
    [
        ("resnet50", RESNET, 1632, [34, 34, 35, 34, 36]),  # mean 34.33, between 33.80 and 35.00
        ("resnet50", RESNET, 1632, [33, 33, 34, 34, 33]),  # below the minimum
        ("bert_large", BERT, 448, [2_300_000] * 5 + [2_400_000] * 5),
        ("bert_large", BERT, 448, [2_100_000] * 10),
    ],
)
def test_scaling_by_reference_points_is_the_officials(runs, name, benchmark, batch, moments):
    read = runs.read(name, minutes(benchmark.num_runs, 1), moments)
    reference = reference_point(benchmark.name, batch)
    ours = set_result(benchmark, [run_result(run) for run in read], reference)
    theirs, factor, passed = official(runs, benchmark.name)
    assert accepts(reference, ours.converged_at) == passed == ours.valid
    if passed:
        assert ours.scaling == pytest.approx(factor, rel=1e-12)
        assert factor > 1.0
        assert ours.minutes == pytest.approx(theirs, rel=1e-12)
    else:
        assert any("sooner than the reference's minimum" in problem for problem in ours.problems)


def test_more_runs_than_needed(runs):
    """The summarizer averages all files in a folder; given the chosen window it has the same result."""
    read = [run_result(run) for run in runs.read("resnet50", minutes(9, 2), failed=(4,))]
    ours = set_result(RESNET, read)
    windows = [read[first : first + 5] for first in range(5)]
    expected = [statistics.mean(sorted(run.minutes or math.inf for run in window)[1:4]) for window in windows]
    assert ours.windows == pytest.approx(expected)
    assert ours.minutes == pytest.approx(statistics.median(expected))
    for path in runs.folder.iterdir():
        if str(path) not in {run.name for run in ours.chosen}:
            path.unlink()
    assert official(runs, "resnet")[0] == pytest.approx(ours.minutes, rel=1e-12)


def result(minutes, number=0, **fields):
    return RunResult(f"run{number}", number, minutes, 36.0, 1632, None, number, **fields)


def results(*minutes):
    return [result(each, number) for number, each in enumerate(minutes)]


@pytest.mark.parametrize(
    ("values", "mean"),
    [
        ([5, 1, 3], 3),
        ([1, 2, 3, 4, 100], 3),
        ([1, 2, 3, 4, None], 3),
        ([1, 2, 3, None, None], None),
        ([1, 2], None),
        ([], None),
    ],
)
def test_olympic_mean(values, mean):
    assert olympic_mean(values) == mean


def test_the_order_of_the_files_does_not_matter():
    forward, backward = results(9, 8, 7, 6, 5, 4), results(9, 8, 7, 6, 5, 4)[::-1]
    assert set_result(RESNET, forward).windows == set_result(RESNET, backward).windows == [7, 6]


def test_of_an_even_number_of_windows_the_slower_middle_one_counts():
    ours = set_result(RESNET, results(9, 8, 7, 6, 5, 4))
    assert (ours.minutes, [run.minutes for run in ours.chosen]) == (7, [9, 8, 7, 6, 5])


def test_a_median_window_that_is_invalid_makes_the_result_invalid():
    failing = set_result(RESNET, results(9, None, 7, None, 5, 4))
    assert (failing.minutes, failing.valid, failing.windows) == (None, False, [math.inf, math.inf])
    assert failing.problems == ["2 of 5 runs did not converge, at most 1 may"]
    assert set_result(RESNET, results(9, None, None, 7, 6, 5, 4, 3, 2)).windows == [math.inf, math.inf, 6, 5, 4]
    assert set_result(RESNET, results(9, None, None, 7, 6, 5, 4, 3, 2)).minutes == 6


def test_runs_still_missing():
    ours = set_result(BERT, results(1, 2, 3))
    assert (ours.num_missing, ours.minutes, ours.valid) == (7, None, False)
    assert ours.problems == ["7 of 10 runs missing"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"global_batch_size": 3264}, "2 global batch sizes in one set: 1632, 3264"),
        ({"start_ms": 1}, "run1 and run4 start at the same millisecond: 1"),
        ({"seed": 1}, "run1 and run4 have the same seed: 1"),
        ({"doubts": ("was resumed",)}, "run4: was resumed"),
    ],
)
def test_what_keeps_runs_from_being_one_set(change, problem):
    runs = [*results(9, 8, 7, 6), RunResult(**{**vars(result(5, 4)), **change})]
    ours = set_result(RESNET, runs)
    assert problem in ours.problems
    assert not ours.valid
    assert set_result(RESNET, results(9, 8, 7, 6, 5)).valid


def test_a_success_below_the_target_did_not_converge(runs):
    paths = runs.write("resnet50", [20.0])
    text = paths[0].read_text().replace("0.7593", "0.7589")
    paths[0].write_text(text)
    ours = run_result(read_run(paths[0]))
    assert ours.minutes is None
    assert ours.doubts == ("ends as a success below the target 0.759: it counts as not converged",)


def test_a_rehearsal_is_judged_by_its_own_target(tmp_path):
    story = events("resnet50", accuracy=0.61)
    for event in story:
        event |= {"target": 0.6} if event["kind"] == "run_config" else {}
        event |= {"status": "success"} if event["kind"] == "run_stop" else {}
    path = tmp_path / "events.jsonl"
    path.write_text("".join(to_line(event) + "\n" for event in story))
    assert run_result(read_run(path)).minutes is None
    assert run_result(read_run(path), own_target=True).minutes == 20


@pytest.mark.parametrize(
    ("r_minutes", "b_minutes", "score"),
    [(28.685, 16.882, 0.787), (14.684, 6.378, 1.909), (17.230, 16.446, 0.968)],
    ids=["DGX A100", "DGX H100 preview", "Gaudi2"],
)
def test_gp2bms_public_systems(r_minutes, b_minutes, score):
    assert round(gp2bm_score(r_minutes, b_minutes), 3) == score


def test_the_results_that_a_score_requires():
    r_minutes = required_minutes(RESNET, 1.0, BERT, 16.882)
    assert gp2bm_score(r_minutes, 16.882) == pytest.approx(1.0)
    assert gp2bm_score(20.0, required_minutes(BERT, 1.0, RESNET, 20.0)) == pytest.approx(1.0)
    assert required_minutes(RESNET, 1.0, BERT, 6.378) == math.inf  # BERT alone gives more


@pytest.mark.parametrize(
    ("name", "expected"),
    [("resnet50", RESNET), ("bert_tiny", BERT), ("resnet18", None), ("tsm", None), ("unet", None), (None, None)],
)
def test_which_benchmark_a_run_is_of(name, expected):
    assert benchmark_of(name) is expected


def test_a_smaller_task_is_no_run_of_the_benchmark(tmp_path):
    story = events("resnet50")
    for event in story:
        event |= {"train_samples": 1437} if event["kind"] == "run_config" else {}
    path = tmp_path / "events.jsonl"
    path.write_text("".join(to_line(event) + "\n" for event in story))
    assert run_result(read_run(path)).doubts == ("trains on 1,437 samples, the benchmark has 1,281,167",)
    assert run_result(read_run(path), own_target=True).doubts == ()
    data = {"t": story[0]["t"], "kind": "data", "classes": 10}
    story.insert(1, data)
    path.write_text("".join(to_line(event) + "\n" for event in story))
    assert run_result(read_run(path)).doubts[1:] == ("trains on 10 classes, the benchmark has 1000",)
    data["classes"] = 1000
    story[0]["benchmark"] = "resnet50_tiny"
    path.write_text("".join(to_line(event) + "\n" for event in story))
    assert "is of resnet50_tiny, the benchmark of resnet50" in run_result(read_run(path)).doubts
    story[0]["submission"] = story[0]["submission"] | {"division": "open"}  # where any network may be
    path.write_text("".join(to_line(event) + "\n" for event in story))
    assert run_result(read_run(path)).doubts == ("trains on 1,437 samples, the benchmark has 1,281,167",)
