"""The state of a run: networks, optimizers, loss scale, random states, progress."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor

from airank_fast.engine import checkpoint, step, weights
from airank_fast.engine.distributed import World
from airank_fast.engine.graph import CapturedStep
from airank_fast.engine.memory import Heap, reset_peak_memory
from airank_fast.engine.precision import DTYPES
from airank_fast.errors import UserError, require
from airank_fast.job import Job

NUM_WARMUP_STEPS = 2


class Progress(TypedDict):
    """How far a run is: steps completed, the step of the last evaluation, whether one has reached the target."""

    step: int
    evaluated_step: int
    reached: bool


class State:
    """The state of a run of ``job``, ready for its first step.

    Args:
        job: what is trained; builds networks and optimizers.
        world: this rank among the ranks.
        cuda_graphs: capture the step; on one CUDA device only.
        found: the checkpoint to resume from.

    Warm-up steps on noise select kernels and create optimizer state; weights and random state are as before them.
    ``networks`` and ``updates`` are the job's; ``step`` trains on micro-batches; ``dtype`` is that of a batch;
    ``autocast`` goes around a prediction; ``first_evaluated`` has the outputs for the first batch of the last
    evaluation, and this batch; ``averaged`` the step and the weights of `engine.averaging`.
    """

    def __init__(self, job: Job, world: World, *, cuda_graphs: bool = False, found: Path | None = None) -> None:
        self.job, self.world, self.device = job, world, world.device
        precision = job.recipe.precision
        if cuda_graphs and (self.device.type != "cuda" or world.size > 1):
            raise UserError(f"--cuda-graphs: must have one CUDA device, got {world.size} of type {self.device.type}")
        self.heap = Heap() if self.device.type == "cpu" else None
        torch.manual_seed(job.recipe.seed)
        self.networks = job.build()
        initial = {
            name: {key: tensor.clone() for key, tensor in network.state_dict().items()}
            for name, network in self.networks.items()
        }
        self.networks = {
            name: weights.place(network, precision, self.device) for name, network in self.networks.items()
        }
        self.updates = job.updates(self.networks, self.device)
        self.optimizers = [update.optimizer for update in self.updates]
        masters = weights.keep_masters(self.optimizers)
        if masters:
            for network in self.networks.values():
                weights.narrow(network, precision)
        self.first_evaluated: tuple[Any, Any] | None = None
        self.averaged: tuple[int, checkpoint.Weights] | None = None
        self.dtype = DTYPES[precision] if masters else torch.float32
        self.autocast = weights.autocast(precision, self.device, masters)
        self.scaler = self.fresh_scaler()
        losses = [step.reduced(update, self.device) for update in self.updates] if world.size > 1 else None
        plain = step.TrainingStep(self.updates, self.networks, self.scaler, losses, self.autocast)
        self.step: step.TrainingStep | CapturedStep = CapturedStep(plain) if cuda_graphs else plain
        self.progress: Progress = {"step": 0, "evaluated_step": 0, "reached": False}
        fresh = copy.deepcopy(job.state())
        self._warm_up()
        self._begin(initial)
        job.load_state(fresh)
        if found:
            self._load(*checkpoint.load(found, initial), found)

    @property
    def samples(self) -> int:
        """Samples trained so far, over all ranks."""
        return self.progress["step"] * self.job.recipe.batch_size

    def fresh_scaler(self) -> torch.amp.GradScaler:
        """Loss scaling as at the beginning of a run."""
        return torch.amp.GradScaler(self.device.type, enabled=self.job.recipe.precision == "fp16")

    def _warm_up(self) -> None:
        batch = self.job.warm_up_batch(self.world, self.device, self.dtype)
        for _ in range(NUM_WARMUP_STEPS):
            self.step([batch] * self.job.recipe.gradient_accumulation_steps, learning_rate=0.0)
        reset_peak_memory(self.device)

    def _begin(self, initial: dict[str, dict[str, Tensor]]) -> None:
        """Restore the state of the beginning of a run."""
        self._load_weights(initial)
        torch.manual_seed(self.job.recipe.seed + 1 + self.world.rank)
        for optimizer in self.optimizers:
            if hasattr(optimizer, "reset_state"):
                optimizer.reset_state()
            else:
                optimizer.state.clear()
        self.scaler.load_state_dict(self.fresh_scaler().state_dict())

    def _load_weights(self, of_networks: dict[str, dict[str, Tensor]]) -> None:
        for name, network in self.networks.items():
            weights.load_full_state(network, self.optimizers, of_networks[name])

    def _load(self, of_networks: dict[str, dict[str, Tensor]], saved: dict[str, Any], path: Path) -> None:
        """Resume from a checkpoint; one from before runs had several optimizers has `optimizer`, without names."""
        self._load_weights(of_networks)
        self.progress = saved["progress"]
        names = [update.name for update in self.updates]
        optimizers = saved["optimizers"] if "optimizers" in saved else {names[0]: saved["optimizer"]}
        require(optimizers.keys() == set(names), str(path), f"of the optimizers {', '.join(names)}", [*optimizers])
        for update in self.updates:
            update.optimizer.load_state_dict(optimizers[update.name])
        self.scaler.load_state_dict(saved["scaler"])
        ranks = saved.get("ranks") or [saved]
        mine = ranks[self.world.rank if self.world.rank < len(ranks) else 0]
        torch.set_rng_state(mine["rng"])
        if "cuda_rng" in mine and self.device.type == "cuda":
            torch.cuda.set_rng_state(mine["cuda_rng"], self.device)
        self.job.load_state(mine.get("job", {}))

    def average_buffers(self) -> None:
        """Give every rank the mean of the batch-norm statistics; a collective."""
        for network in self.networks.values():
            self.world.average_buffers(network)

    def save(self, directory: Path, *, together: bool = True) -> Path | None:
        """Write a checkpoint below ``directory`` from rank 0; returns its path, None on the other ranks.

        With ``together`` it holds the random state of every rank, and the mean of their batch-norm statistics: a
        collective. Without, rank 0's alone (other ranks may be gone).
        """
        mine = {"rng": torch.get_rng_state(), "job": self.job.state()}
        if self.device.type == "cuda":
            mine["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        if together:
            self.average_buffers()
        ranks = self.world.gather_objects(mine) if together else [mine]
        if self.world.rank != 0:
            return None
        saved = {
            "progress": self.progress,
            "optimizers": {update.name: update.optimizer.state_dict() for update in self.updates},
            "scaler": self.scaler.state_dict(),
            "ranks": ranks,
        }
        of_networks = {name: weights.full_state(network, self.optimizers) for name, network in self.networks.items()}
        if self.averaged is not None and self.averaged[0] == self.progress["step"]:
            of_networks |= self.averaged[1]
        keep = max(checkpoint.KEEP, getattr(self.job.recipe, "average_checkpoints", 1))  # see engine.averaging
        return checkpoint.save(directory, self.progress["step"], of_networks, saved, keep)
