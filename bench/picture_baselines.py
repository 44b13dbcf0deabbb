"""What simple methods reach on the embedded pictures, by the metrics and beside the targets of pix2pix and CycleGAN.

    python bench/picture_baselines.py [--save]

Each makes pictures of the evaluation set with what the training set has: a copy of the input, one picture for all, the
mean and the median picture, the training picture whose partner, or which itself, is nearest to the input. Without pairs
the partners of training photographs are made here, as the data set's were, which CycleGAN cannot do.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from types import SimpleNamespace

import harness
import numpy as np
import torch
from torch import Tensor

from airank_fast.data.images import fashion
from airank_fast.engine.distributed import World
from airank_fast.job import Meter
from airank_fast.quality.domain_classifier import train_classifier
from airank_fast.quality.picture_error import PictureError
from airank_fast.quality.translated import Translated, Translations
from airank_fast.recipes import cyclegan_options, pix2pix_options

ALONE = World(0, 1, 0, 1, torch.device("cpu"))
Sides = dict[str, tuple[Tensor, Tensor]]


def scaled(sides: dict[str, tuple[np.ndarray, np.ndarray]]) -> Sides:
    """Pictures as networks see them: [n, 1, 32, 32] of -1 ... 1."""
    return {side: tuple(torch.from_numpy(each)[:, None] / 127.5 - 1 for each in pair) for side, pair in sides.items()}


def nearest(pictures: Tensor, known: Tensor) -> Tensor:
    """The number of the known picture with the smallest squared difference from each: int64 [n]."""
    return torch.cdist(pictures.flatten(1), known.flatten(1)).argmin(1)


def quality(meter: Meter, outputs: object, a: Tensor, b: Tensor) -> dict[str, float]:
    """The values of a meter for one batch of all pictures."""
    with torch.inference_mode():
        meter.update(outputs, SimpleNamespace(a=a, b=b, counts=torch.ones(len(a), 2, dtype=torch.bool)))
        return meter.values(ALONE)


def of_pairs(sides: Sides) -> Iterator[tuple[str, dict[str, float]]]:
    """(method, values) of a translation to true partners."""
    (known_a, known_b), (a, b) = sides["train"], sides["val"]
    made = {
        "a black picture": torch.full_like(b, -1),
        "the input itself": a,
        "the mean picture of the training set": known_b.mean(0).expand_as(b),
        "the median picture of the training set": known_b.median(0).values.expand_as(b),
        "the training picture whose input is nearest": known_b[nearest(a, known_a)],
    }
    for method, pictures in made.items():
        yield method, quality(PictureError(), pictures, a, b)


def of_domains(sides: Sides) -> Iterator[tuple[str, dict[str, float]]]:
    """(method, values) of an unpaired translation."""
    (known_a, known_b), (a, b) = sides["train"], sides["val"]
    made_b, made_a = known_b[nearest(a, known_b)], known_a[nearest(b, known_a)]
    ways = {
        "real pictures of the other domain, held out": Translations(b, a, a, b),
        "the input itself": Translations(a, b, a, b),
        "one training picture for all": Translations(
            *(known[:1].expand_as(a) for known in (known_b, known_a, known_a, known_b))
        ),
        "the nearest training picture": Translations(
            made_b, made_a, known_a[nearest(made_b, known_a)], known_b[nearest(made_a, known_b)]
        ),
    }
    classifier = train_classifier(known_a, known_b)
    for method, translations in ways.items():
        values = quality(Translated(classifier), translations, a, b)
        yield method, {name: values[name] for name in ("to_a", "to_b", "cycle_l1")}


def cases() -> Iterator[tuple[str, str, dict[str, float], dict[str, float]]]:
    """Data set, method, values, the recipe's target."""
    pairs, shoes = scaled(fashion.pairs()), scaled(fashion.shoes())
    edges = pix2pix_options.RECIPES["edges"].target or {}
    for method, values in of_pairs(pairs):
        yield "edges to photographs, in pairs", method, values, edges
    unpaired, target = fashion.unpaired_edges(), cyclegan_options.RECIPES["edges"].target or {}
    _, photographs = unpaired["train"]
    for method, values in of_pairs(scaled({**unpaired, "train": (fashion.edges(photographs), photographs)})):
        yield "edges to photographs, unpaired", method, values, target
    shoe_target = cyclegan_options.RECIPES["shoes"].target or {}
    for method, values in of_domains(shoes):
        yield "sneakers and ankle boots, unpaired", method, values, shoe_target


def main() -> None:
    """Compute, print; save on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="append to bench/results/picture_baselines.jsonl")
    arguments = parser.parse_args()
    for data_set, method, values, target in cases():
        print(f"{data_set}, {method}: {values}; target {target}")
        if arguments.save:
            facts = {"data_set": data_set, "method": method, "values": values, "target": target}
            harness.append("picture_baselines", f"{data_set}, {method}", **facts)


if __name__ == "__main__":
    main()
