"""Wide&Deep and DeepFM: the values of a plain network of one table a slot, and DeepCTR-Torch's names, both ways."""

from __future__ import annotations

import copy
from functools import partial
from itertools import combinations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from airank_fast.models.deepfm import DeepFM, PlainFactorizationMachine
from airank_fast.models.tables import SlotEmbeddings
from airank_fast.models.wide_deep import WideDeep
from airank_fast.nn import FactorizationMachine

SLOTS, CROSSES, NUM_DENSE, DIM, HIDDEN = {"C1": 5, "C2": 1, "C3": 7}, {"C1_x_C3": 6}, 2, 4, [9, 3]


class PerSlot(nn.Module):
    """DeepCTR-Torch's WDL or DeepFM by its parameters: an nn.Embedding for each slot."""

    def __init__(self, fm: bool, wide: dict[str, int]) -> None:
        super().__init__()
        self.fm = fm
        self.embedding_dict = tables(SLOTS, DIM)
        self.linear_model = nn.Module()
        self.linear_model.embedding_dict = tables(wide, 1)
        self.linear_model.weight = nn.Parameter(torch.randn(NUM_DENSE, 1))
        widths = [len(SLOTS) * DIM + NUM_DENSE, *HIDDEN]
        self.dnn = nn.Module()
        self.dnn.linears = nn.ModuleList(nn.Linear(*sizes) for sizes in zip(widths, HIDDEN, strict=False))
        self.dnn_linear = nn.Linear(HIDDEN[-1], 1, bias=False)
        self.out = nn.Module()
        self.out.bias = nn.Parameter(torch.randn(1))

    def forward(self, dense, ids):
        embedded = [table(ids[:, place]) for place, table in enumerate(self.embedding_dict.values())]
        x = torch.cat([*embedded, dense], 1)
        for linear in self.dnn.linears:
            x = F.relu(linear(x))
        logits = self.dnn_linear(x) + dense @ self.linear_model.weight + self.out.bias
        for place, table in enumerate(self.linear_model.embedding_dict.values()):
            logits = logits + table(ids[:, place])
        if self.fm:
            logits = logits + sum((a * b).sum(1, keepdim=True) for a, b in combinations(embedded, 2))
        return logits[:, 0]


def tables(slots, dim):
    return nn.ModuleDict({name: nn.Embedding(size, dim) for name, size in slots.items()})


MODELS = {
    "wide_deep": (partial(WideDeep, crosses=CROSSES), partial(PerSlot, False, SLOTS | CROSSES), SLOTS | CROSSES),
    "deepfm": (DeepFM, partial(PerSlot, True, SLOTS), SLOTS),
    "deepfm, not fused": (partial(DeepFM, fused=False), partial(PerSlot, True, SLOTS), SLOTS),
}


@pytest.fixture(params=MODELS)
def pair(request):
    """(our network, the plain one, a batch)."""
    torch.manual_seed(0)
    ours, plain, slots = MODELS[request.param]
    ids = torch.stack([torch.randint(size, (11,), dtype=torch.int32) for size in slots.values()], 1)
    return ours(SLOTS, NUM_DENSE, embedding_dim=DIM, hidden=HIDDEN), plain(), (torch.randn(11, NUM_DENSE), ids)


def test_per_slot_weights_load_and_give_the_same_logits_and_gradients(pair):
    ours, plain, batch = pair
    ours.load_state_dict(plain.state_dict())
    logits, expected = ours(*batch), plain(*batch)
    assert logits.shape == (11,)
    torch.testing.assert_close(logits, expected)
    weights = torch.randn(11)
    (logits * weights).sum().backward()
    (expected * weights).sum().backward()
    for ours_part, plain_part in ((ours, plain), (ours.linear_model, plain.linear_model)):
        gradients = torch.cat([table.weight.grad for table in plain_part.embedding_dict.values()])
        torch.testing.assert_close(ours_part.embedding_dict.weight.grad, gradients)
    torch.testing.assert_close(ours.dnn.linears[0].weight.grad, plain.dnn.linears[0].weight.grad)
    torch.testing.assert_close(ours.linear_model.weight.grad, plain.linear_model.weight.grad)
    assert all(parameter.grad is not None for parameter in ours.parameters())


def test_our_weights_load_there(pair):
    ours, plain, batch = pair
    for parameter in ours.parameters():
        nn.init.normal_(parameter)
    assert {name: t.shape for name, t in ours.state_dict().items()} == {
        name: t.shape for name, t in plain.state_dict().items()
    }
    plain.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(*batch), plain(*batch))


def test_a_state_dict_is_of_the_weights_themselves(pair):
    """As a module's own: training changes what it holds, and copies are loaded back bit for bit."""
    ours, _, batch = pair
    held, saved = ours.state_dict(), copy.deepcopy(ours.state_dict())
    torch.optim.SGD(ours.parameters(), 1.0).zero_grad()
    ours(*batch).sum().backward()
    torch.optim.SGD(ours.parameters(), 1.0).step()
    assert any(not torch.equal(held[name], saved[name]) for name in saved if name.startswith("embedding_dict"))
    ours.load_state_dict(saved)
    assert all(torch.equal(tensor, saved[name]) for name, tensor in ours.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("embedding_dict.C2.weight"), r"Missing key\(s\).*embedding_dict.C2.weight"),
        (lambda state: state.update({"embedding_dict.C9.weight": torch.ones(1)}), r"Unexpected key\(s\).*C9"),
        (
            lambda state: state.update({"linear_model.embedding_dict.C1.weight": torch.ones(6, 1)}),
            r"linear_model.embedding_dict.C1.weight: must have shape \[5, 1\], got \[6, 1\]",
        ),
    ],
)
def test_other_networks_weights_are_refused(pair, change, message):
    ours, _, _ = pair
    state = dict(ours.state_dict())
    change(state)
    with pytest.raises(RuntimeError, match=f"(?s){message}"):
        ours.load_state_dict(state)


def test_the_second_order_is_the_sum_over_pairs():
    embedded = torch.randn(6, 5, 3, dtype=torch.float64)
    expected = sum((embedded[:, i] * embedded[:, j]).sum(1) for i, j in combinations(range(5), 2))
    for second_order in (FactorizationMachine(), PlainFactorizationMachine()):
        torch.testing.assert_close(second_order(embedded), expected)
        assert (second_order(embedded[:, :1]).abs() < 1e-12).all()


def test_columns_of_hashed_ids_share_one_table():
    """Under the name that DeepCTR-Torch gives to a table of several columns, SparseFeat's embedding_name."""
    model = WideDeep({"C": 20}, NUM_DENSE, embedding_dim=DIM, hidden=HIDDEN, columns=6, wide_ids=False)
    state = model.state_dict()
    assert [name for name in state if not name.startswith("dnn")] == [
        "linear_model.weight",
        "embedding_dict.C.weight",
        "out.bias",
    ]
    assert state["dnn.linears.0.weight"].shape == (HIDDEN[0], 6 * DIM + NUM_DENSE)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    dense, ids = torch.randn(5, NUM_DENSE), torch.randint(20, (5, 6), dtype=torch.int32)
    x = torch.cat([model.embedding_dict.weight[ids].flatten(1), dense], 1)
    for linear in model.dnn.linears:
        x = F.relu(linear(x))
    expected = (dense @ model.linear_model.weight)[:, 0] + model.dnn_linear(x) + model.out.bias
    torch.testing.assert_close(model(dense, ids), expected)


def test_numbers_have_embeddings_in_deepfm():
    """A row times the number; it is in the second-order term and in the hidden layers."""
    model = DeepFM({"C": 20}, NUM_DENSE, embedding_dim=DIM, hidden=HIDDEN, columns=3, embed_numbers=True)
    assert model.state_dict()["number_embedding.weight"].shape == (NUM_DENSE, DIM)
    assert model.dnn.linears[0].in_features == (3 + NUM_DENSE) * DIM
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    dense, ids = torch.randn(5, NUM_DENSE), torch.randint(20, (5, 3), dtype=torch.int32)
    embedded = [*model.embedding_dict.weight[ids].unbind(1)]
    embedded += [dense[:, [i]] * model.number_embedding.weight[i] for i in range(NUM_DENSE)]
    x = torch.cat(embedded, 1)
    for linear in model.dnn.linears:
        x = F.relu(linear(x))
    first = model.linear_model.embedding_dict.weight[ids].sum((1, 2)) + (dense @ model.linear_model.weight)[:, 0]
    second = sum((a * b).sum(1) for a, b in combinations(embedded, 2))
    torch.testing.assert_close(model(dense, ids), first + second + model.dnn_linear(x) + model.out.bias)


def test_slots_have_rows_of_their_own():
    embeddings = SlotEmbeddings(SLOTS, DIM, 0.01)
    embeddings(torch.tensor([[4, 0, 0]])).sum().backward()
    assert embeddings.weight.grad.nonzero()[:, 0].unique().tolist() == [4, 5, 6]
    assert 0.005 < embeddings.weight.std() < 0.02


@pytest.mark.parametrize("slots", [SLOTS, {"C": 9}], ids=["slots", "one for all columns"])
def test_sparse_gradients_are_those_of_the_looked_up_rows(slots):
    torch.manual_seed(0)
    ids = torch.stack([torch.randint(size, (11,), dtype=torch.int32) for size in (slots | SLOTS).values()], 1)
    ids = ids[:, : len(slots)] if len(slots) > 1 else ids[:, :1].expand(11, 4).contiguous()
    dense, sparse = (SlotEmbeddings(slots, DIM, 0.01, sparse) for sparse in (False, True))
    sparse.load_state_dict(dense.state_dict())
    weights = torch.randn(11, ids.shape[1], DIM)
    results = [embeddings(ids) for embeddings in (dense, sparse)]
    assert torch.equal(*results)
    for result in results:
        (result * weights).sum().backward()
    assert sparse.weight.grad.is_sparse
    torch.testing.assert_close(sparse.weight.grad.to_dense(), dense.weight.grad)


@pytest.mark.parametrize("num_dense", [0, 3])
def test_without_numbers_there_is_no_weight_for_them(num_dense):
    model = DeepFM(SLOTS, num_dense, embedding_dim=DIM, hidden=HIDDEN)
    assert ("linear_model.weight" in model.state_dict()) == (num_dense > 0)
    assert model(torch.randn(4, num_dense), torch.zeros(4, 3, dtype=torch.int64)).shape == (4,)


def test_logits_are_float32_under_autocast(pair):
    ours, _, batch = pair
    expected = ours(*batch)
    with torch.autocast("cpu", torch.bfloat16):
        logits = ours(*batch)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected, atol=0.02, rtol=0.02)


def test_export_and_compile_take_the_networks(pair):
    ours, _, batch = pair
    exported = torch.export.export(ours, batch)
    torch.testing.assert_close(exported.module()(*batch), ours(*batch))
