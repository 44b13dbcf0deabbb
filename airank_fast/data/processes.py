"""Worker processes that end when their parent does, however that ends: `kill -9` leaves it no time to say so."""

from __future__ import annotations

import os
import signal
import threading
import time

_WATCH_S = 2.0


def end_with(parent: int, _worker: int = 0) -> None:
    """Have this process, a worker of the process `parent`, end when that does.

    The parent is named because it may be gone already, and this process have another. Ctrl-C and a lost terminal
    signal all of the parent's processes; here both are ignored, since the parent decides.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
