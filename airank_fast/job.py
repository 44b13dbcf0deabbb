"""The interface between the engine and a task, as types: batches, updates, meters, and the job that makes them.

A recipe file has a class that fits `Job`; nothing inherits from these protocols.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import Field, dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from airank_fast.tasks import Task

Networks: TypeAlias = Mapping[str, nn.Module]
"""The networks of a run, by the names of their files in a checkpoint."""


class Ranks(Protocol):
    """This process among the ranks of a run. With one rank every collective is the identity."""

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def cores(self) -> int: ...
    @property
    def device(self) -> torch.device: ...
    def sum(self, tensor: Tensor) -> Tensor:
        """`tensor` summed over the ranks, in place."""

    def gather_objects(self, value: Any) -> list[Any]:
        """`value` (picklable) of every rank, in rank order."""


class Batch(Protocol):
    """A micro-batch on the device; sequences of different lengths are packed, with offsets.

    `units`: what throughput counts, where not samples. `weight`: see airank_fast.data.prefetch.Batch.
    """

    @property
    def num_samples(self) -> int: ...
    @property
    def units(self) -> int: ...
    @property
    def weight(self) -> Tensor | float: ...
    def tensors(self) -> dict[str, Tensor]: ...
    def shape_key(self) -> object: ...
    def h2d_s(self) -> float | None: ...


@dataclass
class Update:
    """One backward pass of a step and the optimizer after it.

    learner: a network, or an nn.ModuleList of several: only its parameters take gradients, which are reduced over the
    ranks. loss: of a micro-batch, float32 scalar, the mean over it (see `Batch.weight`). Losses and the optimizer's
    state are logged and saved under `name`. A parameter group's `lr_factor` multiplies the learning rate of the step.
    """

    learner: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Callable[[Any], Tensor]
    name: str


class Meter(Protocol):
    """Quality over an evaluation set, exact over all ranks and any batch size."""

    counts: Mapping[str, int]
    """Of the last `values`: correct and counted; {} where the metric is no fraction of samples."""

    def update(self, outputs: Any, batch: Any) -> None:
        """Add the outputs of `Job.predict` for a batch; does not wait for the device."""

    def values(self, ranks: Ranks) -> dict[str, float]:
        """{metric: value} over all ranks; a collective, with the same result on each."""


@dataclass(frozen=True)
class Span:
    """A length of training: 4 epochs, 150,000 samples, 5,000 steps."""

    number: float
    unit: Literal["epochs", "samples", "steps"]


@dataclass(frozen=True)
class Schedule:
    """How long a run is, and when it is evaluated: at `eval_offset`, every `eval_every` from there, and at the end.

    `eval_offset` is in the unit of `eval_every`; with 0 the first evaluation is after `eval_every`.
    """

    length: Span
    eval_every: Span
    eval_offset: float = 0


class Plan(Protocol):
    """A schedule in steps, for a data set of a given size."""

    @property
    def samples_per_epoch(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def world_size(self) -> int: ...
    @property
    def total_steps(self) -> int: ...
    def step_after(self, epochs: float) -> int:
        """The step that completes `epochs` epochs."""


class Recipe(Protocol):
    """The fields of a recipe, a dataclass, that the engine reads; others are read by its job alone."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def seed(self) -> int: ...
    @property
    def precision(self) -> str: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def gradient_accumulation_steps(self) -> int: ...
    @property
    def stop_at_target(self) -> bool: ...


class Job(Protocol):
    """A task as the engine runs it, for one resolved recipe.

    `open_data` comes before the batches; no call before it reads the data set.
    """

    @property
    def task(self) -> Task: ...
    @property
    def benchmark(self) -> str:
        """The task's name in logs, with the network's where it has several: resnet50, bert_large."""

    @property
    def recipe(self) -> Recipe: ...
    @property
    def target(self) -> Mapping[str, float]:
        """{metric: value} that one evaluation must have, all of them; empty: none."""

    @property
    def initial_accuracy(self) -> float | None:
        """The required value of the headline metric for the initial weights; None: any."""

    def build(self) -> dict[str, nn.Module]:
        """The float32 networks on the CPU, with their initial weights."""

    def updates(self, networks: Networks, device: torch.device) -> list[Update]:
        """The updates of a step in their order, over `networks` on `device`."""

    def schedule(self) -> Schedule:
        """How long the run is, and when it is evaluated."""

    def learning_rate(self, step: int, plan: Plan) -> float:
        """Learning rate of 0-based `step`."""

    def open_data(self, ranks: Ranks, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """Index the data set and start its reader. Returns the fields of the run's `data` event."""

    def train_batches(self, first_step: int) -> Iterator[Batch]:
        """This rank's part of every global batch from `first_step` on, without end."""

    def eval_batches(self) -> Iterator[Batch]:
        """This rank's part of the evaluation set."""

    def warm_up_batch(self, ranks: Ranks, device: torch.device, dtype: torch.dtype) -> Batch:
        """Noise in the shape of the largest micro-batch, for warm-up before the clock starts."""

    def predict(self, networks: Networks, batch: Any) -> Any:
        """The outputs for a batch in an evaluation, post-processing included, as the meter takes them."""

    def meter(self) -> Meter:
        """A new meter, for one evaluation."""

    def reported(self, plan: Plan) -> dict[str, Any]:
        """MLPerf's hyper-parameter keys and their values for this run."""

    def state(self) -> dict[str, Any]:
        """This rank's state for a checkpoint, beside networks and optimizers: tensors and plain values."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""

    def close(self) -> None:
        """Stop readers."""


class Example(NamedTuple):
    """A sample of the evaluation set and what the networks make of it, to be looked at.

    picture: uint8 [H, W] or [H, W, 3]. predicted, truth: as text; "" where the picture shows them.
    """

    picture: np.ndarray
    predicted: str = ""
    truth: str = ""


@runtime_checkable
class Sampled(Protocol):
    """A job whose prediction is one pass, and whose evaluation samples can be read by number: for inference."""

    def eval_samples(self, indices: Sequence[int]) -> Iterator[Batch]:
        """Those with these numbers, from 0 to `eval_samples` - 1 of the `data` event, in this order, one a batch."""


@runtime_checkable
class Illustrated(Protocol):
    """A job with predictions that one can look at; the report of a run shows them."""

    def examples(self, outputs: Any, batch: Any) -> list[Example]:
        """The samples of a batch, with the outputs of `Job.predict` for it."""
