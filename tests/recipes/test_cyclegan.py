"""The job of CycleGAN: recipes, the three updates of a step, pools, metrics, options out of range."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import islice

import pytest
import torch

from airank_fast.engine.distributed import World
from airank_fast.engine.state import State
from airank_fast.errors import UserError
from airank_fast.recipes.command_line import parse, resolve
from airank_fast.recipes.cyclegan import Job

CPU = torch.device("cpu")
ALONE = World(0, 1, 0, 1, CPU)
NAMES = ("G_A", "G_B", "D_A", "D_B")
TINY = ("--width=4", "--blocks=1", "--discriminator-width=4", "--batch-size=2", "--workers=1")


def job(*options: str) -> Job:
    request = parse(["cyclegan", *TINY, *options])
    return Job(resolve(request, "fp32", 1), request.options)


def test_the_recipe_by_data_and_name():
    given = [((), "shoes"), (("--data", "x"), "cityscapes"), (("--recipe", "edges"), "edges")]
    for options, name in given:
        request = parse(["cyclegan", *options])
        recipe = resolve(request, "fp32", 1)
        assert recipe.name == name
        assert Job(recipe, request.options).benchmark == ("cyclegan" if name == "cityscapes" else "cyclegan_mini")


def test_the_published_schedule():
    recipe = resolve(parse(["cyclegan", "--data", "x"]), "fp32", 1)
    assert (recipe.epochs, recipe.constant_epochs, recipe.batch_size, recipe.learning_rate) == (200, 100, 1, 2e-4)
    assert (recipe.image_size, recipe.load_size, recipe.flip, recipe.blocks, recipe.width) == (256, 286, True, 9, 64)
    assert (recipe.adversarial_loss, recipe.cycle_weight, recipe.identity_weight) == ("least_squares", 10, 0.5)
    assert (recipe.pool_size, recipe.dropout, recipe.beta1, recipe.target) == (50, 0, 0.5, None)


def test_a_step_is_that_of_the_generators_and_then_of_each_discriminator():
    """Against plain torch, with its Adam and a pool by hand."""
    made = job("--no-fused", "--pool-size", "2", "--cycle-weight", "7", "--identity-weight", "0.25")
    state = State(made, ALONE)
    g_a, g_b, d_a, d_b = networks = [copy.deepcopy(state.networks[name]) for name in NAMES]
    parts = [[*g_a.parameters(), *g_b.parameters()], d_a.parameters(), d_b.parameters()]
    adams = [torch.optim.Adam(part, 1e-3, (0.5, 0.999)) for part in parts]
    made.train_stream(8, ALONE)
    pools: list[list] = [[], []]
    batch = made.warm_up_batch(ALONE, CPU, torch.float32)
    for fills in (True, False):
        if not fills:
            batch = replace(batch, slots=torch.tensor([1, 0]), kept=torch.tensor([True, False]))
            batch.old = batch.kept
        losses = state.step([batch], learning_rate=1e-3).tolist()
        a, b = batch.a, batch.b
        fake_b, fake_a = g_a(a), g_b(b)
        cycle = (g_b(fake_b) - a).abs().mean() + (g_a(fake_a) - b).abs().mean()
        same = (g_a(b) - b).abs().mean() + (g_b(a) - a).abs().mean()
        fooling = (d_a(fake_b) - 1).square().mean() + (d_b(fake_a) - 1).square().mean()
        expected = [fooling + 7 * cycle + 7 * 0.25 * same]
        step(expected[0], adams[0], networks)
        pairs = ((d_a, b, fake_b, pools[0]), (d_b, a, fake_a, pools[1]))
        for (tells, real, fake, pool), adam in zip(pairs, adams[1:], strict=True):
            seen = fake.detach()
            if fills:
                pool.append(seen)
            else:
                seen = torch.stack([pool[0][1], seen[1]])
            expected.append(0.5 * ((tells(real) - 1).square().mean() + tells(seen).square().mean()))
            step(expected[-1], adam, networks)
        assert losses == pytest.approx([loss.item() for loss in expected], rel=1e-4)
        assert torch.allclose(made.pools["pool_b"].pictures[1], fake_b[1 if fills else 0], atol=1e-4)
    for name, network in zip(NAMES, networks, strict=True):  # biases before an instance norm have gradients of rounding
        ours, theirs = (
            {k: t for k, t in n.state_dict().items() if t.ndim > 1} for n in (state.networks[name], network)
        )
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-4)


def step(loss, adam, networks) -> None:
    for network in networks:
        network.zero_grad()
    loss.backward()
    adam.step()


@pytest.mark.parametrize(
    ("options", "precision"),
    [
        (("--fused",), "bf16"),
        (("--no-fused", "--identity-weight", "0"), "fp32"),
        (("--dropout", "0.5", "--batch-size", "1"), "fp32"),
    ],
)
def test_steps_learn(options, precision):
    made = job(*options)
    made.recipe = replace(made.recipe, precision=precision)
    state = State(made, ALONE)
    batch = made.warm_up_batch(ALONE, CPU, state.dtype)
    losses = [state.step([batch], learning_rate=0.002).tolist() for _ in range(6)]
    assert [update.name for update in state.updates] == ["G", "D_A", "D_B"]
    assert losses[-1][0] < 0.97 * losses[0][0]


def test_what_is_pooled_is_a_function_of_the_step():
    """A resumed run goes on with the same exchanges, by its count of pictures."""
    made = job("--pool-size", "4")
    data = made.open_data(ALONE, CPU, torch.float32)
    assert (data["train_samples"], data["eval_samples"]) == (800, 200)
    assert min(data["classifier"].values()) > 0.9
    through = list(islice(made.train_batches(0), 5))
    made.load_state({"pooled": 8})
    batch = next(iter(made.train_batches(4)))
    made.close()
    for name, tensor in through[4].tensors().items():
        assert torch.equal(tensor, batch.tensors()[name]), name
    noise = made.warm_up_batch(ALONE, CPU, torch.float32)
    for name, tensor in noise.tensors().items():
        found = batch.tensors()[name]
        assert (found.dtype, found.shape, found.stride()) == (tensor.dtype, tensor.shape, tensor.stride()), name
    assert through[0].slots.tolist() == [0, 1]
    assert through[1].slots.tolist() == [2, 3]


def test_what_the_run_measures():
    def metrics(*options: str) -> list[str]:
        return [metric.name for metric in job(*options).task.metrics]

    assert metrics() == ["translated", "to_a", "to_b", "cycle_l1"]
    assert metrics("--recipe", "edges") == ["translated", "to_a", "to_b", "l1", "cycle_l1"]
    assert metrics("--data", "x", "--inception", "y")[0] == "fid"
    assert "l1" in metrics("--data", "x", "--partners")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image-size", "34", "--load-size", "34"], "--image-size: must be a multiple of 4, and at least 12"),
        (["--blocks", "0"], "--blocks: must be at least 1, got 0"),
        (["--cycle-weight", "-1"], "--cycle-weight: must be at least 0, got -1"),
        (["--target", "l1=0.1"], "--target: must be of metrics of this run, cycle_l1, to_a, to_b, translated, got l1"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(UserError, match=message):
        job(*options)
