"""The rule book of our event log: written runs have no errors, and every rule is broken once."""

import json
import math
import re

import pytest
from record.conftest import Story, random_run, tell
from rules.samples import errors, findings, short

from airank_fast.record import events as events_module
from airank_fast.record.events import to_line
from airank_fast.rules.event_fields import FIELDS

ENDINGS = ["target", "epochs", "exception", "sigterm", "rank_lost", "nan_loss", "disk_full"]


def text_of(events) -> str:
    return "".join(to_line(event) + "\n" for event in events)


def test_the_fields_are_the_documented_ones():
    text = events_module.__doc__.split("    process_start", 1)[1].split("\n\n`t` is")[0]
    documented = set(re.findall(r"^    ([a-z_]+)(?:, ([a-z_]+))?(?:, ([a-z_]+))?", "    process_start" + text, re.M))
    assert {name for names in documented for name in names if name} >= FIELDS.keys()
    words = set(re.findall(r"[a-z_0-9]+", text))
    assert {name for fields in FIELDS.values() for name in fields} - words == set()


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("world_size", [1, 4])
def test_a_run_with_any_end_has_no_errors(tmp_path, ending, world_size):
    content = text_of(tell(ending, world_size=world_size).events)
    assert errors(findings(tmp_path / "events.jsonl", content)) == []


def test_a_random_run_has_no_errors_except_a_missing_end(tmp_path):
    for seed in range(120):
        content = text_of(random_run(seed))
        found = findings(tmp_path / "events.jsonl", content)
        # Complete runs state success, with or without the target reached.
        assert {rule for rule, _ in errors(found)} <= {"events.missing", "events.status"}, (seed, found)


def test_a_resumed_run_is_not_comparable(tmp_path):
    run = Story().begin().block(1).evaluate(1, 0.3)
    at = run.step
    run.block(2).evaluate(2, 0.8).stop("aborted", "sigterm")
    content = text_of(run.resume(at).block(2).evaluate(2, 0.77).stop().events)
    found = findings(tmp_path / "events.jsonl", content)
    assert [finding.rule for finding in found] == ["events.resumed"]
    ahead = content.replace(f'"kind":"resume","step":{at}', '"kind":"resume","step":999')
    assert "events.steps" in [rule for rule, _ in errors(findings(tmp_path / "events.jsonl", ahead))]


def change(kind, nth=0, **fields):
    """The events with fields of the nth event of a kind changed; None takes a field away."""

    def apply(events):
        event = [event for event in events if event["kind"] == kind][nth]
        event.update(fields)
        for name in [name for name, value in fields.items() if value is None]:
            del event[name]
        return events

    return apply


def drop(kind, nth=0):
    def apply(events):
        events.remove([event for event in events if event["kind"] == kind][nth])
        return events

    return apply


def twice(kind):
    def apply(events):
        index = next(i for i, event in enumerate(events) if event["kind"] == kind)
        return events[: index + 1] + events[index:]

    return apply


def first(kind):
    return lambda events: sorted(events, key=lambda event: event["kind"] != kind)


MUTATIONS = [
    ("field", change("steps", first_step=None)),
    ("field", change("steps", num_steps=0)),
    ("field", change("steps", core_s=[-1.0] * 7)),
    ("field", change("steps", core_s="fast")),
    ("field", change("eval_stop", accuracy="high")),
    ("field", change("eval_stop", correct=1.5)),
    ("field", change("eval_stop", correct=None)),
    ("field", change("eval_stop", counted=None)),
    ("field", change("eval_stop", quality={"top1": "high"})),
    ("field", change("steps", losses={"generator": 1.0})),
    ("field", change("run_config", world_size=0)),
    ("field", change("run_config", reported=[])),
    ("field", change("memory", used_bytes=10**400)),
    ("field", change("block_start", epoch_count=None)),
    ("time_order", change("eval_stop", t=1.0)),
    ("missing", drop("process_start")),
    ("missing", drop("run_config")),
    ("missing", drop("run_start")),
    ("missing", drop("run_stop")),
    ("order", first("run_config")),
    ("order", twice("run_start")),
    ("order", twice("run_stop")),
    ("order", lambda events: [*events, next(event for event in events if event["kind"] == "eval_start")]),
    ("steps", drop("steps")),
    ("steps", change("steps", 1, first_step=9)),
    ("steps", change("steps", samples=449)),
    ("steps", change("steps", loss=[1.0])),
    ("steps", change("steps", losses={"generator": [0.5] * 6, "discriminator": [0.5] * 7})),
    ("steps", change("steps", losses={"generator": [0.5] * 7, "discriminator": [99.0] * 7})),
    ("steps", change("eval_start", samples=3)),
    ("steps", change("block_start", step=3)),
    ("epochs", drop("epoch_stop")),
    ("epochs", change("epoch_stop", epoch=3)),
    ("epochs", change("epoch_stop", step=17, samples=17 * 64)),
    ("block", drop("block_stop")),
    ("block", drop("block_start")),
    ("clocks", change("block_stop", core_s=[1.0, 2.0])),
    ("clocks", change("block_stop", 1, core_s=[0.0])),
    ("evaluation", drop("eval_start")),
    ("evaluation", drop("eval_stop")),
    ("evaluation", change("eval_stop", accuracy=0.3101)),
    ("evaluation", change("eval_stop", accuracy=math.nan)),
    ("evaluation", change("eval_stop", quality={"top1": 0.99})),
    ("evaluation", change("eval_stop", accuracy=31.25, correct=None, counted=None)),
    ("evaluation", change("eval_stop", correct=10001)),
    ("evaluation", change("eval_stop", counted=0, correct=0)),
    ("evaluation", change("data", eval_samples=50000)),
    ("status", change("run_stop", status="done")),
    ("status", change("run_stop", reason="tired")),
    ("status", change("run_stop", status="aborted")),
    ("status", change("run_config", target=0.9)),
    ("memory", change("memory", used_bytes=41 << 30)),
]


def base():
    return json.loads(json.dumps(tell("target").events))


def test_the_unchanged_run_has_no_errors(tmp_path):
    assert findings(tmp_path / "events.jsonl", text_of(base())) == []


def without_counts(events):
    """Evaluations with all metrics and without correct / counted."""
    for event in [event for event in events if event["kind"] == "eval_stop"]:
        del event["correct"], event["counted"]
        event["quality"] = {"top1": event["accuracy"], "top5": 0.9}
    return events


def with_losses(events):
    """Steps with two updates, and a loss for each."""
    for event in [event for event in events if event["kind"] == "steps"]:
        event["losses"] = {"generator": [loss - 0.25 for loss in event["loss"]], "other": [0.25] * len(event["loss"])}
    return events


@pytest.mark.parametrize("change_all", [without_counts, with_losses])
def test_runs_of_other_kinds_of_tasks_are_sound(tmp_path, change_all):
    assert findings(tmp_path / "events.jsonl", text_of(change_all(base()))) == []


@pytest.mark.parametrize(("rule", "mutate"), MUTATIONS)
def test_a_broken_rule_is_found(tmp_path, rule, mutate):
    found = findings(tmp_path / "events.jsonl", text_of(mutate(base())))
    assert f"events.{rule}" in [name for name, _ in errors(found)]


@pytest.mark.parametrize(
    ("severity", "rule", "mutate"),
    [
        ("warning", "kind", lambda events: [*events[:3], {"t": events[3]["t"], "kind": "pause"}, *events[3:]]),
        ("warning", "loss", change("steps", loss=[1.0, math.nan] + [1.0] * 5)),
        ("warning", "rates", change("block_stop", -1, core_s=[1e6])),
        (
            "warning",
            "order",
            lambda events: sorted(events, key=lambda e: (e["kind"] != "process_start", e["kind"] != "data")),
        ),
        (
            "note",
            "warned",
            lambda events: [*events[:3], {"t": events[3]["t"], "kind": "warning", "message": "hot"}, *events[3:]],
        ),
    ],
)
def test_warnings_and_notes(tmp_path, severity, rule, mutate):
    found = findings(tmp_path / "events.jsonl", text_of(mutate(base())))
    assert (severity, f"events.{rule}") in [(finding.severity, finding.rule) for finding in found]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "[1]",
        '{"t": 1}',
        '{"t": NaN, "kind": "x"}',
        '{"t": 1e999, "kind": "x"}',
        '{"t": %s, "kind": "x"}' % ("9" * 400),
        "[" * 5000,
    ],
)
def test_a_line_that_is_no_event(tmp_path, line):
    lines = text_of(base()).splitlines(keepends=True)
    found = findings(tmp_path / "events.jsonl", "".join([*lines[:5], line + "\n", *lines[5:]]))
    assert errors(found) == ([("events.line", 6)] if line else [])


def test_a_last_line_that_was_cut_off(tmp_path):
    content = text_of(base())
    found = short(findings(tmp_path / "events.jsonl", content[:-5]))
    assert [(rule, severity) for severity, rule, _ in found] == [("file.cut_off", "note")]
