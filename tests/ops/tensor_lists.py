"""Shared by the tests of the ops over lists of parameters: random lists, layouts, wrong arguments."""

from __future__ import annotations

import pytest
import torch

SIZES = [1, 97, 1023, 1025, 0, 40_000]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
DTYPES = [  # of parameters and gradients
    (torch.float32, torch.float32),
    (torch.float32, torch.bfloat16),
    (torch.float32, torch.float16),
    (torch.float64, torch.float64),
    (torch.bfloat16, torch.bfloat16),
    (torch.float16, torch.float16),
]
LAYOUTS = ["contiguous", "channels_last", "transposed", "every_other"]


def random_lists(device, sizes, *dtypes):
    """A list of tensors of these sizes for each dtype; an empty one for None."""
    generator = torch.Generator().manual_seed(0)
    return [
        [torch.randn(size, generator=generator).to(device, dtype) for size in sizes] if dtype else []
        for dtype in dtypes
    ]


def copies_of(params, dtype):
    """The rounded parameters: the weights of a model whose masters they are; no copies for None."""
    return [param.to(dtype) for param in params] if dtype else []


def assert_written_copies_are_where_a_step_begins(step, arguments, copies, **options):
    """A step after every third weight of list number `copies` was written is a step from masters with these."""
    written, expected = cloned(arguments), cloned(arguments)
    for copy, master in zip(written[copies], expected[0], strict=True):
        copy[::3] = 64.0  # none of the random numbers
        master[::3] = 64.0
    expected[copies] = copies_of(expected[0], written[copies][0].dtype)
    step(*written, **options)
    step(*expected, **options)
    for got, want in zip(written[: copies + 1], expected[: copies + 1], strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


def cloned(arguments):
    return [[t.clone() for t in a] if isinstance(a, list) else a for a in arguments]


def not_aligned(arguments):
    """The same numbers, each tensor one element behind the start of its memory."""
    return [[torch.cat([t[:1], t])[1:] for t in a] if isinstance(a, list) else a for a in arguments]


def strided(kind, seed, dtype=torch.float32, device="cpu"):
    """A [6, 5, 4, 3] tensor of the same random numbers in different layouts."""
    values = torch.randn(6, 5, 4, 3, generator=torch.Generator().manual_seed(seed)).to(device, dtype)
    if kind == "channels_last":
        return values.contiguous(memory_format=torch.channels_last)
    if kind == "transposed":
        return values.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)
    if kind == "every_other":
        wide = torch.zeros(6, 5, 4, 6, device=device, dtype=dtype)
        wide[..., ::2] = values
        return wide[..., ::2]
    return values


def worst_error(got, exact):
    errors = [(g.double() - e).abs().max().item() for g, e in zip(got, exact, strict=True) if e.numel()]
    return max(errors, default=0.0)


def assert_twice_the_error_at_most(got, theirs, exact, float32_units=0.0):
    """Of `theirs`, or of so many units in the last place of the largest number.

    In float64, where theirs may be the same operations as `exact`, of 64 units.
    """
    largest = max((e.abs().max().item() for e in exact if e.numel()), default=0.0)
    units = {torch.float64: 64, torch.float32: float32_units}.get(got[0].dtype, 0) if got else 0
    unit = units * torch.finfo(got[0].dtype).eps * largest if got else 0.0
    assert worst_error(got, exact) <= 2 * max(worst_error(theirs, exact), unit)


def three():
    """Three tensors of [4, 3]: a list that is right."""
    return [torch.ones(4, 3) for _ in range(3)]


# Dtypes of gradients and copies, beside float32 parameters.
COPY_DTYPES = [(torch.float32, torch.bfloat16), (torch.float32, torch.float16)]
COPY_DTYPES += [(torch.bfloat16, torch.bfloat16), (torch.float16, torch.float16)]

ONES, HALF = torch.ones(4, 3), torch.ones(4, 3, dtype=torch.float16)
# Every optimizer's message for one wrong argument; the others are right: lists three(), scalars on the CPU.
WRONG_FOR_ALL = {
    "grads must have as many tensors as params (3), got 2": {"grads": [ONES] * 2},
    "grads[1] must have shape [4, 3], got [3, 4]": {"grads": [ONES, ONES.T, ONES]},
    "grads[2] must be float32 like the others, got float16": {"grads": [ONES, ONES, HALF]},
    "params[1] must be float32 like the others, got float64": {"params": [ONES, ONES.double(), ONES]},
    "params must be float32, float64, bfloat16 or float16, got int64": {"params": [ONES.long()] * 3},
    "params must be float32, float64, bfloat16 or float16, got complex64": {"params": [ONES.to(torch.complex64)] * 3},
    "grads must be float32, bfloat16 or float16, got float64": {"grads": [ONES.double()] * 3},
    "copies must have as many tensors as params (3), got 1": {"copies": [HALF]},
    "copies must be bfloat16 or float16, of float32 params, got float32 of float32": {"copies": [ONES] * 3},
    "grads must be float32 or float16 as the copies, got bfloat16": {
        "grads": [ONES.bfloat16()] * 3,
        "copies": [HALF] * 3,
    },
    "lr must be one float32 or float64 number on cpu, got float32 of shape [2] on cpu": {"lr": torch.ones(2)},
    "grad_scale must be one float32 or float64 number on cpu, got int64 of shape [] on cpu": {
        "grad_scale": torch.tensor(2)
    },
    "found_inf must be one float32 or float64 number on cpu, got bool of shape [] on cpu": {
        "found_inf": torch.tensor(False)
    },
    "grads[0] must be on cpu, got meta": {"grads": [ONES.to("meta")] * 3},
    "grads[1] must be dense, got a sparse tensor": {"grads": [ONES, ONES.to_sparse(), ONES]},
}
