"""The rule book of trees: each thing that can be wrong with a good tree, and what it says to it."""

import json
import shutil

import pytest

from airank_fast.errors import UserError
from airank_fast.rules.trees import SUMS, check_tree, is_tree, kind_of, logs_of

SYSTEM = "Synthetic_Submitter/systems/synthetic_1x8.json"
RESULTS = "Synthetic_Submitter/results/synthetic_1x8"
CODE = "Synthetic_Submitter/benchmarks/bert/implementations/airank_fast"


def describe(**changes):
    def change(root):
        path = root / SYSTEM
        fields = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({name: value for name, value in fields.items() if value != "missing"}))

    return change


MUTATIONS = {
    "a result too few": (lambda root: (root / RESULTS / "bert/result_9.txt").unlink(), "tree.mlperf.count"),
    "a result too many": (
        lambda root: shutil.copy(root / RESULTS / "bert/result_9.txt", root / RESULTS / "bert/result_10.txt"),
        "tree.mlperf.count",
    ),
    "a stray file": (lambda root: (root / RESULTS / "bert/notes.txt").write_text("x"), "tree.mlperf.stray"),
    "no description": (lambda root: (root / SYSTEM).unlink(), "tree.mlperf.description"),
    "a description that is no JSON": (lambda root: (root / SYSTEM).write_text("{"), "tree.mlperf.description"),
    "a field is missing": (describe(cooling="missing"), "tree.mlperf.fields"),
    "a field is blank": (describe(cooling=" "), "tree.mlperf.fields"),
    "a number is none": (describe(number_of_nodes="two"), "tree.mlperf.numbers"),
    "a number that is no text": (describe(accelerators_per_node=8), "tree.mlperf.text"),
    "an unknown status": (describe(status="onprem"), "tree.mlperf.status"),
    "two nodes": (describe(number_of_nodes="2"), "tree.gp2bm.one_node"),
    "one benchmark": (lambda root: shutil.rmtree(root / RESULTS / "bert"), "tree.gp2bm.both"),
    "no code": (lambda root: shutil.rmtree(root / CODE), "tree.mlperf.code"),
    "no README": (lambda root: (root / CODE / "README.md").unlink(), "tree.mlperf.code"),
    "a file changed": (lambda root: (root / CODE / "README.md").write_text("x"), "tree.sum"),
    "a file added": (lambda root: (root / "more.txt").write_text("x"), "tree.listed"),
    "a link to outside": (lambda root: (root / "passwords").symlink_to("/etc/passwd"), "tree.link"),
    "a folder that is a link": (lambda root: (root / "etc").symlink_to("/etc"), "tree.link"),
    "sums that leave the tree": (
        lambda root: (root / SUMS).open("a").write("0" * 64 + "  ../../etc/passwd\n"),
        "tree.sum",
    ),
    "sums that are none": (lambda root: (root / SUMS).open("a").write("garbage\n"), "tree.sum"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_what_is_wrong_is_found(gp2bm, tmp_path, name):
    mutate, rule = MUTATIONS[name]
    root = tmp_path / "tree"
    # The code is what makes a tree large, and no rule looks into it.
    shutil.copytree(gp2bm, root, ignore=shutil.ignore_patterns("source"))
    sums = [line for line in (root / SUMS).read_text().splitlines(keepends=True) if "/source/" not in line]
    (root / SUMS).write_text("".join(sums))
    assert list(check_tree(root)) == []
    mutate(root)
    assert rule in {finding.rule for finding in check_tree(root)}


@pytest.fixture(params=["system information", "system_information.md"])
def airank_tree(request, tmp_path):
    """The published example, as somebody else may hand it in: plain files and folders, no checksums."""
    root = tmp_path / "airank" / "system name"
    for name in (
        request.param,
        "summary metrics",
        "submitter information",
        "model1/code/run.sh",
        "model1/data/get.md",
        "model1/log/GPUx1.log",
        "model1/log/GPUx32.log",
        "model1/report/report.docx",
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("content")
    return root


def test_the_published_example_passes(airank_tree):
    assert list(check_tree(airank_tree)) == list(check_tree(airank_tree.parent)) == []
    assert kind_of(airank_tree) == ("airank", [airank_tree])
    assert [log.name for log in logs_of(airank_tree)] == ["GPUx1.log", "GPUx32.log"]


@pytest.mark.parametrize(
    ("remove", "rule"),
    [
        ("summary metrics", "tree.airank.parts"),
        ("submitter information", "tree.airank.parts"),
        ("model1/code/run.sh", "tree.airank.model"),
        ("model1/data/get.md", "tree.airank.model"),
        ("model1/report/report.docx", "tree.airank.model"),
    ],
)
def test_a_part_that_is_missing_is_named(airank_tree, remove, rule):
    (airank_tree / remove).unlink()
    assert [finding.rule for finding in check_tree(airank_tree)] == [rule]


def test_a_log_of_another_name_is_reported(airank_tree):
    (airank_tree / "model1/log/GPUx1.log").rename(airank_tree / "model1/log/gpu1_time2train.log")
    assert [finding.rule for finding in check_tree(airank_tree)] == ["tree.airank.log_name"]
    (airank_tree / "model1/log/GPUx32.log").unlink()
    assert "tree.airank.logs" in {finding.rule for finding in check_tree(airank_tree)}


def test_what_is_a_tree_and_what_is_not(gp2bm, airank_tree, runs, tmp_path):
    assert is_tree(gp2bm)
    assert is_tree(gp2bm / "Synthetic_Submitter")
    assert is_tree(airank_tree)
    assert not is_tree(airank_tree.parent)  # a folder that holds one may hold other things
    run = tmp_path / "run"
    shutil.copytree(runs[0], run)
    (run / "system_information.json").write_text("{}")  # as training writes it
    (run / "checkpoints").mkdir()
    assert not is_tree(run)
    assert not is_tree(tmp_path)
    assert not is_tree(run / "mlperf.log")
    with pytest.raises(UserError, match="got neither"):
        kind_of(run)


def test_the_15_fields_are_required_by_the_text_of_2021_05(tmp_path):
    root = tmp_path / "linux"
    (root / "resnet50" / "log").mkdir(parents=True)
    (root / "system_information.json").write_text('{"submitter": "x", "number_of_nodes": 0, "hardware_type": ""}')
    found = [finding.found for finding in check_tree(root) if finding.rule == "tree.airank.system"]
    assert len(found) == 13
    assert "hardware_type: missing or blank" in found


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: path.write_text("x"), lambda path: None])
def test_what_is_no_tree_is_no_input(tmp_path, make):
    make(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"must be .*, got n(one|either)$"):
        list(check_tree(tmp_path / "nothing"))
