"""The settings of DeepFM: recipes for UCI Adult, for flights and for Criteo, and the command's options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from airank_fast.errors import require
from airank_fast.recipes import table_recipe
from airank_fast.recipes.options import Command, Request
from airank_fast.recipes.table_recipe import TableOptions
from airank_fast.recipes.table_recipe import TableRecipe as Recipe
from airank_fast.tasks.deepfm import TASK

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(**table_recipe.ADULT),
        Recipe(**table_recipe.FLIGHTS),
        Recipe(**table_recipe.AIRANK, embedding_std=0.01, target=TASK.headline_target("airank", "2021-05")),
        Recipe(
            **{**table_recipe.PADDLEREC, "epochs": 1},
            embedding_std=0.1 / 3,  # 0.1 over the root of the embedding's length
            target=0.78,  # what its models/rank/deepfm/config_bigdata.yaml reaches
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class Options(TableOptions):
    """See TableOptions."""

    table: Literal["adult", "flights"] | None = None
    """Without --data: the table that comes with the package, of people of 1994 by their income, or of flights from New
    York in 2013, with ids of 3,765 aeroplanes and 3,349 flights, by their delay; default: adult."""


def defaults(request: Request, world_size: int) -> Recipe:
    """The recipe by data, sizes and table."""
    options = request.options
    if options.table is None:
        return table_recipe.defaults(request, RECIPES)
    require(options.data is None and options.sizes is None, "--table", "left out with --data or --sizes", options.table)
    return RECIPES[options.table]


def finish(recipe: Recipe, options: Options) -> Recipe:
    """The recipe, checked."""
    table_recipe.check(recipe, options)
    return recipe


COMMANDS = {
    "deepfm": Command(
        text="Train DeepFM, with --data on Criteo's click logs. Without it: on UCI Adult, which comes with the "
        "package, to its target, in some seconds.",
        task=TASK,
        job="airank_fast.recipes.deepfm",
        options=Options,
        recipes=RECIPES,
        defaults=defaults,
        finish=finish,
        decides={"sizes": "name", "table": "name"},
    )
}
