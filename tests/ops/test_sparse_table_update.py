"""airank_fast::sparse_table_update_ against torch's optimizers on sparse gradients, against its reference, and against
wrong arguments; on the CPU and, with -m gpu, on CUDA."""

from __future__ import annotations

import pytest
import torch
from ops.threads import in_threads

from airank_fast.ops import sparse_table_update_
from airank_fast.ops.ftrl import ftrl_reference
from airank_fast.ops.sparse_table_update import RULES, sparse_table_update_reference

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
THREADS = [1, 2, 3]
DTYPES = [  # of table, gradients and copy
    (torch.float32, torch.float32, None),
    (torch.float32, torch.bfloat16, None),
    (torch.float32, torch.float16, None),
    (torch.float32, torch.bfloat16, torch.bfloat16),
    (torch.float32, torch.float16, torch.float16),
    (torch.float64, torch.float64, None),
    (torch.bfloat16, torch.bfloat16, None),
    (torch.float16, torch.float16, None),
]
every_rule = pytest.mark.parametrize("rule", RULES)
both = pytest.mark.parametrize("update", [sparse_table_update_, sparse_table_update_reference])


def made(rule, device="cpu", rows=1000, dim=10, ids=3000, table=torch.float32, grad=None, copy=None, seed=0):
    """Arguments of the op; a third of the ids are of ten rows."""
    generator = torch.Generator().manual_seed(seed)
    wide = torch.promote_types(table, torch.float32)
    weights = torch.randn(rows, dim, generator=generator).to(table)
    shape = (rows,) if rule == "row_wise_adagrad" else (rows, dim)
    state = [torch.rand(shape, generator=generator).to(wide) for _ in range(RULES[rule])]
    at = torch.randint(rows, (ids,), generator=generator)
    at[: ids // 3] %= 10
    at = at[torch.randperm(ids, generator=generator)]
    grads = torch.randn(ids, dim, generator=generator).to(grad or table)
    copied = None if copy is None else weights.to(copy)
    numbers = (torch.tensor(0.1, dtype=torch.float64), torch.tensor(3.0))
    return [move(t, device) for t in (weights, state, copied, at, grads, *numbers)]


def move(value, device):
    if isinstance(value, list):
        return [move(t, device) for t in value]
    return None if value is None else value.to(device)


def cloned(arguments):
    return [[t.clone() for t in a] if isinstance(a, list) else None if a is None else a.clone() for a in arguments]


def written(arguments):
    """The tensors that the op writes."""
    table, state, copy = arguments[:3]
    return [table, *state] + ([] if copy is None else [copy])


def assert_same(ours, expected, **tolerances):
    for got, want in zip(written(ours), written(expected), strict=True):
        torch.testing.assert_close(got, want, **(tolerances or {"rtol": 0, "atol": 0}))


def torchs(rule, param, lr):
    if rule == "adam":
        return torch.optim.SparseAdam([param], lr=lr)
    if rule == "adagrad":
        return torch.optim.Adagrad([param], lr=lr, lr_decay=0.25, foreach=False)
    return torch.optim.SGD([param], lr=lr, foreach=False)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rule", ["sgd", "adagrad", "adam"])
@pytest.mark.parametrize("dim", [1, 10, 33])
@both
def test_steps_are_torchs_in_float64(device, update, rule, dim):
    weights, state, *_ = made(rule, device, dim=dim, table=torch.float64)
    state = [torch.zeros_like(t) for t in state]
    param = torch.nn.Parameter(weights.clone())
    optimizer = torchs(rule, param, 0.1)
    options = {"eps": 1e-10, "lr_decay": 0.25} if rule == "adagrad" else {}
    for step in range(1, 5):
        _, _, _, rows, grads, lr, _ = made(rule, device, dim=dim, table=torch.float64, seed=step)
        param.grad = torch.sparse_coo_tensor(rows[None], grads, weights.shape, check_invariants=True)
        optimizer.step()
        update(weights, state, None, rows, grads, lr, torch.tensor(float(step), device=device), rule=rule, **options)
    torch.testing.assert_close(weights, param.detach(), rtol=1e-11, atol=1e-12)
    for name, tensor in zip({"adam": ("exp_avg", "exp_avg_sq"), "adagrad": ("sum",)}.get(rule, ()), state, strict=True):
        torch.testing.assert_close(tensor, optimizer.state[param][name].to_dense(), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("device", DEVICES)
@both
def test_row_wise_adagrad_is_its_formula(device, update):
    weights, state, _, rows, grads, lr, step = made("row_wise_adagrad", device, table=torch.float64)
    expected, sums = weights.clone(), state[0].clone()
    dense = torch.zeros_like(weights).index_add_(0, rows, grads)
    sums += dense.square().mean(1)
    expected -= 0.1 * dense / (sums.sqrt() + 1e-8)[:, None]
    update(weights, state, None, rows, grads, lr, step, rule="row_wise_adagrad")
    torch.testing.assert_close(weights, expected, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(state[0], sums, rtol=1e-11, atol=1e-12)


FTRL_OPTIONS = {
    "plain": {},
    "penalties": {"l1": 0.5, "l2": 0.1, "l2_shrinkage": 0.01, "beta": 0.5},
    "another power": {"lr_power": -0.75, "beta": 1.0, "maximize": True},
    "rate 0": {"l1": 0.5},
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("options", FTRL_OPTIONS.values(), ids=FTRL_OPTIONS)
@both
def test_ftrl_is_the_dense_step_of_the_touched_rows(device, update, options):
    ours = made("ftrl", device, rows=500, ids=400, table=torch.float64)
    expected = cloned(ours)
    for step in range(1, 4):
        ours[3:6] = made("ftrl", device, rows=500, ids=400, table=torch.float64, seed=step)[3:6]
        if options is FTRL_OPTIONS["rate 0"]:
            ours[5] = torch.zeros_like(ours[5])
        update(*ours, rule="ftrl", **options)
        _, _, _, rows, grads, lr, _ = ours
        touched = rows.unique()
        dense = torch.zeros_like(ours[0]).index_add_(0, rows, grads)
        param, accumulator, linear = parts = [tensor[touched] for tensor in written(expected)]
        count = torch.zeros((), device=device)
        ftrl_reference([param], [dense[touched]], [accumulator], [linear], [count], [], lr, **options)
        for tensor, part in zip(written(expected), parts, strict=True):
            tensor[touched] = part
    assert_same(ours, expected, rtol=1e-11, atol=1e-12)
    assert bool((ours[0] == 0).any()) == (options is FTRL_OPTIONS["penalties"])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("table", "grad", "copy"), DTYPES)
@every_rule
def test_every_dtype_is_float64s_result_rounded(device, table, grad, copy, rule):
    ours = made(rule, device, table=table, grad=grad, copy=copy)
    exact = [move_to_double(a) for a in ours]
    exact[2] = None
    sparse_table_update_(*ours, rule=rule)
    sparse_table_update_reference(*exact, rule=rule)
    tolerance = 1e-12 if table == torch.float64 else 2e-6
    for got, want in zip(ours[1], exact[1], strict=True):  # the square of a sum of a hundred gradients
        torch.testing.assert_close(got.double(), want, rtol=10 * tolerance, atol=tolerance)
    one_rounding = torch.finfo(table).eps / 2 if table in (torch.bfloat16, torch.float16) else 0
    torch.testing.assert_close(ours[0].double(), exact[0], rtol=one_rounding + tolerance, atol=2 * tolerance)
    if copy is not None:
        assert torch.equal(ours[2], ours[0].to(copy))


def move_to_double(value):
    if isinstance(value, list):
        return [t.double() for t in value]
    return value if value is None or value.dtype == torch.int64 else value.double()


@pytest.mark.parametrize("device", DEVICES)
@every_rule
@both
def test_rows_without_a_gradient_are_left_alone(device, update, rule):
    arguments = made(rule, device, ids=97, copy=torch.bfloat16, grad=torch.bfloat16)
    before = cloned(arguments)
    arguments[2][:] = before[2][:] = 7.0  # other code has written the copy, also where no row is touched
    update(*arguments, rule=rule)
    untouched = torch.ones(1000, dtype=torch.bool, device=device).index_fill(0, arguments[3], False)
    assert 800 < int(untouched.sum()) < 1000
    for got, want in zip(written(arguments), written(before), strict=True):
        assert torch.equal(got[untouched], want[untouched])
        assert not torch.equal(got[~untouched], want[~untouched])


@pytest.mark.not_emulated
@every_rule
@pytest.mark.parametrize("dim", [1, 10, 700])
def test_the_result_does_not_depend_on_the_number_of_threads(rule, dim):
    arguments = made(rule, rows=5000, dim=dim, ids=20_000 if dim < 100 else 2000)
    first, *others = [cloned(arguments) for _ in THREADS]
    for number, one in zip(THREADS, (first, *others), strict=True):
        in_threads(number, lambda one=one: sparse_table_update_(*one, rule=rule))
    for other in others:
        assert_same(other, first)


@pytest.mark.parametrize("device", DEVICES)
@every_rule
@pytest.mark.parametrize(
    ("rows", "dim", "ids"),
    [
        (1, 3, 500),
        (2, 1, 1),
        (2048, 16, 1025),
        (2049, 17, 1023),
        (300_000, 2, 97),
        pytest.param(5_000_000, 1, 1023, marks=pytest.mark.not_emulated),
        (50, 2100, 60),
    ],
)
def test_tables_of_every_size(device, rule, rows, dim, ids):
    ours = made(rule, device, rows=rows, dim=dim, ids=ids)
    expected = cloned(ours)
    sparse_table_update_(*ours, rule=rule)
    sparse_table_update_reference(*expected, rule=rule)
    assert_same(ours, expected, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("ids", [1, 255, 256, 257, 100_000])
def test_many_gradients_of_one_row_are_added_exactly(device, ids):
    table, grads = torch.zeros(7, 10, device=device), torch.rand(ids, 10, generator=torch.Generator().manual_seed(0))
    grads, one = grads.to(device), torch.tensor(1.0, device=device)
    rows = torch.full((ids,), 6, device=device)
    sparse_table_update_(table, [], None, rows, grads, one, one, rule="sgd", maximize=True)
    torch.testing.assert_close(table[6].double(), grads.double().sum(0), rtol=1e-6, atol=0)
    assert table[:6].count_nonzero() == 0


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_of_a_row_are_added_in_their_order(device):
    large = torch.tensor([[1e8], [1.0], [-1e8], [1.0]], device=device)
    one = torch.tensor(1.0, device=device)
    for order, expected in (([0, 1, 2, 3], 1.0), ([0, 2, 1, 3], 2.0)):
        table, rows = torch.zeros(3, 1, device=device), torch.tensor([1, 2, 1, 1, 1], device=device)
        grads = torch.cat([large[order][:1], torch.ones(1, 1, device=device), large[order][1:]])
        sparse_table_update_(table, [], None, rows, grads, one, one, rule="sgd", maximize=True)
        assert table.flatten().tolist() == [0.0, expected, 1.0]


@pytest.mark.parametrize("device", DEVICES)
@every_rule
@both
def test_grad_scale_divides_maximize_negates_and_found_inf_writes_nothing(device, update, rule):
    plain = made(rule, device, copy=torch.float16, grad=torch.float16)
    scaled, skipped, original = cloned(plain), cloned(plain), cloned(plain)
    sparse_table_update_(*plain, rule=rule)
    scaled[4] *= -4
    four, zero = torch.full((1,), 4.0, device=device), torch.zeros(1, device=device)
    update(*scaled, rule=rule, maximize=True, grad_scale=four, found_inf=zero)
    assert_same(scaled, plain, rtol=1e-3, atol=1e-5)
    update(*skipped, rule=rule, grad_scale=four, found_inf=zero + 1)
    assert_same(skipped, original)


@pytest.mark.parametrize("device", DEVICES)
@both
def test_weights_written_into_the_copy_are_where_the_step_begins(device, update):
    ours = made("adam", device, copy=torch.bfloat16, grad=torch.bfloat16)
    expected = cloned(ours)
    ours[2][::3] = 64.0
    expected[0][::3] = 64.0
    expected[2] = expected[0].bfloat16()
    update(*ours, rule="adam")
    update(*expected, rule="adam")
    touched = ours[3].unique()
    for got, want in zip(written(ours), written(expected), strict=True):
        assert torch.equal(got[touched], want[touched])


@pytest.mark.parametrize("device", DEVICES)
@every_rule
@both
def test_no_ids_and_empty_tables(device, update, rule):
    arguments = made(rule, device, ids=0)
    before = cloned(arguments)
    update(*arguments, rule=rule)
    assert_same(arguments, before)
    update(*made(rule, device, dim=0, ids=7), rule=rule)


@pytest.mark.parametrize("device", DEVICES)
def test_nan_and_inf_stay_in_their_rows(device):
    arguments = made("adam", device)
    arguments[4][5], arguments[4][6] = torch.nan, torch.inf
    rows = arguments[3][5:7]
    sparse_table_update_(*arguments, rule="adam")
    bad = arguments[0].isfinite().logical_not().any(1)
    assert torch.equal(bad.nonzero().flatten(), rows.unique())


def test_gradients_with_gaps_between_them_are_copied():
    ours = made("adagrad")
    expected = cloned(ours)
    ours[3] = torch.stack([ours[3], ours[3]], 1)[:, 0]
    ours[4] = ours[4].T.contiguous().T
    sparse_table_update_(*ours, rule="adagrad")
    sparse_table_update_(*expected, rule="adagrad")
    assert_same(ours, expected)


def test_the_kernel_is_loaded_where_the_extension_is_built():
    pytest.importorskip("airank_fast._C")
    assert torch._C._dispatch_has_kernel_for_dispatch_key("airank_fast::sparse_table_update_", "CPU")


def wrong(**changes):
    """Keyword arguments of the op for a table of [4, 3], with changes."""
    good = {
        "table": torch.ones(4, 3),
        "state": [torch.ones(4, 3)],
        "copy": None,
        "rows": torch.tensor([0, 3]),
        "grads": torch.ones(2, 3),
        "lr": torch.tensor(0.1),
        "step": torch.tensor(1.0),
        "rule": "adagrad",
    }
    return good | changes


ONES = torch.ones(4, 3)
SCALAR = "one float32 or float64 number on cpu, got float32 of shape [2] on cpu"
WRONG = {
    "rule must be sgd, adagrad, row_wise_adagrad, adam or ftrl, got rmsprop": {"rule": "rmsprop"},
    "table must have shape [rows, dim], got [4]": {"table": ONES[:, 0]},
    "table must be contiguous, got strides [1, 4]": {"table": torch.ones(3, 4).T},
    "state must have 2 tensors for adam, got 1": {"rule": "adam"},
    "state must have 0 tensors for sgd, got 1": {"rule": "sgd"},
    "state[0] must have shape [4], got [4, 3]": {"rule": "row_wise_adagrad"},
    "state[0] must have shape [4, 3], got [4]": {"state": [ONES[:, 0]]},
    "state[0] must be contiguous, got strides [1, 4]": {"state": [torch.ones(3, 4).T]},
    "state[0] must be float32, got float64": {"state": [ONES.double()]},
    "copy must have shape [4, 3], got [3]": {"copy": ONES[0].bfloat16()},
    "copy must be bfloat16 or float16, of a float32 table, got float32 of float32": {"copy": ONES},
    "rows must be int64, got int32": {"rows": torch.tensor([0, 3]).int()},
    "rows must have shape [ids], got [1, 2]": {"rows": torch.tensor([[0, 3]])},
    "grads must have shape [2, 3], got [4, 3]": {"grads": ONES},
    "grads must be float32, bfloat16 or float16, got float64": {"grads": torch.ones(2, 3).double()},
    "grads must be float64, got float32": {"table": ONES.double(), "state": [ONES.double()]},
    f"lr must be {SCALAR}": {"lr": torch.ones(2)},
    f"step must be {SCALAR}": {"step": torch.ones(2)},
    f"grad_scale must be {SCALAR}": {"grad_scale": torch.ones(2)},
    f"found_inf must be {SCALAR}": {"found_inf": torch.ones(2)},
    "rows[1] must be in [0, 4), got 4": {"rows": torch.tensor([0, 4])},
    "rows[0] must be in [0, 4), got -1": {"rows": torch.tensor([-1, 4])},
    "rows[0] must be in [0, 0), got 0": {"table": ONES[:0], "state": [ONES[:0]]},
}


@both
@pytest.mark.parametrize(("message", "changes"), WRONG.items(), ids=range(len(WRONG)))
def test_wrong_arguments_are_named_in_one_line(update, message, changes):
    arguments = wrong(**changes)
    before = arguments["table"].clone()
    with pytest.raises(RuntimeError) as caught:
        update(**arguments)
    assert str(caught.value) == "sparse_table_update: " + message
    assert torch.equal(arguments["table"], before)


@pytest.mark.parametrize("device", DEVICES)
@every_rule
def test_opcheck(device, rule):
    arguments = made(rule, device, rows=40, ids=50, copy=torch.bfloat16, grad=torch.bfloat16)
    torch.library.opcheck(torch.ops.airank_fast.sparse_table_update_.default, tuple(arguments), {"rule": rule})


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_without_graph_breaks(device):
    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(table, state, copy, rows, grads, lr, number):
        sparse_table_update_(table, state, copy, rows, grads * 2, lr, number, rule="adam")
        return table + 1

    compiled, eager = (made("adam", device, copy=torch.bfloat16) for _ in range(2))
    returned = step(*compiled)
    eager[4] = eager[4] * 2
    sparse_table_update_(*eager, rule="adam")
    assert_same(compiled, eager)
    assert torch.equal(returned, eager[0] + 1)


@pytest.mark.gpu
@both
def test_on_a_gpu_gradients_of_rows_outside_are_left_out(update):
    ours = made("adam", "cuda")
    expected = cloned(ours)
    ours[3], ours[4] = torch.cat([ours[3], ours[3].new_tensor([-1, 1000, 2**40])]), torch.cat([ours[4], ours[4][:3]])
    update(*ours, rule="adam")
    update(*expected, rule="adam")
    assert_same(ours, expected)


@pytest.mark.gpu
@every_rule
def test_on_a_gpu_every_run_has_the_same_bits(rule):
    arguments = made(rule, "cuda", rows=5000, ids=100_000)
    first, *others = [cloned(arguments) for _ in range(3)]
    for one in (first, *others):
        sparse_table_update_(*one, rule=rule)
    for other in others:
        assert_same(other, first)


@pytest.mark.gpu
def test_captured_step_sees_new_numbers_and_gradients():
    arguments = made("adam", "cuda", copy=torch.bfloat16)
    expected = cloned(arguments)
    found_inf = torch.zeros((), device="cuda")
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        sparse_table_update_(*cloned(arguments), rule="adam")  # warm-up
        with torch.cuda.graph(graph, stream=stream):
            sparse_table_update_(*arguments, rule="adam", found_inf=found_inf)
        for number, (lr, skip) in enumerate([(0.1, 0), (0.5, 1), (0.3, 0)], 1):
            rows, grads = made("adam", "cuda", copy=torch.bfloat16, seed=number)[3:5]
            for tensors in (arguments, expected):
                for to, value in zip(tensors[3:], (rows, grads, lr, number), strict=True):
                    to.copy_(torch.as_tensor(value))
            found_inf.fill_(skip)
            graph.replay()
            sparse_table_update_(*expected, rule="adam", found_inf=found_inf)
    torch.cuda.current_stream().wait_stream(stream)
    assert_same(arguments, expected)


def test_autograd_sees_that_the_table_has_changed():
    arguments = made("sgd")
    leaf = torch.ones(10, requires_grad=True)
    product = (arguments[0] * leaf).sum()
    sparse_table_update_(*arguments, rule="sgd")
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()
