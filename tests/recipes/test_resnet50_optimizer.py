"""--optimizer of the ResNet-50 recipe: which optimizer is built, with which rate, and what is reported."""

from __future__ import annotations

import pytest
import torch
from record.conftest import LARS, SGD

from airank_fast.engine.plan import Plan
from airank_fast.models.resnet import resnet50
from airank_fast.optim import FusedLARS, FusedSGD
from airank_fast.recipes import resnet50 as recipe_file
from airank_fast.recipes.command_line import parse, resolve


def job(**options):
    given = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    request = parse(["resnet50", "--reader", "synthetic", *given])
    return recipe_file.Job(resolve(request, "bf16", 1), request.options)


@pytest.mark.parametrize(("optimizer", "kind"), [("sgd", FusedSGD), ("lars", FusedLARS)])
def test_decay_and_trust_ratio_are_for_weights_only(optimizer, kind):
    made = job(optimizer=optimizer)
    groups = made.build_optimizer(resnet50(10), torch.device("cpu")).param_groups
    assert type(made.build_optimizer(resnet50(10), torch.device("cpu"))) is kind
    assert [group["weight_decay"] for group in groups] == [made.recipe.weight_decay, 0.0]
    assert [group.get("is_skipped", False) for group in groups] == [False, optimizer == "lars"]
    assert all(p.ndim > 1 for p in groups[0]["params"])
    assert all(p.ndim == 1 for p in groups[1]["params"])


def test_learning_rates_go_through_mlperfs_reference_points():
    for batch_size, rate in ((1632, 7.4), (3264, 10.5)):
        assert job(optimizer="lars", batch_size=batch_size).recipe.learning_rate == pytest.approx(rate, rel=0.01)
        assert job(batch_size=batch_size).recipe.learning_rate == pytest.approx(0.001 * batch_size)
    assert job(optimizer="lars", learning_rate=3.0).recipe.learning_rate == 3.0


@pytest.mark.parametrize(("optimizer", "keys"), [("sgd", SGD), ("lars", LARS)])
def test_the_keys_that_mlperf_requires_are_reported(optimizer, keys):
    made = job(optimizer=optimizer)
    plan = Plan(made.schedule(), samples_per_epoch=100_000, batch_size=256, world_size=1)
    assert made.reported(plan).keys() == keys.keys()
