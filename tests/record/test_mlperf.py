"""The MLPerf log, judged by the official compliance checker (mlperf-logging, training, ruleset 4.0.0)."""

import json
import math
import re
import subprocess
import sys

import pytest

from airank_fast.errors import UserError
from airank_fast.record.events import effective
from airank_fast.record.formats.mlperf import MLPerfLog, parse, records

# The made-up run is tiny; `reported` is how a trial run puts the real sizes into its log.
SIZES = {"global_batch_size": 3264, "train_samples": 1281167, "eval_samples": 50000}
REQUIRED = [
    *("submission_benchmark", "submission_org", "submission_platform", "submission_division"),
    *("submission_status", "cache_clear", "init_start", "init_stop", "run_start", "run_stop", "block_start"),
    *("block_stop", "eval_accuracy", "train_samples", "eval_samples", "global_batch_size"),
    *("gradient_accumulation_steps", "opt_name"),
]


def write(events):
    log = MLPerfLog()
    lines = [line for event in events for line in log.feed(event)]
    return lines + log.close()


def fields(lines):
    return [json.loads(line.removeprefix(":::MLLOG ")) for line in lines]


def passes(lines, path):
    from mlperf_logging.compliance_checker import mlp_compliance

    path.write_text("".join(line + "\n" for line in lines))
    checker = mlp_compliance.make_checker("training", "4.0.0", quiet=False, werror=True)
    valid, *_ = mlp_compliance.main(str(path), "training_4.0.0/common.yaml", checker)
    return bool(valid)


@pytest.mark.parametrize("where", ["run_config", "data"])
def test_a_run_that_reached_the_target_passes_the_checker(tell, hyper_parameters, where, tmp_path):
    story = tell("target", reported=hyper_parameters | SIZES)
    if where == "data":  # as a run does whose schedule follows from the data set
        config, data = (next(e for e in story.events if e["kind"] == kind) for kind in ("run_config", "data"))
        data["reported"] = config.pop("reported")
    lines = write(story.events)
    assert passes(lines, tmp_path / "result_0.txt")
    values = {line["key"]: line["value"] for line in fields(lines)}
    assert values.items() >= (hyper_parameters | SIZES).items()
    assert values["seed"] == 7


@pytest.mark.parametrize("ending", ["epochs", "exception", "sigterm", "rank_lost", "cut_off"])
def test_a_run_that_did_not_reach_it_fails(tell, ending, tmp_path):
    lines = write(tell(ending).events)
    assert not passes(lines, tmp_path / "result_0.txt")
    stop = fields(lines)[-1]
    assert (stop["key"], stop["metadata"]["status"]) == ("run_stop", "aborted")


@pytest.mark.parametrize(("ending", "status"), [("target", 0), ("epochs", 1)])
def test_the_command_of_the_checker_agrees(tell, ending, status, tmp_path):
    path = tmp_path / "result_0.txt"
    path.write_text("\n".join(write(tell(ending).events)) + "\n")
    command = [sys.executable, "-m", "mlperf_logging.compliance_checker"]
    command += ["--usage", "training", "--ruleset", "4.0.0", "--log_output", str(tmp_path / "check.log"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == status, done.stderr


@pytest.mark.parametrize("key", REQUIRED)
def test_no_line_is_more_than_the_checker_needs(tell, key, tmp_path):
    """Each is there for a reason: without it the checker refuses the log."""
    lines = [line for line in write(tell("target").events) if f'"key": "{key}"' not in line]
    assert not passes(lines, tmp_path / "result_0.txt")


@pytest.mark.parametrize("ending", ["target", "epochs", "rank_lost"])
def test_the_shape_of_the_lines(tell, ending):
    events = tell(ending).events
    lines = fields(write(events))
    times = [line["time_ms"] for line in lines]
    assert times == sorted(times)
    assert all(type(line["time_ms"]) is int for line in lines)
    assert all(line["metadata"]["file"].endswith("mlperf.py") and line["metadata"]["lineno"] > 0 for line in lines)
    types = {"start": "INTERVAL_START", "stop": "INTERVAL_END"}
    assert all(line["event_type"] == types.get(line["key"].rpartition("_")[2], "POINT_IN_TIME") for line in lines)
    blocks = [line["metadata"] for line in lines if line["key"].startswith("block_")]
    assert [(b["first_epoch_num"], b["epoch_count"]) for b in blocks[:4]] == [(1, 1), (1, 1), (2, 2), (2, 2)]
    written = [(line["value"], line["metadata"]["epoch_num"]) for line in lines if line["key"] == "eval_accuracy"]
    assert written == [(e["accuracy"], e["epoch"]) for e in events if e["kind"] == "eval_stop"]
    stop = next(e for e in events if e["kind"] == "run_stop")
    assert lines[-1]["time_ms"] == round(stop["t"] * 1000)
    assert lines[-1]["metadata"]["status"] == stop["status"]


def test_parse_gives_back_the_events_that_the_log_carries(tell):
    events = tell("target").events
    read = list(parse(["trainer output", *write(events)]))
    kept = {
        **dict.fromkeys(("init_start", "init_stop", "run_start"), ()),
        "cache_clear": ("value",),
        "block_start": ("first_epoch", "epoch_count"),
        "eval_start": ("epoch",),
        "eval_stop": ("epoch", "accuracy"),
        "run_stop": ("status",),
    }
    expected = [
        {"t": round(e["t"] * 1000) / 1000, "kind": e["kind"], **{name: e[name] for name in kept[e["kind"]]}}
        for e in events
        if e["kind"] in kept
    ]
    assert [event for event in read if event["kind"] in kept] == expected
    assert {event["kind"] for event in read} - set(kept) == {"run_config", "block_stop"}
    config = {key: value for e in read if e["kind"] == "run_config" for key, value in e.items() if value}
    real = next(e for e in events if e["kind"] == "run_config")
    names = ["benchmark", "seed", "global_batch_size", "gradient_accumulation_steps", "reported"]
    assert {name: config[name] for name in names} == {name: real[name] for name in names}
    assert (config["train_samples"], config["eval_samples"]) == (1000, 10000)


@pytest.mark.parametrize(
    ("text", "trouble"),
    [
        ("{", "JSON is required, got '{'"),
        ("", "JSON is required, got ''"),
        ("[" * 100_000, "JSON is required, got"),
        ("[]", "an object is required, got"),
        ('{"key": "run_start"}', "time_ms in milliseconds is required, got"),
        ('{"key": "run_start", "time_ms": NaN, "value": 1}', "time_ms in milliseconds is required, got"),
        ('{"key": "run_start", "time_ms": "1", "value": 1}', "time_ms in milliseconds is required, got"),
        ('{"key": 3, "time_ms": 1, "value": 1}', "a string key and a value are required, got"),
        ('{"key": "seed", "time_ms": 1}', "a string key and a value are required, got"),
        ('{"key": "seed", "time_ms": 1, "value": 1, "metadata": 5}', "metadata must be an object, got"),
        ('{"key": "seed", "time_ms": 1, "value": 1} :::MLLOG {}', "a line for each record is required, got several"),
    ],
)
def test_a_broken_line_is_named(text, trouble):
    with pytest.raises(UserError, match=f"line 2: {re.escape(trouble)}"):
        list(parse(["", ":::MLLOG " + text]))


@pytest.mark.parametrize(
    ("key", "value", "metadata", "trouble"),
    [
        ("submission_benchmark", ["resnet"], {}, "submission_benchmark must be a string, got ['resnet']"),
        ("global_batch_size", "256", {}, "global_batch_size must be a number, got '256'"),
        ("train_samples", math.nan, {}, "train_samples must be a number, got nan"),
        ("eval_accuracy", "high", {"epoch_num": 1}, "eval_accuracy must be a number, got "),
        (
            "eval_accuracy",
            {"BBOX": None},
            {},
            "eval_accuracy must be a number, or numbers by BBOX or ",
        ),
        ("eval_accuracy", 0.5, {"epoch_num": [1]}, "eval_accuracy's epoch_num must be a number, got [1]"),
        ("run_stop", None, {"status": 3}, "run_stop's status must be a string, got 3"),
    ],
)
def test_a_value_that_no_event_can_hold_is_named(key, value, metadata, trouble):
    line = json.dumps({"key": key, "time_ms": 1_700_000_000_000, "value": value, "metadata": metadata})
    with pytest.raises(UserError, match=f"^line 1: {re.escape(trouble)}"):
        list(parse([":::MLLOG " + line]))


def test_records_are_read_amid_other_output():
    line = ':::MLLOG {"key": "seed", "time_ms": 1, "value": 1}'
    odd = ["x", f"rank 3: {line}", f"{line}  ", f"{line}\rstep 5"]
    odd += [line.replace("OG ", "OG   "), line.replace(" {", "{")]
    read = list(records(odd))
    assert [(number, trouble is None) for number, _, trouble in read] == [
        (2, True),
        (3, True),
        (4, True),
        (5, True),
        (6, False),
    ]
    assert all(fields == {"key": "seed", "time_ms": 1, "value": 1} for _, fields, trouble in read if not trouble)


def content(lines):
    """The lines without the place in the source that wrote them."""
    for line in (records := fields(lines)):
        del line["metadata"]["lineno"]
    return records


def test_a_log_survives_being_read_and_written(random_run):
    """parse(write(events)) holds all that a log carries: written again it is the same log."""
    for seed in range(150):
        lines = write(effective(random_run(seed)))
        assert content(write(parse(lines))) == content(lines), seed


def test_a_log_of_bert_counts_samples(tell):
    events = tell("target", benchmark="bert_mini").events
    lines = write(events)
    stops = [event for event in events if event["kind"] == "eval_stop"]
    read = [(e["samples"], e["accuracy"]) for e in parse(lines) if e["kind"] == "eval_stop"]
    assert read == [(stop["samples"], stop["accuracy"]) for stop in stops]
    assert content(write(parse(lines))) == content(lines)


def test_a_resumed_run_passes_as_one(story, tmp_path):
    run = story().begin().block(1).evaluate(1, 0.3)
    run.block(2, until=run.step + 10)
    at = run.step
    run.stop("aborted", "sigterm").resume(at).block(2).evaluate(2, 0.77)
    at = run.step
    run.resume(at).evaluate(2, 0.77).stop()
    lines = write(effective(run.events))
    assert passes(lines, tmp_path / "result_0.txt")
    keys = [line["key"] for line in fields(lines)]
    assert keys.count("run_start") == keys.count("run_stop") == keys.count("seed") == 1
    assert keys.count("block_start") == keys.count("block_stop") == 2
    assert keys.count("eval_start") == keys.count("eval_stop") == keys.count("eval_accuracy") == 2


def test_any_run_opens_what_it_closes(random_run):
    for seed in range(150):
        lines = fields(write(effective(random_run(seed))))
        assert [line["time_ms"] for line in lines] == sorted(line["time_ms"] for line in lines), seed
        opened = []
        for line in lines:
            name, _, edge = line["key"].rpartition("_")
            if edge == "start":
                assert name not in opened, seed
                opened.append(name)
            elif edge == "stop":
                assert name in opened, seed
                opened.remove(name)
        if any(line["key"] == "run_start" for line in lines):
            assert lines[-1]["key"] == "run_stop", seed
        keys = [line["key"] for line in lines if line["event_type"] == "POINT_IN_TIME"]
        assert len(set(keys) - {"eval_accuracy"}) == len([key for key in keys if key != "eval_accuracy"]), seed


def test_nothing_is_stopped_that_was_not_started(tell):
    events = tell("exception").events
    before = [event for event in events if event["kind"] in ("process_start", "run_config", "init_start")]
    stop = [event for event in events if event["kind"] == "run_stop"]
    assert fields(write(before + stop))[-1]["key"] == "init_start"
