"""Peers that another Python runs, because their builds of torch and this one's cannot be loaded into one process.

    AIRANK_FAST_TORCHVISION=/path/to/python    one that has torchvision, and the torch that it was built for

Without the variable the running Python is asked. The peer's process lives as long as the bench and takes its turn in
every round: its time is taken there, around the call alone, and arguments are sent once, before.

On a GPU the peer is called in the running Python, which must have a torchvision for its torch: one process times both
by the device's events.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch


@functools.cache
def with_torchvision(device: str = "cpu") -> OtherPython | ThisPython | None:
    """The Python that has torchvision; None, and a line once, where there is none."""
    if device != "cpu":
        return _here()
    python = os.environ.get("AIRANK_FAST_TORCHVISION")
    if python is None and importlib.util.find_spec("torchvision") is None:
        print("not a peer here: torchvision (see bench/other_python.py)")
        return None
    return OtherPython(python or sys.executable)


def _here() -> ThisPython | None:
    try:
        importlib.import_module("torchvision")
    except (ImportError, OSError, RuntimeError) as error:  # the last two: built for another torch
        why = str(error).split("\n")[0]
        print(f"not a peer on a GPU: torchvision, which must be in this Python, for its torch ({why})")
        return None
    return ThisPython()


class ThisPython:
    """The running process, with OtherPython's way to define a contestant."""

    def contestant(self, code: str, *arguments: object) -> Callable[[], object]:
        """`code` defines call(*arguments)."""
        call = functools.partial(_defined(code), *arguments)
        call.versions = {"torchvision": importlib.metadata.version("torchvision")}
        return call


class OtherPython:
    """A process of that Python, with as many of torch's threads as here."""

    def __init__(self, python: str) -> None:
        command = [python, __file__, str(torch.get_num_threads())]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment)
        self._folder = tempfile.TemporaryDirectory()
        self.versions: dict[str, str] = self._receive()

    def contestant(self, code: str, *arguments: object) -> Contestant:
        """`code` defines call(*arguments), whose result is tensors; arguments are what torch.save can write."""
        path = str(Path(self._folder.name, "arguments.pt"))
        torch.save(arguments, path)
        return Contestant(self, self.ask("define", code, path))

    def ask(self, *request: object) -> object:
        """The answer to a request."""
        pickle.dump(request, self._process.stdin)
        self._process.stdin.flush()
        return self._receive()

    def results(self, number: object) -> object:
        """What a call returns."""
        path = str(Path(self._folder.name, "results.pt"))
        self.ask("results", number, path)
        return torch.load(path)

    def _receive(self) -> object:
        try:
            return pickle.load(self._process.stdout)
        except EOFError:
            raise SystemExit(f"the peer's Python has ended with status {self._process.wait()}") from None


class Contestant:
    """A function of the other process, which times itself."""

    def __init__(self, python: OtherPython, number: object) -> None:
        self._python, self._number = python, number
        self.versions = python.versions

    def __call__(self) -> object:
        return self._python.results(self._number)

    def own_seconds(self) -> float:
        """Of one call, there."""
        return self._python.ask("seconds", self._number)


def _defined(code: str) -> Callable:
    """call of this code."""
    names: dict = {}
    exec(code, names)
    return names["call"]


def _serve(answers: object) -> None:
    """In the other process: requests from stdin until it is closed."""
    torch.set_num_threads(int(sys.argv[1]))
    pickle.dump({name: importlib.metadata.version(name) for name in ("torch", "torchvision")}, answers)
    answers.flush()
    calls: list[Callable[[], object]] = []
    while True:
        try:
            kind, *request = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        if kind == "define":
            calls.append(functools.partial(_defined(request[0]), *torch.load(request[1])))
            answer: object = len(calls) - 1
        elif kind == "results":
            answer = torch.save(calls[request[0]](), request[1])
        else:
            begin = time.perf_counter()
            calls[request[0]]()
            answer = time.perf_counter() - begin
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    stream = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what is printed goes to stderr
    _serve(stream)
