"""Signals are seen between steps; a process that hangs still closes its log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from airank_fast.engine.shutdown import ONE_CTRL_C_S, SIGNALS, Shutdown

STUCK = """
import ctypes
from airank_fast.engine import shutdown
shutdown.GRACE_S = 0.3
with shutdown.Shutdown(lambda: print("log closed", flush=True)):
    print("ready", flush=True)
    while True:  # as in a collective: a call that never returns to Python
        ctypes.CDLL(None).sigwait((ctypes.c_char * 128)(), ctypes.byref(ctypes.c_int()))
"""


def wait_for(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_is_seen_and_handlers_are_restored(number, status):
    before = [signal.getsignal(each) for each in SIGNALS]
    with Shutdown(lambda: None) as shutdown:
        assert not shutdown.requested
        os.kill(os.getpid(), number)
        wait_for(lambda: shutdown.requested)
        assert (shutdown.reason, shutdown.exit_status) == (number.name.lower(), status)
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_what_the_process_was_started_to_ignore_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Shutdown(lambda: None) as shutdown:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
            wait_for(lambda: shutdown.requested)
            assert shutdown.reason == "sigterm"
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_process_that_hangs_closes_its_log():
    process = subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=120)
    assert out == "log closed\n"
    assert process.returncode == 143


def test_a_second_ctrl_c_leaves_at_once():
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK.replace("0.3", "600")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)  # from a wrapper that passes on the terminal's signal: counts once
    time.sleep(2 * ONE_CTRL_C_S)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=120) == ("log closed\n", "")
    assert process.returncode == 130
