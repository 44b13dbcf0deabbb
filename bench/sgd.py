"""FusedSGD's step on ResNet-50's parameter list (25.6 M in 161 tensors) against torch.optim.SGD.

    python bench/sgd.py [--save] [--no-compile] [--rounds N] [--device cpu|cuda]

Cases: float32 throughout; and 16-bit weights with float32 masters, for which torch runs its fused SGD on the
masters, copies the gradients to float32 and the masters back to 16 bits. Gradients and parameters are
channels_last, as in training. Peers: torch fused, torch foreach, the same under torch.compile.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import harness
import torch

from airank_fast.models.resnet import resnet50
from airank_fast.optim import FusedSGD

DTYPES = (torch.float32, torch.bfloat16)
OPTIONS = {"lr": 1e-4, "momentum": 0.9, "weight_decay": 5e-5}


def parameters(device: str, dtype: torch.dtype, seed: int = 0) -> list[torch.nn.Parameter]:
    """ResNet-50's parameters with random gradients, channels_last; 16-bit where they have more than one dimension."""
    torch.manual_seed(seed)
    params = list(resnet50().to(device, memory_format=torch.channels_last).parameters())
    for param in params:
        if param.dim() > 1:
            param.data = param.data.to(dtype)
        param.grad = torch.randn_like(param)
    return params


class TorchWithMasters:
    """Masters of 16-bit parameters in plain torch, with two conversions around its own optimizer."""

    def __init__(self, params: list[torch.nn.Parameter], **options: object) -> None:
        self.params = params
        self.masters = [torch.nn.Parameter(p.detach().float()) for p in params]
        for master in self.masters:
            master.grad = torch.zeros_like(master)
        self.optimizer = torch.optim.SGD(self.masters, **OPTIONS, **options)

    @torch.no_grad()
    def step(self) -> None:
        torch._foreach_copy_([m.grad for m in self.masters], [p.grad for p in self.params])
        self.optimizer.step()
        torch._foreach_copy_(self.params, self.masters)


def contestants(device: str, dtype: torch.dtype, compiled: bool) -> dict[str, tuple[list, Callable]]:
    """Name -> (its parameters, its step)."""
    torch_sgd = TorchWithMasters if dtype != torch.float32 else lambda p, **kw: torch.optim.SGD(p, **OPTIONS, **kw)
    builders = {
        "FusedSGD": lambda p: FusedSGD(p, **OPTIONS),
        "torch fused": lambda p: torch_sgd(p, fused=True),
        "torch foreach": lambda p: torch_sgd(p, foreach=True),
    }
    if compiled:
        builders["torch.compile"] = builders["torch foreach"]
    made = {}
    for name, build in builders.items():
        params = parameters(device, dtype)
        optimizer = build(params)
        step = harness.compiled(optimizer.step) if name == "torch.compile" else optimizer.step
        made[name] = (params, step)
    return made


def check(made: dict[str, tuple[list, Callable]]) -> None:
    """Three steps of each must agree before anything is timed."""
    for _ in range(3):
        for _, step in made.values():
            step()
    ours = made["FusedSGD"][0]
    for params, _ in made.values():
        for a, b in zip(ours, params, strict=True):
            tolerance = {"rtol": 2**-7, "atol": 1e-6} if a.dtype != torch.float32 else {}
            torch.testing.assert_close(a, b, **tolerance)


def bytes_moved(params: list[torch.nn.Parameter]) -> int:
    """Parameter or master, and buffer, are read and written; the gradient is read, a 16-bit copy written."""
    per_element = {torch.float32: 16 + 4, torch.bfloat16: 16 + 2 + 2}
    return sum(param.numel() * per_element[param.dtype] for param in params)


def main() -> None:
    """Check, time, print; save on request."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="takes a minute")
    parser.add_argument("--save", action="store_true", help="append the results to bench/results/sgd.jsonl")
    options = parser.parse_args()
    cases = {dtype: contestants(options.device, dtype, options.compile) for dtype in DTYPES}
    for made in cases.values():
        check(made)
    if options.save and not harness.wait_until_idle(options.device):
        parser.exit(1, "the machine is busy: nothing was measured\n")
    bandwidth = harness.bandwidth(options.device)
    for dtype, made in cases.items():
        steps = {who: step for who, (_, step) in made.items()}
        num_bytes = bytes_moved(made["FusedSGD"][0])
        times = harness.time_rounds(steps, num_rounds=options.rounds, device=options.device, num_bytes=num_bytes)
        case = f"resnet50 {str(dtype).removeprefix('torch.')} weights, {options.device}"
        print(harness.as_text(case, times, "FusedSGD"))
        print(f"  {'floor by bandwidth':24} {1e3 * num_bytes / bandwidth:9.3f} ms")
        if options.save:
            harness.save("sgd", case, times, "FusedSGD", floor_s=num_bytes / bandwidth, bytes_moved=num_bytes)


if __name__ == "__main__":
    main()
