"""The AI-Rank log: the lines of the spec, figures that the events give, however the run ends."""

import re

import pytest

from airank_fast.errors import UserError
from airank_fast.record.events import effective
from airank_fast.record.formats.airank import AIRankLog, parse
from airank_fast.record.metrics import summarize

ENDINGS = ["target", "epochs", "exception", "sigterm", "rank_lost", "nan_loss", "disk_full", "cut_off"]
PUBLISHED = """\
- AI-Rank-log 1558631910.424 test_begin
- AI-Rank-log 1558631912.424 eval_accuracy:0.16753999888896942, total_epoch_cnt:2
some output of the trainer
AI-Rank-log 1558631916.424 eval_accuracy:0.7605400085449219, total_epoch_cnt:10
- AI-Rank-log 1558631918.454 target_quality_time:8.03sec
- AI-Rank-log 1558631922.454 test_finish
- AI-Rank-log 1558631918.454 total_use_time:12.03sec
- AI-Rank-log 1558631918.455 avg_ips:1190images/sec
"""


def write(events, profile="2020-12"):
    log = AIRankLog(profile)
    lines = [line for event in events for line in log.feed(event)]
    return lines + log.close()


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_line_however_the_run_ends(tell, ending):
    events = tell(ending, world_size=2).events
    lines = write(events)
    assert all(re.fullmatch(r"- AI-Rank-log \d+\.\d{3} \S.*", line) for line in lines)
    times = [float(line.split()[2]) for line in lines]
    assert times == sorted(times)
    texts = [line.split(" ", 3)[3] for line in lines]
    shapes = [re.sub(r"\d+\.\d+", "#", text) for text in texts]
    evaluations = [e for e in events if e["kind"] == "eval_stop"]
    expected = ["test_begin"]
    expected += [f"eval_accuracy:#, total_epoch_cnt:{e['epoch']}" for e in evaluations]
    if ending == "target":
        expected.insert(4, "target_quality_time:#sec")  # behind the third evaluation
        assert times[4] == times[3]
    expected += ["test_finish", "total_use_time:#sec", "avg_ips:#images/sec"]
    assert shapes == expected


@pytest.mark.parametrize("profile", ["2020-12", "2021-05"])
def test_any_run_has_a_beginning_an_end_and_figures_that_follow(random_run, profile):
    for seed in range(150):
        events = random_run(seed)
        read_back = list(parse(write(effective(events), profile)))
        if not any(event["kind"] == "run_start" for event in events):
            assert read_back == []
            continue
        assert read_back[0]["kind"] == "run_start"
        assert [event.get("name", event["kind"]) for event in read_back[-3:]] == [
            "run_stop",
            "total_use_time",
            "avg_ips",
        ]
        assert [event["t"] for event in read_back] == sorted(event["t"] for event in read_back), seed
        figures, summary = {e["name"]: e["value"] for e in read_back if e["kind"] == "figure"}, summarize(events)
        assert figures["total_use_time"] == pytest.approx(summary["total_time"], abs=1e-3), seed
        assert figures["avg_ips"] == pytest.approx(summary["avg_ips"] or 0.0, abs=1e-3), seed
        assert ("target_quality_time" in figures) == (summary["time2train"] is not None), seed


@pytest.mark.parametrize("warmup", [0, 1])
@pytest.mark.parametrize("ending", ENDINGS)
def test_every_figure_comes_from_the_events(tell, ending, warmup):
    events = tell(ending, warmup_epochs_excluded=warmup).events
    summary = summarize(events)
    read_back = list(parse(write(events)))
    figures = {event["name"]: event["value"] for event in read_back if event["kind"] == "figure"}
    times = {event["kind"]: event["t"] for event in read_back}
    assert figures["total_use_time"] == pytest.approx(summary["total_time"], abs=1e-3)
    assert figures["total_use_time"] == pytest.approx(times["run_stop"] - times["run_start"], abs=1e-6)
    assert figures["avg_ips"] == pytest.approx(summary["avg_ips"], abs=1e-3)
    start, stop = (next(e["t"] for e in events if e["kind"] == kind) for kind in ("run_start", "epoch_stop"))
    first = next(e for e in events if e["kind"] == "epoch_stop")
    since, before = (stop, first["samples"]) if warmup else (start, 0)
    rate = (summary["trained_samples"] - before) / (start + summary["total_time"] - since)
    assert figures["avg_ips"] == pytest.approx(rate, abs=2e-3)
    if ending == "target":
        assert figures["target_quality_time"] == pytest.approx(summary["time2train"], abs=1e-3)
        reached = next(e["t"] for e in read_back if e["kind"] == "eval_stop" and e["accuracy"] >= 0.759)
        assert figures["target_quality_time"] == pytest.approx(reached - times["run_start"], abs=1e-6)
    else:
        assert "target_quality_time" not in figures


def test_parse_gives_back_the_events_that_the_log_carries(tell):
    events = tell("target").events
    read_back = [event for event in parse(write(events)) if event["kind"] != "figure"]
    kept = {"run_start": (), "eval_stop": ("accuracy", "epoch"), "run_stop": ()}
    expected = [
        {"t": round(e["t"], 3), "kind": e["kind"], **{name: e[name] for name in kept[e["kind"]]}}
        for e in events
        if e["kind"] in kept
    ]
    assert read_back == expected


def test_the_published_sample_is_read():
    events = list(parse(PUBLISHED.splitlines()))
    assert [event["kind"] for event in events] == [
        *("run_start", "eval_stop", "eval_stop", "figure", "run_stop", "figure", "figure")
    ]
    stated = {"name": "target_quality_time", "value": 8.03, "unit": "sec"}
    assert events[3] == {"t": 1558631918.454, "kind": "figure", **stated}
    summary = summarize([{"t": 0, "kind": "run_config", "target": 0.759}, *events])
    assert summary["time2train"] == pytest.approx(6.0)  # what its own definition gives
    assert summary["total_time"] == pytest.approx(12.03)


def test_the_profile_of_2021_names_the_data_before_test_begin(tell):
    events = tell("target").events
    next(event for event in events if event["kind"] == "data")["checksum"] = "c0ffee"
    lines = write(events, "2021-05")
    assert lines[0].endswith("load_data, checksum:c0ffee")
    assert lines[1:] == write(events)
    assert lines[0].split()[2] == lines[1].split()[2]
    assert next(iter(parse(lines)))["checksum"] == "c0ffee"
    with pytest.raises(UserError, match="one of 2020-12, 2021-05, got 2022"):
        AIRankLog("2022")


@pytest.mark.parametrize("profile", ["2020-12", "2021-05"])
@pytest.mark.parametrize("num_events", [8, 9, 10, 11])
def test_a_run_that_ends_at_once_still_has_its_lines(tell, profile, num_events):
    lines = write(tell("target").events[:num_events], profile)
    words = [line.split(" ", 3)[3] for line in lines]
    assert words[:2] == ["test_begin", "test_finish"]
    assert words[3].startswith("avg_ips:")


def test_a_resumed_run_has_one_beginning_one_end_and_no_lost_evaluation(story):
    run = story().begin().block(1).evaluate(1, 0.3)
    at = run.step
    run.block(2).evaluate(2, 0.8).stop("aborted", "sigterm")
    run.resume(at).block(2).evaluate(2, 0.77).stop()
    lines = write(effective(run.events))
    assert sum("test_begin" in line for line in lines) == 1
    assert [line.split()[3] for line in lines if "eval_accuracy" in line] == [
        *("eval_accuracy:0.3,", "eval_accuracy:0.77,")
    ]
    assert [index for index, line in enumerate(lines) if "test_finish" in line] == [len(lines) - 3]
    assert float(lines[-1].split("avg_ips:")[1].removesuffix("images/sec")) == pytest.approx(
        summarize(run.events)["avg_ips"], abs=1e-3
    )


def test_an_evaluation_done_twice_is_written_once(story):
    run = story().begin().block(1)
    at = run.step
    run.evaluate(1, 0.8).resume(at).evaluate(1, 0.8).stop()
    assert sum("eval_accuracy" in line for line in write(effective(run.events))) == 1
    assert sum("target_quality_time" in line for line in write(effective(run.events))) == 1


@pytest.mark.parametrize(
    "text", ["test_start", "eval_accuracy:0.5", "eval_accuracy:high, total_epoch_cnt:2", "avg_ips:--3images/sec"]
)
def test_a_line_that_gives_no_event_is_named(text):
    with pytest.raises(UserError, match="line 2: "):
        list(parse(["- AI-Rank-log 1558631910.424 test_begin", f"- AI-Rank-log 1558631911.424 {text}"]))


def test_samples_that_are_not_images(tell):
    assert write(tell("target", unit="sequences").events)[-1].endswith("samples/sec")
    assert write(tell("target", unit="videos").events)[-1].endswith("videos/sec")
