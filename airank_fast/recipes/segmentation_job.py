"""What the jobs of semantic segmentation share: everything but the network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from airank_fast.data.images import digit_objects
from airank_fast.data.images.batches import as_pictures
from airank_fast.data.images.label_images import Pairs, label_colours, read_pairs
from airank_fast.data.images.place import Place
from airank_fast.data.images.segmentation_reader import (
    MEAN,
    STD,
    Crops,
    SegmentationBatch,
    SegmentationReader,
    prefetch,
)
from airank_fast.data.sampling import TrainStream
from airank_fast.errors import require
from airank_fast.job import Example, Networks, Plan, Ranks, Schedule, Span
from airank_fast.models.pixel_classes import pixel_classes, pixel_loss
from airank_fast.nn.batch_norm_act import join_ranks
from airank_fast.optim import FusedAdamW, FusedSGD
from airank_fast.quality.mean_iou import MeanIoU
from airank_fast.recipes.base_job import DataSets, SamplesJob
from airank_fast.recipes.schedule import polynomial_decay
from airank_fast.recipes.segmentation_recipe import SegmentationOptions, SegmentationRecipe


class SegmentationJob(SamplesJob):
    """A segmentation network as the engine runs it, for one resolved recipe: see airank_fast.job.Job.

    A subclass has the task and implements `network`. Batch-norm statistics are those of the batches of all ranks, with
    --no-fused of each rank's own.
    """

    recipe: SegmentationRecipe
    options: SegmentationOptions

    def network(self) -> nn.Module:
        """The float32 network, with the weights of --init-checkpoint or random ones; it returns logits [b, C, h, w]."""
        raise NotImplementedError

    def build(self) -> dict[str, nn.Module]:
        """The network, on the CPU. UserError where a rank's batch norms would have one picture."""
        pictures = self.recipe.micro_batch_size(dist.get_world_size() if dist.is_initialized() else 1)
        what = "at least 2 pictures of each rank at a time, for batch norm with --no-fused"
        require(self.recipe.fused or pictures >= 2, "--batch-size", what, pictures)
        model = self.network()
        join_ranks(model)
        return {"model": model}

    def build_optimizer(self, model: nn.Module, device: torch.device) -> torch.optim.Optimizer:
        """SGD or AdamW; torch's own with --no-fused. Weight decay is on weights only.

        The learning rate is a tensor on the device.
        """
        groups = self.decay_groups(model)
        is_adamw, momentum = self.recipe.optimizer == "adamw", self.recipe.momentum
        if not self.recipe.fused:
            if is_adamw:
                return torch.optim.AdamW(groups, lr=0.0, fused=True)
            return torch.optim.SGD(groups, lr=0.0, momentum=momentum, fused=True)
        learning_rate = torch.zeros((), dtype=torch.float32, device=device)
        return FusedAdamW(groups, learning_rate) if is_adamw else FusedSGD(groups, learning_rate, momentum)

    def loss(self, model: nn.Module, batch: SegmentationBatch) -> Tensor:
        """See `pixel_loss`."""
        return pixel_loss(model(batch.images), batch.labels, fused=self.recipe.fused)

    def predict(self, networks: Networks, batch: SegmentationBatch) -> Tensor:
        """The class of each pixel, int64 [b, H, W]."""
        logits = networks["model"](batch.images)
        return pixel_classes(logits, batch.labels.shape[1:], fused=self.recipe.fused)

    def examples(self, outputs: Tensor, batch: SegmentationBatch) -> list[Example]:
        """Pictures, beside them the predicted and the true label images, about 200 pixels wide each."""
        pictures, colours = as_pictures(batch.images, MEAN, STD), label_colours(self.recipe.num_classes)
        predicted, truth = (colours[labels.cpu().numpy()] for labels in (outputs, batch.labels))
        every = max(1, pictures.shape[2] // 200)
        found = zip(pictures, predicted, truth, strict=True)
        return [Example(np.hstack([each[::every, ::every] for each in of_one])) for of_one in found]

    def meter(self) -> MeanIoU:
        """The mean over classes of intersection / union, from one confusion matrix over the set and all ranks."""
        return MeanIoU(self.recipe.num_classes)

    def data_sets(self, num_threads: int) -> DataSets:
        """See SamplesJob."""
        options = self.options
        if options.data is None:
            paths, source = digit_objects.materialise(), f"the embedded data set, {digit_objects.NAME}"
        else:
            paths = options.data, options.eval_data or options.data
            source = ", ".join(map(str, dict.fromkeys(paths)))
        read = partial(
            read_pairs,
            num_classes=self.recipe.num_classes,
            skip_corrupt=options.skip_corrupt,
            num_threads=num_threads,
        )
        (train, corrupt), (val, more) = (read(path, side) for path, side in zip(paths, ("train", "val"), strict=True))
        return DataSets(train, val, source, corrupt + more)

    def open_reader(self, train: Pairs, val: Pairs, stream: TrainStream, place: Place) -> SegmentationReader:
        """Crops to train on, whole pictures to evaluate."""
        recipe = self.recipe
        crops = Crops(recipe.crop_height, recipe.crop_width, recipe.min_scale, recipe.max_scale, recipe.flip)
        return SegmentationReader(train, val, stream, place, crops)

    def facts(self) -> dict[str, Any]:
        """The classes."""
        return {"classes": self.recipe.num_classes}

    def moved(self, items: Iterable[tuple[Tensor, ...]]) -> Iterator[SegmentationBatch]:
        """Pictures and their label images."""
        return prefetch(items, self.device, self.dtype)

    def warm_up_batch(self, ranks: Ranks, device: torch.device, dtype: torch.dtype) -> SegmentationBatch:
        """A batch of noise in the shape of a training batch, for warm-up before the clock starts."""
        recipe = self.recipe
        shape = recipe.micro_batch_size(ranks.size), recipe.crop_height, recipe.crop_width
        images = torch.randn(shape[0], 3, *shape[1:], device=device).to(dtype, memory_format=torch.channels_last)
        labels = torch.randint(recipe.num_classes, shape, dtype=torch.uint8, device=device)
        return SegmentationBatch(images, labels)

    def schedule(self) -> Schedule:
        """The length of the run and its evaluations, in steps."""
        return Schedule(Span(self.recipe.steps, "steps"), Span(self.recipe.eval_every, "steps"))

    def learning_rate(self, step: int, plan: Plan) -> float:
        """Learning rate of 0-based `step` under the engine's `plan`."""
        recipe = self.recipe
        return polynomial_decay(
            step,
            base=recipe.learning_rate,
            end=recipe.end_learning_rate,
            power=recipe.decay_power,
            warmup_steps=recipe.warmup_steps,
            decay_steps=max(1, plan.total_steps - recipe.warmup_steps),
        )

    def reported(self, plan: Plan) -> dict[str, Any]:
        """The optimizer under MLPerf's names; its books have no keys for this task."""
        recipe, name = self.recipe, self.recipe.optimizer
        shared = {
            "base_learning_rate": recipe.learning_rate,
            "end_learning_rate": recipe.end_learning_rate,
            "learning_rate_decay_poly_power": recipe.decay_power,
            "learning_rate_decay_steps": plan.total_steps - recipe.warmup_steps,
            "weight_decay": recipe.weight_decay,
        }
        if name == "sgd":
            shared["momentum"] = recipe.momentum
        keys = {f"{name}_opt_{key}": value for key, value in shared.items()}
        return {"opt_name": name, **keys, "opt_learning_rate_warmup_steps": recipe.warmup_steps}
