"""The MLPerf and GP2BM trees of synthetic runs, judged by mlperf-logging's own package checker and its kin."""

import csv
import json
import re
import shutil
import subprocess
import sys

import pytest
from submission import synthetic

from airank_fast.errors import UserError
from airank_fast.record.events import read_events
from airank_fast.rules.mlperf import rcp
from airank_fast.rules.trees import MLPERF_FIELDS, check_tree

ORG, SYSTEM = "Synthetic_Submitter", "synthetic_1x8"


def official(tool, target, *more, cwd):
    """What one of mlperf-logging's commands prints; none of them tells its verdict by the exit status."""
    command = [sys.executable, "-m", f"mlperf_logging.{tool}", str(target), "training", "4.0.0", *more]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def rows_of(tree):
    """The score sheet: quantity -> value."""
    return {line["quantity"]: line["value"] for line in csv.DictReader((tree / "MLPerf.csv").open())}


@pytest.fixture
def copied(gp2bm, tmp_path):
    """A copy that a test may change; the official tools write into it as well."""
    return shutil.copytree(gp2bm, tmp_path / "copy")


def test_the_package_checker_finds_no_errors(copied, tmp_path):
    printed = official("package_checker", copied / ORG, cwd=tmp_path)
    assert "PACKAGE CHECKER FOUND NO ERRORS, SUCCESS !" in printed
    assert printed.count("RCP Test Passed: RCP found") >= 2
    assert "WARNING" not in printed
    assert list(check_tree(copied)) == []


def test_the_system_description_passes_and_has_33_fields(gp2bm, tmp_path):
    path = gp2bm / ORG / "systems" / f"{SYSTEM}.json"
    assert f"System description checker passed for {synthetic.PLATFORM}" in official(
        "system_desc_checker", path, cwd=tmp_path
    )
    fields = json.loads(path.read_text())
    assert tuple(fields) == MLPERF_FIELDS
    assert len(fields) == 33
    assert all(fields.values())
    assert fields["host_processor_core_count"] == "64"
    assert fields["host_networking"] == "N/A (one node)"
    assert fields["status"] == "Available on-premise"


def test_the_summarizer_gives_the_minutes_of_the_score_sheet(copied, tmp_path):
    official("result_summarizer", copied / ORG, "--csv", str(tmp_path / "s.csv"), cwd=tmp_path)
    (row,) = csv.DictReader((tmp_path / "s.csv").read_text().splitlines())
    sheet = rows_of(copied)
    assert float(row["resnet"]) == pytest.approx(float(sheet["R"]), abs=1e-6)
    assert float(row["bert"]) == pytest.approx(float(sheet["B"]), abs=1e-6)
    assert float(sheet["score"]) == pytest.approx(7.19 / float(row["resnet"]) + 9.05 / float(row["bert"]), abs=1e-6)
    assert (row["submitter"], row["system"], row["accelerators_count"]) == (synthetic.ORG, synthetic.PLATFORM, "8")


def test_a_set_that_is_a_little_fast_is_scaled_as_the_official_tools_do(build, tmp_path, runs):
    """The checker leaves scaling.json in the tree, which is no tampering, and the summarizer reads it."""
    bert = [synthetic.bert(tmp_path / f"b{n}", n, evaluations=16) for n in range(10)]
    assert build(tmp_path / "out", [*runs[:5], *bert], "gp2bm") == 0
    assert "bert, scaled by 1." in (tmp_path / "out" / "MLPerf.csv").read_text()
    assert "Score should be normalized" in official("package_checker", tmp_path / "out" / ORG, cwd=tmp_path)
    official("result_summarizer", tmp_path / "out" / ORG, "--csv", str(tmp_path / "s.csv"), cwd=tmp_path)
    (row,) = csv.DictReader((tmp_path / "s.csv").read_text().splitlines())
    assert float(row["bert"]) == pytest.approx(float(rows_of(tmp_path / "out")["B"]), abs=1e-5)
    assert float(row["bert"]) > 17.05  # 17 minutes, scaled
    (finding,) = check_tree(tmp_path / "out")
    assert (finding.severity, finding.path.rpartition("/")[2]) == ("note", "scaling.json")


def test_without_one_result_both_checkers_refuse(copied, tmp_path):
    (copied / ORG / "results" / SYSTEM / "resnet" / "result_4.txt").unlink()
    assert "PACKAGE CHECKER FOUND ERRORS" in official("package_checker", copied / ORG, cwd=tmp_path)
    assert {"tree.sum", "tree.mlperf.count"} == {finding.rule for finding in check_tree(copied)}


@pytest.mark.parametrize("benchmark", ["resnet", "bert"])
def test_logs_and_code_stand_where_the_rules_want_them(gp2bm, benchmark):
    results = sorted((gp2bm / ORG / "results" / SYSTEM / benchmark).iterdir())
    assert [path.name for path in results] == [f"result_{n}.txt" for n in range({"resnet": 5, "bert": 10}[benchmark])]
    code = gp2bm / ORG / "benchmarks" / benchmark / "implementations" / "airank_fast"
    assert (code / "source" / "airank_fast" / "train.py").is_file()
    assert (code / "source" / "csrc").is_dir()
    readme = (code / "README.md").read_text()
    assert "python -m airank_fast.prepare" in readme
    assert re.search(r"torchrun --nproc-per-node=8 -m airank_fast.train \w+ --amp --seed 10\d\d --data ~/data", readme)
    assert len(list((code / "recipes").iterdir())) == len(results)


def test_logs_are_copied_byte_for_byte(gp2bm, runs):
    first = (gp2bm / ORG / "results" / SYSTEM / "resnet" / "result_0.txt").read_bytes()
    assert first == (runs[0] / "mlperf.log").read_bytes()


def test_of_more_runs_the_median_window_is_taken(build, tmp_path):
    minutes = [30, 20, 20, 20, 20, 20, 40]  # windows: mean of the middle three 20, 20, 20
    runs = [synthetic.resnet(tmp_path / f"r{n}", n, minutes=value) for n, value in enumerate(minutes)]
    assert build(tmp_path / "out", runs) == 0
    taken = json.loads((tmp_path / "out" / "manifest.json").read_text())["runs"]
    assert len(taken) == 5
    minutes = [25, 24, 23, 22, 21, 20, 19]
    runs = [synthetic.resnet(tmp_path / f"s{n}", n, minutes=value) for n, value in enumerate(minutes)]
    assert build(tmp_path / "out2", runs) == 0
    taken = json.loads((tmp_path / "out2" / "manifest.json").read_text())["runs"]
    assert [round(run["total_time_s"] / 60) for run in taken] == [24, 23, 22, 21, 20]


def test_one_run_without_success_is_the_slowest_two_are_too_many(build, tmp_path, runs, capsys):
    bert = [run for run in runs if "bert" in run.name]
    resnet = [synthetic.resnet(tmp_path / f"r{n}", n, minutes=20 + n, reached=n != 0) for n in range(5)]
    assert build(tmp_path / "out", resnet + bert, "gp2bm") == 0
    sheet = rows_of(tmp_path / "out")
    assert float(sheet["R"]) == pytest.approx((22 + 23 + 24) / 3)  # 21 is the fastest, run 0 the slowest
    resnet[1] = synthetic.resnet(tmp_path / "r1b", 1, reached=False)
    assert build(tmp_path / "out2", resnet + bert, "gp2bm") == 1
    assert "resnet: error: 2 runs did not converge: " in capsys.readouterr().err
    assert not (tmp_path / "out2").exists()
    assert build(tmp_path / "out3", resnet + bert, "gp2bm", allow_errors=True) == 0
    assert rows_of(tmp_path / "out3")["score"] == "invalid"


def test_one_run_without_success_costs_no_run_that_is_not_chosen(build, tmp_path, capsys):
    """Of 6 runs two miss the target, one in each window of 5."""
    runs = [synthetic.resnet(tmp_path / f"r{n}", n, reached=n not in (0, 5)) for n in range(6)]
    assert build(tmp_path / "out", runs) == 0, capsys.readouterr().err
    taken = json.loads((tmp_path / "out" / "manifest.json").read_text())["runs"]
    assert [run["status"] for run in taken].count("success") == 4


def test_a_run_that_was_resumed_is_no_result(build, tmp_path, runs, capsys):
    events = read_events(runs[0] / "events.jsonl")
    at = next(index for index, event in enumerate(events) if event["kind"] == "eval_stop")
    counts = {name: events[at][name] for name in ("step", "samples")}
    again = [
        {"t": events[at]["t"], "kind": kind, **fields}
        for kind, fields in (("process_start", {"pid": 2}), ("resume", counts))
    ]
    resumed = synthetic.write_run(tmp_path / "r", [*events[: at + 1], *again, *events[at + 1 :]])
    assert build(tmp_path / "out", [resumed, *runs[1:5]]) == 1
    assert "was resumed: its clock is not comparable" in capsys.readouterr().err


def test_the_sheet_says_so_where_nothing_is_compared(build, tmp_path, runs, monkeypatch):
    monkeypatch.setattr(rcp, "points", lambda *_: None)
    assert build(tmp_path / "out", runs, "gp2bm") == 0
    sheet = (tmp_path / "out" / "MLPerf.csv").read_text()
    why = "not scaled: mlperf-logging, which holds the reference convergence points, is not installed"
    assert sheet.count(why) == 2


def test_runs_that_cannot_be_packaged_are_refused(build, tmp_path, runs):
    cases = [
        (runs[:4], "mlperf", {}, "resnet: must have 5 runs, got 4"),
        (runs[:5], "gp2bm", {}, "resnet and bert, got none of bert"),
        ([*runs[:5], runs[0]], "mlperf", {}, "must be given once"),
        (runs[:5], "mlperf", {"settings": ["cooling=air"]}, "host_memory_configuration, accelerator_on-chip_memories"),
        (runs[:5], "mlperf", {"settings": ["colour=red"]}, "one of the fields .*, got 'colour'"),
        (runs[:5], "mlperf", {"settings": ["cooling= "]}, "not blank"),
        (runs[:5], "mlperf", {"settings": ["number_of_nodes=two"]}, "a whole number, got 'two'"),
        (runs[:5], "mlperf", {"settings": ["submitter=Other"]}, "submission_org, got 'Other'"),
        ([runs[0] / "mlperf.log.txt"], "mlperf", {}, "must be .*, got none"),
    ]
    for given, form, options, message in cases:
        if "settings" in options and message.startswith("submission"):
            options = {"settings": [*options["settings"], *(f"{n}={v}" for n, v in synthetic.ANSWERS.items())]}
        with pytest.raises(UserError, match=message):
            build(tmp_path / "out", given, form, **options)
        assert list(tmp_path.iterdir()) == []


def test_runs_on_two_systems_are_two_packages(build, tmp_path, runs, capsys):
    submission = {"org": synthetic.ORG, "platform": "other", "division": "closed", "status": "onprem"}
    other = synthetic.resnet(tmp_path / "r", 9, submission=submission)
    assert build(tmp_path / "out", [*runs[:4], other]) == 1
    assert "mlperf.same_system" in capsys.readouterr().err
    with pytest.raises(UserError, match="system_name 'synthetic 1x8' as in the other runs, got 'other'"):
        build(tmp_path / "out", [*runs[:4], other], allow_errors=True)


def test_a_smaller_model_is_not_bert(build, tmp_path, capsys):
    runs = [synthetic.bert(tmp_path / f"b{n}", n, benchmark="bert_mini") for n in range(10)]
    assert build(tmp_path / "out", runs) == 1
    assert capsys.readouterr().err.count("is of bert_mini, the benchmark of bert_large") == 10
    with pytest.raises(UserError, match="resnet50 or bert_large in all runs, got bert_mini"):
        build(tmp_path / "out", runs, allow_errors=True)


def test_logs_of_another_program_need_its_source_and_its_system(build, tmp_path, runs):
    logs = []
    for number, run in enumerate(runs[:5]):
        logs.append(tmp_path / f"foreign{number}.log")
        logs[-1].write_bytes(b"other output\n" + (run / "mlperf.log").read_bytes())
    everything = [f"{name}=7" for name in MLPERF_FIELDS if name not in ("submitter", "division", "status")]
    with pytest.raises(UserError, match="--code: must have the source that made the runs"):
        build(tmp_path / "out", logs, settings=everything)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "train.sh").write_text("their script\n")
    assert build(tmp_path / "out", logs, settings=everything, code=tmp_path / "code") == 0
    code = tmp_path / "out" / ORG / "benchmarks" / "resnet" / "implementations" / "airank_fast"
    assert [path.name for path in (code / "source").iterdir()] == ["train.sh"]
    assert "pip install" not in (code / "README.md").read_text()
    assert "PACKAGE CHECKER FOUND NO ERRORS" in official("package_checker", tmp_path / "out" / ORG, cwd=tmp_path)
