"""The job of pix2pix: recipes, the two updates of a step, statistics of an evaluation, options out of range."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from airank_fast.data.images.domain_reader import PictureBatch
from airank_fast.engine.distributed import World
from airank_fast.engine.state import State
from airank_fast.errors import UserError
from airank_fast.recipes.command_line import parse, resolve
from airank_fast.recipes.pix2pix import Job

CPU = torch.device("cpu")
ALONE = World(0, 1, 0, 1, CPU)
TINY = ("--image-size=32", "--levels=3", "--width=4", "--discriminator-width=4", "--batch-size=4")


def job(*options: str) -> Job:
    request = parse(["pix2pix", *TINY, *options])
    return Job(resolve(request, "fp32", 1), request.options)


def test_the_recipe_by_data_and_name():
    given = [((), "edges"), (("--data", "x"), "cityscapes"), (("--recipe", "cityscapes"), "cityscapes")]
    for options, name in given:
        request = parse(["pix2pix", *options])
        recipe = resolve(request, "fp32", 1)
        assert recipe.name == name
        assert Job(recipe, request.options).benchmark == ("pix2pix_mini" if name == "edges" else "pix2pix")


def test_the_published_schedule():
    recipe = resolve(parse(["pix2pix", "--data", "x"]), "fp32", 1)
    assert (recipe.epochs, recipe.constant_epochs, recipe.batch_size, recipe.learning_rate) == (200, 100, 1, 2e-4)
    assert (recipe.image_size, recipe.load_size, recipe.flip, recipe.levels, recipe.width) == (256, 286, True, 8, 64)
    assert (recipe.adversarial_loss, recipe.l1_weight, recipe.pool_size, recipe.dropout) == ("bce", 100, 0, 0.5)
    assert (recipe.beta1, recipe.beta2, recipe.eval_statistics, recipe.target) == (0.5, 0.999, "picture", None)
    plan = SimpleNamespace(step_after=lambda epochs: round(10 * epochs), total_steps=2000)
    made = Job(recipe, parse(["pix2pix"]).options)
    rates = [made.learning_rate(step, plan) for step in (0, 1000, 1500, 1999)]
    assert rates == pytest.approx([2e-4, 2e-4, 1e-4, 2e-7])


@pytest.mark.parametrize("kind", ["bce", "least_squares"])
def test_a_step_is_that_of_the_generator_and_then_of_the_discriminator(kind):
    """Against plain torch, with its Adam; the discriminator sees what the generator has made before its update."""
    made = job("--adversarial-loss", kind, "--no-fused", "--l1-weight", "30")
    state = State(made, ALONE)
    batch = made.warm_up_batch(ALONE, CPU, torch.float32)
    generator, discriminator = (copy.deepcopy(state.networks[name]) for name in ("G", "D"))
    adams = [torch.optim.Adam(n.parameters(), 1e-3, (0.5, 0.999)) for n in (generator, discriminator)]

    def distance(logits, target):
        wanted = torch.full_like(logits, target)
        return (
            F.mse_loss(logits, wanted)
            if kind == "least_squares"
            else F.binary_cross_entropy_with_logits(logits, wanted)
        )

    for _ in range(2):
        losses = state.step([batch], learning_rate=1e-3).tolist()
        fake = generator(batch.a)
        judged = discriminator(torch.cat([batch.a, fake], 1))
        first = distance(judged, 1.0) + 30 * (fake - batch.b).abs().mean()
        generator.zero_grad()
        first.backward()
        adams[0].step()
        discriminator.zero_grad()
        logits = [discriminator(torch.cat([batch.a, b], 1)) for b in (batch.b, fake.detach())]
        second = 0.5 * (distance(logits[0], 1.0) + distance(logits[1], 0.0))
        second.backward()
        adams[1].step()
        assert losses == pytest.approx([first.item(), second.item()], rel=1e-4)
    for name, network in (("G", generator), ("D", discriminator)):
        torch.testing.assert_close(state.networks[name].state_dict(), network.state_dict(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "precision"),
    [
        (("--fused",), "bf16"),
        (("--no-fused",), "bf16"),
        (("--pool-size", "3"), "fp32"),
        (("--batch-size", "1"), "fp32"),
    ],
)
def test_steps_learn(options, precision):
    made = job(*options)
    made.recipe = replace(made.recipe, precision=precision)
    state = State(made, ALONE)
    batch = made.warm_up_batch(ALONE, CPU, state.dtype)
    losses = [state.step([batch], learning_rate=0.002).tolist() for _ in range(6)]
    assert [update.name for update in state.updates] == ["G", "D"]
    assert losses[-1][0] < 0.97 * losses[0][0]


def test_statistics_of_an_evaluation():
    """Of each picture alone, whatever the batch, or the running ones; neither changes the network."""
    pictures = torch.randn(3, 1, 32, 32)
    batch = PictureBatch(pictures, pictures, torch.arange(3), torch.ones(3, 2, dtype=torch.bool))
    outputs = {}
    for kind in ("picture", "running"):
        made = job("--eval-statistics", kind)
        networks = {"G": made.build()["G"].eval()}
        before = copy.deepcopy(networks["G"].state_dict())
        with torch.inference_mode():
            outputs[kind] = made.predict(networks, batch)
        assert all(torch.equal(t, before[name]) for name, t in networks["G"].state_dict().items())
        alone = networks["G"].train()(pictures[1:2])
        assert torch.allclose(outputs[kind][1:2], alone, atol=1e-5) == (kind == "picture")
    assert [example.picture.shape for example in made.examples(outputs["running"], batch)] == [(128, 384, 3)] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image-size", "36"], "--image-size: must be a multiple of 8, and at least 12 for 2 --discriminator-layers"),
        (["--discriminator-layers", "4"], "--image-size: must be a multiple of 8, and at least 48 for 4"),
        (["--load-size", "31"], "--load-size: must be at least the 32 of --image-size, got 31"),
        (["--levels", "1"], r"--levels: must be in \[2, 12\], got 1"),
        (["--channels", "2"], "--channels: must be 1 or 3, got 2"),
        (["--dropout", "1"], r"--dropout: must be in \[0, 1\), got 1"),
        (["--pool-size", "-1"], "--pool-size: must be at least 0, got -1"),
        (["--constant-epochs", "99"], r"--constant-epochs: must be in \[0, "),
        (["--beta1", "1"], r"--beta1: must be in \[0, 1\), got 1"),
        (["--l1-weight", "-1"], "--l1-weight: must be at least 0, got -1"),
        (["--epochs", "0"], "--epochs: must be at least 1, got 0"),
        (["--target", "0.07"], "--target: must be a metric and its value, such as l1=0.08.*, got 0.07"),
        (["--target", "fid=20"], "--target: must be of metrics of this run, l1, got fid"),
        (["--target", "translated=0.9"], "--target: must be of fid, l1, got translated"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(UserError, match=message):
        job(*options)
