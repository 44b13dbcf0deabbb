"""The settings of Wide&Deep: recipes for UCI Adult and Criteo, and the command's options.

On Criteo the wide part has the 13 numbers alone, as AI-Rank's and PaddleRec's have. Their embeddings begin uniform in
[-1, 1]; here they are normal with the same variance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from airank_fast.errors import require
from airank_fast.recipes import table_recipe
from airank_fast.recipes.options import Command, Request, option
from airank_fast.recipes.table_recipe import TableOptions as Options
from airank_fast.recipes.table_recipe import TableRecipe
from airank_fast.tasks.wide_deep import TASK


@dataclass(frozen=True, kw_only=True)
class Recipe(TableRecipe):
    """See TableRecipe."""

    cross_buckets: int
    """Without --data: buckets into which each combination of columns is hashed, for the wide part; 0: none."""
    wide_optimizer: Literal["adam", "ftrl"] = "adam"
    """Optimizer of the wide part; ftrl is the paper's. The rest is trained by Adam."""
    ftrl_learning_rate: float = 0.1
    """FTRL's learning rate."""
    ftrl_l1: float = 0.0
    """FTRL's L1 penalty: weights whose gradients add up to less are exactly 0."""
    ftrl_l2: float = 0.0
    """FTRL's L2 penalty."""


_CRITEO: dict[str, Any] = {"embedding_std": 3**-0.5, "cross_buckets": 0}
RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(**table_recipe.ADULT, cross_buckets=1000),
        Recipe(**table_recipe.AIRANK, **_CRITEO, target=TASK.headline_target("airank", "2021-05")),
        Recipe(
            **{**table_recipe.PADDLEREC, "hidden": "512-256-128-32", "epochs": 4},
            **_CRITEO,
            target=0.79,  # what its models/rank/wide_deep/config_bigdata.yaml reaches
        ),
    )
}


def defaults(request: Request, world_size: int) -> Recipe:
    """The recipe by data and sizes."""
    return table_recipe.defaults(request, RECIPES)


def finish(recipe: Recipe, options: Options) -> Recipe:
    """The recipe, checked."""
    table_recipe.check(recipe, options)
    for name in ("cross_buckets", "ftrl_l1", "ftrl_l2"):
        require(getattr(recipe, name) >= 0, option(name), "at least 0", getattr(recipe, name))
    if recipe.wide_optimizer == "ftrl":
        require(recipe.fused, "--wide-optimizer", "adam with --no-fused, as torch has no FTRL", "ftrl")
        for name in ("ftrl_learning_rate", "learning_rate"):
            require(getattr(recipe, name) > 0, option(name), "above 0", getattr(recipe, name))
    crossed = options.data is not None and recipe.cross_buckets
    require(not crossed, "--cross-buckets", "0 with --data", recipe.cross_buckets)
    return recipe


COMMANDS = {
    "wide_deep": Command(
        text="Train Wide&Deep, with --data on Criteo's click logs. Without it: on UCI Adult, which comes with the "
        "package, to its target, in some seconds.",
        task=TASK,
        job="airank_fast.recipes.wide_deep",
        options=Options,
        recipes=RECIPES,
        defaults=defaults,
        finish=finish,
        decides={"sizes": "name"},
    )
}
