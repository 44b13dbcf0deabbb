"""FusedLAMB, a drop-in for apex.optimizers.FusedLAMB.

It adds: any device, bfloat16, float32 masters of 16-bit parameters, unchanged gradients, torch's GradScaler, and no
synchronisation with the host in `step`.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from airank_fast.ops import lamb_
from airank_fast.ops.lamb import lamb_reference
from airank_fast.optim.base import FusedOptimizer, check_betas, check_false, check_lr, scalar_on


class FusedLAMB(FusedOptimizer):
    """LAMB with clipping by the norm over all gradients; the formulas of apex.optimizers.FusedLAMB.

    Args:
        params: parameters or parameter groups; float32, float64, bfloat16 or float16, on any device.
        lr: learning rate >= 0, a float or a tensor of one element. A tensor on the parameters' device is read there
            at each step: to change it, `fill_` it. A float is passed to the device when it changes, of which a
            captured CUDA graph takes no notice.
        bias_correction, betas, eps, weight_decay, grad_averaging, use_nvlamb: as in apex. Without weight decay a
            tensor is scaled by its trust ratio only with use_nvlamb.
        amsgrad: must be False, as in apex.
        adam_w_mode: weight decay is added to the update; otherwise to the gradient.
        set_grad_none: the default of `zero_grad`'s argument.
        max_grad_norm: > 0; where the norm over the gradients of all groups is larger, they are scaled down to it
            inside the step. One number for all groups. None: no clipping, and the gradients are read once less.
        master_weights: keep a float32 master for each 16-bit parameter, which is then the rounded master. The next
            step begins from weights that other code has written into it (a checkpoint, an average). False: the
            parameter is updated in place. The moments are float32 in both cases.

    State per parameter, created at its first step: "exp_avg", "exp_avg_sq", and "master" (of 16-bit parameters), all
    with the parameter's strides. The step count is the group's "step", as in apex: a tensor on the device, which does
    not advance where found_inf is set. `state_dict` holds it as a number, for which it waits for the device, and is
    apex's with "master" added; either loads the other's. `load_state_dict` writes into existing state, step and lr
    tensors, so that captured graphs stay valid.

    With DTensors (fully_shard) the step takes one collective for the norms of each list of parameters, and one for the
    norm over all gradients. Flat pieces of FullyShardedDataParallel are refused where norms of tensors are needed.

    With torch.amp.GradScaler, `scaler.step(optimizer)` unscales gradients and skips steps inside the op.

    Raises:
        UserError: an option out of range; from `step`, flat pieces of FullyShardedDataParallel.
        RuntimeError: from `step`, gradients that do not fit (sparse, complex).
    """

    op = "lamb"
    state_names = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params,
        lr: float | Tensor = 1e-3,
        bias_correction: bool = True,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        amsgrad: bool = False,
        adam_w_mode: bool = True,
        grad_averaging: bool = True,
        set_grad_none: bool = True,
        max_grad_norm: float | None = 1.0,
        use_nvlamb: bool = False,
        *,
        master_weights: bool = True,
    ) -> None:
        check_false(self.op, amsgrad=amsgrad)
        options = {
            "lr": lr,
            "bias_correction": bias_correction,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "adam_w_mode": adam_w_mode,
            "grad_averaging": grad_averaging,
            "max_grad_norm": max_grad_norm,
            "use_nvlamb": use_nvlamb,
        }
        super().__init__(params, options, master_weights=master_weights, set_grad_none=set_grad_none)

    def check_options(self, options: dict) -> None:
        """Raise UserError for options of a group that are out of range."""
        check_lr(self.op, options, "eps", "weight_decay")
        check_betas(self.op, options)
        self.check_max_grad_norm(options)

    def state_dtype(self, param: Tensor) -> torch.dtype:
        """Moments are never 16-bit: the square of a small gradient would vanish."""
        return torch.promote_types(param.dtype, torch.float32)

    def update(self) -> None:
        """Call the op for every list of parameters that have a gradient."""
        adapts = [group["use_nvlamb"] or group["weight_decay"] != 0 for group in self.param_groups]
        lists = [
            self.lists(group, self.state_names, whole=adapt)
            for group, adapt in zip(self.param_groups, adapts, strict=True)
        ]
        grad_norm = self.grad_norm([part for of_group in lists for part in of_group.items()])
        for index, group in enumerate(self.param_groups):
            step = self._advance(group)
            beta1, beta2 = group["betas"]
            for (device, layout, *_), of_list in lists[index].items():
                by_shards = adapts[index] and layout and layout.sharded
                one_step = partial(lamb_reference, norms=layout.norms) if by_shards else lamb_
                one_step(
                    *of_list,
                    self.lr_of(index, group, device),
                    scalar_on(device, step),
                    beta1=beta1,
                    beta2=beta2,
                    **{
                        name: group[name]
                        for name in (
                            "eps",
                            "weight_decay",
                            "bias_correction",
                            "grad_averaging",
                            "adam_w_mode",
                            "use_nvlamb",
                        )
                    },
                    max_grad_norm=group["max_grad_norm"] or 1.0,
                    grad_norm=scalar_on(device, grad_norm),
                    **self.scaling(device),
                )

    def _advance(self, group: dict) -> Tensor:
        """The group's step count on its device, advanced by one unless this step is skipped."""
        step = group.get("step")
        if not isinstance(step, Tensor):
            groups = (group, *self.param_groups)  # a group may be empty
            device = next((param.device for one in groups for param in one["params"]), "cpu")
            step = torch.full((), float(step or 0), device=device)
            group["step"] = step
        found_inf = scalar_on(step.device, getattr(self, "found_inf", None))
        return step.add_(1 if found_inf is None else found_inf.reshape(()) == 0)

    def reset_state(self) -> None:
        """Return to the state before the first step, with a step count of 0."""
        super().reset_state()
        for group in self.param_groups:
            if isinstance(group.get("step"), Tensor):
                group["step"].zero_()

    def state_dict(self) -> dict:
        """torch's, with each group's step count as a number."""
        state_dict = super().state_dict()
        for group in state_dict["param_groups"]:
            if isinstance(group.get("step"), Tensor):
                group["step"] = int(group["step"])
        return state_dict

    def load_group(self, group: dict, old: dict) -> None:
        """Copy the saved step count into the tensor of ``old``."""
        step = group.get("step", 0)
        if isinstance(old.get("step"), Tensor):
            group["step"] = old["step"].fill_(step)
        elif isinstance(step, Tensor):  # from an optimizer that keeps it on another device
            group["step"] = float(step)
