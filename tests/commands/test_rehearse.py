"""The rehearsal's driver, on steps that take no time; whole rehearsals are for `make rehearse`."""

import sys

import pytest
from record.inference_run import inference_run, write
from rules.loadgen_logs import LoadGenTest, whole_log, write_test
from submission import synthetic

from airank_fast import rehearse
from airank_fast.errors import UserError
from airank_fast.rules.airank_score import MODELS
from airank_fast.rules.trees import MLPERF_FIELDS
from airank_fast.tasks import all_tasks


def python(code):
    return [sys.executable, "-c", code]


def test_a_step_is_judged_by_what_was_expected_of_it(tmp_path):
    rehearsal = rehearse.Rehearsal(tmp_path)
    refused = rehearsal.run("Refuse it", python("print('no'); exit(1)"), "refuses", lambda status, output: status == 1)
    passed = rehearsal.run("pass", python("print('yes')"), "refuses", lambda status, output: status == 1)
    crashed = rehearsal.run("crash", python("1 / 0"), "refuses", lambda status, output: status == 1)
    missing = rehearsal.airank_fast("miss", "no_such_command", expected="any", fits=lambda status, output: True)
    assert [step.as_expected for step in (refused, passed, crashed, missing)] == [True, False, False, False]
    assert (refused.last_line, passed.status, crashed.last_line) == ("no", 0, "ZeroDivisionError: division by zero")
    text = (tmp_path / "outputs" / "00-refuse-it.txt").read_text()
    assert text.startswith(rehearse.WORD)
    assert text.endswith("no\n\nexit status 1\n")
    text = rehearse.summary(rehearsal.steps)
    assert text.startswith(f"# {rehearse.WORD}")
    assert "| Refuse it | refuses | yes | 1 |" in text
    assert "| pass | refuses | **no** | 0 |" in text


def test_what_the_package_command_asks_for_is_answered(tmp_path):
    """With runs that pass everything: the packages are built, and the official verdicts are not the rehearsal's."""
    org = {"org": rehearse.ORG, "platform": rehearse.PLATFORM, "division": "closed", "status": "research"}
    resnet = [synthetic.resnet(tmp_path / f"r{n}", n, submission=org) for n in range(5)]
    bert = [synthetic.bert(tmp_path / f"b{n}", n, submission=org) for n in range(10)]
    (tmp_path / "out").mkdir()
    rehearsal = rehearse.Rehearsal(tmp_path / "out")
    rehearse.package(rehearsal, resnet, bert, [])
    steps = {step.name: step for step in rehearsal.steps}
    assert steps["package gp2bm, without answers"].status == 2
    assert steps["package gp2bm"].status == 0
    assert all(step.as_expected for name, step in steps.items() if "official" not in name)
    assert steps["official system_desc_checker"].as_expected
    assert not steps["official package_checker"].as_expected
    assert not steps["official result_summarizer"].as_expected
    for path in (tmp_path / "out" / "packages").rglob("*"):
        if path.is_file() and "source" not in path.parts and path.name not in ("SHA256SUMS", "scaling.json"):
            assert "REHEARSAL" in path.read_text(), path


def test_every_field_that_may_be_required_has_an_answer():
    answers = rehearse._answers(f"... got no {', '.join(MLPERF_FIELDS)}; say each with --set NAME=VALUE")
    assert len(answers) == 2 * 33
    assert "number_of_nodes=1" in answers
    assert f"cooling={rehearse.WORD}: not stated" in answers
    assert rehearse._answers("error: something else") == []


@pytest.mark.parametrize("arguments", [["--quick", "--full"], ["--quick", "--all"], ["--output", "{occupied}"]])
def test_bad_input_is_one_line(tmp_path, arguments):
    (tmp_path / "file").write_text("x")
    done = rehearse.Rehearsal(tmp_path).airank_fast(
        "bad",
        "rehearse",
        *[str(tmp_path) if one == "{occupied}" else one for one in arguments],
        expected="refuses",
        fits=lambda status, output: status == 2 and output.count("\n") == 1,
    )
    assert done.as_expected


def test_without_the_official_checkers_it_does_not_begin(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["rehearse", "--output", str(tmp_path / "out")])
    with pytest.raises(UserError, match=r"mlperf-logging: must be installed \(pip install .*\[rehearse\]'\), got none"):
        rehearse.main()
    assert not list(tmp_path.iterdir())


def test_all_trains_every_task_once_beside_the_two_sets(tmp_path, monkeypatch):
    rehearsal = rehearse.Rehearsal(tmp_path)
    calls = []
    monkeypatch.setattr(rehearsal, "airank_fast", lambda name, *call, **_: calls.append((name, *call)))
    made = rehearse.train_others(rehearsal)
    trained = {call[2] for call in calls}
    without_data = {"bert_squad"}  # none is embedded
    assert trained == {task.name for task in all_tasks()} - {"resnet50", "bert"} - without_data
    assert [run.name for run in made] == [call[2] for call in calls]
    handed_in = [task for task in all_tasks() if task.name in trained | {"resnet50", "bert"}]
    assert {task.names.get("airank") for task in handed_in} >= {*MODELS["2020-12"]}


def test_coverage_below_all_tasks_is_not_as_expected(tmp_path):
    bert = [synthetic.bert(tmp_path / "b1", 1)]
    (tmp_path / "out").mkdir()
    rehearsal = rehearse.Rehearsal(tmp_path / "out")
    rehearse.judge(rehearsal, bert, is_all=True)
    rehearse.judge(rehearsal, bert, is_all=False)
    assert [step.as_expected for step in rehearsal.steps if step.name == "score"] == [False, True]


def test_inference_goes_through_every_command(tmp_path, monkeypatch):
    """With made-up runs in place of measured ones; the official checker is a program that prints its verdict."""
    made = {
        "v6.1": inference_run("v6.1", ("offline",), is_rehearsal=True, division="open", eval_samples=2000),
        "airank-2021-05": inference_run("airank-2021-05", is_rehearsal=True, eval_samples=500),
    }
    runs = {profile: write(tmp_path / "runs" / profile, events) for profile, events in made.items()}
    for mode in ("performance", "accuracy"):
        folder = runs["v6.1"] / "loadgen" / "offline" / mode
        write_test(folder, LoadGenTest("Offline", mode))
        (folder / "mlperf_log_accuracy.json").write_text(whole_log(400))
    monkeypatch.setattr(rehearse, "infer", lambda rehearsal, size, trained, profile: runs[profile])
    monkeypatch.setattr(rehearse, "loadgen_version", lambda: "6.0.17")
    checker = tmp_path / "inference" / "tools" / "submission" / "submission_checker" / "main.py"
    checker.parent.mkdir(parents=True)
    checker.write_text(
        "import sys\nprint(sys.argv[1:])\nprint('ERROR:main:SUMMARY: submission has errors')\nsys.exit(1)\n"
    )
    (tmp_path / "out").mkdir()
    rehearsal = rehearse.Rehearsal(tmp_path / "out")
    trained = synthetic.resnet(tmp_path / "r0", 0)
    rehearse.rehearse_inference(rehearsal, "quick", trained, rehearse.inference_checker(tmp_path / "inference"))
    steps = {step.name: step for step in rehearsal.steps}
    assert [name for name, step in steps.items() if not step.as_expected] == []
    assert steps["official submission_checker v6.1"].status == 1
    assert (tmp_path / "out" / "packages" / "mlperf-inference" / "open").is_dir()
    assert (tmp_path / "out" / "packages" / "airank-inference" / "manifest.json").is_file()
    assert (tmp_path / "out" / "report-inference" / "report.zh.html").is_file()


def test_a_folder_without_the_inference_checker_is_refused(tmp_path):
    with pytest.raises(UserError, match="--inference-checker: must be a checkout of mlcommons/inference"):
        rehearse.inference_checker(tmp_path)


@pytest.mark.parametrize(
    ("lines", "is_expected"),
    [
        (("ERROR:main:open/x/performance/run_1 performance_sample_count, found 355, needs to be >= 1024",), True),
        (
            ("ERROR:main:x Test duration less than 600s in user config. expected=600000, found=6000", "INFO:main:y"),
            True,
        ),
        (("WARNING:main:x accuracy not met: expected=75.695400, found=62.4", "ERROR:main:NoResults open/x"), True),
        (("[2026-12-01 00:40:44,134 base.py:58 ERROR] Some performance checks Checks failed for: x",), True),
        (("ERROR:main:x qsl_rng_seed is wrong, expected=1, found=2",), False),
        (("[2026-12-01 00:40:44,134 system_check.py:9 ERROR] x has invalid status (onprem)",), False),
        (("ERROR:main:open/x has the following empty directories: ['y']",), False),
    ],
)
def test_the_official_checker_may_refuse_the_data_and_the_duration_alone(tmp_path, lines, is_expected):
    checker = tmp_path / "main.py"
    checker.write_text("".join(f"print({line!r})\n" for line in (*lines, "ERROR:main:SUMMARY: submission has errors")))
    (tmp_path / "outputs").mkdir()
    rehearsal = rehearse.Rehearsal(tmp_path)
    rehearse.check_officially(rehearsal, checker, tmp_path, "v6.1")
    assert [step.as_expected for step in rehearsal.steps] == [is_expected]
