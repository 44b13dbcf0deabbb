"""FusedLAMB's step on BERT-large's parameter list and on 400 tiny tensors, against LAMB in Python and torch's AdamW.

    python bench/lamb.py [--save] [--compile] [--rounds N] [--device cpu|cuda] [--whole]

Cases: the 398 tensors of BERT-large (336 M parameters; without --whole on the CPU every fourth layer and a quarter of
the vocabulary, 84 M), float32 throughout; 400 tensors of 1,024; on CUDA also 16-bit weights and gradients with float32
masters. Peers: pytorch-optimizer's Lamb and apex's FusedLAMB where they are importable; LAMB written here in plain
Python, tensor by tensor and with torch._foreach; the latter under torch.compile with --compile. torch's fused AdamW is
a yardstick of bandwidth, not a peer: it reads the gradient once and needs no norms (28 bytes per parameter). The floor
counts 44 bytes per parameter: the gradient for its norm, gradient, parameter and moments read and moments written,
parameter and moments read and the parameter written.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import metadata

import harness
import torch

from airank_fast.optim import FusedLAMB

OPTIONS = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.01}
YARDSTICK = "torch fused AdamW (yardstick)"


def bert_shapes(num_layers: int = 24, vocabulary: int = 30522, width: int = 1024) -> list[tuple[int, ...]]:
    """BERT-large with its pre-training heads; the decoder's weight is the embedding's."""
    vector, square = (width,), (width, width)
    shapes = [(vocabulary, width), (512, width), (2, width), vector, vector]
    attention = [square, vector] * 4 + [vector, vector]
    shapes += [*attention, (4 * width, width), (4 * width,), (width, 4 * width), vector, vector, vector] * num_layers
    return [*shapes, square, vector, (vocabulary,), square, vector, vector, vector, (2, width), (2,)]


def parameters(shapes: list[tuple[int, ...]], device: str, dtype: torch.dtype) -> list[torch.nn.Parameter]:
    """Random parameters with random gradients, the same in every call."""
    generator = torch.Generator(device).manual_seed(0)
    params = []
    for shape in shapes:
        values = torch.randn(shape, generator=generator, device=device)
        params.append(torch.nn.Parameter((values * 0.02).to(dtype)))
        params[-1].grad = values.roll(1).mul_(0.01).to(dtype)
    return params


class PythonLAMB:
    """LAMB tensor by tensor, as in most implementations; a peer where no package is importable."""

    def __init__(self, params: list[torch.nn.Parameter]) -> None:
        self.params, self.steps = params, 0
        self.moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in params]

    @torch.no_grad()
    def step(self) -> None:
        """apex's formula: clipped by the norm over all gradients, moments corrected, decoupled decay."""
        self.steps += 1
        (beta1, beta2), lr, decay = OPTIONS["betas"], OPTIONS["lr"], OPTIONS["weight_decay"]
        clip = torch.stack([p.grad.norm() for p in self.params]).norm().clamp(min=1.0)
        c1, c2 = 1 - beta1**self.steps, 1 - beta2**self.steps
        for param, (m, v) in zip(self.params, self.moments, strict=True):
            grad = param.grad / clip
            m.mul_(beta1).add_(grad, alpha=1 - beta1)
            v.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
            update = (v / c2).sqrt_().add_(OPTIONS["eps"])
            update = (m / c1).div_(update).add_(param, alpha=decay)
            param.sub_(update.mul_(lr * param.norm() / update.norm()))


class ForeachLAMB(PythonLAMB):
    """The same with torch._foreach: one call per operation for all tensors."""

    @torch.no_grad()
    def step(self) -> None:
        """As above."""
        self.steps += 1
        (beta1, beta2), lr, decay = OPTIONS["betas"], OPTIONS["lr"], OPTIONS["weight_decay"]
        grads = [p.grad for p in self.params]
        clip = torch.stack(torch._foreach_norm(grads)).norm().clamp(min=1.0)
        ms, vs = zip(*self.moments, strict=True)
        grads = torch._foreach_div(grads, clip)
        torch._foreach_mul_(ms, beta1)
        torch._foreach_add_(ms, grads, alpha=1 - beta1)
        torch._foreach_mul_(vs, beta2)
        torch._foreach_addcmul_(vs, grads, grads, value=1 - beta2)
        denominators = torch._foreach_div(vs, 1 - beta2**self.steps)
        torch._foreach_sqrt_(denominators)
        torch._foreach_add_(denominators, OPTIONS["eps"])
        updates = torch._foreach_div(ms, 1 - beta1**self.steps)
        torch._foreach_div_(updates, denominators)
        torch._foreach_add_(updates, self.params, alpha=decay)
        param_norms, update_norms = torch._foreach_norm(self.params), torch._foreach_norm(updates)
        torch._foreach_mul_(updates, torch._foreach_div(param_norms, update_norms))
        torch._foreach_add_(self.params, updates, alpha=-lr)


def contestants(shapes: list[tuple[int, ...]], device: str, dtype: torch.dtype, compiled: bool) -> dict:
    """Name -> (its parameters, its step)."""
    builders: dict[str, Callable] = {
        "FusedLAMB": lambda p: FusedLAMB(p, **OPTIONS),
        YARDSTICK: lambda p: torch.optim.AdamW(p, fused=True, **OPTIONS),
    }
    if dtype == torch.float32:
        builders |= {"Python LAMB": PythonLAMB, "foreach LAMB": ForeachLAMB}
        if compiled:
            builders["compiled foreach LAMB"] = ForeachLAMB
    builders |= packages(device, dtype)
    made = {}
    for name, build in builders.items():
        params = parameters(shapes, device, dtype)
        step = build(params).step
        made[name] = (params, harness.compiled(step, dynamic=None) if name.startswith("compiled") else step)
    return made


def packages(device: str, dtype: torch.dtype) -> dict[str, Callable]:
    """The LAMB of other packages, where they are importable, by name and version."""
    found: dict[str, Callable] = {}
    if dtype == torch.float32 and harness.is_there("pytorch_optimizer"):
        from pytorch_optimizer import Lamb  # another formula: no bias correction, another clip

        name = f"pytorch-optimizer {metadata.version('pytorch_optimizer')}"
        found[name] = lambda p: Lamb(p, pre_norm=True, **OPTIONS)
    if device == "cuda" and harness.is_there("apex.optimizers"):
        from apex.optimizers import FusedLAMB as ApexLAMB

        found["apex"] = lambda p: ApexLAMB(p, **OPTIONS)
    return found


def check(made: dict) -> None:
    """Three steps of those that share a formula must agree before anything is timed."""
    same = [made[name] for name in made if name.startswith(("FusedLAMB", "Python", "foreach", "compiled", "apex"))]
    for _ in range(3):
        for _, step in same:
            step()
    ours = same[0][0]
    for params, _ in same[1:]:
        for a, b in zip(ours, params, strict=True):
            exact = a.dtype == torch.float32
            torch.testing.assert_close(a, b, rtol=1e-4 if exact else 2**-7, atol=1e-6 if exact else 1e-4)


def bytes_moved(params: list[torch.nn.Parameter]) -> int:
    """44 bytes per float32 parameter; with 16-bit gradient and copy 2 less for each read of it and 2 for the copy."""
    per_element = {torch.float32: 44, torch.bfloat16: 42}
    return sum(param.numel() * per_element[param.dtype] for param in params)


def main() -> None:
    """Check, time, print; save on request."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--compile", action="store_true", help="also the foreach LAMB compiled; takes minutes")
    parser.add_argument("--whole", action="store_true", help="all of BERT-large also on the CPU (20 GB)")
    parser.add_argument("--save", action="store_true", help="append the results to bench/results/lamb.jsonl")
    options = parser.parse_args()
    device, whole = options.device, options.whole or options.device == "cuda"
    bert = bert_shapes() if whole else bert_shapes(num_layers=6, vocabulary=30522 // 4)
    name = "BERT-large" if whole else "a quarter of BERT-large"
    cases = [(name, bert, torch.float32), ("400 tensors of 1,024", [(1024,)] * 400, torch.float32)]
    if device == "cuda":
        cases.append((name, bert, torch.bfloat16))
    if options.save and not harness.wait_until_idle(options.device):
        parser.exit(1, "the machine is busy: nothing was measured\n")
    bandwidth = harness.bandwidth(device)
    for name, shapes, dtype in cases:
        made = contestants(shapes, device, dtype, options.compile)
        check(made)
        num_bytes = bytes_moved(made["FusedLAMB"][0])
        times = harness.time_rounds(
            {who: step for who, (_, step) in made.items()},
            num_rounds=options.rounds,
            device=device,
            num_bytes=num_bytes,
        )
        case = f"{name} ({len(shapes)} tensors), {str(dtype).removeprefix('torch.')}, {device}"
        print(harness.as_text(case, times, "FusedLAMB"))
        seconds, floor = harness.timing(times["FusedLAMB"]).median_s, num_bytes / bandwidth
        print(
            f"  {'floor by bandwidth':24} {1e3 * floor:9.3f} ms: {num_bytes / seconds / 1e9:.1f} GB/s by FusedLAMB, "
            f"{bandwidth / 1e9:.1f} available"
        )
        if options.save:
            harness.save("lamb", case, times, "FusedLAMB", floor_s=floor, bytes_moved=num_bytes)


if __name__ == "__main__":
    main()
