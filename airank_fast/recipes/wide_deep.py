"""Wide&Deep as a job for the engine; settings and options are in wide_deep_options.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from airank_fast import job
from airank_fast.data.tables import Table, adult
from airank_fast.models.wide_deep import WideDeep
from airank_fast.recipes.table_job import TableJob
from airank_fast.recipes.wide_deep_options import RECIPES, Options, Recipe
from airank_fast.tasks.wide_deep import TASK

__all__ = ["RECIPES", "Job", "Options", "Recipe"]


class Job(TableJob):
    """Wide&Deep as the engine runs it, for one resolved recipe: see airank_fast.job.Job."""

    task = TASK
    recipe: Recipe

    @property
    def slots(self) -> Mapping[str, int]:
        """The table's columns and the crosses."""
        return {**adult.SLOTS, **self.crosses}

    @property
    def crosses(self) -> dict[str, int]:
        """The combined columns, which the wide part alone takes."""
        return {"_x_".join(names): self.recipe.cross_buckets for names in adult.CROSSES if self.recipe.cross_buckets}

    def network(self) -> WideDeep:
        """The float32 network with random initial weights, on the CPU."""
        recipe = self.recipe
        return WideDeep(
            adult.SLOTS,
            len(adult.NUMBERS),
            embedding_dim=recipe.embedding_dim,
            hidden=recipe.widths,
            crosses=self.crosses,
            embedding_std=recipe.embedding_std,
        )

    def table(self) -> Table:
        """The embedded table and its crosses."""
        buckets = self.recipe.cross_buckets
        return adult.load().crossed(adult.CROSSES, buckets) if buckets else adult.load()


if TYPE_CHECKING:
    _checked: type[job.Job] = Job
