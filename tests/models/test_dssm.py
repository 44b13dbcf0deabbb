"""DSSM's towers against their formula in float64; a new network is a lexical match."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from airank_fast.models.dssm import DSSM


def bags(lengths, num_buckets=500, seed=0):
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    ids = torch.randint(num_buckets, (int(offsets[-1]),), generator=generator)
    return ids, torch.rand(len(ids), generator=generator), offsets


def expected(tower, given):
    """The tower's vectors, in float64 and one text at a time."""
    ids, weights, offsets = given
    out = []
    for start, stop in pairwise(offsets.tolist()):
        bag = (tower.table.weight.double()[ids[start:stop]] * weights[start:stop, None].double()).sum(0)
        hidden = torch.tanh(bag + tower.bias.double())
        for layer in tower.layers[:-1]:
            hidden = torch.tanh(layer.weight.double() @ hidden + layer.bias.double())
        vector = bag + tower.layers[-1].weight.double() @ hidden + tower.layers[-1].bias.double()
        out.append(vector / max(vector.norm(), 1e-12))
    return torch.stack(out)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("sparse", [False, True])
def test_vectors(shared, num_layers, sparse):
    torch.manual_seed(0)
    model = DSSM(500, 16, num_layers, shared=shared, sparse=sparse)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    given = bags([3, 0, 7, 1]), bags([2, 5], seed=1)
    queries, documents = model(*given)
    assert queries.shape == (4, 16)
    assert documents.shape == (2, 16)
    torch.testing.assert_close(queries.double(), expected(model.towers[0], given[0]))
    torch.testing.assert_close(documents.double(), expected(model.towers[-1], given[1]))
    assert sum(1 for name in model.state_dict() if name.endswith("table.weight")) == (1 if shared else 2)


@pytest.mark.parametrize("shared", [True, False])
def test_a_sparse_gradient_is_the_dense_one(shared):
    given, gradients = (bags([3, 0, 7, 1]), bags([2, 5], seed=1)), []
    for sparse in (False, True):
        torch.manual_seed(0)
        model = DSSM(500, 16, shared=shared, sparse=sparse)
        queries, documents = model(*given)
        (queries.sum(0) * documents.sum(0)).sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for dense, sparse in zip(*gradients, strict=True):
        torch.testing.assert_close(sparse.to_dense(), dense)
    assert [g.layout == torch.sparse_coo for g in gradients[1]].count(True) == (1 if shared else 2)


def test_a_new_network_scores_nearly_as_the_bags_do():
    torch.manual_seed(0)
    model = DSSM(500, 512, shared=False)
    given = bags([40] * 30), bags([40] * 30, seed=1)
    dense = []
    for ids, weights, offsets in given:
        rows = torch.arange(30).repeat_interleave(offsets.diff())
        dense.append(torch.zeros(30, 500).index_put_((rows, ids), weights, accumulate=True))
    cosines = torch.nn.functional.cosine_similarity(dense[0][:, None], dense[1][None], dim=2)
    queries, documents = model(*given)
    assert (queries @ documents.T - cosines).abs().max() < 0.2  # 4.5 standard deviations of 1 / sqrt(512)


def test_dropout_is_of_training_alone():
    torch.manual_seed(0)
    model = DSSM(500, 16, dropout=0.5)
    given = bags([30, 30])
    assert not torch.equal(model(given, given)[0], model(given, given)[1])
    model.eval()
    assert torch.equal(model(given, given)[0], model(given, given)[1])


def test_a_text_without_trigrams_has_a_gradient_of_0():
    model = DSSM(500, 16)
    queries, documents = model(bags([0, 0]), bags([3, 3]))
    (queries * documents).sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
