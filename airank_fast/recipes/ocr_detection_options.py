"""The settings of text detection: recipes for strings of embedded digits and for ICDAR 2015.

The digit_strings recipe, of a small network, is for two CPU cores. The others have batch, rate, epochs, crops and sizes
of PaddleOCR's det_r50_vd_db, with the loss of MhLiao/DB; no document states a target.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from airank_fast.errors import require
from airank_fast.recipes.options import Command, CommonRecipe, Request, RunOptions, check_counts, option
from airank_fast.tasks.ocr_detection import TASK

_STRIDE = 32  # of the network


@dataclass(frozen=True, kw_only=True)
class Recipe(CommonRecipe):
    """See CommonRecipe."""

    backbone: Literal["resnet18", "resnet50"]
    """The backbone: basic blocks, or bottlenecks."""
    blocks: str
    """Blocks of its four stages; 2-2-2-2 is ResNet-18, 3-4-6-3 ResNet-50."""
    width: int = 64
    """Channels of its first stage's 3x3 convolutions."""
    neck_width: int = 256
    """Channels of the feature pyramid; the heads have a quarter of them."""
    init_checkpoint: str | None = None
    """Begin with these weights of the backbone, trained on ImageNet: a checkpoint of `airank_fast.train resnet50`, or a
    file of torchvision's names."""
    crop_height: int = 640
    """Height of a training crop in pixels."""
    crop_width: int = 640
    """Width of a training crop in pixels."""
    min_scale: float = 0.5
    """Pictures are scaled at random before they are cropped, at least by this."""
    max_scale: float = 3.0
    """At most by this."""
    max_rotation: float = 10.0
    """Pictures are turned at random by up to so many degrees, either way."""
    flip: bool = True
    """Mirror half of the training crops."""
    eval_height: int = 736
    """Pictures are stretched to this height in pixels to be evaluated."""
    eval_width: int = 1280
    """And to this width."""
    binary_threshold: float = 0.3
    """A pixel of more probability is text."""
    box_threshold: float = 0.7
    """A rectangle of at least this mean probability is a text."""
    unclip_ratio: float = 1.5
    """A text's sides are moved outwards by this, times area / perimeter of the shrunk text that is found."""
    epochs: int
    """Train for at most N epochs."""
    warmup_epochs: float = 0.0
    """Epochs of linear warm-up, before the decay."""
    decay_power: float = 0.0
    """The learning rate decays to 0 by this power of the remaining steps; 0: it stays."""
    max_grad_norm: float | None = None
    """Gradients are clipped to this norm, all together; None: as they are."""
    eval_every: int
    """Evaluate every N epochs."""

    @property
    def blocks_of_stages(self) -> tuple[int, int, int, int]:
        """The numbers of --blocks."""
        first, second, third, last = map(int, self.blocks.split("-"))
        return first, second, third, last


DB_RESNET50 = Recipe(
    name="db_resnet50",
    backbone="resnet50",
    blocks="3-4-6-3",
    epochs=1200,
    batch_size=16,
    learning_rate=1e-3,
    eval_every=32,
    eval_batch_size=8,
    target=None,
)
DIGIT_STRINGS = replace(
    DB_RESNET50,
    name="digit_strings",
    backbone="resnet18",
    blocks="1-1-1-1",
    width=8,
    neck_width=32,
    crop_height=96,
    crop_width=128,
    min_scale=1.0,
    max_scale=1.0,
    max_rotation=0.0,
    flip=False,
    eval_height=96,
    eval_width=128,
    box_threshold=0.3,
    epochs=3,
    warmup_epochs=0.2,
    decay_power=1.0,
    batch_size=8,
    learning_rate=0.01,
    eval_every=1,
    eval_batch_size=50,
    target=0.9,
)
RECIPES = {
    recipe.name: recipe
    for recipe in (
        DIGIT_STRINGS,
        replace(DB_RESNET50, name="db_resnet18", backbone="resnet18", blocks="2-2-2-2"),
        DB_RESNET50,
    )
}


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    """See RunOptions."""

    data: Path | None = None
    """A folder in the form of ICDAR 2015's incidental scene text, as `airank_fast.prepare icdar2015` makes it. Default:
    scenes of strings of embedded digits."""


def defaults(request: Request, world_size: int) -> Recipe:
    """The recipe by data, and of ICDAR's by --backbone."""
    if request.options.data is None:
        return RECIPES["digit_strings"]
    backbone = request.recipe.backbone if "backbone" in request.given else DB_RESNET50.backbone
    return RECIPES[f"db_{backbone}"]


def finish(recipe: Recipe, options: Options) -> Recipe:
    """The recipe, checked."""
    check_counts(recipe, ("width", "epochs", "eval_every"))
    sound = re.fullmatch(r"[1-9]\d{0,3}(-[1-9]\d{0,3}){3}", recipe.blocks, re.ASCII)
    require(sound, "--blocks", f"4 numbers from 1 on, as {DB_RESNET50.blocks}", repr(recipe.blocks))
    neck = recipe.neck_width
    require(neck >= 4 and neck % 4 == 0, "--neck-width", "a multiple of 4", neck)
    for name in ("crop_height", "crop_width", "eval_height", "eval_width"):
        pixels = getattr(recipe, name)
        require(pixels >= _STRIDE and pixels % _STRIDE == 0, option(name), f"a multiple of {_STRIDE} pixels", pixels)
    require(recipe.min_scale > 0, "--min-scale", "above 0", recipe.min_scale)
    require(recipe.max_scale >= recipe.min_scale, "--max-scale", f"at least {recipe.min_scale}", recipe.max_scale)
    require(0 <= recipe.max_rotation <= 180, "--max-rotation", "in [0, 180] degrees", recipe.max_rotation)
    for name in ("binary_threshold", "box_threshold"):
        require(0 < getattr(recipe, name) < 1, option(name), "in (0, 1)", getattr(recipe, name))
    require(recipe.unclip_ratio >= 0, "--unclip-ratio", "at least 0", recipe.unclip_ratio)
    require(recipe.decay_power >= 0, "--decay-power", "at least 0", recipe.decay_power)
    norm = recipe.max_grad_norm
    require(norm is None or norm > 0, "--max-grad-norm", "above 0, or None", norm)
    warmup = f"in [0, {recipe.epochs}]"
    require(0 <= recipe.warmup_epochs <= recipe.epochs, "--warmup-epochs", warmup, recipe.warmup_epochs)
    pictures = recipe.batch_size // recipe.gradient_accumulation_steps
    require(pictures >= 2, "--batch-size", "at least 2 pictures at a time, for batch norm", pictures)
    return recipe


COMMANDS = {
    "ocr_detection": Command(
        text="Train DBNet to find texts in pictures. Without --data: a small network on strings of embedded digits, to "
        "its target, in a minute.",
        task=TASK,
        job="airank_fast.recipes.ocr_detection",
        options=Options,
        recipes=RECIPES,
        defaults=defaults,
        finish=finish,
    )
}
