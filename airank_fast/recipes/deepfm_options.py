"""The settings of DeepFM: the recipe for UCI Adult, and the command's options."""

from __future__ import annotations

from airank_fast.recipes.options import Command, Request
from airank_fast.recipes.table_recipe import ADULT, check
from airank_fast.recipes.table_recipe import TableOptions as Options
from airank_fast.recipes.table_recipe import TableRecipe as Recipe
from airank_fast.tasks.deepfm import TASK

RECIPES = {"adult": Recipe(**ADULT)}


def defaults(request: Request, world_size: int) -> Recipe:
    """The recipe for the embedded table."""
    return RECIPES["adult"]


def finish(recipe: Recipe, options: Options) -> Recipe:
    """The recipe, checked."""
    check(recipe, options)
    return recipe


COMMANDS = {
    "deepfm": Command(
        text="Train DeepFM on UCI Adult, which comes with the package, to its target, in some seconds.",
        task=TASK,
        job="airank_fast.recipes.deepfm",
        options=Options,
        recipes=RECIPES,
        defaults=defaults,
        finish=finish,
    )
}
