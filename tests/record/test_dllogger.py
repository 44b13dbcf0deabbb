"""DLLogger: both forms as NVIDIA's logger writes them, and back and forth through our own."""

import json
from contextlib import suppress
from datetime import timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airank_fast.errors import UserError
from airank_fast.record.foreign.complete import Outline
from airank_fast.record.formats.dllogger import DLLoggerLog, parse
from airank_fast.tasks import fraction as from_percent

# Made up, in the form of DeepLearningExamples' ConvNets.
TEXT = """\
=> creating model 'resnet50'
DLL 2021-03-23 09:24:42.127408 - PARAMETER data : /imagenet  arch : resnet50  batch_size : 256  \
optimizer_batch_size : 2048  lr : 2.048  resume : None  pretrained_weights :   amp : True  seed : 7  world_size : 2\x20
DLL 2021-03-23 09:25:16 - Epoch: 0 Iteration: 100  train.loss : 7.65124  train.total_ips : 848.12 img/s
DLL 2021-03-23 09:49:52.071453 - Epoch: 0 Iteration: 5005 Validation Iteration: 100  val.top1 : 80.00 % val.loss : 5.7
[1,0]<stdout>:DLL 2021-03-23 09:50:02.080403 - Epoch: 0  train.loss : 6.55774  val.top1 : 75.97 % val.loss : 5.81863
DLL 2021-03-23 09:50:02.081000 - Epoch: 0  lr : 0.5  train.compute_time : 0.3 s
DLL 2021-03-23 10:15:00.500000 - Summary: train.loss : 6.5  val.top1 : 75.97 %
DLL 2021-03-23 10:15:00.600000 - Summary: lr : 0.1
"""
START = 1616491482.127408  # of the first record, in UTC


def events_of(text, **options):
    return list(parse(text.splitlines(), **options))


def test_text_as_nvidia_writes_it():
    lost = []
    events = events_of(TEXT, lost=lambda *what: lost.append(what))
    kinds = ["run_config", "run_start", "reading", "reading", "reading", "epoch_stop", "eval_stop", "reading"]
    assert [event["kind"] for event in events] == [*kinds, "reading", "run_stop", "reading"]
    config, start, first, partial, *_ = events
    assert config["options"]["pretrained_weights"] == ""
    assert config["options"]["resume"] is None
    assert {name: config[name] for name in ("benchmark", "world_size", "seed", "precision")} == {
        "benchmark": "resnet50",
        "world_size": 2,
        "seed": 7,
        "precision": "fp16",
    }
    assert (config["global_batch_size"], config["gradient_accumulation_steps"]) == (2048, 4)
    assert start["t"] == pytest.approx(START, abs=1e-6)
    assert first["values"] == {"train.loss": 7.65124, "train.total_ips": 848.12}
    assert first["position"] == [0, 100]
    assert partial["position"] == [0, 5005, 100]  # a part of an evaluation: no eval_stop
    evaluations = [event for event in events if event["kind"] == "eval_stop"]
    assert [(e["epoch"], e["accuracy"], round(e["t"] - START, 3)) for e in evaluations] == [(1, 0.7597, 1519.953)]
    assert not lost


def test_the_zone_of_text_is_an_option():
    east = events_of(TEXT, zone=timezone(timedelta(hours=8)))
    assert east[0]["t"] == pytest.approx(START - 8 * 3600, abs=1e-6)


def record(step, data, t=100.5, **fields):
    return "DLLL " + json.dumps(
        {
            "timestamp": str(t),
            "datetime": "2019-10-10 14:15:16.14+00:00",
            "elapsedtime": "0.5",
            "type": "LOG",
            "step": step,
            "data": data,
        }
        | fields
    )


def test_json_as_nvidia_writes_it():
    unit = record(None, {}, type="METADATA", metric="val.top1", metadata={"unit": "%", "format": ":.2f"})
    lines = [
        record("PARAMETER", {"arch": "resnet50", "seed": None}),
        unit,
        record([0, 5], {"train.loss": 8.5}, 101),
        record([0, 25, 5], {"val.top1": 1.5}, 102),
        record([0], {"val.top1": 0.5, "val.loss": 9}, 103),
        record([], {"val.top1": 0.5}, 104),
    ]
    events = list(parse(lines))
    assert [(e["t"], e["kind"]) for e in events if e["kind"] not in ("reading", "run_config")] == [
        (100.5, "run_start"),
        (103.0, "epoch_stop"),
        (103.0, "eval_stop"),
        (104.0, "run_stop"),
    ]
    assert next(e for e in events if e["kind"] == "eval_stop")["accuracy"] == 0.005


@pytest.mark.parametrize(("unit", "accuracy"), [("percent", 0.005), ("fraction", 0.5)])
def test_a_unit_that_nothing_states_is_required(unit, accuracy):
    lines = [record([0], {"val.top1": 0.5})]
    with pytest.raises(UserError, match=r"accuracy: must be stated to be in percent or a fraction .*, got 0.5 without"):
        Outline(parse(lines))
    assert list(parse(lines, unit=unit))[-1]["accuracy"] == accuracy


def test_another_metric_can_be_the_accuracy():
    assert list(parse([record([2], {"val.acc": 0.25})], accuracy="val.acc", unit="fraction"))[-1]["epoch"] == 3


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("DLLL {", "DLLogger records that cannot be read"),
        ("DLLL []", "DLLogger records that cannot be read"),
        ("DLL 2021-13-23 09:24:42 - Epoch: 0  a : 1", "DLLogger records that cannot be read"),
        ('DLLL {"timestamp": "nan", "step": [], "data": {}}', "DLLogger records that cannot be read"),
        ("DLL 2021-03-23 09:24:42 - Something  a : 1", "DLLogger records of a step that cannot be read"),
        (record({"a": 1}, {}), "DLLogger records of a step that cannot be read"),
    ],
)
def test_records_that_cannot_be_read_are_reported(line, what):
    lost = []
    list(parse(["output", line], lost=lambda *loss: lost.append(loss)))
    assert lost == [(2, what)]


def test_a_long_line_takes_no_longer_than_its_length():
    lines = ["DLL 2021-03-23 09:24:42 - " + "1" * 1_000_000 + " x", "DLL 2021-03-23 09:24:42 - What" + " x :" * 250_000]
    assert [event["kind"] for event in parse(lines)] == ["run_start"]


@pytest.mark.parametrize(("percent", "fraction"), [(75.97, 0.7597), (4.79, 0.0479), (0.1, 0.001), (100, 1.0)])
def test_per_cent_become_fractions_in_decimal(percent, fraction):
    assert from_percent(percent) == fraction


CARRIED = {
    "run_start": (),
    "reading": ("position", "values"),
    "epoch_stop": ("epoch",),
    "eval_stop": ("epoch", "accuracy"),
    "run_stop": ("status",),
}
TIMES = st.integers(0, 4_000_000_000_000_000).map(lambda micros: micros / 1e6)
NUMBERS = st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers())
NAMES = st.text().filter(lambda name: name not in ("val.top1", "status"))  # what other events become
VALUES = st.dictionaries(NAMES, NUMBERS, max_size=3)


@st.composite
def runs(draw):
    """Events that DLLogger carries, in order of time."""
    config = {
        "kind": "run_config",
        "benchmark": draw(st.sampled_from(["resnet50", "bert"])),
        "world_size": draw(st.integers(1, 64)),
        "seed": draw(st.integers(0, 99)),
    }
    middle = []
    for epoch in range(1, draw(st.integers(1, 5))):
        middle += [
            {"kind": "reading", "position": [epoch - 1, step], "values": draw(VALUES) | {"loss": 1.5}}
            for step in range(draw(st.integers(0, 2)))
        ]
        middle += [{"kind": "epoch_stop", "epoch": epoch}]
        middle += [
            {"kind": "eval_stop", "epoch": epoch, "accuracy": draw(st.floats(0, 1))}
            for _ in range(draw(st.integers(0, 2)))
        ]
    end = [{"kind": "run_stop", "status": draw(st.sampled_from(["success", "aborted"]))}]
    events = [config, {"kind": "run_start"}, *middle, *(end if draw(st.booleans()) else [])]
    times = sorted(draw(st.lists(TIMES, min_size=len(events), max_size=len(events))))
    return [{"t": t, **event} for t, event in zip(times, events, strict=True)]


@settings(deadline=None, max_examples=60)
@given(runs())
def test_parse_gives_back_the_events_that_the_log_carries(events):
    log = DLLoggerLog()
    lines = [line for event in events for line in log.feed(event)] + log.close()
    read = [event for event in parse(lines) if event["kind"] != "run_config"]
    evaluations = [("eval_stop", event["accuracy"]) for event in events if event["kind"] == "eval_stop"]
    readings = [event for event in read if event["kind"] == "reading" and ("val.top1" in event["values"])]
    assert [("eval_stop", event["values"]["val.top1"]) for event in readings] == evaluations
    read = [event for event in read if event not in readings and event.get("values") != {"status": "success"}]
    read = [event for event in read if event.get("values") != {"status": "aborted"}]
    assert read == [event for event in events if event["kind"] != "run_config"]
    config = next(event for event in parse(lines) if event["kind"] == "run_config")
    assert config.items() >= {name: events[0][name] for name in ("benchmark", "world_size", "seed")}.items()


@settings(deadline=None, max_examples=150)
@given(
    st.lists(
        st.one_of(
            st.text(),
            st.text().map(lambda text: "DLL 2021-03-23 09:24:42.1 - " + text),
            st.text().map(lambda text: "DLLL {" + text),
            st.text().map(lambda text: "DLL 2021-03-23 09:24:42 - Epoch: 1  " + text),
            st.builds(
                record,
                st.one_of(st.none(), st.lists(st.integers()), st.text(), st.just("PARAMETER")),
                st.dictionaries(
                    st.sampled_from(["val.top1", "arch", "seed", "amp", "batch_size", "world_size"]),
                    st.one_of(st.none(), st.integers(), st.floats(), st.text(), st.just([])),
                ),
            ),
        )
    )
)
def test_any_lines_give_a_user_error_at_most(lines):
    with suppress(UserError):
        assert all(set(event) >= {"t", "kind"} for event in parse(lines, unit="percent"))
