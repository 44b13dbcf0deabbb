"""FusedAdagrad, a drop-in for torch.optim.Adagrad.

It adds: float32 masters of 16-bit parameters, updated and rounded back in one pass over memory, and no synchronisation
with the host in `step`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from airank_fast.ops import adagrad_
from airank_fast.optim.base import FusedOptimizer, check_false, check_lr


class FusedAdagrad(FusedOptimizer):
    """Adagrad; the formulas of torch.optim.Adagrad.

    Args:
        params: parameters or parameter groups; float32, float64, bfloat16 or float16, on any device.
        lr: learning rate >= 0, a float or a tensor of one element. A tensor on the parameters' device is read there
            at each step: to change it, `fill_` it. A float is passed to the device when it changes, of which a
            captured CUDA graph takes no notice.
        lr_decay, weight_decay, initial_accumulator_value, eps, maximize: as in torch.optim.Adagrad. The initial value
            is one for all groups.
        foreach, fused: torch's, without effect; a step is always one fused call per list of parameters.
        differentiable, adagrad_w_mode: must be False; the second is apex.optimizers.FusedAdagrad's.
        set_grad_none: the default of `zero_grad`'s argument.
        master_weights: keep a float32 master for each 16-bit parameter, which is then the rounded master. The next
            step begins from weights that other code has written into it (a checkpoint, an average). False: the
            parameter is updated in place. The sums of squares are float32 in both cases.

    State per parameter, created at its first step (in torch, with the optimizer): "step", a count on the parameter's
    device, which does not advance where found_inf is set; "sum", and "master" (of 16-bit parameters), both with the
    parameter's strides. `state_dict` is torch.optim.Adagrad's with "master" added; either loads the other's.
    `load_state_dict` writes into existing state and lr tensors, so that captured graphs stay valid.

    With DTensors (fully_shard) each rank updates its own shards.

    With torch.amp.GradScaler, `scaler.step(optimizer)` unscales gradients and skips steps inside the op.

    Raises:
        UserError: an option out of range.
        RuntimeError: from `step`, gradients that do not fit (sparse, complex).
    """

    op = "adagrad"
    state_names = ("step", "sum")

    def __init__(
        self,
        params,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        adagrad_w_mode: bool = False,
        set_grad_none: bool = True,
        master_weights: bool = True,
    ) -> None:
        check_false(self.op, differentiable=differentiable, adagrad_w_mode=adagrad_w_mode)
        options = {
            "lr": lr,
            "lr_decay": lr_decay,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "eps": eps,
            "maximize": maximize,
        }
        super().__init__(params, options, master_weights=master_weights, set_grad_none=set_grad_none)

    def check_options(self, options: dict) -> None:
        """Raise UserError for options of a group that are out of range."""
        check_lr(self.op, options, "lr_decay", "weight_decay", "initial_accumulator_value", "eps")

    def initial_value(self, name: str) -> float:
        """What a state tensor other than "master" is filled with before the first step."""
        return self.defaults["initial_accumulator_value"] if name == "sum" else 0.0

    def state_dtype(self, param: Tensor) -> torch.dtype:
        """Sums of squares are never 16-bit: the square of a small gradient would vanish."""
        return torch.promote_types(param.dtype, torch.float32)

    def update(self) -> None:
        """Call the op for every list of parameters that have a gradient."""
        for index, group in enumerate(self.param_groups):
            for (device, *_), lists in self.lists(group, ("sum", "step")).items():
                adagrad_(
                    *lists,
                    self.lr_of(index, group, device),
                    lr_decay=group["lr_decay"],
                    weight_decay=group["weight_decay"],
                    eps=group["eps"],
                    maximize=group["maximize"],
                    **self.scaling(device),
                )
