"""Normalisation, layout, and the facts of a batch."""

import pytest
import torch

from airank_fast.data.images import ImageBatch, Normalise, prefetch
from airank_fast.data.prefetch import prefetch as any_prefetch

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("num", "size"), [(1, 1), (5, 32), (3, 97), (2, 224), (0, 32)])
def test_normalised_and_rounded_once(dtype, num, size):
    pictures = torch.randint(
        0, 256, (num, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    images = Normalise(MEAN, STD, dtype, torch.device("cpu"))(pictures)
    exact = (pictures.double() / 255 - torch.tensor(MEAN).double()) / torch.tensor(STD).double()
    assert images.shape == (num, 3, size, size)
    assert images.dtype == dtype
    assert images.is_contiguous(memory_format=torch.channels_last)
    # Half a unit in the last place of the dtype, and fp32's own rounding before that.
    error = (images.permute(0, 2, 3, 1).double() - exact).abs()
    assert (error <= exact.abs() * torch.finfo(dtype).eps / 2 + 2e-6).all()


def test_batches_pass_in_order_with_their_times():
    source = [(torch.full((2, 4, 4, 3), i, dtype=torch.uint8), torch.tensor([i, i])) for i in range(3)]
    batches = list(prefetch(source, "cpu", torch.float32, (0, 0, 0), (1, 1, 1)))
    assert [b.labels.tolist() for b in batches] == [[0, 0], [1, 1], [2, 2]]
    assert [round(b.images.mean().item() * 255, 3) for b in batches] == [0, 1, 2]
    assert all(b.h2d_s() >= 0 for b in batches)


def test_closing_closes_the_source_and_errors_come_through():
    closed = []

    def source():
        try:
            yield torch.zeros(1, 2, 2, 3, dtype=torch.uint8), torch.zeros(1)
            raise KeyError("reader")
        finally:
            closed.append(True)

    batches = prefetch(source(), "cpu", torch.float32, MEAN, STD)
    next(batches)
    batches.close()
    assert closed == [True]
    batches = prefetch(source(), "cpu", torch.float32, MEAN, STD)
    next(batches)
    with pytest.raises(KeyError, match="reader"):
        next(batches)


@pytest.mark.gpu
def test_on_the_device_one_batch_ahead():
    source = [(torch.full((8, 64, 64, 3), i, dtype=torch.uint8), torch.full((8,), i)) for i in range(20)]
    for i, batch in enumerate(prefetch(source, "cuda", torch.bfloat16, (0, 0, 0), (1 / 255,) * 3)):
        assert batch.images.is_cuda
        assert (batch.images == i).all()
        assert (batch.labels == i).all()
        assert batch.h2d_s() > 0


def test_a_batch_counts_its_samples_and_names_its_tensors():
    batch = ImageBatch(torch.zeros(3, 3, 8, 8), torch.zeros(3, dtype=torch.int64))
    assert (batch.num_samples, batch.units, batch.weight) == (3, 3, 1.0)
    assert batch.tensors().keys() == {"images", "labels"}


def test_any_items_are_moved_and_laid_out_in_order():
    """With and without work for a thread; items are laid out before they are moved."""

    def move(item):
        return ImageBatch(torch.full((1, 3, 2, 2), float(item)), torch.tensor([item]))

    plain = [batch.labels.item() for batch in any_prefetch(range(5), "cpu", move)]
    doubled = [batch.labels.item() for batch in any_prefetch(range(5), "cpu", move, lambda item: 2 * item)]
    assert (plain, doubled) == ([0, 1, 2, 3, 4], [0, 2, 4, 6, 8])
