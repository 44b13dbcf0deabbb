"""The figures: by hand on a small run, by definition on whole ones, and their order on any."""

import json
import random
import statistics

import pytest

from airank_fast.record import metrics
from airank_fast.record.events import to_line
from airank_fast.record.metrics import percentile, summarize

ENDINGS = ["target", "epochs", "exception", "sigterm", "rank_lost", "nan_loss", "disk_full", "cut_off"]


def by_hand():
    """A run of 10 s on two ranks: 640 samples, evaluations of 1 s and 2 s, 4 s of steps on the slower rank."""
    clocks = {"wait_s": [1.0, 2.0], "h2d_s": [0.1, 0.2], "measure_s": [0.01, 0.02]}
    config = {"target": 0.5, "world_size": 2, "unit": "images", "benchmark": "resnet50", "precision": "fp32"}
    steps = {"num_steps": 1, "samples": 320, "loss": [1.0], "lr": [0.1], "wait_s": [0.5], "h2d_s": [0.05]}
    evaluation = {"correct": 1, "counted": 2}
    return [
        {"t": 100.0, "kind": "process_start"},
        {"t": 101.0, "kind": "run_config", **config, "warmup_epochs_excluded": 1},
        {"t": 103.0, "kind": "run_start"},
        {"t": 103.0, "kind": "block_start", "first_epoch": 1, "epoch_count": 1, "step": 0, "samples": 0},
        {"t": 105.0, "kind": "steps", "first_step": 1, "core_s": [1.25], **steps},
        {"t": 105.0, "kind": "epoch_stop", "epoch": 1, "step": 1, "samples": 320},
        {"t": 105.0, "kind": "block_stop", "step": 1, "samples": 320, "core_s": [1.25, 1.5], **clocks},
        {"t": 105.0, "kind": "eval_start", "epoch": 1, "step": 1, "samples": 320},
        {"t": 106.0, "kind": "eval_stop", "epoch": 1, "step": 1, "samples": 320, "accuracy": 0.25, **evaluation},
        {"t": 106.0, "kind": "block_start", "first_epoch": 2, "epoch_count": 1, "step": 1, "samples": 320},
        {"t": 110.0, "kind": "steps", "first_step": 2, "core_s": [2.5], **steps},
        {"t": 110.0, "kind": "eval_start", "epoch": 2, "step": 2, "samples": 640},
        {"t": 112.0, "kind": "eval_stop", "epoch": 2, "step": 2, "samples": 640, "accuracy": 0.5, **evaluation},
        {"t": 112.5, "kind": "memory", "used_bytes": 2**30, "total_bytes": 2**32, "per_rank": [2**30, 2**31]},
        {"t": 113.0, "kind": "run_stop", "status": "success", "reason": "target", "detail": ""},
        {"t": 115.0, "kind": "process_stop"},
    ]


def test_figures_by_hand():
    expected = {
        "e2e_time": 15.0,
        "total_time": 10.0,
        "time2train": 9.0,  # the evaluation's own time, not the end of the run
        "trained_samples": 640,
        "epochs": 1,
        "steps": 2,
        "evaluations": 2,
        "evaluation_s": 3.0,
        "core_s": 4.0,  # 1.5 collected from the slower rank, 2.5 not collected
        "p_whole": 64.0,
        "p_train": 640 / 7,
        "p_core": 160.0,
        "avg_ips": 320 / 8,  # from the end of epoch 1
        "avg_ips_warmup_epochs": 1,
        "data_wait_s": 2.5,
        "h2d_s": 0.25,
        "measure_s": 0.02,
        "best_accuracy": 0.5,
        "final_accuracy": 0.5,
        "step_time_p50": 1.875,
        "mem_used_gib": 2.0,
        "mem_total_gib": 4.0,
        "status": "success",
        "reason": "target",
        "comparable": True,
        "notes": [
            "steps waited for data for 36% of the 7.0 s outside evaluations: more --workers on cores of their own, "
            "or a faster disk, would shorten that"
        ],
    }
    summary = summarize(by_hand())
    assert {key: summary[key] for key in expected} == {
        key: pytest.approx(value) if type(value) is float else value for key, value in expected.items()
    }


@pytest.mark.parametrize(("wait_s", "is_starved"), [(0.89, False), (0.91, True)])
def test_steps_that_wait_for_data_for_more_than_a_fifth_of_the_time_are_noted(wait_s, is_starved):
    """Of 7 s outside evaluations, on the rank that waits longest: 0.5 s are in steps after the last block."""
    events = by_hand()
    events[6]["wait_s"] = [0.1, wait_s]
    notes = summarize(events)["notes"]
    assert [note.startswith("steps waited for data for 20% of the 7.0 s") for note in notes] == [True] * is_starved


def test_warmup_epochs_that_never_end_are_not_left_out():
    events = by_hand()
    events[1]["warmup_epochs_excluded"] = 5
    summary = summarize(events)
    assert (summary["avg_ips"], summary["avg_ips_warmup_epochs"]) == (64.0, 0)


def test_without_a_target_there_is_no_time2train():
    events = by_hand()
    events[1]["target"] = None
    assert summarize(events)["time2train"] is None


def recompute(events):
    """The definitions once more, straight from the events of a run that was not resumed."""
    times = {event["kind"]: event["t"] for event in events}
    end = times.get("run_stop", events[-1]["t"])
    target = next(event["target"] for event in events if event["kind"] == "run_config")
    evaluation_s = opened = 0
    reached = []
    for event in events:
        if event["kind"] == "eval_start":
            opened = event["t"]
        elif opened and event["kind"] in ("eval_stop", "run_stop"):
            evaluation_s += event["t"] - opened
            opened = 0
        if event["kind"] == "eval_stop" and event["accuracy"] >= target:
            reached.append(event["t"])
    last_block = max(i for i, event in enumerate(events) if event["kind"] == "block_stop")
    tail = [event for event in events[last_block:] if event["kind"] == "steps"]
    samples = events[last_block]["samples"] + sum(event["samples"] for event in tail)
    core_s = max(events[last_block]["core_s"]) + sum(sum(event["core_s"]) for event in tail)
    total_s = end - times["run_start"]
    return {
        "total_time": total_s,
        "e2e_time": events[-1]["t"] - events[0]["t"],
        "trained_samples": samples,
        "p_whole": samples / total_s,
        "p_train": samples / (total_s - evaluation_s),
        "p_core": samples / core_s,
        "time2train": reached[0] - times["run_start"] if reached else None,
        "avg_ips": samples / total_s,
    }


@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("ending", ENDINGS)
def test_figures_follow_their_definitions_however_a_run_ends(tell, ending, world_size):
    events = [json.loads(to_line(event)) for event in tell(ending, world_size=world_size).events]
    summary, expected = summarize(events), recompute(events)
    assert {key: summary[key] for key in expected} == pytest.approx(expected)
    assert (summary["time2train"] is not None) == (ending == "target")
    assert summary["reason"] == (None if ending == "cut_off" else ending)
    assert summary["status"] == {"target": "success", "cut_off": "unfinished"}.get(ending, "aborted")
    assert summary["notes"] == []


@pytest.mark.parametrize("hundred", range(3))
def test_p_core_p_train_and_p_whole_keep_their_order(random_run, hundred):
    for seed in range(100 * hundred, 100 * hundred + 100):
        events = random_run(seed)
        summary = summarize(events)
        figures = [summary[name] for name in ("p_core", "p_train", "p_whole") if summary[name] is not None]
        assert figures == sorted(figures, reverse=True), seed
        assert summary["notes"] == [] or summary["num_resumes"], (seed, summary["notes"])
        assert summary["trained_samples"] == 0 or len(figures) == 3, seed
        assert summary["avg_ips"] is None or summary["avg_ips"] >= 0, seed


def test_a_rank_that_runs_ahead_cannot_turn_the_order_round():
    events = by_hand()
    events[6]["core_s"] = [1.25, 6.0]
    summary = summarize(events)
    assert summary["p_core"] == summary["p_train"] > summary["p_whole"]
    assert "core_s is limited" in summary["notes"][0]


def test_many_evaluations_are_judged_once_each(monkeypatch):
    judged = []
    monkeypatch.setattr(metrics, "reaches", lambda config, stop: judged.append(stop) or False)
    tally = metrics.Tally()
    for number in range(1000):
        tally.feed({"t": float(number), "kind": "eval_stop", "epoch": number, "accuracy": 0.5})
        assert tally.reached() is None
    assert len(judged) == 1000


def test_a_resumed_run_counts_all_time_and_each_sample_once(story):
    run = story().begin().block(1).evaluate(1, 0.8)  # the target, reached before the checkpoint
    at = run.step
    run.block(2).evaluate(2, 0.9)
    lost = run.t
    run.resume(at).block(2).evaluate(2, 0.7).stop()
    summary = summarize(run.events)
    assert not summary["comparable"]
    assert summary["num_resumes"] == 1
    assert summary["trained_samples"] == run.samples == 32 * 64
    assert summary["epochs"] == 2
    assert summary["evaluations"] == 2
    assert summary["final_accuracy"] == 0.7
    assert summary["best_accuracy"] == 0.8
    assert summary["total_time"] > lost - run.events[0]["t"] - 20
    evaluated = [e["t"] for e in run.events if e["kind"].startswith("eval_")]
    assert summary["evaluation_s"] == pytest.approx(
        sum(stop - start for start, stop in zip(evaluated[::2], evaluated[1::2], strict=True))
    )
    clocks = [e["core_s"][0] for e in run.events if e["kind"] == "block_stop"]
    assert summary["core_s"] == pytest.approx(clocks[1] + clocks[2])  # the sums of each process


def test_a_target_reached_after_the_checkpoint_is_lost_with_it(story):
    run = story().begin().block(1)
    at = run.step
    run.block(2).evaluate(2, 0.8).resume(at)
    assert summarize(run.events)["time2train"] is None
    assert summarize(run.block(2).evaluate(2, 0.8).events)["time2train"] > 30  # the pause counts


@pytest.mark.parametrize("count", [1, 2, 97, 100])
def test_percentiles(count):
    values = sorted(random.Random(count).random() for _ in range(count))
    assert percentile(values, 50) == pytest.approx(statistics.median(values))
    if count > 1:
        cuts = statistics.quantiles(values, n=100, method="inclusive")
        assert [percentile(values, p) for p in (95, 99)] == pytest.approx([cuts[94], cuts[98]])


def test_no_figures_without_events():
    summary = summarize([])
    assert summary["total_time"] is summary["p_core"] is summary["time2train"] is summary["step_time_p50"] is None
    assert summary["status"] == "unfinished"
