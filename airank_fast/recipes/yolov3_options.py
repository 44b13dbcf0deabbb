"""The settings of YOLOv3: recipes for scenes of embedded digits and for COCO, and the command's options.

The digit_scenes recipe, of a small network, is for two CPU cores. The coco recipe has the schedule of gluon-cv's
train_yolo3.py with which AI-Rank's own result was made: 280 epochs of batches of 64, the rate divided by ten after 220
and 250, 2 epochs of warm-up, mixup but for the last 20 epochs, label smoothing of 1 / 80, evaluated at 416 pixels. The
darknet recipe has that of yolov3.cfg in epochs of train2017: 500,200 batches of 64, the rate divided by ten after
400,000 and 450,000, 1,000 batches of warm-up by the fourth power. No COCO run has been made with them yet.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from airank_fast.errors import require
from airank_fast.recipes.options import Command, CommonRecipe, Request, RunOptions, check_counts, option
from airank_fast.tasks.yolov3 import TASK

STRIDE = 32  # of the network
SIZES = tuple(range(320, 609, STRIDE))


@dataclass(frozen=True, kw_only=True)
class Recipe(CommonRecipe):
    """See CommonRecipe."""

    num_classes: int = 80
    """Classes of the data set."""
    image_size: int = 416
    """Side in pixels of the images that are evaluated."""
    train_sizes: tuple[int, ...] = SIZES
    """Sides of training images; every ten steps have one of them, at random."""
    widths: tuple[int, int, int, int, int, int] = (32, 64, 128, 256, 512, 1024)
    """Channels of the first convolution and of the five stages."""
    blocks: tuple[int, int, int, int, int] = (1, 2, 8, 8, 4)
    """Residual blocks of the stages."""
    anchors: tuple[float, ...] = (10, 13, 16, 30, 33, 23, 30, 61, 62, 45, 59, 119, 116, 90, 156, 198, 373, 326)
    """Width and height of nine anchors in pixels: three each for the strides 8, 16 and 32."""
    init_checkpoint: str | None = None
    """Begin with these weights: darknet's .weights, of the whole network or of its first 74 layers
    (darknet53.conv.74), or a checkpoint of `airank_fast.train yolov3`."""
    jitter: float = 0.0
    """The sides of a training picture's window are moved by up to this part of it, either way, as in darknet."""
    expand: float = 4.0
    """Half of the training pictures are put into an empty one of up to so many times their sides; 1: none."""
    crop: bool = True
    """Train on random windows that overlap an object enough, as in SSD."""
    colours: bool = True
    """Change brightness, contrast, saturation and hue of training pictures."""
    flip: bool = True
    """Mirror half of the training pictures."""
    letterbox: bool = False
    """Keep the ratio of a picture's sides, as darknet, instead of stretching it to a square."""
    mixup: bool = True
    """Mix each training image with its neighbour in the batch."""
    mixup_off_epochs: int = 20
    """Epochs at the end without mixup."""
    label_smoothing: float = 1 / 80
    """Of the classes' targets: 1 less this, and this."""
    ignore_iou: float = 0.7
    """A box that overlaps an object by more than this IoU, but does not have to find it, is not punished for it."""
    epochs: int
    """Train for at most N epochs."""
    warmup_epochs: float
    """Epochs of warm-up."""
    warmup_power: float = 1.0
    """The warm-up is this power of its elapsed part: 1 is linear, darknet's burn-in has 4."""
    decay_epochs: tuple[float, ...]
    """After each of these numbers of epochs the learning rate is multiplied by --decay-factor."""
    decay_factor: float = 0.1
    """See --decay-epochs."""
    momentum: float = 0.9
    """Momentum of the optimizer."""
    weight_decay: float = 5e-4
    """L2 term on weights; batch norm and bias have none."""
    max_grad_norm: float | None = None
    """Gradients are clipped to this norm, all together; None: as they are."""
    score_threshold: float = 0.005
    """Detections have a score above this."""
    nms_iou: float = 0.45
    """Of two boxes of a class that overlap by more than this IoU the worse one is dropped."""
    eval_every: int = 1
    """Evaluate every N epochs."""

    @property
    def anchor_sizes(self) -> list[tuple[float, float]]:
        """The anchors as pairs."""
        return list(zip(self.anchors[::2], self.anchors[1::2], strict=True))


COCO = Recipe(
    name="coco",
    epochs=280,
    warmup_epochs=2.0,
    decay_epochs=(220.0, 250.0),
    batch_size=64,
    learning_rate=1e-3,
    eval_batch_size=64,
    target=TASK.headline_target("airank", "2021-05"),
)
_EPOCHS_OF_BATCH = 64 / 118_287
DARKNET = replace(
    COCO,
    name="darknet",
    jitter=0.3,
    expand=1.0,
    crop=False,
    letterbox=True,
    mixup=False,
    mixup_off_epochs=0,
    label_smoothing=0.0,
    epochs=271,
    warmup_epochs=1_000 * _EPOCHS_OF_BATCH,
    warmup_power=4.0,
    decay_epochs=(400_000 * _EPOCHS_OF_BATCH, 450_000 * _EPOCHS_OF_BATCH),
)
DIGIT_SCENES = replace(
    COCO,
    name="digit_scenes",
    num_classes=10,
    image_size=96,
    train_sizes=(96,),
    widths=(8, 16, 32, 64, 64, 64),
    blocks=(1, 1, 1, 1, 1),
    expand=1.0,
    crop=False,
    colours=False,
    flip=False,  # a mirrored digit is none
    mixup=False,
    mixup_off_epochs=0,
    label_smoothing=0.0,
    epochs=4,
    warmup_epochs=0.5,
    decay_epochs=(1.5, 2.5),
    batch_size=8,
    learning_rate=0.01,
    max_grad_norm=20.0,
    eval_batch_size=50,
    target=0.5,
)
RECIPES = {recipe.name: recipe for recipe in (DIGIT_SCENES, COCO, DARKNET)}


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    """See RunOptions."""

    data: Path | None = None
    """COCO 2017 as published, or a data set in its form. Default: scenes of embedded digits."""
    recipe: Literal["auto", "digit_scenes", "coco", "darknet"] = "auto"
    """The schedule; auto takes digit_scenes without --data and coco with it."""
    weights: Path | None = None
    """Write the network to this file at each evaluation, in darknet's .weights format."""


def defaults(request: Request, world_size: int) -> Recipe:
    """The recipe by name, or by data; the rate by a given batch, in proportion."""
    options, given = request.options, request.recipe
    name = options.recipe
    if name == "auto":
        name = "digit_scenes" if options.data is None else "coco"
    base = RECIPES[name]
    if "batch_size" in request.given and given.batch_size > 0:
        base = replace(base, learning_rate=base.learning_rate * given.batch_size / base.batch_size)
    return base


def finish(recipe: Recipe, options: Options) -> Recipe:
    """The recipe, checked."""
    check_counts(recipe, ("num_classes", "epochs", "eval_every"))
    for name, sizes in (("image_size", (recipe.image_size,)), ("train_sizes", recipe.train_sizes)):
        sound = sizes and all(size >= STRIDE and size % STRIDE == 0 for size in sizes)
        require(sound, option(name), f"multiples of {STRIDE} pixels", " ".join(map(str, sizes)) or "none")
    require(min(recipe.widths) >= 1, "--widths", "at least 1 in every stage", recipe.widths)
    halved = all(width % 2 == 0 for width in recipe.widths[1:])
    require(halved, "--widths", "even from the second number on", recipe.widths)
    require(min(recipe.blocks) >= 1, "--blocks", "at least 1 in every stage", recipe.blocks)
    sound = len(recipe.anchors) == 18 and min(recipe.anchors) > 0
    require(sound, "--anchors", "18 numbers above 0, nine pairs of width and height", recipe.anchors)
    require(0 <= recipe.jitter < 0.5, "--jitter", "in [0, 0.5)", recipe.jitter)
    require(recipe.expand >= 1, "--expand", "at least 1", recipe.expand)
    off = recipe.mixup_off_epochs
    require(0 <= off <= recipe.epochs, "--mixup-off-epochs", f"in [0, {recipe.epochs}]", off)
    require(0 <= recipe.label_smoothing < 0.5, "--label-smoothing", "in [0, 0.5)", recipe.label_smoothing)
    warmup = f"in [0, {recipe.epochs}]"
    require(0 <= recipe.warmup_epochs <= recipe.epochs, "--warmup-epochs", warmup, recipe.warmup_epochs)
    require(all(each >= 0 for each in recipe.decay_epochs), "--decay-epochs", "at least 0", recipe.decay_epochs)
    for name in ("warmup_power", "decay_factor", "momentum", "weight_decay"):
        require(getattr(recipe, name) >= 0, option(name), "at least 0", getattr(recipe, name))
    folder = options.weights and options.weights.absolute().parent
    require(folder is None or folder.is_dir(), "--weights", "a file in a folder that is there", options.weights)
    norm = recipe.max_grad_norm
    require(norm is None or norm > 0, "--max-grad-norm", "above 0, or None", norm)
    for name in ("ignore_iou", "score_threshold", "nms_iou"):
        require(0 <= getattr(recipe, name) <= 1, option(name), "in [0, 1]", getattr(recipe, name))
    return recipe


COMMANDS = {
    "yolov3": Command(
        text="Train YOLOv3 to find objects in pictures. Without --data: a small network on scenes of embedded digits, "
        "to its target, in a minute or two.",
        task=TASK,
        job="airank_fast.recipes.yolov3",
        options=Options,
        recipes=RECIPES,
        defaults=defaults,
        finish=finish,
        decides={"recipe": "name"},
    )
}
