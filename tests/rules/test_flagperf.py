"""The FlagPerf rule book: the requirement's own table passes; every rule, broken once."""

import json

import pytest
from record.conftest import tell
from rules.samples import FLAGPERF_TABLE, errors, findings, short

from airank_fast import tasks
from airank_fast.record.formats import flagperf
from airank_fast.record.lines import Lines
from airank_fast.rules import flagperf as book
from airank_fast.rules.facts import Facts

FACTS = {"model": "resnet50", "epochs": 100}


def test_the_requirements_table_passes(tmp_path):
    assert findings(tmp_path / "README.md", FLAGPERF_TABLE, **FACTS) == []
    assert findings(tmp_path / "README.md", FLAGPERF_TABLE, model="resnet50") == []
    found = findings(tmp_path / "README.md", FLAGPERF_TABLE)
    assert short(found) == [("note", "flagperf.e2e_time", 13), ("note", "flagperf.e2e_time", 14)]
    assert "--epochs" in found[0].required


def test_its_first_two_rows_leave_32_and_30_seconds_for_initialisation():
    rows = [entry.event for entry in flagperf.read_table(FLAGPERF_TABLE.splitlines())]
    assert [row["config"] for row in rows] == ["1x8", "1x8", "1x1", "2x8"]
    left = [row["e2e_time"] - 100 * 1281167 / row["p_whole"] for row in rows[:2]]
    assert [round(seconds) for seconds in left] == [32, 30]
    assert rows[1] == {
        "t": 0.0,
        "kind": "flagperf",
        "device": "A100",
        "config": "1x8",
        "nnodes": 1,
        "nproc": 8,
        "nodes_named": 1,
        "devices_named": 8,
        "precision": "fp32",
        "fix_hp": "bs=256,lr=0.8",
        "e2e_time": 22653.0,
        "p_whole": 5663.0,
        "p_train": 5866.0,
        "p_core": 6105.0,
        "acc": 0.735,
        "mem_used": 28.3,
        "mem_total": 40.0,
    }
    assert rows[2]["e2e_time"] is rows[2]["acc"] is None


MUTATIONS = [
    ("4659", "4585", "rates", "error", 13),
    ("| 4475", "| 4587", "rates", "error", 13),
    ("| 4475", "| 0", "rates", "error", 13),
    ("| 4475", "| ", "missing", "error", 13),
    ("28661", "28600", "e2e_time", "error", 13),
    ("28661", "29400", "e2e_time", "warning", 13),
    ("28661", "fast", "cell", "error", 13),
    ("28661", "nan", "cell", "error", 13),
    ("28661", "", "missing", "warning", 13),
    ("75.0%", "0.75", "acc", "warning", 13),
    ("75.0%", "75.0", "cell", "error", 13),
    ("| 28661 | 4475 | 4586    | 4659 | 75.0% |", "| / | / | / | / |  |", "missing", "note", 13),
    ("| acc  |", "| AP |", "columns", "note", 11),
    ("A100两机8卡", "A100两机16卡", "config", "warning", 16),
    ("A100两机8卡", "A100两机4卡", "config", "error", 16),
    ("75.0%", "0.75%", "acc", "warning", 13),
    ("75.0%", "175%", "acc", "error", 13),
    ("5.8/40.0", "40.1/40.0", "mem", "error", 13),
    ("5.8/40.0", "5.8", "cell", "error", 13),
    ("5.8/40.0", "5800/40000", "mem", "warning", 13),
    ("5.8/40.0", "", "missing", "warning", 13),
    ("| fp32 | / |", "| float | / |", "precision", "error", 13),
    ("| fp32 | / |", "| tf32 | / |", "precision", "note", 13),
    ("| fp32 | / |", "|  | / |", "precision", "error", 13),
    ("| fp32 | / |", "| fp32 |  |", "missing", "warning", 13),
    ("（1x8） | fp32 | / ", "（1x4） | fp32 | / ", "config", "error", 13),
    ("（1x8） | fp32 | / ", "（0x8） | fp32 | / ", "config", "error", 13),
    ("（1x8） | fp32 | / ", " | fp32 | / ", "config", "error", 13),
    ("A100两机", "A100单机", "config", "error", 16),
    (" 75.0% | 5.8/40.0 |", " 75.0% |", "line", "error", 13),
    ("| precision |", "| |", "columns", "error", 11),
    ("75.0%", "0.647/0.655", "acc", "warning", 13),
    ("75.0%", "1.647/0.655", "cell", "error", 13),
]


@pytest.mark.parametrize(("old", "new", "rule", "severity", "line"), MUTATIONS)
def test_a_broken_rule_is_found_at_its_line(tmp_path, old, new, rule, severity, line):
    assert old in FLAGPERF_TABLE
    found = findings(tmp_path / "README.md", FLAGPERF_TABLE.replace(old, new, 1), **FACTS)
    assert (severity, f"flagperf.{rule}", line) in short(found)


def test_an_accuracy_beside_its_target(tmp_path):
    """FlagPerf's README of bert_hf, 通用指标: acc is actual / target (实际/目标), in fractions."""
    table = FLAGPERF_TABLE.replace("75.0%", "0.657/0.655").replace("73.5%", "0.655 / 0.655")
    assert findings(tmp_path / "README.md", table, **FACTS) == []
    run = next(flagperf.read_table(table.splitlines())).event
    assert (run["acc"], run["target"]) == (0.657, 0.655)


def test_bleu_is_no_fraction(tmp_path):
    """FlagPerf's README of transformer has 27.08 in the column acc."""
    bleu = {"model": "transformer", "samples_per_epoch": 1281167, "epochs": 100}
    table = FLAGPERF_TABLE.replace("75.0%", "27.08").replace("73.5%", "26.9")
    assert findings(tmp_path / "README.md", table, **bleu) == []
    assert next(flagperf.read_table(table.splitlines(), 100)).event["acc"] == 27.08
    for wrong, rule in (("127.08", "acc"), ("27.08%", "cell")):
        found = findings(tmp_path / "README.md", table.replace("27.08", wrong), **bleu)
        assert errors(found) == [(f"flagperf.{rule}", 13)]
    assert errors(findings(tmp_path / "flagperf.json", figures(acc=27.1, case="transformer"))) == []
    found = errors(findings(tmp_path / "flagperf.json", figures(acc=127.1, case="transformer")))
    assert found == [("flagperf.acc", None)]


def figures(**changes):
    run = flagperf.flagperf(tell("target", precision="fp32").events)
    return json.dumps(run | changes, indent=2, ensure_ascii=False)


def test_our_own_figures_pass(tmp_path):
    assert findings(tmp_path / "flagperf.json", figures() + "\n", samples_per_epoch=1000, epochs=79 * 64 / 1000) == []


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"p_core": 1.0}, "rates"),
        ({"p_whole": None}, "missing"),
        ({"p_whole": "fast"}, "cell"),
        ({"p_whole": float("nan")}, "cell"),
        ({"e2e_time": -1}, "cell"),
        ({"e2e_time": 0.1}, "e2e_time"),
        ({"acc": 77.1}, "acc"),
        ({"mem_used": 50.0}, "mem"),
        ({"precision": "float"}, "precision"),
        ({"config": "2x8"}, "config"),
        ({"nproc": 0}, "config"),
    ],
)
def test_our_own_figures_changed(tmp_path, changes, rule):
    found = findings(tmp_path / "flagperf.json", figures(**changes), samples_per_epoch=1000, epochs=79 * 64 / 1000)
    assert (f"flagperf.{rule}", None) in errors(found)


@pytest.mark.parametrize(("units", "severities"), [(13.0, []), (1.0, ["warning"])])
def test_a_rate_in_tokens_fits_the_tokens_of_an_epoch(tmp_path, units, severities):
    """10 epochs of 1,000 sentences of 13 tokens at 100 tokens/s are 1,300 s."""
    path = tmp_path / "flagperf.json"
    path.write_text(figures(p_whole=100, p_train=100, p_core=100, e2e_time=1310), encoding="utf-8")
    facts = Facts(task=tasks.find("transformer"), samples_per_epoch=1000, units_per_sample=units, epochs=10)
    found = [each for each in book.check(Lines(path), facts) if each.rule == "flagperf.e2e_time"]
    assert [each.severity for each in found] == severities


@pytest.mark.parametrize("content", ['{"p_whole": 3', '{\n"p_whole": [}', '{"p_whole": ' + "[" * 100_000])
def test_a_file_that_is_cut_off(tmp_path, content):
    assert errors(findings(tmp_path / "flagperf.json", content)) == [("flagperf.line", None)]


def test_the_row_and_back():
    """A row holds rounded figures; what was read of it gives the same row again."""
    for ending in ("target", "epochs", "cut_off"):
        for world_size in (1, 2, 8):
            row = flagperf.table_row(tell(ending, world_size=world_size).events)
            (run,) = flagperf.parse_table([*flagperf.HEADER.splitlines(), row])
            assert flagperf.row(run | {"fix_hp": run["fix_hp"] or "/"}) == row
