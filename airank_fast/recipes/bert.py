"""BERT pre-training: on Wikipedia and books (MLPerf, AI-Rank, FlagPerf) and on the text that Python carries.

The pydoc recipe reaches its target on two CPU cores. Settings and options stand in bert_options.py.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from airank_fast import job
from airank_fast.data.sampling import TrainStream
from airank_fast.data.text import pydoc
from airank_fast.data.text.tokens import BlockReader, Fill, TokenBatch, collate, prefetch
from airank_fast.data.text.wikicorpus import WikiCorpus, WikiCorpusReader
from airank_fast.job import Networks, Plan, Ranks, Schedule, Span
from airank_fast.models import bert
from airank_fast.nn import PackedSequences
from airank_fast.optim import FusedLAMB
from airank_fast.quality.accuracy import Accuracy
from airank_fast.recipes.base_job import BaseJob
from airank_fast.recipes.bert_options import MLPERF, RECIPES, Options, Recipe
from airank_fast.recipes.checkpoints import load_into
from airank_fast.recipes.schedule import decay_under_warmup, polynomial_decay
from airank_fast.tasks.bert import TASK

__all__ = ["MLPERF", "RECIPES", "Job", "Options", "Recipe"]

# The held-out masks of the embedded text are the same for every run, and BERT's.
HELD_OUT_SEED, HELD_OUT_MASK_RATE = 0, 0.15


class Job(BaseJob):
    """BERT pre-training as the engine runs it, for one resolved recipe: see airank_fast.job.Job.

    What is counted in an evaluation are masked tokens.
    """

    task = TASK
    recipe: Recipe
    options: Options

    def __init__(self, recipe: Recipe, options: Options) -> None:
        super().__init__(recipe, options)
        self.initial_accuracy = options.check_initial

    @property
    def benchmark(self) -> str:
        """bert_large and so on."""
        return f"{TASK.name}_{self.recipe.size}"

    def build(self) -> dict[str, nn.Module]:
        """The float32 network on the CPU, with freshly drawn weights or those of --init-checkpoint."""
        recipe = self.recipe
        model = bert.BertForPreTraining(
            vocab_size=recipe.vocab_size,
            max_position_embeddings=recipe.max_position_embeddings,
            hidden_dropout_prob=recipe.dropout,
            attention_probs_dropout_prob=recipe.dropout,
            fused=recipe.fused,
            **bert.size(recipe.size),
        )
        if recipe.sinusoid_rms:
            model.start_positions_as_sinusoids(recipe.sinusoid_rms)
        if recipe.init_checkpoint:
            load_into(model, Path(recipe.init_checkpoint))
        return {"model": model}

    def build_optimizer(self, model: nn.Module, device: torch.device) -> FusedLAMB:
        """LAMB; weight decay on matrices only. The learning rate lives on the device."""
        recipe = self.recipe
        return FusedLAMB(
            self.decay_groups(model),
            lr=torch.zeros((), dtype=torch.float32, device=device),
            betas=(recipe.beta1, recipe.beta2),
            eps=recipe.epsilon,
            max_grad_norm=recipe.max_grad_norm,
            use_nvlamb=recipe.nvlamb,
        )

    def loss(self, model: nn.Module, batch: TokenBatch) -> Tensor:
        """Mean cross entropy over the masked tokens, plus that over next sentences where there are any; float32.

        The former is weighted by the batch's share of the step's masked tokens, so that the mean of the losses and
        gradients over micro-batches and ranks is that over the global batch, whoever got which samples.
        """
        output = _call(
            model,
            batch,
            labels=batch.labels,
            next_sentence_label=batch.next_sentence_label,
            masked_lm_weight=batch.weight,
        )
        if batch.next_sentence_label is None:  # DistributedDataParallel wants a gradient, if only 0, of every parameter
            return output.loss + 0 * output.seq_relationship_logits.float().sum()
        return output.loss

    def predict(self, networks: Networks, batch: TokenBatch) -> Tensor:
        """Logits of the masked tokens, [M, vocabulary]."""
        return _call(networks["model"], batch).prediction_logits

    def meter(self) -> Accuracy:
        """The share of masked tokens whose largest logit is the label's."""
        return Accuracy(TASK.headline.name)

    def open_data(self, ranks: Ranks, device: torch.device, dtype: torch.dtype) -> dict:
        """Read the index of the data set. Returns the fields of the run's `data` event."""
        recipe, data = self.recipe, self.options.data
        shard = {
            "batch_size_local": recipe.micro_batch_size(ranks.size),
            "global_batch_size": recipe.batch_size,
            "rank": ranks.rank,
            "world_size": ranks.size,
        }
        eval_batch_size = max(1, recipe.eval_batch_size // ranks.size)
        self._device = device
        if data is None:
            text = pydoc.load()
            source, checksum = f"the embedded text, {text.source}", text.checksum()
            if ranks.rank == 0:
                print(f"data: {source}", file=sys.stderr)
            length = recipe.sequence_length
            train = pydoc.Blocks(text.train, length, seed=recipe.seed, mask_rate=recipe.mask_rate)
            held_out = pydoc.Blocks(
                text.held_out, length, seed=HELD_OUT_SEED, mask_rate=HELD_OUT_MASK_RATE, limit=recipe.eval_samples
            )
            num_train, num_eval = len(train.lengths), len(held_out.lengths)
            stream = TrainStream(num_train, recipe.seed, **shard)
            self.reader = BlockReader(
                train,
                held_out,
                stream,
                rank=ranks.rank,
                world_size=ranks.size,
                eval_batch_size=eval_batch_size,
                balance=recipe.balance_tokens,
            )
        else:
            corpus = WikiCorpus(data, vocab_size=recipe.vocab_size, max_seq_length=recipe.sequence_length)
            source, checksum = str(data), corpus.checksum()
            num_train, num_eval = corpus.num_train, min(recipe.eval_samples, corpus.num_eval)
            self.reader = WikiCorpusReader(
                corpus,
                seed=recipe.seed,
                eval_batch_size=eval_batch_size,
                num_eval_samples=num_eval,
                balance=recipe.balance_tokens,
                **shard,
            )
        return {
            "train_samples": num_train,
            "eval_samples": num_eval,
            "classes": recipe.vocab_size,
            "source": source,
            "checksum": checksum,
            "reader": self.reader.name,
            "corrupt_files": [],
        }

    def train_batches(self, first_step: int) -> Iterator[TokenBatch]:
        """This rank's part of every global batch from ``first_step`` on, without end."""
        assert self.reader is not None, "open_data comes first"
        self.training = prefetch(self.reader.train(first_step), self._device, self._fill())
        return self.training

    def _fill(self) -> Fill | None:
        """For the few shapes of a captured step; the embedded text has only one."""
        length = self.recipe.sequence_length
        return Fill(length, max(8, length // 4)) if self.options.cuda_graphs and self.options.data else None

    def eval_batches(self) -> Iterator[TokenBatch]:
        """This rank's part of the held-out samples, each once."""
        assert self.reader is not None, "open_data comes first"
        return prefetch(self.reader.evaluate(), self._device)

    def eval_samples(self, indices: Sequence[int]) -> Iterator[TokenBatch]:
        """See airank_fast.job.Sampled."""
        assert self.reader is not None, "open_data comes first"
        return prefetch(self.reader.samples(indices), self._device)

    def warm_up_batch(self, ranks: Ranks, device: torch.device, dtype: torch.dtype) -> TokenBatch:
        """A batch of noise in the shape of the largest real ones, for warm-up before the clock starts."""
        recipe, rng = self.recipe, np.random.default_rng(0)
        num, length = recipe.micro_batch_size(ranks.size), recipe.sequence_length
        num_masked = max(1, round(recipe.mask_rate * (length - 2)))
        ids = rng.integers(recipe.vocab_size, size=(num, length))
        positions = np.tile(np.arange(1, num_masked + 1), (num, 1))
        noise = pydoc.MaskedBlocks(ids, positions, np.take_along_axis(ids, positions, 1))
        if self.options.data is not None:
            noise.next_sentence_labels = rng.integers(2, size=num)
        return collate(noise, device, self._fill())

    def schedule(self) -> Schedule:
        """How the run is planned: in steps, and evaluated in samples."""
        return Schedule(Span(self.recipe.steps, "steps"), Span(self.recipe.eval_every_samples, "samples"))

    def learning_rate(self, step: int, plan: Plan) -> float:
        """Learning rate of 0-based ``step`` under the engine's ``plan``."""
        recipe = self.recipe
        shape: dict[str, Any] = {
            "base": recipe.learning_rate,
            "end": recipe.end_learning_rate,
            "power": recipe.decay_power,
            "warmup_steps": recipe.warmup_steps,
        }
        if recipe.decay_after_warmup:
            return polynomial_decay(step, **shape, decay_steps=max(1, plan.total_steps - recipe.warmup_steps))
        begin = recipe.start_warmup_step
        return decay_under_warmup(step, **shape, total_steps=plan.total_steps, start_warmup_step=begin)

    def reported(self, plan: Plan) -> dict:
        """MLPerf's hyper-parameter keys and their values for this run (ruleset 4.0.0, bert)."""
        recipe = self.recipe
        return {
            "opt_base_learning_rate": recipe.learning_rate,
            "opt_lamb_epsilon": recipe.epsilon,  # the compliance checker's name
            "opt_epsilon": recipe.epsilon,  # the rules' and the reference convergence points'
            "opt_learning_rate_training_steps": plan.total_steps,
            "opt_learning_rate_warmup_steps": recipe.warmup_steps,
            "num_warmup_steps": recipe.warmup_steps,
            "start_warmup_step": recipe.start_warmup_step,
            "opt_lamb_beta_1": recipe.beta1,
            "opt_lamb_beta_2": recipe.beta2,
            "opt_lamb_weight_decay_rate": recipe.weight_decay,
        }


if TYPE_CHECKING:
    _checked: type[job.Job] = Job


def _call(model: nn.Module, batch: TokenBatch, **labels):
    return model(
        batch.input_ids,
        token_type_ids=batch.token_type_ids,
        position_ids=batch.position_ids,
        **labels,
        sequences=PackedSequences(batch.lengths, batch.input_ids.device, batch.offsets, batch.longest),
        masked_positions=batch.masked_positions,
    )
