"""TSM, classification of videos, as a job for the engine; see tsm_options.py for its settings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from airank_fast import job
from airank_fast.data import images as datasets
from airank_fast.data.images.clip_reader import ClipReader
from airank_fast.data.images.clips import Clips, DigitClips, read_clips
from airank_fast.data.images.digit_scenes import CLIPS_NAME, MOTIONS
from airank_fast.data.images.place import Place
from airank_fast.data.sampling import Crop, TrainStream
from airank_fast.errors import UserError, require
from airank_fast.job import Example, Networks, Plan, Ranks
from airank_fast.models.tsm import TSM
from airank_fast.nn import cross_entropy
from airank_fast.optim import FusedSGD
from airank_fast.optim.clipping import clip_grad_norm
from airank_fast.quality.accuracy import Accuracy
from airank_fast.recipes.base_job import DataSets, SamplesJob
from airank_fast.recipes.checkpoints import load_into
from airank_fast.recipes.resnet50 import IMAGENET_MEAN, IMAGENET_STD
from airank_fast.recipes.tsm_options import RECIPES, Options, Recipe
from airank_fast.tasks.tsm import TASK

__all__ = ["RECIPES", "Job", "Options", "Recipe"]

NUM_TRAIN, NUM_HELD_OUT = 2400, 600  # clips of moving digits


class Job(SamplesJob):
    """TSM as the engine runs it, for one resolved recipe: see airank_fast.job.Job."""

    task = TASK
    samples = "clips"
    recipe: Recipe
    options: Options

    def build(self) -> dict[str, nn.Module]:
        """The float32 network on the CPU, with random initial weights or those of --init-checkpoint."""
        recipe = self.recipe
        model = TSM(
            recipe.num_classes,
            num_segments=recipe.num_segments,
            blocks=recipe.blocks,
            base_width=recipe.width,
            dropout=recipe.dropout,
            shift_div=recipe.shift_div,
            shift=recipe.shift,
            fused=recipe.fused,
        )
        if recipe.init_checkpoint:
            load_into(model, Path(recipe.init_checkpoint), renamed=model.from_resnet)
        return {"model": model}

    def build_optimizer(self, model: nn.Module, device: torch.device) -> torch.optim.Optimizer:
        """SGD with mit-han-lab's factors on the learning rate and the decay of groups of parameters.

        The last layer's weight has 5 times the rate and its bias 10 times; only weights, not batch norm and biases,
        decay. The learning rate is a tensor on the device. With --no-fused it is torch's own.
        """
        recipe = self.recipe
        last = {name: p for name, p in model.named_parameters() if name.startswith("new_fc.")}
        others = [p for name, p in model.named_parameters() if name not in last]
        decays, factor = {"weight_decay": recipe.weight_decay}, recipe.last_layer_factor
        groups: list[dict[str, Any]] = [
            {"params": [p for p in others if p.ndim > 1], **decays},
            {"params": [p for p in others if p.ndim <= 1]},
            {"params": [last["new_fc.weight"]], "lr_factor": factor, **decays},
            {"params": [last["new_fc.bias"]], "lr_factor": 2 * factor},
        ]
        if not recipe.fused:
            optimizer = torch.optim.SGD(groups, lr=0.0, momentum=recipe.momentum, fused=True)
            clip_grad_norm(optimizer, recipe.max_grad_norm)
            return optimizer
        lr = torch.zeros((), dtype=torch.float32, device=device)
        return FusedSGD(groups, lr=lr, momentum=recipe.momentum, max_grad_norm=recipe.max_grad_norm)

    def loss(self, model: nn.Module, batch: datasets.ImageBatch) -> Tensor:
        """Mean cross entropy of the clips' logits over the batch, float32 scalar."""
        logits = model(batch.images)
        if self.recipe.fused:
            return cross_entropy(logits, batch.labels)
        return F.cross_entropy(logits.float(), batch.labels)

    def predict(self, networks: Networks, batch: datasets.ImageBatch) -> Tensor:
        """Logits [b, classes], of a clip the mean over its frames."""
        return networks["model"](batch.images)

    def examples(self, outputs: Tensor, batch: datasets.ImageBatch) -> list[Example]:
        """Clips, their frames side by side, with their classes."""
        frames = datasets.as_pictures(batch.images, IMAGENET_MEAN, IMAGENET_STD)
        strips = [np.hstack([*clip]) for clip in np.split(frames, len(batch.labels))]
        names = MOTIONS if self.options.data is None else [str(label) for label in range(self.recipe.num_classes)]
        found = zip(strips, outputs.argmax(1).tolist(), batch.labels.tolist(), strict=True)
        return [Example(strip, names[predicted], names[label]) for strip, predicted, label in found]

    def meter(self) -> Accuracy:
        """The share of clips whose largest logit is the label's."""
        return Accuracy(TASK.headline.name)

    def data_sets(self, num_threads: int) -> DataSets:
        """See SamplesJob."""
        options = self.options
        if options.data is None:
            number = len(MOTIONS)
            what = f"at least {number} for the motions of the embedded clips"
            require(self.recipe.num_classes >= number, "--num-classes", what, self.recipe.num_classes)
            sides = (DigitClips(NUM_TRAIN, held_out=False), DigitClips(NUM_HELD_OUT, held_out=True))
            return DataSets(*sides, f"the embedded data set, {CLIPS_NAME}", [])
        train_path, val_path = options.data, options.eval_data
        what = "a list of clips, or a directory with train.txt and val.txt"
        require(train_path.exists(), "--data", what, f"{train_path}, which does not exist")
        if train_path.is_dir() and val_path is None:
            train_path, val_path = train_path / "train.txt", train_path / "val.txt"
        if val_path is None:
            raise UserError("--eval-data: must be given with a list as --data, got none")
        read = partial(
            read_clips,
            num_classes=self.recipe.num_classes,
            frame_name=options.frame_name,
            skip_corrupt=options.skip_corrupt,
            num_threads=num_threads,
        )
        train, corrupt = read(train_path)
        val, more = read(val_path)
        return DataSets(train, val, f"{train_path}, {val_path}", corrupt + more)

    def open_reader(self, train: Clips, val: Clips, stream: TrainStream, place: Place) -> ClipReader:
        """One crop for all frames of a clip."""
        recipe = self.recipe
        crop = Crop(recipe.image_size, recipe.train_crop, recipe.eval_resize, min_area=1.0, flip=recipe.flip)
        return ClipReader(train, val, stream, place, num_segments=recipe.num_segments, crop=crop)

    def facts(self) -> dict[str, Any]:
        """The classes."""
        return {"classes": self.recipe.num_classes}

    def moved(self, items: Iterable[tuple[Tensor, ...]]) -> Iterator[datasets.ImageBatch]:
        """Frames and the clips' labels."""
        return datasets.prefetch(items, self.device, self.dtype, IMAGENET_MEAN, IMAGENET_STD)

    def warm_up_batch(self, ranks: Ranks, device: torch.device, dtype: torch.dtype) -> datasets.ImageBatch:
        """A batch of noise in the shape of a training batch, for warm-up before the clock starts."""
        num, side = self.recipe.micro_batch_size(ranks.size), self.recipe.image_size
        shape = (num * self.recipe.num_segments, 3, side, side)
        images = torch.randn(shape, device=device).to(dtype, memory_format=torch.channels_last)
        return datasets.ImageBatch(images, torch.randint(self.recipe.num_classes, (num,), device=device))

    def learning_rate(self, step: int, plan: Plan) -> float:
        """Learning rate of 0-based ``step`` under the engine's ``plan``."""
        return self.stepped_rate(step, plan)

    def reported(self, plan: Plan) -> dict[str, Any]:
        """The optimizer under MLPerf's names; its books have no keys for this task."""
        decay = {"sgd_opt_momentum": self.recipe.momentum, "sgd_opt_weight_decay": self.recipe.weight_decay}
        return {**self.reported_optimizer("sgd"), **decay}


if TYPE_CHECKING:
    _checked: type[job.Job] = Job
