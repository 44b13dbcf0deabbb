"""airank_fast::sparse_table_lookup and _bag against torch's embedding and embedding_bag, against their references, and
against wrong arguments; on the CPU and, with -m gpu, on CUDA."""

from __future__ import annotations

import pytest
import torch
from ops.tensor_lists import assert_twice_the_error_at_most
from ops.threads import in_threads
from torch.nn import functional as F

from airank_fast.ops import sparse_table_bag, sparse_table_lookup
from airank_fast.ops.sparse_table import (
    sparse_table_bag_backward_reference,
    sparse_table_bag_reference,
    sparse_table_lookup_reference,
)

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
THREADS = [1, 2, 3]


def random_table(rows, dim, dtype=torch.float32, device="cpu"):
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(0)).to(device, dtype)


def random_ids(rows, shape, dtype=torch.int64, device="cpu"):
    return torch.randint(rows, shape, generator=torch.Generator().manual_seed(1)).to(device, dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("id_dtype", [torch.int64, torch.int32])
@pytest.mark.parametrize("dim", [1, 2, 3, 5, 7, 10, 16, 97, 513])
def test_lookup_is_torchs_to_the_bit(device, dtype, id_dtype, dim):
    table = random_table(1023, dim, dtype, device)
    for shape in [(1,), (97, 26), (1025,), (0,), (3, 0, 2), ()]:
        ids = random_ids(1023, shape, id_dtype, device)
        assert torch.equal(sparse_table_lookup(table, ids), F.embedding(ids, table))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("lookup", [sparse_table_lookup, lambda *a: sparse_table_lookup_reference(*a, -1)])
def test_slots_have_rows_of_their_own(device, lookup):
    table = random_table(1000, 10, device=device)
    first_rows = torch.tensor([0, 3, 3, 903], device=device)  # the second slot is empty
    ids = torch.stack([random_ids(size, (500,)) for size in (3, 900, 97)], 1).to(device)
    got = lookup(table, ids, first_rows[[0, 1, 3]])
    assert torch.equal(got, table[ids + first_rows[[0, 2, 3]]])
    with_empty = torch.empty(0, 4, dtype=torch.int64, device=device)
    assert lookup(table, with_empty, first_rows).shape == (0, 4, 10)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("padding_idx", [None, 3])
@pytest.mark.parametrize("slots", [False, True])
def test_the_gradient_of_a_look_up_is_torchs(device, slots, padding_idx):
    table = random_table(50, 10, torch.float64, device)
    ids, first_rows = random_ids(25, (300, 2), device=device), torch.tensor([0, 25], device=device) if slots else None
    leaves = [table.clone().requires_grad_() for _ in range(2)]
    rows = ids + first_rows if slots else ids
    results = [
        sparse_table_lookup(leaves[0], ids, first_rows, padding_idx=padding_idx),
        F.embedding(rows, leaves[1], padding_idx),
    ]
    grad = random_table(600, 10, torch.float64, device).view(300, 2, 10)
    for result in results:
        result.backward(grad)
    assert leaves[0].grad.layout == torch.sparse_coo
    torch.testing.assert_close(leaves[0].grad.to_dense(), leaves[1].grad)
    touched = torch.unique(rows[rows != (-1 if padding_idx is None else padding_idx)])
    assert torch.equal(leaves[0].grad.coalesce().indices()[0], touched)


def test_gradients_of_two_uses_are_added():
    table = random_table(50, 10, torch.float64).requires_grad_()
    ids = random_ids(50, (20,))
    (sparse_table_lookup(table, ids).sum() + sparse_table_lookup(table, ids[:7]).sum()).backward()
    expected = torch.zeros(50, 10, dtype=torch.float64)
    for id in [*ids, *ids[:7]]:
        expected[id] += 1
    assert torch.equal(table.grad.to_dense(), expected)


def bags(device="cpu"):
    """Ids and offsets: a bag of one, an empty one in the middle and at the end, one of 1023."""
    sizes = torch.tensor([1, 7, 0, 1023, 2, 0])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    return random_ids(200, (int(sizes.sum()),), device=device), offsets.to(device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("padding_idx", [None, 3])
@pytest.mark.parametrize("id_dtype", [torch.int64, torch.int32])
@pytest.mark.parametrize("dim", [1, 10, 97])
def test_bags_err_at_most_twice_as_much_as_torchs(device, dtype, mode, padding_idx, id_dtype, dim):
    table, (ids, offsets) = random_table(200, dim, dtype, device), bags(device)
    options = {"mode": mode, "padding_idx": padding_idx, "include_last_offset": True}
    plain = F.embedding_bag(ids, table, offsets, **options)
    exact = F.embedding_bag(ids, table.double(), offsets, **options)
    got = sparse_table_bag(table, ids.to(id_dtype), offsets.to(id_dtype), **options)
    assert got.dtype == dtype
    error, allowed = (got.double() - exact).abs().max(), (plain.double() - exact).abs().max()
    assert error <= 2 * allowed + 2 * torch.finfo(torch.promote_types(dtype, torch.float32)).eps * exact.abs().max()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("padding_idx", [None, 3])
def test_the_gradient_of_bags_is_torchs(device, mode, padding_idx):
    table, (ids, offsets) = random_table(200, 10, torch.float64, device), bags(device)
    leaves = [table.clone().requires_grad_() for _ in range(2)]
    options = {"mode": mode, "padding_idx": padding_idx}
    results = [
        sparse_table_bag(leaves[0], ids, offsets[:-1], **options),
        F.embedding_bag(ids, leaves[1], offsets[:-1], **options),
    ]
    torch.testing.assert_close(*results)
    for result in results:
        result.backward(random_table(6, 10, torch.float64, device))
    assert leaves[0].grad.layout == torch.sparse_coo
    torch.testing.assert_close(leaves[0].grad.to_dense(), leaves[1].grad)


@pytest.mark.parametrize("device", DEVICES)
def test_bags_of_one_size_need_no_offsets(device):
    table, ids = random_table(200, 10, device=device), random_ids(200, (33, 4), device=device)
    torch.testing.assert_close(sparse_table_bag(table, ids), F.embedding_bag(ids, table))
    assert sparse_table_bag(table, ids[:, :0]).count_nonzero() == 0
    assert sparse_table_bag(table, ids[:0]).shape == (0, 10)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["sum", "weighted sum", "mean"])
@pytest.mark.parametrize("padding_idx", [-1, 3])
def test_backward_of_bags_errs_at_most_twice_as_much_as_the_reference(device, dtype, kind, padding_idx):
    ids, offsets = bags(device)
    grad, math = random_table(6, 10, dtype, device), torch.promote_types(dtype, torch.float32)
    weights = random_table(len(ids), 1, math, device)[:, 0] if kind == "weighted sum" else None
    options = (kind == "mean", padding_idx)
    rows, values = torch.ops.airank_fast.sparse_table_bag_backward(grad, ids, offsets, weights, *options)
    expected, plain = sparse_table_bag_backward_reference(grad, ids, offsets, weights, *options)
    wide = None if weights is None else weights.double()
    _, exact = sparse_table_bag_backward_reference(grad.double(), ids, offsets, wide, *options)
    assert torch.equal(rows, expected)
    assert torch.equal(rows, ids[ids != padding_idx].unique())
    assert_twice_the_error_at_most([values], [plain], [exact], float32_units=1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_weighted_bags_are_torchs_with_its_gradient(device, dtype):
    table, (ids, offsets) = random_table(200, 10, dtype, device), bags(device)
    weights = random_table(len(ids), 1, dtype, device)[:, 0]
    options = {"mode": "sum", "include_last_offset": True, "per_sample_weights": weights}
    exact = F.embedding_bag(ids, table.double(), offsets, **options | {"per_sample_weights": weights.double()})
    plain = F.embedding_bag(ids, table, offsets, **options)
    leaf, torchs = table.clone().requires_grad_(), table.double().requires_grad_()
    got = sparse_table_bag(leaf, ids, offsets, **options)
    assert_twice_the_error_at_most([got], [plain], [exact], float32_units=1)
    got.pow(2).sum().backward()
    assert torch.equal(leaf.grad._indices()[0], ids.unique())
    wide = F.embedding_bag(ids, torchs, offsets, **options | {"per_sample_weights": weights.double()})
    wide.backward(2 * got.double().detach())
    tolerance = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(
        leaf.grad.to_dense().double(), torchs.grad, rtol=tolerance, atol=tolerance * torchs.grad.abs().max().item()
    )


def test_weights_of_bags_that_cannot_be_used_are_refused():
    weights = torch.ones(4, 2)
    with pytest.raises(RuntimeError, match=r"^sparse_table_bag: mode must be sum with per_sample_weights, got mean$"):
        sparse_table_bag(TABLE, IDS, per_sample_weights=weights)
    with pytest.raises(RuntimeError, match=r"per_sample_weights must have shape \[4, 2\], got \[2, 4\]$"):
        sparse_table_bag(TABLE, IDS, mode="sum", per_sample_weights=weights.T)
    with pytest.raises(RuntimeError, match=r"per_sample_weights must be without a gradient, got one that requires it$"):
        sparse_table_bag(TABLE, IDS, mode="sum", per_sample_weights=weights.requires_grad_())


@pytest.mark.not_emulated
def test_few_rows_with_most_look_ups_have_the_gradient_of_all_threads():
    ids = torch.zeros(70_000, dtype=torch.int32)
    ids[::7] = torch.arange(10_000, dtype=torch.int32)
    offsets, grad = torch.arange(0, 70_001, 10), random_table(7000, 40)
    op = torch.ops.airank_fast.sparse_table_bag_backward
    results = [in_threads(number, lambda: op(grad, ids, offsets, None, True, -1)) for number in THREADS]
    rows, values = results[0]
    assert torch.equal(rows, torch.arange(10_000))
    plain, exact = (
        sparse_table_bag_backward_reference(g, ids, offsets, None, True, -1)[1] for g in (grad, grad.double())
    )
    assert_twice_the_error_at_most([values], [plain], [exact], float32_units=1)
    assert all(torch.equal(values, other) for _, other in results[1:])


@pytest.mark.not_emulated
def test_results_do_not_depend_on_the_number_of_threads():
    table, ids = random_table(5000, 10), random_ids(5000, (9000, 26))
    offsets = torch.arange(0, ids.numel() + 1, 13)
    for function in (
        lambda: sparse_table_lookup(table, ids),
        lambda: sparse_table_bag(table, ids.flatten(), offsets, include_last_offset=True),
    ):
        first, *others = [in_threads(number, function) for number in THREADS]
        assert all(torch.equal(first, other) for other in others)


def test_nan_and_inf_propagate():
    table = torch.tensor([[1.0, torch.nan], [torch.inf, 1.0], [-torch.inf, 1.0]])
    got = sparse_table_bag(table, torch.tensor([[0, 1], [1, 2]]), mode="sum")
    torch.testing.assert_close(got, torch.tensor([[torch.inf, torch.nan], [torch.nan, 2.0]]), equal_nan=True)


def test_the_kernels_are_loaded_where_the_extension_is_built():
    pytest.importorskip("airank_fast._C")
    for op in ("lookup", "bag", "bag_backward"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"airank_fast::sparse_table_{op}", "CPU")


TABLE, IDS = torch.ones(5, 3), torch.zeros(4, 2, dtype=torch.int64)
FIRST = torch.tensor([0, 2])
WRONG_LOOKUP = {
    "table must have shape [rows, dim], got [5]": (TABLE[:, 0], IDS, None),
    "table must be float32, float64, bfloat16 or float16, got int64": (TABLE.long(), IDS, None),
    "table must be contiguous, got strides [1, 3]": (torch.ones(2, 3).T, IDS, None),
    "ids must be int64 or int32, got float32": (TABLE, IDS.float(), None),
    "ids must have shape [..., slots], got []": (TABLE, IDS[0, 0], FIRST),
    "first_rows must be int64, got int32": (TABLE, IDS, FIRST.int()),
    "first_rows must have shape [2], got [3]": (TABLE, IDS, torch.tensor([0, 2, 3])),
    "first_rows[1] must be in [2, 5], got 1": (TABLE, IDS, torch.tensor([2, 1])),
    "first_rows[0] must be in [0, 5], got -1": (TABLE, IDS, torch.tensor([-1, 1])),
    "ids[3, 1] must be in [0, 5), got 5": (TABLE, torch.tensor([[0, 0], [0, 0], [0, 0], [0, 5]]), None),
    "ids[0] must be in [0, 5), got -1": (TABLE, torch.tensor([-1, 5]), None),
    "ids[0] must be in [0, 5), got -2147483648": (TABLE, torch.tensor([-(2**31)], dtype=torch.int32), None),
    "ids[1] must be in [0, 5), got 9223372036854775807": (TABLE, torch.tensor([0, 2**63 - 1]), None),
    "ids[1, 0] must be in [0, 2), got 2": (TABLE, torch.tensor([[1, 2], [2, 2]]), FIRST),
    "ids[0, 1] must be in [0, 0), got 0": (TABLE, IDS, torch.tensor([0, 5])),
    "ids[0, 0] must be in [0, 0), got 0": (torch.ones(0, 3), IDS, None),
    "ids[] must be in [0, 5), got 7": (TABLE, torch.tensor(7), None),
}


def lookup_op(*arguments):
    return torch.ops.airank_fast.sparse_table_lookup(*arguments, -1)


@pytest.mark.parametrize("lookup", [lookup_op, lambda *a: sparse_table_lookup_reference(*a, -1)])
@pytest.mark.parametrize(("message", "arguments"), WRONG_LOOKUP.items(), ids=range(len(WRONG_LOOKUP)))
def test_wrong_arguments_of_a_look_up_are_named_in_one_line(lookup, message, arguments):
    with pytest.raises(RuntimeError) as caught:
        lookup(*arguments)
    assert str(caught.value) == "sparse_table_lookup: " + message


FLAT = torch.tensor([0, 1, 4])
WRONG_BAG = {
    "table must have shape [rows, dim], got [5]": (TABLE[:, 0], FLAT, FIRST),
    "ids must have shape [ids], got [4, 2]": (TABLE, IDS, FIRST),
    "offsets must be int64, got int32": (TABLE, FLAT, FIRST.int()),
    "offsets must have shape [bags + 1], got [0]": (TABLE, FLAT, FIRST[:0]),
    "offsets[0] must be 0, got 1": (TABLE, FLAT, torch.tensor([1, 3])),
    "offsets[2] must be in [2, 3], got 1": (TABLE, FLAT, torch.tensor([0, 2, 1, 3])),
    "offsets[1] must be in [0, 3], got 4": (TABLE, FLAT, torch.tensor([0, 4])),
    "offsets[1] must be the number of ids, 3, got 2": (TABLE, FLAT, torch.tensor([0, 2])),
    "ids[2] must be in [0, 4), got 4": (TABLE[:4], FLAT, torch.tensor([0, 2, 3])),
    "ids[0] must be in [0, 5), got -7": (TABLE, FLAT - 7, torch.tensor([0, 3])),
    "ids[0] must be in [0, 0), got 0": (TABLE[:0], FLAT, torch.tensor([0, 3])),
    "weights must be float32, got float64": (TABLE, FLAT, torch.tensor([0, 3]), torch.ones(3).double()),
    "weights must have shape [3], got [2]": (TABLE, FLAT, torch.tensor([0, 3]), torch.ones(2)),
}


@pytest.mark.parametrize("bag", [torch.ops.airank_fast.sparse_table_bag, sparse_table_bag_reference])
@pytest.mark.parametrize(("message", "arguments"), WRONG_BAG.items(), ids=range(len(WRONG_BAG)))
def test_wrong_arguments_of_bags_are_named_in_one_line(bag, message, arguments):
    with pytest.raises(RuntimeError) as caught:
        bag(*arguments, *[None] * (4 - len(arguments)), True, -1)
    assert str(caught.value) == "sparse_table_bag: " + message


@pytest.mark.parametrize(
    "backward", [torch.ops.airank_fast.sparse_table_bag_backward, sparse_table_bag_backward_reference]
)
def test_wrong_arguments_of_the_backward_are_named_in_one_line(backward):
    for message, grad in {
        "grad must have shape [2, dim], got [3, 3]": TABLE[:3],
        "grad must be float32, float64, bfloat16 or float16, got int64": TABLE[:2].long(),
    }.items():
        with pytest.raises(RuntimeError) as caught:
            backward(grad, FLAT, torch.tensor([0, 2, 3]), None, True, -1)
        assert str(caught.value) == "sparse_table_bag_backward: " + message


def test_wrong_modes_and_shapes_of_bags_are_named():
    with pytest.raises(RuntimeError, match=r"^sparse_table_bag: mode must be sum or mean, got max$"):
        sparse_table_bag(TABLE, IDS, mode="max")
    required = r"ids must have shape \[bags, ids\], or \[ids\] with offsets"
    for ids, offsets in ((FLAT, None), (IDS, FIRST)):
        with pytest.raises(RuntimeError, match=f"^sparse_table_bag: {required}, got "):
            sparse_table_bag(TABLE, ids, offsets)


@pytest.mark.gpu
def test_on_a_gpu_wrong_ids_give_nan():
    table, ids = random_table(5, 3, device="cuda"), torch.tensor([1, 5, -1], device="cuda")
    assert sparse_table_lookup(table, ids).isnan().all(1).tolist() == [False, True, True]
    of_slots = sparse_table_lookup(table, torch.tensor([[1, 2], [2, 3]], device="cuda"), FIRST.cuda())
    assert of_slots.isnan().all(2).tolist() == [[False, False], [True, True]]
    for bag in (torch.ops.airank_fast.sparse_table_bag, sparse_table_bag_reference):
        each = bag(table, ids, torch.arange(4, device="cuda"), None, True, -1)
        assert each.isnan().all(1).tolist() == [False, True, True]


@pytest.mark.gpu
def test_capture_and_replay_on_another_stream():
    table, (ids, offsets) = random_table(200, 10, device="cuda"), bags("cuda")

    def both():
        return sparse_table_lookup(table, ids), sparse_table_bag(table, ids, offsets, include_last_offset=True)

    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        both()  # warm-up
        with torch.cuda.graph(graph, stream=stream):
            captured = both()
        ids.add_(1).remainder_(200)
        graph.replay()
        for got, want in zip(captured, both(), strict=True):
            assert torch.equal(got, want)


@pytest.mark.gpu
def test_backward_of_bags_has_the_same_bits_in_every_run():
    ids, offsets = torch.randint(50, (70_000,), device="cuda"), torch.arange(0, 70_001, 10, device="cuda")
    ids[::2] = 7
    grad = torch.randn(7000, 40, device="cuda")
    op = torch.ops.airank_fast.sparse_table_bag_backward
    (rows, values), *others = [op(grad, ids, offsets, None, True, -1) for _ in range(3)]
    assert torch.equal(rows, torch.arange(50, device="cuda"))
    assert all(torch.equal(values, other) for _, other in others)


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device):
    table, (ids, offsets) = random_table(200, 10, device=device), bags(device)
    first_rows = torch.tensor([0, 100], device=device)
    tests = ("test_schema", "test_faketensor")  # a sparse gradient is not traced
    ops = torch.ops.airank_fast
    torch.library.opcheck(ops.sparse_table_lookup.default, (table, ids, None, -1), test_utils=tests)
    slots = random_ids(100, (7, 2), device=device)
    torch.library.opcheck(ops.sparse_table_lookup.default, (table, slots, first_rows, -1), test_utils=tests)
    torch.library.opcheck(ops.sparse_table_bag.default, (table, ids, offsets, None, True, -1), test_utils=tests)
    grad = random_table(6, 10, device=device)
    torch.library.opcheck(ops.sparse_table_bag_backward.default, (grad, ids, offsets, None, True, -1), test_utils=tests)


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_without_graph_breaks(device):
    table, (ids, offsets) = random_table(200, 10, device=device), bags(device)

    def both(table):
        bag = sparse_table_bag(table, ids, offsets, include_last_offset=True)
        return sparse_table_lookup(table, ids).sum(0) + bag.sum(0)

    gradients = []
    for function in (both, torch.compile(both, fullgraph=True, backend="aot_eager")):
        leaf = table.clone().requires_grad_()
        result = function(leaf)
        result.pow(2).sum().backward()
        gradients.append(leaf.grad.to_dense())
    torch.testing.assert_close(*gradients)
    with torch.no_grad():
        assert torch.equal(torch.compile(both, fullgraph=True, backend="aot_eager")(table), both(table))


def test_transforms_get_torchs_own_operators():
    table, ids = random_table(20, 3, torch.float64), random_ids(20, (4, 5))
    offsets = torch.arange(0, 21, 5)
    pairs = [
        (lambda t: sparse_table_lookup(t, ids), lambda t: F.embedding(ids, t)),
        (
            lambda t: sparse_table_bag(t, ids.flatten(), offsets, include_last_offset=True),
            lambda t: F.embedding_bag(ids, t),
        ),
    ]
    for ours, torchs in pairs:
        gradients = [torch.func.grad(lambda t, f=f: f(t).pow(2).sum())(table) for f in (ours, torchs)]
        torch.testing.assert_close(*gradients)
    exported = torch.export.export(Looked(ids), (table,)).module()
    assert torch.equal(exported(table), F.embedding(ids, table))


class Looked(torch.nn.Module):
    """A look-up of fixed ids, for an export."""

    def __init__(self, ids):
        super().__init__()
        self.register_buffer("ids", ids)

    def forward(self, table):
        return sparse_table_lookup(table, self.ids)
