"""Whatever bytes a file holds: no reader raises anything but UserError; and what we write is read back as it was.

`bench/fuzz.py` gives the same targets a million inputs, guided by coverage.
"""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airank_fast.record import events as events_module
from airank_fast.record.events import name_floats, to_line
from airank_fast.record.formats import airank, events, flagperf, mlperf
from airank_fast.rules import verifying
from bench.fuzz_targets import SEEDS, TARGETS, run


@st.composite
def damaged(draw):
    """Real lines, cut, joined, repeated and overwritten."""
    content = draw(st.sampled_from(SEEDS))
    for _ in range(draw(st.integers(1, 4))):
        start, stop = sorted(draw(st.tuples(*[st.integers(0, len(content))] * 2)))
        if draw(st.booleans()):  # within a line, where it hurts
            stop = min(stop, start + draw(st.integers(0, 12)))
        piece = draw(
            st.one_of(
                st.binary(max_size=20),
                st.sampled_from(SEEDS),
                st.sampled_from(
                    [
                        b"",
                        b"nan",
                        b"1e999",
                        b"-1",
                        b"9" * 400,
                        b"\r",
                        b"\r\n",
                        b"\0",
                        b"\xef\xbb\xbf",
                        b"null",
                        b"[]",
                        b"{}",
                        b'"',
                        b"|",
                        "：".encode(),
                    ]
                ),
            )
        )
        content = content[:start] + piece + content[stop:]
    return content


def test_every_parser_and_every_book_is_a_target():
    assert {"airank.read", "airank.parse", "mlperf.parse", "events.read", "flagperf.read_table"} <= TARGETS.keys()
    assert {f"book.{name}" for name in verifying.BOOKS} <= TARGETS.keys()


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_read(name):
    assert any(run(name, content) for content in SEEDS)


@pytest.mark.parametrize("name", TARGETS)
@given(content=st.one_of(damaged(), damaged(), st.binary(max_size=300), st.text(max_size=300).map(str.encode)))
def test_nothing_but_a_users_error_whatever_the_bytes(name, content):
    run(name, content)


# what is written is read back

names = st.text(st.characters(codec="utf-8"), max_size=12).filter(lambda text: text not in ("nan", "inf", "-inf"))
numbers = st.floats() | st.integers(-(10**18), 10**18)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)
times = st.lists(st.floats(0, 1e6), min_size=2, max_size=12).map(
    lambda steps: [1.6e9 + sum(steps[: i + 1]) for i in range(len(steps))]
)
accuracies = st.floats(0, 1) | st.sampled_from([0.0, 1.0, 5e-324, 0.759, 1e-7])


@given(st.lists(st.tuples(st.floats(-1e11, 1e11), names, st.dictionaries(names, json_values, max_size=4)), max_size=4))
def test_events(rows):
    written = [fields | {"t": t, "kind": kind} for t, kind, fields in rows]
    read = list(events.parse(to_line(event) for event in written))
    assert [name_floats(event) for event in read] == [name_floats(event) for event in written]
    assert [events_module.from_line(to_line(event).encode())["kind"] for event in written] == [e["kind"] for e in read]


def made_up_run(times, accuracies, checksum=None):
    """The events that an AI-Rank log carries, and what else its writer needs."""
    run = [{"t": times[0], "kind": "run_start"}]
    run += [{"t": times[0], "kind": "data", "checksum": checksum}] if checksum else []
    run += [
        {"t": t, "kind": "eval_stop", "epoch": epoch, "step": epoch, "accuracy": accuracy}
        for epoch, (t, accuracy) in enumerate(zip(times[1:], accuracies, strict=False), 1)
    ]
    return [*run, {"t": times[-1], "kind": "run_stop", "status": "success"}]


@given(
    times,
    st.lists(accuracies | st.just(float("inf")), max_size=10),
    st.none() | st.from_regex(r"[0-9a-f]{8}", fullmatch=True),
)
def test_airank(times, accuracies, checksum):
    run = made_up_run(times, accuracies, checksum)
    log = airank.AIRankLog("2021-05" if checksum else "2020-12")
    config = {"t": times[0], "kind": "run_config", "target": 0.5}
    lines = [line for event in [config, *run] for line in log.feed(event)] + log.close()
    carried = {"eval_stop": ("epoch", "accuracy"), "data": ("checksum",), "run_start": (), "run_stop": ()}
    expected = [
        {"t": round(event["t"], 3), "kind": event["kind"], **{name: event[name] for name in carried[event["kind"]]}}
        for event in run
    ]
    read = [event for event in airank.parse(lines) if event["kind"] != "figure"]

    def order(event):
        return event["t"], event["kind"], event.get("epoch", 0)

    assert sorted(read, key=order) == sorted(expected, key=order)
    assert [entry.troubles for entry in airank.read(lines)] == [()] * len(lines)


@given(
    times, st.lists(accuracies, max_size=10), st.dictionaries(st.sampled_from(["opt_name", "lars_epsilon"]), numbers)
)
def test_mlperf(times, accuracies, reported):
    reported = {name: value for name, value in reported.items() if value == value and abs(value) < 1e15}
    config = {
        "t": times[0],
        "kind": "run_config",
        "benchmark": "resnet50",
        "reported": reported,
        "submission": {"org": "x"},
    }
    run = [event for event in made_up_run(times, accuracies) if event["kind"] != "data"]
    starts = [{**event, "kind": "eval_start"} for event in run if event["kind"] == "eval_stop"]
    events_in_order = sorted([config, *starts, *run], key=lambda event: event["t"])
    log = mlperf.MLPerfLog()
    lines = [line for event in events_in_order for line in log.feed(event)] + log.close()
    read = list(mlperf.parse(lines))
    for kind, names in (("run_start", ()), ("eval_stop", ("epoch", "accuracy")), ("run_stop", ("status",))):
        found = [(round(e["t"] * 1000), *(e[name] for name in names)) for e in read if e["kind"] == kind]
        expected = [(round(e["t"] * 1000), *(e[name] for name in names)) for e in run if e["kind"] == kind]
        assert found == expected
    configs = [event for event in read if event["kind"] == "run_config"]
    assert [event["benchmark"] for event in configs if "benchmark" in event] == ["resnet50"]
    assert {name: value for event in configs for name, value in event["reported"].items()} == reported


rates = st.none() | st.floats(0, 1e9)
fractions = st.none() | st.floats(0, 1)


@given(
    st.builds(
        dict,
        device=names,
        nnodes=st.integers(1, 99),
        nproc=st.integers(1, 99),
        precision=st.none() | st.sampled_from(["fp32", "amp", "tf32"]),
        fix_hp=st.sampled_from(["/", "bs=256,lr=0.8"]),
        e2e_time=rates,
        p_whole=rates,
        p_train=rates,
        p_core=rates,
        acc=fractions,
        mem_used=st.none() | st.floats(0, 100),
        mem_total=st.floats(1, 100),
    )
)
def test_flagperf(run):
    run["config"] = f"{run['nnodes']}x{run['nproc']}"
    row = flagperf.row(run)
    entries = list(flagperf.read_table([*flagperf.HEADER.splitlines(), row]))
    assert [entry.troubles for entry in entries] == [()]
    read = entries[0].event
    assert [read[name] for name in ("nnodes", "nproc", "config", "precision", "fix_hp")] == [
        *(run["nnodes"], run["nproc"], run["config"], run["precision"], run["fix_hp"])
    ]
    for name in ("e2e_time", "p_whole", "p_train", "p_core", "acc", "mem_used"):
        assert read[name] == (
            None if run[name] is None else pytest.approx(run[name], abs=0.5 if run[name] >= 1000 else 0.051)
        )
    assert flagperf.row(read) == row
    text = json.dumps(name_floats(run), indent=2)
    assert flagperf.parse_json(text.splitlines()) == run
