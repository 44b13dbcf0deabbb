"""SIGTERM: noticed between steps; a process that is stuck still says its last words."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from airank_fast.engine.shutdown import Shutdown

STUCK = """
import ctypes
from airank_fast.engine import shutdown
shutdown.GRACE_S = 0.3
with shutdown.Shutdown(lambda: print("last words", flush=True)):
    print("ready", flush=True)
    while True:  # as in a collective: a call that comes back to no Python code
        ctypes.CDLL(None).sigwait((ctypes.c_char * 128)(), ctypes.byref(ctypes.c_int()))
"""


def test_a_signal_is_noticed_and_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with Shutdown(lambda: None) as shutdown:
        assert not shutdown.requested
        os.kill(os.getpid(), signal.SIGTERM)
        deadline = time.monotonic() + 60
        while not shutdown.requested and time.monotonic() < deadline:
            time.sleep(0.01)
        assert shutdown.requested
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_stuck_process_says_its_last_words():
    process = subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=120)
    assert out == "last words\n"
    assert process.returncode == 143
