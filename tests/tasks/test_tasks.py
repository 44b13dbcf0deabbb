"""The facts of the tasks: names, metrics, targets, and what a log carries of them."""

import json
import math
import re
import sys
from pathlib import Path

import pytest

from airank_fast import tasks
from airank_fast.record.foreign.read import read_run
from airank_fast.tasks import Metric, Target, Task


@pytest.mark.parametrize("task", tasks.all_tasks(), ids=lambda task: task.name)
def test_each_task_is_whole(task):
    assert tasks.find(task.name) is task
    assert set(task.title) == {"zh", "en"}
    assert all(task.title.values())
    assert task.counted_in in tasks.COUNTED_IN
    assert len({metric.name for metric in task.metrics}) == len(task.metrics) > 0
    for target in task.targets.values():
        assert target.source
        assert all(0 < value <= task.metric(name).maximum for name, value in target.values.items())
    for metric in task.metrics:
        assert metric.direction in ("up", "down")
        assert metric.text(0.5)
    for name in (task.model, *task.names.values(), *task.aliases):
        assert tasks.find(name) is task


def test_no_name_is_of_two_tasks():
    names = [tasks._words(name) for task in tasks.all_tasks() for name in {task.name, *task.aliases}]
    joined = ["".join(words) for words in names]
    assert len(joined) == len(set(joined))


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("resnet50", "resnet50"),
        ("ResNet-50", "resnet50"),
        ("resnet", "resnet50"),
        ("resnet50_v1.5", "resnet50"),
        ("resnet18", None),
        ("resnet-18", None),
        ("bert_large", "bert"),
        ("BERT-tiny", "bert"),
        ("roberta", None),
        ("", None),
        ("&", None),
        (None, None),
        (7, None),
    ],
)
def test_names(name, task):
    found = tasks.find(name)
    assert (found and found.name) == task


PACKAGE = Path(tasks.__file__).parents[1]
NOT_TRAINED_YET = {
    "transformer",
}


def test_every_task_is_trained_or_on_the_list_of_those_to_come():
    trained = {task.name for task in tasks.all_tasks() if (PACKAGE / "recipes" / f"{task.name}.py").is_file()}
    assert trained == {task.name for task in tasks.all_tasks()} - NOT_TRAINED_YET


def test_only_find_matches_the_names_of_tasks():
    """Elsewhere a task's name is a key or a value; `find` alone matches prefixes of it."""
    names = "|".join(
        sorted({re.escape(name) for task in tasks.all_tasks() for name in (task.name, *task.names.values())})
    )
    matches = re.compile(
        rf"(?:startswith|endswith|removeprefix|partition)\([^)\n]*[\"'](?:{names})|[\"'](?:{names})[\"'] in "
    )
    assert matches.search('name.startswith(("a", "bert"))')
    assert matches.search('"tsm" in name')
    found = [str(path) for path in PACKAGE.rglob("*.py") if matches.search(path.read_text(encoding="utf-8"))]
    assert not found


def test_smaller_networks():
    assert [name for name in ("bert_tiny", "BERT-mini", "bert_large", "resnet50", None) if tasks.is_smaller(name)] == [
        "bert_tiny",
        "BERT-mini",
    ]


def test_a_network_in_full_and_others():
    bert = tasks.find("bert")
    names = ("bert", "BERT-large", "bert_large", "bert_base", "bert_tiny", "", None)
    assert [bert.is_spelled(name) for name in names] == [True, True, True, False, False, False, False]
    assert (bert.benchmark, tasks.find("tsm").benchmark) == ("bert_large", "tsm")


def test_targets_by_rule_book_and_version():
    bert = tasks.find("bert")
    assert bert.headline_target("mlperf", "4.0") == 0.720
    assert bert.headline_target("mlperf", "0.7") == 0.712
    assert bert.headline_target("flagperf") == 0.710
    assert bert.target("airank", "2019-01") is None
    assert tasks.find("resnet50").target("airank", "2020-12") == Target({"top1": 0.759}, tasks.AIRANK_2020)


BOXES = Task(
    name="boxes",
    model="Boxes",
    title={"zh": "盒", "en": "boxes"},
    metrics=(Metric("box_ap", ".3f"), Metric("mask_ap", ".3f"), Metric("loss", ".4f", "down", math.inf)),
    targets={"airank 2020-12": Target({}, "a table"), "airank 2021-05": Target({"box_ap": 0.377}, "a table")},
)


def test_a_target_is_a_conjunction():
    target = {"box_ap": 0.377, "mask_ap": 0.339}
    assert BOXES.reached({"box_ap": 0.377, "mask_ap": 0.339}, target)
    assert not BOXES.reached({"box_ap": 0.4, "mask_ap": 0.338}, target)
    assert not BOXES.reached({"box_ap": 0.4}, target)
    assert not BOXES.reached({"box_ap": math.nan, "mask_ap": 1.0}, target)
    assert BOXES.reached({"loss": 0.44}, {"loss": 0.44})
    assert not BOXES.reached({"loss": 0.45}, {"loss": 0.44})
    assert not BOXES.reached({"box_ap": 1.0}, {})


def test_a_blank_row_is_listed_and_has_no_target():
    assert BOXES.is_listed("airank", "2020-12")
    assert BOXES.target("airank", "2020-12") is None
    assert not BOXES.is_listed("flagperf")


def test_the_facts_of_a_run_make_its_task_again():
    """Of a task that no file here describes, through the JSON of a log."""
    config = json.loads(json.dumps({"benchmark": "boxes_r50", "task": BOXES.facts({"box_ap": 0.3})}))
    read = tasks.of(config)
    assert (read.name, read.model, read.title, read.metrics) == (BOXES.name, BOXES.model, BOXES.title, BOXES.metrics)
    assert tasks.target_of_facts(config["task"]) == {"box_ap": 0.3}


def test_the_run_s_own_facts_go_before_ours():
    own = {"name": "bert", "unit": "tokens", "metrics": [{"name": "f1", "format": ".1f", "maximum": 100}]}
    read = tasks.of({"benchmark": "bert_large", "task": own})
    assert (read.unit, read.metrics, read.model) == ("tokens", (Metric("f1", ".1f", "up", 100),), "BERT")


@pytest.mark.parametrize(
    "facts",
    [
        None,
        [],
        "bert",
        {},
        {"name": 3},
        {"unit": ["a"], "title": "x", "counted_in": "years", "target": 0.7},
        {"metrics": "accuracy"},
        {"metrics": [{"name": "a"}, 7]},
        {"metrics": [{}], "title": {"zh": 1}},
    ],
)
def test_facts_that_cannot_be_read_change_nothing(facts):
    assert tasks.of({"benchmark": "bert_large", "task": facts}) == tasks.find("bert")
    assert tasks.of({"benchmark": "made_up", "task": facts}) is None
    assert tasks.target_of_facts(facts) == {}


def test_a_format_that_python_could_not_use_is_not_taken():
    metric = {"name": "a", "format": "{0.__class__}", "direction": 5, "maximum": -1}
    read = tasks.from_facts({"name": "made_up", "metrics": [metric]})
    assert read.metrics == (Metric("a", ".4f", "up", math.inf),)


def test_a_new_task_is_one_file_and_touches_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "stacking.py").write_text(
        '"""Stacking boxes."""\n\n'
        "from airank_fast.tasks import Metric, Target, Task\n\n"
        'TASK = Task(name="stacking", model="Stacker", title={"zh": "叠", "en": "stacking"}, unit="boxes",\n'
        '            metrics=(Metric("height", ".1f", maximum=9.0),), names={"airank": "Stack&Er"},\n'
        '            targets={"airank 2021-05": Target({"height": 7.0}, "a text")})\n'
    )
    caches = (tasks.all_tasks, tasks._own_names, tasks._aliases)
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(tmp_path)])
    for cached in caches:
        cached.cache_clear()
    try:
        found = tasks.find("stacker_large") or tasks.find("Stack&Er")
        assert (found.name, found.headline_target("airank", "2021-05")) == ("stacking", 7.0)
        log = tmp_path / "GPUx8.log"
        lines = ["test_begin", "eval_accuracy:6.5, total_epoch_cnt:1", "eval_accuracy:7.1, total_epoch_cnt:2"]
        log.write_text("".join(f"AI-Rank-log {1e9 + n:.3f} {line}\n" for n, line in enumerate([*lines, "test_finish"])))
        assert read_run(log, {"benchmark": "stacking", "target": 7.0}).summary["time2train"] == 2
    finally:
        for cached in caches:
            cached.cache_clear()
        sys.modules.pop("airank_fast.tasks.stacking", None)
