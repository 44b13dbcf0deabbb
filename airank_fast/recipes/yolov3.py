"""YOLOv3 as a job for the engine; see yolov3_options.py for its settings."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from airank_fast import job
from airank_fast.data.images.coco import Coco
from airank_fast.data.images.detection_batch import DetectionBatch
from airank_fast.data.images.detection_reader import DetectionReader, prefetch
from airank_fast.data.images.object_layouts import Colours, Stretched
from airank_fast.data.images.place import Place
from airank_fast.data.images.yolo_batches import YoloBatch, mixup_ratios, with_shares
from airank_fast.data.sampling import Purpose, TrainStream, philox
from airank_fast.job import Batch, Example, Networks, Plan, Ranks
from airank_fast.models.yolo_boxes import Grid, Truth, detect, yolo_loss
from airank_fast.models.yolov3 import YOLOv3
from airank_fast.nn.batch_norm_act import join_ranks
from airank_fast.optim import FusedSGD
from airank_fast.optim.clipping import clip_grad_norm
from airank_fast.quality.coco_ap import CocoAP, Detections
from airank_fast.recipes import darknet_weights, detection_examples
from airank_fast.recipes.base_job import DataSets, SamplesJob
from airank_fast.recipes.checkpoints import load_into
from airank_fast.recipes.coco_sets import coco_sets
from airank_fast.recipes.yolov3_options import COCO, RECIPES, Options, Recipe
from airank_fast.tasks.yolov3 import TASK

__all__ = ["RECIPES", "Job", "Options", "Recipe"]

MEAN, STD = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # pictures are in [0, 1], as darknet's
PADDING = (128, 128, 128)  # darknet's 0.5
_STEPS_OF_SIZE = 10
_NOISE_OBJECTS = 4  # of an image of a warm-up batch


@dataclass(frozen=True)
class SizeOfStep:
    """The side of the images of a training step: every ten steps have one of the sizes, by the seed."""

    sizes: tuple[int, ...]
    seed: int

    def __call__(self, step: int) -> int:
        if len(self.sizes) == 1:
            return self.sizes[0]
        word = int(philox(self.seed, Purpose.SIZES, (step // _STEPS_OF_SIZE, 0)).random_raw())
        return self.sizes[word % len(self.sizes)]


class Job(SamplesJob):
    """YOLOv3 as the engine runs it, for one resolved recipe: see airank_fast.job.Job.

    Batch-norm statistics are those of the batches of all ranks, with --no-fused of each rank's own.
    """

    task = TASK
    recipe: Recipe
    options: Options

    def __init__(self, recipe: Recipe, options: Options) -> None:
        super().__init__(recipe, options)
        self._grids: dict[tuple[int, int], Grid] = {}

    @property
    def benchmark(self) -> str:
        """yolov3, or yolov3_mini where the network is smaller."""
        recipe = self.recipe
        is_whole = (recipe.widths, recipe.blocks) == (COCO.widths, COCO.blocks)
        return TASK.name if is_whole else f"{TASK.name}_mini"

    def build(self) -> dict[str, nn.Module]:
        """The float32 network on the CPU, with the weights of --init-checkpoint or random ones."""
        recipe = self.recipe
        model = YOLOv3(recipe.num_classes, widths=recipe.widths, blocks=recipe.blocks, fused=recipe.fused)
        if recipe.init_checkpoint:
            path = Path(recipe.init_checkpoint)
            if path.suffix == ".weights" or ".conv." in path.name:
                darknet_weights.read_into(model, path)
            else:
                load_into(model, path)
        join_ranks(model)
        return {"model": model}

    def data_sets(self, num_threads: int) -> DataSets:
        """See SamplesJob."""
        sets, self._truth = coco_sets(self.options, self.recipe.num_classes, num_threads, masks=False)
        return sets

    def facts(self) -> dict[str, Any]:
        """The number of classes."""
        return {"classes": self.recipe.num_classes}

    def open_reader(self, train: Coco, val: Coco, stream: TrainStream, place: Place) -> DetectionReader:
        """Random windows to train on, whole pictures to evaluate."""
        recipe = self.recipe
        self._stream, self._rank, self._names = stream, place.rank, val.category_names.tolist()
        layout = Stretched(
            SizeOfStep(recipe.train_sizes, recipe.seed),
            recipe.letterbox,
            recipe.flip,
            recipe.jitter,
            recipe.expand,
            recipe.crop,
            Colours() if recipe.colours else None,
        )
        whole = Stretched(SizeOfStep((recipe.image_size,), recipe.seed), recipe.letterbox)
        return DetectionReader(train, val, stream, place, layout, eval_layout=whole, masks=False, padding=PADDING)

    def moved(self, items: Iterable[tuple[Tensor, ...]]) -> Iterator[DetectionBatch]:
        """Images and their objects."""
        return prefetch(items, self.device, self.dtype, MEAN, STD)

    def build_optimizer(self, model: nn.Module, device: torch.device) -> torch.optim.Optimizer:
        """SGD with weight decay on weights alone; torch's own with --no-fused.

        The learning rate is a tensor on the device.
        """
        recipe, groups = self.recipe, self.decay_groups(model)
        assert isinstance(model, YOLOv3)
        self._model = model
        if recipe.fused:
            rate = torch.zeros((), dtype=torch.float32, device=device)
            self._optimizer: torch.optim.Optimizer = FusedSGD(
                groups, rate, recipe.momentum, max_grad_norm=recipe.max_grad_norm
            )
        else:
            self._optimizer = torch.optim.SGD(groups, lr=0.0, momentum=recipe.momentum, fused=True)
            if recipe.max_grad_norm is not None:
                clip_grad_norm(self._optimizer, recipe.max_grad_norm)
        return self._optimizer

    def loss(self, model: nn.Module, batch: YoloBatch) -> Tensor:
        """See `yolo_loss`."""
        recipe = self.recipe
        return yolo_loss(
            model(batch.images),
            self._grid(batch.images),
            Truth(batch.boxes, batch.labels, batch.pictures, batch.weights, batch.offsets),
            ignore_iou=recipe.ignore_iou,
            label_smoothing=recipe.label_smoothing,
        )

    def _grid(self, images: Tensor) -> Grid:
        """The places of predictions for these images."""
        height, width = images.shape[2:]
        if (height, width) not in self._grids:
            with torch.inference_mode(False):  # for training too
                self._grids[height, width] = Grid.of(height, width, self.recipe.anchor_sizes, images.device)
        return self._grids[height, width]

    def predict(self, networks: Networks, batch: DetectionBatch) -> list[Detections]:
        """What is found in each picture, at most 100 objects, boxes in the pixels of its file."""
        recipe = self.recipe
        logits = networks["model"](batch.images)
        grid = self._grid(batch.images)
        found = detect(logits, grid, score_threshold=recipe.score_threshold, nms_iou=recipe.nms_iou)
        in_pictures = [batch.in_picture(each.boxes, number) for number, each in enumerate(found)]
        return [
            Detections(boxes.cpu().numpy(), each.scores.cpu().numpy(), each.labels.cpu().numpy())
            for boxes, each in zip(in_pictures, found, strict=True)
        ]

    def examples(self, outputs: list[Detections], batch: DetectionBatch) -> list[Example]:
        """Pictures with the objects found, and beside them with the true ones."""
        return detection_examples.examples(outputs, batch, self._names, MEAN, STD)

    def meter(self) -> CocoAP:
        """COCO's AP of boxes, over the set and all ranks."""
        return CocoAP(self._truth)

    def train_batches(self, first_step: int) -> Iterator[YoloBatch]:
        """This rank's part of every global batch from `first_step` on, without end, mixed where the recipe has it."""
        recipe = self.recipe
        mixed_before = (recipe.epochs - recipe.mixup_off_epochs) * self._stream.num_samples if recipe.mixup else 0
        read = cast(Generator[DetectionBatch, None, None], super().train_batches(first_step))
        with contextlib.closing(read) as batches:
            for position, batch in zip(self._stream.positions(first_step), batches, strict=False):
                ratios = mixup_ratios(recipe.seed, position, batch.num_samples) if position < mixed_before else None
                yield with_shares(batch, ratios)

    def eval_batches(self) -> Iterator[Batch]:
        """This rank's part of the evaluation set, each picture once; before them rank 0 writes --weights."""
        if self.options.weights is not None and self._rank == 0:
            self.write_weights(self.options.weights)
        return super().eval_batches()

    def write_weights(self, path: Path) -> None:
        """Write the network in darknet's format; the pictures seen are counted by the batch norms."""
        steps = int(self._model.get_buffer("backbone.first.norm.num_batches_tracked").item())
        seen = steps * self.recipe.batch_size // self.recipe.gradient_accumulation_steps
        masters = {p: state["master"] for p, state in self._optimizer.state.items() if "master" in state}
        darknet_weights.write(self._model, path, seen, masters)

    def warm_up_batch(self, ranks: Ranks, device: torch.device, dtype: torch.dtype) -> YoloBatch:
        """A batch of noise in the shape of the largest training batch, for warm-up before the clock starts."""
        recipe = self.recipe
        num, side = recipe.micro_batch_size(ranks.size), max(recipe.train_sizes)
        images = torch.rand(num, 3, side, side, device=device).to(dtype, memory_format=torch.channels_last)
        objects = num * _NOISE_OBJECTS
        corners = torch.rand(objects, 2, device=device) * side / 2
        boxes = torch.cat([corners, corners + side / 4], 1)
        labels = torch.randint(recipe.num_classes, (objects,), device=device)
        pictures = torch.arange(objects, device=device) // _NOISE_OBJECTS
        offsets = torch.arange(num + 1, device=device) * _NOISE_OBJECTS
        return YoloBatch(images, boxes, labels, pictures, torch.ones(objects, device=device), offsets)

    def learning_rate(self, step: int, plan: Plan) -> float:
        """Learning rate of 0-based `step` under the engine's `plan`."""
        return self.stepped_rate(step, plan, warmup_power=self.recipe.warmup_power)

    def reported(self, plan: Plan) -> dict[str, Any]:
        """The optimizer under MLPerf's names; its books have no keys for this task."""
        recipe = self.recipe
        shared = {"sgd_opt_momentum": recipe.momentum, "sgd_opt_weight_decay": recipe.weight_decay}
        return self.reported_optimizer("sgd") | shared


if TYPE_CHECKING:
    _checked: type[job.Job] = Job
