"""DeepFM as a job for the engine; settings and options are in deepfm_options.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airank_fast import job
from airank_fast.models.deepfm import DeepFM
from airank_fast.recipes.deepfm_options import RECIPES, Options, Recipe
from airank_fast.recipes.table_job import TableJob
from airank_fast.tasks.deepfm import TASK

__all__ = ["RECIPES", "Job", "Options", "Recipe"]


class Job(TableJob):
    """DeepFM as the engine runs it, for one resolved recipe: see airank_fast.job.Job."""

    task = TASK
    recipe: Recipe

    def network(self) -> DeepFM:
        """The float32 network with random initial weights, on the CPU."""
        recipe = self.recipe
        return DeepFM(
            self.slots,
            self.num_numbers,
            embedding_dim=recipe.embedding_dim,
            hidden=recipe.widths,
            embedding_std=recipe.embedding_std,
            columns=self.num_columns,
            embed_numbers=self.is_hashed,
            sparse=self.sparse,
            fused=recipe.fused,
        )


if TYPE_CHECKING:
    _checked: type[job.Job] = Job
