"""BERT that answers SQuAD's questions, as a job for the engine; see bert_squad_options.py for its settings."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from airank_fast import job
from airank_fast.data.manifest import checksum
from airank_fast.data.text import squad, wordpiece
from airank_fast.data.text.answer_windows import Sizes, WindowBatch, WindowReader, Windows, cached_windows, collate
from airank_fast.errors import UserError, require
from airank_fast.job import Networks, Plan, Ranks
from airank_fast.models import bert
from airank_fast.models.bert_answers import BertForQuestionAnswering
from airank_fast.nn import PackedSequences, cross_entropy
from airank_fast.optim import FusedAdamW
from airank_fast.quality.answers import AnswerQuality
from airank_fast.recipes.base_job import BaseJob
from airank_fast.recipes.bert_squad_options import RECIPES, Options, Recipe
from airank_fast.recipes.checkpoints import first_weights, load_into
from airank_fast.tasks.bert_squad import TASK

__all__ = ["RECIPES", "Job", "Options", "Recipe"]

PRE_TRAINING_HEADS = ("cls.", "bert.pooler.")


class Job(BaseJob):
    """Question answering as the engine runs it, for one resolved recipe: see airank_fast.job.Job.

    A sample is a question with a window of its paragraph.
    """

    task = TASK
    recipe: Recipe
    options: Options

    @property
    def benchmark(self) -> str:
        """bert_squad_large and so on."""
        return f"{TASK.name}_{self.recipe.size}"

    def build(self) -> dict[str, nn.Module]:
        """The float32 network on the CPU, with random weights or those of --init-checkpoint."""
        recipe = self.recipe
        model = BertForQuestionAnswering(
            vocab_size=recipe.vocab_size,
            max_position_embeddings=recipe.max_position_embeddings,
            hidden_dropout_prob=recipe.dropout,
            attention_probs_dropout_prob=recipe.dropout,
            fused=recipe.fused,
            **bert.size(recipe.size),
        )
        if recipe.init_checkpoint:
            load_into(model, Path(recipe.init_checkpoint), unused=PRE_TRAINING_HEADS, fresh=("qa_outputs.",))
        return {"model": model}

    def build_optimizer(self, model: nn.Module, device: torch.device) -> FusedAdamW:
        """AdamW; weight decay on matrices only. The learning rate lives on the device."""
        recipe = self.recipe
        return FusedAdamW(
            self.decay_groups(model),
            lr=torch.zeros((), dtype=torch.float32, device=device),
            betas=(recipe.beta1, recipe.beta2),
            eps=recipe.epsilon,
            max_grad_norm=recipe.max_grad_norm,
        )

    def loss(self, model: nn.Module, batch: WindowBatch) -> Tensor:
        """The mean cross entropy of the first token of the answer, and of the last, among those of the window."""
        scores = _call(model, batch).float()
        rows = pad_sequence(list(scores.split(batch.lengths)), batch_first=True, padding_value=float("-inf"))
        return cross_entropy(rows.transpose(1, 2).flatten(0, 1), torch.stack([batch.first, batch.last], 1).flatten())

    def predict(self, networks: Networks, batch: WindowBatch) -> Tensor:
        """Scores of each token as the first and as the last one of the answer, [T, 2]."""
        return _call(networks["model"], batch)

    def meter(self) -> AnswerQuality:
        """F1 and exact match over the questions."""
        return AnswerQuality(self._held_out, lambda: self._questions, self.recipe.sequence_length)

    @cached_property
    def _questions(self) -> squad.Questions:
        return squad.read_questions(self._folder / squad.DEV)

    @property
    def _folder(self) -> Path:
        assert self.options.data is not None, "finish requires it"
        return self.options.data

    def open_data(self, ranks: Ranks, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """Find or make the windows of both files. Returns the fields of the run's `data` event.

        The training set may be missing until it is read.
        """
        recipe, folder = self.recipe, self._folder
        require(folder.is_dir(), "--data", "a directory with SQuAD's files", f"{folder}, which is none")
        tokens = wordpiece.read_vocabulary(folder / squad.VOCABULARY, str(folder / squad.VOCABULARY))
        what = f"as many as the lines of {folder / squad.VOCABULARY}, {len(tokens)}"
        require(recipe.vocab_size == len(tokens), "--vocab-size", what, recipe.vocab_size)
        self._held_out = self._windows(squad.DEV)
        files = [folder / name for name in (squad.TRAIN, squad.DEV, squad.VOCABULARY)]
        self._train = self._windows(squad.TRAIN) if files[0].is_file() else None
        self._device = device
        train = self._held_out if self._train is None else self._train
        self.reader = WindowReader(
            train,
            self._held_out,
            self.train_stream(len(train), ranks),
            eval_batch_size=max(1, recipe.eval_batch_size // ranks.size),
            rank=ranks.rank,
            world_size=ranks.size,
        )
        sums = [checksum(file) for file in files if file.is_file()]
        return {
            "train_samples": 0 if self._train is None else len(self._train),
            "eval_samples": len(self._held_out),
            "source": str(folder),
            "checksum": hashlib.sha256(" ".join(sums).encode()).hexdigest(),
            "reader": self.reader.name,
            "corrupt_files": [],
            **first_weights(recipe.init_checkpoint),
        }

    def _windows(self, name: str) -> Windows:
        recipe = self.recipe
        sizes = Sizes(recipe.sequence_length, recipe.question_length, recipe.stride)
        folder = self._folder
        return cached_windows(folder / name, folder / squad.VOCABULARY, sizes, lowercase=recipe.lowercase)

    def train_batches(self, first_step: int) -> Iterator[WindowBatch]:
        """This rank's part of every global batch from ``first_step`` on, without end. UserError without a set."""
        if self._train is None:
            raise UserError(f"--data {self._folder}: must have {squad.TRAIN} to train or to calibrate on, got none")
        self.training = self.reader.train(self._device, first_step)
        return self.training

    def eval_batches(self) -> Iterator[WindowBatch]:
        """This rank's part of the windows to evaluate on, each once."""
        return self.reader.evaluate(self._device)

    def eval_samples(self, indices: Sequence[int]) -> Iterator[WindowBatch]:
        """See airank_fast.job.Sampled."""
        return self.reader.samples(indices, self._device)

    def warm_up_batch(self, ranks: Ranks, device: torch.device, dtype: torch.dtype) -> WindowBatch:
        """A batch of noise in the shape of the largest real ones."""
        recipe, rng = self.recipe, np.random.default_rng(0)
        num, length = recipe.micro_batch_size(ranks.size), recipe.sequence_length
        arrays = {
            "input_ids": rng.integers(recipe.vocab_size, size=num * length),
            "token_type_ids": np.tile(np.arange(length) >= recipe.question_length, num).astype(np.int64),
            "position_ids": np.tile(np.arange(length), num),
            "offsets": length * np.arange(num + 1),
            "samples": np.arange(num),
            "first": np.full(num, recipe.question_length),
            "last": np.full(num, recipe.question_length + 1),
        }
        return collate(([length] * num, arrays), device)

    def learning_rate(self, step: int, plan: Plan) -> float:
        """Learning rate of 0-based ``step`` under the engine's ``plan``."""
        return self.decayed_rate(step, plan, power=1)

    def reported(self, plan: Plan) -> dict[str, Any]:
        """MLPerf's keys of an optimizer with a warm-up, for a task that its training book lacks."""
        return self.reported_optimizer("adamw")


if TYPE_CHECKING:
    _checked: type[job.Job] = Job


def _call(model: nn.Module, batch: WindowBatch) -> Tensor:
    return model(
        batch.input_ids,
        token_type_ids=batch.token_type_ids,
        position_ids=batch.position_ids,
        sequences=PackedSequences(batch.lengths, batch.input_ids.device, batch.offsets, batch.longest),
    )
