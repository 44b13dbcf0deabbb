"""What the jobs of pix2pix and CycleGAN share: alternating updates, image pools, first weights, and data."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from airank_fast.data.images.domain_reader import DomainReader, PictureBatch, View, noise, prefetch
from airank_fast.data.images.domains import Domains, Found
from airank_fast.data.images.image_pool import ImagePool, exchanges
from airank_fast.data.images.place import Place
from airank_fast.data.prefetch import Batch, moved
from airank_fast.data.sampling import TrainStream
from airank_fast.errors import require
from airank_fast.job import Plan, Ranks
from airank_fast.models.gan_layers import Norm, PatchGAN, adversarial_loss
from airank_fast.nn.batch_norm_act import join_ranks
from airank_fast.optim import FusedAdam
from airank_fast.quality.fid import Fid, Inception, few_pictures
from airank_fast.recipes.base_job import DataSets, SamplesJob
from airank_fast.recipes.checkpoints import origin
from airank_fast.recipes.gan_recipe import GanOptions, GanRecipe
from airank_fast.recipes.gan_weights import files_of, load_all
from airank_fast.recipes.schedule import polynomial_decay

_SIZES = ("width", "levels", "blocks", "discriminator_width", "discriminator_layers")


@dataclass
class GanBatch(Batch):
    """Pictures of both domains, [b, C, S, S] from -1 to 1, channels_last, and what of them goes through the pools.

    slots, kept, old: see `image_pool.Exchange`. fake_a, fake_b: what the generators have made in this step.
    """

    a: Tensor
    b: Tensor
    slots: Tensor
    kept: Tensor
    old: Tensor
    fake_a: Tensor | None = None
    fake_b: Tensor | None = None

    @property
    def num_samples(self) -> int:
        """Pictures of each domain."""
        return len(self.a)


class GanJob(SamplesJob):
    """Networks that train against each other, as the engine runs them: see airank_fast.job.Job.

    A subclass has the task, whose metrics are narrowed to those that the run measures, and implements `networks`,
    `updates`, `found` and `predict`. Batch-norm statistics are those of the batches of all ranks, with --no-fused of
    each rank's own; each rank has pools of its own.
    """

    recipe: GanRecipe
    options: GanOptions
    norm: Norm
    """Of the discriminators."""
    published: GanRecipe
    """The recipe with the networks of the paper."""
    eval_samples = None  # type: ignore[assignment]
    """A prediction takes several networks: see airank_fast.job.Sampled."""

    @property
    def benchmark(self) -> str:
        """The task's name, or NAME_mini where the networks are smaller."""
        sizes = [name for name in _SIZES if hasattr(self.recipe, name)]
        is_whole = all(getattr(self.recipe, name) == getattr(self.published, name) for name in sizes)
        return self.task.name if is_whole else f"{self.task.name}_mini"

    @property
    def measured(self) -> tuple[str, ...]:
        """The metrics of an evaluation without --inception."""
        raise NotImplementedError

    @property
    def pool_channels(self) -> Mapping[str, int]:
        """Channels of the pictures in each pool, by its name."""
        raise NotImplementedError

    def __init__(self, recipe: Any, options: Any) -> None:
        super().__init__(recipe, options)
        names = {*self.measured, *(("fid",) if options.inception else ())}
        self.task = replace(self.task, metrics=tuple(m for m in self.task.metrics if m.name in names))
        unknown = sorted(self.target.keys() - names)
        require(not unknown, "--target", f"of metrics of this run, {', '.join(sorted(names))}", ", ".join(unknown))
        self._inception: Inception | None = None
        self.pools: dict[str, ImagePool] = {}
        self._pooled = 0  # pictures that this rank's pools have been given
        self._notes: Sequence[str] = ()

    # -- networks and their optimizers --------------------------------------------------------------------------------

    def networks(self) -> dict[str, nn.Module]:
        """The float32 networks with random weights."""
        raise NotImplementedError

    def build(self) -> dict[str, nn.Module]:
        """The networks on the CPU, with random initial weights or those of --init-checkpoint."""
        networks = self.networks()
        self._names = tuple(networks)
        if self.recipe.init_checkpoint is not None:
            self._notes = load_all(networks, Path(self.recipe.init_checkpoint))
        for network in networks.values():
            join_ranks(network)
        return networks

    def discriminator(self, in_channels: int) -> PatchGAN:
        """A PatchGAN for pictures of so many channels."""
        recipe = self.recipe
        return PatchGAN(
            in_channels,
            recipe.discriminator_width,
            recipe.discriminator_layers,
            norm=self.norm,
            fused=recipe.fused,
        )

    def build_optimizer(self, model: nn.Module, device: torch.device) -> torch.optim.Optimizer:
        """Adam; torch's own with --no-fused. The learning rate is a tensor on the device."""
        betas = self.recipe.beta1, self.recipe.beta2
        if not self.recipe.fused:
            return torch.optim.Adam(model.parameters(), lr=0.0, betas=betas, fused=True)
        return FusedAdam(model.parameters(), torch.zeros((), dtype=torch.float32, device=device), betas)

    def make_pools(self, device: torch.device) -> None:
        """Empty pools on the device."""
        side, size = self.recipe.image_size, self.recipe.pool_size
        self.pools = {name: ImagePool(size, (c, side, side), device) for name, c in self.pool_channels.items()}

    # -- losses -------------------------------------------------------------------------------------------------------

    def fooling_loss(self, discriminator: nn.Module, made: Tensor) -> Tensor:
        """A generator's: the discriminator must take what it has made for real."""
        return adversarial_loss(discriminator(made), True, self.recipe.adversarial_loss)

    def telling_loss(self, discriminator: nn.Module, real: Tensor, made: Tensor) -> Tensor:
        """A discriminator's: half the sum of that on real pictures and that on made ones.

        With batch norm both have statistics of their own; without, one pass does.
        """
        if self.norm == "batch":
            of_real, of_made = discriminator(real), discriminator(made)
        else:
            of_real, of_made = discriminator(torch.cat([real, made])).chunk(2)
        kind = self.recipe.adversarial_loss
        return (adversarial_loss(of_real, True, kind) + adversarial_loss(of_made, False, kind)) / 2

    def shown(self, name: str, made: Tensor, batch: GanBatch) -> Tensor:
        """What a discriminator sees for these pictures: they, or earlier ones of the pool of that name."""
        return self.pools[name].exchange(made, batch.slots, batch.kept, batch.old)

    # -- data ---------------------------------------------------------------------------------------------------------

    def open_data(self, ranks: Ranks, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """See SamplesJob."""
        data = super().open_data(ranks, device, dtype)
        if self.options.inception is not None:
            self._inception = Inception(self.options.inception, device)
        return data

    def fid(self, made: Callable[[Any], Tensor]) -> list[Fid]:
        """The meter of FID where there is an Inception file. made: of the outputs, the pictures of B."""
        return [] if self._inception is None else [Fid(self._inception, made)]

    def found(self, num_threads: int) -> tuple[Found, Found, str]:
        """The pictures to train on and to evaluate on, and where they are from."""
        raise NotImplementedError

    def data_sets(self, num_threads: int) -> DataSets:
        """See SamplesJob."""
        train, val, source = self.found(num_threads)
        few = few_pictures(min(len(val.domains.a), len(val.domains.b))) if self.options.inception else None
        notes = [*self._notes, *train.notes, *val.notes, *([few] if few else [])]
        return DataSets(train.domains, val.domains, source, train.corrupt + val.corrupt, notes)

    def open_reader(self, train: Domains, val: Domains, stream: TrainStream, place: Place) -> DomainReader:
        """Random windows to train on, whole pictures to evaluate, all of --image-size."""
        recipe = self.recipe
        view = View(recipe.load_size, recipe.image_size, recipe.flip)
        return DomainReader(train, val, stream, place, view)

    def moved(self, items: Iterable[tuple[Tensor, ...]]) -> Iterator[PictureBatch]:
        """Pictures with levels from -1 to 1."""
        return prefetch(items, self.device, self.dtype)

    def train_stream(self, num_samples: int, ranks: Ranks) -> TrainStream:
        """The order in which this rank sees the training set."""
        self._stream = super().train_stream(num_samples, ranks)
        return self._stream

    def train_batches(self, first_step: int) -> Iterator[GanBatch]:
        """This rank's part of every global batch from `first_step` on, without end."""
        read = cast(Generator[PictureBatch, None, None], super().train_batches(first_step))
        with contextlib.closing(read) as batches:
            for position, batch in zip(self._stream.positions(first_step), batches, strict=False):
                number, size = batch.num_samples, self.recipe.pool_size
                exchange = exchanges(self.recipe.seed, position, number, size, self._pooled)
                self._pooled += number
                tensors = moved(exchange, batch.a.device)
                yield GanBatch(batch.a, batch.b, *tensors, seconds=batch.seconds, span=batch.span)

    def warm_up_batch(self, ranks: Ranks, device: torch.device, dtype: torch.dtype) -> GanBatch:
        """A batch of noise in the shape of a training batch, for warm-up before the clock starts."""
        recipe = self.recipe
        number = recipe.micro_batch_size(ranks.size)
        batch = noise(number, (recipe.channels,) * 2, recipe.image_size, device, dtype)
        exchange = exchanges(recipe.seed, 0, number, recipe.pool_size, 0)
        return GanBatch(batch.a, batch.b, *moved(exchange, device))

    def first_weights(self) -> dict[str, Any]:
        """The files of --init-checkpoint, by network."""
        path = self.recipe.init_checkpoint
        if path is None:
            return {}
        return {"init_checkpoint": {name: origin(file) for name, file in files_of(Path(path), self._names).items()}}

    # -- schedule and state -------------------------------------------------------------------------------------------

    def learning_rate(self, step: int, plan: Plan) -> float:
        """Learning rate of 0-based `step`: constant, then linear to 0 at the end."""
        start = plan.step_after(self.recipe.constant_epochs)
        return polynomial_decay(
            max(0, step - start),
            base=self.recipe.learning_rate,
            end=0.0,
            power=1.0,
            warmup_steps=0,
            decay_steps=max(1, plan.total_steps - start),
        )

    def reported(self, plan: Plan) -> dict[str, Any]:
        """The optimizer under MLPerf's names; its books have no keys for this task."""
        recipe = self.recipe
        betas = {"opt_adam_beta_1": recipe.beta1, "opt_adam_beta_2": recipe.beta2}
        return {"opt_name": "adam", "opt_base_learning_rate": recipe.learning_rate, **betas}

    def state(self) -> dict[str, Any]:
        """This rank's pools."""
        return {"pooled": self._pooled, **{name: pool.pictures.cpu() for name, pool in self.pools.items()}}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        self._pooled = state["pooled"]
        for name, pool in self.pools.items():
            pool.pictures.copy_(state[name])
