"""Shared by bench/sgd.py, adam.py, adagrad.py and ftrl.py: a step on ResNet-50's parameters against torch's optimizer.

25.6 M parameters in 161 tensors. Cases: float32 throughout; and 16-bit weights with float32 masters, for which torch
runs its optimizer on the masters, copies the gradients to float32 and the masters back to 16 bits. Gradients and
parameters are channels_last, as in training. Peers: torch fused, torch foreach, the same under torch.compile.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import harness
import torch

from airank_fast.models.resnet import resnet50

DTYPES = (torch.float32, torch.bfloat16)
Made = dict[str, tuple[list[torch.nn.Parameter], Callable]]


@dataclass(frozen=True)
class Bench:
    """A fused optimizer, torch's, their common options, how many numbers of state a parameter has, kinds of torch's.

    compiles: whether torch.compile of the last kind gives right values.
    """

    name: str
    ours: type[torch.optim.Optimizer]
    theirs: type[torch.optim.Optimizer]
    options: dict
    num_states: int
    kinds: tuple[str, ...] = ("fused", "foreach")
    compiles: bool = True

    def contestants(self, device: str, dtype: torch.dtype, compiled: bool) -> Made:
        """Name -> (its parameters, its step)."""

        def torchs(params, **kind):
            if dtype != torch.float32:
                return TorchWithMasters(params, self.theirs, **self.options, **kind)
            return self.theirs(params, **self.options, **kind)

        builders = {
            self.ours.__name__: lambda params: self.ours(params, **self.options),
            **{f"torch {kind}": lambda params, kind=kind: torchs(params, **{kind: True}) for kind in self.kinds},
        }
        if compiled:
            builders["torch.compile"] = builders["torch foreach"]
        made = {}
        for name, build in builders.items():
            params = parameters(device, dtype)
            optimizer = build(params)
            made[name] = (params, harness.compiled(optimizer.step) if name == "torch.compile" else optimizer.step)
        return made

    def check(self, made: Made) -> None:
        """Three steps of each must agree before anything is timed."""
        for _ in range(3):
            for _, step in made.values():
                step()
        ours = made[self.ours.__name__][0]
        for params, _ in made.values():
            for a, b in zip(ours, params, strict=True):
                tolerance = {"rtol": 2**-7, "atol": 1e-6} if a.dtype != torch.float32 else {}
                torch.testing.assert_close(a, b, **tolerance)

    def bytes_moved(self, params: list[torch.nn.Parameter]) -> int:
        """Parameter or master, and state, are read and written; the gradient is read, a 16-bit copy written."""
        per_element = 8 * (1 + self.num_states) + 4  # with 16-bit weights as much: 2 for the gradient, 2 for the copy
        return per_element * sum(param.numel() for param in params)

    def run(self, description: str) -> None:
        """Check, time, print; save on request."""
        parser = argparse.ArgumentParser(description=description.split("\n")[0])
        parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
        parser.add_argument("--rounds", type=int, default=31)
        parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="takes a minute")
        parser.add_argument(
            "--save", action="store_true", help=f"append the results to bench/results/{self.name}.jsonl"
        )
        options = parser.parse_args()
        ours, device = self.ours.__name__, options.device
        cases = {dtype: self.contestants(device, dtype, options.compile and self.compiles) for dtype in DTYPES}
        for made in cases.values():
            self.check(made)
        if options.save and not harness.wait_until_idle(device):
            parser.exit(1, "the machine is busy: nothing was measured\n")
        bandwidth = harness.bandwidth(device)
        for dtype, made in cases.items():
            steps = {who: step for who, (_, step) in made.items()}
            num_bytes = self.bytes_moved(made[ours][0])
            times = harness.time_rounds(steps, num_rounds=options.rounds, device=device, num_bytes=num_bytes)
            case = f"resnet50 {str(dtype).removeprefix('torch.')} weights, {device}"
            print(harness.as_text(case, times, ours))
            print(f"  {'floor by bandwidth':24} {1e3 * num_bytes / bandwidth:9.3f} ms")
            if options.save:
                harness.save(self.name, case, times, ours, floor_s=num_bytes / bandwidth, bytes_moved=num_bytes)


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

    def __init__(
        self, params: list[torch.nn.Parameter], optimizer: type[torch.optim.Optimizer], **options: object
    ) -> None:
        self.params = params
        self.masters = [torch.nn.Parameter(p.detach().float()) for p in params]
        for master in self.masters:
            master.grad = torch.zeros_like(master)
        self.optimizer = optimizer(self.masters, **options)

    @torch.no_grad()
    def step(self) -> None:
        """Gradients to float32, the step, the weights back to 16 bits."""
        torch._foreach_copy_([m.grad for m in self.masters], [p.grad for p in self.params])
        self.optimizer.step()
        torch._foreach_copy_(self.params, self.masters)
