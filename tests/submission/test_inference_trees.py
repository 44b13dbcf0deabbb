"""MLPerf's and AI-Rank's inference trees, from synthetic runs; the rule books of the trees judge them."""

import hashlib
import json
import shutil

import pytest
from record.inference_run import inference_run, write
from rules.loadgen_logs import LoadGenTest, whole_log, write_test

from airank_fast import package
from airank_fast.errors import UserError
from airank_fast.record.events import to_line
from airank_fast.rules import airank_inference_tree, verifying
from airank_fast.rules.mlperf_inference import tree as inference_tree
from airank_fast.rules.mlperf_inference.rules import MEASUREMENT_FIELDS, SCENARIOS, SYSTEM_FIELDS
from airank_fast.submission.airank_inference import summary_metrics
from airank_fast.submission.inference import read_candidate
from airank_fast.submission.mlperf_inference import truncated

NUM_SAMPLES = 50_000
TESTS = {"v6.1": ("TEST01", "TEST04"), "v4.0": ("TEST01", "TEST04", "TEST05")}
EDGE = ("singlestream", "multistream", "offline")
LAYOUTS = {
    "v6.1": {"results": "results", "measurements": "results", "compliance": "results"},
    "v4.0": {"results": "results", "measurements": "measurements", "compliance": "compliance"},
}


def add_logs(run, profile, scenarios, tests, num_samples):
    """LoadGen's files of every test of a run of ResNet-50."""
    log = whole_log(num_samples)
    for scenario in scenarios:
        for mode in ("performance", "accuracy", *tests):
            folder = run / "loadgen" / scenario / mode
            changes = {"qsl_reported_total_count": num_samples}
            write_test(folder, LoadGenTest(SCENARIOS[scenario], mode, profile, changes=changes))
            if mode in ("accuracy", "TEST01"):
                (folder / "mlperf_log_accuracy.json").write_text(log)


@pytest.fixture(scope="module", params=["v6.1", "v4.0"])
def profile(request):
    return request.param


@pytest.fixture(scope="module")
def run(profile, tmp_path_factory):
    """An edge run in the closed division, with the published weights; nobody changes it."""
    path = write(tmp_path_factory.mktemp("runs") / "run", inference_run(profile, scenarios=EDGE))
    add_logs(path, profile, EDGE, TESTS[profile], NUM_SAMPLES)
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A run of one scenario over a small set, in the open division; nobody changes it."""
    events = inference_run("v6.1", scenarios=("offline",), division="open", eval_samples=2000)
    path = write(tmp_path_factory.mktemp("runs") / "small", events)
    add_logs(path, "v6.1", ("offline",), (), 2000)
    return path


@pytest.fixture(scope="module")
def answers():
    """--set for every field that no run states."""
    given = dict.fromkeys(SYSTEM_FIELDS, "stated")
    given |= {"system_type": "edge", "status": "available", "submitter": "Example", "system_name": "example 1"}
    numbers = ("number_of_nodes", "host_processors_per_node", "host_processor_core_count")
    for name in ("division", "framework", "accelerators_per_node"):  # stated by the runs
        del given[name]
    return [f"{name}={1 if name in numbers else value}" for name, value in given.items()]


@pytest.fixture
def build(tmp_path, answers, monkeypatch):
    """Package runs in this process, without the report; returns the exit status."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "main.py").write_text("print('the code that ran')\n")
    monkeypatch.setattr(package, "write_report", lambda title, runs, is_rehearsal: {"report.md": f"# {title}\n"})

    def call(output, runs, form="mlperf-inference", settings=(), **options):
        settings = [*answers, *settings]
        return package.build(
            package.Options(runs=list(runs), format=form, output=output, settings=settings, code=code, **options)
        )

    return call


def changed(run, target, change):
    """A copy of a run directory with its infer_config, and with `change` of every other event."""
    shutil.copytree(run, target)
    events = [json.loads(line) for line in (target / "events.jsonl").read_text().splitlines()]
    (target / "events.jsonl").write_text("".join(to_line(change(event)) + "\n" for event in events))
    return target


def test_the_closed_tree_of_both_rounds_passes_its_book(run, profile, build, tmp_path, capsys):
    # The made-up logs of LoadGen have other figures than the made-up events.
    assert build(tmp_path / "out", [run], allow_errors=True) == 0, capsys.readouterr().err
    findings = list(inference_tree.check_tree(tmp_path / "out"))
    assert [finding for finding in findings if finding.severity != "note"] == []
    root = tmp_path / "out" / "closed" / "Example"
    assert sorted(path.name for path in root.iterdir()) == sorted(
        {{"v6.1": "src", "v4.0": "code"}[profile], "documentation", "systems", *LAYOUTS[profile].values()}
    )
    description = json.loads((root / "systems" / "example_1.json").read_text())
    assert sorted(description) == sorted(SYSTEM_FIELDS)
    assert (description["division"], description["framework"]) == ("closed", "ONNX Runtime 1.32.0")
    assert (description["number_of_nodes"], description["accelerators_per_node"]) == ("1", "0")
    for scenario in EDGE:
        tail = f"example_1/resnet50/{SCENARIOS[scenario]}"
        results = root / "results" / tail
        for mode, place in (("performance", "performance/run_1"), ("accuracy", "accuracy")):
            for name in ("mlperf_log_detail.txt", "mlperf_log_summary.txt"):
                source = run / "loadgen" / scenario / mode / name
                assert (results / place / name).read_bytes() == source.read_bytes()
        measured = root / LAYOUTS[profile]["measurements"] / tail
        (file,) = measured.glob("*.json")
        assert tuple(json.loads(file.read_text())) == MEASUREMENT_FIELDS
        assert (measured / "mlperf.conf").exists() is (profile == "v4.0")
        tested = root / LAYOUTS[profile]["compliance"] / tail
        assert sorted(path.name for path in tested.glob("TEST*")) == list(TESTS[profile])
        assert (tested / "TEST01" / "verify_accuracy.txt").read_text().endswith("TEST PASS\n")
        assert f"num_perf_log_entries = {NUM_SAMPLES}\n" in (tested / "TEST01" / "verify_accuracy.txt").read_text()
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["format"] == f"mlperf inference {profile}"
    assert {entry["scenario"] for entry in manifest["runs"]} == set(EDGE)
    assert all(entry["valid"] for entry in manifest["runs"])

    accuracy_is_cut(run, root)


def test_a_scenario_that_the_closed_division_does_not_have_is_left_out_by_name(build, tmp_path, capsys):
    scenarios = ("offline", "server")
    path = write(tmp_path / "run", inference_run("v6.1", scenarios=scenarios))
    add_logs(path, "v6.1", scenarios, TESTS["v6.1"], NUM_SAMPLES)
    for division, kept in (("closed", {"Offline"}), ("open", {"Offline", "Server"})):
        build(tmp_path / division, [path], settings=[f"division={division}"], allow_errors=True)
        line = "left out: Server of resnet50; round v6.1 has SingleStream, MultiStream, Offline of it"
        assert (line in capsys.readouterr().err) is (division == "closed")
        results = tmp_path / division / division / "Example" / "results" / "example_1" / "resnet50"
        assert {folder.name for folder in results.iterdir()} == kept


def accuracy_is_cut(run, root):
    """The accuracy log has its ends alone, and accuracy.txt the checksum of the whole."""
    whole = (run / "loadgen" / "offline" / "accuracy" / "mlperf_log_accuracy.json").read_bytes()
    (folder,) = root.glob("results/*/*/Offline/accuracy")
    cut = (folder / "mlperf_log_accuracy.json").read_bytes()
    assert len(cut) < 10 * 1024 < len(whole)
    head, tail = cut.split(b"\n\n...\n\n")
    assert whole.startswith(head)
    assert whole.endswith(tail)
    assert len(head) == len(tail) == 4096
    assert (folder / "accuracy.txt").read_text().splitlines() == [
        "accuracy=76.120%, good=38060, total=50000",
        f"hash={hashlib.sha256(whole).hexdigest()}",
    ]


def test_a_short_accuracy_log_stays_whole(tmp_path):
    (tmp_path / "log").write_text(whole_log(50))
    assert truncated(tmp_path / "log")[0] == (tmp_path / "log").read_bytes()


def test_weights_trained_here_are_for_the_open_division(small, build, tmp_path):
    def own(event):
        if event["kind"] == "infer_config":
            event["checkpoint"]["trained_here"] = True
        return event

    copy = changed(small, tmp_path / "own", own)
    with pytest.raises(UserError, match=r"--set division: must be open for weights trained here, got closed .*=open"):
        build(tmp_path / "out", [copy], settings=["division=closed"], allow_errors=True)
    assert not (tmp_path / "out").exists()
    assert build(tmp_path / "out", [copy], settings=["division=open"], allow_errors=True) == 0
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == ["open"]
    (file,) = (tmp_path / "out").rglob("measurements.json")
    assert json.loads(file.read_text())["retraining"] == "yes"


def test_a_file_that_is_missing_is_named_and_nothing_is_written(small, build, tmp_path):
    copy = changed(small, tmp_path / "copy", lambda event: event)
    missing = [
        copy / "loadgen/offline/performance/mlperf_log_detail.txt",
        copy / "loadgen/offline/accuracy/mlperf_log_accuracy.json",
    ]
    for path in missing:
        path.unlink()
    with pytest.raises(UserError) as error:
        build(tmp_path / "out", [copy], allow_errors=True)
    assert str(error.value) == f"runs: must have 2 more files of LoadGen, got no {missing[0]}, {missing[1]}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["code", "copy"]


@pytest.mark.parametrize("rehearsal", [False, True])
@pytest.mark.parametrize("name", ["performance/mlperf_log_detail.txt", "accuracy/mlperf_log_accuracy.json"])
def test_a_log_that_is_a_link_is_refused(small, build, tmp_path, name, rehearsal):
    copy = changed(small, tmp_path / "copy", lambda event: event)
    path = copy / "loadgen/offline" / name
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"{path}: must be a regular file, got a symbolic link"):
        build(tmp_path / "out", [copy], allow_errors=True, rehearsal=rehearsal)
    assert not (tmp_path / "out").exists()


def test_a_package_has_no_file_of_a_run_that_the_tree_has_no_place_for(small, build, tmp_path):
    copy = changed(small, tmp_path / "copy", lambda event: event)
    for folder in ("performance", "accuracy"):
        for name in ("audit.config", "predictions.npz", "mlperf_log_trace.json"):
            (copy / "loadgen/offline" / folder / name).write_text("*.*.min_duration = 7\n")
    assert build(tmp_path / "out", [copy], allow_errors=True) == 0
    names = {path.name for path in (tmp_path / "out").rglob("results/*/*/Offline/*/**/*") if path.is_file()}
    logs = {"mlperf_log_detail.txt", "mlperf_log_summary.txt", "mlperf_log_accuracy.json", "accuracy.txt"}
    assert names == logs


def test_a_test_that_is_not_valid_is_not_packaged(small, build, tmp_path, capsys):
    def not_valid(event):
        if event["kind"] == "test_stop" and (event["scenario"], event["mode"]) == ("offline", "performance"):
            event |= {"valid": False, "reasons": ["too few samples"]}
        return event

    copy = changed(small, tmp_path / "copy", not_valid)
    assert build(tmp_path / "out", [copy]) == 1
    shown = capsys.readouterr().err
    assert "offline is not valid: too few samples; a valid test is required [package.inference.valid" in shown
    assert not (tmp_path / "out").exists()


def test_a_rehearsal_is_marked_in_every_file(small, build, tmp_path):
    def rehearsed(event):
        return event | {"is_rehearsal": True} if event["kind"] == "infer_config" else event

    copy = changed(small, tmp_path / "copy", rehearsed)
    with pytest.raises(UserError, match="must be of no rehearsal without --rehearsal"):
        build(tmp_path / "out", [copy])
    assert build(tmp_path / "out", [copy], rehearsal=True, allow_errors=True) == 0
    for path in (tmp_path / "out").rglob("*"):
        others = ("SHA256SUMS", "mlperf_log_accuracy.json", "report.md", "main.py")
        if path.is_file() and path.name not in others:
            assert "REHEARSAL" in path.read_text(), path


def test_what_is_changed_in_a_tree_is_found(small, build, tmp_path, capsys):
    assert build(tmp_path / "out", [small], allow_errors=True) == 0
    package.check(tmp_path / "out")
    assert "another content" not in capsys.readouterr().err
    (file,) = (tmp_path / "out").rglob("Offline/accuracy/accuracy.txt")
    file.write_text(file.read_text().replace("76.100", "77.100"))
    assert package.check(tmp_path / "out") == 1
    assert "another content" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"runs": ["twice"]}, "must be given once, got it twice"),
        ({"form": "airank"}, "must be a training run with --format airank, got one of inference: --format airank-inf"),
        ({"form": "mlperf"}, "must be a training run with --format mlperf, got one of inference: --format mlperf-inf"),
        ({"form": "airank-inference"}, "must have runs of one profile of airank-2020-12, airank-2021-05"),
        ({"settings": ["system_type=cloud"]}, "--set system_type: must be one of datacenter; edge"),
        ({"settings": ["division=shut"]}, "--set division: must be closed or open"),
        ({"settings": ["status=maybe"]}, "--set status: must be one of available, rdi, preview, got 'maybe'"),
        ({"runs": ["none"]}, "must be a directory of airank_fast.infer with events.jsonl, got none"),
    ],
)
def test_bad_input_is_one_line(small, build, tmp_path, arguments, message):
    arguments = dict(arguments)
    runs = {"twice": [small, small], "none": [tmp_path]}.get(*arguments.pop("runs", [""]), [small])
    with pytest.raises(UserError, match=message) as error:
        build(tmp_path / "out", runs, allow_errors=True, **arguments)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


# AI-Rank


def airank(path, text, mobile=False, **config):
    scenarios = ("offline", "latency", "max-batch") if mobile else ("offline", "online")
    return write(path, inference_run(f"airank-{text}", scenarios=scenarios, eval_samples=500, **config))


@pytest.mark.parametrize(
    ("text", "mobile", "place"),
    [
        ("2021-05", False, "Example/Linux"),
        ("2021-05", True, "Example/example-1"),
        ("2020-12", False, "example-1"),
        ("2020-12", True, "example-1"),
    ],
)
def test_the_trees_of_airank_pass_their_book(build, tmp_path, text, mobile, place, capsys):
    run = airank(tmp_path / "run", text, mobile)
    kind = ["hardware_type=mobile"] if mobile else ["hardware_type=datacenter"]
    settings = [*kind, "hardware_name=example-1", "operating_system=Linux 6", "accelerator_name=none"]
    assert build(tmp_path / "out", [run], "airank-inference", settings, this_machine=True) == 0, capsys.readouterr().err
    assert airank_inference_tree.is_tree(tmp_path / "out")
    assert list(airank_inference_tree.check_tree(tmp_path / "out")) == []
    root = tmp_path / "out" / place
    (model,) = (path for path in root.iterdir() if path.name.startswith("resnet50"))
    names = sorted(path.name for path in (model / "log").rglob("*.log"))
    wanted = ["latency.log", "max_qps_max_memory_use.log"] if mobile else ["online_ips.log"]
    assert names == sorted(["accuracy_check.log", "offline_ips.log", *wanted])
    for log in (model / "log").rglob("*.log"):
        assert log.read_bytes() == (run / log.name).read_bytes()
    # The folder names the model, whose validation set has more samples than the made-up run.
    found = {(finding.severity, finding.rule) for finding in verifying.verify(tmp_path / "out")}
    assert found == {("error", "airank_inference.total_samples_cnt")}
    assert {finding.path for finding in verifying.verify(tmp_path) if str(tmp_path / "run") in finding.path} == set()


def test_airank_takes_the_reference_weights_alone(build, tmp_path):
    run = airank(tmp_path / "run", "2021-05", checkpoint={"file": "x.pth", "trained_here": True})
    with pytest.raises(UserError, match="must be of the reference model's weights, got weights trained here"):
        build(tmp_path / "out", [run], "airank-inference", allow_errors=True)


def test_airanks_profile_is_that_of_the_runs(build, tmp_path):
    run = airank(tmp_path / "run", "2021-05")
    with pytest.raises(UserError, match="--profile: must be 2021-05, by which the runs were made, got 2020-12"):
        build(tmp_path / "out", [run], "airank-inference", profile="2020-12")


def test_a_test_that_is_not_valid_has_no_figure_in_the_summary(tmp_path):
    run = airank(tmp_path / "run", "2020-12", mobile=True)
    sound = {"resnet50": dict.fromkeys(("offline", "latency", "max-batch"), read_candidate(run))}
    stopped = {"kind": "test_stop", "scenario": "max-batch", "mode": "performance"}
    not_valid = changed(
        run,
        tmp_path / "changed",
        lambda event: event | ({"valid": False, "reasons": ["late"]} if event.items() >= stopped.items() else {}),
    )
    late = {"resnet50": dict.fromkeys(("offline", "latency", "max-batch"), read_candidate(not_valid))}
    cells, without = (summary_metrics(models, "mobile").splitlines()[-1].split("|")[2:-1] for models in (sound, late))
    assert "-" not in "".join(cells)
    assert without == [*cells[:-2], " - ", " - "]


def test_a_terminal_needs_all_its_tests(build, tmp_path):
    run = write(tmp_path / "run", inference_run("airank-2021-05", scenarios=("offline", "latency"), eval_samples=500))
    with pytest.raises(UserError, match="must have 1 more tests for a mobile tree, got no resnet50: max-batch"):
        build(tmp_path / "out", [run], "airank-inference", ["hardware_type=mobile"])


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (lambda root: next(root.rglob("accuracy_check.log")).unlink(), "tree.airank_inference.logs"),
        (
            lambda root: next(root.rglob("o*_ips.log")).rename(next(root.rglob("log")) / "x.log"),
            "tree.airank_inference.stray",
        ),
        (lambda root: shutil.rmtree(next(root.rglob("data"))), "tree.airank_inference.model"),
        (lambda root: next(root.rglob("system_information.json")).write_text("{}"), "tree.airank_inference.system"),
        (lambda root: (next(root.rglob("code")) / "README.md").unlink(), "tree.airank_inference.model"),
    ],
)
def test_what_a_tree_of_airank_lacks_is_found(build, tmp_path, spoil, rule):
    run = airank(tmp_path / "run", "2021-05")
    assert build(tmp_path / "out", [run], "airank-inference", ["hardware_type=datacenter"]) == 0
    (tmp_path / "out" / "SHA256SUMS").unlink()
    spoil(tmp_path / "out")
    assert rule in {finding.rule for finding in airank_inference_tree.check_tree(tmp_path / "out")}
