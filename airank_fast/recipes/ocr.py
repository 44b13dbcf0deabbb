"""OCR, recognition of lines of text, as a job for the engine; see ocr_options.py for its settings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from airank_fast import job
from airank_fast.data.images import digit_scenes
from airank_fast.data.images.batches import as_pictures
from airank_fast.data.images.line_reader import MEAN, STD, LineBatch, LineReader, Targets, prefetch
from airank_fast.data.images.place import Place
from airank_fast.data.images.text_lines import Lines, read_lines
from airank_fast.data.sampling import TrainStream
from airank_fast.data.text.alphabet import BLANK, Alphabet
from airank_fast.errors import require
from airank_fast.job import Example, Networks, Plan, Ranks
from airank_fast.models.crnn import CRNN, HEIGHT, best_path, num_steps
from airank_fast.optim import FusedAdam
from airank_fast.optim.clipping import clip_grad_norm
from airank_fast.quality.text_match import TextMatch
from airank_fast.recipes.base_job import DataSets, SamplesJob
from airank_fast.recipes.checkpoints import load_into
from airank_fast.recipes.ocr_options import RECIPES, Options, Recipe
from airank_fast.tasks.ocr import TASK

__all__ = ["RECIPES", "Job", "Options", "Recipe"]


class Job(SamplesJob):
    """Text-line recognition as the engine runs it, for one resolved recipe: see airank_fast.job.Job."""

    task = TASK
    samples = "lines"
    recipe: Recipe
    options: Options

    @property
    def steps(self) -> int:
        """What the network has of them for a text."""
        return num_steps(self.recipe.image_width)

    def build(self) -> dict[str, nn.Module]:
        """The float32 network on the CPU, with random initial weights or those of --init-checkpoint."""
        recipe = self.recipe
        num_classes = 1 + len(recipe.alphabet)
        model = CRNN(num_classes, width=recipe.width, hidden=recipe.hidden, fused=recipe.fused)
        if recipe.init_checkpoint:
            load_into(model, Path(recipe.init_checkpoint))
        return {"model": model}

    def build_optimizer(self, model: nn.Module, device: torch.device) -> torch.optim.Optimizer:
        """Adam; torch's own with --no-fused. The learning rate is a tensor on the device."""
        norm, parameters = self.recipe.max_grad_norm, model.parameters()
        if self.recipe.fused:
            rate = torch.zeros((), dtype=torch.float32, device=device)
            return FusedAdam(parameters, rate, max_grad_norm=norm)
        optimizer = torch.optim.Adam(parameters, lr=0.0, fused=True)
        if norm is not None:
            clip_grad_norm(optimizer, norm)
        return optimizer

    def loss(self, model: nn.Module, batch: LineBatch) -> Tensor:
        """Mean over the lines of CTC's loss per character, float32 scalar.

        A text that needs more steps than the network has would have an infinite loss: its loss and gradient are 0.
        """
        log_probs = model(batch.images).float().log_softmax(2)
        steps, (classes, lengths) = (self.steps,) * batch.num_samples, batch.targets
        # Lengths as tensors would be copied from a GPU; torch's stubs do not have the tuples of its documentation.
        return F.ctc_loss(log_probs, classes, steps, lengths, BLANK, zero_infinity=True)  # type: ignore[arg-type]

    def predict(self, networks: Networks, batch: LineBatch) -> Tensor:
        """CTC's best path, int64 [b, T]; see `best_path`."""
        return best_path(networks["model"](batch.images))

    def examples(self, outputs: Tensor, batch: LineBatch) -> list[Example]:
        """Lines with what was read and their texts."""
        pictures = as_pictures(batch.images, MEAN, STD)[..., 0]
        alphabet = Alphabet(self.recipe.alphabet)
        texts = [alphabet.text(classes) for classes in batch.targets.each()]
        read = [alphabet.text(filter(None, path)) for path in outputs.tolist()]
        return [Example(*of_line) for of_line in zip(pictures, read, texts, strict=True)]

    def meter(self) -> TextMatch:
        """Exact matches, and the edit distance of the others."""
        return TextMatch()

    def data_sets(self, num_threads: int) -> DataSets:
        """Lines that are too long for the network stay, and a note counts them."""
        train, val, source, corrupt = self._read(num_threads)
        notes = []
        for side, lines in (("training", train), ("evaluation", val)):
            if too_long := int((lines.steps > self.steps).sum()):
                what = f"of {len(lines)} {side} lines need more than the network's {self.steps} steps and are wrong"
                notes.append(f"data: {too_long} {what}; --image-width gives it more")
        return DataSets(train, val, source, corrupt, notes)

    def _read(self, num_threads: int) -> tuple[Lines, Lines, str, list[tuple[str, str]]]:
        """(train, held out, source, lines left out)."""
        options, alphabet = self.options, Alphabet(self.recipe.alphabet)
        train_path, val_path, source = options.data, options.eval_data, f"{options.data}"
        if train_path is None:
            train_path, val_path = digit_scenes.materialise()
            source = f"the embedded data set, {digit_scenes.NAME}"
        read = partial(read_lines, alphabet=alphabet, skip_corrupt=options.skip_corrupt, num_threads=num_threads)
        lines, corrupt = read(train_path)
        if val_path is None:
            train, val = lines.split()
            require(len(train) and len(val), source, "of lines enough to hold some out", len(lines))
            return train, val, source, corrupt
        val, more = read(val_path)
        return lines, val, f"{source}, {val_path}" if options.data else source, corrupt + more

    def open_reader(self, train: Lines, val: Lines, stream: TrainStream, place: Place) -> LineReader:
        """Lines stretched to the network's size."""
        return LineReader(train, val, stream, place, height=HEIGHT, width=self.recipe.image_width)

    def facts(self) -> dict[str, Any]:
        """The classes, with CTC's blank."""
        return {"classes": 1 + len(self.recipe.alphabet)}

    def moved(self, items: Iterable[tuple[Tensor, ...]]) -> Iterator[LineBatch]:
        """Lines and their texts."""
        return prefetch(items, self.device, self.dtype)

    def warm_up_batch(self, ranks: Ranks, device: torch.device, dtype: torch.dtype) -> LineBatch:
        """A batch of noise in the shape of a training batch, for warm-up before the clock starts."""
        num = self.recipe.micro_batch_size(ranks.size)
        shape = (num, 1, HEIGHT, self.recipe.image_width)
        images = torch.randn(shape, device=device).to(dtype, memory_format=torch.channels_last)
        targets = Targets(torch.ones(num, dtype=torch.int32), (1,) * num)
        return LineBatch(images, targets, torch.arange(num, device=device))

    def learning_rate(self, step: int, plan: Plan) -> float:
        """Learning rate of 0-based ``step`` under the engine's ``plan``."""
        return self.decayed_rate(step, plan, power=self.recipe.decay_power)

    def reported(self, plan: Plan) -> dict[str, Any]:
        """The optimizer under MLPerf's names; its books have no keys for this task."""
        return self.reported_optimizer("adam")


if TYPE_CHECKING:
    _checked: type[job.Job] = Job
