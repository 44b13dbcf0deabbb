"""Optimizers of tables with sparse gradients: SGD, Adagrad, row-wise Adagrad, Adam and FTRL on the touched rows only.

They take what torch.optim.SGD, Adagrad and SparseAdam take from torch.nn.Embedding(sparse=True): a sparse COO gradient,
coalesced or not. Sorting, adding and updating are one op, whose result has the same bits for any number of threads.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from airank_fast.errors import UserError
from airank_fast.ops import sparse_table_update_
from airank_fast.optim.base import FusedOptimizer, check_betas, check_false, check_lr, scalar_on
from airank_fast.optim.ftrl import FTRLOptimizer


class SparseTableOptimizer(FusedOptimizer):
    """The common part: each parameter is a table [rows, dim], whose gradient is sparse over rows.

    Rows without a gradient keep their weights and their state. A 16-bit table has a float32 master unless
    `master_weights` is False, which takes 4 bytes a weight more and keeps updates that are too small for 16 bits.

    State per table, created at its first step: "step", the state of the rule (float32, or float64 of a float64 table),
    and "master".

    Raises:
        UserError: an option out of range; from `step`, a dense gradient.
        RuntimeError: from `step`, "sparse_table_update: NAME must be WHAT, got GOT".
    """

    rule = ""
    by_row = False
    arguments: ClassVar[tuple[str, ...]] = ()
    """The op's options that a group holds under the same names."""

    def state_dtype(self, param: Tensor) -> torch.dtype:
        """State is never 16-bit: the square of a small gradient would vanish."""
        return torch.promote_types(param.dtype, torch.float32)

    def state_of(self, param: Tensor, names: tuple[str, ...]) -> dict:
        """The table's state, created where it is missing."""
        state = super().state_of(param, ())
        for name in names:
            if state.get(name) is None:
                shape = param.shape[:1] if self.by_row else param.shape
                value, dtype = self.initial_value(name), self.state_dtype(param)
                state[name] = torch.full(shape, value, dtype=dtype, device=param.device)
        if state.get("step") is None:
            state["step"] = torch.zeros((), device=param.device)
        return state

    def update(self) -> None:
        """Call the op for every table that has a gradient."""
        for index, group in enumerate(self.param_groups):
            for param in group["params"]:
                if param.grad is not None:
                    self._update(param, index, group)

    def _update(self, param: Tensor, index: int, group: dict) -> None:
        grad = param.grad
        if grad.layout != torch.sparse_coo or grad.sparse_dim() != 1 or param.dim() != 2:
            got = f"{str(grad.layout).removeprefix('torch.')} of shape {list(grad.shape)}"
            raise UserError(f"{self.op}: gradients must be sparse over rows, as SparseTable's, got {got}")
        state = self.state_of(param, self.state_names)
        master = state["master"] if self.has_master(param) else None
        scaling = self.scaling(param.device)
        found_inf = scaling["found_inf"]
        step = state["step"]
        step.add_(1 if found_inf is None else found_inf.reshape(()) == 0)
        options = {name: group[name] for name in self.arguments}
        if "betas" in group:
            options["beta1"], options["beta2"] = group["betas"]
        sparse_table_update_(
            param if master is None else master,
            [state[name] for name in self.state_names],
            None if master is None else param,
            grad._indices()[0],
            grad._values(),
            self.lr_of(index, group, param.device),
            scalar_on(param.device, step),
            rule=self.rule,
            maximize=group["maximize"],
            **options,
            **scaling,
        )

    @torch.no_grad()
    def reset_state(self) -> None:
        """Return to the state before the first step."""
        super().reset_state()
        for state in self.state.values():
            if "step" in state:
                state["step"].zero_()

    def _check_shapes(self, param: Tensor, saved: dict) -> None:
        if not self.by_row:
            return super()._check_shapes(param, saved)
        for name in self.state_names:
            value, shape = saved.get(name), list(param.shape[:1])
            if value is not None and list(value.shape) != shape:
                raise UserError(f"{self.op}: saved {name} must have shape {shape}, got {list(value.shape)}")
        return super()._check_shapes(param, {"master": saved.get("master")})

    def _restore(self, param: Tensor, saved: dict, old: dict) -> None:
        if not {"step", *self.state_names} & saved.keys():
            return super()._restore(param, saved, old)
        state = self.state[param]
        state.update(old)
        self.state_of(param, self.state_names)
        for name in ("step", *self.state_names):
            if name in saved:
                state[name].copy_(torch.as_tensor(saved[name]))
        return super()._restore(param, {"master": saved.get("master")}, old)


class SparseSGD(SparseTableOptimizer):
    """SGD on the touched rows, without momentum or weight decay; torch.optim.SGD on sparse gradients.

    Args:
        params: tables or parameter groups; float32, float64, bfloat16 or float16, on any device.
        lr: learning rate >= 0, a float or a tensor of one element.
        momentum, dampening, weight_decay, nesterov: must be 0 or False, as they move rows without a gradient.
        maximize: as in torch.optim.SGD.
        foreach, fused, differentiable: torch's, without effect; the last must be False.
        master_weights: keep a float32 master of a 16-bit table.
    """

    op = "sparse_sgd"
    rule = "sgd"

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
        master_weights: bool = True,
    ) -> None:
        check_false(self.op, differentiable=differentiable)
        options = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        options |= {"nesterov": nesterov, "maximize": maximize}
        super().__init__(params, options, master_weights=master_weights)

    def check_options(self, options: dict) -> None:
        """Raise UserError for options of a group that are out of range."""
        check_lr(self.op, options)
        _check_zero(self.op, options, "momentum", "dampening", "weight_decay")
        check_false(self.op, nesterov=options["nesterov"])


class SparseAdagrad(SparseTableOptimizer):
    """Adagrad on the touched rows; torch.optim.Adagrad on sparse gradients.

    Args:
        params: tables or parameter groups; float32, float64, bfloat16 or float16, on any device.
        lr: learning rate >= 0, a float or a tensor of one element.
        lr_decay, initial_accumulator_value, eps, maximize: as in torch.optim.Adagrad.
        weight_decay: must be 0, as it moves rows without a gradient.
        foreach, fused, differentiable: torch's, without effect; the last must be False.
        master_weights: keep a float32 master of a 16-bit table.

    State: "sum", the squares' sum of each weight.
    """

    op = "sparse_adagrad"
    rule = "adagrad"
    state_names = ("sum",)
    arguments = ("eps", "lr_decay")

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
        master_weights: bool = True,
    ) -> None:
        check_false(self.op, differentiable=differentiable)
        options = {"lr": lr, "lr_decay": lr_decay, "eps": eps, "maximize": maximize, "weight_decay": weight_decay}
        options["initial_accumulator_value"] = initial_accumulator_value
        super().__init__(params, options, master_weights=master_weights)

    def check_options(self, options: dict) -> None:
        """Raise UserError for options of a group that are out of range."""
        check_lr(self.op, options, "lr_decay", "eps", "initial_accumulator_value")
        _check_zero(self.op, options, "weight_decay")

    def initial_value(self, name: str) -> float:
        """What the sums are filled with before the first step."""
        return self.defaults["initial_accumulator_value"]


class SparseRowWiseAdagrad(SparseAdagrad):
    """Row-wise Adagrad: one sum of mean squares for a row, so that the state is 1 / dim of the table.

    The formula is FBGEMM's and torchrec's; the arguments are those of SparseAdagrad. State: "sum", [rows].
    """

    op = "sparse_row_wise_adagrad"
    rule = "row_wise_adagrad"
    by_row = True


class SparseAdam(SparseTableOptimizer):
    """Lazy Adam: moments and weights of the touched rows only; torch.optim.SparseAdam.

    Args:
        params: tables or parameter groups; float32, float64, bfloat16 or float16, on any device.
        lr: learning rate >= 0, a float or a tensor of one element.
        betas, eps, maximize: as in torch.optim.SparseAdam. The bias correction counts steps of the table, not of a row.
        master_weights: keep a float32 master of a 16-bit table.

    State: "exp_avg" and "exp_avg_sq".
    """

    op = "sparse_adam"
    rule = "adam"
    state_names = ("exp_avg", "exp_avg_sq")
    arguments = ("eps",)

    def __init__(
        self,
        params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        maximize: bool = False,
        *,
        master_weights: bool = True,
    ) -> None:
        options = {"lr": lr, "betas": betas, "eps": eps, "maximize": maximize}
        super().__init__(params, options, master_weights=master_weights)

    def check_options(self, options: dict) -> None:
        """Raise UserError for options of a group that are out of range."""
        check_lr(self.op, options, "eps")
        check_betas(self.op, options)


class SparseFTRL(FTRLOptimizer, SparseTableOptimizer):
    """FTRL-Proximal on the touched rows; the arguments and the formula are those of FusedFTRL.

    A row's first step forgets most of the weights that it begins with, so that tables begin at 0.

    Args:
        params: tables or parameter groups; float32, float64, bfloat16 or float16, on any device.
        lr, lr_power, initial_accumulator_value, l1, l2, l2_shrinkage, beta, maximize: as in FusedFTRL.
        foreach, fused: torch's, without effect.
        master_weights: keep a float32 master of a 16-bit table.

    State: "accumulator", the squares' sum of each weight, and "linear".
    """

    op = "sparse_ftrl"
    rule = "ftrl"
    state_names = ("accumulator", "linear")
    arguments = ("lr_power", "l1", "l2", "l2_shrinkage", "beta")

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
        fused: bool | None = None,
        master_weights: bool = True,
    ) -> None:
        options = {"lr": lr, "lr_power": lr_power, "initial_accumulator_value": initial_accumulator_value}
        options |= {"l1": l1, "l2": l2, "l2_shrinkage": l2_shrinkage, "beta": beta, "maximize": maximize}
        super().__init__(params, options, master_weights=master_weights)


def _check_zero(op: str, options: dict, *names: str) -> None:
    for name in names:
        if options[name] != 0:
            raise UserError(f"{op}: {name} must be 0, got {float(options[name])}")
