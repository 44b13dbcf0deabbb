"""Samples of anchors and regions: limits, chances, and that they follow from a picture's key alone."""

from __future__ import annotations

import torch

from airank_fast.models.balanced_samples import balanced_samples, random_order


def candidates(num_positive: int, num_negative: int, number: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """One picture's: the first are positive, the last are negative."""
    places = torch.arange(number)[None]
    return places < num_positive, places >= number - num_negative


def taken(samples, picture: int = 0) -> tuple[set[int], set[int]]:
    indices, positive, is_taken = (tensor[picture] for tensor in samples)
    return tuple(set(indices[is_taken & (positive == kind)].tolist()) for kind in (True, False))


def test_ranks_are_different_and_by_chance():
    keys = torch.tensor([0, 1, 2**32, -1, 2**62 + 12345])
    order = random_order(keys, 5000)
    assert order.min() >= 0
    assert order.max() < 2**32
    assert all(len(row.unique()) == 5000 for row in order)
    ranks = order.double() / 2**32
    assert (ranks.mean(1) - 0.5).abs().max() < 0.02  # five deviations of a mean of 5,000 are 0.02
    assert (torch.corrcoef(ranks) - torch.eye(5)).abs().max() < 0.071  # five of a correlation are 5 / sqrt(5,000)
    neighbours = torch.corrcoef(torch.stack([ranks[:, :-1].flatten(), ranks[:, 1:].flatten()]))[0, 1]
    assert abs(neighbours) < 0.032


def test_limits_are_torchvisions():
    """Of BalancedPositiveNegativeSampler(8, 0.25)."""
    for there, expected in (
        ((30, 10), (2, 6)),  # at most a quarter is positive
        ((1, 30), (1, 7)),  # others take the place of what is missing
        ((0, 30), (0, 8)),
        ((30, 3), (2, 3)),  # but no positive takes that of a negative
        ((0, 0), (0, 0)),
    ):
        positive, negative = candidates(*there)
        samples = balanced_samples(positive, negative, torch.tensor([7]), 8, 0.25)
        assert samples.indices.shape == (1, 8)
        of_kind = taken(samples)
        assert tuple(map(len, of_kind)) == expected
        assert of_kind[0] <= set(positive[0].nonzero()[:, 0].tolist())
        assert of_kind[1] <= set(negative[0].nonzero()[:, 0].tolist())
        kinds = (2 * samples.positive.int() + samples.taken.int())[0]
        assert torch.equal(kinds, kinds.sort(descending=True).values), "positives first, what is not taken last"


def test_there_may_be_fewer_candidates_than_samples():
    positive, negative = candidates(2, 3, number=5)
    samples = balanced_samples(positive, negative, torch.tensor([7]), 256, 0.5)
    assert samples.indices.shape == (1, 10)
    assert taken(samples) == ({0, 1}, {2, 3, 4})


def test_each_candidate_has_the_same_chance():
    num_pictures = 4000
    positive, negative = (each.expand(num_pictures, -1) for each in candidates(10, 20))
    samples = balanced_samples(positive, negative, torch.arange(num_pictures) * 0x12345, 8, 0.5)
    counts = torch.bincount(samples.indices[samples.taken], minlength=40)
    assert counts[10:20].sum() == 0
    for part, chance in ((counts[:10], 0.4), (counts[20:], 0.2)):
        deviation = (num_pictures * chance * (1 - chance)) ** 0.5
        assert (part - num_pictures * chance).abs().max() < 5 * deviation


def test_samples_follow_from_the_key_alone():
    positive, negative = candidates(20, 20)
    keys = torch.tensor([3, 2**40 + 3, 3])
    together = balanced_samples(positive.expand(3, -1), negative.expand(3, -1), keys, 8, 0.5)
    assert taken(together, 0) == taken(together, 2) != taken(together, 1)
    for picture, key in enumerate(keys):
        alone = balanced_samples(positive, negative, key[None], 8, 0.5)
        assert all(torch.equal(one[0], all_[picture]) for one, all_ in zip(alone, together, strict=True))
