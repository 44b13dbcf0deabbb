"""The settings of CycleGAN: recipes for embedded pictures and for Cityscapes, and the command's options.

The cityscapes recipe has junyanz's defaults for CycleGAN, which are the paper's, and PaddleGAN's: 200 epochs of batches
of one, learning rate 2e-4 that falls from epoch 100 on, least squares, cycle x 10, identity x 0.5 of it, a pool of 50,
random 256 x 256 windows of 286 x 286. No Cityscapes run has been made with it yet.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from airank_fast.errors import require
from airank_fast.recipes import gan_recipe
from airank_fast.recipes.gan_recipe import GanOptions, GanRecipe
from airank_fast.recipes.options import Command, Request, option
from airank_fast.tasks.cyclegan import TASK


@dataclass(frozen=True, kw_only=True)
class Recipe(GanRecipe):
    """See CommonRecipe."""

    blocks: int = 9
    """Residual blocks of a generator: 9 for pictures of 256 pixels, 6 for 128."""
    cycle_weight: float = 10.0
    """Weight of the mean absolute difference between a picture and what both generators make of it, there and back."""
    identity_weight: float = 0.5
    """Weight, as a part of --cycle-weight, of the difference between a picture and what the generator for its own
    domain makes of it; 0: without."""


CITYSCAPES = Recipe(**gan_recipe.CITYSCAPES, dropout=0.0, adversarial_loss="least_squares", pool_size=50)
SHOES = replace(
    CITYSCAPES,
    name="shoes",
    image_size=32,
    load_size=32,
    channels=1,
    blocks=3,
    width=8,
    discriminator_width=16,
    discriminator_layers=2,
    identity_weight=0.0,
    epochs=8,
    constant_epochs=4.0,
    batch_size=8,
    learning_rate=5e-4,
    eval_every=1,
    eval_batch_size=50,
    target={"to_a": 0.85, "to_b": 0.85, "cycle_l1": 0.07},
)
EDGES = replace(SHOES, name="edges", target={"l1": 0.19})
RECIPES = {recipe.name: recipe for recipe in (SHOES, EDGES, CITYSCAPES)}


@dataclass(frozen=True, kw_only=True)
class Options(GanOptions):
    """See RunOptions."""

    recipe: Literal["auto", "shoes", "edges", "cityscapes"] = "auto"
    """The schedule; auto takes shoes without --data and cityscapes with it. Without --data it is the data set too."""
    partners: bool = False
    """Pictures of one name in valA/ and valB/ (or testA/ and testB/) are partners: evaluate l1, the error against
    them. Training does not know them."""


def defaults(request: Request, world_size: int) -> Recipe:
    """The recipe by name, or by data."""
    name = request.options.recipe
    if name == "auto":
        name = "shoes" if request.options.data is None else "cityscapes"
    return RECIPES[name]


def finish(recipe: Recipe, options: Options) -> Recipe:
    """The recipe, checked."""
    gan_recipe.check(recipe, options, 4)
    require(recipe.blocks >= 1, "--blocks", "at least 1", recipe.blocks)
    for name in ("cycle_weight", "identity_weight"):
        require(getattr(recipe, name) >= 0, option(name), "at least 0", getattr(recipe, name))
    return recipe


COMMANDS = {
    "cyclegan": Command(
        text="Train CycleGAN to translate pictures without pairs. Without --data: sneakers and ankle boots, embedded, "
        "to their target, in a few minutes.",
        task=TASK,
        job="airank_fast.recipes.cyclegan",
        options=Options,
        recipes=RECIPES,
        defaults=defaults,
        finish=finish,
        decides={"recipe": "name"},
    )
}
