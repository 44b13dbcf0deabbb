"""Text detection as a job for the engine; see ocr_detection_options.py for its settings."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from airank_fast import job
from airank_fast.data.images import digit_strings
from airank_fast.data.images.batches import as_pictures
from airank_fast.data.images.image_folder import left_out
from airank_fast.data.images.place import Place
from airank_fast.data.images.segmentation_reader import MEAN, STD
from airank_fast.data.images.text_boxes import packages, text_boxes
from airank_fast.data.images.text_maps import NUM_MAPS
from airank_fast.data.images.text_scene_reader import (
    MapBatch,
    SceneBatch,
    TextCrops,
    TextSceneReader,
    prefetch_crops,
    prefetch_pictures,
)
from airank_fast.data.images.text_scenes import Scenes, read_scenes
from airank_fast.data.sampling import TrainStream
from airank_fast.job import Example, Networks, Plan, Ranks, Schedule, Span, Update
from airank_fast.models.dbnet import DBNet, db_loss
from airank_fast.models.resnet import BasicBlock, Bottleneck
from airank_fast.nn.batch_norm_act import join_ranks
from airank_fast.optim import FusedAdam
from airank_fast.quality.text_detection import TextDetection
from airank_fast.recipes.checkpoints import first_weights, load_into
from airank_fast.recipes.ocr_detection_options import RECIPES, Options, Recipe
from airank_fast.recipes.options import target_values
from airank_fast.recipes.schedule import polynomial_decay
from airank_fast.tasks.ocr_detection import TASK

__all__ = ["RECIPES", "Job", "Options", "Recipe"]

_FOUND, _TRUE, _IGNORED = (255, 220, 0), (0, 255, 90), (170, 170, 170)  # outlines in pictures of predictions


class Job:
    """Text detection as the engine runs it, for one resolved recipe: see airank_fast.job.Job.

    Batch-norm statistics are those of the batches of all ranks, with --no-fused of each rank's own.
    """

    task = TASK
    initial_accuracy = None

    def __init__(self, recipe: Recipe, options: Options) -> None:
        self.recipe = recipe
        self.options = options
        self.reader: TextSceneReader | None = None

    @property
    def benchmark(self) -> str:
        """ocr_detection_resnet18 or _resnet50, or ocr_detection_mini where the network is smaller."""
        recipe = self.recipe
        whole = RECIPES[f"db_{recipe.backbone}"]
        is_whole = all(getattr(recipe, name) == getattr(whole, name) for name in ("blocks", "width", "neck_width"))
        return f"{TASK.name}_{recipe.backbone if is_whole else 'mini'}"

    @property
    def target(self) -> dict[str, float]:
        """See `target_values`."""
        return target_values(self.recipe.target, TASK)

    def build(self) -> dict[str, nn.Module]:
        """The float32 network on the CPU, its backbone with the weights of --init-checkpoint if there are any."""
        recipe = self.recipe
        block = BasicBlock if recipe.backbone == "resnet18" else Bottleneck
        model = DBNet(
            block, recipe.blocks_of_stages, base_width=recipe.width, channels=recipe.neck_width, fused=recipe.fused
        )
        if recipe.init_checkpoint:
            load_into(model.backbone, Path(recipe.init_checkpoint), unused=("fc.",))
        join_ranks(model)
        return {"model": model}

    def updates(self, networks: Networks, device: torch.device) -> list[Update]:
        """One update: the loss of the network, and Adam."""
        model = networks["model"]
        rate = torch.zeros((), dtype=torch.float32, device=device)
        optimizer = FusedAdam(model.parameters(), rate, max_grad_norm=self.recipe.max_grad_norm)
        return [Update(model, optimizer, lambda batch: self.loss(model, batch), "model")]

    def loss(self, model: nn.Module, batch: MapBatch) -> Tensor:
        """See `db_loss`."""
        return db_loss(model(batch.images), batch.maps)

    def predict(self, networks: Networks, batch: SceneBatch) -> list[np.ndarray]:
        """The texts of each picture, float32 [n, 4, 2], in the picture's own pixels; see `text_boxes`."""
        recipe = self.recipe
        maps = networks["model"](batch.images)[:, 0].float().sigmoid().cpu().numpy()
        boxes = partial(
            text_boxes,
            binary_threshold=recipe.binary_threshold,
            box_threshold=recipe.box_threshold,
            unclip_ratio=recipe.unclip_ratio,
        )
        return [boxes(*picture) for picture in zip(maps, batch.truth.sizes, strict=True)]

    def examples(self, outputs: list[np.ndarray], batch: SceneBatch) -> list[Example]:
        """Pictures, beside them with the outlines of the texts found and of the true ones, ignored ones in grey."""
        pictures, truth = as_pictures(batch.images, MEAN, STD), batch.truth
        every = max(1, pictures.shape[2] // 400)
        examples = []
        for picture, found, quads, ignored, size in zip(
            pictures, outputs, truth.quads, truth.ignored, truth.sizes, strict=True
        ):
            small = np.ascontiguousarray(picture[::every, ::every])
            scale = np.array(small.shape[1::-1]) / size[::-1]
            colours = [_IGNORED if is_ignored else _TRUE for is_ignored in ignored]
            drawn = _outlined(small, found * scale, [_FOUND] * len(found)), _outlined(small, quads * scale, colours)
            examples.append(Example(np.hstack([small, *drawn])))
        return examples

    def meter(self) -> TextDetection:
        """Matches, detections and texts over the set and all ranks."""
        return TextDetection()

    def open_data(self, ranks: Ranks, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """Index the pictures and start their reader. Returns the fields of the run's `data` event."""
        packages()  # an evaluation needs them
        recipe, options = self.recipe, self.options
        cores = options.workers or ranks.cores
        train, val, source, corrupt = self._read(cores)
        if ranks.rank == 0 and not options.data:
            print(f"data: {source}", file=sys.stderr)
        if ranks.rank == 0 and options.skip_corrupt:
            number = len(train) + len(val) + len(corrupt)
            print(*left_out(corrupt, number, "pictures"), sep="\n", file=sys.stderr)
        stream = TrainStream(
            len(train),
            recipe.seed,
            batch_size_local=recipe.micro_batch_size(ranks.size),
            global_batch_size=recipe.batch_size,
            rank=ranks.rank,
            world_size=ranks.size,
        )
        place = Place(max(1, recipe.eval_batch_size // ranks.size), ranks.rank, ranks.size, device, cores)
        crops = TextCrops(
            recipe.crop_height,
            recipe.crop_width,
            recipe.min_scale,
            recipe.max_scale,
            recipe.max_rotation,
            recipe.flip,
        )
        eval_size = recipe.eval_height, recipe.eval_width
        self.reader = TextSceneReader(train, val, stream, place, crops, eval_size)
        self._device, self._dtype = device, dtype
        return {
            "train_samples": len(train),
            "eval_samples": len(val),
            "source": source,
            "checksum": hashlib.sha256(f"{train.checksum()} {val.checksum()}".encode()).hexdigest(),
            "reader": self.reader.name,
            "corrupt_files": corrupt,
            **first_weights(recipe.init_checkpoint),
        }

    def _read(self, num_threads: int) -> tuple[Scenes, Scenes, str, list[tuple[str, str]]]:
        """(train, val, source, what is left out)."""
        options = self.options
        root = options.data or digit_strings.materialise()
        source = f"{root}" if options.data else f"the embedded data set, {digit_strings.NAME}"
        read = partial(read_scenes, root, skip_corrupt=options.skip_corrupt, num_threads=num_threads)
        (train, corrupt), (val, more) = (read(side) for side in ("train", "val"))
        return train, val, source, corrupt + more

    def train_batches(self, first_step: int) -> Iterator[MapBatch]:
        """This rank's part of every global batch from `first_step` on, without end."""
        assert self.reader is not None, "open_data comes first"
        return prefetch_crops(self.reader.train(first_step), self._device, self._dtype)

    def eval_batches(self) -> Iterator[SceneBatch]:
        """This rank's part of the validation set, each picture once and whole."""
        assert self.reader is not None, "open_data comes first"
        return prefetch_pictures(self.reader.evaluate(), self._device, self._dtype)

    def warm_up_batch(self, ranks: Ranks, device: torch.device, dtype: torch.dtype) -> MapBatch:
        """A batch of noise in the shape of a training batch, for warm-up before the clock starts."""
        recipe = self.recipe
        num, height, width = recipe.micro_batch_size(ranks.size), recipe.crop_height, recipe.crop_width
        images = torch.randn(num, 3, height, width, device=device).to(dtype, memory_format=torch.channels_last)
        maps = torch.randint(2, (num, NUM_MAPS, height, width), dtype=torch.uint8, device=device)
        return MapBatch(images, maps)

    def schedule(self) -> Schedule:
        """The length of the run and its evaluations, in epochs."""
        return Schedule(Span(self.recipe.epochs, "epochs"), Span(self.recipe.eval_every, "epochs"))

    def learning_rate(self, step: int, plan: Plan) -> float:
        """Learning rate of 0-based `step` under the engine's `plan`."""
        warmup_steps = plan.step_after(self.recipe.warmup_epochs)
        return polynomial_decay(
            step,
            base=self.recipe.learning_rate,
            end=0.0,
            power=self.recipe.decay_power,
            warmup_steps=warmup_steps,
            decay_steps=max(1, plan.total_steps - warmup_steps),
        )

    def reported(self, plan: Plan) -> dict[str, Any]:
        """The optimizer under MLPerf's names; its books have no keys for this task."""
        recipe = self.recipe
        return {
            "opt_name": "adam",
            "opt_base_learning_rate": recipe.learning_rate,
            "opt_learning_rate_warmup_epochs": recipe.warmup_epochs,
        }

    def state(self) -> dict[str, Any]:
        """{}: there is no state beside the network and its optimizer."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""

    def close(self) -> None:
        if self.reader is not None:
            self.reader.close()


def _outlined(picture: np.ndarray, quads: np.ndarray, colours: list[tuple[int, int, int]]) -> np.ndarray:
    """A picture, uint8 [h, w, 3], with quadrilaterals [n, 4, 2] in these colours."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    for quad, colour in zip(quads, colours, strict=True):
        draw.polygon([tuple(corner) for corner in quad.tolist()], outline=colour)
    return np.asarray(image)


if TYPE_CHECKING:
    _checked: type[job.Job] = Job
