"""DeepLabv3+ as a job for the engine; settings and options are in deeplabv3plus_options.py."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from airank_fast import job
from airank_fast.models.deeplabv3plus import DeepLabV3Plus
from airank_fast.recipes.checkpoints import load_into
from airank_fast.recipes.deeplabv3plus_options import RECIPES, Options, Recipe
from airank_fast.recipes.segmentation_job import SegmentationJob
from airank_fast.tasks.deeplabv3plus import TASK

__all__ = ["RECIPES", "Job", "Options", "Recipe"]


class Job(SegmentationJob):
    """DeepLabv3+ as the engine runs it, for one resolved recipe: see airank_fast.job.Job."""

    task = TASK
    recipe: Recipe

    @property
    def benchmark(self) -> str:
        """deeplabv3plus, or deeplabv3plus_mini where the backbone is smaller than ResNet-50."""
        whole = RECIPES["cityscapes"]
        is_whole = (self.recipe.width, self.recipe.blocks) == (whole.width, whole.blocks)
        return TASK.name if is_whole else f"{TASK.name}_mini"

    def network(self) -> DeepLabV3Plus:
        """The float32 network on the CPU; with --init-checkpoint the weights of its backbone, or all."""
        recipe = self.recipe
        model = DeepLabV3Plus(
            recipe.num_classes,
            blocks=recipe.blocks_of_stages,
            base_width=recipe.width,
            channels=recipe.decoder_width,
            low_level=recipe.shortcut_width,
            output_stride=recipe.output_stride,
            rates=recipe.dilations,
            dropout=recipe.dropout,
            fused=recipe.fused,
        )
        if recipe.init_checkpoint:
            path = Path(recipe.init_checkpoint)
            load_into(model, path, renamed=_of_network, unused=("fc.",), fresh=("classifier.",))
        return model


def _of_network(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The network's weights of those of a backbone; those of a network are returned as they are."""
    if any(name.startswith("backbone.") for name in weights):
        return weights
    return {f"backbone.{name}": tensor for name, tensor in weights.items()}


if TYPE_CHECKING:
    _checked: type[job.Job] = Job
