"""FusedLARS, the LARS of MLPerf's closed division and a drop-in for apex.optimizers.FusedLARS.

It adds: any device, bfloat16, float32 masters of 16-bit parameters, torch's GradScaler, and no synchronisation with
the host in `step`.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from airank_fast.errors import UserError
from airank_fast.ops import lars_
from airank_fast.ops.lars import lars_reference
from airank_fast.optim.base import FusedOptimizer, check_false, check_lr, check_nesterov


class FusedLARS(FusedOptimizer):
    """SGD with momentum where each tensor's learning rate is scaled by trust_coefficient * |w| / (|g| + ...).

    Args:
        params: parameters or parameter groups; float32, float64, bfloat16 or float16, on any device. A group with
            "is_skipped": True is not scaled (MLPerf: batch norm and bias); give it its weight_decay too.
        lr: learning rate >= 0, a float or a tensor of one element. A tensor on the parameters' device is read there
            at each step: to change it, `fill_` it. A float is passed to the device when it changes, of which a
            captured CUDA graph takes no notice.
        momentum, weight_decay, nesterov: >= 0; the momentum buffer includes the learning rate.
        trust_coefficient, eps: of the trust ratio (MLPerf: 0.001 and 0).
        dampening, wd_after_momentum: must be 0 and False; apex accepts them and ignores them.
        materialize_master_grads: apex's, without effect; 16-bit gradients are read directly.
        set_grad_none: the default of `zero_grad`'s argument.
        master_weights: keep a float32 master and float32 momentum for each 16-bit parameter, which is then the
            rounded master. The next step begins from weights that other code has written into it (a checkpoint, an
            average). False: the parameter is updated in place.

    State per parameter, created at its first step: "momentum_buffer" (with momentum; what is added to the parameter)
    and "master" (float32, of 16-bit parameters), both with the parameter's strides. `state_dict` is apex's with
    "master" added; either loads the other's. `load_state_dict` writes into existing state and lr tensors, so that
    captured graphs stay valid.

    With DTensors (fully_shard) the step takes one collective for the norms of each list of parameters. Flat pieces of
    FullyShardedDataParallel are refused where norms are needed: they are not the model's tensors.

    With torch.amp.GradScaler, `scaler.step(optimizer)` unscales gradients and skips steps inside the op.

    Raises:
        UserError: an option out of range; from `step`, flat pieces of FullyShardedDataParallel.
        RuntimeError: from `step`, gradients that do not fit (sparse, complex).
    """

    op = "lars"
    state_names = ("momentum_buffer",)

    def __init__(
        self,
        params,
        lr: float | Tensor,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        eps: float = 0.0,
        nesterov: bool = False,
        wd_after_momentum: bool = False,
        materialize_master_grads: bool = True,
        set_grad_none: bool = False,
        *,
        master_weights: bool = True,
    ) -> None:
        check_false(self.op, wd_after_momentum=wd_after_momentum)
        options = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "eps": eps,
            "nesterov": nesterov,
            "is_skipped": False,
        }
        super().__init__(params, options, master_weights=master_weights, set_grad_none=set_grad_none)

    def check_options(self, options: dict) -> None:
        """Raise UserError for options of a group that are out of range."""
        check_lr(self.op, options, "momentum", "weight_decay", "trust_coefficient", "eps")
        check_nesterov(self.op, options)
        if options["dampening"] != 0:
            raise UserError(f"lars: dampening must be 0, got {options['dampening']}")

    def update(self) -> None:
        """Call the op for every list of parameters that have a gradient."""
        for index, group in enumerate(self.param_groups):
            names = self.state_names if group["momentum"] != 0 else ()
            adapt = not group["is_skipped"]
            for (device, layout, *_), lists in self.lists(group, names, whole=adapt).items():
                params, grads, *velocities, copies = lists
                step = partial(lars_reference, norms=layout.norms) if adapt and layout and layout.sharded else lars_
                step(
                    params,
                    grads,
                    velocities[0] if velocities else [],
                    copies,
                    self.lr_of(index, group, device),
                    momentum=group["momentum"],
                    weight_decay=group["weight_decay"],
                    trust_coefficient=group["trust_coefficient"],
                    eps=group["eps"],
                    nesterov=group["nesterov"],
                    adapt=adapt,
                    **self.scaling(device),
                )
