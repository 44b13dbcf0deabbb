"""A small classifier that tells two domains of pictures apart, to judge translated pictures without a download.

It is trained here, on real pictures of the training side alone. It is a lenient judge: it sees pictures of 32 x 32, and
a single good picture that is made of every input is as good to it as many. So its rate stands beside the error of the
way back (`translated.py`), and beside its own rate on real pictures that were held out.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 32  # pixels of a side, of the pictures that it sees
MOST = 1000  # pictures of a domain to train it on
EPOCHS, BATCH_SIZE, LEARNING_RATE = 4, 64, 3e-3


class Rates(NamedTuple):
    """The share of real pictures of A that are called A, and of B that are called B."""

    a: float
    b: float


class DomainClassifier(nn.Module):
    """Of pictures of -1 ... 1, [N, C, H, W] of any size, a logit [N], above 0 for B."""

    def __init__(self, channels: int, width: int = 16) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((channels, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * width * (SIDE // 8) ** 2, 1))

    def forward(self, pictures: Tensor) -> Tensor:
        pictures = pictures.float()
        if pictures.shape[2:] != (SIDE, SIDE):
            pictures = F.interpolate(pictures, (SIDE, SIDE), mode="bilinear", antialias=True)
        return self.layers(pictures)[:, 0]

    def is_b(self, pictures: Tensor) -> Tensor:
        """Which of the pictures are called B: bool [N]."""
        return self(pictures) > 0

    def rates(self, a: Tensor, b: Tensor) -> Rates:
        """See Rates."""
        with torch.inference_mode():
            return Rates((~self.is_b(a)).double().mean().item(), self.is_b(b).double().mean().item())


def train_classifier(a: Tensor, b: Tensor, seed: int = 0) -> DomainClassifier:
    """A classifier trained on pictures of -1 ... 1 of two domains, [n, C, 32, 32] on the CPU, half of them mirrored.

    On one thread and from a random state of its own, so that one machine always makes the same weights.
    """
    pictures = torch.cat([a, b]).float()
    is_b = torch.cat([torch.zeros(len(a)), torch.ones(len(b))])
    # The larger domain counts as much as the smaller one.
    weights = torch.where(is_b == 1, len(pictures) / (2 * len(b)), len(pictures) / (2 * len(a)))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            classifier = DomainClassifier(pictures.shape[1])
            _fit(classifier, pictures, is_b, weights)
    finally:
        torch.set_num_threads(threads)
    return classifier.eval().requires_grad_(False)


def _fit(classifier: DomainClassifier, pictures: Tensor, is_b: Tensor, weights: Tensor) -> None:
    optimizer = torch.optim.Adam(classifier.parameters(), LEARNING_RATE, fused=True)
    starts = range(0, len(pictures), BATCH_SIZE)
    rates = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, EPOCHS * len(starts))
    for _ in range(EPOCHS):
        order = torch.randperm(len(pictures))
        for start in starts:
            rows = order[start : start + BATCH_SIZE]
            batch = pictures[rows]
            mirrored = torch.rand(len(rows)) < 0.5
            batch[mirrored] = batch[mirrored].flip(3)
            logits = classifier(batch)
            F.binary_cross_entropy_with_logits(logits, is_b[rows], weights[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
            rates.step()
