"""A job of two networks that train against each other, small enough to run in 0.1 s; and runs of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn
from torch.nn.functional import softplus

from airank_fast.data.prefetch import Batch
from airank_fast.engine.distributed import World
from airank_fast.engine.run import execute
from airank_fast.job import Schedule, Span, Update
from airank_fast.quality.sums import Sums
from airank_fast.record.events import EventLog
from airank_fast.tasks import Metric, Task

TASK = Task(
    name="toy",
    model="Toy",
    title={"zh": "玩具", "en": "toy"},
    counted_in="steps",
    metrics=(Metric("distance", ".4f", "down"), Metric("fooled")),
)
ALONE = World(0, 1, 0, 1, torch.device("cpu"))


@dataclass
class Points(Batch):
    """Real points and the generator's inputs, [b, 2] each; `fake` are its outputs for them.

    worth: of how many units a point is for throughput.
    """

    real: torch.Tensor
    noise: torch.Tensor
    fake: torch.Tensor | None = None
    worth: int = 1

    @property
    def num_samples(self) -> int:
        return len(self.real)

    @property
    def units(self) -> int:
        return self.worth * len(self.real)


class Distance(Sums):
    """Distance of generated points from the real ones' mean, and the share that the discriminator accepts."""

    def __init__(self) -> None:
        super().__init__(4, dtype=torch.float64)

    def amounts(self, outputs, batch):
        fake, verdict = outputs
        difference = (fake - batch.real).double().sum(0)
        return torch.cat([difference, (verdict > 0).double().sum(0), torch.tensor([len(fake)]).double()])

    def compute(self, total):
        x, y, fooled, number = total.tolist()
        return {"distance": (x * x + y * y) ** 0.5 / number, "fooled": fooled / number}


@dataclass(frozen=True)
class Recipe:
    """The fields of a recipe that the engine reads."""

    precision: str = "fp32"
    gradient_accumulation_steps: int = 1
    batch_size: int = 8
    seed: int = 3
    stop_at_target: bool = True


@dataclass
class Job:
    """A generator learns to move points to where the discriminator accepts them as real.

    jitter: of the real points, drawn from the run's random state. num_pooled: earlier fakes that the discriminator is
    shown again. break_at: the step whose batch never comes.
    """

    recipe: Recipe = field(default_factory=Recipe)
    target: dict[str, float] = field(default_factory=dict)
    jitter: float = 0.0
    num_pooled: int = 4
    worth: int = 1
    break_at: int | None = None
    meters: list = field(default_factory=list)
    optimizers: Callable = lambda networks: [
        torch.optim.SGD(networks["generator"].parameters(), lr=torch.zeros(()), momentum=0.9),
        torch.optim.AdamW(networks["discriminator"].parameters(), lr=torch.zeros(()), weight_decay=0.1),
    ]

    task, benchmark, initial_accuracy = TASK, "toy", None

    def __post_init__(self) -> None:
        self.pool = torch.zeros(0, 2)

    def build(self):
        return {
            "generator": nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2)),
            "discriminator": nn.Sequential(nn.Linear(2, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 1)),
        }

    def updates(self, networks, device):
        generator, discriminator = networks["generator"], networks["discriminator"]

        def generators(batch):
            assert not any(p.requires_grad for p in discriminator.parameters())
            fake = generator(batch.noise)
            batch.fake = fake.detach()
            return softplus(-discriminator(fake).float()).mean()

        def discriminators(batch):
            assert not any(p.requires_grad for p in generator.parameters())
            shown = torch.cat([self.pool, batch.fake.float()])
            self.pool = shown[max(0, len(shown) - self.num_pooled) :]
            real = batch.real + self.jitter * torch.randn_like(batch.real)
            return (softplus(-discriminator(real).float()).mean() + softplus(discriminator(shown).float()).mean()) / 2

        of_generator, of_discriminator = self.optimizers(networks)
        return [
            Update(generator, of_generator, generators, "generator"),
            Update(discriminator, of_discriminator, discriminators, "discriminator"),
        ]

    def schedule(self):
        return Schedule(Span(12, "steps"), Span(5, "steps"))

    def learning_rate(self, step, plan):
        return 0.05 * (1 - step / plan.total_steps)

    def open_data(self, ranks, device, dtype):
        self.ranks = ranks
        return {"train_samples": 16, "eval_samples": 10, "classes": 0, "source": "toy", "checksum": "none"}

    def _points(self, number: int, rows: slice) -> Points:
        draws = torch.randn(self.recipe.batch_size, 4, generator=torch.Generator().manual_seed(number))
        return Points(draws[rows, :2] + torch.tensor([2.0, -1.0]), draws[rows, 2:], worth=self.worth)

    def train_batches(self, first_step):
        parts = self.recipe.gradient_accumulation_steps
        size = self.recipe.batch_size // self.ranks.size // parts
        for step in count(first_step):
            if step == self.break_at:
                raise RuntimeError("the data has ended")
            for part in range(parts):
                first = (self.ranks.rank * parts + part) * size
                yield self._points(step, slice(first, first + size))

    def eval_batches(self):
        return islice((self._points(1000 + n, slice(0, 5)) for n in range(2)), self.ranks.rank, None, self.ranks.size)

    def warm_up_batch(self, ranks, device, dtype):
        return Points(torch.zeros(4, 2), torch.zeros(4, 2))

    def predict(self, networks, batch):
        fake = networks["generator"](batch.noise)
        return fake, networks["discriminator"](fake)

    def meter(self):
        return self.meters.pop(0) if self.meters else Distance()

    def reported(self, plan):
        return {}

    def state(self):
        return {"pool": self.pool}

    def load_state(self, state):
        self.pool = state["pool"]

    def close(self):
        pass


def run(job: Job, directory: Path, *, world: World = ALONE, resume: bool = False) -> int:
    """Run the job in ``directory``, with a checkpoint every 3 steps; returns the exit status."""
    directory.mkdir(exist_ok=True)
    options = SimpleNamespace(
        resume=resume, cuda_graphs=False, checkpoint_every=1, checkpoint_steps=3, data=None, examples=False
    )
    log = EventLog(directory / "events.jsonl", resume=resume) if world.rank == 0 else None
    try:
        return execute(job, options, world, log, directory)
    finally:
        if log is not None:
            log.close()
