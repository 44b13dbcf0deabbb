"""CycleGAN, translation of pictures without pairs, as a job for the engine; see cyclegan_options.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from airank_fast import job
from airank_fast.job import Networks, Update
from airank_fast.models.cyclegan import ResNetGenerator
from airank_fast.recipes.cyclegan_options import RECIPES, Options, Recipe
from airank_fast.recipes.gan_job import GanBatch, GanJob
from airank_fast.tasks.cyclegan import TASK

__all__ = ["RECIPES", "Job", "Options", "Recipe"]


class Job(GanJob):
    """CycleGAN as the engine runs it, for one resolved recipe: see airank_fast.job.Job.

    G_A makes pictures of domain B from those of A, and G_B the reverse; D_A tells real pictures of B, D_B those of A,
    as junyanz names them. A step updates both generators together, then D_A, then D_B.
    """

    task = TASK
    norm = "instance"
    recipe: Recipe
    options: Options

    @property
    def pool_channels(self) -> dict[str, int]:
        """Made pictures of each domain."""
        return {"pool_a": self.recipe.channels, "pool_b": self.recipe.channels}

    def networks(self) -> dict[str, nn.Module]:
        """Two residual generators and two PatchGANs."""
        recipe = self.recipe
        channels = recipe.channels

        def generator() -> ResNetGenerator:
            return ResNetGenerator(
                channels, channels, recipe.width, recipe.blocks, dropout=recipe.dropout, fused=recipe.fused
            )

        return {
            "G_A": generator(),
            "G_B": generator(),
            "D_A": self.discriminator(channels),
            "D_B": self.discriminator(channels),
        }

    def updates(self, networks: Networks, device: torch.device) -> list[Update]:
        """Both generators, then each discriminator."""
        to_b, to_a, tells_b, tells_a = (networks[name] for name in ("G_A", "G_B", "D_A", "D_B"))
        recipe = self.recipe
        self.make_pools(device)

        def generators_loss(batch: GanBatch) -> Tensor:
            fake_b, same_b = self._made(to_b, batch.a, batch.b)
            fake_a, same_a = self._made(to_a, batch.b, batch.a)
            batch.fake_a, batch.fake_b = fake_a.detach(), fake_b.detach()
            cycle = _distance(to_a(fake_b), batch.a) + _distance(to_b(fake_a), batch.b)
            fooling = self.fooling_loss(tells_b, fake_b) + self.fooling_loss(tells_a, fake_a)
            loss = fooling + recipe.cycle_weight * cycle
            if same_a is None or same_b is None:
                return loss
            identity = _distance(same_a, batch.a) + _distance(same_b, batch.b)
            return loss + recipe.cycle_weight * recipe.identity_weight * identity

        def loss_of_b(batch: GanBatch) -> Tensor:
            assert batch.fake_b is not None, "the generators come first"
            return self.telling_loss(tells_b, batch.b, self.shown("pool_b", batch.fake_b, batch))

        def loss_of_a(batch: GanBatch) -> Tensor:
            assert batch.fake_a is not None, "the generators come first"
            return self.telling_loss(tells_a, batch.a, self.shown("pool_a", batch.fake_a, batch))

        generators = nn.ModuleList([to_b, to_a])
        return [
            Update(generators, self.build_optimizer(generators, device), generators_loss, "G"),
            Update(tells_b, self.build_optimizer(tells_b, device), loss_of_b, "D_A"),
            Update(tells_a, self.build_optimizer(tells_a, device), loss_of_a, "D_B"),
        ]

    def _made(self, generator: nn.Module, source: Tensor, own: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the generator makes of `source`, and of pictures of its own domain where the identity loss needs it.

        In one pass: with instance norm a picture does not depend on others of its batch.
        """
        if self.recipe.identity_weight == 0:
            return generator(source), None
        made, same = generator(torch.cat([source, own])).chunk(2)
        return made, same


def _distance(made: Tensor, picture: Tensor) -> Tensor:
    """The mean absolute difference, float32 scalar."""
    return F.l1_loss(made.float(), picture.float())


if TYPE_CHECKING:
    _checked: type[job.Job] = Job
