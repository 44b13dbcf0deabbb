"""ResNet-50 v1.5 image classification as a job for the engine; settings and options are in resnet50_options.py."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from airank_fast import job
from airank_fast.data import images as datasets
from airank_fast.errors import require
from airank_fast.job import Example, Networks, Plan, Ranks, Schedule, Span
from airank_fast.models.resnet import resnet50
from airank_fast.nn import cross_entropy
from airank_fast.optim import FusedLARS, FusedSGD
from airank_fast.quality.accuracy import Accuracy
from airank_fast.recipes.base_job import BaseJob
from airank_fast.recipes.resnet50_options import RECIPES, Options, Recipe
from airank_fast.tasks.resnet50 import TASK

__all__ = ["RECIPES", "Job", "Options", "Recipe"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

SYNTHETIC_STEPS = 100  # of an epoch with the synthetic reader
LARS_EPSILON = 0.0  # fixed by MLPerf's closed division, as the next
LARS_TRUST_COEFFICIENT = 0.001


class Job(BaseJob):
    """ResNet-50 as the engine runs it, for one resolved recipe: see airank_fast.job.Job."""

    task = TASK
    recipe: Recipe
    options: Options

    def build(self) -> dict[str, nn.Module]:
        """The float32 network with random initial weights, on the CPU."""
        recipe = self.recipe
        made = resnet50(recipe.num_classes, zero_init_last_bn=recipe.zero_init_last_bn, fused=recipe.fused)
        return {"model": made}

    def build_optimizer(self, model: nn.Module, device: torch.device) -> FusedSGD | FusedLARS:
        """Weight decay, and LARS's trust ratio, on weights only. The learning rate is a tensor on the device."""
        groups = self.decay_groups(model)
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

    def examples(self, outputs: Tensor, batch: datasets.ImageBatch) -> list[Example]:
        """Pictures with their classes."""
        pictures = datasets.as_pictures(batch.images, IMAGENET_MEAN, IMAGENET_STD)
        found = zip(pictures, outputs.argmax(1).tolist(), batch.labels.tolist(), strict=True)
        return [Example(picture, *(self._classes[label] for label in labels)) for picture, *labels in found]

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
            batch_size_local=recipe.micro_batch_size(ranks.size),
            eval_batch_size=max(1, recipe.eval_batch_size // ranks.size),
            rank=ranks.rank,
            world_size=ranks.size,
            seed=recipe.seed,
            device=device,
            num_workers=options.workers or ranks.cores,
            num_classes=recipe.num_classes,
            num_eval_samples=recipe.eval_batch_size,
        )
        self._classes = folder.classes if folder else [str(label) for label in range(recipe.num_classes)]
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

    def eval_samples(self, indices: Sequence[int]) -> Iterator[datasets.ImageBatch]:
        """See airank_fast.job.Sampled; of Pillow's reader alone."""
        assert self.reader is not None, "open_data comes first"
        require(self.reader.name == "torch", "--reader", "torch, to read pictures by number", self.reader.name)
        return self._batches(self.reader.samples(indices))

    def warm_up_batch(self, ranks: Ranks, device: torch.device, dtype: torch.dtype) -> datasets.ImageBatch:
        """A batch of noise in the shape of a training batch, for warm-up before the clock starts."""
        num_images = self.recipe.micro_batch_size(ranks.size)
        side = self.recipe.image_size
        images = torch.randn(num_images, 3, side, side, device=device).to(dtype, memory_format=torch.channels_last)
        labels = torch.randint(self.recipe.num_classes, (num_images,), device=device)
        return datasets.ImageBatch(images, labels)

    def schedule(self) -> Schedule:
        """The length of the run and its evaluations, in epochs."""
        recipe = self.recipe
        return Schedule(Span(recipe.epochs, "epochs"), Span(recipe.eval_every, "epochs"), recipe.eval_offset)

    def learning_rate(self, step: int, plan: Plan) -> float:
        """Learning rate of 0-based ``step`` under the engine's ``plan``."""
        return self.decayed_rate(step, plan, end=self.recipe.end_learning_rate, power=self.recipe.decay_power)

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


if TYPE_CHECKING:
    _checked: type[job.Job] = Job
