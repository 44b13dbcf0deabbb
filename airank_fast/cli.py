"""What every command does alike: a user's error becomes one line on stderr and exit status 2."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

from airank_fast.errors import UserError


def run_command(main: Callable[[], int | None]) -> NoReturn:
    """Run `main` and exit with what it returns (None: 0); 2 after a UserError, 130 after Ctrl-C.

    Other exceptions are defects: they keep their traceback.
    """
    try:
        status = main()
    except UserError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(status or 0)
