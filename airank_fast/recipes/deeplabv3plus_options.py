"""The settings of DeepLabv3+: recipes for scenes of embedded digits and for Cityscapes, and the command's options.

The digit_objects recipe, of a small network, is for two CPU cores. The cityscapes recipe has the schedule of
mmsegmentation's deeplabv3plus_r50-d8_512x1024_80k_cityscapes, at output stride 16. No Cityscapes run has been made with
it yet.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from airank_fast.errors import require
from airank_fast.recipes import segmentation_recipe
from airank_fast.recipes.options import Command, Request, check_counts, option
from airank_fast.recipes.segmentation_recipe import SegmentationOptions, SegmentationRecipe
from airank_fast.tasks.deeplabv3plus import TASK


@dataclass(frozen=True, kw_only=True)
class Recipe(SegmentationRecipe):
    """See CommonRecipe."""

    blocks: str = "3-4-6-3"
    """Blocks of the backbone's four stages; 3-4-6-3 is ResNet-50, 3-4-23-3 ResNet-101. A stage of 0 is left out."""
    width: int = 64
    """Channels of the 3x3 convolutions of its first stage."""
    decoder_width: int = 256
    """Channels of the pyramid and the decoder."""
    shortcut_width: int = 48
    """Channels that the decoder gets from the first stage."""
    output_stride: Literal[8, 16] = 16
    """Pixels of the picture for one of the last stage. 8 is slower and somewhat better."""
    rates: str = "6-12-18"
    """Dilations of the pyramid. Default with --data and output stride 8: 12-24-36."""
    dropout: float = 0.1
    """Share of the pyramid's values that is dropped."""

    @property
    def blocks_of_stages(self) -> tuple[int, int, int, int]:
        """The numbers of --blocks."""
        first, second, third, last = map(int, self.blocks.split("-"))
        return first, second, third, last

    @property
    def dilations(self) -> tuple[int, ...]:
        """The dilations of the pyramid."""
        return tuple(map(int, self.rates.split("-")))


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            **segmentation_recipe.DIGIT_OBJECTS,
            blocks="1-1-1-0",
            width=16,
            decoder_width=24,
            shortcut_width=16,
            output_stride=8,
            rates="1-2-3",
            dropout=0.0,
            target=0.6,
        ),
        Recipe(**segmentation_recipe.CITYSCAPES, target=TASK.headline_target("airank", "2021-05")),
    )
}


@dataclass(frozen=True, kw_only=True)
class Options(SegmentationOptions):
    """See SegmentationOptions."""


def defaults(request: Request, world_size: int) -> Recipe:
    """The recipe by data, with the pyramid's dilations for a given output stride."""
    base = segmentation_recipe.defaults(request, RECIPES)
    if "output_stride" in request.given and request.recipe.output_stride == 8 and base.name == "cityscapes":
        return replace(base, rates="12-24-36")
    return base


def finish(recipe: Recipe, options: Options) -> Recipe:
    """The recipe, checked."""
    segmentation_recipe.check(recipe, options)
    check_counts(recipe, ("width", "decoder_width", "shortcut_width"))
    for name, numbers in (("blocks", 4), ("rates", 3)):
        text = getattr(recipe, name)
        sound = re.fullmatch(rf"\d{{1,4}}(-\d{{1,4}}){{{numbers - 1}}}", text, re.ASCII)
        require(sound, option(name), f"{numbers} numbers, as {getattr(Recipe, name)}", repr(text))
    require(recipe.blocks_of_stages[0], "--blocks", "of at least 1 in the first stage", repr(recipe.blocks))
    require(0 not in recipe.dilations, "--rates", "of at least 1", repr(recipe.rates))
    require(0 <= recipe.dropout < 1, "--dropout", "in [0, 1)", recipe.dropout)
    return recipe


COMMANDS = {
    "deeplabv3plus": Command(
        text="Train DeepLabv3+ to segment pictures. Without --data: a small network on scenes of embedded digits, to "
        "its target, in a minute or two.",
        task=TASK,
        job="airank_fast.recipes.deeplabv3plus",
        options=Options,
        recipes=RECIPES,
        defaults=defaults,
        finish=finish,
    )
}
