"""airank_fast::skip_gram: word2vec's training on a batch of sentences, as the gradient of the rows that it touches.

Formulas and draws in csrc/skip_gram_math.h. The batch is trained in its order by plain SGD, each window from the rows
that the one before has left, on a copy of the touched rows: their way, divided by the learning rate, is what the op
returns, so that it may be exchanged between ranks and applied as any sparse gradient.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from airank_fast.ops.checks import check_device, check_dtype, check_shape, require
from airank_fast.ops.philox import philox
from airank_fast.ops.sparse_table import check_contiguous, check_inside, check_int64

_OP = "skip_gram"
_MOST = 2**31 - 1
_library = torch.library.Library("airank_fast", "FRAGMENT")
_library.define(
    f"{_OP}(Tensor input, Tensor output, Tensor words, Tensor offsets, Tensor negatives, float lr, int window,"
    " int num_negatives, int seed, int threads, bool unlocked)"
    " -> (Tensor loss_sum, Tensor num_pairs, Tensor input_rows, Tensor input_deltas, Tensor output_rows,"
    " Tensor output_deltas)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


class SkipGramResult(NamedTuple):
    """What `skip_gram` returns; for both tables `table[rows] -= lr * deltas` gives the trained rows."""

    loss_sum: Tensor
    """float64 scalar: the loss of all pairs with their negatives, each before its window's step."""
    num_pairs: int
    """Pairs of a context word and a centre word."""
    input_rows: Tensor
    """int64 [n], ascending."""
    input_deltas: Tensor
    """float32 [n, dim]."""
    output_rows: Tensor
    """int64 [m], ascending."""
    output_deltas: Tensor
    """float32 [m, dim]."""


def skip_gram(
    input: Tensor,
    output: Tensor,
    words: Tensor,
    offsets: Tensor,
    negatives: Tensor,
    *,
    lr: float,
    window: int,
    num_negatives: int,
    seed: int,
    threads: int = 1,
    unlocked: bool = False,
) -> SkipGramResult:
    """One pass of skip-gram with negative sampling over sentences, as in word2vec.c.

    The input row of each context word predicts the output row of the centre word. The distance to the context words is
    drawn for each centre word from 1 to `window`. Negatives are drawn for each centre word too, and its context words
    share them; one that equals the centre word or an earlier one is skipped. A window is one step of SGD.

    Args:
        input, output: [rows, dim], float32, contiguous; they are not changed.
        words: [words], int64 or int32, the rows of the words of all sentences.
        offsets: [sentences + 1], int64 or int32: where each sentence begins in words; the last is the number of words.
        negatives: [rows], int64, from `negative_table`.
        lr: learning rate, above 0.
        window: the largest distance of a context word, at least 1.
        num_negatives: drawn for each centre word, at least 0. The CPU kernel is fastest for 2, 5, 8, 11, ..., because
            it takes the words that a window predicts 3 at a time.
        seed: draws depend on it and on a centre word's position in words alone.
        threads: the sentences are cut into as many parts of about equally many words, which run on torch's threads; on
            a GPU each is a block of threads, and it takes at least one for each multiprocessor to use the device.
        unlocked: the parts train one copy of the rows without locks (Hogwild); what they read of each other depends on
            their timing. On a GPU all changes are added; on the CPU one that is made at the same time as another can
            be lost. Otherwise each part trains a copy of its own, and the sum of their deltas is returned: the same
            bits in every run, but rows that many windows touch move up to `threads` times too far.

    Returns:
        See SkipGramResult. Rows are those of the words in sentences of two or more, in `output` of the negatives too.

    An id outside the table is an error. On a GPU the host waits once, for the draws: they decide how many rows are
    returned, and the errors in the contents of words, offsets and negatives come with that number. So the op cannot be
    captured in a CUDA graph. Not differentiable.

    Raises:
        RuntimeError: "skip_gram: NAME must be WHAT, got GOT".
    """
    options = lr, window, num_negatives, seed, threads, unlocked
    loss_sum, num_pairs, *rows_and_deltas = torch.ops.airank_fast.skip_gram(
        input.detach(), output.detach(), words, offsets.long(), negatives, *options
    )
    return SkipGramResult(loss_sum, int(num_pairs), *rows_and_deltas)


def negative_table(counts: Tensor | Sequence[float], power: float = 0.75) -> Tensor:
    """A table to draw words from, each with a probability proportional to its count to the power.

    Args:
        counts: [words], how often each word occurs, at least 0 and one of them above 0. A word of count 0 is not drawn.
        power: 0.75 in word2vec.c.

    Returns:
        int64 [words] on the CPU, an alias table (Vose, 1991): of a uniform row and a uniform fraction, the row is drawn
        where the fraction is below the upper half of its entry, in units of 2^-31; else the row in the lower half.

    Raises:
        RuntimeError: "negative_table: NAME must be WHAT, got GOT".
    """
    op = "negative_table"
    counts = torch.as_tensor(counts, device="cpu").double()
    require(op, counts.dim() == 1, "counts must have shape [words]", list(counts.shape))
    good = bool((counts >= 0).all()) and bool(counts.isfinite().all()) and bool((counts > 0).any())
    require(op, good, "counts must be finite, at least 0, and one of them above 0", counts.tolist()[:8])
    shares = torch.where(counts > 0, counts**power, 0)
    shares = shares * (len(shares) / shares.sum())
    # Words of a share below 1 are filled up by the others in order. Sums tell which one fills which: `lacking` before
    # each of the small, `spare` up to each of the large, which ends below 1 itself and is filled by the next.
    least = shares.max().clamp(max=1)  # rounded, the shares of equal counts may all be below 1
    small, large = (shares < least).nonzero()[:, 0], (shares >= least).nonzero()[:, 0]
    lacking = torch.cat([shares.new_zeros(1), (1 - shares[small]).cumsum(0)])
    spare = (shares[large] - 1).cumsum(0)
    kept, other = shares.clone(), torch.arange(len(shares))
    last = len(large) - 1
    other[small] = large[torch.searchsorted(spare, lacking[:-1], right=True).clamp(max=last)]
    filled = lacking[torch.searchsorted(lacking, spare).clamp(max=len(small))]
    kept[large] = 1 + spare - filled
    kept[large[last]] = 1
    other[large[:last]] = large[1:]
    return (kept * 2**31).round().long().clamp(0, 2**31 - 1) * 2**32 + other


@torch.library.impl(_library, _OP, "CompositeExplicitAutograd")
def skip_gram_reference(
    input: Tensor,
    output: Tensor,
    words: Tensor,
    offsets: Tensor,
    negatives: Tensor,
    lr: float,
    window: int,
    num_negatives: int,
    seed: int,
    threads: int,
    unlocked: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The same in plain torch, window by window; its parts do not run at the same time."""
    _check(input, output, words, offsets, negatives, lr, window, num_negatives, threads)
    bounds = offsets.tolist()
    _check_offsets(bounds, len(words))
    check_inside(_OP, "words", words, (words >= 0) & (words < len(input)), torch.tensor(len(input)))
    windows, drawn = skip_gram_draws(words, negatives, window, num_negatives, seed)
    sentences = [(first, last) for first, last in itertools.pairwise(bounds) if last - first >= 2]
    there = torch.cat([torch.arange(0), *(torch.arange(*sentence) for sentence in sentences)]).to(words.device)
    input_rows = words[there].long().unique()
    output_rows = torch.cat([words[there].long(), drawn[there].flatten()]).unique()
    output_rows = output_rows[output_rows >= 0]
    olds = [input[input_rows], output[output_rows]]
    news = [old.clone() for old in olds]
    sums = [torch.zeros_like(old) for old in olds]
    loss_sum, num_pairs = torch.zeros((), dtype=torch.float64, device=input.device), 0
    for part in range(threads):
        for first, last in sentences:
            if first * threads // len(words) != part:
                continue
            for centre in range(first, last):
                lower, upper = max(first, centre - windows[centre]), min(last, centre + windows[centre] + 1)
                context = torch.cat([words[lower:centre], words[centre + 1 : upper]]).long()
                outputs = torch.cat([words[centre : centre + 1].long(), drawn[centre][drawn[centre] >= 0]])
                rows = torch.searchsorted(input_rows, context), torch.searchsorted(output_rows, outputs)
                loss_sum += _step(news, rows, lr)
                num_pairs += len(context)
        if not unlocked or part == threads - 1:
            sums = [total + (old - new) / lr for total, old, new in zip(sums, olds, news, strict=True)]
            news = [old.clone() for old in olds]
    return loss_sum, torch.tensor(num_pairs), input_rows, sums[0], output_rows, sums[1]


def _step(tables: Sequence[Tensor], rows: tuple[Tensor, Tensor], lr: float) -> Tensor:
    """One window: changes its rows and returns its loss."""
    inputs, outputs = (table[of_table] for table, of_table in zip(tables, rows, strict=True))
    sign = inputs.new_full((len(outputs),), -1)
    sign[0] = 1
    margins = sign * (inputs @ outputs.T)
    steps = lr * sign * torch.sigmoid(-margins)
    tables[0].index_add_(0, rows[0], steps @ outputs)
    tables[1].index_add_(0, rows[1], steps.T @ inputs)
    return -F.logsigmoid(margins.double()).sum()


def skip_gram_draws(
    words: Tensor, negatives: Tensor, window: int, num_negatives: int, seed: int
) -> tuple[list[int], Tensor]:
    """The window of each word, and its negatives, int64 [words, num_negatives]; -1 for one that is skipped."""
    blocks = (1 + num_negatives + 3) // 4
    counters = torch.arange(len(words) * blocks, device=words.device)
    key, stream = torch.tensor(seed, device=words.device), torch.tensor(0, device=words.device)
    numbers = philox(key, stream, counters).view(len(words), blocks * 4)
    windows = 1 + (numbers[:, 0] * window >> 32)
    products = numbers[:, 1 : 1 + num_negatives] * len(negatives)
    entries = negatives[products >> 32]
    good = entries & 0xFFFFFFFF
    drawn = torch.where(((products & 0xFFFFFFFF) >> 1) < (entries >> 32), products >> 32, good)
    inside = bool(((drawn >= 0) & (drawn < len(negatives))).all())
    require(_OP, inside, "negatives must be a table of negative_table", "other numbers")
    equal = drawn[:, :, None] == torch.cat([words[:, None].long(), drawn], 1)[:, None, :]
    earlier = torch.ones(num_negatives, num_negatives + 1, dtype=torch.bool, device=words.device).tril()
    return windows.tolist(), drawn.masked_fill((equal & earlier).any(2), -1)


@torch.library.register_fake(f"airank_fast::{_OP}", lib=_library)
def _fake(input, output, words, offsets, negatives, lr, window, num_negatives, seed, threads, unlocked):
    _check(input, output, words, offsets, negatives, lr, window, num_negatives, threads)
    size = torch.library.get_ctx().new_dynamic_size
    num_inputs, num_outputs = size(), size()
    return (
        input.new_empty((), dtype=torch.float64),
        torch.empty((), dtype=torch.int64),  # on the CPU, where it is known as soon as the number of rows is
        input.new_empty(num_inputs, dtype=torch.int64),
        input.new_empty(num_inputs, input.shape[1]),
        input.new_empty(num_outputs, dtype=torch.int64),
        input.new_empty(num_outputs, input.shape[1]),
    )


def _check_table(name: str, table: Tensor) -> None:
    require(_OP, table.dim() == 2, f"{name} must have shape [rows, dim]", list(table.shape))
    check_dtype(_OP, name, table, torch.float32)
    check_contiguous(_OP, name, table)


def _check(input, output, words, offsets, negatives, lr, window, num_negatives, threads) -> None:
    """The checks of csrc/skip_gram_args.h, in the same order and words."""
    _check_table("input", input)
    require(_OP, input.shape[0] <= _MOST, f"input must have at most {_MOST} rows", input.shape[0])
    check_device(_OP, "output", output, input.device)
    _check_table("output", output)
    check_shape(_OP, "output", output, input.shape)
    check_device(_OP, "words", words, input.device)
    check_dtype(_OP, "words", words, torch.int64, torch.int32)
    require(_OP, words.dim() == 1, "words must have shape [words]", list(words.shape))
    check_int64(_OP, "offsets", offsets, input)
    good = offsets.dim() == 1 and offsets.shape[0] >= 1
    require(_OP, good, "offsets must have shape [sentences + 1]", list(offsets.shape))
    check_int64(_OP, "negatives", negatives, input)
    check_shape(_OP, "negatives", negatives, input.shape[:1])
    require(_OP, lr > 0 and math.isfinite(lr), "lr must be finite and above 0", f"{lr:g}")
    require(_OP, 1 <= window <= _MOST, f"window must be in [1, {_MOST}]", window)
    require(_OP, num_negatives >= 0, "num_negatives must be at least 0", num_negatives)
    require(_OP, threads >= 1, "threads must be at least 1", threads)


def _check_offsets(offsets: Sequence[int], num_words: int) -> None:
    require(_OP, offsets[0] == 0, "offsets[0] must be 0", offsets[0])
    for i, (lower, offset) in enumerate(itertools.pairwise(offsets), 1):
        require(_OP, lower <= offset <= num_words, f"offsets[{i}] must be in [{lower}, {num_words}]", offset)
    last = len(offsets) - 1
    require(_OP, offsets[last] == num_words, f"offsets[{last}] must be the number of words, {num_words}", offsets[last])
