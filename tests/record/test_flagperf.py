"""FlagPerf's figures and its table row."""

import re

import pytest

from airank_fast.record.formats.flagperf import HEADER, flagperf, table_row
from airank_fast.record.metrics import summarize


@pytest.mark.parametrize("ending", ["target", "epochs", "exception", "sigterm", "rank_lost", "cut_off"])
def test_figures_are_those_of_the_events(tell, ending):
    events = tell(ending, world_size=2).events
    run, summary = flagperf(events), summarize(events)
    names = ("e2e_time", "p_whole", "p_train", "p_core", "status", "reason", "comparable")
    assert [run[name] for name in names] == [summary[name] for name in names]
    assert run["acc"] == summary["final_accuracy"]
    assert run["p_core"] >= run["p_train"] >= run["p_whole"] > 0


@pytest.mark.parametrize(
    ("world_size", "nodes", "name"),
    [(1, 1, "A100单机单卡（1x1）"), (8, 1, "A100单机8卡（1x8）"), (16, 2, "A100两机8卡（2x8）")],
)
def test_the_row(tell, world_size, nodes, name):
    events = tell("target", world_size=world_size, precision="fp32").events
    next(event for event in events if event["kind"] == "system")["number_of_nodes"] = nodes
    cells = table_row(events).strip("| ").split(" | ")
    assert len(cells) == HEADER.splitlines()[0].count("|") - 1
    assert cells[0] == name
    assert cells[1:3] == ["fp32", f"bs={64 // world_size},lr=6.4"]
    assert all(re.fullmatch(r"\d{4,}|\d{1,3}\.\d", cell) for cell in cells[3:7])
    assert cells[7:] == ["77.1%", "3.0/40.0"]
    assert float(cells[4]) == pytest.approx(summarize(events)["p_whole"], rel=0.01)


@pytest.mark.parametrize(("precision", "word"), [("bf16", "amp"), ("fp16", "amp"), ("tf32", "tf32")])
def test_precision_in_its_words(tell, precision, word):
    assert flagperf(tell("target", precision=precision).events)["precision"] == word


def test_cells_without_a_figure_stay_blank(story):
    row = table_row(story(reported={}).begin().events)
    assert re.search(r"\| amp \| bs=64 \| \d+\.\d \| 0\.0 \| 0\.0 \|  \|  \|  \|$", row)


def test_the_learning_rate_may_be_reported_with_the_data(tell):
    """A recipe whose schedule follows from the data set reports it when it has seen the data."""
    events = tell("target").events
    config = next(event for event in events if event["kind"] == "run_config")
    data = next(event for event in events if event["kind"] == "data")
    data["reported"], config["reported"] = config["reported"], {}
    assert flagperf(events)["fix_hp"] == "bs=64,lr=6.4"
    data["reported"] = ["junk"]
    assert flagperf(events)["fix_hp"] == "bs=64"


@pytest.mark.parametrize(
    ("benchmark", "accuracy", "cell"),
    [
        ("resnet50", 0.7709, "77.1%"),
        ("transformer", 27.083, "27.08"),
        ("deepfm", 0.78812, "0.7881"),
        (None, 0.5, "50.0%"),
    ],
)
def test_accuracies_are_written_as_the_task_has_them(tell, benchmark, accuracy, cell):
    events = tell("target", benchmark=benchmark).events
    for event in events:
        if event["kind"] == "eval_stop":
            event["accuracy"] = accuracy
    assert table_row(events).strip("| ").split(" | ")[7] == cell
