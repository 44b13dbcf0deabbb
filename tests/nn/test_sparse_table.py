"""SparseTable and SparseTableBag in place of torch.nn.Embedding and EmbeddingBag."""

from __future__ import annotations

import pytest
import torch
from ranks import on_two_ranks
from torch import nn

from airank_fast.errors import UserError
from airank_fast.nn import SparseTable, SparseTableBag
from airank_fast.optim import SparseAdam


def pair(ours, torchs, *arguments, **options):
    """Both modules with the same weights."""
    torch.manual_seed(0)
    made = ours(*arguments, **options)
    other = torchs(*arguments, sparse=True, **options)
    other.load_state_dict(made.state_dict())
    return made, other


def test_the_first_weights_and_the_state_dict_are_torchs():
    for ours, torchs in ((SparseTable, nn.Embedding), (SparseTableBag, nn.EmbeddingBag)):
        made = []
        for kind in (ours, torchs):
            torch.manual_seed(3)
            made.append(kind(20, 4, padding_idx=2).state_dict())
        assert list(made[0]) == list(made[1])
        assert torch.equal(made[0]["weight"], made[1]["weight"])
    assert list(SparseTable(5, 2, slot_sizes=(2, 3)).state_dict()) == ["weight"]


@pytest.mark.parametrize("padding_idx", [None, 1, -1])
def test_training_is_torchs(padding_idx):
    ours, theirs = pair(SparseTable, nn.Embedding, 30, 6, padding_idx, dtype=torch.float64)
    optimizers = SparseAdam(ours.parameters(), 0.1), torch.optim.SparseAdam(theirs.parameters(), 0.1)
    for seed in range(5):
        ids = torch.randint(30, (9, 4), generator=torch.Generator().manual_seed(seed))
        for module, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            module(ids).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight)


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("include_last_offset", [False, True])
def test_bags_train_as_torchs(mode, include_last_offset):
    options = {"mode": mode, "include_last_offset": include_last_offset, "padding_idx": 3, "dtype": torch.float64}
    ours, theirs = pair(SparseTableBag, nn.EmbeddingBag, 30, 6, **options)
    ids, offsets = torch.randint(30, (40,)), torch.tensor([0, 3, 3, 17, 40][: 4 + include_last_offset])
    for inputs in ((ids, offsets), (ids.view(8, 5),)):
        gradients = []
        for module in (ours, theirs):
            module.zero_grad()
            result = module(*inputs)
            result.square().sum().backward()
            gradients.append((result.detach(), module.weight.grad.coalesce().to_dense()))
        torch.testing.assert_close(*gradients)


def test_slots_share_the_table():
    sizes = (3, 5, 2)
    table = SparseTable(10, 4, slot_sizes=sizes)
    apart = [nn.Embedding(size, 4, _weight=part) for size, part in zip(sizes, table.weight.split(sizes), strict=True)]
    ids = torch.stack([torch.randint(size, (20,)) for size in sizes], 1)
    expected = torch.stack([one(ids[:, slot]) for slot, one in enumerate(apart)], 1)
    assert torch.equal(table(ids), expected)
    with pytest.raises(RuntimeError, match=r"^sparse_table_lookup: ids\[0, 2\] must be in \[0, 2\), got 2$"):
        table(torch.tensor([[0, 0, 2]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slot_sizes": (3, 6)}, "slot_sizes must be sizes >= 0 with the sum 10, the number of rows, got a sum of 9"),
        ({"slot_sizes": (12, -2)}, "slot_sizes must be sizes >= 0 with the sum 10, the number of rows, got (12, -2)"),
        ({"slot_sizes": (4, 6), "padding_idx": 0}, "padding_idx must be None with slot_sizes, got 0"),
        ({"slot_sizes": (4, 6), "max_norm": 1.0}, "max_norm must be None with slot_sizes, got 1.0"),
        ({"slot_sizes": (4, 6), "sparse": False}, "sparse must be True with slot_sizes, got False"),
    ],
)
def test_slots_that_do_not_fit_are_refused(options, message):
    with pytest.raises(UserError) as caught:
        SparseTable(10, 4, **options)
    assert str(caught.value) == "SparseTable: " + message


def test_what_the_op_does_not_do_is_torchs():
    ids = torch.randint(30, (8, 5))
    for options in ({"max_norm": 0.5}, {"sparse": False}):
        torch.manual_seed(0)
        ours = SparseTable(30, 6, **options)
        torchs = nn.Embedding(30, 6, _weight=ours.weight.detach().clone(), **({"sparse": True} | options))
        assert torch.equal(ours(ids), torchs(ids))
        ours(ids).sum().backward()
        assert ours.weight.grad.is_sparse == torchs.sparse
    for options, weights in (({"mode": "max", "sparse": False}, None), ({"mode": "sum"}, torch.rand(8, 5))):
        bag = SparseTableBag(30, 6, **options)
        torchs = nn.EmbeddingBag(30, 6, _weight=bag.weight.detach().clone(), **options)
        assert torch.equal(bag(ids, per_sample_weights=weights), torchs(ids, per_sample_weights=weights))


def test_from_pretrained_keeps_the_class():
    table = SparseTable.from_pretrained(torch.randn(4, 3), freeze=False, sparse=True)
    assert isinstance(table, SparseTable)
    table(torch.tensor([1, 1])).sum().backward()
    assert table.weight.grad.to_dense()[1].tolist() == [2.0, 2.0, 2.0]


def test_a_traced_network_keeps_the_module():
    traced = torch.fx.symbolic_trace(nn.Sequential(SparseTable(10, 4), nn.Linear(4, 2)))
    assert [node.op for node in traced.graph.nodes] == ["placeholder", "call_module", "call_module", "output"]


def trained(module, wrapped, batches):
    """Ten steps of lazy Adam, each on the mean over `batches(step)`."""
    optimizer = SparseAdam(module.parameters(), lr=0.1)
    for step in range(10):
        optimizer.zero_grad()
        wrapped(batches(step)).square().mean().backward()
        optimizer.step()
    return module.weight.detach()


def ids_of(step):
    return torch.randint(10, (8, 2), generator=torch.Generator().manual_seed(step))


def one_rank(rank: int) -> tuple:
    torch.manual_seed(rank)  # DistributedDataParallel sends rank 0's weights
    module = SparseTable(20, 3, slot_sizes=(10, 10), dtype=torch.float64)
    wrapped = nn.parallel.DistributedDataParallel(module, gradient_as_bucket_view=True)
    weight = trained(module, wrapped, lambda step: ids_of(step)[rank::2]).clone()
    wrapped(ids_of(0)).sum().backward()
    return weight, str(module.weight.grad.layout)


def test_ranks_exchange_touched_rows():
    (weight, layout), other = on_two_ranks(one_rank)
    assert layout == other[1] == "torch.sparse_coo"
    assert torch.equal(weight, other[0])
    torch.manual_seed(0)
    module = SparseTable(20, 3, slot_sizes=(10, 10), dtype=torch.float64)
    expected = trained(module, module, ids_of)
    torch.testing.assert_close(weight, expected)
