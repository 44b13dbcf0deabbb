"""What the jobs of networks on tables share: everything but the network and its table."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from airank_fast.data.sampling import ShardStream, TrainStream
from airank_fast.data.tables import RowBatch, RowReader, Table, adult, criteo, flights, prefetch
from airank_fast.job import Networks, Plan, Ranks, Schedule, Span
from airank_fast.quality.auc import AUC
from airank_fast.recipes.base_job import BaseJob
from airank_fast.recipes.lazy_adam import lazy_adam
from airank_fast.recipes.table_recipe import TableOptions, TableRecipe

EMBEDDED = {"adult": adult, "flights": flights}
"""The data sets that come with the package, by the recipe's name."""


class TableJob(BaseJob):
    """A network on a table as the engine runs it, for one resolved recipe: see airank_fast.job.Job.

    A subclass has the task and implements `network`.
    """

    recipe: TableRecipe
    options: TableOptions

    def __init__(self, recipe: Any, options: Any) -> None:
        super().__init__(recipe, options)
        self.is_hashed = self.options.data is not None
        """Whether the data set is Criteo's, whose categories share one table."""
        self.embedded = EMBEDDED.get(self.recipe.name, adult)

    def network(self) -> nn.Module:
        """The float32 network; it takes dense numbers and ids, and returns the logits of label 1."""
        raise NotImplementedError

    def table(self) -> Table:
        """The embedded data set, with the columns that the network takes."""
        return self.embedded.load()

    @property
    def slots(self) -> Mapping[str, int]:
        """The number of ids of each column that the network takes, or of the one slot that all columns share.

        The data set is not read for it, nor for the two sizes below.
        """
        return {"C": self.recipe.table_rows} if self.is_hashed else self.embedded.SLOTS

    @property
    def num_columns(self) -> int:
        """Ids of a row."""
        return criteo.NUM_CATEGORIES if self.is_hashed else len(self.slots)

    @property
    def num_numbers(self) -> int:
        """Numbers of a row."""
        return criteo.NUM_NUMBERS if self.is_hashed else len(self.embedded.NUMBERS)

    def build(self) -> dict[str, nn.Module]:
        """The float32 network with random initial weights, on the CPU."""
        return {"model": self.network()}

    def build_optimizer(self, model: nn.Module, device: torch.device) -> torch.optim.Optimizer:
        """Adam of all weights."""
        return self.adam(model, model.parameters(), device)

    def adam(self, model: nn.Module, params: Iterable[nn.Parameter], device: torch.device) -> torch.optim.Optimizer:
        """Adam of these weights of the model, lazy Adam of its sparse tables; torch's own with --no-fused.

        The learning rates are tensors on the device.
        """
        recipe = self.recipe
        betas = recipe.beta1, recipe.beta2
        if not recipe.fused:
            return torch.optim.Adam(params, recipe.learning_rate, betas, recipe.epsilon, fused=True)
        return lazy_adam(model, params, device, epsilon=recipe.epsilon, betas=betas)

    @property
    def sparse(self) -> bool:
        """Whether the gradients of the embeddings are sparse."""
        return self.recipe.sparse and self.recipe.fused

    def loss(self, model: nn.Module, batch: RowBatch) -> Tensor:
        """Mean log loss over the batch, float32 scalar."""
        return F.binary_cross_entropy_with_logits(model(batch.dense, batch.ids), batch.labels)

    def predict(self, networks: Networks, batch: RowBatch) -> Tensor:
        """Logits [b]."""
        return networks["model"](batch.dense, batch.ids)

    def meter(self) -> AUC:
        """The area under the ROC curve, over all held-out rows."""
        return AUC(self.task.headline.name)

    def open_data(self, ranks: Ranks, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """Open the data set. Returns the fields of the run's `data` event."""
        recipe, path = self.recipe, self.options.data
        place = {"rank": ranks.rank, "world_size": ranks.size}
        local = recipe.micro_batch_size(ranks.size)
        batches = {"batch_size_local": local, "global_batch_size": recipe.batch_size, **place}
        shares = {"eval_batch_size": max(1, recipe.eval_batch_size // ranks.size), **place}
        facts: dict[str, Any]
        if path is None:
            table = self.table()
            numbers = len(table.train.labels), len(table.held_out.labels)
            facts = {"source": f"the embedded data set, {self.embedded.NAME}", "checksum": table.checksum()}
            stream = TrainStream(numbers[0], recipe.seed, **batches)
            self.reader = RowReader(table.train, table.held_out, stream, **shares)
        else:
            data = criteo.Criteo(path, recipe.held_out)
            numbers = data.num_train, data.num_held_out
            facts = {"source": f"{criteo.NAME} in {path}", "checksum": data.checksum}
            stream = ShardStream(data.train_sizes, recipe.seed, **batches)
            self.reader = criteo.ShardReader(
                data, stream, table_rows=recipe.table_rows, scaling=recipe.scaling, **shares
            )
        if ranks.rank == 0 and path is None:
            print(f"data: {facts['source']}", file=sys.stderr)
        self._device = device
        return {
            "train_samples": numbers[0],
            "eval_samples": numbers[1],
            "classes": 2,
            "reader": self.reader.name,
            "corrupt_files": [] if path is None else data.corrupt,
            **facts,
        }

    def train_batches(self, first_step: int) -> Iterator[RowBatch]:
        """This rank's part of every global batch from `first_step` on, without end."""
        assert self.reader is not None, "open_data comes first"
        return prefetch(self.reader.train(first_step), self._device)

    def eval_batches(self) -> Iterator[RowBatch]:
        """This rank's part of the held-out rows, each once."""
        assert self.reader is not None, "open_data comes first"
        return prefetch(self.reader.evaluate(), self._device)

    def eval_samples(self, indices: Sequence[int]) -> Iterator[RowBatch]:
        """See airank_fast.job.Sampled."""
        assert self.reader is not None, "open_data comes first"
        return prefetch(self.reader.samples(indices), self._device)

    def warm_up_batch(self, ranks: Ranks, device: torch.device, dtype: torch.dtype) -> RowBatch:
        """Random rows in the shape of a training batch, for warm-up before the clock starts."""
        number = self.recipe.micro_batch_size(ranks.size)
        ids = torch.rand(number, self.num_columns) * torch.tensor(list(self.slots.values()))
        labels = torch.randint(2, (number,)).float()
        dense = torch.randn(number, self.num_numbers)
        return RowBatch(*(part.to(device) for part in (dense, ids.int(), labels, torch.arange(number))))

    def schedule(self) -> Schedule:
        """The length of the run in epochs, with an evaluation after each."""
        return Schedule(Span(self.recipe.epochs, "epochs"), Span(1, "epochs"))

    def learning_rate(self, step: int, plan: Plan) -> float:
        """The same in every step."""
        return self.recipe.learning_rate

    def reported(self, plan: Plan) -> dict[str, Any]:
        """MLPerf's keys of Adam's hyper-parameters and their values for this run."""
        recipe = self.recipe
        return {
            "opt_name": "adam",
            "opt_base_learning_rate": recipe.learning_rate,
            "opt_adam_beta_1": recipe.beta1,
            "opt_adam_beta_2": recipe.beta2,
            "opt_adam_epsilon": recipe.epsilon,
        }
