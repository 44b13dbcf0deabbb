"""The settings of HRNet: recipes for scenes of embedded digits and for Cityscapes, and the command's options.

The digit_objects recipe, of a small network, is for two CPU cores. The cityscapes recipe has the schedule of
mmsegmentation's fcn_hr18_512x1024_80k_cityscapes, by which AI-Rank's own result was made. No Cityscapes run has been
made with it yet.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from airank_fast.errors import require
from airank_fast.recipes import segmentation_recipe
from airank_fast.recipes.options import Command, Request, check_counts
from airank_fast.recipes.segmentation_recipe import SegmentationOptions, SegmentationRecipe
from airank_fast.tasks.hrnet import TASK

WIDTHS = (18, 48)
"""Of the networks that have published checkpoints."""


@dataclass(frozen=True, kw_only=True)
class Recipe(SegmentationRecipe):
    """See CommonRecipe."""

    width: int = 18
    """Channels at the highest resolution: 18 or 48 for published networks."""
    modules: str = "1-4-3"
    """Modules of the stages with two, three and four resolutions."""
    blocks: int = 4
    """Blocks of each resolution in a module, and of the first stage."""
    stem: int = 64
    """Channels of the first two convolutions."""

    @property
    def modules_of_stages(self) -> tuple[int, int, int]:
        """The numbers of --modules."""
        two, three, four = map(int, self.modules.split("-"))
        return two, three, four


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            **{**segmentation_recipe.DIGIT_OBJECTS, "steps": 600},
            width=12,
            modules="1-1-1",
            blocks=1,
            stem=16,
            target=0.6,
        ),
        Recipe(**segmentation_recipe.CITYSCAPES, target=TASK.headline_target("airank", "2021-05")),
    )
}


@dataclass(frozen=True, kw_only=True)
class Options(SegmentationOptions):
    """See SegmentationOptions."""


def defaults(request: Request, world_size: int) -> Recipe:
    """The recipe by data."""
    return segmentation_recipe.defaults(request, RECIPES)


def finish(recipe: Recipe, options: Options) -> Recipe:
    """The recipe, checked."""
    segmentation_recipe.check(recipe, options)
    check_counts(recipe, ("width", "blocks", "stem"))
    sound = re.fullmatch(r"[1-9]\d{0,3}(-[1-9]\d{0,3}){2}", recipe.modules, re.ASCII)
    require(sound, "--modules", "3 numbers of at least 1, as 1-4-3", repr(recipe.modules))
    return recipe


COMMANDS = {
    "hrnet": Command(
        text="Train HRNet to segment pictures. Without --data: a small network on scenes of embedded digits, to its "
        "target, in a minute or two.",
        task=TASK,
        job="airank_fast.recipes.hrnet",
        options=Options,
        recipes=RECIPES,
        defaults=defaults,
        finish=finish,
    )
}
