"""The verify command: what it prints, its exit status, and that it needs no torch."""

import json
import os
import subprocess
import sys

from commands.runs import environment
from rules.samples import FLAGPERF_TABLE, GOOD, PUBLISHED, unreadable_folder, write_run

from airank_fast import tasks

WITHOUT_TORCH = """
import runpy, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "numpy"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
sys.argv[0] = "verify"
runpy.run_module("airank_fast.verify", run_name="__main__", alter_sys=True)
"""


def verify(*arguments, **options):
    command = [sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)]
    options = {"env": environment(), **options}
    return subprocess.run(command, capture_output=True, text=True, timeout=600, **options)


def test_statuses_and_text(tmp_path):
    (tmp_path / "sample.log").write_text(PUBLISHED)
    (tmp_path / "table.md").write_text(FLAGPERF_TABLE, encoding="utf-8")
    (tmp_path / "broken.log").write_text(GOOD.replace("test_finish", "the_end"))
    (tmp_path / "empty.log").touch()
    done = verify(tmp_path / "sample.log", tmp_path / "table.md", "--model", "resnet50")
    assert (done.returncode, done.stderr) == (0, "0 errors, 4 warnings, 2 notes\n")
    assert done.stdout.startswith(f"{tmp_path}/sample.log:1: note: lines begin with '- AI-Rank-log'")
    done = verify(tmp_path / "broken.log")
    assert done.returncode == 1
    assert (
        f"{tmp_path}/broken.log:8: error: 'the_end'; a line of the AI-Rank log is required [airank.line: "
        in done.stdout
    )
    done = verify(tmp_path / "empty.log", tmp_path / "none.log", tmp_path / "broken.log")
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert [line.startswith("error: ") for line in lines] == [True, True, False]
    assert "broken.log:8" in done.stdout  # the others are checked all the same


def test_json_lines_and_a_run_directory(tmp_path):
    directory = write_run(tmp_path / "run")
    text = (directory / "airank.log").read_text()
    (directory / "airank.log").write_text(text.replace("0.7612", "0.7712"))
    done = verify(directory, "--json")
    assert (done.returncode, done.stderr) == (1, "")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    disagreeing = [finding for finding in found if finding["rule"] == "run.agreement"]
    assert [(finding["path"], finding["line"]) for finding in disagreeing] == [(f"{directory}/airank.log", 4)]


def test_an_unreadable_folder_is_status_1(tmp_path):
    (tmp_path / "sample.log").write_text(PUBLISHED)
    with unreadable_folder(tmp_path) as folder:
        done = verify(tmp_path, "--model", "resnet50")
    assert done.returncode == 1
    assert f"{folder}: error: the folder cannot be read: File name too long; " in done.stdout
    assert done.stderr == "1 errors, 4 warnings, 2 notes\n"


def test_the_help_of_model_names_what_it_accepts_and_does():
    text = " ".join(verify("--help", env={**environment(), "COLUMNS": "200"}).stdout.replace("│", " ").split())
    assert "by its name in any rule book: resnet50, ResNet-50, bert_large, Wide&Deep" in text
    assert "It sets the target accuracy that the log must reach" in text
    for name in ("ResNet-50", "bert_large", "Wide&Deep"):
        assert tasks.find(name) is not None


def test_invalid_options(tmp_path):
    (tmp_path / "log").write_text(GOOD)
    done = verify()
    assert (done.returncode, done.stderr) == (2, "error: paths: must be at least one file or directory, got none\n")
    for option, value in (("--target", "75.9"), ("--samples-per-epoch", "0"), ("--warmup-epochs", "-1")):
        done = verify(tmp_path / "log", option, value)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {option}: must be ")
        assert done.stderr.count("\n") == 1


def test_names_and_contents_that_no_terminal_can_print(tmp_path):
    path = os.fsencode(tmp_path) + b"/log\xff\xc3\xa4"
    with open(path, "wb") as file:
        file.write(b"AI-Rank-log 1 \x1b[31m\xff\xf0\x9f\x98\x80\n")
    done = verify(os.fsdecode(path))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stdout


def test_an_output_that_is_closed_early_gives_no_traceback(tmp_path):
    for number in range(300):
        (tmp_path / f"{number}.log").write_text(PUBLISHED)
    command = [sys.executable, "-m", "airank_fast.verify", str(tmp_path)]
    for num_bytes in (0, 10):  # closed before the first line, and amid the output
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
            process.stdout.read(num_bytes)
            process.stdout.close()
            assert process.stderr.read() == b""
            assert process.wait(60) == 141


def test_a_pipe_that_is_not_the_output_keeps_its_traceback():
    code = """
from airank_fast.cli import run_command
def main():
    raise BrokenPipeError("another pipe")
run_command(main)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert done.returncode == 1
    assert "Traceback" in done.stderr
