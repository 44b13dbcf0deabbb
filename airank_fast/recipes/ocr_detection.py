"""Text detection as a job for the engine; see ocr_detection_options.py for its settings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
from airank_fast.job import Example, Networks, Plan, Ranks
from airank_fast.models.dbnet import DBNet, db_loss
from airank_fast.models.resnet import BasicBlock, Bottleneck
from airank_fast.nn.batch_norm_act import join_ranks
from airank_fast.optim import FusedAdam
from airank_fast.quality.text_detection import TextDetection
from airank_fast.recipes.base_job import DataSets, SamplesJob
from airank_fast.recipes.checkpoints import load_into
from airank_fast.recipes.ocr_detection_options import RECIPES, Options, Recipe
from airank_fast.tasks.ocr_detection import TASK

__all__ = ["RECIPES", "Job", "Options", "Recipe"]

_FOUND, _TRUE, _IGNORED = (255, 220, 0), (0, 255, 90), (170, 170, 170)  # outlines in pictures of predictions


class Job(SamplesJob):
    """Text detection as the engine runs it, for one resolved recipe: see airank_fast.job.Job.

    Batch-norm statistics are those of the batches of all ranks, with --no-fused of each rank's own.
    """

    task = TASK
    recipe: Recipe
    options: Options

    @property
    def benchmark(self) -> str:
        """ocr_detection_resnet18 or _resnet50, or ocr_detection_mini where the network is smaller."""
        recipe = self.recipe
        whole = RECIPES[f"db_{recipe.backbone}"]
        is_whole = all(getattr(recipe, name) == getattr(whole, name) for name in ("blocks", "width", "neck_width"))
        return f"{TASK.name}_{recipe.backbone if is_whole else 'mini'}"

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

    def build_optimizer(self, model: nn.Module, device: torch.device) -> torch.optim.Optimizer:
        """Adam; the learning rate is a tensor on the device."""
        rate = torch.zeros((), dtype=torch.float32, device=device)
        return FusedAdam(model.parameters(), rate, max_grad_norm=self.recipe.max_grad_norm)

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

    def data_sets(self, num_threads: int) -> DataSets:
        """See SamplesJob."""
        packages()  # an evaluation needs them
        options = self.options
        root = options.data or digit_strings.materialise()
        source = f"{root}" if options.data else f"the embedded data set, {digit_strings.NAME}"
        read = partial(read_scenes, root, skip_corrupt=options.skip_corrupt, num_threads=num_threads)
        (train, corrupt), (val, more) = (read(side) for side in ("train", "val"))
        return DataSets(train, val, source, corrupt + more)

    def open_reader(self, train: Scenes, val: Scenes, stream: TrainStream, place: Place) -> TextSceneReader:
        """Crops to train on, whole pictures to evaluate."""
        recipe = self.recipe
        crops = TextCrops(
            recipe.crop_height,
            recipe.crop_width,
            recipe.min_scale,
            recipe.max_scale,
            recipe.max_rotation,
            recipe.flip,
        )
        return TextSceneReader(train, val, stream, place, crops, (recipe.eval_height, recipe.eval_width))

    def moved(self, items: Iterable[tuple[Tensor, ...]]) -> Iterator[MapBatch]:
        """Crops and their maps."""
        return prefetch_crops(items, self.device, self.dtype)

    def moved_eval(self, items: Iterable[tuple[Tensor, ...]]) -> Iterator[SceneBatch]:
        """Whole pictures and their texts."""
        return prefetch_pictures(items, self.device, self.dtype)

    def warm_up_batch(self, ranks: Ranks, device: torch.device, dtype: torch.dtype) -> MapBatch:
        """A batch of noise in the shape of a training batch, for warm-up before the clock starts."""
        recipe = self.recipe
        num, height, width = recipe.micro_batch_size(ranks.size), recipe.crop_height, recipe.crop_width
        images = torch.randn(num, 3, height, width, device=device).to(dtype, memory_format=torch.channels_last)
        maps = torch.randint(2, (num, NUM_MAPS, height, width), dtype=torch.uint8, device=device)
        return MapBatch(images, maps)

    def learning_rate(self, step: int, plan: Plan) -> float:
        """Learning rate of 0-based `step` under the engine's `plan`."""
        return self.decayed_rate(step, plan, power=self.recipe.decay_power)

    def reported(self, plan: Plan) -> dict[str, Any]:
        """The optimizer under MLPerf's names; its books have no keys for this task."""
        return self.reported_optimizer("adam")


def _outlined(picture: np.ndarray, quads: np.ndarray, colours: list[tuple[int, int, int]]) -> np.ndarray:
    """A picture, uint8 [h, w, 3], with quadrilaterals [n, 4, 2] in these colours."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    for quad, colour in zip(quads, colours, strict=True):
        draw.polygon([tuple(corner) for corner in quad.tolist()], outline=colour)
    return np.asarray(image)


if TYPE_CHECKING:
    _checked: type[job.Job] = Job
