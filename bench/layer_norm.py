"""nn.LayerNorm against torch.nn.LayerNorm at BERT-large's width, 1024, forward and backward.

    python bench/layer_norm.py [--save] [--compile] [--rounds N] [--device cpu|cuda]

Cases: bfloat16 throughout; float32 throughout; and under autocast, a bfloat16 input with float32 parameters whose
result a linear layer takes in bfloat16: there torch casts the input to float32, normalises it and casts the result
back. Peers: torch eager, torch.compile, and where importable on a GPU apex's and Liger-Kernel's. torch's copy of x,
which reads and writes as much as the forward pass, is timed with it as a yardstick.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

import compare
import harness
import torch
import torch._functorch.config

from airank_fast.nn import LayerNorm

WIDTH = 1024
ROWS = {"cpu": (4096, 16384), "cuda": (4096, 16384, 65536)}
CASES = ("bfloat16", "float32", "autocast")


def others(device: str) -> dict[str, type]:
    """LayerNorms of other packages that are importable and run on the device."""
    found = {}
    if device == "cuda":
        for name, module, attribute in (
            ("apex", "apex.normalization", "FusedLayerNorm"),
            ("Liger", "liger_kernel.transformers.layer_norm", "LigerLayerNorm"),
        ):
            if harness.is_there(module):
                found[name] = getattr(importlib.import_module(module), attribute)
    return found


def contestants(
    case: str, rows: int, device: str, compiled: bool
) -> tuple[dict[str, Callable[[], torch.Tensor]], dict[str, Callable[[], list[torch.Tensor]]]]:
    """(forward, backward) of each, on the same inputs; the backward pass reuses one forward pass."""
    dtype = torch.float32 if case == "float32" else torch.bfloat16
    torch.manual_seed(0)
    x = torch.randn(rows, WIDTH, device=device, dtype=dtype, requires_grad=True)
    grad = torch.randn(rows, WIDTH, device=device, dtype=dtype)
    builders = {"airank_fast": LayerNorm, "torch": torch.nn.LayerNorm, **others(device)}
    forward, backward = {}, {}
    for name, build in builders.items():
        module = build(WIDTH).to(device, torch.float32 if case == "autocast" else dtype)
        torch.manual_seed(1)
        torch.nn.init.normal_(module.weight)
        run = _under_autocast(module, device) if case == "autocast" else module
        _add(name, run, module, x, grad, forward, backward)
        if name == "torch" and compiled:
            torch._functorch.config.donated_buffer = False  # the backward pass runs several times
            _add("torch.compile", harness.compiled(run), module, x, grad, forward, backward)
    return forward, backward


def _under_autocast(module: torch.nn.Module, device: str) -> Callable[[torch.Tensor], torch.Tensor]:
    def run(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, dtype=torch.bfloat16):
            return module(x).to(torch.bfloat16)  # the next layer's cast; nothing where it is bfloat16 already

    return run


def _add(name, run, module, x, grad, forward, backward) -> None:
    y = run(x)
    leaves = [x, *module.parameters()]
    forward[name] = lambda: run(x)
    backward[name] = lambda: torch.autograd.grad(y, leaves, grad, retain_graph=True)


def check(forward: dict, backward: dict, dtype: torch.dtype) -> None:
    """All must agree before anything is timed."""
    tolerance = {"rtol": 2**-6, "atol": 2**-6} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-4}
    y, grads = forward["airank_fast"](), backward["airank_fast"]()
    for name in forward:
        torch.testing.assert_close(forward[name](), y, **tolerance)
        torch.testing.assert_close(backward[name]()[0], grads[0], **tolerance)


def main() -> None:
    """Check, time, print; save on request."""
    options = harness.op_options("layer_norm", __doc__, rounds=31)
    bandwidth = harness.bandwidth(options.device)
    for case in CASES:
        for rows in ROWS[options.device]:
            forward, backward = contestants(case, rows, options.device, options.compile)
            size = 4 if case == "float32" else 2
            check(forward, backward, torch.float32 if size == 4 else torch.bfloat16)
            x = forward["airank_fast"]().detach()
            forward[compare.COPY] = x.clone
            for phase, functions, passes in (("forward", forward, 2), ("backward", backward, 3)):
                num_bytes = passes * size * rows * WIDTH
                times = harness.time_rounds(
                    functions, num_rounds=options.rounds, device=options.device, num_bytes=num_bytes
                )
                title = f"{phase} {rows} x {WIDTH} {case}, {options.device}"
                print(harness.as_text(title, times, "airank_fast"))
                print(f"  {'floor by bandwidth':24} {1e3 * num_bytes / bandwidth:9.3f} ms")
                if options.save:
                    floor = {"floor_s": num_bytes / bandwidth, "bytes_moved": num_bytes}
                    harness.save("layer_norm", title, times, "airank_fast", **floor)


if __name__ == "__main__":
    main()
