"""What a report takes from a run."""

import contextlib
import json
import math

import pytest
from reports.made_up import EPOCH_SAMPLES, MadeUpRun

from airank_fast.errors import UserError
from airank_fast.record.events import to_line
from airank_fast.reports import rendering
from airank_fast.reports.cleaning import clean
from airank_fast.reports.page import Report
from airank_fast.reports.reading import read

# From the requirement text of AI-Rank's training log.
SEED = """\
- AI-Rank-log 1558631910.424 test_begin
- AI-Rank-log 1558631914.424 eval_accuracy:0.4756399989128113, total_epoch_cnt:6
- AI-Rank-log 1558631916.424 eval_accuracy:0.7605400085449219, total_epoch_cnt:10
- AI-Rank-log 1558631918.454 target_quality_time:8.03sec
- AI-Rank-log 1558631922.424 eval_accuracy:0.9555400085449219, total_epoch_cnt:18
- AI-Rank-log 1558631922.454 test_finish
- AI-Rank-log 1558631918.454 total_use_time:12.03sec
- AI-Rank-log 1558631918.455 avg_ips:1190images/sec
"""


def test_where_the_time_went_adds_up_to_the_whole(run_set):
    for path in run_set:
        run = read(path)
        assert math.fsum(run.seconds.values()) == pytest.approx(run.summary["total_time"], abs=1e-6)
        assert min(run.seconds.values()) >= 0
        assert list(run.seconds) == ["core", "wait", "h2d", "rest", "evaluation", "other"]
        assert run.seconds["core"] == pytest.approx(run.summary["core_s"])
        assert run.missing == []


def test_on_a_cpu_the_copy_is_part_of_the_wait(tmp_path):
    run = MadeUpRun().begin().train().stop()
    gpu = read(run.write(tmp_path / "gpu"))
    next(event for event in run.events if event["kind"] == "system")["accelerators_per_node"] = 0
    cpu = read(run.write(tmp_path / "cpu"))
    assert cpu.seconds["wait"] == pytest.approx(gpu.seconds["wait"] - gpu.seconds["h2d"])
    assert cpu.seconds["h2d"] == gpu.seconds["h2d"]


def test_curves_of_a_run(run_set):
    run = read(run_set[0])
    assert len(run.loss) == len(run.learning_rate) == 240
    assert run.loss.x[0] >= 0
    assert run.loss.x[-1] <= run.summary["trained_samples"]
    assert run.evaluations.y == [event["accuracy"] for event in events_of(run_set[0]) if event["kind"] == "eval_stop"]
    # Between a step's own time and the whole run's lies the rate of training.
    mean = sum(run.throughput.y) / len(run.throughput)
    assert run.summary["p_train"] <= mean <= run.summary["p_core"]
    assert 50 <= len(run.throughput) <= 101


def test_throughput_of_a_log_without_steps_comes_from_its_blocks(tmp_path):
    story = MadeUpRun().begin().train().stop()
    whole = read(story.write(tmp_path / "whole"))
    story.events = [event for event in story.events if event["kind"] != "steps"]
    blocks = read(story.write(tmp_path / "blocks"))
    assert len(blocks.throughput) == blocks.summary["evaluations"]
    assert blocks.throughput.y[3] == pytest.approx(whole.summary["p_train"], rel=0.02)
    assert len(blocks.loss) == 0


def test_repeated_steps_of_a_resumed_run_count_once(tmp_path):
    step = 8 * EPOCH_SAMPLES // 256
    story = MadeUpRun().begin().train(12).resume(step).train().stop()
    run = read(story.write(tmp_path / "run"))
    assert not run.counts
    assert run.summary["num_resumes"] == 1
    assert list(run.loss.x) == sorted(run.loss.x)
    assert len(run.evaluations) == run.summary["evaluations"]


def test_an_airank_log_gives_what_it_carries(tmp_path):
    path = tmp_path / "GPUx8.log"
    path.write_text(SEED)
    run = read(path)
    assert run.config["world_size"] == 8
    assert run.evaluations.y == [0.4756399989128113, 0.7605400085449219, 0.9555400085449219]
    assert run.figure("time2train", "target_quality_time") == (8.03, True)
    assert run.figure("avg_ips", "avg_ips") == (1190, True)
    unknown = ("p_whole", "p_train", "p_core", "e2e_time", "epochs", "trained_samples", "data_wait_s", "mem_used_gib")
    assert {run.summary[name] for name in unknown} == {None}
    assert run.seconds == {}
    assert set(run.missing) == {
        "benchmark",
        "target",
        "samples",
        "steps",
        "seconds",
        "memory",
        "system",
        "recipe",
        "command",
        "seed",
    }
    run = read(path, {"target": 0.759, "benchmark": "resnet50"})
    assert run.figure("time2train", "target_quality_time") == (pytest.approx(6.0), False)
    assert run.config["benchmark"] == "resnet50"


def test_a_run_that_is_cut_off_anywhere_can_be_read(tmp_path):
    events = MadeUpRun(8).begin().train(8).stop().events
    for end in range(1, len(events), 5):
        (tmp_path / "events.jsonl").write_text("".join(to_line(event) + "\n" for event in events[:end]))
        run = read(tmp_path)
        assert run.ended == any(event["kind"] == "run_stop" for event in events[:end])


@pytest.mark.parametrize("value", [None, "many", [], {}, True, "inf", 1e308, 1e-320, 10**400])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("eval_stop", "accuracy"),
        ("steps", "loss"),
        ("steps", "core_s"),
        ("steps", "num_steps"),
        ("memory", "used_bytes"),
        ("run_config", "target"),
        ("run_config", "world_size"),
        ("run_config", "recipe"),
        ("run_config", "devices"),
        ("run_config", "command"),
        ("run_config", "benchmark"),
        ("system", "versions"),
        ("data", "corrupt_files"),
        ("block_stop", "core_s"),
        ("run_stop", "reason"),
        ("run_start", "t"),
        ("memory", "total_bytes"),
        ("data", "train_samples"),
        ("system", "accelerator_name"),
        ("eval_stop", "t"),
    ],
)
def test_odd_values_are_read_or_refused_in_one_line(tmp_path, kind, name, value):
    story = MadeUpRun(8).begin().train(4).stop()
    event = next(event for event in story.events if event["kind"] == kind)
    event[name] = value
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in story.events))
    with contextlib.suppress(UserError):
        report = Report([read(tmp_path)], "en")
        assert rendering.html(report)
        assert rendering.markdown(report, "x")


@pytest.mark.parametrize("depth", [50, 300, 900, 100_000])
def test_nesting_of_any_depth_is_read_or_refused(tmp_path, depth):
    nested = '{"a":' * depth + "1" + "}" * depth
    lines = [to_line(event) for event in MadeUpRun().begin().train(4).stop().events]
    lines.insert(1, f'{{"t":1790000000.1,"kind":"run_config","recipe":{nested}}}')
    (tmp_path / "events.jsonl").write_text("\n".join(lines) + "\n")
    with contextlib.suppress(UserError):
        report = Report([read(tmp_path)], "en")
        assert rendering.html(report)
        assert rendering.markdown(report, "x")


def test_a_file_that_is_no_run_is_refused(tmp_path):
    for text in ("", "hello\n", '{"t": 1}\n'):
        (tmp_path / "x.log").write_text(text)
        with pytest.raises(UserError, match=r"x\.log"):
            read(tmp_path / "x.log")


def test_clean():
    assert clean("a\x00b\x1b[31m\u202ec\ud800d") == "a\ufffdb\ufffd[31m\ufffdc\ufffdd"
    assert clean({"k\n": ["v\t"]}) == {"k\ufffd": ["v\ufffd"]}
    assert len(clean("x" * 10_000)) == 2001
    assert clean(1.5) == 1.5


def events_of(path):
    return [json.loads(line) for line in (path / "events.jsonl").read_text().splitlines()]


def leave_examples(path, *names):
    """Let the run at `path` name these files as its pictures of predictions."""
    event = {
        "t": 1.8e9,
        "kind": "examples",
        "files": names,
        "predicted": ["7"] * len(names),
        "truth": ["1"] * len(names),
    }
    with open(path / "events.jsonl", "a") as file:
        file.write(to_line(event) + "\n")


def test_pictures_of_predictions_are_small_png_files_of_the_run_itself(tmp_path):
    path, png = MadeUpRun().begin().train().stop().write(tmp_path / "run"), b"\x89PNG\r\n\x1a\n"
    (path / "examples").mkdir()
    (tmp_path / "99.png").write_bytes(png + b"outside")
    for name, content in (("01", png + b"one"), ("02", b"GIF89a"), ("03", png + bytes(1 << 20)), ("05", png)):
        (path / "examples" / f"{name}.png").write_bytes(content)
    (path / "examples" / "04.png").symlink_to(tmp_path / "99.png")
    outside = ("../99.png", "examples/../../99.png", str(tmp_path / "99.png"))
    leave_examples(path, *(f"examples/{number:02d}.png" for number in range(1, 7)), *outside)
    run = read(path)
    assert [(each.content, each.predicted, each.truth) for each in run.examples] == [
        (png + b"one", "7", "1"),
        (png, "7", "1"),
    ]
    page = rendering.html(Report([run], "en"))
    assert page.count("data:image/png;base64,") == 2
    assert "predicted: 7; true: 1" in page
    text = rendering.markdown(Report([run], "zh"), "folder")
    assert "![预测：7；真值：1](folder/examples-1-01.png)" in text
    assert set(rendering.picture_files(Report([run], "zh"))) >= {"examples-1-01.png", "examples-1-02.png"}


@pytest.mark.parametrize("files", [None, 7, ["examples/01.png"]])
def test_an_event_of_another_form_shows_no_pictures(files, tmp_path):
    path = MadeUpRun().begin().train().stop().write(tmp_path / "run")
    with open(path / "events.jsonl", "a") as file:
        file.write(to_line({"t": 1.8e9, "kind": "examples", "files": files}) + "\n")
    run = read(path)
    assert run.examples == []
    assert 'id="examples"' not in rendering.html(Report([run], "en"))
