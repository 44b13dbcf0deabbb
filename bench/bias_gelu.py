"""ops.bias_gelu and nn.LinearGELU, forward and backward, against torch's, at the size of BERT-large's intermediate.

    python bench/bias_gelu.py [--save] [--compile] [--rounds N] [--device cpu|cuda]

Peers: torch eager (F.gelu(x + bias); F.gelu(F.linear(x, weight, bias)) for the layer) and torch.compile.
"""

from __future__ import annotations

from collections.abc import Callable

import harness
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from airank_fast.engine.precision import amp_choice
from airank_fast.nn import LinearGELU
from airank_fast.ops import bias_gelu

DTYPES = (torch.float32, torch.bfloat16)
HIDDEN, FEATURES = 1024, 4096
ROWS = {"cpu": (4096,), "cuda": (4096, 32768)}  # of 4096 rows in 16 bits eager's intermediate may stay in a GPU's L2
LINEAR_ROWS = {"cpu": 512, "cuda": 4096}  # on a CPU the products take most of the time


def op_functions(approximate: str, compiled: bool) -> dict[str, Callable[..., Tensor]]:
    """Name -> GELU of x + bias."""

    def eager(x: Tensor, bias: Tensor) -> Tensor:
        return F.gelu(x + bias, approximate=approximate)

    found = {"bias_gelu": lambda x, bias: bias_gelu(x, bias, approximate), "torch": eager}
    return found | ({"torch.compile": harness.compiled(eager)} if compiled else {})


def linear_functions(device: str, dtype: torch.dtype, compiled: bool) -> dict[str, nn.Module]:
    """Name -> linear layer with GELU; all have the same parameters."""
    ours = LinearGELU(HIDDEN, FEATURES, device=device, dtype=dtype)
    found = {"LinearGELU": ours}
    for name in ("torch", "torch.compile")[: 1 + compiled]:
        linear = nn.Linear(HIDDEN, FEATURES, device=device, dtype=dtype)
        linear.load_state_dict(ours.state_dict())
        module = nn.Sequential(linear, nn.GELU())
        found[name] = harness.compiled(module) if "compile" in name else module
    return found


def step(function: Callable[..., Tensor], leaves: list[Tensor], grad: Tensor) -> Callable[[], list[Tensor]]:
    """Forward and backward; returns the result and the gradients."""
    parameters = list(function.parameters()) if isinstance(function, nn.Module) else []

    def run() -> list[Tensor]:
        for leaf in (*leaves, *parameters):
            leaf.grad = None
        y = function(*leaves)
        y.backward(grad)
        return [y.detach(), *(leaf.grad for leaf in (*leaves, *parameters))]

    return run


def check(steps: dict[str, Callable]) -> None:
    """Results and gradients must agree before anything is timed."""
    results = [run() for run in steps.values()]
    for other in results[1:]:
        for got, want in zip(results[0], other, strict=True):
            largest = want.float().abs().max()
            tolerance = 2**-6 if got.dtype != torch.float32 else 1e-4
            torch.testing.assert_close(got.float() / largest, want.float() / largest, rtol=0, atol=tolerance)


def cases(device: str, compiled: bool):
    """(case, ours, steps, bytes that must move, or None)."""
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        for rows in ROWS[device]:
            torch.manual_seed(0)
            x, grad = (torch.randn(rows, FEATURES, device=device).to(dtype) for _ in range(2))
            bias = torch.randn(FEATURES, device=device).to(dtype).requires_grad_()
            for approximate in ("none", "tanh"):
                leaves = [x.requires_grad_(), bias]
                steps = {who: step(f, leaves, grad) for who, f in op_functions(approximate, compiled).items()}
                case = f"{rows} x {FEATURES} {name}, {approximate}, forward + backward, {device}"
                yield case, "bias_gelu", steps, 5 * x.numel() * x.element_size()  # x, y; x, dy, dx
        if device == "cpu" and dtype != torch.float32 and amp_choice(torch.device(device)).precision == "fp32":
            continue  # products in 16 bits are emulated, and take minutes
        rows = LINEAR_ROWS[device]
        x, grad = (torch.randn(rows, n, device=device).to(dtype) for n in (HIDDEN, FEATURES))
        modules = linear_functions(device, dtype, compiled)
        steps = {who: step(module, [x.requires_grad_()], grad) for who, module in modules.items()}
        case = f"linear {rows} x {HIDDEN} to {FEATURES} {name}, forward + backward, {device}"
        yield case, "LinearGELU", steps, None


def main() -> None:
    """Check, time, print; save on request."""
    options = harness.op_options("bias_gelu", __doc__, rounds=21)
    harness.run_cases("bias_gelu", options, cases(options.device, options.compile), check)


if __name__ == "__main__":
    main()
