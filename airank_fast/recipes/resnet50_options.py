"""The settings of ResNet-50 v1.5: recipes for ImageNet and for the embedded digits, and the command's options.

The digits recipe reaches its target on two CPU cores. The ImageNet recipes follow MLPerf's closed division for
SGD (base learning rate 0.001 x global batch, end 1e-4, power 2, weight decay 1e-4 x 2^N, label smoothing 0.1,
none on batch norm and bias) at the global batches of its reference convergence points, 1632 and 3264, for 8
and 32 GPUs. With LARS the base learning rate is 7.4 and 10.5 at those points, and between them by a square-root rule
(momentum 0.9, trust coefficient 0.001, epsilon 0). No ImageNet run has been made with them yet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from airank_fast.errors import require
from airank_fast.recipes.options import Command, CommonRecipe, Fixed, Request, RunOptions, check_counts
from airank_fast.tasks.resnet50 import TASK


@dataclass(frozen=True, kw_only=True)
class Recipe(CommonRecipe):
    """See CommonRecipe."""

    num_classes: int
    """Number of classes in the data set (ImageNet: 1000)."""
    image_size: int
    """Side of a training picture in pixels; evaluation keeps the recipe's ratio of resize to crop."""
    train_crop: Fixed[Literal["random_resized", "shift"]]
    min_area: float = 0.08
    """Least area of a random crop, as a fraction of the picture's."""
    eval_resize: Fixed[int]
    reader: Literal["auto", "dali", "torch", "synthetic"] = "auto"
    """What decodes; auto takes DALI where it is installed. synthetic trains on noise, to measure p_core alone."""
    epochs: int
    """Train for at most N epochs."""
    warmup_epochs: float
    """Epochs of linear warm-up."""
    optimizer: Literal["sgd", "lars"] = "sgd"
    """sgd with momentum, or lars, whose default learning rate is that of MLPerf's reference runs."""
    end_learning_rate: float
    """Learning rate at the end of the decay."""
    decay_power: float
    """Power of the polynomial decay."""
    momentum: float
    """Momentum of the optimizer."""
    weight_decay: float
    """L2 term on weights; batch norm and bias have none."""
    label_smoothing: float
    """Weight of the uniform distribution in the training target."""
    zero_init_last_bn: bool
    """Start each block's last batch-norm scale at zero."""
    eval_every: int
    """Evaluate every N epochs."""
    eval_offset: int
    """Evaluate after epochs e with e mod eval-every = offset (MLPerf allows 0 to 3)."""


IMAGENET_1_GPU = Recipe(
    name="imagenet-1gpu",
    num_classes=1000,
    image_size=224,
    train_crop="random_resized",
    eval_resize=256,
    epochs=40,
    warmup_epochs=2,
    batch_size=256,
    learning_rate=0.256,
    end_learning_rate=1e-4,
    decay_power=2,
    momentum=0.9,
    weight_decay=5e-5,
    label_smoothing=0.1,
    zero_init_last_bn=True,
    eval_every=4,
    eval_offset=0,
    eval_batch_size=250,
    target=TASK.headline_target("mlperf"),
)
DIGITS = replace(
    IMAGENET_1_GPU,
    name="digits",
    num_classes=10,
    image_size=32,
    train_crop="shift",
    eval_resize=40,
    epochs=12,
    warmup_epochs=1,
    batch_size=32,
    learning_rate=0.03,
    eval_every=1,
    eval_batch_size=64,
    target=0.97,
)
RECIPES = {
    recipe.name: recipe
    for recipe in (
        DIGITS,
        IMAGENET_1_GPU,
        replace(IMAGENET_1_GPU, name="imagenet-8gpu", batch_size=1632, learning_rate=1.632, eval_batch_size=2000),
        replace(
            IMAGENET_1_GPU,
            name="imagenet-32gpu",
            batch_size=3264,
            learning_rate=3.264,
            warmup_epochs=5,
            eval_batch_size=8000,
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    """See RunOptions."""

    data: Path | None = None
    """ImageFolder tree: DIR/train/<class>/*.JPEG and DIR/val/<class>/*.JPEG. Default: the embedded digits."""
    recipe: Literal["auto", "digits", "imagenet-1gpu", "imagenet-8gpu", "imagenet-32gpu"] = "auto"
    """Start from these settings; auto: digits without --data, else ImageNet for this number of ranks."""


def defaults(request: Request, world_size: int) -> Recipe:
    """The recipe for the data and ranks, with the values that depend on a given batch, picture size and optimizer."""
    options, given = request.options, request.recipe
    name = options.recipe
    if name == "auto":
        name = "digits" if options.data is None and given.reader != "synthetic" else "imagenet-1gpu"
        if name != "digits" and world_size >= 8:
            name = "imagenet-32gpu" if world_size >= 32 else "imagenet-8gpu"
    base = RECIPES[name]
    if "image_size" in request.given:
        base = replace(base, eval_resize=round(base.eval_resize * given.image_size / base.image_size))
    batch_size = given.batch_size if "batch_size" in request.given else base.batch_size
    if given.optimizer == "lars" and batch_size > 0:
        # 7.4 and 10.5 at 1632 and 3264: mlperf-logging's rcps_resnet.json, 4.0.0
        base = replace(base, learning_rate=7.4 * math.sqrt(batch_size / 1632))
    elif base.name != "digits":
        base = replace(base, learning_rate=0.001 * batch_size)
    return replace(base, target=None) if given.reader == "synthetic" else base  # noise has no target


def finish(recipe: Recipe, options: Options) -> Recipe:
    """The recipe, checked and with a reader instead of "auto"."""
    check_counts(recipe, ("epochs", "eval_every"))
    offsets = f"in [0, {recipe.eval_every})"
    require(0 <= recipe.eval_offset < recipe.eval_every, "--eval-offset", offsets, recipe.eval_offset)
    require(recipe.image_size >= 32, "--image-size", "at least 32 pixels", recipe.image_size)
    require(0 < recipe.min_area <= 1, "--min-area", "in (0, 1]", recipe.min_area)
    require(recipe.num_classes >= 2, "--num-classes", "at least 2", recipe.num_classes)
    warmup = f"in [0, {recipe.epochs}]"
    require(0 <= recipe.warmup_epochs <= recipe.epochs, "--warmup-epochs", warmup, recipe.warmup_epochs)
    require(0 <= recipe.label_smoothing < 1, "--label-smoothing", "in [0, 1)", recipe.label_smoothing)
    for name in ("end_learning_rate", "decay_power", "momentum", "weight_decay"):
        require(getattr(recipe, name) >= 0, f"--{name.replace('_', '-')}", "at least 0", getattr(recipe, name))
    if recipe.reader != "auto":
        return recipe
    from airank_fast.data.images import default_kind  # imports torch

    return replace(recipe, reader=default_kind())


COMMANDS = {
    "resnet50": Command(
        text="Train ResNet-50 v1.5. Without --data: on the embedded digits, to their target, in a minute or two.",
        task=TASK,
        job="airank_fast.recipes.resnet50",
        options=Options,
        recipes=RECIPES,
        defaults=defaults,
        finish=finish,
        decides={"recipe": "name"},
    )
}
