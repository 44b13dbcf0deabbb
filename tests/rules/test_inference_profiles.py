"""The rule sets of inference: what each number means for a run."""

import pytest

from airank_fast import tasks
from airank_fast.rules.early_stopping import required_queries
from airank_fast.rules.inference_profiles import (
    PROFILES,
    SCENARIOS,
    Bound,
    bounds,
    compliance_of,
    every_bound,
    models_of,
    scenario_of,
)


def test_numbers_of_queries_are_those_of_early_stopping():
    for name in ("v6.1", "v4.0"):
        scenarios = PROFILES[name].scenarios
        assert tuple(scenarios) == SCENARIOS
        assert scenarios["singlestream"].min_queries == required_queries(0.90, 1)
        assert scenarios["multistream"].min_queries == required_queries(0.99, 1)
        assert scenarios["server"].min_queries == required_queries(0.99)
        assert {each.min_duration_s for each in scenarios.values()} == {600.0}


def test_every_profile():
    for name, profile in PROFILES.items():
        assert profile.name == name
        assert profile.source
        assert bool(profile.scenarios) == name.startswith(("v", "paper"))
        assert (len(set(profile.seeds)) == 3) == bool(profile.scenarios)
    assert len({profile.seeds for profile in PROFILES.values() if profile.scenarios}) == 3
    assert PROFILES["v4.0"].test05_seeds not in [profile.seeds for profile in PROFILES.values()]


def test_offline_samples_of_a_task():
    profile = PROFILES["v6.1"]
    assert scenario_of(profile, "offline", "bert_squad").min_queries == 10_833
    assert scenario_of(profile, "offline", "resnet50").min_queries == 24_576
    assert scenario_of(profile, "offline", "hrnet").min_queries == 24_576
    assert scenario_of(profile, "server", "bert_squad") is profile.scenarios["server"]
    assert scenario_of(PROFILES["paper"], "multistream", "bert_squad") is None
    assert scenario_of(PROFILES["flagperf"], "offline", "bert_squad") is None


@pytest.mark.parametrize(
    ("task", "profile", "device", "required", "latency_ms"),
    [
        ("resnet50", "v6.1", "cloud", 0.756954, 15.0),
        ("bert_squad", "v4.0", "cloud", 0.8996526, 130.0),
        ("resnet50", "airank-2021-05", "cloud", 0.7534, 15.0),  # 0.753390, rounded at the fifth digit
        ("resnet50", "airank-2020-12", "cloud", 0.7574, 15.0),  # 0.75735
        ("transformer", "airank-2021-05", "cloud", 24.75, 130.0),
        ("resnet50", "airank-2021-05", "mobile", 0.7534, 1100.0),
        ("hrnet", "airank-2021-05", "mobile", 0.7722, None),
        ("deeplabv3plus", "airank-2020-12", "mobile", 0.7255, 1000.0),  # 0.725472
    ],
)
def test_bounds(task, profile, device, required, latency_ms):
    bound = bounds(task, profile, device)
    assert bound.required == required
    assert bound.required >= bound.exact
    assert bound.latency_ms == latency_ms


def test_the_document_s_own_example_of_rounding():
    bound = Bound("top1", 76.46, 0.99, None, "AI-Rank", is_rounded=True)
    assert (bound.exact, bound.required) == (75.6954, 75.70)
    assert Bound("top1", 76.46, 0.99, None, "MLPerf").required == 75.6954


def test_a_bound_by_counts():
    bound = bounds("resnet50", "v6.1")
    assert bound.least_correct(50_000) == 37_848  # 37,847.7
    assert bound.least_correct(0) == 0
    assert Bound("top1", 0.5, 1.0, None, "").least_correct(10) == 5
    assert bound.is_reached(0.756954)
    assert not bound.is_reached(0.7569)
    assert not bound.is_reached(float("nan"))


def test_two_metrics_of_a_model():
    assert [each.metric for each in every_bound("mask_rcnn", "airank-2021-05")] == ["box_ap", "mask_ap"]
    assert every_bound("mask_rcnn", "v6.1") == ()
    assert bounds("word2vec", "v6.1") is None
    assert bounds("resnet50", "flagperf") is None


def test_metrics_are_those_of_the_tasks():
    for profile in PROFILES:
        for name in models_of(profile):
            task = tasks.find(name)
            assert task.name == name
            for bound in every_bound(name, profile):
                assert task.metric(bound.metric)


def test_the_texts_list_eight_mobile_models():
    assert len(models_of("airank-2021-05", "mobile")) == len(models_of("airank-2020-12", "mobile")) == 8
    assert len(models_of("airank-2021-05")) == len(models_of("airank-2020-12")) == 6
    assert models_of("flagperf") == ()


def test_compliance():
    assert compliance_of(PROFILES["v6.1"], "resnet50") == ("TEST01", "TEST04")
    assert compliance_of(PROFILES["v4.0"], "bert_squad") == ("TEST01", "TEST05")
    assert compliance_of(PROFILES["v6.1"], "hrnet") == ()
