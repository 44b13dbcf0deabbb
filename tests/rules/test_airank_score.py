"""AI-Rank's figures: two speed-ups with their efficiencies, coverage, and the composite score by its definition."""

from pathlib import Path

import pytest

from airank_fast.record.foreign.read import Run
from airank_fast.rules.airank_score import MODELS, REFERENCES, Weights, airank_result, model_of


def run(
    time2train,
    cards=1,
    model="resnet50",
    precision="fp16",
    system="Ubuntu 20.04",
    rate=100.0,
    name="run",
    target=0.759,
    samples=None,
    classes=None,
    **config,
):
    summary = {
        "comparable": True,
        "target": target,
        "benchmark": model,
        "world_size": cards,
        "precision": precision,
        "time2train": time2train,
        "avg_ips": rate,
        "best_accuracy": 0.76,
    }
    samples = samples or {"resnet50": 1_281_167, "bert_large": 156_725_653}.get(model, 50_000_000)
    events = [{"t": 0, "kind": "run_config", "benchmark": model, "target": target, **config}]
    events += [{"t": 0, "kind": "data", "train_samples": samples, "classes": classes}]
    events += [{"t": 0, "kind": "system", "operating_system": system}] if system else []
    return Run(Path(name), Path(name), "events", events, summary)


def test_speedup_between_numbers_of_cards():
    result = airank_result([run(1000.0), run(150.0, 8), run(60.0, 32), run(90.0, 8, precision="fp32"), run(None, 4)])
    found = {(row.precision, row.num_cards): (row.card_speedup, row.card_efficiency) for row in result.rows}
    assert found["amp", 8] == pytest.approx((1000 / 150, 1000 / 150 / 8))
    assert found["amp", 32] == pytest.approx((1000 / 60, 1000 / 60 / 32))
    assert found["amp", 1] == (1, 1)
    assert found["fp32", 8] == (None, None)  # there is no run on one card in fp32
    assert found["amp", 4] == (None, None)  # it did not reach its target


def test_speedup_by_precision_is_another_figure():
    runs = [run(1.0, rate=240.0, precision="bf16"), run(3.0, rate=80.0, precision="fp32"), run(2.0, 8, rate=9.0)]
    assert [(each.num_cards, each.speedup, each.efficiency) for each in airank_result(runs).amp] == [(1, 3, None)]
    assert airank_result(runs, amp_peak_ratio=8).amp[0].efficiency == pytest.approx(0.375)


def test_of_several_runs_the_median_one_is_shown():
    runs = [run(time, name=str(time), rate=time) for time in (30.0, 10.0, 20.0)]
    (row,) = airank_result(runs).rows
    assert (row.source, row.time2train, row.throughput, row.num_runs, row.num_reached) == ("20.0", 20.0, 20.0, 3, 3)
    (row,) = airank_result([*runs, run(None, name="not reached")]).rows
    assert (row.source, row.num_runs, row.num_reached) == ("30.0", 4, 3)


@pytest.mark.parametrize(("profile", "num_models"), [("2020-12", 14), ("2021-05", 11)])
def test_task_coverage(profile, num_models):
    runs = [
        run(1.0),
        run(1.0, model="bert_large"),
        run(1.0, model="tsm_tiny"),
        run(None, model="hrnet_w18"),
        run(1.0, model="made_up"),
    ]
    result = airank_result(runs, profile)
    assert result.models == ["BERT", "ResNet50"]
    assert result.composite.coverage == 2 / num_models == len(result.models) / len(MODELS[profile])


@pytest.mark.parametrize(
    ("texts", "systems", "share"),
    [
        (["Ubuntu 20.04", "Linux 5.4"], ["Linux"], 0.5),
        (["Windows 10", "CentOS 7"], ["Linux", "Windows"], 1.0),
        ([None], [], None),
        (["unknown"], [], None),
    ],
)
def test_operating_systems(texts, systems, share):
    result = airank_result([run(1.0, system=text) for text in texts])
    assert (result.operating_systems, result.composite.operating_systems) == (systems, share)


def test_the_composite_score_by_its_definition():
    half = REFERENCES["resnet50", 8] / 2
    result = airank_result([run(half, 8)]).composite
    assert result.performance == pytest.approx(2.0)
    assert result.score == pytest.approx(100 * 2.0**0.4 * (1 / 14) ** 0.4 * 0.5**0.2)
    assert (result.compared, result.without_reference) == (["resnet50 x8"], [])


def test_a_model_counts_once_for_any_number_of_card_counts():
    references = {("bert_large", 8): 100.0}
    runs = [run(REFERENCES["resnet50", cards], cards) for cards in (1, 8, 32)] + [run(25.0, 8, "bert_large")]
    assert airank_result(runs, references=references).composite.performance == pytest.approx(2.0)
    assert airank_result(runs).composite.without_reference == ["bert_large x8"]


def test_references_may_use_any_name_of_a_model():
    half = REFERENCES["resnet50", 8] / 2
    assert airank_result([run(half, 8, "ResNet-50", samples=1_281_167)]).composite.performance == pytest.approx(2.0)
    given = airank_result([run(25.0, 8, "bert_large")], references={("BERT", 8): 100.0}).composite
    assert (given.performance, given.without_reference) == (pytest.approx(4.0), [])


def test_the_ratio_of_two_systems_does_not_depend_on_the_references():
    """Twice the speed multiplies the score by the same factor for any references."""
    for references in ({}, {("resnet50", 8): 1.0}):
        slow, fast = (airank_result([run(time, 8)], references=references).composite.score for time in (200.0, 100.0))
        assert fast / slow == pytest.approx(2**0.4)


def test_a_part_without_weight_may_be_missing():
    no_system = run(REFERENCES["resnet50", 8], 8, system=None)
    assert airank_result([no_system]).composite.score is None
    weights = Weights(performance=1, coverage=1, operating_systems=0)
    assert airank_result([no_system], weights=weights).composite.score == pytest.approx(100 * (1 / 14) ** 0.5)


def test_nothing_reached_is_no_score():
    composite = airank_result([run(None, 8)]).composite
    assert (composite.coverage, composite.performance, composite.score) == (0, None, None)


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        ({"model": "bert_large", "target": 0.712}, True),
        ({"model": "bert_large", "target": 0.1, "samples": 100}, False),
        ({"model": "bert_large", "target": 0.711}, False),
        ({"model": "bert_large", "target": 0.72, "samples": 100}, False),
        ({"model": "tsm", "target": 0.711}, True),
        ({"model": "tsm", "target": 0.70}, False),  # blank in 2020-12: what the last document requires
        ({"model": "tsm", "target": 0.711, "samples": 1000}, False),
        ({"model": "resnet50", "target": 0.75}, False),
        ({"model": "resnet50", "samples": 1437}, False),
        ({"model": "resnet50", "classes": 1000}, True),
        ({"model": "resnet50", "classes": 10}, False),
        ({"model": "mask_rcnn", "target": 0.377}, True),  # a log with one number
        ({"model": "mask_rcnn", "target": 0.377, "task": {"target": {"box_ap": 0.377, "mask_ap": 0.339}}}, True),
        ({"model": "mask_rcnn", "target": 0.377, "task": {"target": {"box_ap": 0.377, "mask_ap": 0.3}}}, False),
        ({"model": "mask_rcnn", "target": 0.377, "task": {"target": {"box_ap": 0.377}}}, False),
        ({"model": "pix2pix", "target": 20.0}, True),  # no text names a target
        ({"model": "pix2pix", "target": 20.0, "samples": 400}, False),
        ({"model": "resnet18"}, False),
        ({"model": "ocr"}, False),  # in neither profile
    ],
)
def test_coverage_is_by_task_data_set_and_target(options, counts):
    (row,) = airank_result([run(10.0, 8, **options)]).rows
    assert row.is_task is counts
    assert airank_result([run(10.0, 8, **options)]).models == ([model_of(options["model"])] if counts else [])


@pytest.mark.parametrize("smaller", [{"target": 0.5}, {"samples": 1437}, {"model": "bert_mini"}])
def test_a_smaller_task_does_not_count(smaller):
    result = airank_result([run(10.0, 8, **smaller)])
    assert not result.rows[0].is_task
    assert (result.models, result.composite.performance, result.composite.score) == ([], None, None)
    rehearsal = airank_result([run(10.0, 8, **smaller)], own_targets=True)
    assert len(rehearsal.models) == 1
    assert rehearsal.composite.performance is None  # AI-Rank's references are not for it
