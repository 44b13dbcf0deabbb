"""`python -m airank_fast.report`."""

import subprocess
import sys
from pathlib import Path

import pytest
from reports.made_up import MadeUpRun

BLOCKED = """
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "numpy", "matplotlib"):
            raise ImportError(name + " must not be imported")
sys.meta_path.insert(0, Blocked())
"""
ROOT = Path(__file__).parents[2]


def report(*arguments, before=""):
    """Run the command, after `before` in the same process."""
    program = f"import runpy, sys\n{before}\nsys.argv[0] = 'report'\n"
    program += "runpy.run_module('airank_fast.report', run_name='__main__', alter_sys=True)"
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return MadeUpRun(8).begin().train(8).stop("aborted", "epochs").write(tmp_path_factory.mktemp("runs") / "run")


def test_writes_page_markdown_and_pictures_without_torch(run, tmp_path):
    done = report(run, "--lang", "en", "--output", tmp_path / "out", "--mark", "rehearsal", before=BLOCKED)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{tmp_path}/out/report.en.html", f"{tmp_path}/out/report.en.md"]
    page = (tmp_path / "out" / "report.en.html").read_text(encoding="utf-8")
    markdown = (tmp_path / "out" / "report.en.md").read_text(encoding="utf-8")
    assert "rehearsal" in page
    assert "report.en/m1-resnet50-accuracy.svg" in markdown
    assert len(list((tmp_path / "out" / "report.en").glob("*.svg"))) == 6


def test_the_same_bytes_again_also_inside_the_run_directory(run):
    """A report in the run's own directory does not list itself."""
    contents = []
    for _ in range(2):
        assert report(run, "--output", run / "report").returncode == 0
        contents.append([path.read_bytes() for path in sorted((run / "report").rglob("*.*")) if path.is_file()])
    assert contents[0] == contents[1]
    assert len(contents[0]) == 8


@pytest.mark.parametrize("package", ["jinja2", "markupsafe"])
def test_a_missing_package_is_one_line_that_names_the_extra(run, tmp_path, package):
    hidden = f"""
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == {package!r} else find_spec(name, *rest)
"""
    done = report(run, "--output", tmp_path, before=hidden)
    assert done.returncode == 2
    assert done.stderr == f"error: report: must be installed by pip install 'airank-fast[report]', got no {package}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: must be a run directory"),
        ([ROOT / "LICENSE"], "LICENSE: must be a log of a known format"),
        (["RUN", "--set", "target=high"], "target: must be a number, got 'high'"),
        (["RUN", "--set", "colour=red"], "--set: must be NAME=VALUE with a NAME of benchmark"),
        (["RUN", "--set", "target"], "--set: must be NAME=VALUE"),
        (["RUN", "--output", ROOT / "LICENSE"], "--output: must be a directory that can be written"),
    ],
)
def test_bad_input_is_one_line(run, tmp_path, arguments, message):
    paths = [run if argument == "RUN" else argument for argument in arguments]
    done = report(*paths, *([] if "--output" in paths else ["--output", tmp_path]))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr


def test_what_a_log_does_not_say_is_set(tmp_path):
    log = tmp_path / "GPUx8.log"
    log.write_text(
        "- AI-Rank-log 10.0 test_begin\n- AI-Rank-log 13.5 eval_accuracy:0.8, total_epoch_cnt:4\n"
        "- AI-Rank-log 20.0 test_finish\n"
    )
    done = report(log, "--output", tmp_path / "out", "--set", "benchmark=resnet50", "--set", "target=0.759")
    assert done.returncode == 0, done.stderr
    markdown = (tmp_path / "out" / "report.zh.md").read_text(encoding="utf-8")
    assert "- ResNet-50 (目标精度 75.9%)" in markdown
    assert "| 8卡 | 3.50 | - | 80.00 | - | 1/1 |" in markdown
    assert "--set benchmark=resnet50 --set target=0.759" in markdown
    settings = ["*x8.log:benchmark=bert_large", "*x1.log:benchmark=resnet50", "operating_system=Made-up 1"]
    words = [word for setting in settings for word in ("--set", setting)]
    assert report(log, "--output", tmp_path / "out", "--lang", "en", *words).returncode == 0
    markdown = (tmp_path / "out" / "report.en.md").read_text(encoding="utf-8")
    assert "- BERT-large" in markdown
    assert "| Operating system | Made-up 1 |" in markdown
    assert "--set '*x8.log:benchmark=bert_large'" in markdown
