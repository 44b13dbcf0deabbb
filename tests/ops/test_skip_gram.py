"""airank_fast::skip_gram against its reference, against autograd of the plain formula, and against wrong arguments; on
the CPU and, with -m gpu, on CUDA. The draws of negative_table against their shares."""

from __future__ import annotations

import pytest
import torch
from ops.threads import in_threads
from torch.nn import functional as F

from airank_fast.engine import system
from airank_fast.ops import skip_gram
from airank_fast.ops.skip_gram import negative_table, skip_gram_draws, skip_gram_reference

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
ROWS = 50
SENTENCES = (5, 0, 1, 7, 2, 1, 23)
OPTIONS = {"lr": 0.1, "window": 4, "num_negatives": 5, "seed": 3, "threads": 1, "unlocked": False}


def batch(rows=ROWS, dim=10, sentences=SENTENCES):
    """Both tables, words, offsets and a table of negatives."""
    generator = torch.Generator().manual_seed(0)
    tables = [torch.randn(rows, dim, generator=generator) / dim**0.5 for _ in range(2)]
    offsets = torch.tensor([0, *sentences]).cumsum(0)
    words = torch.randint(rows, (int(offsets[-1]),), generator=generator)
    return *tables, words, offsets, negative_table(torch.rand(rows, generator=generator))


def reference(input, output, words, offsets, negatives, **options):
    return skip_gram_reference(input, output, words, offsets, negatives, *(OPTIONS | options).values())


def trained(arguments, device="cpu", **options):
    """The result for arguments on the device, on the CPU."""
    result = skip_gram(*(argument.to(device) for argument in arguments), **(OPTIONS | options))
    return result._replace(**{name: each.cpu() for name, each in result._asdict().items() if torch.is_tensor(each)})


def assert_close(result, expected, lr=OPTIONS["lr"]):
    """Rows are rounded at every window, and deltas are their differences divided by lr."""
    assert result[1] == int(expected[1])
    for got, of_reference in zip((result[0], *result[2:]), (expected[0], *expected[2:]), strict=True):
        assert got.dtype == of_reference.dtype
        torch.testing.assert_close(got, of_reference, rtol=1e-5, atol=1e-6 / lr)


def test_a_kernel_is_loaded():
    pytest.importorskip("airank_fast._C", reason="the extension is not built", exc_type=ImportError)
    assert system.kernels()["skip_gram"]["cpu"] == "kernel"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("dim", "num_negatives"),
    [*((dim, 5) for dim in (1, 8, 16, 17, 97, 100, 300)), *((17, number) for number in (0, 1, 2, 3, 8, 13))],
)
def test_the_reference(dim, num_negatives, device):
    arguments, options = batch(dim=dim), {"num_negatives": num_negatives}
    assert_close(trained(arguments, device, **options), reference(*arguments, **options))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("window", [1, 2, 9, 1000, 2**31 - 1])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_windows_of_any_size(window, dtype, device):
    input, output, words, offsets, negatives = batch()
    arguments = input, output, words.to(dtype), offsets.int(), negatives
    expected = reference(*arguments[:3], offsets, negatives, window=window)
    assert_close(trained(arguments, device, window=window), expected)


@pytest.mark.gpu
def test_on_a_gpu_a_window_may_be_too_large_for_shared_memory():
    arguments = batch(dim=300, sentences=(300, 2))
    assert_close(trained(arguments, "cuda", window=299, lr=0.01), reference(*arguments, window=299, lr=0.01), 0.01)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sentences", [(), (0, 0), (1,), (1, 1, 0, 1)])
def test_without_a_pair_no_row_is_touched(sentences, device):
    result = trained(batch(sentences=sentences), device)
    assert result.loss_sum == 0
    assert result.num_pairs == 0
    assert result.input_rows.shape == result.output_rows.shape == (0,)
    assert result.input_deltas.shape == result.output_deltas.shape == (0, 10)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("num_negatives", [1, 5])
def test_the_same_words_many_times(rows, num_negatives, device):
    """Windows whose context words are equal, and negatives of which most are skipped."""
    arguments = batch(rows=rows, sentences=(2, 30))
    options = {"num_negatives": num_negatives, "lr": 0.01}
    assert_close(trained(arguments, device, **options), reference(*arguments, **options), 0.01)


@pytest.mark.parametrize("device", DEVICES)
def test_long_batches(device):
    """Losses are summed over hundreds of windows, fetched ahead across sentences."""
    arguments = batch(rows=300, dim=20, sentences=[17] * 24 + [1] * 9 + [150])
    result, expected = trained(arguments, device, lr=0.02), reference(*arguments, lr=0.02)
    assert_close(result, expected, 0.02)
    torch.testing.assert_close(result.loss_sum, expected[0], rtol=1e-6, atol=0)


@pytest.mark.parametrize("function", [trained, lambda arguments, **options: reference(*arguments, **options)])
def test_one_window_is_a_step_of_the_losss_gradient(function):
    """Two words are two windows of one pair each; a learning rate of almost 0 leaves the rows as they were."""
    input, output, words, offsets, negatives = batch(dim=30, sentences=(2,))
    result = function((input, output, words, offsets, negatives), lr=1e-3)
    leaves = [input.double().requires_grad_(), output.double().requires_grad_()]
    _, drawn = skip_gram_draws(words, negatives, 4, 5, 3)
    loss = 0
    for centre, context in ((0, 1), (1, 0)):
        x = leaves[0][words[context]]
        loss = loss - F.logsigmoid(x @ leaves[1][words[centre]])
        for negative in drawn[centre][drawn[centre] >= 0]:
            loss = loss - F.logsigmoid(-x @ leaves[1][negative])
    loss.backward()
    torch.testing.assert_close(result[0], loss.detach(), rtol=2e-3, atol=0)
    for rows, deltas, leaf in zip(result[2::2], result[3::2], leaves, strict=True):
        assert torch.equal(rows, leaf.grad.abs().sum(1).nonzero()[:, 0])
        torch.testing.assert_close(deltas.double(), leaf.grad[rows], rtol=5e-3, atol=1e-3)


@pytest.mark.parametrize("device", DEVICES)
def test_large_dot_products_saturate(device):
    input, output, words, offsets, negatives = batch(sentences=(2,))
    for factor in (1e2, 1e4):
        result = trained((factor * input, factor * output, words, offsets, negatives), device)
        assert_close(result, reference(factor * input, factor * output, words, offsets, negatives))
        assert result.input_deltas.isfinite().all()


@pytest.mark.parametrize("device", DEVICES)
def test_nan_propagates(device):
    input, output, words, offsets, negatives = batch(sentences=(2, 2))
    output[words[0]] = torch.nan
    result = trained((input, output, words, offsets, negatives), device)
    assert result.loss_sum.isnan()
    rows = result.input_rows[result.input_deltas.isnan().all(1)]
    assert words[1] in rows


def test_tables_are_not_changed_and_trained_rows_follow():
    arguments = batch(rows=20, dim=16, sentences=[10] * 30)
    input, output = (table.clone() for table in arguments[:2])
    words, losses = torch.arange(300) % 20, []  # a word's neighbours are always the same
    for seed in range(5):
        result = trained((input, output, words, *arguments[3:]), seed=seed, window=1)
        losses.append(float(result.loss_sum) / result.num_pairs)
        input[result.input_rows] -= 0.1 * result.input_deltas
        output[result.output_rows] -= 0.1 * result.output_deltas
    assert losses[-1] < 0.9 * losses[0]
    assert all(torch.equal(table, again) for table, again in zip(arguments[:2], batch(20, 16)[:2], strict=True))


@pytest.mark.parametrize("device", DEVICES)
def test_draws_depend_on_the_seed_alone(device):
    arguments = batch(sentences=[20] * 40)
    first, again, other = (trained(arguments, device, seed=seed) for seed in (-(2**63), -(2**63), 2**63 - 1))
    assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(first, again, strict=True))
    assert first.loss_sum != other.loss_sum


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_parts_have_copies_of_their_own(threads):
    arguments = batch(sentences=[20, 3, 1, 40, 0, 5] * 3)
    results = [in_threads(n, lambda: trained(arguments, threads=threads)) for n in (1, 2, 3)]
    assert_close(results[0], reference(*arguments, threads=threads))
    for result in results[1:]:
        for got, expected in zip(result, results[0], strict=True):
            assert torch.equal(torch.as_tensor(got), torch.as_tensor(expected))


@pytest.mark.gpu
def test_on_a_gpu_parts_have_copies_of_their_own():
    arguments = batch(sentences=[20, 3, 1, 40, 0, 5] * 3)
    first, again = (trained(arguments, "cuda", threads=7) for _ in range(2))
    assert_close(first, reference(*arguments, threads=7))
    for got, expected in zip(again, first, strict=True):
        assert torch.equal(torch.as_tensor(got), torch.as_tensor(expected))


@pytest.mark.not_emulated  # emulated parts follow each other in another order
def test_in_one_thread_parts_without_locks_follow_each_other():
    """As one part, but for the order of the losses' sum."""
    arguments = batch(sentences=[20, 3, 1, 40, 0, 5] * 3)
    one, three = trained(arguments), in_threads(1, lambda: trained(arguments, threads=3, unlocked=True))
    assert_close(three, reference(*arguments, threads=3, unlocked=True))
    for got, expected in zip(three[1:], one[1:], strict=True):
        assert torch.equal(torch.as_tensor(got), torch.as_tensor(expected))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("threads", [2, 50])
def test_parts_without_locks_share_one_copy(threads, device, pytestconfig):
    """Each part trains what the others have left: as one part, but for the order of the windows. On a GPU all changes
    are added; CPU threads may lose some to each other."""
    arguments, options = batch(sentences=[20, 3, 1, 40, 0, 5] * 3), {"lr": 1e-3}
    one = trained(arguments, **options)
    shared = in_threads(2, lambda: trained(arguments, device, threads=threads, unlocked=True, **options))
    assert shared.num_pairs == one.num_pairs
    torch.testing.assert_close(shared.loss_sum, one.loss_sum, rtol=0.05, atol=0)
    nothing_is_lost = device == "cuda" or pytestconfig.getoption("--cuda-on-cpu")
    for rows, deltas, row, delta in zip(shared[2::2], shared[3::2], one[2::2], one[3::2], strict=True):
        assert torch.equal(rows, row)
        if nothing_is_lost:
            torch.testing.assert_close(deltas, delta, rtol=0.05, atol=0.1)


def test_parameters_are_taken_as_tables():
    arguments = batch()
    parameters = [torch.nn.Parameter(table) for table in arguments[:2]]
    result = trained((*parameters, *arguments[2:]))
    assert not result.input_deltas.requires_grad
    assert torch.equal(result.output_deltas, trained(arguments).output_deltas)


@pytest.mark.parametrize("counts", [[5], [1, 1, 1], [0, 3, 0], [1, 2, 3, 0, 4, 10, 0.5], [1e12, 1, 1, 1]])
def test_negatives_have_their_shares(counts):
    table = negative_table(counts)
    below, other = (table >> 32).double() / 2**31, table & 0xFFFFFFFF
    shares = below.index_add(0, other, 1 - below) / len(counts)
    expected = torch.tensor(counts, dtype=torch.float64) ** 0.75
    torch.testing.assert_close(shares, expected / expected.sum(), rtol=0, atol=2e-9)
    assert bool((shares[expected == 0] == 0).all())


def test_draws_have_the_shares_of_their_table():
    counts = torch.tensor([1.0, 50, 3, 0, 200, 7])
    words = torch.full((20_000,), 3)
    windows, drawn = skip_gram_draws(words, negative_table(counts, 1.0), 5, 1, 7)
    found = torch.bincount(drawn[:, 0], minlength=6) / 20_000
    torch.testing.assert_close(found, counts / counts.sum(), rtol=0, atol=0.01)
    torch.testing.assert_close(
        torch.bincount(torch.tensor(windows))[1:] / 20_000, torch.full((5,), 0.2), rtol=0, atol=0.01
    )
    _, drawn = skip_gram_draws(words, negative_table(counts), 5, 5, 7)
    assert all(len(set(kept)) == len(kept) for kept in ([n for n in row if n >= 0] for row in drawn[:500].tolist()))


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (torch.ones(2, 2), "counts must have shape [words], got [2, 2]"),
        ([], "counts must be finite, at least 0, and one of them above 0, got []"),
        ([0, 0], "counts must be finite, at least 0, and one of them above 0, got [0.0, 0.0]"),
        ([1, -1], "counts must be finite, at least 0, and one of them above 0, got [1.0, -1.0]"),
        ([1, torch.inf], "counts must be finite, at least 0, and one of them above 0, got [1.0, inf]"),
    ],
)
def test_wrong_counts_are_named_in_one_line(counts, message):
    with pytest.raises(RuntimeError) as caught:
        negative_table(counts)
    assert str(caught.value) == "negative_table: " + message


INPUT, OUTPUT, WORDS, OFFSETS, NEGATIVES = batch()
WRONG = {
    "input must have shape [rows, dim], got [50]": {"input": INPUT[:, 0]},
    "input must be float32, got float64": {"input": INPUT.double()},
    "input must be contiguous, got strides [1, 50]": {"input": INPUT.T.contiguous().T},
    "output must have shape [rows, dim], got [50]": {"output": OUTPUT[:, 0]},
    "output must be float32, got bfloat16": {"output": OUTPUT.bfloat16()},
    "output must be contiguous, got strides [1, 50]": {"output": OUTPUT.T.contiguous().T},
    "output must have shape [50, 10], got [49, 10]": {"output": OUTPUT[1:]},
    "words must be int64 or int32, got float32": {"words": WORDS.float()},
    "words must have shape [words], got [3, 13]": {"words": WORDS.view(3, 13)},
    "words[2] must be in [0, 50), got 50": {"words": torch.where(torch.arange(39) == 2, 50, WORDS)},
    "words[0] must be in [0, 50), got -50": {"words": WORDS - 50 - WORDS[0]},
    "offsets must be int64, got int32": {"offsets": OFFSETS.int()},
    "offsets must have shape [sentences + 1], got [0]": {"offsets": OFFSETS[:0]},
    "offsets[0] must be 0, got 5": {"offsets": OFFSETS[1:]},
    "offsets[1] must be in [0, 39], got 40": {"offsets": torch.tensor([0, 40])},
    "offsets[2] must be in [3, 39], got 2": {"offsets": torch.tensor([0, 3, 2, 39])},
    "offsets[1] must be the number of words, 39, got 38": {"offsets": torch.tensor([0, 38])},
    "negatives must be int64, got int32": {"negatives": NEGATIVES.int()},
    "negatives must have shape [50], got [49]": {"negatives": NEGATIVES[1:]},
    "negatives must be a table of negative_table, got other numbers": {"negatives": torch.full((50,), 50)},
    "lr must be finite and above 0, got 0": {"lr": 0.0},
    "lr must be finite and above 0, got nan": {"lr": float("nan")},
    "lr must be finite and above 0, got inf": {"lr": float("inf")},
    "window must be in [1, 2147483647], got 0": {"window": 0},
    "window must be in [1, 2147483647], got 2147483648": {"window": 2**31},
    "num_negatives must be at least 0, got -1": {"num_negatives": -1},
    "threads must be at least 1, got 0": {"threads": 0},
}


def on_device(device, wrong):
    """The op's arguments by name, with a wrong one."""
    tensors = {"input": INPUT, "output": OUTPUT, "words": WORDS, "offsets": OFFSETS, "negatives": NEGATIVES}
    arguments = tensors | OPTIONS | wrong
    return {name: each.to(device) if torch.is_tensor(each) else each for name, each in arguments.items()}


@pytest.mark.parametrize("function", [torch.ops.airank_fast.skip_gram, skip_gram_reference])
@pytest.mark.parametrize(("message", "wrong"), WRONG.items(), ids=range(len(WRONG)))
def test_wrong_arguments_are_named_in_one_line(function, message, wrong):
    with pytest.raises(RuntimeError) as caught:
        function(*on_device("cpu", wrong).values())
    assert str(caught.value) == "skip_gram: " + message


@pytest.mark.gpu
def test_on_a_gpu_the_contents_of_arguments_are_checked_too():
    for message, wrong in WRONG.items():
        with pytest.raises(RuntimeError) as caught:
            torch.ops.airank_fast.skip_gram(*on_device("cuda", wrong).values())
        assert str(caught.value) == "skip_gram: " + message
    with pytest.raises(RuntimeError) as caught:
        torch.ops.airank_fast.skip_gram(*(on_device("cuda", {}) | {"words": WORDS}).values())
    assert str(caught.value) == "skip_gram: words must be on cuda:0, got cpu"


@pytest.mark.gpu
def test_on_a_gpu_nothing_waits_but_the_op_itself():
    """Its wait, for the number of rows, is not one of torch's."""
    arguments = [argument.cuda() for argument in batch()]
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = skip_gram(*arguments, **OPTIONS)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert result.num_pairs == int(reference(*batch())[1])


@pytest.mark.gpu
def test_another_stream():
    arguments, stream = batch(), torch.cuda.Stream()
    with torch.cuda.stream(stream):
        result = trained(arguments, "cuda")
    assert_close(result, reference(*arguments))


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device):
    arguments = (*(argument.to(device) for argument in batch()), *OPTIONS.values())
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.airank_fast.skip_gram.default, arguments, test_utils=tests)
