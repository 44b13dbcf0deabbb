"""Runs commands that never import torch inside the test's process, or in a process of their own with torch blocked."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from unittest import mock

from commands.runs import environment

from airank_fast.cli import run_command

BLOCK_TORCH = """
import runpy, sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError("torch is blocked")
sys.meta_path.insert(0, NoTorch())
runpy.run_module(sys.argv[1], run_name="__main__", alter_sys=True)
"""


def run(module, *arguments) -> subprocess.CompletedProcess:
    """`python -m module ARGUMENTS`, without the start of a process."""
    argv = [module.__name__, *map(str, arguments)]
    out, err, status = io.StringIO(), io.StringIO(), 0
    with mock.patch.object(sys, "argv", argv), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            run_command(module.main)
        except SystemExit as end:
            status = end.code
    return subprocess.CompletedProcess(argv, status, out.getvalue(), err.getvalue())


def run_without_torch(module, *arguments) -> subprocess.CompletedProcess:
    """`python -m module ARGUMENTS` in a plain locale, where every import of torch fails."""
    sys_argv = [module.__name__, *map(str, arguments)]
    code = BLOCK_TORCH.replace("sys.argv[1]", repr(module.__name__))
    command = [sys.executable, "-c", code, *sys_argv[1:]]
    variables = environment() | {"LC_ALL": "C"}
    return subprocess.run(command, capture_output=True, text=True, env=variables, encoding="utf-8", check=False)
