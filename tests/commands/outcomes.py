"""How a training command ended: the events of its run, its losses, or the one line with which it refused."""

from __future__ import annotations

import sys
from unittest import mock

import pytest
from commands.test_train_bad_input import check_refusal

from airank_fast import train as command
from airank_fast.cli import run_command
from airank_fast.record.events import effective, read_events


def events_of(output, kind: str) -> list[dict]:
    """The events of a kind that no later resume supersedes."""
    return [event for event in effective(read_events(output / "events.jsonl")) if event["kind"] == kind]


def losses(output) -> list[float]:
    """The loss of each step over the whole batch, of all ranks."""
    whole = [loss for event in events_of(output, "block_stop") for loss in event.get("loss", [])]
    return whole or [loss for event in events_of(output, "steps") for loss in event["loss"]]


def refused(args, capsys, *fragments):
    """The command ends with status 2 and one line on stderr that has every fragment."""
    with mock.patch.object(sys, "argv", ["train", *args]), pytest.raises(SystemExit) as stop:
        run_command(command.main)
    check_refusal(stop.value.code, capsys.readouterr().err, *fragments)
