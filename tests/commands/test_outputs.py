"""Outputs that cannot be written: each command ends with the status for that and without a traceback."""

from __future__ import annotations

import subprocess
import sys

import pytest
from commands.runs import environment

from airank_fast.__main__ import commands
from airank_fast.errors import UserError, require

LINE = "error: stdout: must be writable, got No space left on device\n"
# More output than the buffers of a pipe and of Python hold, then the end that the first argument names.
WRITER = """
import sys
from airank_fast.cli import run_command
from airank_fast.errors import UserError
def main():
    print("a warning", file=sys.stderr)
    if sys.argv[1] == "refuse":
        raise UserError("--data: must be a directory, got nowhere")
    print("a result" if sys.argv[2] == "short" else "x" * 200_000)
    return int(sys.argv[1])
run_command(main)
"""


def shell(line: str, *program: str, unbuffered: bool = False) -> subprocess.CompletedProcess:
    """Run `program` where LINE, of bash, has \"$@\"; returns the program's status."""
    command = ["bash", "-c", f"set -o pipefail; {line}", "bash", sys.executable, *program]
    variables = environment() | {"PYTHONUNBUFFERED": "1" if unbuffered else ""}
    return subprocess.run(command, capture_output=True, text=True, env=variables, check=False)


@pytest.mark.parametrize("command", ["", *(f".{name}" for name in commands())])
def test_every_command_reports_that_its_output_is_full(command):
    done = shell('"$@" > /dev/full', "-m", f"airank_fast{command}", "--help")
    assert (done.returncode, done.stderr) == (74, LINE)


@pytest.mark.parametrize(("length", "unbuffered"), [("short", True), ("long", False)])
@pytest.mark.parametrize(
    ("line", "statuses", "stderr"),
    [
        ('"$@" > /dev/full', [74, 74, 2], "a warning\n{}"),
        ('"$@" | head -c 0', [141, 141, 2], "a warning\n"),
        ('"$@" >&-', [0, 1, 2], "a warning\n"),
        ('"$@" 2>&- > /dev/null', [0, 1, 2], ""),
        ('"$@" 2> /dev/full > /dev/null', [0, 1, 2], ""),
        ('"$@" <&- >&- 2>&-', [0, 1, 2], ""),
        ('"$@" > /dev/full 2>&1', [74, 74, 2], ""),
    ],
)
def test_outputs_that_take_nothing(line, statuses, stderr, length, unbuffered):
    for end, status in zip(("0", "1", "refuse"), statuses, strict=True):
        done = shell(line, "-c", WRITER, end, length, unbuffered=unbuffered)
        assert done.returncode == status, (end, done.stderr)
        if end != "refuse":
            assert done.stderr == stderr.format(LINE)


def test_another_file_does_not_take_the_number_of_a_closed_output(tmp_path):
    """Else a library that writes to descriptor 1 would write into it."""
    code = (
        "import os, sys\nfrom airank_fast.cli import run_command\n"
        f"def main():\n    file = open({str(tmp_path / 'log')!r}, 'w')\n"
        "    os.write(1, b'noise')\n    return file.fileno()\n"
        "run_command(main)"
    )
    assert shell('"$@" >&-', "-c", code).returncode >= 3
    assert (tmp_path / "log").read_text() == ""


def test_require():
    require(True, "--epochs", "at least 1", 1)
    with pytest.raises(UserError, match=r"^--epochs: must be at least 1, got 0$"):
        require(False, "--epochs", "at least 1", 0)
