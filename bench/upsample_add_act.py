"""ops.upsample_add_act, forward and backward, against torch's: the exchange between HRNet's branches.

    python bench/upsample_add_act.py [--save] [--no-compile] [--rounds N] [--device cpu|cuda]

The branch of highest resolution of HRNet-W18, from pictures of 512 x 1024: 18 channels of 128 x 256, to which a half, a
quarter and an eighth of the resolution are added; and W48's in channels_last. Peers: torch eager and torch.compile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import harness
import torch
from torch import Tensor
from torch.nn import functional as F

from airank_fast.ops import upsample_add_act

OURS = "upsample_add_act"
DTYPES = (torch.float32, torch.bfloat16)
CASES = (  # channels, mode, channels_last
    (18, "nearest", False),
    (18, "bilinear", False),
    (18, "bilinear", True),
    (48, "bilinear", True),
)


def eager(inputs: Sequence[Tensor], mode: str) -> Tensor:
    """As the network's own code has it."""
    y = inputs[0]
    for x in inputs[1:]:
        y = y + F.interpolate(x, y.shape[2:], mode=mode)
    return F.relu(y)


def step(function: Callable, inputs: Sequence[Tensor], grad: Tensor, mode: str) -> Callable[[], list[Tensor]]:
    """Forward and backward; returns the result and the gradients."""
    leaves = [x.detach().clone(memory_format=torch.preserve_format).requires_grad_() for x in inputs]

    def run() -> list[Tensor]:
        y = function(leaves, mode=mode)
        return [y.detach(), *torch.autograd.grad(y, leaves, grad)]

    return run


def check(steps: dict[str, Callable]) -> None:
    """Results must agree before anything is timed; in 16 bits rounding decides some of the ReLU's gradients."""
    results = [run() for run in steps.values()]
    for other in results[1:]:
        for got, want in zip(results[0], other, strict=True):
            difference = (got.float() - want.float()).norm() / want.float().norm()
            assert difference <= (1e-3 if want.dtype == torch.float32 else 5e-2), difference


def cases(device: str, compiled: bool) -> Iterator[tuple[str, str, dict[str, Callable], int]]:
    """(case, our name, steps, bytes that must move)."""
    for dtype in DTYPES:
        for channels, mode, channels_last in CASES:
            torch.manual_seed(0)
            memory_format = torch.channels_last if channels_last else torch.contiguous_format
            sizes = [(128, 256), (64, 128), (32, 64), (16, 32), (128, 256)]
            pictures = [torch.randn(2, channels, *size, device=device) for size in sizes]
            *inputs, grad = (x.to(dtype).contiguous(memory_format=memory_format) for x in pictures)
            functions = {OURS: upsample_add_act, "torch": eager}
            if compiled:
                functions["torch.compile"] = harness.compiled(eager)
            steps = {who: step(function, inputs, grad, mode) for who, function in functions.items()}
            layout = "channels_last" if channels_last else "contiguous"
            name = f"2 x {channels} x 128 x 256 {mode} {layout} {str(dtype).removeprefix('torch.')}"
            low = sum(x.numel() for x in inputs[1:])
            num_bytes = (5 * grad.numel() + 2 * low) * grad.element_size()  # x, y; y, gradient, x's gradient
            yield f"{name}, forward + backward, {device}", OURS, steps, num_bytes


def main() -> None:
    """Check, time, print; save on request."""
    options = harness.op_options(OURS, __doc__, rounds=31)
    harness.run_cases(OURS, options, cases(options.device, options.compile), check)


if __name__ == "__main__":
    main()
