"""Runs of the train command that fork from a process which has imported torch already.

The import takes three seconds, the fork some milliseconds. The rest is as in `python -m airank_fast.train`: each run
has a pid, signals, an environment and outputs of its own, and its interpreter ends as any other does; resnet50 has a
small network. Runs that begin from nothing, under torchrun too, are those of commands.runs.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

from commands.runs import LIMIT_S, NUM_THREADS, environment, here, kinds_of, narrow_resnet, wait_until

if TYPE_CHECKING:
    from pathlib import Path


class Run:
    """A run of `arguments`; `variables` of the environment besides. It has the methods of Popen that tests need."""

    def __init__(self, arguments: list[str], *, num_threads: int = NUM_THREADS, **variables: str) -> None:
        self.returncode = None
        self._outputs = [tempfile.TemporaryFile("w+") for _ in ("stdout", "stderr")]  # noqa: SIM115
        self._status, status = os.pipe()
        request = {
            "arguments": arguments,
            "environment": environment(num_threads) | variables,
            "num_threads": num_threads,
        }
        files = [*(file.fileno() for file in self._outputs), status]
        socket.send_fds(_server(), [json.dumps(request).encode()], files)
        os.close(status)
        self.pid = int(_server().recv(64))

    def poll(self, timeout: float = 0) -> int | None:
        """The exit status, or None where the run has not ended within `timeout` seconds."""
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            self.returncode = int(os.read(self._status, 64))
            os.close(self._status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float = LIMIT_S) -> tuple[str, str]:
        """Both outputs, once the run has ended."""
        if self.poll(timeout) is None:
            raise subprocess.TimeoutExpired("airank_fast.train", timeout)
        for file in self._outputs:
            file.seek(0)
        stdout, stderr = (file.read() for file in self._outputs)
        return stdout, stderr


def train_on_two_ranks(arguments: list[str]) -> subprocess.CompletedProcess:
    """Run the command to its end in two processes of one thread, with torchrun's variables."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    size = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    ranks = [Run(arguments, num_threads=1, RANK=rank, LOCAL_RANK=rank, **size, **place) for rank in ("0", "1")]
    try:
        outputs = [rank.communicate() for rank in ranks]
    except subprocess.TimeoutExpired:
        for rank in ranks:
            rank.kill()
        raise
    status = max((rank.returncode for rank in ranks), key=abs)
    return subprocess.CompletedProcess(arguments, status, *("".join(texts) for texts in zip(*outputs, strict=True)))


def kill_and_resume(arguments: list[str], output: Path, moment: str) -> None:
    """Start the run, kill it at the second event of the kind `moment`, and resume it to its end."""
    run = Run(arguments)
    wait_until(lambda: kinds_of(output).count(moment) >= 2, run)
    run.kill()
    run.communicate()
    assert here([*arguments, "--resume"]) in (0, 1)


@functools.cache
def _server() -> socket.socket:
    """The channel to the server, which ends with this process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    code = f"from commands.forks import serve; serve({theirs.fileno()})"
    variables = environment() | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.Popen([sys.executable, "-c", code], env=variables, pass_fds=[theirs.fileno()])
    theirs.close()
    return ours


def serve(channel: int) -> None:
    """Fork for every request, until the other end of the channel is closed."""
    import airank_fast.engine
    import airank_fast.recipes

    for package in (airank_fast.engine, airank_fast.recipes):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those that watch a run end unseen
    requests = socket.socket(fileno=channel)
    while True:
        message, files, _, _ = socket.recv_fds(requests, 1 << 20, 3)
        if not message:
            return
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _watch(requests, files, json.loads(message))
            return  # of the run itself: the end of its interpreter
        for file in files:
            os.close(file)


def _watch(requests: socket.socket, files: list[int], request: dict) -> None:
    """Fork the run, report its pid and in the end its status."""
    stdout, stderr, status = files
    pid = os.fork()
    if pid == 0:
        requests.close()
        os.close(status)
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        _run(request)
        return
    requests.send(str(pid).encode())
    for file in (stdout, stderr):
        os.close(file)
    _, ended = os.waitpid(pid, 0)
    os.write(status, str(os.waitstatus_to_exitcode(ended)).encode())
    os._exit(0)


def _run(request: dict) -> None:
    import torch

    os.setsid()
    os.environ.clear()
    os.environ.update(request["environment"])
    torch.set_num_threads(request["num_threads"])
    sys.argv = ["train", *request["arguments"]]
    with narrow_resnet():
        runpy.run_module("airank_fast.train", run_name="__main__", alter_sys=True)
