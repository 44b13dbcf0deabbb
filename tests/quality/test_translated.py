"""The classifier of two domains, and what it and the way back say of good, lazy and collapsed generators."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from airank_fast.data.images import fashion
from airank_fast.engine.distributed import World
from airank_fast.errors import UserError
from airank_fast.models.cyclegan import ResNetGenerator
from airank_fast.quality.domain_classifier import DomainClassifier, train_classifier
from airank_fast.quality.translated import Translated, Translations
from airank_fast.recipes.cyclegan_options import RECIPES
from airank_fast.tasks.cyclegan import TASK

ALONE = World(0, 1, 0, 1, torch.device("cpu"))


def scaled(pictures):
    return torch.from_numpy(pictures)[:, None].float() / 127.5 - 1


@pytest.fixture(scope="module")
def shoes():
    return {side: tuple(map(scaled, domains)) for side, domains in fashion.shoes().items()}


@pytest.fixture(scope="module")
def classifier(shoes):
    return train_classifier(*shoes["train"])


def batch_of(a, b, counts=None):
    return SimpleNamespace(a=a, b=b, counts=torch.ones(len(a), 2, dtype=torch.bool) if counts is None else counts)


def values(classifier, outputs, batch, **options):
    meter = Translated(classifier, **options)
    meter.update(outputs, batch)
    return meter.values(ALONE)


def test_it_tells_held_out_pictures_apart(classifier, shoes):
    rates = classifier.rates(*shoes["val"])
    assert min(rates) > 0.88


def test_it_is_the_same_each_time_and_leaves_the_random_state_alone(shoes):
    a, b = (domain[:40] for domain in shoes["train"])
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    first, second = (train_classifier(a, b, seed=3).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    other = train_classifier(a, b, seed=4).state_dict()
    assert not torch.equal(first["layers.0.weight"], other["layers.0.weight"])


def test_a_smaller_domain_counts_as_much():
    """Of pictures that cannot be told apart neither domain is called by its number."""
    rng = torch.Generator().manual_seed(0)
    noise = torch.rand(220, 1, 32, 32, generator=rng).mul(2).sub(1)
    classifier = train_classifier(noise[:20], noise[20:])
    with torch.inference_mode():
        fresh = classifier(torch.rand(50, 1, 32, 32, generator=rng).mul(2).sub(1)).sigmoid()
    assert 0.1 < fresh.mean() < 0.9


def test_pictures_of_any_size_are_judged(classifier, shoes):
    a, b = (domain[:50] for domain in shoes["val"])
    large = [torch.nn.functional.interpolate(domain, (96, 64), mode="bilinear") for domain in (a, b)]
    rates = classifier.rates(a, b), classifier.rates(*large)
    assert rates[1] == pytest.approx(rates[0], abs=0.1)


class Brightness(DomainClassifier):
    """Calls bright pictures B."""

    def __init__(self):
        super().__init__(1)

    def forward(self, pictures):
        return pictures.mean((1, 2, 3))


def test_the_values_are_rates_and_errors_of_the_pictures_that_count():
    dark, bright = torch.full((4, 1, 32, 32), -0.2), torch.full((4, 1, 32, 32), 0.2)
    made_b = torch.cat([bright[:3], dark[:1]])
    counts = torch.tensor([[True, True], [True, True], [True, False], [False, False]])
    outputs = Translations(made_b, dark, dark + 0.2, bright)
    found = values(Brightness(), outputs, batch_of(dark, bright, counts))
    assert found == {
        "translated": 1.0,
        "to_a": 1.0,
        "to_b": 1.0,
        "cycle_l1": pytest.approx(3 / 5 * 0.1, abs=1 / 255),
    }
    outputs = Translations(made_b.flip(0), bright, dark, bright)
    found = values(Brightness(), outputs, batch_of(dark, bright, counts))
    assert (found["to_b"], found["to_a"], found["cycle_l1"]) == (pytest.approx(2 / 3), 0, 0)
    assert found["translated"] == 0.4


def test_true_partners_have_an_error():
    dark, bright = torch.full((2, 1, 32, 32), -1.0), torch.full((2, 1, 32, 32), 1.0)
    found = values(Brightness(), Translations(dark, dark, dark, bright), batch_of(dark, bright), partners=True)
    assert found["l1"] == 1
    assert "l1" not in values(Brightness(), Translations(dark, dark, dark, bright), batch_of(dark, bright))


def test_no_picture_of_a_domain():
    dark = torch.zeros(2, 1, 32, 32)
    counts = torch.tensor([[True, False]] * 2)
    with pytest.raises(UserError, match="must be one with a picture of each domain, got 2 and 0"):
        values(Brightness(), Translations(dark, dark, dark, dark), batch_of(dark, dark, counts))


@pytest.mark.parametrize("kind", ["collapsed", "idle", "untrained", "nearest"])
def test_generators_that_do_not_translate_miss_the_target(kind, classifier, shoes):
    """A collapsed one makes one good boot of every sneaker, an idle one copies, a third takes the nearest real picture.

    Only the way back shows that the first has collapsed.
    """
    (known_a, known_b), (a, b) = shoes["train"], (domain[:60] for domain in shoes["val"])
    if kind == "collapsed":
        one_a, one_b = known_a[:1].expand_as(a), known_b[:1].expand_as(b)
        outputs = Translations(one_b, one_a, one_a, one_b)
    elif kind == "idle":
        outputs = Translations(a, b, a, b)
    elif kind == "untrained":
        torch.manual_seed(0)
        recipe = RECIPES["shoes"]
        to_b, to_a = (ResNetGenerator(1, 1, recipe.width, recipe.blocks).eval() for _ in range(2))
        with torch.inference_mode():
            made_b, made_a = to_b(a), to_a(b)
            outputs = Translations(made_b, made_a, to_a(made_b), to_b(made_a))
    else:
        made_b, made_a = nearest(a, known_b), nearest(b, known_a)
        outputs = Translations(made_b, made_a, nearest(made_b, known_a), nearest(made_a, known_b))
    found = values(classifier, outputs, batch_of(a, b))
    target = RECIPES["shoes"].target
    assert target
    missed = {name for name, value in target.items() if not TASK.metric(name).reaches(found[name], value)}
    assert missed >= {"idle": {"to_a", "to_b"}, "nearest": {"to_a", "to_b"}}.get(kind, {"cycle_l1"})
    assert (found["to_a"], found["to_b"]) == (1, 1) or kind != "collapsed"


def nearest(pictures, known):
    return known[torch.cdist(pictures.flatten(1), known.flatten(1)).argmin(1)]


def test_held_out_pictures_of_the_other_domain_reach_it(classifier, shoes):
    a, b = shoes["val"]
    found = values(classifier, Translations(b, a, a, b), batch_of(a, b))
    assert TASK.reached(found, RECIPES["shoes"].target)
    assert found["translated"] > 0.92
