"""OCR, recognition of lines of text, as a job for the engine; see ocr_options.py for its settings."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from airank_fast import job
from airank_fast.data.images import digit_scenes
from airank_fast.data.images.batches import as_pictures
from airank_fast.data.images.image_folder import left_out
from airank_fast.data.images.line_reader import MEAN, STD, LineBatch, LineReader, Targets, prefetch
from airank_fast.data.images.place import Place
from airank_fast.data.images.text_lines import Lines, read_lines
from airank_fast.data.sampling import TrainStream
from airank_fast.data.text.alphabet import BLANK, Alphabet
from airank_fast.errors import require
from airank_fast.job import Example, Networks, Plan, Ranks, Schedule, Span, Update
from airank_fast.models.crnn import CRNN, HEIGHT, best_path, num_steps
from airank_fast.optim import FusedAdam
from airank_fast.optim.clipping import clip_grad_norm
from airank_fast.quality.text_match import TextMatch
from airank_fast.recipes.checkpoints import first_weights, load_into
from airank_fast.recipes.ocr_options import RECIPES, Options, Recipe
from airank_fast.recipes.options import target_values
from airank_fast.recipes.schedule import polynomial_decay
from airank_fast.tasks.ocr import TASK

__all__ = ["RECIPES", "Job", "Options", "Recipe"]


class Job:
    """Text-line recognition as the engine runs it, for one resolved recipe: see airank_fast.job.Job."""

    task = TASK
    benchmark = TASK.name
    initial_accuracy = None

    def __init__(self, recipe: Recipe, options: Options) -> None:
        self.recipe = recipe
        self.options = options
        self.steps = num_steps(recipe.image_width)
        self.reader: LineReader | None = None

    @property
    def target(self) -> dict[str, float]:
        """See `target_values`."""
        return target_values(self.recipe.target, TASK)

    def build(self) -> dict[str, nn.Module]:
        """The float32 network on the CPU, with random initial weights or those of --init-checkpoint."""
        recipe = self.recipe
        num_classes = 1 + len(recipe.alphabet)
        model = CRNN(num_classes, width=recipe.width, hidden=recipe.hidden, fused=recipe.fused)
        if recipe.init_checkpoint:
            load_into(model, Path(recipe.init_checkpoint))
        return {"model": model}

    def updates(self, networks: Networks, device: torch.device) -> list[Update]:
        """One update: the loss of the network, and Adam."""
        model = networks["model"]
        return [Update(model, self.build_optimizer(model, device), lambda batch: self.loss(model, batch), "model")]

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

    def open_data(self, ranks: Ranks, device: torch.device, dtype: torch.dtype) -> dict:
        """Index the lines and start their reader. Returns the fields of the run's `data` event."""
        recipe, options = self.recipe, self.options
        cores = options.workers or ranks.cores
        train, val, source, corrupt = self._read(cores)
        if ranks.rank == 0 and not options.data:
            print(f"data: {source}", file=sys.stderr)
        if ranks.rank == 0 and options.skip_corrupt:
            number = len(train) + len(val) + len(corrupt)
            print(*left_out(corrupt, number, "lines"), sep="\n", file=sys.stderr)
        for side, lines in (("training", train), ("evaluation", val)):
            too_long = int((lines.steps > self.steps).sum())
            if ranks.rank == 0 and too_long:
                what = f"of {len(lines)} {side} lines need more than the network's {self.steps} steps and are wrong"
                print(f"data: {too_long} {what}; --image-width gives it more", file=sys.stderr)
        stream = TrainStream(
            len(train),
            recipe.seed,
            batch_size_local=recipe.micro_batch_size(ranks.size),
            global_batch_size=recipe.batch_size,
            rank=ranks.rank,
            world_size=ranks.size,
        )
        place = Place(max(1, recipe.eval_batch_size // ranks.size), ranks.rank, ranks.size, device, cores)
        self.reader = LineReader(train, val, stream, place, height=HEIGHT, width=recipe.image_width)
        self._device, self._dtype = device, dtype
        return {
            "train_samples": len(train),
            "eval_samples": len(val),
            "classes": 1 + len(recipe.alphabet),
            "source": source,
            "checksum": hashlib.sha256(f"{train.checksum()} {val.checksum()}".encode()).hexdigest(),
            "reader": self.reader.name,
            "corrupt_files": corrupt,
            **first_weights(recipe.init_checkpoint),
        }

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

    def train_batches(self, first_step: int) -> Iterator[LineBatch]:
        """This rank's part of every global batch from ``first_step`` on, without end."""
        assert self.reader is not None, "open_data comes first"
        return prefetch(self.reader.train(first_step), self._device, self._dtype)

    def eval_batches(self) -> Iterator[LineBatch]:
        """This rank's part of the held-out lines, each once."""
        assert self.reader is not None, "open_data comes first"
        return prefetch(self.reader.evaluate(), self._device, self._dtype)

    def warm_up_batch(self, ranks: Ranks, device: torch.device, dtype: torch.dtype) -> LineBatch:
        """A batch of noise in the shape of a training batch, for warm-up before the clock starts."""
        num = self.recipe.micro_batch_size(ranks.size)
        shape = (num, 1, HEIGHT, self.recipe.image_width)
        images = torch.randn(shape, device=device).to(dtype, memory_format=torch.channels_last)
        targets = Targets(torch.ones(num, dtype=torch.int32), (1,) * num)
        return LineBatch(images, targets, torch.arange(num, device=device))

    def schedule(self) -> Schedule:
        """The length of the run and its evaluations, in epochs."""
        return Schedule(Span(self.recipe.epochs, "epochs"), Span(self.recipe.eval_every, "epochs"))

    def learning_rate(self, step: int, plan: Plan) -> float:
        """Learning rate of 0-based ``step`` under the engine's ``plan``."""
        warmup_steps = plan.step_after(self.recipe.warmup_epochs)
        return polynomial_decay(
            step,
            base=self.recipe.learning_rate,
            end=0.0,
            power=self.recipe.decay_power,
            warmup_steps=warmup_steps,
            decay_steps=max(1, plan.total_steps - warmup_steps),
        )

    def reported(self, plan: Plan) -> dict:
        """The optimizer under MLPerf's names; its books have no keys for this task."""
        recipe = self.recipe
        return {
            "opt_name": "adam",
            "opt_base_learning_rate": recipe.learning_rate,
            "opt_learning_rate_warmup_epochs": recipe.warmup_epochs,
        }

    def state(self) -> dict:
        """{}: there is no state beside the network and its optimizer."""
        return {}

    def load_state(self, state: Mapping) -> None:
        """The inverse of `state`."""

    def close(self) -> None:
        if self.reader is not None:
            self.reader.close()


if TYPE_CHECKING:
    _checked: type[job.Job] = Job
