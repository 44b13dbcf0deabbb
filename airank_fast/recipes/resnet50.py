"""ResNet-50 v1.5 image classification: on ImageNet (AI-Rank, MLPerf, FlagPerf) and on the embedded digits.

The digits recipe reaches its target on two CPU cores. The ImageNet recipes follow MLPerf's closed division for
SGD (base learning rate 0.001 x global batch, end 1e-4, power 2, weight decay 1e-4 x 2^N, label smoothing 0.1,
none on batch norm and bias) at the global batches of its reference convergence points, 1632 and 3264, for 8
and 32 GPUs. With LARS the base learning rate goes through those points instead (7.4 and 10.5, which is a square-root
rule; momentum 0.9, trust coefficient 0.001, epsilon 0). No ImageNet run has been made with them yet.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from airank_fast import job
from airank_fast.data import images as datasets
from airank_fast.data.prefetch import Reader
from airank_fast.job import Networks, Plan, Ranks, Schedule, Span, Update
from airank_fast.models.resnet import resnet50
from airank_fast.nn import cross_entropy
from airank_fast.optim import FusedLARS, FusedSGD
from airank_fast.quality.accuracy import Accuracy
from airank_fast.recipes.options import ByRecipe, Precision, RunOptions, check_options, chosen, require
from airank_fast.recipes.schedule import polynomial_decay
from airank_fast.tasks.resnet50 import TASK

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

SYNTHETIC_STEPS = 100  # of an epoch with the synthetic reader
LARS_EPSILON = 0.0  # both as MLPerf's closed division fixes them
LARS_TRUST_COEFFICIENT = 0.001


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what is computed; saved with the run, and enough to repeat it."""

    name: str
    num_classes: int
    image_size: int
    train_crop: Literal["random_resized", "shift"]
    eval_resize: int
    epochs: int
    warmup_epochs: float
    batch_size: int
    gradient_accumulation_steps: int
    learning_rate: float
    end_learning_rate: float
    decay_power: float
    momentum: float
    weight_decay: float
    label_smoothing: float
    zero_init_last_bn: bool
    eval_every: int
    eval_offset: int
    eval_batch_size: int
    target: float | None
    stop_at_target: bool
    min_area: float = 0.08
    seed: int = 1
    precision: Precision = "fp32"
    fused: bool = True
    reader: str = "auto"
    optimizer: Literal["sgd", "lars"] = "sgd"


IMAGENET_1_GPU = Recipe(
    name="imagenet-1gpu",
    num_classes=1000,
    image_size=224,
    train_crop="random_resized",
    eval_resize=256,
    epochs=40,
    warmup_epochs=2,
    batch_size=256,
    gradient_accumulation_steps=1,
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
    target=0.759,
    stop_at_target=True,
)

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="digits",
            num_classes=10,
            image_size=32,
            train_crop="shift",
            eval_resize=40,
            epochs=12,
            warmup_epochs=1,
            batch_size=32,
            gradient_accumulation_steps=1,
            learning_rate=0.03,
            end_learning_rate=1e-4,
            decay_power=2,
            momentum=0.9,
            weight_decay=5e-5,
            label_smoothing=0.1,
            zero_init_last_bn=True,
            eval_every=1,
            eval_offset=0,
            eval_batch_size=64,
            target=0.97,
            stop_at_target=True,
        ),
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
    """Train ResNet-50 v1.5. Without --data: on the embedded digits, to their target, in a minute or two."""

    data: Path | None = None
    """ImageFolder tree: DIR/train/<class>/*.JPEG and DIR/val/<class>/*.JPEG."""
    epochs: ByRecipe[int] = None
    """Train for at most N epochs."""
    target: ByRecipe[float] = None
    """Accuracy to reach, a fraction (0.759 in AI-Rank and MLPerf)."""
    batch_size: ByRecipe[int] = None
    """Global batch: pictures per optimizer step over all ranks and accumulated micro-batches."""
    seed: ByRecipe[int] = None
    """Seed of initial weights, sample order and augmentation."""
    reader: Literal["auto", "dali", "torch", "synthetic"] = "auto"
    """Who decodes; auto takes DALI where it is installed. synthetic trains on noise, to isolate p_core."""
    recipe: Literal["auto", "digits", "imagenet-1gpu", "imagenet-8gpu", "imagenet-32gpu"] = "auto"
    """Start from these settings; auto: digits without --data, else ImageNet for this number of ranks."""
    fused: bool = True
    """Use the fused operators; --no-fused runs torch's own modules and loss, for comparison."""
    num_classes: ByRecipe[int] = None
    """Number of classes in the data set (ImageNet: 1000)."""
    image_size: ByRecipe[int] = None
    """Side of a training picture in pixels; evaluation keeps the recipe's ratio of resize to crop."""
    optimizer: Literal["sgd", "lars"] = "sgd"
    """sgd with momentum, or lars, whose default learning rate is that of MLPerf's reference runs."""
    warmup_epochs: ByRecipe[float] = None
    """Epochs of linear warm-up."""
    momentum: ByRecipe[float] = None
    """Momentum of the optimizer."""
    weight_decay: ByRecipe[float] = None
    """L2 term on weights; batch norm and bias have none."""
    label_smoothing: ByRecipe[float] = None
    """Weight of the uniform distribution in the training target."""
    zero_init_last_bn: bool = True
    """Start each block's last batch-norm scale at zero."""
    eval_every: ByRecipe[int] = None
    """Evaluate every N epochs."""
    eval_offset: ByRecipe[int] = None
    """Evaluate after epochs e with e mod eval-every = offset (MLPerf allows 0 to 3)."""


def resolve(options: Options, world_size: int, amp_precision: Precision) -> Recipe:
    """The recipe that ``options`` name, every default filled in and checked.

    ``amp_precision`` is what --amp means on this device. Raises UserError for settings that cannot be.
    """
    name = options.recipe
    if name == "auto":
        name = "digits" if options.data is None and options.reader != "synthetic" else "imagenet-1gpu"
        if name != "digits" and world_size >= 8:
            name = "imagenet-32gpu" if world_size >= 32 else "imagenet-8gpu"
    base = RECIPES[name]
    recipe = replace(base, **chosen(options, Recipe, amp_precision))
    if recipe.image_size != base.image_size:
        recipe = replace(recipe, eval_resize=round(base.eval_resize * recipe.image_size / base.image_size))
    if options.learning_rate is None and recipe.optimizer == "lars":
        # 7.4 and 10.5 at 1632 and 3264: mlperf-logging's rcps_resnet.json, 4.0.0
        recipe = replace(recipe, learning_rate=7.4 * math.sqrt(recipe.batch_size / 1632))
    elif options.learning_rate is None and base.name != "digits":
        recipe = replace(recipe, learning_rate=0.001 * recipe.batch_size)
    if recipe.reader == "synthetic" and options.target is None:
        recipe = replace(recipe, target=None)  # nothing can be learnt from noise
    if recipe.reader == "auto":
        recipe = replace(recipe, reader=datasets.default_kind())
    counts = ("epochs", "batch_size", "gradient_accumulation_steps", "eval_every", "eval_batch_size")
    check_options(options, recipe, world_size, counts)
    _check(recipe)
    return recipe


def _check(recipe: Recipe) -> None:
    require(
        0 <= recipe.eval_offset < recipe.eval_every,
        "eval_offset",
        f"in [0, {recipe.eval_every})",
        recipe.eval_offset,
    )
    require(recipe.image_size >= 32, "image_size", "at least 32 pixels", recipe.image_size)
    require(recipe.num_classes >= 2, "num_classes", "at least 2", recipe.num_classes)
    require(recipe.learning_rate >= 0, "learning_rate", "at least 0", recipe.learning_rate)
    require(
        0 <= recipe.warmup_epochs <= recipe.epochs,
        "warmup_epochs",
        f"in [0, {recipe.epochs}]",
        recipe.warmup_epochs,
    )
    require(0 <= recipe.label_smoothing < 1, "label_smoothing", "in [0, 1)", recipe.label_smoothing)


class Job:
    """ResNet-50 as the engine runs it, for one resolved recipe: see airank_fast.job.Job."""

    task = TASK
    benchmark = TASK.name
    initial_accuracy = None

    def __init__(self, recipe: Recipe, options: Options) -> None:
        self.recipe = recipe
        self.options = options
        self.reader: Reader | None = None

    @property
    def target(self) -> dict[str, float]:
        """Of the headline metric, unless the recipe has none."""
        return {} if self.recipe.target is None else {TASK.headline.name: self.recipe.target}

    def build(self) -> dict[str, nn.Module]:
        """The float32 network with freshly drawn weights, on the CPU."""
        recipe = self.recipe
        made = resnet50(recipe.num_classes, zero_init_last_bn=recipe.zero_init_last_bn, fused=recipe.fused)
        return {"model": made}

    def updates(self, networks: Networks, device: torch.device) -> list[Update]:
        """One: the loss of the network, and its optimizer."""
        model = networks["model"]
        return [Update(model, self.build_optimizer(model, device), lambda batch: self.loss(model, batch), "model")]

    def build_optimizer(self, model: nn.Module, device: torch.device) -> FusedSGD | FusedLARS:
        """Weight decay, and LARS's trust ratio, on weights only. The learning rate lives on the device."""
        decayed = [p for p in model.parameters() if p.ndim > 1]
        rest = [p for p in model.parameters() if p.ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": self.recipe.weight_decay},
            {"params": rest, "weight_decay": 0.0},
        ]
        lr = torch.zeros((), dtype=torch.float32, device=device)
        if self.recipe.optimizer == "lars":
            groups[1]["is_skipped"] = True
            return FusedLARS(
                groups, lr, self.recipe.momentum, trust_coefficient=LARS_TRUST_COEFFICIENT, eps=LARS_EPSILON
            )
        return FusedSGD(groups, lr=lr, momentum=self.recipe.momentum)

    def loss(self, model: nn.Module, batch: datasets.ImageBatch) -> Tensor:
        """Mean cross entropy with label smoothing over the batch, float32 scalar."""
        logits, smoothing = model(batch.images), self.recipe.label_smoothing
        if self.recipe.fused:
            return cross_entropy(logits, batch.labels, label_smoothing=smoothing)
        return F.cross_entropy(logits.float(), batch.labels, label_smoothing=smoothing)

    def predict(self, networks: Networks, batch: datasets.ImageBatch) -> Tensor:
        """Logits [b, classes]."""
        return networks["model"](batch.images)

    def meter(self) -> Accuracy:
        """The share of pictures whose largest logit is the label's."""
        return Accuracy(TASK.headline.name)

    def open_data(self, ranks: Ranks, device: torch.device, dtype: torch.dtype) -> dict:
        """Index the data set and start its reader. Returns the fields of the run's `data` event."""
        recipe, options = self.recipe, self.options
        folder, source, corrupt = None, "synthetic noise", []
        if recipe.reader != "synthetic":
            root = options.data or datasets.digits.materialise()
            source = str(root) if options.data else f"the embedded data set, {datasets.digits.NAME}"
            if ranks.rank == 0 and not options.data:
                print(f"data: {source}", file=sys.stderr)
            folder = datasets.ImageFolder(root, recipe.num_classes)
            if ranks.rank == 0 and (passed_over := folder.passed_over()):
                print(passed_over, file=sys.stderr)
            if options.skip_corrupt:
                files = folder.train.files + folder.val.files
                corrupt = datasets.find_corrupt(files, options.workers or ranks.cores)
                if ranks.rank == 0:
                    print(*datasets.left_out(corrupt, len(files)), sep="\n", file=sys.stderr)
                folder.skip(path for path, _ in corrupt)
        self.reader = reader = datasets.make_reader(
            recipe.reader,
            folder,
            image_size=recipe.image_size,
            train_crop=recipe.train_crop,
            min_area=recipe.min_area,
            flip=recipe.train_crop == "random_resized",
            eval_resize=recipe.eval_resize,
            global_batch_size=recipe.batch_size,
            batch_size_local=recipe.batch_size // ranks.size // recipe.gradient_accumulation_steps,
            eval_batch_size=max(1, recipe.eval_batch_size // ranks.size),
            rank=ranks.rank,
            world_size=ranks.size,
            seed=recipe.seed,
            device=device,
            num_workers=options.workers or ranks.cores,
            num_classes=recipe.num_classes,
            num_eval_samples=recipe.eval_batch_size,
        )
        self._batches = partial(datasets.prefetch, device=device, dtype=dtype, mean=IMAGENET_MEAN, std=IMAGENET_STD)
        return {
            "train_samples": len(folder.train) if folder else SYNTHETIC_STEPS * recipe.batch_size,
            "eval_samples": len(folder.val) if folder else recipe.eval_batch_size,
            "classes": recipe.num_classes,
            "source": source,
            "checksum": folder.checksum() if folder else "none",
            "reader": reader.name,
            "corrupt_files": corrupt,
        }

    def train_batches(self, first_step: int) -> Iterator[datasets.ImageBatch]:
        """This rank's part of every global batch from ``first_step`` on, without end."""
        assert self.reader is not None, "open_data comes first"
        return self._batches(self.reader.train(first_step))

    def eval_batches(self) -> Iterator[datasets.ImageBatch]:
        """This rank's part of the evaluation set, each picture once."""
        assert self.reader is not None, "open_data comes first"
        return self._batches(self.reader.evaluate())

    def warm_up_batch(self, ranks: Ranks, device: torch.device, dtype: torch.dtype) -> datasets.ImageBatch:
        """A batch of noise in the shape of the real ones, for warm-up before the clock starts."""
        num_images = self.recipe.batch_size // ranks.size // self.recipe.gradient_accumulation_steps
        side = self.recipe.image_size
        images = torch.randn(num_images, 3, side, side, device=device).to(dtype, memory_format=torch.channels_last)
        labels = torch.randint(self.recipe.num_classes, (num_images,), device=device)
        return datasets.ImageBatch(images, labels)

    def schedule(self) -> Schedule:
        """How the run is planned: in epochs."""
        recipe = self.recipe
        return Schedule(Span(recipe.epochs, "epochs"), Span(recipe.eval_every, "epochs"), recipe.eval_offset)

    def learning_rate(self, step: int, plan: Plan) -> float:
        """Learning rate of 0-based ``step`` under the engine's ``plan``."""
        warmup_steps = plan.step_after(self.recipe.warmup_epochs)
        return polynomial_decay(
            step,
            base=self.recipe.learning_rate,
            end=self.recipe.end_learning_rate,
            power=self.recipe.decay_power,
            warmup_steps=warmup_steps,
            decay_steps=max(1, plan.total_steps - warmup_steps),
        )

    def reported(self, plan: Plan) -> dict:
        """MLPerf's hyper-parameter keys and their values for this run (ruleset 4.0.0, resnet, sgd or lars)."""
        recipe, name = self.recipe, self.recipe.optimizer
        shared = {
            "base_learning_rate": recipe.learning_rate,
            "end_learning_rate": recipe.end_learning_rate,
            "learning_rate_decay_poly_power": recipe.decay_power,
            "learning_rate_decay_steps": plan.total_steps - plan.step_after(recipe.warmup_epochs),
            "weight_decay": recipe.weight_decay,
            "momentum": recipe.momentum,
        }
        if name == "lars":
            own = {"lars_epsilon": LARS_EPSILON, "lars_opt_learning_rate_warmup_epochs": recipe.warmup_epochs}
        else:
            span = recipe.batch_size // recipe.gradient_accumulation_steps // plan.world_size
            own = {"opt_learning_rate_warmup_epochs": recipe.warmup_epochs, "model_bn_span": span}
        return {"opt_name": name, **{f"{name}_opt_{key}": value for key, value in shared.items()}, **own}

    def state(self) -> dict:
        """Nothing beside the network and its optimizer."""
        return {}

    def load_state(self, state: Mapping) -> None:
        """The inverse of `state`."""

    def close(self) -> None:
        if self.reader is not None:
            self.reader.close()

    def description(self) -> dict:
        return asdict(self.recipe)


if TYPE_CHECKING:
    _checked: type[job.Job] = Job
