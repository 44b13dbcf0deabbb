"""HRNet for segmentation as a job for the engine; settings and options are in hrnet_options.py."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from airank_fast import job
from airank_fast.models.hrnet import HRNet
from airank_fast.recipes.checkpoints import load_into
from airank_fast.recipes.hrnet_options import RECIPES, WIDTHS, Options, Recipe
from airank_fast.recipes.segmentation_job import SegmentationJob
from airank_fast.tasks.hrnet import TASK

__all__ = ["RECIPES", "Job", "Options", "Recipe"]

_OF_OTHERS = ("incre_modules.", "downsamp_modules.", "final_layer.", "classifier.", "loss.")  # in official checkpoints


class Job(SegmentationJob):
    """HRNet as the engine runs it, for one resolved recipe: see airank_fast.job.Job."""

    task = TASK
    recipe: Recipe

    @property
    def benchmark(self) -> str:
        """hrnet_w18 or hrnet_w48; hrnet_mini for another network."""
        recipe, whole = self.recipe, RECIPES["cityscapes"]
        is_whole = (recipe.modules, recipe.blocks, recipe.stem) == (whole.modules, whole.blocks, whole.stem)
        return f"hrnet_w{recipe.width}" if is_whole and recipe.width in WIDTHS else "hrnet_mini"

    def network(self) -> HRNet:
        """The float32 network on the CPU; with --init-checkpoint its weights, the last layer's if it has them."""
        recipe = self.recipe
        model = HRNet(
            recipe.num_classes,
            width=recipe.width,
            modules=recipe.modules_of_stages,
            num_blocks=recipe.blocks,
            stem=recipe.stem,
            fused=recipe.fused,
        )
        if recipe.init_checkpoint:
            path = Path(recipe.init_checkpoint)
            load_into(model, path, renamed=_of_network, unused=_OF_OTHERS, fresh=("last_layer.",))
        return model


def _of_network(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of an official checkpoint of segmentation, in which the network is the part `model` of another."""
    return {name.removeprefix("model."): tensor for name, tensor in weights.items()}


if TYPE_CHECKING:
    _checked: type[job.Job] = Job
