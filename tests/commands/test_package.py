"""`python -m airank_fast.package` as a user calls it."""

import copy
import filecmp
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from submission import synthetic

import airank_fast
from airank_fast import package
from airank_fast.errors import UserError
from airank_fast.record import machine, source
from airank_fast.record.events import read_events, to_line

ROOT = Path(airank_fast.__file__).parents[1]
BLOCKS_TORCH = """
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        assert name.split(".")[0] != "torch", "torch was imported"
sys.meta_path.insert(0, NoTorch())
"""
WITHOUT_TORCH = (
    f"{BLOCKS_TORCH}sys.path.insert(0, {str(ROOT)!r})\n"
    "from airank_fast import cli, package\ncli.run_command(package.main)"
)


def run(*arguments, cwd=ROOT, code=None):
    command = [sys.executable, "-c", code] if code else [sys.executable, "-m", "airank_fast.package"]
    return subprocess.run([*command, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return [synthetic.resnet(root / f"r{n}", n, minutes=28 + n) for n in range(5)]


def build(runs, output, *more):
    arguments = [*synthetic.settings(), *more]
    return run("--format", "mlperf", "--output", output, *arguments, *runs, code=WITHOUT_TORCH)


def same(one, other):
    compared = filecmp.dircmp(one, other)
    files = [path.relative_to(one) for path in one.rglob("*") if path.is_file()]
    _, different, errors = filecmp.cmpfiles(one, other, files, shallow=False)
    return not (compared.left_only or compared.right_only or different or errors) and len(files) > 20


def test_without_torch_twice_the_same_bytes_and_what_is_changed_is_found(resnet, tmp_path):
    for name in ("one", "two"):
        done = build(resnet, tmp_path / name)
        assert done.returncode == 0, done.stderr
        assert "5 logs; checksums in SHA256SUMS" in done.stdout
    assert same(tmp_path / "one", tmp_path / "two")
    sums = subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=tmp_path / "one", check=False)
    assert sums.returncode == 0
    assert run("--check", tmp_path / "one").returncode == 0
    log = next((tmp_path / "one").rglob("result_3.txt"))
    log.write_text(log.read_text().replace("0.76", "0.77"))
    done = run("--check", tmp_path / "one")
    assert done.returncode == 1
    assert "result_3.txt: error: another content" in done.stderr
    assert not same(tmp_path / "one", tmp_path / "two")


def test_a_package_says_nothing_of_who_made_it_where(resnet, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "c8a1-secret")
    assert build(resnet, tmp_path / "out").returncode == 0
    made = [path for path in (tmp_path / "out").rglob("*") if path.is_file() and "source" not in path.parts]
    for path in made:
        text = path.read_text()
        assert "c8a1-secret" not in text
        assert str(tmp_path) not in text
        assert "somebody" not in text  # the home folder that the runs' commands name


def changed(run, directory, file, old, new):
    """A copy of a run directory with another text in one of its files."""
    shutil.copytree(run, directory)
    text = (directory / file).read_text()
    assert old in text
    (directory / file).write_text(text.replace(old, new))
    return directory


def test_logs_that_the_rules_refuse_are_packaged_with_the_errors(resnet, tmp_path, capsys):
    settings = [f"{name}={value}" for name, value in synthetic.ANSWERS.items()]
    runs = [
        changed(
            resnet[0], tmp_path / "run", "mlperf.log", '"cache_clear", "value": true', '"cache_clear", "value": false'
        ),
        *resnet[1:],
    ]
    options = {"runs": runs, "format": "mlperf", "output": tmp_path / "out", "settings": settings}
    assert package.build(package.Options(**options)) == 1
    assert not (tmp_path / "out").exists()
    printed = capsys.readouterr().err
    assert "the rules refuse 2 points" in printed
    assert "run/mlperf.log:7: error: " in printed
    assert package.build(package.Options(**options, allow_errors=True)) == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert {one["rule"] for one in manifest["allowed_errors"]} == {"run.agreement", "mlperf.cache_clear"}
    readme = next((tmp_path / "out").rglob("implementations/airank_fast/README.md")).read_text()
    assert "The rules refuse these 2 points" in readme
    assert "`mlperf.cache_clear`" in readme


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("mlperf.log", "0.7601", "0.7602"),
        ("airank.log", "0.7601", "0.7602"),
        ("events.jsonl", '"accuracy":0.7601', '"accuracy":0.7602'),
    ],
)
@pytest.mark.parametrize("form", ["mlperf", "airank"])
def test_a_run_whose_logs_and_events_disagree_is_refused(resnet, tmp_path, capsys, form, file, old, new):
    run = changed(resnet[0], tmp_path / "run", file, old, new)
    given = [run, *resnet[1:]] if form == "mlperf" else [run]
    options = package.Options(runs=given, format=form, output=tmp_path / "out", allow_names=True)
    assert package.build(options) == 1
    assert "run.agreement" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [run]


def test_a_run_of_changed_source_is_refused(tmp_path, capsys, resnet):
    identity = {"name": "airank_fast", "version": "0.1.0", "commit": "0" * 40, "modified": "2"}
    system = f'"kind":"system","source":{json.dumps(identity)},'
    directory = tmp_path / "r"
    directory.mkdir()
    (directory / "mlperf.log").write_bytes((resnet[0] / "mlperf.log").read_bytes())
    events = (resnet[0] / "events.jsonl").read_text().replace('"kind":"system",', system)
    (directory / "events.jsonl").write_text(events)
    options = package.Options(runs=[directory, *resnet[1:]], format="mlperf", output=tmp_path / "out")
    assert package.build(options) == 1
    printed = capsys.readouterr().err
    assert "2 files changed since commit 000" in printed
    assert "is not in this checkout" in printed


def test_runs_that_are_no_set_are_refused(tmp_path, capsys, resnet):
    other = [synthetic.resnet(tmp_path / "a", 7, seed=1000, precision="fp32")]
    other += [synthetic.resnet(tmp_path / "b", 8, global_batch_size=816)]
    assert package.build(package.Options(runs=[*resnet[:3], *other], format="mlperf", output=tmp_path / "out")) == 1
    printed = capsys.readouterr().err
    assert f"seed 1000 as in {resnet[0]}/mlperf.log" in printed
    assert "global_batch_size 816; 1632 as in the other runs" in printed
    assert "precision 'fp32'; 'bf16' as in the others" in printed
    assert printed.count("package.one_set") == 1


JUNK = [None, [], {}, "", "x", -1, 0, 3.5, float("nan"), "\n|", [1, "a"], {"a": {"b": []}}, True, 10**30, "../../x"]
READ_BEFORE = {"t", "kind", "target", "warmup_epochs_excluded"}  # what reading a run itself judges


def spoil(events, dice, counts):
    """Replace some values of the events that describe the run by anything that JSON may hold."""
    events = copy.deepcopy(events)
    for event in events:
        if event["kind"] not in ("run_config", "system", "data"):
            continue
        for _ in range(dice.choice(counts)):
            place = event
            while isinstance(inner := place[name := dice.choice(list(place))], dict) and inner and dice.random() < 0.7:
                place = inner
            if name not in READ_BEFORE:
                place[name] = copy.deepcopy(dice.choice(JUNK))
    return events


@pytest.mark.parametrize("form", ["mlperf", "airank"])
def test_whatever_a_run_says_of_itself_there_is_no_traceback(tmp_path, resnet, form, monkeypatch, capsys):
    monkeypatch.setattr(source, "files", lambda: iter([]))
    monkeypatch.setattr(machine, "facts", dict)
    events = [read_events(run / "events.jsonl") for run in resnet]
    options = {"format": form, "settings": [f"{name}={value}" for name, value in synthetic.ANSWERS.items()]}
    options |= {"profile": "2021-05", "allow_errors": True, "allow_names": True}
    num_seeds, counts = (5, [0, 0, 0, 0, 1, 3]) if form == "mlperf" else (12, [0, 1, 1, 3])  # of 5 runs, of one
    built = 0
    for seed in range(num_seeds):
        dice = random.Random(seed)
        runs = []
        for number, run in enumerate(resnet[: 5 if form == "mlperf" else 1]):
            runs.append(tmp_path / f"{seed}-{number}")
            runs[-1].mkdir()
            spoilt = spoil(events[number], dice, counts)
            (runs[-1] / "events.jsonl").write_text("".join(to_line(event) + "\n" for event in spoilt))
            for log in ("mlperf.log", "airank.log"):
                (runs[-1] / log).write_bytes((run / log).read_bytes())
        try:
            built += package.build(package.Options(runs=runs, output=tmp_path / f"out{seed}", **options)) == 0
        except UserError:
            assert not (tmp_path / f"out{seed}").exists()
    assert 0 < built < num_seeds


def test_logs_that_name_a_home_or_a_host_need_permission(resnet, tmp_path):
    log = tmp_path / "named.log"
    log.write_text(f"reading {synthetic.HOME}/li/x\n" + (resnet[0] / "mlperf.log").read_text())
    done = build([log, *resnet[1:]], tmp_path / "out")
    assert done.returncode == 2
    assert "named.log:1: must be without the names of hosts, users and home folders" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of --format, --check and --optimizer-report, got 0"),
        (["--format", "mlperf", "--check", "x"], "got 2 of them"),
        (["--format", "mlperf"], "runs and --output"),
        (["--format", "mlperf", "--output", "out", "nothing"], "nothing: must be a run directory"),
        (["--check", "nothing"], "nothing: must be a directory"),
        (["--format", "mlperf", "--output", "out", "--set", "x", "{run}"], "NAME=VALUE, got 'x'"),
    ],
)
def test_bad_input_is_one_line(tmp_path, resnet, arguments, message):
    done = run(*[resnet[0] if one == "{run}" else one for one in arguments], cwd=tmp_path, code=WITHOUT_TORCH)
    assert done.returncode == 2, done.stdout
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_rehearsal_says_so_in_every_file_that_is_read(tmp_path):
    org = {"org": "REHEARSAL 演练 team", "platform": "REHEARSAL machine", "division": "closed", "status": "research"}
    runs = [synthetic.resnet(tmp_path / f"r{n}", n, submission=org) for n in range(5)]
    done = build(runs, tmp_path / "out")
    assert done.returncode == 2
    assert "runs: must be of no rehearsal without --rehearsal" in done.stderr
    assert build(runs, tmp_path / "out", "--rehearsal").returncode == 0
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file() and "source" not in path.parts]
    without = [path.name for path in files if "REHEARSAL" not in path.read_text()]
    assert not without
    others = [path for path in files if "report" not in path.relative_to(tmp_path / "out").as_posix()]
    assert len(others) == 15  # two of the package, description, 5 logs; README, script, 5 recipes
    assert {path.suffix for path in files if path not in others} == {".html", ".md", ".svg"}
    log = next((tmp_path / "out").rglob("result_0.txt")).read_text()
    assert log.partition("\n")[0].startswith("# REHEARSAL (演练)")
    assert log.partition("\n")[2] == (runs[0] / "mlperf.log").read_text()
    command = [sys.executable, "-m", "mlperf_logging.compliance_checker", "--usage", "training", "--ruleset", "4.0.0"]
    command.append(str(next((tmp_path / "out").rglob("result_0.txt"))))
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("name", "benchmark"),
    [
        (None, None),
        ("ResNet-50", "resnet50"),
        ("bert", "bert_large"),
        ("bert_base", "bert_base"),
        ("Wide&Deep", "wide_deep"),
    ],
)
def test_a_benchmark_is_named_as_any_rule_book_names_it(name, benchmark):
    assert package.benchmark_named(name) == benchmark


def test_a_benchmark_that_no_task_has_is_refused():
    with pytest.raises(UserError, match=r"--benchmark: must be one of bert, bert_squad, cyclegan, .*, got unet3d"):
        package.benchmark_named("unet3d")
