"""Converting damaged logs: from any lines to any format, in order of time, or refused in one line."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record.test_dllogger import TEXT
from record.test_perflog import BERT

from airank_fast.errors import UserError
from airank_fast.record.foreign.complete import Outline, complete
from airank_fast.record.foreign.convert import FORMATS, Omissions, Requirements, convert
from airank_fast.record.formats import dllogger, perflog
from airank_fast.record.metrics import summarize

LOGS = {dllogger.parse: TEXT.splitlines(), perflog.parse: BERT}
PIECES = st.sampled_from(["", "nan", "-1", "9" * 30, "1e999", "[", "{", "null", " : ", "Epoch: ", "%", "0.9", "\0"])
GIVEN = [
    {},
    {"target": 0.5, "samples_per_epoch": 10},
    {"target": 0.5, "samples_per_epoch": 9, "global_batch_size": 4, "eval_s": 3.0, "init_s": 2.0},
]


@st.composite
def damaged(draw):
    """(parser, lines of its format with pieces exchanged, lines left out and doubled)."""
    parse = draw(st.sampled_from(list(LOGS)))
    lines = list(LOGS[parse])
    for _ in range(draw(st.integers(0, 4))):
        index = draw(st.integers(0, len(lines) - 1))
        line = lines[index]
        begin = draw(st.integers(0, len(line)))
        end = draw(st.integers(begin, min(begin + 12, len(line))))
        lines[index : index + 1] = [line[:begin] + draw(PIECES) + line[end:]] * draw(st.integers(1, 2))
    return parse, lines


@settings(deadline=None, max_examples=200)
@given(damaged(), st.sampled_from(GIVEN), st.sampled_from(FORMATS))
def test_a_damaged_log_is_converted_or_refused(log, given, to):
    parse, lines = log
    try:
        outline = Outline(parse(lines), given)
        events = list(complete(parse(lines), outline))
        assert summarize(events)["evaluations"] <= len(outline.evaluations)
        Requirements(to, events, given)
        assert all("\n" not in line or to == "flagperf" for line in convert(events, to, Omissions()))
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017 (either way is right)


@settings(deadline=None, max_examples=50)
@given(st.floats(0, 600), st.floats(0, 60), st.sampled_from(list(LOGS)))
def test_what_is_added_stands_in_order_of_time(eval_s, init_s, parse):
    given = {"target": 0.7, "samples_per_epoch": 1000, "global_batch_size": 64, "eval_s": eval_s, "init_s": init_s}
    lines = LOGS[parse]
    events = list(complete(parse(lines), Outline(parse(lines), given)))
    times = [event["t"] for event in events]
    assert times == sorted(times)
    opened = [event["kind"] for event in events if event["kind"].startswith(("block", "eval"))]
    pairs = {"block_start": "block_stop", "block_stop": "eval_start", "eval_start": "eval_stop"}
    assert all(pairs.get(one, other) == other for one, other in pairwise(opened))


def test_without_a_configuration_every_fact_is_required():
    events = [{"t": 0.0, "kind": "run_start"}]
    assert {"benchmark", "opt_name", "seed", "init_s"} <= set(Requirements("mlperf", events).missing)
    with pytest.raises(UserError, match="must have the begin of the run, got none"):
        Requirements("airank", [])


def test_omissions_count_a_line_once_however_often_it_is_read():
    omissions = Omissions()
    for _ in range(3):
        omissions.count_line(2, "odd lines")
        omissions.count_line(5, "odd lines")
    assert omissions.lines() == ["lost: 2 odd lines, first in line 2"]
