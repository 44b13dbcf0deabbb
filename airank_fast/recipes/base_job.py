"""What jobs have in common: `BaseJob` for one network, `SamplesJob` for one whose batches worker processes read."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from airank_fast.data.images.image_folder import left_out
from airank_fast.data.images.place import Place
from airank_fast.data.prefetch import Reader
from airank_fast.data.sampling import TrainStream
from airank_fast.job import Batch, Networks, Plan, Ranks, Schedule, Span, Update
from airank_fast.recipes.checkpoints import first_weights
from airank_fast.recipes.options import target_values
from airank_fast.recipes.schedule import polynomial_decay, step_decay
from airank_fast.tasks import Task


class BaseJob:
    """A task of one network as the engine runs it, for one resolved recipe: see airank_fast.job.Job.

    A subclass has the task, and implements `build`, `build_optimizer`, `loss`, and the members of Job that are not
    here. Its batches come from `reader`, which `open_data` makes; `training` has those to train on, if they must be
    closed before it.
    """

    task: Task
    initial_accuracy: float | None = None
    training: Generator[Any, None, None] | None = None

    def __init__(self, recipe: Any, options: Any) -> None:
        self.recipe = recipe
        self.options = options
        self.reader: Any = None

    @property
    def benchmark(self) -> str:
        """The task's name."""
        return self.task.name

    @property
    def target(self) -> dict[str, float]:
        """See `target_values`."""
        return target_values(self.recipe.target, self.task)

    def build_optimizer(self, model: nn.Module, device: torch.device) -> torch.optim.Optimizer:
        """The optimizer of all weights; its learning rates are tensors on the device, unless it is torch's own."""
        raise NotImplementedError

    def decay_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """All parameters in two groups: weights, which decay, and biases and norms, which do not."""
        return [
            {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": self.recipe.weight_decay},
            {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ]

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The mean over the batch, float32 scalar."""
        raise NotImplementedError

    def updates(self, networks: Networks, device: torch.device) -> list[Update]:
        """One update: the loss of the network, and its optimizer."""
        model = networks["model"]
        return [Update(model, self.build_optimizer(model, device), lambda batch: self.loss(model, batch), "model")]

    def train_stream(self, num_samples: int, ranks: Ranks) -> TrainStream:
        """The order in which this rank sees the training set."""
        return TrainStream(
            num_samples,
            self.recipe.seed,
            batch_size_local=self.recipe.micro_batch_size(ranks.size),
            global_batch_size=self.recipe.batch_size,
            rank=ranks.rank,
            world_size=ranks.size,
        )

    def schedule(self) -> Schedule:
        """The length of the run and its evaluations, in epochs."""
        return Schedule(Span(self.recipe.epochs, "epochs"), Span(self.recipe.eval_every, "epochs"))

    def decayed_rate(self, step: int, plan: Plan, *, end: float = 0.0, power: float) -> float:
        """The learning rate of 0-based `step`: a warm-up of `warmup_epochs`, then `polynomial_decay` to the end."""
        warmup_steps = plan.step_after(self.recipe.warmup_epochs)
        return polynomial_decay(
            step,
            base=self.recipe.learning_rate,
            end=end,
            power=power,
            warmup_steps=warmup_steps,
            decay_steps=max(1, plan.total_steps - warmup_steps),
        )

    def stepped_rate(self, step: int, plan: Plan, *, warmup_power: float = 1.0) -> float:
        """The learning rate of 0-based `step`: a warm-up of `warmup_epochs`, then `step_decay` at `decay_epochs`."""
        recipe = self.recipe
        return step_decay(
            step,
            base=recipe.learning_rate,
            factor=recipe.decay_factor,
            warmup_steps=plan.step_after(recipe.warmup_epochs),
            decay_steps=[plan.step_after(epochs) for epochs in recipe.decay_epochs],
            warmup_power=warmup_power,
        )

    def reported_optimizer(self, name: str) -> dict[str, Any]:
        """MLPerf's keys of an optimizer with a warm-up, for tasks that its books lack."""
        return {
            "opt_name": name,
            "opt_base_learning_rate": self.recipe.learning_rate,
            "opt_learning_rate_warmup_epochs": self.recipe.warmup_epochs,
        }

    def state(self) -> dict[str, Any]:
        """{}: there is no state beside the network and its optimizer."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""

    def close(self) -> None:
        """Stop the reader."""
        if self.training is not None:
            self.training.close()
        if self.reader is not None:
            self.reader.close()


class Samples(Protocol):
    """The training or the evaluation set, indexed."""

    def __len__(self) -> int: ...
    def checksum(self) -> str:
        """SHA-256 of the samples in their order."""


class DataSets(NamedTuple):
    """The samples of a run, and where they are from; corrupt: (name, why) of each that is left out.

    notes: lines for the user. objects: (name, why) of each object that is left out of a sample.
    """

    train: Samples
    val: Samples
    source: str
    corrupt: list[tuple[str, str]]
    notes: Sequence[str] = ()
    objects: Sequence[tuple[str, str]] = ()


class SamplesJob(BaseJob):
    """A `BaseJob` whose samples are indexed by `data_sets` and read by `open_reader`'s reader.

    samples: what they are called where some are left out. The recipe has `init_checkpoint`, None for random weights.
    """

    samples = "pictures"

    def data_sets(self, num_threads: int) -> DataSets:
        """The training and the evaluation set: --data, or the embedded ones."""
        raise NotImplementedError

    def open_reader(self, train: Any, val: Any, stream: TrainStream, place: Place) -> Reader:
        """The reader of both sets."""
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """Further fields of the run's `data` event."""
        return {}

    def first_weights(self) -> dict[str, Any]:
        """The field of the `data` event on the origin of the first weights."""
        return first_weights(self.recipe.init_checkpoint)

    def moved(self, items: Iterable[tuple[Tensor, ...]]) -> Iterator[Batch]:
        """The reader's items as batches on `self.device`, pictures in `self.dtype`."""
        raise NotImplementedError

    def moved_eval(self, items: Iterable[tuple[Tensor, ...]]) -> Iterator[Batch]:
        """As `moved`, of an evaluation."""
        return self.moved(items)

    def open_data(self, ranks: Ranks, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """Index the samples and start their reader. Returns the fields of the run's `data` event."""
        recipe, options = self.recipe, self.options
        cores = options.workers or ranks.cores
        train, val, source, corrupt, notes, objects = self.data_sets(cores)
        if ranks.rank == 0:
            lines = [] if options.data else [f"data: {source}"]
            if options.skip_corrupt:
                lines += left_out(corrupt, len(train) + len(val) + len(corrupt), self.samples)
                lines += left_out(objects, None, "annotations") if objects else []
            for line in (*lines, *notes):
                print(line, file=sys.stderr)
        place = Place(max(1, recipe.eval_batch_size // ranks.size), ranks.rank, ranks.size, device, cores)
        self.reader = self.open_reader(train, val, self.train_stream(len(train), ranks), place)
        self.device, self.dtype = device, dtype
        return {
            "train_samples": len(train),
            "eval_samples": len(val),
            **self.facts(),
            "source": source,
            "checksum": hashlib.sha256(f"{train.checksum()} {val.checksum()}".encode()).hexdigest(),
            "reader": self.reader.name,
            "corrupt_files": [*corrupt, *objects],
            **self.first_weights(),
        }

    def train_batches(self, first_step: int) -> Iterator[Batch]:
        """This rank's part of every global batch from `first_step` on, without end."""
        assert self.reader is not None, "open_data comes first"
        return self.moved(self.reader.train(first_step))

    def eval_batches(self) -> Iterator[Batch]:
        """This rank's part of the evaluation set, each sample once."""
        assert self.reader is not None, "open_data comes first"
        return self.moved_eval(self.reader.evaluate())

    def eval_samples(self, indices: Sequence[int]) -> Iterator[Batch]:
        """See airank_fast.job.Sampled."""
        assert self.reader is not None, "open_data comes first"
        return self.moved_eval(self.reader.samples(indices))
