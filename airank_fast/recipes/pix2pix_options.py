"""The settings of pix2pix: recipes for edges of embedded pictures and for Cityscapes, and the command's options.

The cityscapes recipe has junyanz's defaults for pix2pix, which are the paper's, and PaddleGAN's: 200 epochs of batches
of one, learning rate 2e-4 that falls from epoch 100 on, cross entropy, L1 x 100, random 256 x 256 windows of 286 x 286.
No Cityscapes run has been made with it yet.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from airank_fast.errors import require
from airank_fast.recipes import gan_recipe
from airank_fast.recipes.gan_recipe import GanOptions, GanRecipe
from airank_fast.recipes.options import Command, Request
from airank_fast.tasks.pix2pix import TASK


@dataclass(frozen=True, kw_only=True)
class Recipe(GanRecipe):
    """See CommonRecipe."""

    levels: int = 8
    """Levels of the U-Net, each with half of the pixels a side: 8 for pictures of 256 pixels."""
    l1_weight: float = 100.0
    """Weight of the mean absolute difference from the true picture, beside the adversarial loss."""
    eval_statistics: Literal["running", "picture"] = "picture"
    """Statistics of batch norm in an evaluation: of each picture alone, as published networks are tested, or the
    running ones of training, for batches of many pictures."""


CITYSCAPES = Recipe(**gan_recipe.CITYSCAPES, dropout=0.5, adversarial_loss="bce", pool_size=0)
EDGES = replace(
    CITYSCAPES,
    name="edges",
    image_size=32,
    load_size=32,
    channels=1,
    levels=5,
    width=24,
    discriminator_width=24,
    discriminator_layers=2,
    epochs=4,
    constant_epochs=2.0,
    batch_size=16,
    eval_every=1,
    eval_batch_size=50,
    eval_statistics="running",
    target={"l1": 0.075},
)
RECIPES = {recipe.name: recipe for recipe in (EDGES, CITYSCAPES)}


@dataclass(frozen=True, kw_only=True)
class Options(GanOptions):
    """See RunOptions."""

    recipe: Literal["auto", "edges", "cityscapes"] = "auto"
    """The schedule; auto takes edges without --data and cityscapes with it."""
    direction: Literal["AtoB", "BtoA"] = "AtoB"
    """AtoB makes the right half of a file of the left one, BtoA the left half of the right one."""


def defaults(request: Request, world_size: int) -> Recipe:
    """The recipe by name, or by data."""
    name = request.options.recipe
    if name == "auto":
        name = "edges" if request.options.data is None else "cityscapes"
    return RECIPES[name]


def finish(recipe: Recipe, options: Options) -> Recipe:
    """The recipe, checked."""
    require(2 <= recipe.levels <= 12, "--levels", "in [2, 12]", recipe.levels)
    gan_recipe.check(recipe, options, 2**recipe.levels)
    require(recipe.l1_weight >= 0, "--l1-weight", "at least 0", recipe.l1_weight)
    return recipe


COMMANDS = {
    "pix2pix": Command(
        text="Train pix2pix to make pictures of pictures. Without --data: photographs from edges of embedded pictures, "
        "to its target, in a minute or two.",
        task=TASK,
        job="airank_fast.recipes.pix2pix",
        options=Options,
        recipes=RECIPES,
        defaults=defaults,
        finish=finish,
        decides={"recipe": "name"},
    )
}
