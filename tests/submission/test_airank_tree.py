"""AI-Rank's trees of both texts, from synthetic runs on 1, 8 and 32 cards."""

import json

import pytest
from submission import synthetic

from airank_fast.errors import UserError
from airank_fast.rules.trees import AIRANK_FIELDS, check_tree, logs_of

SYSTEM, SUBMITTER = "synthetic_1x8", "Synthetic_Submitter"


@pytest.fixture(scope="module")
def cards(tmp_path_factory):
    """ResNet-50 on 1, 8 and 32 cards and in float32 on 1; BERT on 8."""
    root = tmp_path_factory.mktemp("cards")
    return [
        synthetic.resnet(root / "r1", 0, minutes=240, world_size=1),
        synthetic.resnet(root / "r1_fp32", 1, minutes=480, world_size=1, precision="fp32"),
        synthetic.resnet(root / "r8", 2, minutes=30, world_size=8),
        synthetic.resnet(root / "r32", 3, minutes=10, world_size=32),
        synthetic.bert(root / "b8", 4, world_size=8),
    ]


def names(root, *below):
    return sorted(path.name for path in root.joinpath(*below).iterdir())


def test_the_tree_of_2020_12_is_the_published_one(cards, build, tmp_path):
    out = tmp_path / "out"
    assert build(out, cards, "airank", settings=[]) == 0
    assert names(out) == ["SHA256SUMS", "manifest.json", SYSTEM]
    assert names(out, SYSTEM) == [
        "bert",
        "resnet50",
        "submitter_information.md",
        "summary_metrics.md",
        "system_information.md",
    ]
    assert names(out, SYSTEM, "resnet50") == ["code", "data", "log", "report"]
    assert names(out, SYSTEM, "resnet50", "log") == ["GPUx1.log", "GPUx1_FP32.log", "GPUx32.log", "GPUx8.log"]
    assert names(out, SYSTEM, "bert", "log") == ["GPUx8.log"]
    assert (out / SYSTEM / "resnet50" / "log" / "GPUx8.log").read_bytes() == (cards[2] / "airank.log").read_bytes()
    assert "checksum " + "5" * 64 in (out / SYSTEM / "resnet50" / "data" / "README.md").read_text()
    assert list(check_tree(out)) == []
    assert len(logs_of(out)) == 5


def test_the_summary_is_the_published_table_with_its_figures(cards, build, tmp_path):
    assert build(tmp_path / "out", cards, "airank", settings=[]) == 0
    text = (tmp_path / "out" / SYSTEM / "summary_metrics.md").read_text()
    assert "|              | Time2train(sec)  | 吞吐(samples/sec) | 准确率(%) | 加速比 |" in text
    rows = {
        cells[1].strip(): [cell.strip() for cell in cells[2:6]]
        for cells in (line.split("|") for line in text.split("- resnet50")[1].splitlines())
        if len(cells) == 7
    }
    assert list(rows)[2:] == ["1卡", "8卡", "32卡"]
    samples = 28262 * 1632  # of 36 epochs
    assert rows["8卡"] == ["1799.00", f"{samples / 1800:.2f}", "76.01", f"{14399 / 1799:.2f}"]
    assert rows["1卡"][3] == "1.00"
    assert "- 1卡, 混合精度/FP32 吞吐比: 2.00" in text


def test_the_tree_of_2021_05_has_its_15_fields(cards, build, tmp_path):
    out = tmp_path / "out"
    assert build(out, cards, "airank", profile="2021-05", settings=[]) == 0
    assert names(out, SUBMITTER) == ["linux"]
    assert names(out, SUBMITTER, "linux") == ["bert_pytorch", "resnet50_pytorch", "system_information.json"]
    assert names(out, SUBMITTER, "linux", "resnet50_pytorch") == ["code", "data", "log"]
    assert (out / SUBMITTER / "linux" / "resnet50_pytorch" / "code" / "README.md").is_file()
    fields = json.loads((out / SUBMITTER / "linux" / "system_information.json").read_text())
    assert tuple(fields) == AIRANK_FIELDS
    assert len(fields) == 15
    assert (fields["number_of_nodes"], fields["host_processor_core_count"]) == (1, 64)
    assert list(check_tree(out)) == []
    # The runs were logged by the text of 2020-12; from their events the log follows that of 2021-05 all the same.
    log = (out / SUBMITTER / "linux" / "resnet50_pytorch" / "log" / "GPUx8.log").read_text().splitlines()
    assert log[0].endswith("load_data, checksum:" + "5" * 64)
    assert log[1:] == (cards[2] / "airank.log").read_text().splitlines()


def test_windows_has_a_folder_of_its_own(cards, build, tmp_path):
    settings = ["operating_system=Windows 10"]
    assert build(tmp_path / "out", cards[:1], "airank", profile="2021-05", settings=settings) == 0
    assert names(tmp_path / "out", SUBMITTER) == ["windows"]


def test_a_bare_log_says_its_cards_by_its_name(cards, build, tmp_path):
    log = tmp_path / "GPUx8.log"
    log.write_bytes((cards[2] / "airank.log").read_bytes())
    everything = [f"{name}=7" for name in AIRANK_FIELDS]
    options = {"settings": everything, "code": cards[0]}
    with pytest.raises(UserError, match="give --benchmark"):
        build(tmp_path / "out", [log], "airank", **options)
    assert build(tmp_path / "out", [log], "airank", benchmark="resnet50", **options) == 0
    text = (tmp_path / "out" / "7" / "summary_metrics.md").read_text()
    assert "| 8卡 | 1799.00 |" in text  # target_quality_time, as the log states it
    nameless = tmp_path / "train.log"
    nameless.write_bytes(log.read_bytes())
    with pytest.raises(UserError, match="the number of cards"):
        build(tmp_path / "out2", [nameless], "airank", benchmark="resnet50", **options)
    assert build(tmp_path / "out2", [nameless], "airank", benchmark="resnet50", cards=4, **options) == 0


def test_a_second_run_with_as_many_cards_is_refused(cards, build, tmp_path):
    with pytest.raises(UserError, match="only run of resnet50 with 8 cards, got a second"):
        build(tmp_path / "out", [*cards, synthetic.resnet(tmp_path / "again", 9)], "airank", settings=[])


def test_a_run_that_missed_its_target_has_no_time(build, tmp_path):
    run = synthetic.resnet(tmp_path / "r", 0, reached=False)
    assert build(tmp_path / "out", [run], "airank", settings=[]) == 0
    assert "| 8卡 | - |" in (tmp_path / "out" / SYSTEM / "summary_metrics.md").read_text()
