"""What every command does alike: a user's error becomes one line on stderr and exit status 2."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable
from typing import NoReturn

from airank_fast.errors import UserError


def run_command(main: Callable[[], int | None]) -> NoReturn:
    """Run `main` and exit with what it returns (None: 0); 2 after a UserError, 130 after Ctrl-C, 141 where nobody
    reads its output any more (`| head`).

    Other exceptions are defects: they keep their traceback.
    """
    try:
        status = main()
        sys.stdout.flush()
    except UserError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        if not _has_no_reader(sys.stdout):
            raise  # another pipe than that of the output
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to be flushed
        sys.exit(141)
    sys.exit(status or 0)


def _has_no_reader(stream) -> bool:
    """Whether a stream leads into a pipe that was closed at its other end."""
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))
