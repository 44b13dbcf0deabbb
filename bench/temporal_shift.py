"""nn.TemporalShift with its 1x1 convolution, forward and backward, at the sizes of TSM over ResNet-50.

    python bench/temporal_shift.py [--save] [--compile] [--rounds N] [--device cpu|cuda]

Peers: the shift as published, by three assignments into zeros (mit-han-lab/temporal-shift-module), in torch eager and
under torch.compile; and by torch.cat of the shifted parts. "without shift" is the convolution alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import harness
import torch
from torch import Tensor, nn

from airank_fast.nn import PointwiseConv2d, TemporalShift

FRAMES, FOLD_DIV = 8, 8
SIZES = [(64, 64, 56), (256, 64, 56), (512, 128, 28), (1024, 256, 14), (2048, 512, 7)]  # channels in and out, side
CLIPS = {"cpu": 1, "cuda": 16}
SMALL = (128, (64, 32, 8))  # frames, and the second stage of the recipe of moving digits


def assigned(x: Tensor) -> Tensor:
    """The shift as published."""
    clips = x.unflatten(0, (-1, FRAMES))
    fold, out = x.shape[1] // FOLD_DIV, torch.zeros_like(clips)
    out[:, :-1, :fold] = clips[:, 1:, :fold]
    out[:, 1:, fold : 2 * fold] = clips[:, :-1, fold : 2 * fold]
    out[:, :, 2 * fold :] = clips[:, :, 2 * fold :]
    return out.flatten(0, 1)


def concatenated(x: Tensor) -> Tensor:
    """The shift by torch.cat."""
    clips = x.unflatten(0, (-1, FRAMES))
    fold = x.shape[1] // FOLD_DIV
    ahead, behind, rest = clips.split([fold, fold, x.shape[1] - 2 * fold], 2)
    zeros = torch.zeros_like(ahead[:, :1])
    shifted = torch.cat([ahead[:, 1:], zeros], 1), torch.cat([zeros, behind[:, :-1]], 1)
    return torch.cat([*shifted, rest], 2).flatten(0, 1)


def step(function: Callable[[Tensor], Tensor], conv: nn.Module, x: Tensor, grad: Tensor) -> Callable:
    """Forward and backward; returns the result and the gradients."""

    def run() -> list[Tensor]:
        x.grad = conv.weight.grad = None
        y = function(x)
        y.backward(grad)
        return [y.detach(), x.grad, conv.weight.grad]

    return run


def check(steps: dict[str, Callable]) -> None:
    """Results and gradients must agree before anything is timed."""
    results = {name: run() for name, run in steps.items() if name != "without shift"}
    for other in results.values():
        for got, want in zip(results["TemporalShift"], other, strict=True):
            largest = want.float().abs().max()
            tolerance = 2**-6 if got.dtype != torch.float32 else 1e-4
            torch.testing.assert_close(got.float() / largest, want.float() / largest, rtol=0, atol=tolerance)


def cases(device: str, compiled: bool) -> Iterator[tuple[str, str, dict[str, Callable], None]]:
    """(case, ours, steps, no bytes that must move)."""
    sizes = [(CLIPS[device] * FRAMES, size) for size in SIZES] + ([SMALL] if device == "cpu" else [])
    for dtype in (torch.float32,) if device == "cpu" else (torch.float32, torch.bfloat16):
        for frames, (c_in, c_out, side) in sizes:
            torch.manual_seed(0)
            place = {"device": device, "dtype": dtype, "memory_format": torch.channels_last}
            x, grad = (torch.randn(frames, channels, side, side).to(**place) for channels in (c_in, c_out))
            conv = PointwiseConv2d(c_in, c_out).to(device, dtype)
            functions = {
                "TemporalShift": TemporalShift(conv, FRAMES, FOLD_DIV),
                "torch": lambda x, conv=conv: conv(assigned(x)),
                "torch.cat": lambda x, conv=conv: conv(concatenated(x)),
                "without shift": conv,
            }
            if compiled:
                functions["torch.compile"] = harness.compiled(functions["torch"])
            x.requires_grad_()
            steps = {name: step(function, conv, x, grad) for name, function in functions.items()}
            name = str(dtype).removeprefix("torch.")
            case = f"{frames} frames, {c_in} to {c_out} channels, {side} x {side} {name}, forward + backward, {device}"
            yield case, "TemporalShift", steps, None


def main() -> None:
    """Check, time, print; save on request."""
    options = harness.op_options("temporal_shift", __doc__, rounds=21)
    harness.run_cases("temporal_shift", options, cases(options.device, options.compile), check)


if __name__ == "__main__":
    main()
