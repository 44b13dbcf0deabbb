"""What a person sees of a run."""

import builtins
import io

import pytest

from airank_fast import tasks
from airank_fast.errors import UserError
from airank_fast.record.console import Console, final_table
from airank_fast.record.metrics import summarize
from airank_fast.record.tensorboard import TensorBoard


class Terminal(io.StringIO):
    def isatty(self):
        return True


def show(events, stream, **options):
    console = Console(stream, **options)
    for event in events:
        console(event)
    console.close()
    return stream.getvalue()


def test_plain_lines(tell):
    text = show(tell("target").events, io.StringIO(), total_steps=80, interval_s=0.0)
    lines = text.splitlines()
    assert lines[0].startswith("epoch 1  step 7/80  loss ")
    assert "images/s" in lines[1]
    assert "epoch 1: accuracy 31.00% (3100 of 10000), best 31.00%, target 75.90%" in lines
    assert lines[-1] == "success (target)"
    assert "\r" not in text


def test_plain_lines_are_few(tell):
    text = show(tell("sigterm").events, io.StringIO(), interval_s=3600.0)
    assert sum("loss" in line for line in text.splitlines()) == 1
    assert text.splitlines()[-1] == "aborted (sigterm)"


def test_the_rate_is_samples_over_time(tell):
    events = tell("target").events
    first = next(e for e in events if e["kind"] == "steps")
    begin = next(e for e in events if e["kind"] == "block_start")
    text = show(events, io.StringIO(), interval_s=0.0)
    assert f"{first['samples'] / (first['t'] - begin['t']):.0f} images/s" in text.splitlines()[0]


def test_a_bar_on_a_terminal(tell):
    events = tell("target").events
    next(event for event in events if event["kind"] == "data")["total_steps"] = 79
    text = show(events, Terminal())
    assert "79/79" in text
    assert "best 31.00%" in text
    assert "images/s" in text


def test_a_resumed_run_shows_what_it_knew(story):
    run = story().begin().block(1).evaluate(1, 0.31)
    num_before = len(run.events)
    run.resume(run.step).block(2)
    text = show(run.events[num_before:], io.StringIO(), interval_s=0.0, history=run.events[:num_before])
    assert text.splitlines()[0] == "resumed at step 16"
    assert "best 31.00%" in text.splitlines()[1]
    assert "images/s" in text.splitlines()[2]


@pytest.mark.parametrize(("units_in_steps", "rate"), [(True, "{:.0f} tokens/s"), (False, "{:.0f} samples/s")])
def test_the_rate_is_in_the_unit_of_the_task(story, units_in_steps, rate):
    events = story(unit="tokens", world_size=2).begin().block(1).events
    steps = [event for event in events if event["kind"] == "steps"]
    for event in steps:
        if units_in_steps:  # rank 0's, which has half of the samples of a step
            event["units"] = [30 * event["samples"] // event["num_steps"] // 2] * event["num_steps"]
    begin = next(event["t"] for event in events if event["kind"] == "block_start")
    counted = (30 if units_in_steps else 1) * steps[0]["samples"]
    expected = rate.format(counted / (steps[0]["t"] - begin))
    assert expected in show(events, io.StringIO(), interval_s=0.0).splitlines()[0]


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_a_stream_that_goes_away_does_not_end_a_run(tell, kind):
    class Broken(kind):
        def write(self, text):
            raise BrokenPipeError

    show(tell("target").events, Broken(), interval_s=0.0)
    closed = kind()
    closed.close()
    console = Console(closed, interval_s=0.0)
    for event in tell("target").events:
        console(event)


@pytest.mark.parametrize("ending", ["target", "epochs", "sigterm", "cut_off"])
def test_the_table_shows_the_figures_of_the_summary(tell, ending):
    summary = summarize(tell(ending).events)
    rows = {line.split("  ")[0]: line for line in final_table(summary).splitlines()}
    for name, key, form in [
        *(("e2e_time", "e2e_time", ".3f"), ("total time", "total_time", ".3f"), ("p_whole", "p_whole", ".1f")),
        *(("p_train", "p_train", ".1f"), ("p_core", "p_core", ".1f"), ("avg_ips", "avg_ips", ".1f")),
        *(("accuracy", "best_accuracy", ".2%"), ("data wait", "data_wait_s", ".3f")),
    ]:
        assert format(summary[key], form) in rows[name], name
    for name in ("p50", "p95", "p99"):
        assert f"{summary[f'step_time_{name}'] * 1000:.2f} ms" in rows[f"step time {name}"]
    time = summary["time2train"]
    assert rows["time2train"].split()[1] == ("-" if time is None else f"{time:.3f}")
    assert rows["memory"].split()[1] == ("-" if ending == "cut_off" else "3.00")
    assert rows["status"].split()[1:] == [summary["status"], *filter(None, [summary["reason"]])]


def test_the_table_of_a_run_that_never_began():
    assert "status" in final_table(summarize([]))


def test_tensorboard_gets_the_curves(tell, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = tell("target").events
    board = TensorBoard(tmp_path)
    for event in events:
        board(event)
    board.close()
    reader = accumulator.EventAccumulator(str(tmp_path), size_guidance={"scalars": 0}).Reload()
    steps = [event for event in events if event["kind"] == "steps"]
    losses = reader.Scalars("train/loss")
    assert [value.step for value in losses] == list(range(1, 80))
    assert [value.value for value in losses] == pytest.approx([loss for e in steps for loss in e["loss"]])
    drawn = [(value.step, value.wall_time) for value in reader.Scalars("eval/accuracy")]
    assert drawn == [(e["step"], e["t"]) for e in events if e["kind"] == "eval_stop"]


def test_tensorboard_forgets_what_a_resume_makes_void(story, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = story().begin().block(1).block(2).resume(20).block(2)
    board = TensorBoard(tmp_path)
    for event in run.events:
        board(event)
    board.close()
    reader = accumulator.EventAccumulator(str(tmp_path), size_guidance={"scalars": 0}).Reload()
    assert [value.step for value in reader.Scalars("train/loss")] == list(range(1, 33))


def test_tensorboard_that_is_missing_is_one_clear_line(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *arguments):
        if name.startswith("tensorboard"):
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match="the package `tensorboard`"):
        TensorBoard(tmp_path)


def evaluations(*accuracies, quality=(), **config):
    yield {"t": 1.0, "kind": "run_config", **config}
    for epoch, accuracy in enumerate(accuracies, 1):
        more = {"quality": quality} if quality else {}
        yield {"t": 1.0 + epoch, "kind": "eval_stop", "epoch": epoch, "accuracy": accuracy, **more}


def test_accuracies_are_printed_as_the_task_has_them():
    lines = show(evaluations(21.5, 27.08, benchmark="transformer", target=25.0), io.StringIO()).splitlines()
    assert lines == [
        "epoch 1: accuracy 21.50, best 21.50, target 25.00",
        "epoch 2: accuracy 27.08, best 27.08, target 25.00",
    ]
    lines = show(evaluations(30.0, 20.5, 25.0, benchmark="pix2pix"), io.StringIO()).splitlines()
    assert lines[-1] == "epoch 3: accuracy 25.00, best 20.50"  # a distance: less is better


def test_how_a_metric_is_computed_is_printed():
    data = {"t": 1.0, "kind": "data", "signatures": {"bleu": "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp"}}
    assert show([data], io.StringIO()) == "bleu: nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp\n"


def test_every_metric_of_a_conjunction_is_printed():
    target = {"box_ap": 0.377, "mask_ap": 0.339}
    task = tasks.find("mask_rcnn").facts(target)
    quality = {"box_ap": 0.38, "mask_ap": 0.33, "box_ap/small": 0.2}  # the last is of a part
    events = evaluations(0.38, quality=quality, benchmark="mask_rcnn", task=task, target=0.377)
    assert show(events, io.StringIO()).splitlines() == [
        "epoch 1: accuracy 38.00%, mask_ap 33.00%, best 38.00%, target box_ap 37.70% and mask_ap 33.90%"
    ]


def test_nan_is_never_the_best():
    lines = show(evaluations(float("nan"), 0.3, benchmark="resnet50"), io.StringIO()).splitlines()
    assert lines == ["epoch 1: accuracy nan%", "epoch 2: accuracy 30.00%, best 30.00%"]
