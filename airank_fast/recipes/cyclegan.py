"""CycleGAN, translation of pictures without pairs, as a job for the engine; see cyclegan_options.py."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from airank_fast import job
from airank_fast.data.images import fashion
from airank_fast.data.images.domain_reader import PictureBatch, thumbnails
from airank_fast.data.images.domains import Domains, Found, read_pairs, read_unpaired
from airank_fast.job import Example, Networks, Ranks, Update
from airank_fast.models.cyclegan import ResNetGenerator
from airank_fast.quality.domain_classifier import MOST, SIDE, DomainClassifier, train_classifier
from airank_fast.quality.several import Several
from airank_fast.quality.translated import Translated, Translations
from airank_fast.recipes.base_job import DataSets
from airank_fast.recipes.cyclegan_options import RECIPES, Options, Recipe
from airank_fast.recipes.gan_job import GanBatch, GanJob
from airank_fast.recipes.picture_examples import side_by_side
from airank_fast.tasks.cyclegan import TASK

__all__ = ["RECIPES", "Job", "Options", "Recipe"]


class Job(GanJob):
    """CycleGAN as the engine runs it, for one resolved recipe: see airank_fast.job.Job.

    G_A makes pictures of domain B from those of A, and G_B the reverse; D_A tells real pictures of B, D_B those of A,
    as junyanz names them. A step updates both generators together, then D_A, then D_B.
    """

    task = TASK
    published = RECIPES["cityscapes"]
    norm = "instance"
    recipe: Recipe
    options: Options
    _classifier: DomainClassifier

    @property
    def has_partners(self) -> bool:
        """Whether the pictures to evaluate on are pairs."""
        return self.options.partners or (self.options.data is None and self.recipe.name == "edges")

    @property
    def measured(self) -> tuple[str, ...]:
        """See GanJob."""
        return ("translated", "to_a", "to_b", "cycle_l1", *(("l1",) if self.has_partners else ()))

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

    def found(self, num_threads: int) -> tuple[Found, Found, str]:
        """Both domains; partners to evaluate on where the run measures the error."""
        options = self.options
        root, source = options.data, str(options.data)
        if root is None:
            is_shoes = self.recipe.name != "edges"
            root = fashion.materialise_shoes() if is_shoes else fashion.materialise_unpaired_edges()
            what = "sneakers and ankle boots" if is_shoes else "edges and photographs, unpaired,"
            source = f"the embedded data set, {what} of {fashion.NAME}"
        read = partial(
            read_unpaired,
            root,
            channels=(self.recipe.channels,) * 2,
            skip_corrupt=options.skip_corrupt,
            num_threads=num_threads,
        )
        read_val = partial(read_pairs, root, **read.keywords) if self.has_partners else read
        return read("train"), read_val("val"), source

    def open_data(self, ranks: Ranks, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """See SamplesJob; the classifier that judges translations is trained on the pictures."""
        self._ranks = ranks
        data = super().open_data(ranks, device, dtype)
        self._classifier = self._classifier.to(device)
        return data

    def data_sets(self, num_threads: int) -> DataSets:
        """See SamplesJob."""
        sets = super().data_sets(num_threads)
        train, val = cast(Domains, sets.train), cast(Domains, sets.val)
        known_a, known_b, a, b = (thumbnails(each, SIDE, MOST) for each in (train.a, train.b, val.a, val.b))
        self._classifier = train_classifier(known_a, known_b)
        self._classifier.load_state_dict(self._ranks.gather_objects(self._classifier.state_dict())[0])
        self._rates = self._classifier.rates(a, b)
        line = (
            "data: the classifier that judges translations is right for {:.1%} of held-out pictures of A, {:.1%} of B"
        )
        return sets._replace(notes=[*sets.notes, line.format(*self._rates)])

    def facts(self) -> dict[str, Any]:
        """How often the classifier is right for real pictures that were held out."""
        return {"classifier": self._rates._asdict()}

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

    def predict(self, networks: Networks, batch: PictureBatch) -> Translations:
        """The translations of both domains, and the way back."""
        to_b, to_a = networks["G_A"], networks["G_B"]
        made_b, made_a = to_b(batch.a), to_a(batch.b)
        return Translations(made_b, made_a, to_a(made_b), to_b(made_a))

    def meter(self) -> Several:
        """What a classifier takes the translations for, the error of the way back, and FID with --inception."""
        return Several(
            [*self.fid(lambda outputs: outputs.made_b), Translated(self._classifier, partners=self.has_partners)]
        )

    def examples(self, outputs: Translations, batch: PictureBatch) -> list[Example]:
        """Pictures of A, the translations to B, and the way back, or true partners; then from B, with the way back."""
        from_a = [batch.a, outputs.made_b, *([batch.b] if self.has_partners else [outputs.cycled_a])]
        return [*side_by_side(from_a), *side_by_side([batch.b, outputs.made_a, outputs.cycled_b])]


def _distance(made: Tensor, picture: Tensor) -> Tensor:
    """The mean absolute difference, float32 scalar."""
    return F.l1_loss(made.float(), picture.float())


if TYPE_CHECKING:
    _checked: type[job.Job] = Job
