"""The settings of Mask R-CNN: recipes for scenes of embedded digits and for COCO 2017, and the command's options.

The digit_scenes recipe, of a small network, is for two CPU cores. The coco recipe is detectron2's
mask_rcnn_R_50_FPN_1x, with which AI-Rank's own result was made: learning rate 0.02 at a batch of 16, divided by ten
after 60,000 and 80,000 of 90,000 steps, an evaluation every 7,500. coco_mlperf is MLPerf's closed division, with an
evaluation every epoch. Both begin with weights of ImageNet. No COCO run has been made with them yet.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from airank_fast.errors import require
from airank_fast.recipes.options import Command, CommonRecipe, Request, RunOptions, check_counts, option
from airank_fast.tasks.mask_rcnn import TASK

_PICTURES = 117_266  # of COCO's training set with an annotation


@dataclass(frozen=True, kw_only=True)
class Recipe(CommonRecipe):
    """See CommonRecipe."""

    init_checkpoint: str | None = None
    """Begin with these weights: of ImageNet for the backbone, a checkpoint of `airank_fast.train resnet50` or a file of
    torchvision's names; or those of the whole network."""
    num_classes: int
    """Classes of objects (COCO: 80)."""
    blocks: tuple[int, int, int, int]
    """Blocks of the ResNet's four stages (ResNet-50: 3 4 6 3)."""
    width: int
    """Channels of the ResNet's first convolution (ResNet-50: 64)."""
    neck_width: int
    """Channels of the feature pyramid."""
    box_width: int
    """Width of the box head's two hidden layers."""
    mask_width: int
    """Channels of the mask head's four convolutions."""
    frozen_stages: int
    """Parts of the backbone that are not trained: 0 none, 1 the first convolution, 2 its first stage too."""
    frozen_norm: bool
    """The backbone's batch norms keep the statistics, weights and biases that they begin with."""
    norm_eps: float = 1e-5
    """What frozen batch norms add to the variance: 0 with torchvision's COCO weights, which were trained so."""
    anchor_sizes: tuple[float, float, float, float, float]
    """Sides of the anchors on the five levels of the pyramid, in pixels."""
    canonical_size: int
    """Regions of this side are taken from the pyramid's third level, smaller ones from lower ones."""
    candidates: int
    """Proposals of a level before non-maximum suppression; half of them in an evaluation."""
    proposals: int
    """Proposals of a picture after it."""
    anchor_samples: int
    """Anchors of a picture in the losses, at most half of them on objects."""
    region_samples: int
    """Regions of a picture in the losses, at most a quarter of them on objects."""
    min_score: float = 0.05
    """Detections with a lower score are left out."""
    detections: int = 100
    """Detections of a picture, at most."""
    min_size: int
    """Pictures are resized to a shorter side of so many pixels."""
    max_size: int
    """Unless the longer one would have more than this."""
    flip: bool
    """Mirror half of the training pictures."""
    steps: int
    """Train for at most N optimizer steps."""
    warmup_steps: int
    """Steps of linear warm-up."""
    decay_steps: tuple[int, ...]
    """After each of these numbers of steps the learning rate is multiplied by --decay-factor."""
    decay_factor: float = 0.1
    """See --decay-steps."""
    optimizer: Literal["sgd", "adamw"]
    """SGD with momentum, as in published recipes, or AdamW."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float
    """Weight decay; batch norm has none."""
    eval_every: int
    """Evaluate every N steps."""


COCO = Recipe(
    name="coco",
    num_classes=80,
    blocks=(3, 4, 6, 3),
    width=64,
    neck_width=256,
    box_width=1024,
    mask_width=256,
    frozen_stages=2,
    frozen_norm=True,
    anchor_sizes=(32, 64, 128, 256, 512),
    canonical_size=224,
    candidates=2000,
    proposals=1000,
    anchor_samples=256,
    region_samples=512,
    min_size=800,
    max_size=1333,
    flip=True,
    steps=90_000,
    warmup_steps=1000,
    decay_steps=(60_000, 80_000),
    optimizer="sgd",
    batch_size=16,
    learning_rate=0.02,
    weight_decay=1e-4,
    eval_every=7500,
    eval_batch_size=16,
    target={"box_ap": 0.377, "mask_ap": 0.339},
)
DIGIT_SCENES = replace(
    COCO,
    name="digit_scenes",
    num_classes=10,
    blocks=(1, 1, 1, 1),
    width=16,
    neck_width=32,
    box_width=128,
    mask_width=16,
    frozen_stages=0,
    frozen_norm=False,
    anchor_sizes=(24, 32, 44, 64, 96),
    canonical_size=64,
    candidates=200,
    proposals=100,
    anchor_samples=64,
    region_samples=64,
    detections=20,
    min_size=96,
    max_size=96,
    flip=False,  # a mirrored digit is none
    steps=500,
    warmup_steps=50,
    decay_steps=(375,),
    optimizer="adamw",
    batch_size=4,
    learning_rate=0.002,
    eval_every=500,  # an epoch: AI-Rank's logs have whole ones
    eval_batch_size=50,
    target={"box_ap": 0.4, "mask_ap": 0.4},
)
RECIPES = {recipe.name: recipe for recipe in (DIGIT_SCENES, COCO, replace(COCO, name="coco_mlperf"))}


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    """See RunOptions."""

    recipe: Literal["auto", "digit_scenes", "coco", "coco_mlperf"] = "auto"
    """Start from these settings; auto: digit_scenes without --data, else coco."""


def defaults(request: Request, world_size: int) -> Recipe:
    """The recipe by data, with the values that depend on a given batch."""
    name = request.options.recipe
    if name == "auto":
        name = "digit_scenes" if request.options.data is None else "coco"
    base = RECIPES[name]
    batch_size = request.recipe.batch_size if "batch_size" in request.given else base.batch_size
    if name == "digit_scenes" or batch_size < 1:
        return base
    return replace(base, **(_of_mlperf if name == "coco_mlperf" else _of_detectron2)(batch_size))


def _of_detectron2(batch_size: int) -> dict[str, Any]:
    """Rate and steps of COCO at another batch: the rate is proportional to it, the steps are inversely so."""
    factor = batch_size / COCO.batch_size
    steps = {name: round(getattr(COCO, name) / factor) for name in ("steps", "warmup_steps", "eval_every")}
    decay_steps = tuple(round(step / factor) for step in COCO.decay_steps)
    return {"learning_rate": COCO.learning_rate * factor, "decay_steps": decay_steps, **steps}


def _of_mlperf(batch_size: int) -> dict[str, Any]:
    """Rate and steps of the closed division at a batch, with decays where its reference convergence points have them.

    The rate must be 0.02 K, or 0.02 / K at batches below 16, and the decays (60,000, 80,000) (1 + K / 10) 16 / batch,
    of any whole K each: training_rules.adoc. The points, rcps_maskrcnn.json, have a K of 2 in the second formula.
    """
    ratio = batch_size / COCO.batch_size
    stretch = 1.2 / ratio
    return {
        "learning_rate": COCO.learning_rate * round(ratio) if ratio >= 1 else COCO.learning_rate / round(1 / ratio),
        "decay_steps": tuple(round(step * stretch) for step in COCO.decay_steps),
        "steps": round(COCO.steps * stretch),
        "eval_every": -(-_PICTURES // batch_size),
    }


def finish(recipe: Recipe, options: Options) -> Recipe:
    """The recipe, checked."""
    counts = ("num_classes", "width", "neck_width", "box_width", "mask_width", "canonical_size", "candidates")
    check_counts(recipe, (*counts, "proposals", "anchor_samples", "detections", "min_size", "steps", "eval_every"))
    require(min(recipe.blocks) >= 1, "--blocks", "4 numbers from 1 on", recipe.blocks)
    require(0 <= recipe.frozen_stages <= 5, "--frozen-stages", "in [0, 5]", recipe.frozen_stages)
    require(min(recipe.anchor_sizes) > 0, "--anchor-sizes", "5 numbers above 0", recipe.anchor_sizes)
    # So few have no place for one on an object.
    require(recipe.region_samples >= 4, "--region-samples", "at least 4", recipe.region_samples)
    require(0 <= recipe.min_score < 1, "--min-score", "in [0, 1)", recipe.min_score)
    require(recipe.max_size >= recipe.min_size, "--max-size", f"at least {recipe.min_size}", recipe.max_size)
    warmup = f"in [0, {recipe.steps}]"
    require(0 <= recipe.warmup_steps <= recipe.steps, "--warmup-steps", warmup, recipe.warmup_steps)
    for name in ("norm_eps", "decay_factor", "momentum", "weight_decay"):
        require(getattr(recipe, name) >= 0, option(name), "at least 0", getattr(recipe, name))
    return recipe


COMMANDS = {
    "mask_rcnn": Command(
        text="Train Mask R-CNN with a feature pyramid. Without --data: a small network on scenes of embedded digits, "
        "to its target, in a few minutes.",
        task=TASK,
        job="airank_fast.recipes.mask_rcnn",
        options=Options,
        recipes=RECIPES,
        defaults=defaults,
        finish=finish,
        decides={"recipe": "name"},
    )
}
