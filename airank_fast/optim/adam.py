"""FusedAdam and FusedAdamW, drop-ins for torch.optim.Adam and AdamW.

They add: float32 masters of 16-bit parameters, updated and rounded back in one pass over memory, and no synchronisation
with the host in `step`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from airank_fast.ops import adam_
from airank_fast.optim.base import FusedOptimizer, check_betas, check_false, check_lr


class FusedAdam(FusedOptimizer):
    """Adam; the formulas of torch.optim.Adam.

    Args:
        params: parameters or parameter groups; float32, float64, bfloat16 or float16, on any device.
        lr: learning rate >= 0, a float or a tensor of one element. A tensor on the parameters' device is read there
            at each step: to change it, `fill_` it. A float is passed to the device when it changes, of which a
            captured CUDA graph takes no notice.
        betas, eps, weight_decay, maximize, decoupled_weight_decay: as in torch.optim.Adam.
        amsgrad, differentiable: must be False.
        foreach, fused, capturable: torch's, without effect; a step is always one fused call per list of parameters,
            and can always be captured.
        bias_correction, adam_w_mode, set_grad_none: apex.optimizers.FusedAdam's; adam_w_mode is its name of
            decoupled_weight_decay (which is True there unless stated), set_grad_none the default of `zero_grad`'s
            argument.
        max_grad_norm: > 0; where the norm over the gradients of all groups is larger, they are scaled down to it
            inside the step. None: no clipping.
        master_weights: keep a float32 master for each 16-bit parameter, which is then the rounded master. The next
            step begins from weights that other code has written into it (a checkpoint, an average). False: the
            parameter is updated in place. The moments are float32 in both cases.

    State per parameter, created at its first step: "step", a count on the parameter's device, which does not advance
    where found_inf is set; "exp_avg", "exp_avg_sq", and "master" (of 16-bit parameters), all with the parameter's
    strides. `state_dict` is torch's with "master" added; either loads the other's, and apex's, which counts steps by
    group, is loaded too. `load_state_dict` writes into existing state and lr tensors, so that captured graphs stay
    valid.

    With DTensors (fully_shard) each rank updates its own shards.

    With torch.amp.GradScaler, `scaler.step(optimizer)` unscales gradients and skips steps inside the op.

    Raises:
        UserError: an option out of range; from `load_state_dict`, a state with amsgrad.
        RuntimeError: from `step`, gradients that do not fit (sparse, complex).
    """

    op = "adam"
    state_names = ("step", "exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        bias_correction: bool = True,
        adam_w_mode: bool | None = None,
        set_grad_none: bool = True,
        max_grad_norm: float | None = None,
        master_weights: bool = True,
    ) -> None:
        check_false(self.op, amsgrad=amsgrad, differentiable=differentiable)
        options = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "decoupled_weight_decay": decoupled_weight_decay if adam_w_mode is None else adam_w_mode,
            "bias_correction": bias_correction,
        }
        super().__init__(
            params,
            options,
            master_weights=master_weights,
            set_grad_none=set_grad_none,
            max_grad_norm=max_grad_norm,
        )

    def check_options(self, options: dict) -> None:
        """Raise UserError for options of a group that are out of range."""
        check_false(self.op, amsgrad=options.get("amsgrad"))
        check_lr(self.op, options, "eps", "weight_decay")
        check_betas(self.op, options)

    def state_dtype(self, param: Tensor) -> torch.dtype:
        """Moments are never 16-bit: the square of a small gradient would vanish."""
        return torch.promote_types(param.dtype, torch.float32)

    def update(self) -> None:
        """Call the op for every list of parameters that have a gradient."""
        for index, group in enumerate(self.param_groups):
            beta1, beta2 = group["betas"]
            for (device, *_), lists in self.lists(group, ("exp_avg", "exp_avg_sq", "step")).items():
                adam_(
                    *lists,
                    self.lr_of(index, group, device),
                    beta1=beta1,
                    beta2=beta2,
                    eps=group["eps"],
                    weight_decay=group["weight_decay"],
                    decoupled_weight_decay=group["decoupled_weight_decay"],
                    bias_correction=group["bias_correction"],
                    maximize=group["maximize"],
                    **self.scaling(device),
                )

    def load_state_dict(self, state_dict: dict) -> None:
        """Load a state of this optimizer, of torch.optim.Adam or AdamW, or of apex's FusedAdam.

        Raises:
            UserError: a saved tensor of another shape than its parameter's, or amsgrad; nothing is loaded then.
            ValueError: other groups than the optimizer's, from torch.
        """
        for group in state_dict["param_groups"]:
            check_false(self.op, amsgrad=group.get("amsgrad"))
        super().load_state_dict(_with_steps_of_parameters(state_dict))


class FusedAdamW(FusedAdam):
    """AdamW; FusedAdam with decoupled weight decay, by default 0.01. Its arguments are torch.optim.AdamW's.

    Those that they share, state and errors are FusedAdam's.
    """

    def __init__(
        self,
        params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        bias_correction: bool = True,
        set_grad_none: bool = True,
        max_grad_norm: float | None = None,
        master_weights: bool = True,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            maximize=maximize,
            differentiable=differentiable,
            decoupled_weight_decay=True,
            bias_correction=bias_correction,
            set_grad_none=set_grad_none,
            max_grad_norm=max_grad_norm,
            master_weights=master_weights,
        )

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # also where Adam's state is loaded, as in torch
            group["decoupled_weight_decay"] = True


def _with_steps_of_parameters(state_dict: dict) -> dict:
    """The state with the step count of a group, apex's, in the state of each of its parameters."""
    groups, state = [], dict(state_dict["state"])
    for group in state_dict["param_groups"]:
        if "step" in group:
            step = float(group["step"])
            state |= {i: {"step": step, **state[i]} for i in group["params"] if i in state}
        groups.append({name: value for name, value in group.items() if name != "step"})
    return {**state_dict, "state": state, "param_groups": groups}
