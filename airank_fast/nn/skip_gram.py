"""skip_gram_loss: skip-gram with negative sampling as a loss, whose backward pass has the trained rows' changes."""

from __future__ import annotations

import torch
from torch import Tensor

from airank_fast.ops.skip_gram import negative_table, skip_gram

__all__ = ["negative_table", "skip_gram_loss"]


def skip_gram_loss(
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
    scale: float = 1.0,
) -> Tensor:
    """The mean loss of the pairs of a word and a context, each before the step over its window: float32 scalar.

    The sentences are trained word by word, as word2vec.c does it, on copies of the rows that they touch. In backward
    the gradients of `input` and `output` are sparse COO tensors of these rows, with what they changed by, divided by
    -lr and times `scale`: SGD with this lr makes the weights those of the copies. With the ranks of
    DistributedDataParallel, which takes means of gradients, a scale of their number adds up the changes of all.

    Arguments but `scale` are those of airank_fast.ops.skip_gram, whose errors these are.
    """
    options = {"lr": lr, "window": window, "num_negatives": num_negatives, "seed": seed}
    options |= {"threads": threads, "unlocked": unlocked}
    return _Loss.apply(input, output, words, offsets, negatives, options, scale)


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, output, words, offsets, negatives, options, scale):
        result = skip_gram(input.detach(), output.detach(), words, offsets, negatives, **options)
        ctx.shape, ctx.scale = input.shape, scale
        ctx.save_for_backward(result.input_rows, result.input_deltas, result.output_rows, result.output_deltas)
        return (result.loss_sum / max(1, result.num_pairs)).float()

    @staticmethod
    def backward(ctx, grad):
        input_rows, input_deltas, output_rows, output_deltas = ctx.saved_tensors
        scale = grad * ctx.scale
        parts = ((input_rows, input_deltas), (output_rows, output_deltas))
        grads = [
            torch.sparse_coo_tensor(rows[None], deltas * scale, ctx.shape, check_invariants=False)
            for rows, deltas in parts
        ]
        return *grads, None, None, None, None, None
