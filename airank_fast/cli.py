"""Runs a command's main function: how errors, signals and closed outputs end every command.

| exit status | meaning |
|---|---|
| 0, 1 | the command's own verdict; 1 is "errors found" or "target missed" |
| 2 | bad input: one line on stderr |
| 74 | an output could not be written, such as on a full disk: one line on stderr |
| 130 | Ctrl-C |
| 141 | the reader of the output has ended (`| head`) |

A closed output (`>&-`) is treated as /dev/null, and so is a stderr that cannot be written. Other exceptions are
defects: they keep their traceback.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from airank_fast.errors import UserError

EXIT_BAD_INPUT, EXIT_OUTPUT, EXIT_INTERRUPTED, EXIT_NO_READER = 2, 74, 130, 141


def run_command(main: Callable[[], int | None]) -> NoReturn:
    """Run `main` and exit with what it returns (None: 0), or with a status of the table above."""
    _stand_in_for_closed_outputs()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = out, err = _Output(sys.stdout), _Output(sys.stderr, is_lossy=True)
    try:
        status = _status(main, out)
        unwritten = out.finish()
        if unwritten and status in (0, 1):  # another status has more information
            status = unwritten
        err.finish()
    finally:
        sys.stdout, sys.stderr = before
    sys.exit(status)


def _status(main: Callable[[], int | None], out: _Output) -> int | str:
    try:
        return main() or 0
    except SystemExit as end:  # from the parser of the command line, as after --help
        return end.code or 0
    except UserError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except OSError as error:
        if error is not out.error:
            raise
        return 0


class _Output:
    """A text stream that keeps the first error of a write. A lossy one does not raise it."""

    def __init__(self, stream, is_lossy: bool = False) -> None:
        self._stream = stream
        self._is_lossy = is_lossy
        self.error: OSError | None = None

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._attempt(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def _attempt(self, call: Callable, *arguments: str) -> None:
        try:
            call(*arguments)
        except OSError as error:
            self.error = self.error or error
            if not self._is_lossy:
                raise

    def finish(self) -> int | None:
        """Flush; after a failed write drop the rest and return the exit status for it."""
        with suppress(OSError):
            self.flush()
        if self.error is None:
            return None
        is_read = not _has_no_reader(self._stream)
        os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())  # for the flush at the end of Python
        if is_read and not self._is_lossy:
            name = self._stream.name.strip("<>")
            print(f"error: {name}: must be writable, got {self.error.strerror}", file=sys.stderr)
        return EXIT_OUTPUT if is_read else EXIT_NO_READER


def _stand_in_for_closed_outputs() -> None:
    """Open /dev/null in place of a closed stdin, stdout or stderr, before another file gets its number."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 -- until the process ends
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # for names that the locale cannot write


def _has_no_reader(stream) -> bool:
    """Whether a stream is a pipe whose other end was closed."""
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))
