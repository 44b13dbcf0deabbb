"""The settings of Wide&Deep: the recipe for UCI Adult, and the command's options."""

from __future__ import annotations

from dataclasses import dataclass

from airank_fast.errors import require
from airank_fast.recipes.options import Command, Request
from airank_fast.recipes.table_recipe import ADULT, TableRecipe, check
from airank_fast.recipes.table_recipe import TableOptions as Options
from airank_fast.tasks.wide_deep import TASK


@dataclass(frozen=True, kw_only=True)
class Recipe(TableRecipe):
    """See TableRecipe."""

    cross_buckets: int
    """Buckets into which each combination of columns is hashed, for the wide part; 0: no combinations."""


RECIPES = {"adult": Recipe(**ADULT, cross_buckets=1000)}


def defaults(request: Request, world_size: int) -> Recipe:
    """The recipe for the embedded table."""
    return RECIPES["adult"]


def finish(recipe: Recipe, options: Options) -> Recipe:
    """The recipe, checked."""
    check(recipe, options)
    require(recipe.cross_buckets >= 0, "--cross-buckets", "at least 0", recipe.cross_buckets)
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
