"""Batches of tokens without padding: how they are laid out, dealt over ranks and micro-batches, and masked."""

from __future__ import annotations

import threading
import time
from itertools import islice

import numpy as np
import pytest
import torch

from airank_fast.data.sampling import TrainStream
from airank_fast.data.text import pydoc
from airank_fast.data.text.samples import Samples
from airank_fast.data.text.tokens import BlockReader, Fill, MicroBatch, collate, deal, prefetch, shares
from airank_fast.errors import UserError


def samples(*lengths: int) -> Samples:
    """Sample i has tokens 100 i, 100 i + 1, ...; its last token is masked."""
    lengths = np.array(lengths)
    offsets = np.concatenate([[0], lengths.cumsum()])
    ids = np.concatenate([100 * i + np.arange(length) for i, length in enumerate(lengths)]).astype(np.int32)
    ones = np.arange(len(lengths) + 1)
    return Samples(
        ids,
        (ids % 2).astype(np.int8),
        offsets,
        (lengths - 1).astype(np.int32),
        ids[offsets[1:] - 1],
        ones,
        (np.arange(len(lengths)) % 2).astype(np.int8),
    )


def test_a_batch_is_the_samples_one_behind_the_other_short_ones_first():
    batch = collate(samples(4, 2, 3), "cpu")
    assert batch.lengths == [2, 3, 4]
    assert batch.input_ids.tolist() == [100, 101, 200, 201, 202, 0, 1, 2, 3]
    assert batch.position_ids.tolist() == [0, 1, 0, 1, 2, 0, 1, 2, 3]
    assert batch.token_type_ids.tolist() == [i % 2 for i in batch.input_ids.tolist()]
    assert batch.labels.tolist() == batch.input_ids[batch.masked_positions].tolist() == [101, 202, 3]
    assert batch.next_sentence_label.tolist() == [1, 0, 0]
    assert batch.offsets.tolist() == [0, 2, 5, 9]
    tensors = {name: value for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}
    assert tensors.pop("weight").dtype == torch.float32
    assert {tensor.dtype for tensor in tensors.values()} == {torch.int64}


@pytest.mark.parametrize("num_parts", [1, 2, 8])
def test_parts_get_as_many_samples_and_nearly_as_many_tokens(num_parts):
    lengths = np.random.default_rng(0).integers(5, 513, 64)
    parts = deal(lengths, num_parts)
    assert sorted(np.concatenate(parts)) == list(range(64))
    assert {len(part) for part in parts} == {64 // num_parts}
    tokens = [lengths[part].sum() for part in parts]
    assert max(tokens) - min(tokens) <= lengths.max()
    assert all((np.diff(lengths[part]) >= 0).all() for part in parts)


def wikipedia_lengths(num: int, seed: int) -> np.ndarray:
    """Lengths as in bench/bert.py: a tenth is full, the others are uniform from 5 to 511."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(num) < 0.1, 512, rng.integers(5, 512, num))


def test_no_rank_has_much_more_to_do_than_the_others():
    """Most tokens of a rank over the mean of 8 ranks of 56 samples: the slowest rank determines the step."""

    def busiest(balance: bool) -> float:
        excess = []
        for seed in range(50):
            lengths = wikipedia_lengths(448, seed)
            tokens = np.array([lengths[rows].sum() for rows in shares(lengths, 8, balance=balance)])
            excess.append(tokens.max() / tokens.mean())
        return float(np.mean(excess))

    assert 1.08 < busiest(balance=False) < 1.13
    assert busiest(balance=True) < 1.005


def test_a_micro_batch_weighs_what_its_masked_tokens_are_of_the_steps():
    parts = [MicroBatch(samples(10, 12, 3), 2.0), MicroBatch(samples(2), 2.0)]
    batches = list(prefetch(iter(parts), "cpu"))
    assert [(batch.lengths, batch.weight.item()) for batch in batches] == [([3, 10, 12], 1.5), ([2], 0.5)]
    assert collate(samples(4, 2), "cpu").weight == 1


def test_batches_are_filled_up_to_a_few_shapes():
    fill = Fill(tokens=16, masked=4)
    for lengths in ((4, 2, 9), (16, 12, 3, 1), (16, 16)):
        plain, full = collate(samples(*lengths), "cpu"), collate(samples(*lengths), "cpu", fill)
        num, extra = len(lengths), len(full.input_ids) - sum(lengths)
        assert 1 <= extra <= 16
        assert full.lengths == [*plain.lengths, extra]
        assert full.offsets.tolist() == [0, *np.cumsum(full.lengths)]
        assert (len(full.input_ids) % 16, len(full.labels) % 4, full.longest) == (0, 0, 16)
        assert full.labels[num:].tolist() == [-100] * (len(full.labels) - num)
        assert full.next_sentence_label.tolist() == [*plain.next_sentence_label.tolist(), -100]
        assert full.position_ids.max() < 16
        for name in ("input_ids", "token_type_ids", "position_ids", "masked_positions", "labels"):
            assert torch.equal(getattr(full, name)[: len(getattr(plain, name))], getattr(plain, name))
    shapes = {collate(samples(*lengths), "cpu", fill).shape_key() for lengths in ((4, 2, 9), (5, 1, 9))}
    assert len(shapes) == 1


def test_batches_are_laid_out_before_they_are_requested():
    made, closed = [], []

    def source():
        try:
            for number in range(6):
                made.append(number)
                yield samples(number + 2)
            raise UserError("data: broken")
        finally:
            closed.append(threading.current_thread() is threading.main_thread())

    batches = prefetch(source(), "cpu")
    assert not made
    assert next(batches).lengths == [2]
    deadline = time.monotonic() + 60
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert made == [0, 1, 2]
    batches.close()
    assert closed
    batches = prefetch(source(), "cpu")
    assert [batch.lengths for batch in islice(batches, 6)] == [[number + 2] for number in range(6)]
    with pytest.raises(UserError, match="data: broken"):
        next(batches)


def reader(rank=0, world_size=1, micro_batches=1, seed=1, **blocks) -> BlockReader:
    tokens = (5 + np.arange(2000) % 600).astype(np.uint16)
    train, held_out = (pydoc.Blocks(part, 22, seed=seed, **blocks) for part in (tokens[:1500], tokens[1500:]))
    stream = TrainStream(
        len(train.lengths),
        seed,
        batch_size_local=8 // world_size // micro_batches,
        global_batch_size=8,
        rank=rank,
        world_size=world_size,
    )
    return BlockReader(train, held_out, stream, rank=rank, world_size=world_size, eval_batch_size=4)


def rows(batches) -> list[tuple]:
    """Each sample of some batches as (tokens, positions, originals)."""
    found = []
    for item in batches:
        batch = item.samples if isinstance(item, MicroBatch) else item
        ids, positions, originals = (
            array.reshape(len(batch.token_offsets) - 1, -1)
            for array in (batch.input_ids, batch.masked_lm_positions, batch.masked_lm_ids)
        )
        found += [tuple(map(tuple, sample)) for sample in zip(ids, positions, originals, strict=True)]
    return found


def test_ranks_and_micro_batches_change_no_sample():
    whole = rows(islice(reader().train(), 12))
    shared = [rows(islice(reader(rank, 2, 2).train(), 24)) for rank in (0, 1)]
    assert sorted(shared[0] + shared[1]) == sorted(whole)
    assert rows(islice(reader().train(3), 9)) == whole[24:]
    assert rows(islice(reader(seed=2).train(), 12)) != whole
    held_out = rows(reader().evaluate())
    assert rows(reader(0, 2).evaluate()) + rows(reader(1, 2).evaluate()) == held_out
    assert len(held_out) == 25


def test_masks_are_berts():
    source = pydoc.Blocks(np.full(20 * 400, 700, np.uint16), 22, seed=0, mask_rate=0.15)
    taken = source.take(np.zeros(4000, np.int64), np.arange(4000))
    shown = taken.input_ids.reshape(4000, 22)
    assert (shown[:, 0] == 2).all()
    assert (shown[:, -1] == 3).all()
    positions = taken.masked_lm_positions.reshape(4000, 3)
    assert (np.diff(positions) > 0).all()
    assert positions.min() == 1
    assert positions.max() == 20
    assert (taken.masked_lm_ids == 700).all()
    seen = shown[np.arange(4000)[:, None], positions]
    assert np.mean(seen == 4) == pytest.approx(0.8, abs=0.02)
    assert np.mean(seen == 700) == pytest.approx(0.1, abs=0.02)
    assert seen.min() >= 4
    assert len(np.unique(seen)) > 500


def test_too_short_a_text():
    with pytest.raises(UserError, match="a sequence length of at most 12, got 22"):
        pydoc.Blocks(np.zeros(10, np.uint16), 22, seed=0)


def test_what_fills_up_a_batch_is_no_sample():
    assert collate(samples(4, 2, 9), "cpu").num_samples == 3
    assert collate(samples(4, 2, 9), "cpu", Fill(tokens=16, masked=4)).num_samples == 3
