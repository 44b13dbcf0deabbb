"""Mask R-CNN as a job for the engine; see mask_rcnn_options.py for its settings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from airank_fast import job
from airank_fast.data.images.coco import Coco
from airank_fast.data.images.detection_batch import DetectionBatch, Window
from airank_fast.data.images.detection_reader import DetectionReader, prefetch
from airank_fast.data.images.object_layouts import Scaled
from airank_fast.data.images.place import Place
from airank_fast.data.images.run_lengths import paste_masks
from airank_fast.data.prefetch import moved
from airank_fast.data.sampling import GroupedStream, TrainStream
from airank_fast.job import Example, Networks, Plan, Ranks, Schedule, Span
from airank_fast.models.mask_rcnn import MaskRCNN
from airank_fast.models.roi_heads import RoIOptions
from airank_fast.models.rpn import RPNOptions, Truths
from airank_fast.nn import mask_targets
from airank_fast.nn.batch_norm_act import join_ranks
from airank_fast.optim import FusedAdamW, FusedSGD
from airank_fast.quality.coco_ap import CocoAP, Detections
from airank_fast.recipes.base_job import DataSets, SamplesJob
from airank_fast.recipes.checkpoints import load_into
from airank_fast.recipes.coco_sets import coco_sets
from airank_fast.recipes.detection_examples import examples
from airank_fast.recipes.mask_rcnn_options import RECIPES, Options, Recipe
from airank_fast.recipes.resnet50 import IMAGENET_MEAN, IMAGENET_STD
from airank_fast.recipes.schedule import step_decay
from airank_fast.tasks.mask_rcnn import TASK

__all__ = ["RECIPES", "Job", "Options", "Recipe"]

_ABSENT = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)  # of COCO's category ids, 1 to 90
_MASK_SIDE = 2 * RoIOptions.mask_size
_OBJECTS = 8  # of a picture of noise
_STRIDE = 32  # of which a batch's height and width are multiples
_SPREAD = 0x9E3779B97F4A7C15 - 2**64  # odd: different positions have different keys


class Job(SamplesJob):
    """Mask R-CNN as the engine runs it, for one resolved recipe: see airank_fast.job.Job.

    Batch norms that are not frozen take their statistics over the batches of all ranks, with --no-fused of each rank's
    own.
    """

    task = TASK
    recipe: Recipe
    options: Options

    @property
    def benchmark(self) -> str:
        """mask_rcnn, or mask_rcnn_mini where the network is smaller."""
        shape = ("blocks", "width", "neck_width", "box_width", "mask_width")
        is_whole = all(getattr(self.recipe, name) == getattr(RECIPES["coco"], name) for name in shape)
        return TASK.name if is_whole else f"{TASK.name}_mini"

    def build(self) -> dict[str, nn.Module]:
        """The float32 network on the CPU; with --init-checkpoint the weights of its backbone, or all."""
        recipe = self.recipe
        model = MaskRCNN(
            recipe.num_classes + 1,
            blocks=recipe.blocks,
            base_width=recipe.width,
            channels=recipe.neck_width,
            box_width=recipe.box_width,
            mask_widths=(recipe.mask_width,) * 4,
            rpn=RPNOptions(
                recipe.anchor_sizes,
                before_nms=(recipe.candidates, max(1, recipe.candidates // 2)),
                after_nms=(recipe.proposals, recipe.proposals),
                samples=recipe.anchor_samples,
            ),
            roi=RoIOptions(
                canonical_size=recipe.canonical_size,
                samples=recipe.region_samples,
                min_score=recipe.min_score,
                detections=recipe.detections,
            ),
            frozen_stages=recipe.frozen_stages,
            frozen_norm_eps=recipe.norm_eps if recipe.frozen_norm else None,
            fused=recipe.fused,
        )
        if recipe.init_checkpoint:
            path, fresh = Path(recipe.init_checkpoint), ("backbone.fpn.", "rpn.", "roi_heads.")
            renamed = partial(_of_network, num_classes=recipe.num_classes)
            load_into(model, path, renamed=renamed, unused=("fc.",), fresh=fresh)
        join_ranks(model)
        return {"model": model}

    def build_optimizer(self, model: nn.Module, device: torch.device) -> torch.optim.Optimizer:
        """SGD or AdamW; torch's own with --no-fused. Batch norm has no weight decay.

        The learning rate is a tensor on the device.
        """
        recipe = self.recipe
        norms = {p for module in model.modules() if isinstance(module, nn.BatchNorm2d) for p in module.parameters()}
        trained = [p for p in model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p not in norms], "weight_decay": recipe.weight_decay},
            {"params": [p for p in trained if p in norms], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        if not recipe.fused:
            if recipe.optimizer == "adamw":
                return torch.optim.AdamW(groups, lr=0.0, fused=True)
            return torch.optim.SGD(groups, lr=0.0, momentum=recipe.momentum, fused=True)
        rate = torch.zeros((), dtype=torch.float32, device=device)
        if recipe.optimizer == "adamw":
            return FusedAdamW(groups, rate)
        return FusedSGD(groups, rate, recipe.momentum)

    def loss(self, model: nn.Module, batch: DetectionBatch) -> Tensor:
        """The sum of the network's five losses."""
        shapes = batch.points, batch.polygon_offsets, batch.object_offsets
        (offsets,) = moved([np.cumsum((0, *batch.splits))], batch.images.device)
        truths = Truths(
            batch.boxes,
            batch.labels + 1,
            batch.splits,
            offsets,
            sample_keys(self.recipe.seed, batch.positions),
            lambda regions, objects: mask_targets(regions, objects, *shapes, _MASK_SIDE),
        )
        losses = model(batch.images, _sizes(batch), truths)
        return sum(losses.values())

    def predict(self, networks: Networks, batch: DetectionBatch) -> list[Detections]:
        """The detections of each picture, in the picture's own pixels, their masks as run lengths."""
        found = networks["model"](batch.images, _sizes(batch))
        boxes, scores, labels, masks = (tensor.split(found.splits) for tensor in found[:4])
        outputs = []
        for number, size in enumerate(batch.sizes):
            in_file = batch.in_picture(boxes[number], number).cpu().numpy()
            pasted = paste_masks(masks[number].cpu().numpy(), in_file, size)
            kept = scores[number].cpu().numpy(), (labels[number] - 1).cpu().numpy()
            outputs.append(Detections(in_file, *kept, pasted))
        return outputs

    def examples(self, outputs: list[Detections], batch: DetectionBatch) -> list[Example]:
        """Pictures with what is found, beside them what is true."""
        return examples(outputs, batch, list(self._names), IMAGENET_MEAN, IMAGENET_STD)

    def meter(self) -> CocoAP:
        """COCO's average precision of boxes and of masks over the set and all ranks."""
        return CocoAP(self._truth)

    def data_sets(self, num_threads: int) -> DataSets:
        """See SamplesJob."""
        sets, self._truth = coco_sets(self.options, self.recipe.num_classes, num_threads, masks=True)
        height, width = cast(Coco, sets.train).sizes.T
        self._wide = width >= height
        return sets

    def facts(self) -> dict[str, Any]:
        """The number of classes."""
        return {"classes": self.recipe.num_classes}

    def train_stream(self, num_samples: int, ranks: Ranks) -> TrainStream:
        """Pictures to train on; a global batch is of one orientation, as the images of a batch have one size."""
        return GroupedStream(
            self._wide,
            self.recipe.seed,
            batch_size_local=self.recipe.micro_batch_size(ranks.size),
            global_batch_size=self.recipe.batch_size,
            rank=ranks.rank,
            world_size=ranks.size,
        )

    def open_reader(self, train: Coco, val: Coco, stream: TrainStream, place: Place) -> DetectionReader:
        """Pictures scaled to --min-size and --max-size."""
        recipe = self.recipe
        self._names = val.category_names
        layout = Scaled(recipe.min_size, recipe.max_size, flip=recipe.flip)
        return DetectionReader(train, val, stream, place, layout, masks=True)

    def moved(self, items: Iterable[tuple[Tensor, ...]]) -> Iterator[DetectionBatch]:
        """Pictures and their objects."""
        return prefetch(items, self.device, self.dtype, IMAGENET_MEAN, IMAGENET_STD)

    def warm_up_batch(self, ranks: Ranks, device: torch.device, dtype: torch.dtype) -> DetectionBatch:
        """Noise with squares for objects, in the shape of the largest batch, for warm-up before the clock starts.

        That is one of a picture that is as wide and one that is as high as pictures can be.
        """
        recipe = self.recipe
        number, longest = recipe.micro_batch_size(ranks.size), -(-recipe.max_size // _STRIDE) * _STRIDE
        images = torch.randn(number, 3, longest, longest, device=device).to(dtype, memory_format=torch.channels_last)
        side = recipe.min_size / 4
        corners = torch.rand(number * _OBJECTS, 2, device=device) * (recipe.min_size - side)
        boxes = torch.cat([corners, corners + side], 1)
        left, top, right, bottom = boxes.unbind(1)
        outline = torch.stack([left, top, right, top, right, bottom, left, bottom], 1)
        offsets = torch.arange(len(boxes) + 1, device=device)
        return DetectionBatch(
            images,
            boxes,
            torch.randint(recipe.num_classes, (len(boxes),), device=device),
            torch.zeros(len(boxes), dtype=torch.bool, device=device),
            outline.view(-1, 2),
            4 * offsets,
            offsets,
            torch.arange(number, device=device),
            (_OBJECTS,) * number,
            (Window(0, 0, recipe.max_size, recipe.max_size),) * number,
            ((recipe.max_size, recipe.max_size),) * number,
            tuple(range(number)),
        )

    def schedule(self) -> Schedule:
        """The length of the run and its evaluations, in steps."""
        return Schedule(Span(self.recipe.steps, "steps"), Span(self.recipe.eval_every, "steps"))

    def learning_rate(self, step: int, plan: Plan) -> float:
        """Learning rate of 0-based `step`."""
        recipe = self.recipe
        return step_decay(
            step,
            base=recipe.learning_rate,
            factor=recipe.decay_factor,
            warmup_steps=recipe.warmup_steps,
            decay_steps=recipe.decay_steps,
        )

    def reported(self, plan: Plan) -> dict[str, Any]:
        """MLPerf's keys; its closed division has SGD alone."""
        recipe = self.recipe
        return {
            "opt_name": recipe.optimizer,
            "opt_base_learning_rate": recipe.learning_rate,
            "opt_learning_rate_warmup_steps": recipe.warmup_steps,
            "opt_learning_rate_warmup_factor": 1 / max(1, recipe.warmup_steps),
            "opt_learning_rate_decay_factor": recipe.decay_factor,
            "opt_learning_rate_decay_steps": list(recipe.decay_steps),
            "num_image_candidates": recipe.proposals,
            "min_image_size": recipe.min_size,
            "max_image_size": recipe.max_size,
        }


def sample_keys(seed: int, positions: Tensor) -> Tensor:
    """A key of each picture of the training stream: int64, from a run's seed and int64 positions."""
    return (positions + ((seed & 0x3FFFFF) << 40)) * _SPREAD


def _sizes(batch: DetectionBatch) -> Tensor:
    """Height and width of each picture in its image, float32 [b, 2], on the device."""
    sizes = np.array([(window.height, window.width) for window in batch.windows], np.float32)
    return moved([sizes], batch.images.device)[0]


def _of_network(weights: dict[str, Tensor], num_classes: int) -> dict[str, Tensor]:
    """The network's weights of those of a backbone, or of a network.

    torchvision's COCO weights have a class for each of the ids up to 90; where the network has 80 classes, the ten of
    ids that no category has are left out.
    """
    if not any(name.startswith("backbone.") for name in weights):
        return {f"backbone.body.{name}": tensor for name, tensor in weights.items()}
    classes = [number for number in range(91) if number not in _ABSENT]
    score = weights.get("roi_heads.box_predictor.cls_score.bias")
    if num_classes + 1 != len(classes) or score is None or len(score) != 91:
        return weights
    predictors = ("roi_heads.box_predictor.", "roi_heads.mask_predictor.mask_fcn_logits.")
    return {
        name: tensor.unflatten(0, (91, -1))[classes].flatten(0, 1) if name.startswith(predictors) else tensor
        for name, tensor in weights.items()
    }


if TYPE_CHECKING:
    _checked: type[job.Job] = Job
