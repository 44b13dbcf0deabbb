"""ops.fm, forward and backward, against torch's, on embeddings as DeepFM has them.

    python bench/fm.py [--save] [--no-compile] [--rounds N] [--device cpu|cuda]

Samples x fields x dim: Criteo's 26 categorical columns, and 39 with the numbers, of 10 numbers each (AI-Rank's DeepFM,
batches of 1,000), and the table that comes with the package. Peers: torch eager and torch.compile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import harness
import torch
from torch import Tensor

from airank_fast.ops import fm

DTYPES = (torch.float32, torch.bfloat16)
SHAPES = ((1000, 39, 10), (8192, 39, 10), (8192, 26, 16), (256, 9, 8))


def eager(x: Tensor) -> Tensor:
    """The same in torch, as DeepCTR-Torch and torchrec have it."""
    return 0.5 * (x.sum(1).square() - x.square().sum(1)).sum(1)


def step(function: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor) -> Callable[[], list[Tensor]]:
    """Forward and backward; returns the result and the gradient."""

    def run() -> list[Tensor]:
        x.grad = None
        y = function(x)
        y.backward(grad.to(y.dtype))
        return [y.detach(), x.grad]

    return run


def check(steps: dict[str, Callable]) -> None:
    """Results and gradients must agree before anything is timed."""
    results = [run() for run in steps.values()]
    for other in results[1:]:
        for got, want in zip(results[0], other, strict=True):
            largest = want.float().abs().max()
            tolerance = 1e-4 if want.dtype == torch.float32 else 2**-5
            torch.testing.assert_close(got.float() / largest, want.float() / largest, rtol=0, atol=tolerance)


def cases(device: str, compiled: bool) -> Iterator[tuple[str, str, dict[str, Callable], int]]:
    """(case, our name, steps, bytes that must move)."""
    for dtype in DTYPES:
        for shape in SHAPES:
            torch.manual_seed(0)
            x = torch.randn(shape, device=device).to(dtype).requires_grad_()
            grad = torch.randn(shape[0], device=device)
            functions = {"fm": fm, "torch": eager}
            if compiled:
                functions["torch.compile"] = harness.compiled(eager)
            steps = {who: step(function, x, grad) for who, function in functions.items()}
            name = f"{' x '.join(map(str, shape))} {str(dtype).removeprefix('torch.')}, forward + backward, {device}"
            yield name, "fm", steps, 3 * x.numel() * x.element_size() + 2 * grad.numel() * grad.element_size()


def main() -> None:
    """Check, time, print; save on request."""
    options = harness.op_options("fm", __doc__, rounds=31)
    harness.run_cases("fm", options, cases(options.device, options.compile), check)


if __name__ == "__main__":
    main()
