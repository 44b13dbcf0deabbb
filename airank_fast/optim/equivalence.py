"""Measures the deviation of the fused optimizers from their equations over random problems, for the equivalence report.

Every implementation gets the same weights and the same sequence of gradients. The reference is the equation, written
out here in plain torch and run in float64. Measured are the fused optimizer, the same equation in float32, torch's own
optimizer where it has one, and apex's where it is installed and there is a GPU.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from airank_fast.ops.checks import name_of
from airank_fast.optim import FusedAdagrad, FusedAdam, FusedAdamW, FusedFTRL, FusedLAMB, FusedLARS, FusedSGD

# A list of problems: shapes of the weights with decay, and of those without (bias, batch norm).
SHAPES = (
    (((64, 3, 7, 7), (97, 33)), ((64,), (97,))),
    (((256, 128), (1023, 5)), ((1,), (1025,))),
    (((30522, 8),), ((8,), (1024,))),
)
SEEDS = (0, 1, 2)
STEPS = (1, 10, 100)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

State = list[dict]
Groups = list[tuple[list[Tensor], dict]]


@dataclass(frozen=True)
class Case:
    """An optimizer with options: the fused one, its equation, and its peers."""

    name: str
    ours: type
    options: dict
    equation: Callable[[Groups, list[list[Tensor]], State, int], None]
    without_decay: dict = field(default_factory=lambda: {"weight_decay": 0.0})
    torch_peer: type | None = None
    apex_peer: str | None = None

    @property
    def op(self) -> str:
        return f"airank_fast::{self.ours.op}_"


def sgd_equation(groups: Groups, grads: list[list[Tensor]], state: State, step: int) -> None:
    """One step of SGD with momentum, as torch.optim.SGD defines it."""
    for (weights, o), of_group, kept in zip(groups, grads, state, strict=True):
        for index, (w, g) in enumerate(zip(weights, of_group, strict=True)):
            d = g + o["weight_decay"] * w
            b = kept[index] = o["momentum"] * kept.get(index, 0.0) + d
            w -= o["lr"] * (d + o["momentum"] * b if o["nesterov"] else b)


def adam_equation(groups: Groups, grads: list[list[Tensor]], state: State, step: int) -> None:
    """One step of Adam, with weight decay in the gradient, as torch.optim.Adam defines it."""
    decayed = [
        [g + o["weight_decay"] * w for w, g in zip(weights, of_group, strict=True)]
        for (weights, o), of_group in zip(groups, grads, strict=True)
    ]
    _adam(groups, decayed, state, step)


def adamw_equation(groups: Groups, grads: list[list[Tensor]], state: State, step: int) -> None:
    """One step of AdamW, with weight decay in the weights, as torch.optim.AdamW defines it."""
    for weights, o in groups:
        for w in weights:
            w *= 1 - o["lr"] * o["weight_decay"]
    _adam(groups, grads, state, step)


def _adam(groups: Groups, grads: list[list[Tensor]], state: State, step: int) -> None:
    for (weights, o), of_group, kept in zip(groups, grads, state, strict=True):
        beta1, beta2 = o["betas"]
        for index, (w, g) in enumerate(zip(weights, of_group, strict=True)):
            m, v = kept.get(index, (0.0, 0.0))
            m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
            kept[index] = m, v
            w -= o["lr"] * (m / (1 - beta1**step)) / ((v / (1 - beta2**step)).sqrt() + o["eps"])


def adagrad_equation(groups: Groups, grads: list[list[Tensor]], state: State, step: int) -> None:
    """One step of Adagrad, as torch.optim.Adagrad defines it."""
    for (weights, o), of_group, kept in zip(groups, grads, state, strict=True):
        for index, (w, g) in enumerate(zip(weights, of_group, strict=True)):
            g = g + o["weight_decay"] * w
            kept[index] = kept.get(index, 0.0) + g * g
            w -= o["lr"] / (1 + (step - 1) * o["lr_decay"]) * g / (kept[index].sqrt() + o["eps"])


def ftrl_equation(groups: Groups, grads: list[list[Tensor]], state: State, step: int) -> None:
    """One step of FTRL-Proximal, as Keras's Ftrl defines it."""
    for (weights, o), of_group, kept in zip(groups, grads, state, strict=True):
        for index, (w, g) in enumerate(zip(weights, of_group, strict=True)):
            n, z = kept.get(index, (torch.full_like(w, o["initial_accumulator_value"]), 0.0))
            new = n + g * g
            z = z + g - (new.sqrt() - n.sqrt()) / o["lr"] * w
            kept[index] = new, z
            w.copy_((z.clamp(-o["l1"], o["l1"]) - z) / ((new.sqrt() + o["beta"]) / o["lr"] + 2 * o["l2"]))


def lars_equation(groups: Groups, grads: list[list[Tensor]], state: State, step: int) -> None:
    """One step of LARS with the learning rate inside the momentum, as MLPerf's closed division defines it."""
    for (weights, o), of_group, kept in zip(groups, grads, state, strict=True):
        for index, (w, g) in enumerate(zip(weights, of_group, strict=True)):
            norm_w, norm_g = w.norm(), g.norm()
            rate = o["lr"]
            if not o["is_skipped"] and norm_w > 0 and norm_g > 0:
                rate = rate * o["trust_coefficient"] * norm_w / (norm_g + o["weight_decay"] * norm_w + o["eps"])
            kept[index] = o["momentum"] * kept.get(index, 0.0) - rate * (g + o["weight_decay"] * w)
            w += kept[index]


def lamb_equation(groups: Groups, grads: list[list[Tensor]], state: State, step: int) -> None:
    """One step of LAMB with clipping by the norm over all gradients, as apex.optimizers.FusedLAMB defines it."""
    total = math.sqrt(sum(float(g.square().sum()) for of_group in grads for g in of_group))
    clip = max(1.0, total / groups[0][1]["max_grad_norm"])
    for (weights, o), of_group, kept in zip(groups, grads, state, strict=True):
        beta1, beta2 = o["betas"]
        for index, (w, g) in enumerate(zip(weights, of_group, strict=True)):
            g = g / clip
            m, v = kept.get(index, (0.0, 0.0))
            m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
            kept[index] = m, v
            u = (m / (1 - beta1**step)) / ((v / (1 - beta2**step)).sqrt() + o["eps"]) + o["weight_decay"] * w
            norm_w, norm_u = w.norm(), u.norm()
            adapts = (o["weight_decay"] != 0 or o["use_nvlamb"]) and norm_w > 0 and norm_u > 0
            w -= o["lr"] * (norm_w / norm_u if adapts else 1.0) * u


_SGD = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-5}
_ADAM = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
_ADAGRAD = {"lr": 0.01, "lr_decay": 0.01, "eps": 1e-10, "weight_decay": 5e-5}
_FTRL = {"lr": 0.05, "initial_accumulator_value": 0.1, "l1": 0.1, "l2": 0.01, "beta": 1.0}
_LARS = {"lr": 2.0, "momentum": 0.9, "weight_decay": 5e-5, "trust_coefficient": 0.001, "eps": 0.0}
_LAMB = {"lr": 4.25e-4, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.01, "max_grad_norm": 1.0}
CASES = (
    Case(
        "FusedSGD",
        FusedSGD,
        {**_SGD, "nesterov": False},
        sgd_equation,
        torch_peer=torch.optim.SGD,
        apex_peer="FusedSGD",
    ),
    Case(
        "FusedSGD, nesterov",
        FusedSGD,
        {**_SGD, "nesterov": True},
        sgd_equation,
        torch_peer=torch.optim.SGD,
        apex_peer="FusedSGD",
    ),
    Case("FusedAdam", FusedAdam, _ADAM, adam_equation, torch_peer=torch.optim.Adam),
    Case("FusedAdamW", FusedAdamW, _ADAM, adamw_equation, torch_peer=torch.optim.AdamW, apex_peer="FusedAdam"),
    Case("FusedAdagrad", FusedAdagrad, _ADAGRAD, adagrad_equation, torch_peer=torch.optim.Adagrad),
    Case("FusedFTRL", FusedFTRL, _FTRL, ftrl_equation, without_decay={"l1": 0.0, "l2": 0.0}),
    Case(
        "FusedLARS", FusedLARS, _LARS, lars_equation, {"weight_decay": 0.0, "is_skipped": True}, apex_peer="FusedLARS"
    ),
    Case("FusedLAMB", FusedLAMB, {**_LAMB, "use_nvlamb": False}, lamb_equation, apex_peer="FusedLAMB"),
    Case(
        "FusedLAMB, use_nvlamb (NVLAMB)", FusedLAMB, {**_LAMB, "use_nvlamb": True}, lamb_equation, apex_peer="FusedLAMB"
    ),
)


def measure(cases=CASES, shapes=SHAPES, seeds=SEEDS, steps=STEPS, dtypes=DTYPES, devices=None) -> list[dict]:
    """A row for each case, device, dtype, number of steps and implementation, over all shapes and seeds.

    "max" is the largest |w - r| of an element over the root mean square of its tensor in r, the float64 reference;
    "rms" the root mean square of w - r over that of r, and "of_path" over that of the change of r since the first
    weights, each over all tensors of all problems. "unrounded" counts 16-bit weights that differ from their rounded
    float32 master.
    """
    devices = devices or ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    rows = []
    for case in cases:
        for device in devices:
            for dtype in dtypes:
                found: dict[tuple[int, str], _Sums] = {}
                for problem in shapes:
                    for seed in seeds:
                        _run(case, problem, seed, steps, dtype, torch.device(device), found)
                for (num_steps, name), sums in sorted(found.items(), key=lambda item: item[0][0]):
                    rows.append(
                        {
                            "optimizer": case.name,
                            "device": device,
                            "dtype": name_of(dtype),
                            "steps": num_steps,
                            "implementation": name,
                            **sums.figures(),
                        }
                    )
    return rows


class _Sums:
    """Adds up deviations from the reference over tensors and problems."""

    def __init__(self) -> None:
        self.worst = 0.0
        self.deviation, self.reference, self.path = 0.0, 0.0, 0.0
        self.num_unrounded = 0

    def add(self, weights: list[Tensor], reference: list[Tensor], start: list[Tensor]) -> None:
        for w, r, s in zip(weights, reference, start, strict=True):
            off = (w.double().cpu() - r).abs()
            self.worst = max(self.worst, float(off.max() / r.square().mean().sqrt()))
            self.deviation += float(off.square().sum())
            self.reference += float(r.square().sum())
            self.path += float((r - s).square().sum())

    def figures(self) -> dict:
        return {
            "max": self.worst,
            "rms": math.sqrt(self.deviation / self.reference),
            "of_path": math.sqrt(self.deviation / self.path),
            "unrounded": self.num_unrounded,
        }


def _run(case: Case, problem, seed: int, steps, dtype, device, found: dict) -> None:
    """Run every implementation through one problem; add its deviations after each number of steps in `steps`."""
    generator = torch.Generator().manual_seed(seed)
    start = [[torch.randn(shape, generator=generator).mul_(0.05).to(dtype) for shape in group] for group in problem]
    flat_start = [w.double() for group in start for w in group]
    drift = [[torch.randn(w.shape, generator=generator) for w in group] for group in start]
    reference = _Written(case, start, torch.float64, torch.device("cpu"))
    others = dict(_implementations(case, start, dtype, device))
    for step in range(1, max(steps) + 1):
        # Gradients with a constant direction, noise, and a size that changes with the step.
        size = 0.02 * (1 + step % 5)
        grads = [
            [(d + torch.randn(d.shape, generator=generator)).mul_(size).to(dtype) for d in group] for group in drift
        ]
        for implementation in (reference, *others.values()):
            implementation.step(grads)
        if step in steps:
            for name, implementation in others.items():
                sums = found.setdefault((step, name), _Sums())
                sums.add(implementation.weights(), reference.weights(), flat_start)
                sums.num_unrounded += implementation.num_unrounded()


def _implementations(case: Case, start, dtype, device) -> Iterator[tuple[str, object]]:
    yield "airank_fast", _Optimizer(case, case.ours, start, dtype, device)
    yield "the equation in torch, float32", _Written(case, start, torch.float32, device)
    if case.torch_peer is not None:
        name = f"torch.optim.{case.torch_peer.__name__}, float32"
        yield name, _Optimizer(case, case.torch_peer, start, torch.float32, device)
    apex = _apex(case.apex_peer) if device.type == "cuda" else None
    if apex is not None:
        yield f"apex.optimizers.{case.apex_peer}, float32", _Optimizer(case, apex, start, torch.float32, device)


def _apex(name: str | None) -> type | None:
    try:
        return getattr(importlib.import_module("apex.optimizers"), name or "", None)
    except ImportError:
        return None


class _Written:
    """The equation, run in one dtype."""

    def __init__(self, case: Case, start, dtype: torch.dtype, device: torch.device) -> None:
        weights = [[w.to(device, dtype, copy=True) for w in group] for group in start]
        options = [{"is_skipped": False, **case.options}, {"is_skipped": False, **case.options, **case.without_decay}]
        self._groups = list(zip(weights, options, strict=True))
        self._state: State = [{}, {}]
        self._equation, self._dtype, self._device, self._step = case.equation, dtype, device, 0

    def step(self, grads: list[list[Tensor]]) -> None:
        self._step += 1
        grads = [[g.to(self._device, self._dtype) for g in group] for group in grads]
        self._equation(self._groups, grads, self._state, self._step)

    def weights(self) -> list[Tensor]:
        return [w for weights, _ in self._groups for w in weights]

    def num_unrounded(self) -> int:
        return 0


class _Optimizer:
    """An optimizer class: the fused one, torch's or apex's."""

    def __init__(self, case: Case, optimizer: type, start, dtype: torch.dtype, device: torch.device) -> None:
        self._params = [[w.to(device, dtype, copy=True).requires_grad_() for w in group] for group in start]
        groups = [{"params": self._params[0]}, {"params": self._params[1], **case.without_decay}]
        self._optimizer = optimizer(groups, **case.options)

    def step(self, grads: list[list[Tensor]]) -> None:
        for params, group in zip(self._params, grads, strict=True):
            for param, grad in zip(params, group, strict=True):
                param.grad = grad.to(param.device, param.dtype)
        self._optimizer.step()

    def weights(self) -> list[Tensor]:
        """The float32 masters where they exist, else the parameters."""
        return [self._optimizer.state[p].get("master", p).detach() for group in self._params for p in group]

    def num_unrounded(self) -> int:
        params = [p for group in self._params for p in group]
        return sum(int((p != w.to(p.dtype)).sum()) for p, w in zip(params, self.weights(), strict=True))


def environment(cases=CASES) -> dict:
    """Where the figures were measured: versions, devices, and by op whether a kernel or the reference ran."""
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    devices = {"cpu": torch.backends.cpu.get_cpu_capability()}
    if torch.cuda.is_available():
        devices["cuda"] = torch.cuda.get_device_name()
    ran = {
        f"{case.op} on {device}": "kernel" if has_kernel(case.op, device.upper()) else "reference in plain torch"
        for case in cases
        for device in devices
    }
    try:
        apex = importlib.import_module("apex")
        apex_version = getattr(apex, "__version__", "installed")
    except ImportError:
        apex_version = "not installed"
    return {"torch": torch.__version__, "apex": apex_version, **devices, **ran}
