"""ops.instance_norm_act, forward and backward, against torch's: the instance norms of CycleGAN's generator.

    python bench/instance_norm_act.py [--save] [--no-compile] [--rounds N] [--device cpu|cuda]

The generator of nine residual blocks on one picture of 256 pixels: the first layer, the first halving, the blocks,
where a ReLU or the addition of the block's input follows; and a discriminator's, in a batch of four. Peers: torch eager
and torch.compile in the same layout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import harness
import torch
from torch import Tensor
from torch.nn import functional as F

from airank_fast.ops import instance_norm_act

OURS = "instance_norm_act"
DTYPES = (torch.float32, torch.bfloat16)
CASES = (  # shape, activation, with a residual
    ((1, 64, 256, 256), "relu", False),
    ((1, 128, 128, 128), "relu", False),
    ((1, 256, 64, 64), "relu", False),
    ((1, 256, 64, 64), None, True),
    ((4, 256, 32, 32), "leaky_relu", False),
)
SLOPE = 0.2


def ours(x: Tensor, residual: Tensor | None, activation: str | None) -> Tensor:
    """The op."""
    return instance_norm_act(x, None, None, residual, activation=activation, negative_slope=SLOPE)


def eager(x: Tensor, residual: Tensor | None, activation: str | None) -> Tensor:
    """As the networks' own code has it."""
    y = F.instance_norm(x)
    if y.requires_grad and not torch.compiler.is_compiling():
        # Of one picture torch 2.13's gradient is wrong on a CPU where that of y is channels_last.
        y.register_hook(lambda gradient: gradient.contiguous())
    y = y if residual is None else y + residual
    return {None: lambda z: z, "relu": F.relu, "leaky_relu": lambda z: F.leaky_relu(z, SLOPE)}[activation](y)


def step(function: Callable, inputs: list[Tensor], activation: str | None, grad: Tensor) -> Callable[[], list[Tensor]]:
    """Forward and backward; returns the result and the gradients."""
    leaves = [t.detach().clone(memory_format=torch.preserve_format).requires_grad_() for t in inputs]

    def run() -> list[Tensor]:
        y = function(leaves[0], leaves[1] if len(leaves) > 1 else None, activation)
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
        for shape, activation, with_residual in CASES:
            for layout in ("contiguous", "channels_last"):
                torch.manual_seed(0)
                memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
                tensors = [torch.randn(shape, device=device) for _ in range(2 + with_residual)]
                grad, *inputs = (t.to(dtype).contiguous(memory_format=memory_format) for t in tensors)
                functions = {OURS: ours, "torch": eager}
                if compiled:
                    functions["torch.compile"] = harness.compiled(eager)
                steps = {who: step(function, inputs, activation, grad) for who, function in functions.items()}
                what = " + ".join([*["addition"] * with_residual, *[activation] * (activation is not None)])
                name = f"{' x '.join(map(str, shape))}, {what}, {layout} {str(dtype).removeprefix('torch.')}"
                # x, y and a residual; y's gradient, x, x's gradient. The residual's is y's.
                num_bytes = (5 + with_residual) * grad.numel() * grad.element_size()
                yield f"{name}, forward + backward, {device}", OURS, steps, num_bytes


def main() -> None:
    """Check, time, print; save on request."""
    options = harness.op_options(OURS, __doc__, rounds=31)
    harness.run_cases(OURS, options, cases(options.device, options.compile), check)


if __name__ == "__main__":
    main()
