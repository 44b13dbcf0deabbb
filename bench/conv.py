"""Convolutions of airank_fast.nn against torch's, forward and backward, on a CPU.

    python bench/conv.py [--save] [--rounds N]

The layers of CycleGAN and pix2pix with one picture of 256 pixels, then layers of few channels or small pictures, as the
other tasks have on embedded data. float32; channels_last as the engine has it, and torch's contiguous too. Where the
modules have no way of their own (`choices.py`: on AVX2 they have) they are torch's, and nothing is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import harness
import torch
from torch import Tensor, nn

from airank_fast import processor
from airank_fast.nn import Conv2d, ConvTranspose2d, PatchConv2d, PointwiseConv2d

OURS = "conv"
CASES = (  # class, arguments, the input's shape
    (Conv2d, (256, 256, 3, 1, 0), (1, 256, 66, 66)),
    (Conv2d, (64, 128, 3, 2, 1), (1, 64, 256, 256)),
    (Conv2d, (128, 256, 3, 2, 1), (1, 128, 128, 128)),
    (Conv2d, (128, 256, 4, 2, 1), (1, 128, 64, 64)),
    (Conv2d, (256, 512, 4, 1, 1), (1, 256, 32, 32)),
    (ConvTranspose2d, (256, 128, 3, 2, 1, 1), (1, 256, 64, 64)),
    (ConvTranspose2d, (128, 64, 3, 2, 1, 1), (1, 128, 128, 128)),
    (ConvTranspose2d, (1024, 512, 4, 2, 1), (1, 1024, 8, 8)),
    (PatchConv2d, (3, 64, 7, 2, 3), (8, 3, 224, 224)),
    (PatchConv2d, (64, 64, 3, 1, 1), (8, 64, 56, 56)),
    (PatchConv2d, (64, 64, 3, 1, 1), (32, 64, 4, 17)),
    (PatchConv2d, (12, 12, 3, 1, 1), (8, 12, 24, 24)),
    (PatchConv2d, (24, 24, 3, 1, 1), (8, 24, 12, 12)),
    (PatchConv2d, (12, 24, 3, 2, 1), (8, 12, 24, 24)),
    (PatchConv2d, (128, 128, 3, 2, 1), (128, 128, 2, 2)),
    (PatchConv2d, (256, 24, 3, 1, 2, 2), (8, 256, 12, 12)),
    (PointwiseConv2d, (16, 64), (128, 16, 8, 8)),
    (PointwiseConv2d, (64, 256), (8, 64, 12, 12)),
)


def step(module: nn.Module, x: Tensor, layout: torch.memory_format) -> Callable[[], list[Tensor]]:
    """Forward and backward; returns the result and the gradients."""
    module = module.to(memory_format=layout)  # type: ignore[call-overload]
    leaves = [x.contiguous(memory_format=layout).requires_grad_(), *module.parameters()]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        grad = torch.randn(module(leaves[0]).shape, generator=generator).contiguous(memory_format=layout)

    def run() -> list[Tensor]:
        y = module(leaves[0])
        return [y.detach(), *torch.autograd.grad(y, leaves, grad)]

    return run


def plain(module: nn.Module) -> nn.Module:
    """torch's module in the place of ours."""
    made = next(base for base in type(module).__mro__ if base.__module__.startswith("torch."))
    sides = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation")
    options = {
        name: getattr(module, name) for name in (*sides, "output_padding") if name in made.__init__.__annotations__
    }
    return made(**options, bias=module.bias is not None)


def check(steps: dict[str, Callable]) -> None:
    """Results and gradients must agree before anything is timed."""
    results = [run() for run in steps.values()]
    for other in results[1:]:
        for got, want in zip(results[0], other, strict=True):
            assert (got - want).norm() <= 1e-5 * want.norm()


def cases() -> Iterator[tuple[str, str, dict[str, Callable], None]]:
    """(case, our name, steps, no floor by bandwidth)."""
    for made, arguments, shape in CASES:
        torch.manual_seed(0)
        ours = made(*arguments)
        torchs = [plain(ours) for _ in range(2)]
        for module in torchs:
            module.load_state_dict(ours.state_dict())
        x = torch.randn(shape)
        steps = {
            OURS: step(ours, x, torch.channels_last),
            "torch": step(torchs[0], x, torch.contiguous_format),
            "torch, channels_last": step(torchs[1], x, torch.channels_last),
        }
        text = f"{made.__name__}{arguments} of {' x '.join(map(str, shape))}"
        yield f"{text} float32, forward + backward, cpu", OURS, steps, None


def main() -> None:
    """Check, time, print; save on request."""
    options = harness.op_options(OURS, __doc__, rounds=15)
    if processor.instruction_set() != "AVX2":
        print(f"nothing to measure: on {processor.instruction_set()} the modules are torch's")
        return
    harness.run_cases(OURS, options, cases(), check)


if __name__ == "__main__":
    main()
