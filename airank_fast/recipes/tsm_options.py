"""The settings of TSM: recipes for moving embedded digits and for Kinetics-400, and the command's options.

The moving_digits recipe is for two CPU cores. The kinetics recipe is that of mit-han-lab's
scripts/train_tsm_kinetics_rgb_8f.sh, with which AI-Rank's own result was made: learning rate 0.02 at a batch of 128,
divided by ten after 20 and 40 of 50 epochs, gradients clipped to a norm of 20, dropout 0.5, initial weights of
ImageNet. No Kinetics run has been made with it yet.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from airank_fast.errors import require
from airank_fast.recipes.options import Command, CommonRecipe, Fixed, Request, RunOptions, check_counts, option
from airank_fast.tasks.tsm import TASK


@dataclass(frozen=True, kw_only=True)
class Recipe(CommonRecipe):
    """See CommonRecipe."""

    init_checkpoint: str | None = None
    """Begin with these weights: of this network, or torchvision's ResNet-50, whose last layer is left out."""
    num_classes: int
    """Number of classes in the data set (Kinetics: 400)."""
    num_segments: int
    """Frames of a clip: one of each of so many equal parts of the video."""
    image_size: int
    """Side of a training picture in pixels; evaluation keeps the recipe's ratio of resize to crop."""
    train_crop: Fixed[Literal["multi_scale", "shift"]]
    eval_resize: Fixed[int]
    flip: bool
    """Mirror half of the training clips."""
    blocks: tuple[int, int, int, int]
    """Blocks of the ResNet's four stages (ResNet-50: 3 4 6 3)."""
    width: int
    """Channels of the first convolution (ResNet-50: 64)."""
    shift: bool = True
    """Shift channels between frames; --no-shift judges every frame by itself."""
    shift_div: int = 8
    """One channel in so many comes from the next frame, and one from the previous one."""
    dropout: float
    """Share of the features that is dropped before the last layer."""
    epochs: int
    """Train for at most N epochs."""
    warmup_epochs: float
    """Epochs of linear warm-up."""
    decay_epochs: tuple[float, ...]
    """After each of these numbers of epochs the learning rate is multiplied by --decay-factor."""
    decay_factor: float = 0.1
    """See --decay-epochs."""
    momentum: float = 0.9
    """Momentum of the optimizer."""
    weight_decay: float = 1e-4
    """L2 term on weights; batch norm and bias have none."""
    last_layer_factor: float = 5.0
    """Factor on the learning rate of the last layer's weight; its bias has twice that."""
    max_grad_norm: float = 20.0
    """Gradients are clipped to this norm, all together."""
    eval_every: int = 1
    """Evaluate every N epochs."""


KINETICS = Recipe(
    name="kinetics",
    num_classes=400,
    num_segments=8,
    image_size=224,
    train_crop="multi_scale",
    eval_resize=256,
    flip=True,
    blocks=(3, 4, 6, 3),
    width=64,
    dropout=0.5,
    epochs=50,
    warmup_epochs=0.0,
    decay_epochs=(20.0, 40.0),
    batch_size=128,
    learning_rate=0.02,
    eval_batch_size=128,
    target=TASK.headline_target("airank", "2021-05"),
)
MOVING_DIGITS = replace(
    KINETICS,
    name="moving_digits",
    num_classes=8,
    image_size=32,
    train_crop="shift",
    eval_resize=32,
    flip=False,  # right would be left
    blocks=(1, 1, 1, 1),
    width=16,
    dropout=0.0,
    epochs=4,
    warmup_epochs=0.3,
    decay_epochs=(0.75,),
    batch_size=16,
    learning_rate=0.03,
    last_layer_factor=1.0,
    eval_batch_size=50,
    target=0.95,
)
RECIPES = {recipe.name: recipe for recipe in (MOVING_DIGITS, KINETICS)}


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    """See RunOptions."""

    data: Path | None = None
    """A list of clips to train on, in each line PATH LABEL of a video or PATH FRAMES LABEL of a folder of frames, or a
    directory with train.txt and val.txt, as of prepare kinetics. Default: moving embedded digits."""
    eval_data: Path | None = None
    """With a list as --data: that of the clips to evaluate on."""
    frame_name: str = "img_{:05d}.jpg"
    """Name of a frame in a folder, with a place for its number, from 1 on."""


def defaults(request: Request, world_size: int) -> Recipe:
    """The recipe by data, with the values that depend on a given batch and picture size."""
    options, given = request.options, request.recipe
    base = MOVING_DIGITS if options.data is None else KINETICS
    if "image_size" in request.given:
        base = replace(base, eval_resize=round(base.eval_resize * given.image_size / base.image_size))
    if options.data is None or "batch_size" not in request.given:
        return base
    return replace(base, learning_rate=base.learning_rate * given.batch_size / base.batch_size)


def finish(recipe: Recipe, options: Options) -> Recipe:
    """The recipe, checked."""
    check_counts(recipe, ("num_segments", "width", "shift_div", "epochs", "eval_every"))
    require(recipe.num_segments <= 20, "--num-segments", "at most 20", recipe.num_segments)
    require(recipe.num_classes >= 2, "--num-classes", "at least 2", recipe.num_classes)
    require(recipe.image_size >= 32, "--image-size", "at least 32 pixels", recipe.image_size)
    require(min(recipe.blocks) >= 1, "--blocks", "at least 1 in every stage", recipe.blocks)
    require(recipe.shift_div >= 2, "--shift-div", "at least 2", recipe.shift_div)
    require(0 <= recipe.dropout < 1, "--dropout", "in [0, 1)", recipe.dropout)
    warmup = f"in [0, {recipe.epochs}]"
    require(0 <= recipe.warmup_epochs <= recipe.epochs, "--warmup-epochs", warmup, recipe.warmup_epochs)
    require(all(each >= 0 for each in recipe.decay_epochs), "--decay-epochs", "at least 0", recipe.decay_epochs)
    for name in ("decay_factor", "momentum", "weight_decay", "last_layer_factor"):
        require(getattr(recipe, name) >= 0, option(name), "at least 0", getattr(recipe, name))
    require(recipe.max_grad_norm > 0, "--max-grad-norm", "above 0", recipe.max_grad_norm)
    require(_is_numbered(options.frame_name), "--frame-name", "a name such as img_{:05d}.jpg", options.frame_name)
    goes_with_data = options.eval_data is None or options.data is not None
    require(goes_with_data, "--eval-data", "left out without --data", options.eval_data)
    return recipe


def _is_numbered(frame_name: str) -> bool:
    """Whether the name has a place for a number, and no other."""
    try:
        return frame_name.format(1) != frame_name.format(2)
    except (IndexError, KeyError, ValueError):
        return False


COMMANDS = {
    "tsm": Command(
        text="Train TSM to classify videos. Without --data: moving embedded digits, to their target, in a minute.",
        task=TASK,
        job="airank_fast.recipes.tsm",
        options=Options,
        recipes=RECIPES,
        defaults=defaults,
        finish=finish,
    )
}
