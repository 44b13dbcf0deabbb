"""nn.DropoutAddLayerNorm against dropout, addition and layer norm of torch, forward and backward, at width 1024.

    python bench/dropout_add_layer_norm.py [--save] [--compile] [--rounds N] [--device cpu|cuda]

Cases: bfloat16 throughout; and under autocast, bfloat16 activations with float32 parameters, whose result a linear
layer takes in bfloat16. Peers: torch eager, torch.compile. Their masks differ, so that the check before timing is
without dropout. On a GPU torch's copies of x, as many as move the bytes of the floor, are timed too, as a yardstick: 16
bytes per element, where eager moves 30 in bfloat16 and 68 under autocast.
"""

from __future__ import annotations

from collections.abc import Callable

import compare
import harness
import torch
from torch import nn

from airank_fast.nn import DropoutAddLayerNorm

WIDTH, P = 1024, 0.1
NUM_BYTES = (
    16  # per element of 16 bits: x, residual, result and the sum forward; the sum, dy, dx and dresidual backward
)
CASES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "autocast": torch.bfloat16}  # what x and the result are
ROWS = {"cpu": (4096, 16384), "cuda": (4096, 16384, 65536)}


class InTorch(nn.Module):
    """The same in three operations."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout, self.norm = nn.Dropout(P), nn.LayerNorm(WIDTH)

    def forward(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Drop, add, normalise."""
        return self.norm(self.dropout(x) + residual)


def contestants(case: str, rows: int, device: str, compiled: bool) -> dict[str, Callable[[], list[torch.Tensor]]]:
    """Name -> forward and backward of a module that was checked in evaluation mode."""
    torch.manual_seed(0)
    x, residual, grad = (torch.randn(rows, WIDTH, device=device, dtype=CASES[case]) for _ in range(3))
    x.requires_grad_()
    residual.requires_grad_()
    made, results = {}, []
    modules = {"airank_fast": DropoutAddLayerNorm(WIDTH, P), "torch": InTorch()}
    for name, module in modules.items():
        module.to(device, torch.bfloat16 if case == "bfloat16" else torch.float32)
        _check_in_eval(module, case, device, x, residual, results)
        made[name] = _step(module, module, case, device, x, residual, grad)
        if name == "torch" and compiled:
            made["torch.compile"] = _step(harness.compiled(module), module, case, device, x, residual, grad)
    if device == "cuda":
        source = x.detach()
        made[compare.COPIES] = lambda: [source.clone() for _ in range(NUM_BYTES // (2 * source.element_size()))]
    return made


def _forward(run, case, device, x, residual) -> torch.Tensor:
    with torch.autocast(device, dtype=torch.bfloat16, enabled=case == "autocast"):
        return run(x, residual).to(CASES[case])


def _step(run, module, case, device, x, residual, grad) -> Callable[[], list[torch.Tensor]]:
    leaves = [x, residual, *module.parameters()]
    return lambda: torch.autograd.grad(_forward(run, case, device, x, residual), leaves, grad)


def _check_in_eval(module, case, device, x, residual, results) -> None:
    results.append(_forward(module.eval(), case, device, x, residual))
    torch.testing.assert_close(results[-1], results[0], rtol=2**-6, atol=2**-5)
    module.train()


def main() -> None:
    """Check, time, print; save on request."""
    options = harness.op_options("dropout_add_layer_norm", __doc__, rounds=31)
    bandwidth = harness.bandwidth(options.device)
    for case in CASES:
        for rows in ROWS[options.device]:
            steps = contestants(case, rows, options.device, options.compile)
            num_bytes = NUM_BYTES * rows * WIDTH * CASES[case].itemsize // 2
            times = harness.time_rounds(steps, num_rounds=options.rounds, device=options.device, num_bytes=num_bytes)
            title = f"forward + backward {rows} x {WIDTH} {case}, {options.device}"
            print(harness.as_text(title, times, "airank_fast"))
            print(f"  {'floor by bandwidth':24} {1e3 * num_bytes / bandwidth:9.3f} ms")
            if options.save:
                floor = {"floor_s": num_bytes / bandwidth, "bytes_moved": num_bytes}
                harness.save("dropout_add_layer_norm", title, times, "airank_fast", **floor)


if __name__ == "__main__":
    main()
