"""The image pool: which pictures are exchanged, and what a discriminator is shown."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from airank_fast.data.images.image_pool import ImagePool, exchanges

CPU = torch.device("cpu")


def shown(pool: ImagePool, made: torch.Tensor, exchange) -> torch.Tensor:
    return pool.exchange(made, *map(torch.from_numpy, exchange))


def numbered(first: int, number: int, dtype=torch.float32) -> torch.Tensor:
    """Pictures whose pixels are their numbers."""
    return torch.arange(first, first + number, dtype=dtype).view(-1, 1, 1, 1).expand(-1, 2, 3, 3).clone()


@pytest.mark.parametrize(("size", "batch"), [(5, 1), (5, 3), (5, 5), (4, 6), (1, 1), (0, 2)])
def test_pictures_are_exchanged_one_by_one(size, batch):
    """Against a list and a loop; the pool is filled first, and no picture is lost or shown twice by the pool."""
    pool, kept = ImagePool(size, (2, 3, 3), CPU), []
    for first in range(0, 40 * batch, batch):
        exchange = exchanges(7, first, batch, size, first)
        found = shown(pool, numbered(first, batch), exchange)
        expected = list(range(first, first + batch))
        for place, (slot, keeps, is_old) in enumerate(zip(*exchange, strict=True)):
            if slot == len(kept):
                assert (keeps, is_old) == (True, False)
                kept.append(first + place)
            elif keeps:
                assert is_old
                expected[place], kept[slot] = kept[slot], first + place
            else:
                assert not is_old
        assert found[:, 0, 0, 0].tolist() == expected
        assert pool.pictures[: len(kept), 1, 2, 2].tolist() == kept
        assert found.is_contiguous(memory_format=torch.channels_last)
    assert len(kept) == size


def test_half_of_the_pictures_are_exchanged_with_any_slot():
    found = [exchanges(3, position, 4, 10, 10**6) for position in range(0, 4000, 4)]
    assert all(len(set(slots.tolist())) == 4 for slots, _, _ in found)
    assert np.mean([old for _, _, old in found]) == pytest.approx(0.5, abs=0.03)
    used = np.bincount(np.concatenate([slots[old] for slots, _, old in found]), minlength=10)
    assert used == pytest.approx(np.full(10, 200), abs=60)


def test_what_is_exchanged_is_a_function_of_seed_and_position():
    def all_of(seed: int, position: int) -> list:
        return [part.tolist() for part in exchanges(seed, position, 8, 50, 10**6)]

    assert all_of(1, 16) == all_of(1, 16)
    assert all_of(1, 16) != all_of(2, 16)
    assert all_of(1, 16) != all_of(1, 24)


def test_sixteen_bits_come_back_as_they_were():
    pool = ImagePool(2, (2, 3, 3), CPU)
    made = torch.randn(2, 2, 3, 3).bfloat16()
    assert torch.equal(shown(pool, made, exchanges(0, 0, 2, 2, 0)), made)
    every = np.array([0, 1]), np.array([True, True]), np.array([True, True])
    found = shown(pool, torch.zeros_like(made), every)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, made)
