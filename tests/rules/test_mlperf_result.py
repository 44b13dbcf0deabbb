"""Result sets of MLPerf logs, and the reference convergence points, against the official checkers."""

import gzip
import importlib.util
import logging
import random

import pytest
from rules.changes import drop, value
from rules.mlperf_logs import bert_points, compliant, resnet_points

from airank_fast.errors import UserError
from airank_fast.rules.findings import ERROR, NOTE, WARNING
from airank_fast.rules.mlperf import rcp
from airank_fast.rules.mlperf.result import check_set, logs_in
from airank_fast.rules.verifying import verify

SET_RULES = (
    "copy",
    "seeds_of_all",
    "num_runs",
    "converged",
    "same_system",
    "same_hyperparameters",
    "seeds_differ",
    "rcp",
    "rcp_missing",
)


def write_set(folder, name, num, change=None, points_of=(), **options):
    """Result files of `num` runs; `change(k, lines)` for those that differ, `points_of` their evaluations."""
    paths = []
    for k in range(num):
        mine = {"points": points_of[k]} if points_of else {}
        lines = compliant(name, seed=100 + k, **options, **mine)
        paths.append(folder / f"result_{k}.txt")
        paths[-1].write_text("".join(line + "\n" for line in (change(k, lines) if change else lines)))
    return paths


def about_the_set(findings):
    return {f.rule.removeprefix("mlperf."): f for f in findings if f.rule.removeprefix("mlperf.") in SET_RULES}


@pytest.mark.parametrize(("name", "num"), [("resnet-lars", 5), ("bert", 10)])
def test_a_whole_set_is_accepted(tmp_path, name, num):
    paths = write_set(tmp_path, name, num, points=resnet_points(10) if name != "bert" else None)
    assert list(check_set(paths)) == []


@pytest.mark.parametrize(("name", "num"), [("resnet-lars", 4), ("resnet-lars", 6), ("bert", 9)])
def test_a_set_needs_its_number_of_runs(tmp_path, name, num):
    finding = about_the_set(check_set(write_set(tmp_path, name, num)))["num_runs"]
    assert (finding.severity, finding.path, finding.line) == (ERROR, str(tmp_path), None)
    assert finding.found.startswith(f"{num} runs")


def test_a_directory_of_results(tmp_path):
    assert logs_in(tmp_path) == []
    write_set(tmp_path, "resnet-lars", 4, not_converged([0, 1]))
    assert logs_in(tmp_path) == [tmp_path / f"result_{k}.txt" for k in range(4)]
    assert logs_in(tmp_path / "result_0.txt") == []
    assert {"num_runs", "converged"} <= about_the_set(check_set(logs_in(tmp_path), tmp_path)).keys()


def test_packed_logs_are_a_result_too(tmp_path):
    for path in write_set(tmp_path, "resnet-lars", 5, copied(3, 1), points=resnet_points(10)):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    found = [finding for finding in verify(tmp_path) if finding.severity == ERROR]
    assert [(finding.rule, finding.path) for finding in found if finding.rule == "mlperf.copy"] == [
        ("mlperf.copy", str(tmp_path / "result_3.txt.gz"))
    ]
    (tmp_path / "result_0.txt.gz").write_bytes(b"\x1f\x8b damaged")
    found = {finding.rule: finding for finding in verify(tmp_path)}
    assert found["file.readable"].path == str(tmp_path / "result_0.txt.gz")
    assert found["mlperf.num_runs"].found == "4 runs of resnet"


def changed(at, key, new):
    return lambda k, lines: value(key, new)(lines) if k in at else lines


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (changed([3], "seed", 101), "seeds_differ"),
        (changed([2], "submission_platform", "other"), "same_system"),
        (changed([2], "lars_opt_base_learning_rate", 9.0), "same_hyperparameters"),
        (changed([0], "global_batch_size", 1632), "same_hyperparameters"),
    ],
)
def test_runs_of_a_set_belong_together(tmp_path, change, rule):
    paths = write_set(tmp_path, "resnet-lars", 5, change, points=resnet_points(10))
    findings = about_the_set(check_set(paths))
    assert set(findings) == {rule}
    assert findings[rule].severity == ERROR
    assert findings[rule].line


def copied(at, of):
    """Run `at` is run `of` with its own seed, as a public submission of 4.1 has it."""

    def change(k, lines):
        seed = next(line for line in lines if '"seed"' in line)
        return (
            [seed if '"seed"' in line else line for line in compliant("resnet-lars", seed=100 + of)]
            if k == at
            else lines
        )

    return change


def test_a_copy_of_a_run_with_another_seed(tmp_path):
    findings = list(check_set(write_set(tmp_path, "resnet-lars", 5, copied(3, 1)), tmp_path))
    finding = about_the_set(findings)["copy"]
    assert (finding.severity, finding.path) == (ERROR, str(tmp_path / "result_3.txt"))
    assert finding.found.endswith("as in result_1.txt")
    assert not {"seeds_differ", "copy"} & about_the_set(check_set(write_set(tmp_path, "resnet-lars", 5))).keys()


def test_a_run_without_a_seed_beside_others_that_have_one(tmp_path):
    """seed_checker.py of 4.0.0: all runs or none. The open division need not log them."""
    one = write_set(tmp_path, "resnet-lars", 5, lambda k, lines: drop("seed")(lines) if k == 2 else lines)
    finding = about_the_set(check_set(one))["seeds_of_all"]
    assert (finding.severity, finding.path) == (ERROR, str(tmp_path / "result_2.txt"))
    none = list(check_set(write_set(tmp_path, "resnet-lars", 5, lambda k, lines: drop("seed")(lines))))
    assert {finding.severity for finding in none} == {WARNING}
    opened = value("submission_division", "open")
    both = write_set(tmp_path, "resnet-lars", 5, lambda k, lines: opened(drop("seed")(lines) if k else lines))
    assert "seeds_of_all" not in about_the_set(check_set(both))


def not_converged(runs):
    return lambda k, lines: (
        [line.replace('"success"', '"aborted"') for line in value("eval_accuracy", 0.7, nth=-1)(lines)]
        if k in runs
        else lines
    )


def test_one_run_may_fail_to_converge(tmp_path):
    one = list(check_set(write_set(tmp_path, "resnet-lars", 5, not_converged([2]), points=resnet_points(10))))
    assert {finding.severity for finding in one} == {WARNING}
    assert all("slowest run" in finding.required for finding in one)
    two = list(check_set(write_set(tmp_path, "resnet-lars", 5, not_converged([2, 4]), points=resnet_points(10))))
    assert about_the_set(two)["converged"].severity == ERROR
    assert {finding.rule for finding in two if finding.path.endswith("result_4.txt")} == {
        "mlperf.status",
        "mlperf.target",
    }
    assert all(finding.severity == ERROR for finding in two)


def official_rcp(folder):
    from mlperf_logging.rcp_checker import rcp_checker

    logging.disable(logging.CRITICAL)
    try:
        return rcp_checker.check_directory(str(folder), "training", "4.0.0", False, False, rcp_pass="pruned_rcps")
    finally:
        logging.disable(logging.NOTSET)


@pytest.mark.parametrize(
    ("name", "batch", "evaluations", "verdict"),
    [
        ("resnet-lars", 3264, 10, "slower"),  # 39 epochs, the reference 35.15
        ("resnet-lars", 3264, 9, "scaled"),  # 35
        ("resnet-lars", 3264, 8, "refused"),  # 31
        ("resnet-lars", 2400, 9, "scaled"),  # between two references
        ("resnet-lars", 800, 9, "slower"),  # below the smallest, whose 35 is met
        ("resnet-lars", 800, 8, "refused"),
        ("resnet-lars", 70_000, 20, "refused"),  # above the largest
        ("bert", 448, 17, "slower"),
        ("bert", 448, 16, "scaled"),  # 2,400,384, the reference 2,414,421
        ("bert", 448, 15, "refused"),
        ("bert", 1000, 17, "slower"),
    ],
)
def test_convergence_is_compared_as_the_official_checker_does(tmp_path, name, batch, evaluations, verdict):
    points = resnet_points(evaluations) if name != "bert" else bert_points(batch, evaluations)
    paths = write_set(tmp_path, name, 10 if name == "bert" else 5, global_batch_size=batch, points=points)
    finding = about_the_set(check_set(paths)).get("rcp")
    assert {"slower": None, "scaled": WARNING, "refused": ERROR}[verdict] == (finding and finding.severity)
    accepted, _, scaling = official_rcp(tmp_path)
    assert accepted == (verdict != "refused")
    if verdict == "scaled":
        assert f"multiplied by {scaling:.4f}" in finding.required


def test_random_sets_are_scaled_as_the_official_checker_does(tmp_path):
    dice = random.Random(0)
    for trial in range(6):
        folder = tmp_path / str(trial)
        folder.mkdir()
        batch, lengths = dice.choice([1632, 2000, 3264]), [dice.choice([8, 9, 9, 10]) for _ in range(5)]
        write_set(folder, "resnet-lars", 5, global_batch_size=batch, points_of=[resnet_points(n) for n in lengths])
        verdict = rcp.compare("resnet", batch, [4 * n - 1 for n in lengths])
        accepted, _, scaling = official_rcp(folder)
        assert (verdict.accepted, verdict.scaling) == (accepted, pytest.approx(scaling, rel=1e-9))


@pytest.mark.parametrize("benchmark", ["resnet", "bert"])
def test_references_are_those_of_the_official_checker(benchmark):
    from mlperf_logging.rcp_checker.rcp_checker import RCP_Checker

    checker = RCP_Checker("training", "4.0.0", benchmark, False)
    read = rcp.read_points(rcp.reference_file(benchmark), benchmark)
    for point, theirs in zip(read, checker.rcp_data.values(), strict=True):
        assert (point.batch_size, point.mean) == (theirs["BS"], pytest.approx(theirs["RCP Mean"]))
        assert point.minimum == pytest.approx(theirs["Min Epochs"], abs=2e-4)  # they search it to 0.0001
    kept = [theirs["BS"] for theirs in checker.pruned_rcp_data.values()]
    assert [point.batch_size for point in rcp.points(benchmark)] == kept
    for batch in range(kept[0] + 1, kept[-1], 1013):
        low, high = (find(batch, "pruned_rcps") for find in (checker._find_top_min_rcp, checker._find_bottom_max_rcp))
        theirs = checker._find_rcp(batch, "pruned_rcps") or checker._create_interp_rcp(batch, low, high)[1]
        ours = rcp.point(benchmark, batch)
        assert ours.mean == pytest.approx(theirs["RCP Mean"])
        assert ours.minimum == pytest.approx(theirs["Min Epochs"], abs=2e-4)
    assert rcp.point(benchmark, kept[-1] + 1) is None


def test_published_references():
    """The published mean and minimum of each reference."""
    published = {
        ("resnet", 1632): (35.00, 33.80),
        ("resnet", 3264): (35.15, 34.31),
        ("bert", 448): (2_414_421, 2_274_732),
    }
    for (benchmark, batch), (mean, minimum) in published.items():
        point = rcp.point(benchmark, batch)
        assert (point.mean, point.minimum) == (pytest.approx(mean, rel=2e-4), pytest.approx(minimum, rel=2e-4))


def test_student_quantiles():
    stats = pytest.importorskip("scipy.stats")
    for degrees in range(1, 40):
        assert rcp.student_quantile(degrees) == pytest.approx(stats.t.ppf(0.95, degrees), rel=1e-9)


def test_without_mlperf_logging_there_is_a_note(tmp_path, monkeypatch):
    paths = write_set(tmp_path, "resnet-lars", 5)
    rcp.points.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    findings = list(check_set(paths))
    rcp.points.cache_clear()
    assert [(finding.rule, finding.severity) for finding in findings] == [("mlperf.rcp_missing", NOTE)]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}x", '{"a": {"Benchmark": "bert"}}', '{"a": {"Benchmark": "bert", "BS": 1}}']
)
def test_references_that_cannot_be_read(tmp_path, text):
    path = tmp_path / "rcps_bert.json"
    path.write_text(text)
    with pytest.raises(UserError, match="must be reference convergence points"):
        rcp.read_points(path, "bert")


def test_runs_that_converged_at_once_are_refused():
    assert not rcp.compare("resnet", 3264, [0] * 5).accepted
