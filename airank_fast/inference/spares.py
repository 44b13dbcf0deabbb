"""Worker processes that are started two at a time, as importing torch takes seconds of one core.

The second one waits until the first has ended: it has imported the same libraries, opened nothing, and sleeps on its
standard input for a line [module, path of a request]. Then it is what `python -m MODULE REQUEST.json` is.

    python -m airank_fast.inference.spares MODULE ...       the process, which imports these

It ends when its standard input does.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NUM_TOGETHER = 2
LIBRARIES = (
    "torch",
    "airank_fast.inference.calibrate",
    "airank_fast.inference.engine_torch",
    "airank_fast.inference.measuring",
    "airank_fast.inference.memory",
    "airank_fast.inference.samples",
)
READY = '{"kind": "phase", "name": "load"}'
LONGEST_S = 60.0  # for the imports; a process that takes longer is watched like any worker
PIPES: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


class Spares:
    """The processes of a run that are started ahead. more: modules that they import besides LIBRARIES."""

    def __init__(self, *more: str) -> None:
        self._more = more
        self._waiting: list[subprocess.Popen[bytes]] = []

    def take(
        self, module: str, request: Path, should_stop: Callable[[], bool] | None = None
    ) -> subprocess.Popen[bytes]:
        """A process that runs a worker's module with a request, once no other one is importing."""
        if not self._waiting:
            command = [sys.executable, "-m", __name__, *LIBRARIES, *self._more]
            number = min(NUM_TOGETHER, len(os.sched_getaffinity(0)))
            self._waiting = [subprocess.Popen(command, start_new_session=True, **PIPES) for _ in range(number)]
            self._wait(should_stop)
        process = self._waiting.pop()
        assert process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended: its watch says so
            process.stdin.write(json.dumps([module, os.fspath(request)]).encode() + b"\n")
            process.stdin.flush()
        return process

    def close(self) -> None:
        """End the processes that nobody took."""
        while self._waiting:
            process = self._waiting.pop()
            process.kill()
            process.communicate()

    def _wait(self, should_stop: Callable[[], bool] | None) -> None:
        """Until all have said a word, or have ended."""
        silent = {process.stdout for process in self._waiting if process.stdout is not None}
        end = time.monotonic() + LONGEST_S
        while silent and time.monotonic() < end and not (should_stop and should_stop()):
            silent -= set(select.select(list(silent), [], [], 0.2)[0])


def main() -> None:
    """Import, say so, and run what is requested."""
    for name in sys.argv[1:]:
        importlib.import_module(name)
    from airank_fast.recipes import command_line  # not above: who supervises alone does without

    command_line.commands()
    print(READY, flush=True)
    line = bytearray()
    while not line.endswith(b"\n"):  # byte by byte, as what follows is the worker's
        if not (byte := os.read(0, 1)):
            return
        line += byte
    module, request = json.loads(line)
    sys.argv = [module, request]
    runpy.run_module(module, run_name="__main__")


if __name__ == "__main__":
    main()
