"""The settings of Wide&Deep: the recipe for UCI Adult, and the command's options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from airank_fast.errors import require
from airank_fast.recipes.options import Command, Request, option
from airank_fast.recipes.table_recipe import ADULT, TableRecipe, check
from airank_fast.recipes.table_recipe import TableOptions as Options
from airank_fast.tasks.wide_deep import TASK


@dataclass(frozen=True, kw_only=True)
class Recipe(TableRecipe):
    """See TableRecipe."""

    cross_buckets: int
    """Buckets into which each combination of columns is hashed, for the wide part; 0: no combinations."""
    wide_optimizer: Literal["adam", "ftrl"] = "adam"
    """Optimizer of the wide part; ftrl is the paper's. The rest is trained by Adam."""
    ftrl_learning_rate: float = 0.1
    """FTRL's learning rate."""
    ftrl_l1: float = 0.0
    """FTRL's L1 penalty: weights whose gradients add up to less are exactly 0."""
    ftrl_l2: float = 0.0
    """FTRL's L2 penalty."""


RECIPES = {"adult": Recipe(**ADULT, cross_buckets=1000)}


def defaults(request: Request, world_size: int) -> Recipe:
    """The recipe for the embedded table."""
    return RECIPES["adult"]


def finish(recipe: Recipe, options: Options) -> Recipe:
    """The recipe, checked."""
    check(recipe, options)
    for name in ("cross_buckets", "ftrl_l1", "ftrl_l2"):
        require(getattr(recipe, name) >= 0, option(name), "at least 0", getattr(recipe, name))
    if recipe.wide_optimizer == "ftrl":
        require(recipe.fused, "--wide-optimizer", "adam with --no-fused, as torch has no FTRL", "ftrl")
        for name in ("ftrl_learning_rate", "learning_rate"):
            require(getattr(recipe, name) > 0, option(name), "above 0", getattr(recipe, name))
    return recipe


COMMANDS = {
    "wide_deep": Command(
        text="Train Wide&Deep on UCI Adult, which comes with the package, to its target, in some seconds.",
        task=TASK,
        job="airank_fast.recipes.wide_deep",
        options=Options,
        recipes=RECIPES,
        defaults=defaults,
        finish=finish,
    )
}
