"""FusedSGD, which stands in for torch.optim.SGD.

What it adds: float32 masters of 16-bit parameters, updated and rounded back in one pass over memory, and no
synchronisation with the host in `step`.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

from airank_fast.errors import UserError
from airank_fast.ops import sgd_

_16_BIT = (torch.bfloat16, torch.float16)


class FusedSGD(torch.optim.Optimizer):
    """SGD with momentum, weight decay and Nesterov momentum; the formulas of torch.optim.SGD.

    Args:
        params: parameters or parameter groups; float32, float64, bfloat16 or float16, on any device.
        lr: learning rate >= 0, a float or a tensor of one element. A tensor on the parameters' device is
            read there at each step: to change it, `fill_` it. A float is passed to the device when it
            changes, which a captured CUDA graph does not see.
        momentum, dampening, weight_decay, nesterov, maximize: as in torch.optim.SGD.
        master_weights: keep a float32 master and float32 momentum for each 16-bit parameter; the parameter
            itself is the master, rounded. Without, it is updated in place as torch.optim.SGD does.

    State per parameter, created at its first step: "momentum_buffer" (with momentum) and "master" (float32,
    of 16-bit parameters), both with the parameter's strides. `state_dict` is torch.optim.SGD's with "master"
    added; either loads the other's. `load_state_dict` writes into existing state and lr tensors, so captured
    graphs stay valid.

    With torch.amp.GradScaler, `scaler.step(optimizer)` unscales gradients and skips steps inside the op.
    With dampening, a parameter's first step is undampened, as in torch; it counts as the first even if it
    was skipped for an infinite gradient.

    Raises:
        UserError: an option out of range.
        RuntimeError: from `step`, gradients that do not fit (sparse, complex).
    """

    _step_supports_amp_scaling = True  # GradScaler then sets self.grad_scale and self.found_inf around step()

    def __init__(
        self,
        params,
        lr: float | Tensor,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        master_weights: bool = True,
    ) -> None:
        self.master_weights = master_weights
        self._lr_on_device: dict[tuple, tuple[float, Tensor]] = {}
        options = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        super().__init__(params, options | {"nesterov": nesterov, "maximize": maximize})

    def add_param_group(self, param_group: dict) -> None:
        """Add a group; its own options, where given, go before the optimizer's."""
        _check_options(self.defaults | param_group)
        super().add_param_group(param_group)

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self.__dict__.setdefault("master_weights", True)
        self.__dict__.setdefault("_lr_on_device", {})

    def __getstate__(self) -> dict:
        # Base pickles defaults, state and groups only (copy.deepcopy, torch.save of the whole optimizer).
        return super().__getstate__() | {"master_weights": self.master_weights}

    @torch.no_grad()
    def step(self, closure=None):
        """Update the parameters that have a gradient; `closure`, if given, computes and returns the loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for index, group in enumerate(self.param_groups):
            for (device, *_, first_step), lists in self._lists(group).items():
                params, grads, buffers, copies = lists
                sgd_(
                    params, grads, buffers, copies, self._lr(index, group, device),
                    momentum=group["momentum"], dampening=0.0 if first_step else group["dampening"],
                    weight_decay=group["weight_decay"], nesterov=group["nesterov"],
                    maximize=group["maximize"],
                    grad_scale=_scalar_on(device, getattr(self, "grad_scale", None)),
                    found_inf=_scalar_on(device, getattr(self, "found_inf", None)),
                )  # fmt: skip
        return loss

    def _lists(self, group: dict) -> dict[tuple, tuple[list[Tensor], ...]]:
        """The group's tensors, sorted into lists that one call of the op can take."""
        lists = defaultdict(lambda: ([], [], [], []))
        for param in group["params"]:
            grad = param.grad
            if grad is None:
                continue
            state = self.state[param]
            has_master = self.master_weights and param.dtype in _16_BIT
            if has_master and state.get("master") is None:
                state["master"] = param.detach().to(torch.float32, memory_format=torch.preserve_format)
            target = state["master"] if has_master else param
            first_step = False
            if group["momentum"] != 0 and state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(target, memory_format=torch.preserve_format)
                first_step = group["dampening"] != 0
            params, grads, buffers, copies = lists[param.device, param.dtype, grad.dtype, first_step]
            params.append(target)
            grads.append(grad)
            if group["momentum"] != 0:
                buffers.append(state["momentum_buffer"])
            if has_master:
                copies.append(param)
        return lists

    def _lr(self, index: int, group: dict, device: torch.device) -> Tensor:
        """The group's learning rate on the device, without waiting for it."""
        lr = group["lr"]
        if isinstance(lr, Tensor):
            return _scalar_on(device, lr)
        value, tensor = self._lr_on_device.get((index, device), (None, None))
        if tensor is None:
            tensor = torch.empty((), dtype=torch.float64, device=device)
        if value != lr:
            tensor.fill_(lr)  # the number travels as a kernel's argument, not by a copy from the host
            self._lr_on_device[index, device] = (lr, tensor)
        return tensor

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict) -> None:
        """Load a state of FusedSGD or torch.optim.SGD, into the dtypes and strides that `step` gives it."""
        old_state, old_lrs = self.state, [group["lr"] for group in self.param_groups]
        super().load_state_dict(state_dict)  # checks the groups; but casts state to the parameter's dtype
        for group, old_lr in zip(self.param_groups, old_lrs, strict=True):
            if isinstance(old_lr, Tensor):
                group["lr"] = old_lr.copy_(torch.as_tensor(group["lr"]))
        saved_ids = [i for group in state_dict["param_groups"] for i in group["params"]]
        params = [param for group in self.param_groups for param in group["params"]]
        for saved_id, param in zip(saved_ids, params, strict=True):
            saved = state_dict["state"].get(saved_id, {})
            self.state.pop(param, None)
            for name in ("momentum_buffer", "master"):
                if saved.get(name) is not None:
                    self._restore(param, name, saved[name], old_state.get(param, {}))

    def _restore(self, param: Tensor, name: str, value: Tensor, old: dict) -> None:
        masters = self.master_weights and param.dtype in _16_BIT
        if name == "master" and not masters:
            return
        if value.shape != param.shape:
            shape = list(param.shape)
            raise UserError(f"sgd: saved {name} must have shape {shape}, got {list(value.shape)}")
        tensor = old.get(name)
        if tensor is None:
            tensor = torch.empty_like(param, dtype=torch.float32 if masters else None)
        self.state[param][name] = tensor.copy_(value)


def _scalar_on(device: torch.device, scalar: Tensor | None) -> Tensor | None:
    return scalar if scalar is None or scalar.device == device else scalar.to(device, non_blocking=True)


def _check_options(options: dict) -> None:
    lr = options["lr"]
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise UserError(f"sgd: lr must be a number or a tensor of one element, got shape {list(lr.shape)}")
    for name in ("lr", "momentum", "weight_decay"):
        if not options[name] >= 0:
            raise UserError(f"sgd: {name} must be >= 0, got {float(options[name])}")
    if options["nesterov"] and (options["momentum"] == 0 or options["dampening"] != 0):
        got = f"momentum {options['momentum']} and dampening {options['dampening']}"
        raise UserError(f"sgd: nesterov requires momentum > 0 and dampening 0, got {got}")
