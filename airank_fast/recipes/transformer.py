"""The Transformer for translation, as a job for the engine; see transformer_options.py for its settings."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torch.nn import functional as F

from airank_fast import job
from airank_fast.data.sampling import StratifiedStream
from airank_fast.data.text.translation_batch import LaidOut, TranslationBatch, TranslationReader, collate
from airank_fast.data.text.translation_sets import TranslationSets
from airank_fast.errors import require
from airank_fast.job import Example, Networks, Plan, Ranks
from airank_fast.models.beam_search import beam_search
from airank_fast.models.transformer import Transformer, from_public
from airank_fast.nn import PackedSequences, cross_entropy
from airank_fast.optim import FusedAdam
from airank_fast.quality.bleu import Bleu, signatures
from airank_fast.recipes.base_job import BaseJob
from airank_fast.recipes.checkpoints import first_weights, load_into
from airank_fast.recipes.schedule import inverse_square_root
from airank_fast.recipes.transformer_options import RECIPES, Options, Recipe
from airank_fast.tasks.transformer import TASK

__all__ = ["RECIPES", "Job", "Options", "Recipe"]

FIRST_SUBWORD = 4  # behind the special tokens
FONT_SIZE = 16  # of an example's picture


class Job(BaseJob):
    """The Transformer as the engine runs it, for one resolved recipe: see airank_fast.job.Job.

    A sample is a sentence with its translation; throughput counts target tokens.
    """

    task = TASK
    recipe: Recipe
    options: Options

    def __init__(self, recipe: Recipe, options: Options) -> None:
        super().__init__(recipe, options)
        self._sets: TranslationSets | None = None
        self._saved_subwords: bytes | None = None

    def build(self) -> dict[str, nn.Module]:
        """The float32 network on the CPU, with random weights or those of --init-checkpoint."""
        recipe = self.recipe
        model = Transformer(
            recipe.vocab_size,
            recipe.width,
            recipe.inner_width,
            recipe.heads,
            recipe.layers,
            recipe.layers,
            pre_norm=recipe.pre_norm,
            dropout=recipe.dropout,
            attention_dropout=recipe.attention_dropout,
            activation_dropout=recipe.activation_dropout,
            activation=recipe.activation,
            marian=recipe.marian,
            fused=recipe.fused,
        )
        if recipe.init_checkpoint:
            load_into(model, Path(recipe.init_checkpoint), renamed=from_public)
        return {"model": model}

    def build_optimizer(self, model: nn.Module, device: torch.device) -> torch.optim.Optimizer:
        """Adam; torch's own with --no-fused. The learning rate is a tensor on the device."""
        recipe = self.recipe
        settings: dict[str, Any] = {"betas": (recipe.beta1, recipe.beta2), "eps": recipe.epsilon}
        if not recipe.fused:
            return torch.optim.Adam(model.parameters(), lr=0.0, fused=True, **settings)
        rate = torch.zeros((), dtype=torch.float32, device=device)
        return FusedAdam(model.parameters(), lr=rate, **settings)

    def loss(self, model: nn.Module, batch: TranslationBatch) -> Tensor:
        """Mean over the target tokens of the label-smoothed cross entropy, weighted by the batch's share of the step's.

        So the mean of the losses and gradients over micro-batches and ranks is that over the step's target tokens,
        whoever got which sentences. float32 scalar.
        """
        source_sequences, target_sequences = _sequences(batch)
        logits = model(batch.source, source_sequences, batch.previous, target_sequences)
        smoothing = self.recipe.label_smoothing
        if self.recipe.fused:
            mean = cross_entropy(logits, batch.target, label_smoothing=smoothing, inplace_backward=True)
        else:
            mean = F.cross_entropy(logits.float(), batch.target, label_smoothing=smoothing)
        return mean * batch.weight

    def predict(self, networks: Networks, batch: TranslationBatch) -> list[str]:
        """The translations, by beam search, as detokenised texts."""
        recipe = self.recipe
        found = beam_search(
            networks["model"],
            batch.source,
            _sequences(batch)[0],
            beam=recipe.beam,
            length_penalty=recipe.length_penalty,
            max_extra=recipe.max_extra,
        )
        return self.sets.subwords.decode(found)

    def meter(self) -> Bleu:
        """BLEU, cased and in two lower-cased readings."""
        return Bleu([pair.target for pair in self.sets.held_out_pairs])

    @property
    def sets(self) -> TranslationSets:
        """The data sets, once they are open."""
        assert self._sets is not None, "open_data comes first"
        return self._sets

    def open_data(self, ranks: Ranks, device: torch.device, dtype: torch.dtype) -> dict:
        """Read and encode the pairs, or the prepared ones. Returns the fields of the run's `data` event."""
        recipe, options = self.recipe, self.options
        sets = TranslationSets.open(
            options.data,
            options.source_language,
            options.target_language,
            split=options.split,
            vocab_size=recipe.vocab_size,
            max_length=recipe.max_length,
            skip_corrupt=options.skip_corrupt,
        )
        same = self._saved_subwords in (None, sets.subwords.model)
        require(same, "--resume", "with the subwords of the run", "others")
        if ranks.rank == 0:
            print(*(f"data: {line}" for line in sets.notes), sep="\n", file=sys.stderr)
        self._sets, self._device = sets, device
        stream = StratifiedStream(
            sets.train.lengths,
            recipe.seed,
            batch_size_local=recipe.micro_batch_size(ranks.size),
            global_batch_size=recipe.batch_size,
            rank=ranks.rank,
            world_size=ranks.size,
        )
        self.reader = TranslationReader(
            sets.train,
            sets.held_out,
            stream,
            max_tokens=recipe.max_tokens,
            eval_batch_size=max(1, recipe.eval_batch_size // ranks.size),
            rank=ranks.rank,
            world_size=ranks.size,
        )
        of_texts = hashlib.sha256(sets.subwords.model)
        for sentences in (sets.train, sets.held_out):
            of_texts.update(sentences.checksum().encode())
        return {
            "train_samples": len(sets.train),
            "eval_samples": len(sets.held_out),
            "classes": len(sets.subwords),
            "source": sets.source,
            "checksum": of_texts.hexdigest(),
            "reader": self.reader.name,
            "corrupt_files": sets.corrupt,
            "signatures": signatures(),
            **first_weights(recipe.init_checkpoint),
        }

    def train_batches(self, first_step: int) -> Iterator[TranslationBatch]:
        """This rank's part of every global batch from ``first_step`` on, without end."""
        assert self.reader is not None, "open_data comes first"
        self.training = self.reader.train(self._device, first_step)
        return self.training

    def eval_batches(self) -> Iterator[TranslationBatch]:
        """This rank's part of the held-out pairs, each once."""
        assert self.reader is not None, "open_data comes first"
        return self.reader.evaluate(self._device)

    def warm_up_batch(self, ranks: Ranks, device: torch.device, dtype: torch.dtype) -> TranslationBatch:
        """Sentences of random subwords, together of --max-tokens, for warm-up before the clock starts."""
        recipe = self.recipe
        size = recipe.micro_batch_size(ranks.size)
        length = max(1, min(recipe.max_length, recipe.max_tokens // size))
        tokens = np.random.default_rng(0).integers(FIRST_SUBWORD, recipe.vocab_size, size * length)
        offsets = np.arange(size + 1) * length
        arrays = tokens, offsets, tokens, tokens, offsets
        return collate(LaidOut(arrays, (length,) * size, (length,) * size, tuple(range(size)), 1.0), device)

    def learning_rate(self, step: int, plan: Plan) -> float:
        """Learning rate of 0-based ``step``."""
        return inverse_square_root(step, base=self.recipe.learning_rate, warmup_steps=self.recipe.warmup_steps)

    def reported(self, plan: Plan) -> dict:
        """The optimizer under MLPerf's names, of its round 0.7."""
        recipe = self.recipe
        return {
            "opt_name": "adam",
            "opt_base_learning_rate": recipe.learning_rate,
            "opt_learning_rate_warmup_steps": recipe.warmup_steps,
            "opt_adam_beta_1": recipe.beta1,
            "opt_adam_beta_2": recipe.beta2,
            "opt_adam_epsilon": recipe.epsilon,
            "max_sequence_length": recipe.max_length,
        }

    def examples(self, outputs: list[str], batch: TranslationBatch) -> list[Example]:
        """Pictures of the sources' texts, with what was made of them and their references."""
        pairs = [self.sets.held_out_pairs[number] for number in batch.ids]
        return [Example(_drawn(pair.source), made, pair.target) for pair, made in zip(pairs, outputs, strict=True)]

    def state(self) -> dict:
        """The subwords in the order of the embeddings' rows, without which a checkpoint would be numbers alone."""
        return {"subwords": self._sets.subwords.model} if self._sets else {}

    def load_state(self, state: Mapping) -> None:
        """The inverse of `state`: `open_data` compares the subwords."""
        self._saved_subwords = state.get("subwords")


if TYPE_CHECKING:
    _checked: type[job.Job] = Job


def _sequences(batch: TranslationBatch) -> tuple[PackedSequences, PackedSequences]:
    """How the tokens of source and target divide into sentences."""
    return (
        PackedSequences(batch.source_lengths, batch.source.device, batch.source_offsets),
        PackedSequences(batch.target_lengths, batch.target.device, batch.target_offsets),
    )


def _drawn(text: str) -> np.ndarray:
    """A line of text as a picture, uint8 [H, W]."""
    font = ImageFont.load_default(FONT_SIZE)
    left, _, right, _ = font.getbbox(text)
    picture = Image.new("L", (int(right - left) + FONT_SIZE, 2 * FONT_SIZE), 255)
    ImageDraw.Draw(picture).text((FONT_SIZE // 2, FONT_SIZE // 3), text, fill=0, font=font)
    return np.asarray(picture)
