"""pix2pix, translation of pictures with pairs to learn from, as a job for the engine; see pix2pix_options.py."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from airank_fast import job
from airank_fast.data.images import fashion
from airank_fast.data.images.domain_reader import PictureBatch
from airank_fast.data.images.domains import Found, read_pairs
from airank_fast.job import Example, Networks, Update
from airank_fast.models.gan_layers import own_statistics
from airank_fast.models.pix2pix import UNet
from airank_fast.quality.picture_error import PictureError
from airank_fast.quality.several import Several
from airank_fast.recipes.gan_job import GanBatch, GanJob
from airank_fast.recipes.picture_examples import side_by_side
from airank_fast.recipes.pix2pix_options import RECIPES, Options, Recipe
from airank_fast.tasks.pix2pix import TASK

__all__ = ["RECIPES", "Job", "Options", "Recipe"]


class Job(GanJob):
    """pix2pix as the engine runs it, for one resolved recipe: see airank_fast.job.Job.

    A step updates the generator G, then the discriminator D on the pictures that G has made for its own update; junyanz
    updates D first.
    """

    task = TASK
    published = RECIPES["cityscapes"]
    norm = "batch"
    measured = ("l1",)
    recipe: Recipe
    options: Options

    @property
    def pool_channels(self) -> dict[str, int]:
        """Both pictures of a pair, the second one made."""
        return {"pool": 2 * self.recipe.channels}

    def networks(self) -> dict[str, nn.Module]:
        """The U-Net G and the PatchGAN D over both pictures."""
        recipe = self.recipe
        channels = recipe.channels
        generator = UNet(channels, channels, recipe.width, recipe.levels, dropout=recipe.dropout, fused=recipe.fused)
        return {"G": generator, "D": self.discriminator(2 * channels)}

    def found(self, num_threads: int) -> tuple[Found, Found, str]:
        """Pairs, read in --direction."""
        options = self.options
        root, source = options.data, str(options.data)
        if root is None:
            root, source = fashion.materialise_pairs(), f"the embedded data set, edges of {fashion.NAME}"
        read = partial(
            read_pairs,
            root,
            direction=options.direction,
            channels=(self.recipe.channels,) * 2,
            skip_corrupt=options.skip_corrupt,
            num_threads=num_threads,
        )
        return read("train"), read("val"), source

    def updates(self, networks: Networks, device: torch.device) -> list[Update]:
        """G, then D."""
        generator, discriminator = networks["G"], networks["D"]
        self.make_pools(device)

        def generator_loss(batch: GanBatch) -> Tensor:
            made = generator(batch.a)
            batch.fake_b = made.detach()
            difference = F.l1_loss(made.float(), batch.b.float())
            fooling = self.fooling_loss(discriminator, torch.cat([batch.a, made], 1))
            return fooling + self.recipe.l1_weight * difference

        def discriminator_loss(batch: GanBatch) -> Tensor:
            assert batch.fake_b is not None, "G comes first"
            made = self.shown("pool", torch.cat([batch.a, batch.fake_b], 1), batch)
            return self.telling_loss(discriminator, torch.cat([batch.a, batch.b], 1), made)

        return [
            Update(generator, self.build_optimizer(generator, device), generator_loss, "G"),
            Update(discriminator, self.build_optimizer(discriminator, device), discriminator_loss, "D"),
        ]

    def predict(self, networks: Networks, batch: PictureBatch) -> Tensor:
        """The pictures made of `a`, [b, C, S, S] from -1 to 1, without dropout."""
        generator = networks["G"]
        if self.recipe.eval_statistics == "running":
            return generator(batch.a)
        with own_statistics(generator):
            return torch.cat([generator(picture) for picture in batch.a.split(1)])

    def meter(self) -> Several:
        """The error against true partners, and FID with --inception."""
        return Several([*self.fid(lambda made: made), PictureError()])

    def examples(self, outputs: Tensor, batch: PictureBatch) -> list[Example]:
        """Pictures, what is made of them, and their true partners."""
        return side_by_side([batch.a, outputs, batch.b])


if TYPE_CHECKING:
    _checked: type[job.Job] = Job
