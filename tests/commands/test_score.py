"""python -m airank_fast.score: its text, its JSON and its exit status, without torch."""

import json
from pathlib import Path

import pytest
from commands.inprocess import run, run_without_torch
from rules.mlperf_runs import Runs

from airank_fast import score as command


def score(*arguments):
    return run(command, *arguments)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """A full set of both benchmarks: 9 runs of ResNet, of which one failed, and 10 of BERT."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("resnet", "bert")}
    minutes = [28.0, 29.0, 28.5, 30.0, 31.0, 28.685, 29.5, 28.0, 27.0]
    resnet = Runs(folders["resnet"]).write("resnet50", minutes, failed=[3])
    bert = Runs(folders["bert"]).write("bert_large", [16.882] * 8 + [10.0, 20.0])
    return resnet, bert


def test_the_score_of_full_sets(sets):
    resnet, bert = sets
    done = score(*resnet, *bert, "--want", "1.0")
    assert (done.returncode, done.stderr) == (0, "")
    assert "MLPerf resnet: 9 runs, 5 required" in done.stdout
    assert "did not converge" in done.stdout
    assert "windows of 5 consecutive runs:" in done.stdout
    assert "MLPerf bert: 10 runs, 10 required" in done.stdout
    assert "result: 16.882 minutes" in done.stdout
    machine = json.loads(score(*resnet, *bert, "--want", "1.0", "--json").stdout)
    r_minutes = machine["mlperf"][1]["minutes"]
    assert machine["gp2bm"]["score"] == pytest.approx(7.19 / r_minutes + 9.05 / 16.882)
    assert machine["gp2bm"]["want"][0]["b_minutes"] == pytest.approx(9.05 / (1 - 7.19 / r_minutes))
    assert machine["gp2bm"]["what_if"][0]["score_at_both"] == pytest.approx(2 * machine["gp2bm"]["score"])
    assert [each["valid"] for each in machine["mlperf"]] == [True, True]


@pytest.mark.parametrize(
    ("r_minutes", "b_minutes", "value"),
    [(28.685, 16.882, "0.787"), (14.684, 6.378, "1.909"), (17.230, 16.446, "0.968")],
)
def test_the_public_systems(r_minutes, b_minutes, value):
    done = score("--r-minutes", r_minutes, "--b-minutes", b_minutes)
    assert f"GP2BM score: 7.19 / {r_minutes:.3f} + 9.05 / {b_minutes:.3f} = {value}" in done.stdout
    assert done.returncode == 0


def test_a_directory_of_results_stands_for_them(sets, tmp_path):
    assert score(sets[0][0].parent, sets[1][0].parent).stdout == score(*sets[0], *sets[1]).stdout
    assert score(tmp_path).returncode == 2


def test_it_runs_without_torch_in_a_plain_locale(sets):
    done = run_without_torch(command, *sets[0], *sets[1])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == score(*sets[0], *sets[1]).stdout
    assert "加速比" in done.stdout


def test_an_incomplete_set_is_status_1_and_names_the_missing_runs(sets):
    done = score(*sets[0][:3], "--b-minutes", "16.882")
    assert done.returncode == 1
    assert "problem: 2 of 5 runs missing" in done.stdout
    assert "GP2BM: no score (runs of resnet missing: 2)" in done.stdout
    machine = json.loads(score(*sets[0], "--json").stdout)
    assert machine["gp2bm"]["missing_runs"] == {"resnet": 0, "bert": 10}


def test_reference_points_come_from_mlperf_logging(tmp_path):
    pytest.importorskip("mlperf_logging")
    paths = Runs(tmp_path).write("resnet50", [20.0, 21.0, 22.0, 23.0, 24.0], [34, 34, 35, 34, 36])
    (result,) = json.loads(score(*paths, "--json").stdout)["mlperf"]
    assert result["reference"]["mean"] == pytest.approx(35.0, abs=0.01)
    assert result["minutes"] == pytest.approx(22.0 * result["reference"]["mean"] / (103 / 3))
    (own,) = json.loads(score(*paths, "--json", "--own-targets").stdout)["mlperf"]
    assert (own["reference"], own["minutes"]) == (None, 22.0)  # a rehearsal is of another task


def test_the_output_of_a_rehearsal_names_it(sets):
    assert score(*sets[0], "--own-targets").stdout.startswith("REHEARSAL: ")
    assert json.loads(score(*sets[0], "--own-targets", "--json").stdout)["rehearsal"] is True
    assert "REHEARSAL" not in score(*sets[0]).stdout


def test_reference_points_scale_or_refuse(sets):
    scaled = score(*sets[0], "--rcp", "resnet=37.0,35.5", "--b-minutes", "16.882", "--rules", "mlperf")
    assert "scaled by 1.0278: converged after 36 epochs, the reference after 37" in scaled.stdout
    assert scaled.returncode == 0
    refused = score(*sets[0], "--rcp", "resnet=40.0,38.5", "--b-minutes", "16.882")
    assert "problem: converges after 36 epochs, sooner than the reference's minimum 38.5" in refused.stdout
    assert refused.returncode == 1


def airank_log(path, time2train, accuracy=0.7601):
    path.write_text(
        "- AI-Rank-log 1000.000 test_begin\n"
        f"- AI-Rank-log {1000 + time2train:.3f} eval_accuracy:{accuracy}, total_epoch_cnt:50\n"
        f"- AI-Rank-log {1000 + time2train:.3f} test_finish\n"
    )
    return path


def test_airanks_figures(tmp_path):
    logs = [airank_log(tmp_path / f"GPUx{cards}.log", seconds) for cards, seconds in ((1, 8000), (8, 1250))]
    facts = ["target=0.759", "samples_per_epoch=1281167", "benchmark=resnet50", "precision=fp16"]
    facts += ["operating_system=Linux"]
    settings = [text for name in facts for text in ("--set", name)]
    done = score("--rules", "airank", *logs, *settings)
    assert done.returncode == 0
    row = next(line for line in done.stdout.splitlines() if "1250.000" in line)
    assert row.split()[:6] == ["resnet50", "Linux", "amp", "8", "1250.000", "51246.7"]
    assert row.split()[6:] == ["76.01%", "6.40", "80.0%", "1/1", "yes"]
    assert "加速比 T1/TN" in done.stdout
    machine = json.loads(score("--rules", "airank", *logs, *settings, "--json", "--weights", "1", "0", "0").stdout)
    assert machine["airank"]["composite"]["score"] == pytest.approx(100 * (126731.680 / 8000 * 17468.738 / 1250) ** 0.5)
    assert score("--rules", "airank", airank_log(tmp_path / "low.log", 10, 0.5), *settings).returncode == 1


def test_a_log_without_a_target_has_that_of_the_model(tmp_path):
    log = airank_log(tmp_path / "GPUx8.log", 1250, 0.7595)

    def time2train(*settings):
        words = [word for setting in settings for word in ("--set", setting)]
        done = score("--rules", "airank", log, "--json", *words)
        machine = json.loads(done.stdout)["airank"]
        return machine["rows"][0]["time2train"], machine["targets"]

    source = "AI-Rank docs/software/train.md (2020-12-01), 评价指标"
    assert time2train("benchmark=resnet50") == (1250, [f"resnet50 0.759 ({source})"])
    assert time2train("benchmark=resnet50", "target=0.77") == (None, [])
    assert time2train("benchmark=resnet50", "target=none") == (None, [])
    assert time2train("benchmark=bert_mini") == (None, [])
    assert time2train() == (None, [])
    shown = score("--rules", "airank", log, "--set", "benchmark=bert_large", "--profile", "2021-05").stdout
    assert "target that the log does not state: bert_large 0.712 (AI-Rank docs/software/train.md (2021-05-28)" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "score: must have paths of runs, or --r-minutes and --b-minutes, got none"),
        (["--r-minutes", "0", "--b-minutes", "1"], "--r-minutes: must be a number above 0, got 0.0"),
        (["--r-minutes", "1", "--b-minutes", "1", "--want", "nan"], "--want: must be a number above 0, got nan"),
        (["nothing.log"], "nothing.log: must be a run directory with events.jsonl or a log file, got none"),
        (["--r-minutes", "1", "--rcp", "resnet=1,2"], "--rcp: must be BENCHMARK=MEAN,MINIMUM of resnet or bert"),
        (["--r-minutes", "1", "--reference", "x"], "--reference: must be MODEL:CARDS=SECONDS, got x"),
        (["--r-minutes", "1", "--weights", "0", "0", "0"], "--weights: must be numbers from 0, not all of them 0"),
        (["--r-minutes", "1", "--set", "x"], "--set: must be NAME=VALUE with a NAME of"),
    ],
)
def test_bad_input_is_one_line(arguments, message):
    done = score(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


CASES = Path(__file__).parents[1] / "cases"


def test_accuracies_in_per_cent_are_no_convergence():
    done = score(*sorted((CASES / "percent" / "resnet").glob("*.txt")))
    assert done.returncode == 1
    assert "result: none; the set is not valid" in done.stdout
    assert "result_0.txt and 4 more: accuracies above 1 are read as per cent" in done.stdout
    assert done.stdout.count("did not converge") == 6


def test_ai_ranks_own_logs_in_per_cent():
    done = score("--rules", "airank", CASES / "percent" / "GPUx8.log", "--set", "benchmark=tsm")
    assert done.returncode == 0
    assert "76.10%" in done.stdout
    assert "3000.000" in done.stdout
    assert "note: " in done.stdout
    assert "per cent" in done.stdout
    assert "tsm 0.711 (" in done.stdout
