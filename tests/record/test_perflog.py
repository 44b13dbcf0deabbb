"""[PerfLog]: FlagPerf's events as its driver prints them, and back and forth through our own."""

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airank_fast.errors import UserError
from airank_fast.record.formats.perflog import PerfLogLog, parse


def line(name, value=None, t=1_669_032_000_000, rank=0, **fields):
    """A line as FlagPerf's logger writes it."""
    metadata = {"file": "run_pretraining.py", "lineno": 127, "time_ms": t, "rank": rank}
    return "[PerfLog] " + json.dumps(
        {"event": name, **({} if value is None else {"value": value}), **fields, "metadata": metadata}
    )


BERT = [
    line("LAUNCH_TRAINING", other="Launch training"),
    line("INIT_START", t=1000),
    line("INIT_EVALUATION", {"time": 3.0}),
    line("INIT_END", t=9000, other="Finish initialization"),
    line("TRAIN_START", t=9000),
    line("TRAIN_START", rank=1),
    line("STEP_END", {"loss": 2.5, "global_steps": 10}, t=20_000),
    "Train Step 10",
    line("EVALUATE", {"global_steps": 10, "eval_loss": 2.0, "eval_mlm_accuracy": 0.69, "time": 4.0}, t=30_000),
    line("EVALUATE", {"global_steps": 20, "eval_mlm_accuracy": 0.721, "time": 4.0}, t=60_000),
    line("EPOCH_END", t=60_001),
    line("TRAIN_END", t=60_002),
    line(
        "FINISHED",
        {
            "e2e_time": 62.0,
            "train_time": 51.0,
            "train_no_eval_time": 43.0,
            "throughput(sps)_raw": 10.0,
            "throughput(sps)_no_eval": 12.0,
            "throughput(sps)_pure_compute": 13.0,
            "converged": True,
            "final_mlm_accuracy": 0.721,
        },
        t=61_000,
    ),
]


def test_berts_log():
    lost = []
    events = list(parse(BERT, lost=lambda *what: lost.append(what)))
    assert [(e["t"], e["kind"]) for e in events if e["kind"] != "figure"] == [
        (1.0, "init_start"),
        (9.0, "init_stop"),
        (9.0, "run_start"),
        (20.0, "reading"),
        (30.0, "eval_stop"),
        (60.0, "eval_stop"),
        (60.001, "epoch_stop"),
        (60.002, "run_stop"),
    ]
    evaluations = [event for event in events if event["kind"] == "eval_stop"]
    assert [(e["step"], e["accuracy"], e["duration_s"]) for e in evaluations] == [(10, 0.69, 4.0), (20, 0.721, 4.0)]
    assert next(e for e in events if e["kind"] == "run_stop")["status"] == "success"
    figures = {event["name"]: event["value"] for event in events if event["kind"] == "figure"}
    assert figures.items() >= {"e2e_time": 62.0, "p_whole": 10.0, "p_train": 12.0, "p_core": 13.0}.items()
    assert lost == [(6, "lines of other ranks")]


def test_resnets_log_has_its_last_accuracy_only():
    finished = {"train_time": 100.0, "throughput(ips)_raw": 50.0, "converged": False, "final_acc1": 75.35}
    events = list(parse([line("TRAIN_START", t=1000), line("TRAIN_END", t=101_000), line("FINISHED", finished)]))
    assert events[1] == {"t": 101.0, "kind": "eval_stop", "accuracy": 0.7535, "samples": 5000}
    assert events[2] == {"t": 101.0, "kind": "run_stop", "status": "aborted", "reason": "epochs"}


def test_a_log_that_was_cut_off():
    assert list(parse([line("TRAIN_START", t=1000), line("TRAIN_END", t=2000)]))[-1] == {"t": 2.0, "kind": "run_stop"}


def test_lines_without_an_event_are_reported():
    lost = []
    list(parse([line("EVALUATE"), line("CONVERT_MODEL", {"a": 1})], lost=lambda *what: lost.append(what)))
    assert lost == [(1, "EVALUATE lines without a value"), (2, "CONVERT_MODEL lines without a recognised value")]


def test_a_unit_that_nothing_states_is_required():
    lines = [line("EVALUATE", {"auc": 0.8})]
    with pytest.raises(UserError, match=r"line 1: auc must have a unit, --accuracy-unit percent or fraction, got 0.8"):
        list(parse(lines, accuracy="auc"))
    assert next(parse(lines, accuracy="auc", unit="fraction"))["accuracy"] == 0.8


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"event": "A", "metadata": {"time_ms": "x"}}',
        '{"event": 3, "metadata": {"time_ms": 1}}',
        '{"event": "A", "metadata": 3}',
        '{"event": "A", "metadata": {"time_ms": 1e99}}',
        "[" * 100_000,
    ],
)
def test_a_broken_line_is_named(text):
    with pytest.raises(UserError, match=r"line 2: must be JSON with event and metadata.time_ms, got"):
        list(parse(["output", "[PerfLog] " + text]))


@st.composite
def runs(draw):
    """Events that [PerfLog] carries, in order of time."""
    count = st.integers(0, 9)
    fields = {"step": count, "epoch": count, "samples": count, "duration_s": st.floats(0, 9)}
    where = st.fixed_dictionaries({}, optional=fields)
    middle = []
    for epoch in range(1, draw(st.integers(1, 4))):
        middle += [{"kind": "eval_stop", "accuracy": draw(st.floats(0, 1)), **draw(where)}] * draw(st.integers(0, 1))
        values = {"loss": draw(st.floats(0, 9)), "global_steps": epoch}
        middle += [{"kind": "reading", "position": [epoch], "values": values}, {"kind": "epoch_stop", "epoch": epoch}]
    ending = draw(st.sampled_from([("success", "target"), ("aborted", "epochs")]))
    kinds = [{"kind": kind} for kind in ("init_start", "init_stop", "run_start")]
    config = {"kind": "run_config", "benchmark": "bert", "seed": draw(st.integers(0, 9))}
    events = [config, *kinds, *middle, {"kind": "run_stop", "status": ending[0], "reason": ending[1]}]
    times = draw(st.lists(st.integers(10**12, 2 * 10**12), min_size=len(events), max_size=len(events)))
    return [{"t": t / 1000, **event} for t, event in zip(sorted(times), events, strict=True)]


@settings(deadline=None, max_examples=60)
@given(runs())
def test_parse_gives_back_the_events_that_the_log_carries(events):
    log = PerfLogLog()
    lines = [written for event in events for written in log.feed(event)] + log.close()
    read = [event for event in parse(lines) if event["kind"] not in ("figure", "run_config")]
    if read and not any(event["kind"] == "eval_stop" for event in events):
        read = [event for event in read if event["kind"] != "eval_stop"]
    assert read == [event for event in events if event["kind"] != "run_config"]
    config = next(event for event in parse(lines) if event["kind"] == "run_config")
    assert (config["benchmark"], config["seed"]) == ("bert", events[0]["seed"])


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.text(), inner, max_size=2)),
    max_leaves=4,
)
NAMES = st.sampled_from(["INIT_START", "TRAIN_START", "TRAIN_END", "EVALUATE", "FINISHED", "STEP_END", "SUBMIT_INFO"])
KEYS = [
    "eval_acc1",
    "final_acc1",
    "global_steps",
    "time",
    "train_time",
    "throughput(ips)_raw",
    "converged",
    "model",
    "config",
]


@settings(deadline=None, max_examples=150)
@given(
    st.lists(
        st.one_of(
            st.text(),
            st.text().map(lambda text: "[PerfLog] {" + text),
            st.builds(
                line,
                NAMES,
                st.one_of(JSON, st.dictionaries(st.sampled_from(KEYS), JSON)),
                st.one_of(st.integers(), st.floats()),
                JSON,
            ),
        )
    )
)
def test_any_lines_give_a_user_error_at_most(lines):
    with suppress(UserError):
        assert all(set(event) >= {"t", "kind"} for event in parse(lines))
