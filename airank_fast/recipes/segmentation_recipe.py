"""What the recipes of semantic segmentation share: DeepLabv3+'s and HRNet's hyper-parameters, options and checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from airank_fast.errors import require
from airank_fast.recipes.options import CommonRecipe, Request, RunOptions, check_counts, option


@dataclass(frozen=True, kw_only=True)
class SegmentationRecipe(CommonRecipe):
    """See CommonRecipe."""

    num_classes: int
    """Classes of the label images; 255 is ignored besides."""
    crop_height: int
    """Height of a training crop in pixels; pictures are evaluated whole."""
    crop_width: int
    """Width of a training crop in pixels."""
    min_scale: float
    """Pictures are scaled at random before they are cropped, at least by this."""
    max_scale: float
    """At most by this."""
    flip: bool
    """Mirror half of the training crops."""
    init_checkpoint: str | None = None
    """Begin with these weights: of ImageNet, a checkpoint of `airank_fast.train resnet50` for DeepLabv3+'s backbone, or
    a file of torchvision's or HRNet's names; or those of the whole network."""
    steps: int
    """Train for at most N optimizer steps."""
    warmup_steps: int
    """Steps of linear warm-up, before the decay."""
    end_learning_rate: float
    """Learning rate at the end of the decay."""
    decay_power: float
    """Power of the polynomial decay."""
    optimizer: Literal["sgd", "adamw"]
    """SGD with momentum, as in published recipes, or AdamW."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float
    """Weight decay of weights; batch norm and bias have none."""
    eval_every: int
    """Evaluate every N steps."""


CITYSCAPES: dict[str, Any] = {
    "name": "cityscapes",
    "num_classes": 19,
    "crop_height": 512,
    "crop_width": 1024,
    "min_scale": 0.5,
    "max_scale": 2.0,
    "flip": True,
    "steps": 80_000,
    "warmup_steps": 0,
    "batch_size": 8,
    "learning_rate": 0.01,
    "end_learning_rate": 1e-4,
    "decay_power": 0.9,
    "optimizer": "sgd",
    "weight_decay": 5e-4,
    "eval_every": 1000,
    "eval_batch_size": 8,
}
"""Cityscapes in the schedule of mmsegmentation's 80k configurations, by which AI-Rank's own HRNet was trained."""
DIGIT_OBJECTS: dict[str, Any] = {
    **CITYSCAPES,
    "name": "digit_objects",
    "num_classes": 11,
    "crop_height": 96,
    "crop_width": 96,
    "min_scale": 1.0,
    "max_scale": 1.0,
    "flip": False,
    "steps": 400,
    "warmup_steps": 30,
    "optimizer": "adamw",
    "learning_rate": 0.005,
    "end_learning_rate": 0.0,
    "eval_every": 100,
    "eval_batch_size": 50,
}
"""Scenes of embedded digits, taken as they are: a mirrored digit is none. In so few steps SGD learns little."""


@dataclass(frozen=True, kw_only=True)
class SegmentationOptions(RunOptions):
    """See RunOptions."""

    data: Path | None = None
    """Cityscapes' tree with leftImg8bit/ and gtFine/, or a list of lines PICTURE TAB LABELS. Default: scenes of
    embedded digits."""
    eval_data: Path | None = None
    """With a list: the list to evaluate on."""


def defaults(request: Request, recipes: Mapping[str, Any]) -> Any:
    """The recipe by data."""
    return recipes["digit_objects" if request.options.data is None else "cityscapes"]


def check(recipe: SegmentationRecipe, options: SegmentationOptions) -> None:
    """UserError for a value out of range, or an option that does not fit the data."""
    check_counts(recipe, ("crop_height", "crop_width", "steps", "eval_every"))
    require(2 <= recipe.num_classes <= 254, "--num-classes", "in [2, 254]", recipe.num_classes)
    require(recipe.min_scale > 0, "--min-scale", "above 0", recipe.min_scale)
    require(recipe.max_scale >= recipe.min_scale, "--max-scale", f"at least {recipe.min_scale}", recipe.max_scale)
    warmup = f"in [0, {recipe.steps}]"
    require(0 <= recipe.warmup_steps <= recipe.steps, "--warmup-steps", warmup, recipe.warmup_steps)
    for name in ("end_learning_rate", "decay_power", "momentum", "weight_decay"):
        require(getattr(recipe, name) >= 0, option(name), "at least 0", getattr(recipe, name))
    pictures = recipe.batch_size // recipe.gradient_accumulation_steps
    require(pictures >= 2, "--batch-size", "at least 2 pictures at a time, for batch norm", pictures)
    is_list = options.data is not None and options.data.is_file()
    if options.eval_data is None:
        require(not is_list, "--eval-data", "a list to evaluate on, with a list as --data", "none")
    else:
        is_missing = options.data is not None and not options.data.exists()  # which reading it reports
        require(is_list or is_missing, "--eval-data", "left out without a list as --data", options.eval_data)
        require(
            options.eval_data.is_file(), "--eval-data", "a list, as --data", f"{options.eval_data}, which is no file"
        )
