"""DSSM, semantic matching of queries and documents, as a job for the engine; see dssm_options.py for its settings."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from airank_fast import job
from airank_fast.data.text import code_search, query_pairs
from airank_fast.data.text.query_pairs import Line, PairBatch, PairReader, Pairs, Samples, collate
from airank_fast.data.text.trigrams import Bags
from airank_fast.errors import require
from airank_fast.job import Meter, Networks, Plan, Ranks
from airank_fast.models.dssm import DSSM
from airank_fast.nn import cross_entropy
from airank_fast.quality.order_rate import OrderRate, Retrieval
from airank_fast.recipes.base_job import BaseJob
from airank_fast.recipes.dssm_options import RECIPES, Options, Recipe
from airank_fast.recipes.lazy_adam import lazy_adam
from airank_fast.tasks.dssm import TASK

__all__ = ["RECIPES", "Job", "Options", "Recipe"]

NOISE_TRIGRAMS = 64  # of a text of a warm-up batch


class Job(BaseJob):
    """DSSM as the engine runs it, for one resolved recipe: see airank_fast.job.Job.

    A training sample is a pair that matches.
    """

    task = TASK
    recipe: Recipe
    options: Options

    def build(self) -> dict[str, nn.Module]:
        """The float32 network with random initial weights, on the CPU."""
        recipe = self.recipe
        sizes = recipe.buckets, recipe.width, recipe.layers
        return {"model": DSSM(*sizes, dropout=recipe.dropout, shared=recipe.shared, sparse=self.sparse)}

    @property
    def sparse(self) -> bool:
        """Whether the gradient of the table is sparse."""
        return self.recipe.sparse and self.recipe.fused

    def build_optimizer(self, model: nn.Module, device: torch.device) -> torch.optim.Optimizer:
        """Adam, of sparse tables lazy Adam; torch's own with --no-fused.

        The learning rate is a tensor on the device.
        """
        if not self.recipe.fused:
            return torch.optim.Adam(model.parameters(), lr=0.0, eps=self.recipe.epsilon, fused=True)
        return lazy_adam(model, model.parameters(), device, epsilon=self.recipe.epsilon)

    def loss(self, model: nn.Module, batch: PairBatch) -> Tensor:
        """Mean over the queries of the cross entropy of their own documents among others, float32 scalar.

        With in-batch negatives a query's other matching documents in its group, and equal texts, are left out.
        """
        recipe = self.recipe
        queries, documents = model(*_bags(batch))
        if recipe.negatives:
            logits = (documents.view(len(queries), 1 + recipe.negatives, -1) @ queries[:, :, None]).squeeze(2)
            own = torch.zeros_like(batch.query)
        else:
            size = recipe.candidates
            query, document = batch.query.view(-1, size), batch.document.view(-1, size)
            matching = (query[:, :, None] == query[:, None]) | (document[:, :, None] == document[:, None])
            matching &= ~torch.eye(size, dtype=torch.bool, device=matching.device)
            logits = queries.view(-1, size, recipe.width) @ documents.view(-1, size, recipe.width).mT
            logits = logits.masked_fill(matching, -torch.inf).flatten(0, 1)
            own = torch.arange(size, device=query.device).repeat(len(query))
        logits = recipe.scale * logits
        return cross_entropy(logits, own) if recipe.fused else F.cross_entropy(logits.float(), own)

    def predict(self, networks: Networks, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """Vectors of length 1 of the queries and of their documents, [b, width] each; their product is the score."""
        return networks["model"](*_bags(batch))

    def meter(self) -> Meter:
        """Labelled pairs by query; without --data, each function among all that are held out."""
        return OrderRate() if self.options.data else Retrieval()

    def open_data(self, ranks: Ranks, device: torch.device, dtype: torch.dtype) -> dict:
        """Read the pairs and weigh their trigrams. Returns the fields of the run's `data` event."""
        recipe, options = self.recipe, self.options
        train_lines, eval_lines, source, corrupt = self._read()
        if ranks.rank == 0 and not options.data:
            print(f"data: {source}", file=sys.stderr)
        if ranks.rank == 0 and corrupt:
            print(f"data: {len(corrupt)} lines are left out", file=sys.stderr)
            print(*(f"data: left out {where} ({why})" for where, why in corrupt), sep="\n", file=sys.stderr)
        train, held_out = (Pairs.of(lines, recipe.buckets) for lines in (train_lines, eval_lines))
        what = "with a held-out query that has a document of each label"
        require(not options.data or held_out.can_be_ordered(), str(options.eval_data or options.data), what, "none")
        rarity = train.rarity(recipe.buckets)
        self._device = device
        self.reader = PairReader(
            train.weighted(rarity),
            held_out.weighted(rarity),
            self.train_stream(len(train.matching), ranks),
            negatives=recipe.negatives,
            eval_batch_size=max(1, recipe.eval_batch_size // ranks.size),
            rank=ranks.rank,
            world_size=ranks.size,
        )
        return {
            "train_samples": len(train.matching),
            "eval_samples": len(held_out),
            "classes": 2,
            "source": source,
            "checksum": _checksum((*train_lines, *eval_lines)),
            "reader": self.reader.name,
            "corrupt_files": corrupt,
        }

    def _read(self) -> tuple[list[Line], list[Line], str, list[tuple[str, str]]]:
        """(train, held out, source, lines left out)."""
        options = self.options
        if options.data is None:
            *sides, source = code_search.load()
            train, held_out = ([Line(each.query, each.document, 1) for each in side] for side in sides)
            return train, held_out, f"the embedded text, {source}", []
        lines, corrupt = query_pairs.read_lines(options.data, skip_corrupt=options.skip_corrupt)
        if options.eval_data is None:
            return *query_pairs.split(lines), str(options.data), corrupt
        held_out, more = query_pairs.read_lines(options.eval_data, skip_corrupt=options.skip_corrupt)
        return lines, held_out, f"{options.data}, {options.eval_data}", corrupt + more

    def train_batches(self, first_step: int) -> Iterator[PairBatch]:
        """This rank's part of every global batch from ``first_step`` on, without end."""
        assert self.reader is not None, "open_data comes first"
        self.training = self.reader.train(self._device, first_step)
        return self.training

    def eval_batches(self) -> Iterator[PairBatch]:
        """This rank's part of the held-out pairs, each once."""
        assert self.reader is not None, "open_data comes first"
        return self.reader.evaluate(self._device)

    def eval_samples(self, indices: Sequence[int]) -> Iterator[PairBatch]:
        """See airank_fast.job.Sampled."""
        assert self.reader is not None, "open_data comes first"
        return self.reader.samples(indices, self._device)

    def warm_up_batch(self, ranks: Ranks, device: torch.device, dtype: torch.dtype) -> PairBatch:
        """A batch of random trigrams, for warm-up before the clock starts; UserError where groups do not fill it."""
        recipe = self.recipe
        num = recipe.micro_batch_size(ranks.size)
        what = f"a divisor of the {num} samples of a rank's micro-batch"
        require(recipe.negatives or num % recipe.candidates == 0, "--candidates", what, recipe.candidates)
        numbers, rng = np.arange(num), np.random.default_rng(0)
        documents = np.arange(num * (1 + recipe.negatives))
        of_queries, of_documents = (_noise(len(texts), recipe.buckets, rng) for texts in (numbers, documents))
        noise = Samples(of_queries, of_documents, numbers, documents, np.ones_like(numbers), numbers)
        return collate(noise, device)

    def learning_rate(self, step: int, plan: Plan) -> float:
        """Learning rate of 0-based ``step`` under the engine's ``plan``."""
        return self.decayed_rate(step, plan, power=1)

    def reported(self, plan: Plan) -> dict:
        """The optimizer under MLPerf's names; its books have no keys for this task."""
        return self.reported_optimizer("adam")


if TYPE_CHECKING:
    _checked: type[job.Job] = Job


def _bags(batch: PairBatch) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
    return (
        (batch.query_ids, batch.query_weights, batch.query_offsets),
        (batch.document_ids, batch.document_weights, batch.document_offsets),
    )


def _noise(num: int, num_buckets: int, rng: np.random.Generator) -> Bags:
    shape = num * NOISE_TRIGRAMS
    weights = np.full(shape, NOISE_TRIGRAMS**-0.5, np.float32)
    return Bags(rng.integers(num_buckets, size=shape), weights, np.arange(num + 1) * NOISE_TRIGRAMS)


def _checksum(lines: Iterable[Line]) -> str:
    """SHA-256 of all texts and labels in their order."""
    digest = hashlib.sha256()
    for query, document, label in lines:
        digest.update(f"{query}\t{document}\t{label}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
