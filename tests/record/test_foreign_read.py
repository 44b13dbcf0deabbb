"""Runs: whoever wrote a log, what follows from it is there, and what does not is not made up."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airank_fast.errors import UserError
from airank_fast.record.events import to_line
from airank_fast.record.foreign.read import find_log, read_run
from airank_fast.record.formats.airank import AIRankLog
from airank_fast.record.formats.dllogger import DLLoggerLog
from airank_fast.record.formats.mlperf import MLPerfLog
from airank_fast.record.formats.perflog import PerfLogLog

WRITERS = {"airank": AIRankLog, "mlperf": MLPerfLog, "dllogger": DLLoggerLog, "perflog": PerfLogLog}
GIVEN = {"target": 0.759, "samples_per_epoch": 1000, "global_batch_size": 64, "unit": "images"}


def write(events, name, path):
    writer = None if name == "events" else WRITERS[name]()
    lines = map(to_line, events) if writer is None else [x for e in events for x in writer.feed(e)] + writer.close()
    path.write_text("".join(line + "\n" for line in lines))
    return path


@pytest.mark.parametrize("ending", ["target", "epochs"])
@pytest.mark.parametrize("name", WRITERS)
def test_every_format_tells_the_same_story(tell, name, ending, tmp_path):
    events = tell(ending).events
    ours = read_run(write(events, "events", tmp_path / "events.jsonl")).summary
    run = read_run(write(events, name, tmp_path / "log"), GIVEN)
    assert run.format == name
    same = ["status", "target", "evaluations", "best_accuracy", "final_accuracy", "epochs", "unit"]
    assert {key: run.summary[key] for key in same} == {key: ours[key] for key in same}
    for key in ("total_time", "time2train"):
        assert run.summary[key] == (None if ours[key] is None else pytest.approx(ours[key], abs=0.0021))
    # An epoch is 1000 samples here, but the story trains whole batches.
    assert run.summary["trained_samples"] == pytest.approx(ours["trained_samples"], abs=64)
    assert run.summary["p_whole"] == pytest.approx(ours["p_whole"], rel=0.02)


@pytest.mark.parametrize("name", ["airank", "dllogger"])
def test_without_what_the_log_lacks_there_is_no_figure(tell, name, tmp_path):
    summary = read_run(write(tell("target").events, name, tmp_path / "log")).summary
    unknown = ["trained_samples", "p_whole", "p_train", "avg_ips", "e2e_time", "evaluation_s", "time2train", "target"]
    assert {key: summary[key] for key in unknown} == dict.fromkeys(unknown)
    assert summary["total_time"] > 0
    assert summary["best_accuracy"] == 0.7712


def test_the_begin_of_evaluations_and_of_the_process_can_be_given(tell, tmp_path):
    path = write(tell("target").events, "airank", tmp_path / "log")
    run = read_run(path, {**GIVEN, "benchmark": "resnet50", "eval_s": 0.1, "init_s": 5.0, "cache_clear": True})
    assert run.summary["evaluation_s"] == pytest.approx(0.4)
    assert run.summary["e2e_time"] == pytest.approx(run.summary["total_time"] + 5)
    times = [event["t"] for event in run.events]
    assert times == sorted(times)
    kinds = [event["kind"] for event in run.events]
    opening = ["process_start", "run_config", "cache_clear", "init_start", "init_stop", "run_start", "block_start"]
    assert kinds[:7] == opening
    between = ["block_stop", "epoch_stop", "eval_start", "eval_stop"]
    assert kinds[7:12] == [*between, "block_start"]
    assert kinds[-7:] == [*between, "run_stop", "figure", "figure"]
    blocks = [(e["first_epoch"], e["epoch_count"]) for e in run.events if e["kind"] == "block_start"]
    assert blocks == [(1, 1), (2, 2), (4, 1), (5, 1)]


def test_berts_epochs_are_samples_in_mlperf(tell, tmp_path):
    events = tell("target", benchmark="bert_large", unit="samples").events
    for event in events:
        if event["kind"] == "block_start":
            del event["first_epoch"], event["epoch_count"]
    run = read_run(write(events, "mlperf", tmp_path / "log"), {"target": 0.759})
    ours = [event["samples"] for event in events if event["kind"] == "eval_stop"]
    read = [(e["samples"], e["epoch"]) for e in run.events if e["kind"] == "eval_stop"]
    assert read == [(samples, samples // 1000) for samples in ours]
    assert run.summary["trained_samples"] == ours[-1]


def test_the_configuration_is_gathered_from_all_over_a_log(tell, hyper_parameters, tmp_path):
    run = read_run(write(tell("target", reported=hyper_parameters).events, "mlperf", tmp_path / "log"))
    config = run.first("run_config")
    assert config["submission"]["org"] == "Example"
    assert config["reported"] == hyper_parameters
    assert (config["global_batch_size"], config["train_samples"], config["seed"]) == (64, 1000, 7)
    assert [event["kind"] for event in run.events].count("run_config") == 1


def test_a_fact_in_the_log_goes_before_a_given_one(tell, tmp_path):
    path = write(tell("target").events, "events", tmp_path / "events.jsonl")
    assert read_run(path, {"target": 0.5, "made_up": 1}).summary["target"] == 0.759
    path = write(tell("target").events, "mlperf", tmp_path / "log")
    assert read_run(path, {"seed": 8, "target": 0.5}).first("run_config")["seed"] == 7


def test_the_seeds_sample(tmp_path):
    """AI-Rank's published sample: its last two lines carry earlier times than the line before."""
    path = tmp_path / "GPUx1.log"
    path.write_text(
        "- AI-Rank-log 1558631910.424 test_begin\n"
        "- AI-Rank-log 1558631916.424 eval_accuracy:0.7605400085449219, total_epoch_cnt:10\n"
        "- AI-Rank-log 1558631918.454 target_quality_time:8.03sec\n"
        "- AI-Rank-log 1558631922.424 eval_accuracy:0.955400085449219, total_epoch_cnt:18\n"
        "- AI-Rank-log 1558631922.454 test_finish\n"
        "- AI-Rank-log 1558631918.454 total_use_time:12.03sec\n"
        "- AI-Rank-log 1558631918.455 avg_ips:1190images/sec\n"
    )
    summary = read_run(path, {"target": 0.759}).summary
    assert (summary["status"], summary["reason"]) == ("success", "target")
    assert (round(summary["time2train"], 3), round(summary["total_time"], 3)) == (6.0, 12.03)


def test_the_directory_of_a_run_and_a_choice_of_format(tell, tmp_path):
    write(tell("target").events, "events", tmp_path / "events.jsonl")
    assert find_log(tmp_path) == (tmp_path / "events.jsonl", "events")
    both = tmp_path / "both.log"
    lines = [write(tell("target").events, name, tmp_path / name).read_text() for name in ("airank", "mlperf")]
    both.write_text("".join(lines))
    assert find_log(both) == (both, "mlperf")
    assert find_log(both, prefer="airank") == (both, "airank")
    with pytest.raises(UserError, match="a log of format dllogger, got"):
        find_log(both, prefer="dllogger")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a log of a known format, got none"),
        (b"hello\n", "a log of a known format, got none"),
        (b'{"p_whole": 1}\n', "a log of a known format, got flagperf"),
        (b":::MLLOG {\n", "line 1: JSON"),
        (b"text about AI-Rank-log lines\n", "got no line of format airank"),
        (b'{"t": 1, "kind": "a"}\n{\n{}\n', "line 2 must be an event"),
        (b'{"t": 1, "kind": "a"}', "a log of a run, got no event"),
        (b'{"t": 1, "kind": "nan"}\n', "a kind that is a word, got nan"),
        (b'{"t": 3e11, "kind": "a"}\n', "a: must be a time that is a date, got 300000000000.0"),
        (b'{"t": 1, "kind": "eval_stop"}\n', "eval_stop: must have accuracy, got none"),
        (
            b'{"t": 1, "kind": "process_start", "pid": 2}\n{"t": 1, "kind": "eval_stop", "accuracy": 1}\n',
            "eval_stop: must have epoch, got none",
        ),
        (
            b'{"t": 1, "kind": "steps", "first_step": 1, "num_steps": 1, "samples": "x", "core_s": []}\n',
            "steps: samples must be a number, got 'x'",
        ),
        (
            b'{"t": 1, "kind": "steps", "first_step": 1, "num_steps": 1, "samples": 1, "core_s": [null]}\n',
            "steps: core_s must be a list of numbers",
        ),
        (b'{"t": 1, "kind": "run_config", "world_size": 0}\n', "world_size: must be a whole number above 0, got 0"),
        (b'{"t": 1, "kind": "run_config", "target": "x"}\n', "target: must be a number, got 'x'"),
    ],
)
def test_a_file_without_a_run_is_refused_in_one_line(content, message, tmp_path):
    path = tmp_path / "log"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_run(path)
    assert message in str(error.value)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_no_run_at_all(tmp_path):
    with pytest.raises(UserError, match=r"a run directory with events\.jsonl or a log file, got none"):
        read_run(tmp_path)


FUZZED = settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read_or_refuse(path):
    message = str(path)
    try:
        read_run(path, GIVEN)
    except UserError as error:
        message = str(error)
    assert message.startswith(str(path))


@FUZZED
@given(st.binary(max_size=200), st.sampled_from([b"", b"DLLL {", b"[PerfLog] {", b'{"t": 1, "kind": "a"}\n{"t":']))
def test_any_bytes_are_read_or_refused(tmp_path, content, head):
    path = tmp_path / "log"
    path.write_bytes(head + content)
    read_or_refuse(path)


@FUZZED
@given(st.data())
@pytest.mark.parametrize("name", ["events", "dllogger", "perflog"])
def test_a_log_with_some_values_exchanged_is_read_or_refused(tell, tmp_path, name, data):
    """Values of JSON lines swapped for others, lines left out and doubled."""
    path = write(tell("target").events, name, tmp_path / "log")
    values = st.sampled_from([None, True, -1, 0, 1 << 70, 10**400, 1e308, "x", "nan", [], [None], [1e308, 1e308], {}])
    lines = path.read_text().splitlines()
    for _ in range(data.draw(st.integers(1, 4))):
        index = data.draw(st.integers(0, len(lines) - 1))
        head, brace, text = lines[index].partition("{")
        fields = json.loads(brace + text) if brace else {}
        inner = fields.get(data.draw(st.sampled_from(["value", "data", "metadata", "none"])))
        inner = inner if isinstance(inner, dict) and inner else fields
        if inner:
            inner[data.draw(st.sampled_from(sorted(inner)))] = data.draw(values)
            lines[index] = head + json.dumps(fields)
        lines.insert(data.draw(st.integers(0, len(lines))), lines[index])
    path.write_text("".join(line + "\n" for line in lines))
    read_or_refuse(path)
