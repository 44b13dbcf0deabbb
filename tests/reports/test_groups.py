"""Which runs belong together, what counts, and what is made of them."""

import pytest
from reports.made_up import EPOCH_SAMPLES, MadeUpRun

from airank_fast.record.foreign.read import read_run
from airank_fast.reports.groups import amp_ratios, grouped, split, summary_rows
from airank_fast.reports.page import Report
from airank_fast.reports.reading import read
from airank_fast.rules import airank_score


@pytest.fixture
def write(tmp_path):
    def write(name, run):
        return read(run.write(tmp_path / name))

    return write


def whole(*args, **kwargs):
    return MadeUpRun(*args, **kwargs).begin().train().stop()


def test_a_set_gives_a_row_for_each_number_of_cards(run_set):
    (groups,) = grouped(map(read, run_set))
    rows = summary_rows(groups)
    assert [(row.group.cards, row.group.precision, len(row.counted), len(row.group.runs)) for row in rows] == [
        (1, "bf16", 3, 3),
        (1, "fp32", 1, 1),
        (8, "bf16", 5, 7),
        (32, "bf16", 3, 3),
    ]
    one, fp32, eight, _ = rows
    times = sorted(run.summary["time2train"] for run in one.group.runs)
    assert (one.time2train.low, one.time2train.value, one.time2train.high) == tuple(times)
    assert eight.speedup == one.time2train.value / eight.time2train.value
    assert (one.speedup, fp32.speedup) == (1.0, 1.0)
    ((amp, base, ratio),) = amp_ratios(rows)
    assert (amp, base) == (one, fp32)
    assert ratio == one.throughput.value / fp32.throughput.value


def test_the_seed_of_a_run_does_not_make_another_setting_and_the_batch_size_does(write):
    runs = [write("a", whole(8, 1)), write("b", whole(8, 2)), write("c", whole(8, 3, recipe={"batch_size": 1}))]
    (groups,) = grouped(runs)
    assert [[run.name for run in group.runs] for group in groups] == [["a", "b"], ["c"]]
    assert "batch_size=2048" in groups[0].distinction
    assert "batch_size=1" in groups[1].distinction


def test_aborted_resumed_and_unfinished_runs_do_not_count(write):
    cut_off = MadeUpRun(1, 4).begin().train(8)
    resumed = MadeUpRun(1, 5).begin().train(8).resume(8 * EPOCH_SAMPLES // 256).train().stop()
    runs = [
        write("whole", whole(1, 1)),
        write("cut", cut_off),
        write("resumed", resumed),
        write("aborted", MadeUpRun(1, 6).begin().train(8).stop("aborted", "sigterm")),
    ]
    (row,) = summary_rows(grouped(runs)[0])
    assert [run.name for run in row.counted] == ["whole"]
    assert len(row.group.runs) == 4


def test_a_run_that_misses_the_target_never_ends(write):
    missed = [MadeUpRun(1, seed).begin().train(8).stop("aborted", "epochs") for seed in (7, 8)]
    reached = [write("a", whole(1, 1))]
    (row,) = summary_rows(grouped([*reached, write("b", missed[0])])[0])
    assert (row.num_missed, row.time2train.value) == (1, None)
    assert row.time2train.low == row.time2train.high == reached[0].summary["time2train"]
    assert row.speedup is None
    three = [*reached, write("c", whole(1, 2)), write("d", missed[1])]
    (row,) = summary_rows(grouped(three)[0])
    assert row.time2train.value == max(run.summary["time2train"] for run in three[:2])
    (slower,) = [run for run in three if run.summary["time2train"] == row.time2train.value]
    assert row.throughput.value == slower.summary["avg_ips"]  # of the same run


def test_report_and_score_have_the_same_figures(run_set):
    runs = [read(path) for path in run_set]
    rows = summary_rows(grouped(runs)[0])
    scored = airank_score.airank_result([read_run(run.path) for run in runs if run.counts], own_targets=True)
    (amp,) = scored.amp
    ((_, _, ratio),) = amp_ratios(rows)
    assert ratio == amp.speedup
    theirs = {(row.num_cards, row.precision): row for row in scored.rows}
    for row in rows:
        their = theirs[row.group.cards, "amp" if row.group.precision == "bf16" else row.group.precision]
        assert (row.time2train.value, row.throughput.value) == (their.time2train, their.throughput)
        assert (row.accuracy.value, row.speedup) == (their.accuracy, their.card_speedup)


def test_no_speed_up_without_one_card_or_with_two_settings_of_it(write):
    eight = write("8", whole(8, 1))
    assert summary_rows(grouped([eight])[0])[0].speedup is None
    two = [write("1a", whole(1, 1)), write("1b", whole(1, 1, recipe={"batch_size": 1})), eight]
    assert [row.speedup for row in summary_rows(grouped(two)[0])] == [None, None, None]


def test_benchmarks_are_kept_apart(write):
    runs = [write("a", whole(1, 1)), write("b", whole(1, 1, benchmark="bert_large"))]
    assert [groups[0].benchmark for groups in grouped(runs)] == ["resnet50", "bert_large"]


def test_runs_of_the_same_name_get_more_of_their_paths(tmp_path):
    runs = [whole(1, 1).write(tmp_path / folder / "run") for folder in "ab"]
    report = Report([read(path) for path in [*runs, runs[0]]], "en")
    assert [run.name for run in report.runs[1:2]] == ["b/run"]
    assert len({run.name for run in report.runs}) == 3
    assert report.runs[0].name.endswith("/a/run #1")


def test_split():
    assert split([{"a": 1, "b": 2}, {"a": 1, "b": 3, "c": None}]) == ({"a": 1}, [("b", [2, 3]), ("c", [None, None])])
    assert split([{"a": 1}]) == ({"a": 1}, [])
