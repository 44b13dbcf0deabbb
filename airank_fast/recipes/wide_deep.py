"""Wide&Deep as a job for the engine; settings and options are in wide_deep_options.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

from airank_fast import job
from airank_fast.data.tables import Table, adult
from airank_fast.models.wide_deep import WideDeep
from airank_fast.optim import CombinedOptimizer, FusedFTRL
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
        """See TableJob.slots; with the crosses."""
        return {**super().slots, **self.crosses}

    @property
    def crosses(self) -> dict[str, int]:
        """The combined columns, which the wide part alone takes."""
        return {"_x_".join(names): self.recipe.cross_buckets for names in adult.CROSSES if self.recipe.cross_buckets}

    def network(self) -> WideDeep:
        """The float32 network with random initial weights, on the CPU."""
        recipe = self.recipe
        return WideDeep(
            super().slots,
            self.num_numbers,
            embedding_dim=recipe.embedding_dim,
            hidden=recipe.widths,
            crosses=self.crosses,
            embedding_std=recipe.embedding_std,
            columns=self.num_columns - len(self.crosses),
            wide_ids=not self.is_hashed,
            sparse=self.sparse,
        )

    def build_optimizer(self, model: nn.Module, device: torch.device) -> torch.optim.Optimizer:
        """Adam of all weights, or of all but the wide part, and FTRL of that."""
        recipe = self.recipe
        if recipe.wide_optimizer == "adam":
            return super().build_optimizer(model, device)
        wide = list(model.get_submodule("linear_model").parameters())
        others = {id(parameter) for parameter in wide}
        deep = [parameter for parameter in model.parameters() if id(parameter) not in others]
        group = {"params": wide, "lr_factor": recipe.ftrl_learning_rate / recipe.learning_rate}
        lr = torch.zeros((), dtype=torch.float32, device=device)
        return CombinedOptimizer(
            FusedFTRL([group], lr, l1=recipe.ftrl_l1, l2=recipe.ftrl_l2), self.adam(model, deep, device)
        )

    def table(self) -> Table:
        """The embedded table and its crosses."""
        table, buckets = super().table(), self.recipe.cross_buckets
        return table.crossed(adult.CROSSES, buckets) if buckets else table


if TYPE_CHECKING:
    _checked: type[job.Job] = Job
