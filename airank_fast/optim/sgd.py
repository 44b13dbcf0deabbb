"""FusedSGD, a drop-in for torch.optim.SGD.

It adds: float32 masters of 16-bit parameters, updated and rounded back in one pass over memory, clipping by the norm
over all gradients, and no synchronisation with the host in `step`.
"""

from __future__ import annotations

from torch import Tensor

from airank_fast.ops import sgd_
from airank_fast.optim.base import FusedOptimizer, check_false, check_lr, check_nesterov


class FusedSGD(FusedOptimizer):
    """SGD with momentum, weight decay and Nesterov momentum; the formulas of torch.optim.SGD.

    Args:
        params: parameters or parameter groups; float32, float64, bfloat16 or float16, on any device.
        lr: learning rate >= 0, a float or a tensor of one element. A tensor on the parameters' device is
            read there at each step: to change it, `fill_` it. A float is passed to the device when it
            changes, of which a captured CUDA graph takes no notice.
        momentum, dampening, weight_decay, nesterov, maximize: as in torch.optim.SGD.
        max_grad_norm: > 0; where the norm over the gradients of all groups is larger, they are scaled down to it
            inside the step, as after torch.nn.utils.clip_grad_norm_. One number for all groups. None: no clipping.
        foreach, fused: torch's, without effect; a step is always one fused call per list of parameters.
        differentiable, wd_after_momentum: must be False; the second is apex.optimizers.FusedSGD's.
        materialize_master_grads: apex's, without effect; 16-bit gradients are read directly.
        set_grad_none: the default of `zero_grad`'s argument.
        master_weights: keep a float32 master and float32 momentum for each 16-bit parameter, which is then the
            rounded master. The next step begins from weights that other code has written into it (a checkpoint, an
            average). False: the parameter is updated in place, as torch.optim.SGD does.

    State per parameter, created at its first step: "momentum_buffer" (with momentum) and "master" (float32,
    of 16-bit parameters), both with the parameter's strides. `state_dict` is torch.optim.SGD's with "master"
    added; either loads the other's. `load_state_dict` writes into existing state and lr tensors, so that captured
    graphs stay valid.

    With DTensors (fully_shard) each rank updates its own shards.

    With torch.amp.GradScaler, `scaler.step(optimizer)` unscales gradients and skips steps inside the op.
    With dampening, a parameter's first step is undampened, as in torch; it counts as the first even if it
    was skipped for an infinite gradient.

    Raises:
        UserError: an option out of range.
        RuntimeError: from `step`, gradients that do not fit (sparse, complex).
    """

    op = "sgd"
    state_names = ("momentum_buffer",)

    def __init__(
        self,
        params,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        wd_after_momentum: bool = False,
        materialize_master_grads: bool = True,
        set_grad_none: bool = True,
        master_weights: bool = True,
        max_grad_norm: float | None = None,
    ) -> None:
        check_false(self.op, differentiable=differentiable, wd_after_momentum=wd_after_momentum)
        options = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        options |= {"nesterov": nesterov, "maximize": maximize, "max_grad_norm": max_grad_norm}
        super().__init__(params, options, master_weights=master_weights, set_grad_none=set_grad_none)

    def check_options(self, options: dict) -> None:
        """Raise UserError for options of a group that are out of range."""
        check_lr(self.op, options, "momentum", "weight_decay")
        check_nesterov(self.op, options)
        self.check_max_grad_norm(options)

    def update(self) -> None:
        """Call the op for every list of parameters that have a gradient."""
        grad_norm = None
        if self.param_groups[0]["max_grad_norm"] is not None:
            grad_norm = self.grad_norm([part for group in self.param_groups for part in self.lists(group, ()).items()])
        for index, group in enumerate(self.param_groups):
            names = self.state_names if group["momentum"] != 0 else ()
            dampens = group["momentum"] != 0 and group["dampening"] != 0

            def is_first(param, dampens=dampens):
                return dampens and self.state[param].get("momentum_buffer") is None

            for (device, *_, first_step), lists in self.lists(group, names, is_first).items():
                params, grads, *buffers, copies = lists
                sgd_(
                    params,
                    grads,
                    buffers[0] if buffers else [],
                    copies,
                    self.lr_of(index, group, device),
                    momentum=group["momentum"],
                    dampening=0.0 if first_step else group["dampening"],
                    weight_decay=group["weight_decay"],
                    nesterov=group["nesterov"],
                    maximize=group["maximize"],
                    **self.scaling(device, grad_norm),
                )
