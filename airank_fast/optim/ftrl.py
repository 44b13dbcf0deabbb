"""FusedFTRL, FTRL-Proximal with the arguments of Keras's Ftrl, which torch.optim lacks.

It has float32 masters of 16-bit parameters, updated and rounded back in one pass over memory, and no synchronisation
with the host in `step`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from airank_fast.errors import UserError
from airank_fast.ops import ftrl_
from airank_fast.optim.base import FusedOptimizer, check_lr


class FTRLOptimizer(FusedOptimizer):
    """What FTRL-Proximal is in dense parameters and in tables: the ranges of its options, and its first state."""

    def check_options(self, options: dict) -> None:
        """Raise UserError for options of a group that are out of range."""
        check_lr(self.op, options, "initial_accumulator_value", "l1", "l2", "l2_shrinkage", "beta")
        if not options["lr_power"] <= 0:
            raise UserError(f"{self.op}: lr_power must be <= 0, got {float(options['lr_power'])}")

    def initial_value(self, name: str) -> float:
        """What a state tensor other than "master" is filled with before the first step."""
        return self.defaults["initial_accumulator_value"] if name == "accumulator" else 0.0


class FusedFTRL(FTRLOptimizer):
    """FTRL-Proximal (McMahan et al. 2013, "Ad click prediction"), the optimizer of a wide, sparse linear part.

    Args:
        params: parameters or parameter groups; float32, float64, bfloat16 or float16, on any device.
        lr: learning rate >= 0, a float or a tensor of one element: Keras's learning_rate. A tensor on the parameters'
            device is read there at each step: to change it, `fill_` it. A float is passed to the device when it
            changes, of which a captured CUDA graph takes no notice. The linear term is in units of the gradient, so
            that a schedule of the rate changes the weight of past steps too; a step with rate 0 changes nothing.
        lr_power: Keras's learning_rate_power, at most 0: the rate of a weight is lr * n^lr_power.
        initial_accumulator_value: n before the first step; one for all groups.
        l1, l2, l2_shrinkage: Keras's l1_regularization_strength, l2_regularization_strength and
            l2_shrinkage_regularization_strength. Weights whose linear term is at most l1 are exactly 0.
        beta: the paper's, added to the root of n.
        maximize: as in torch.optim.
        foreach, fused, capturable: torch's, without effect; a step is always one fused call per list of parameters,
            and can always be captured.
        set_grad_none: the default of `zero_grad`'s argument.
        master_weights: keep a float32 master for each 16-bit parameter, which is then the rounded master. False: the
            parameter is updated in place. The other state is float32 in both cases.

    A weight follows from its state: the first step forgets most of the weight that it begins with, so that weights
    begin at 0, as is usual in a linear part.

    State per parameter, created at its first step: "step", a count on the parameter's device, which does not advance
    where found_inf is set; "accumulator", "linear" (TensorFlow's names), and "master" (of 16-bit parameters), all with
    the parameter's strides. `load_state_dict` writes into existing state and lr tensors, so that captured graphs stay
    valid.

    With DTensors (fully_shard) each rank updates its own shards.

    With torch.amp.GradScaler, `scaler.step(optimizer)` unscales gradients and skips steps inside the op.

    Raises:
        UserError: an option out of range.
        RuntimeError: from `step`, gradients that do not fit (sparse, complex).
    """

    op = "ftrl"
    state_names = ("step", "accumulator", "linear")

    def __init__(
        self,
        params,
        lr: float | Tensor = 1e-3,
        lr_power: float = -0.5,
        initial_accumulator_value: float = 0.1,
        l1: float = 0.0,
        l2: float = 0.0,
        l2_shrinkage: float = 0.0,
        beta: float = 0.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        fused: bool | None = None,
        set_grad_none: bool = True,
        master_weights: bool = True,
    ) -> None:
        options = {
            "lr": lr,
            "lr_power": lr_power,
            "initial_accumulator_value": initial_accumulator_value,
            "l1": l1,
            "l2": l2,
            "l2_shrinkage": l2_shrinkage,
            "beta": beta,
            "maximize": maximize,
        }
        super().__init__(params, options, master_weights=master_weights, set_grad_none=set_grad_none)

    def state_dtype(self, param: Tensor) -> torch.dtype:
        """The state is never 16-bit: the square of a small gradient would vanish."""
        return torch.promote_types(param.dtype, torch.float32)

    def update(self) -> None:
        """Call the op for every list of parameters that have a gradient."""
        for index, group in enumerate(self.param_groups):
            for (device, *_), lists in self.lists(group, ("accumulator", "linear", "step")).items():
                ftrl_(
                    *lists,
                    self.lr_of(index, group, device),
                    lr_power=group["lr_power"],
                    l1=group["l1"],
                    l2=group["l2"],
                    l2_shrinkage=group["l2_shrinkage"],
                    beta=group["beta"],
                    maximize=group["maximize"],
                    **self.scaling(device),
                )
