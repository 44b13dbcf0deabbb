"""airank_fast::sparse_table_update_: one step of an optimizer over the rows of a table that have a gradient.

Formulas in csrc/sparse_table_update_math.h and, of FTRL, in csrc/ftrl_math.h. The gradients of a row's look-ups are
added in their order, so that the result has the same bits for any number of threads, and on a GPU in every run; rows
without one are neither read nor written.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from airank_fast.ops.checks import IN_16_BITS, check_device, check_dtype, check_shape, name_of, require
from airank_fast.ops.ftrl import ftrl_formula
from airank_fast.ops.sparse_table import check_contiguous, check_inside, check_int64, check_table
from airank_fast.ops.tensor_lists import check_scalars, mark_written, newest, unscaled, write

_SCHEMA = """sparse_table_update_(
    Tensor(a!) table, Tensor(b!)[] state, Tensor(c!)? copy, Tensor rows, Tensor grads, Tensor lr, Tensor step, *,
    str rule, float beta1=0.9, float beta2=0.999, float eps=1e-8, float lr_decay=0.0, float lr_power=-0.5,
    float l1=0.0, float l2=0.0, float l2_shrinkage=0.0, float beta=0.0, bool maximize=False, Tensor? grad_scale=None,
    Tensor? found_inf=None
) -> ()"""
_library = torch.library.Library("airank_fast", "FRAGMENT")
_library.define(_SCHEMA, tags=(torch.Tag.pt2_compliant_tag,))

RULES = {"sgd": 0, "adagrad": 1, "row_wise_adagrad": 1, "adam": 2, "ftrl": 2}
"""The rules of `sparse_table_update_`, and how many tensors of state each has."""


def sparse_table_update_(
    table: Tensor,
    state: Sequence[Tensor],
    copy: Tensor | None,
    rows: Tensor,
    grads: Tensor,
    lr: Tensor,
    step: Tensor,
    *,
    rule: str,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    lr_decay: float = 0.0,
    lr_power: float = -0.5,
    l1: float = 0.0,
    l2: float = 0.0,
    l2_shrinkage: float = 0.0,
    beta: float = 0.0,
    maximize: bool = False,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """Update the rows of `table` that have a gradient, in place; other rows keep their weights and their state.

    Args:
        table: [rows, dim], float32, float64, bfloat16 or float16, contiguous.
        state: none for "sgd"; the sum of squares for "adagrad" [rows, dim] and "row_wise_adagrad" [rows]; both moments
            for "adam", the sum of squares n and the linear term z for "ftrl", [rows, dim] each. float32, or float64 of
            a float64 table. They start from zeros, but for FTRL's n: from an initial value, 0.1 in Keras.
        copy: bfloat16 or float16, of the shape of the float32 table, which is its master; or None. It is the weights
            of a model: new rows, rounded to nearest even, are written there too. A weight that differs from its rounded
            master was changed by other code, and the step begins from it.
        rows: [ids], int64: the row of each gradient, in any order and any number of times. A row outside the table is
            an error on the CPU; on a GPU its gradient is left out.
        grads: [ids, dim], of the table's dtype, or 16-bit beside a float32 table. Those of one row are added in their
            order, in float32 (float64 of float64): the same bits for any number of threads, and on a GPU in every run.
        lr: learning rate, one float32 or float64 number on the table's device.
        step: number of this step, counted from 1, for Adam's bias correction and lr_decay; one number like lr.
        rule: "sgd", "adagrad", "row_wise_adagrad", "adam" or "ftrl": the formulas of torch.optim.SGD, Adagrad and
            SparseAdam on sparse gradients; row-wise Adagrad is FBGEMM's, with the mean square of a row's gradient;
            FTRL-Proximal is that of `ftrl_`.
        lr_decay: Adagrad's; the learning rate is divided by 1 + (step - 1) * lr_decay.
        lr_power, l1, l2, l2_shrinkage, beta: FTRL's, as in `ftrl_`.
        grad_scale: gradients are divided by it; one number like lr.
        found_inf: where it is not zero, nothing is written; one number like lr.

    Raises:
        RuntimeError: "sparse_table_update: NAME must be WHAT, got GOT".
    """
    torch.ops.airank_fast.sparse_table_update_(
        table,
        state,
        copy,
        rows,
        grads,
        lr,
        step,
        rule=rule,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        lr_decay=lr_decay,
        lr_power=lr_power,
        l1=l1,
        l2=l2,
        l2_shrinkage=l2_shrinkage,
        beta=beta,
        maximize=maximize,
        grad_scale=grad_scale,
        found_inf=found_inf,
    )
    mark_written([table], state, [] if copy is None else [copy])


@torch.library.impl(_library, "sparse_table_update_", "CompositeExplicitAutograd")
def sparse_table_update_reference(
    table: Tensor,
    state: Sequence[Tensor],
    copy: Tensor | None,
    rows: Tensor,
    grads: Tensor,
    lr: Tensor,
    step: Tensor,
    *,
    rule: str,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    lr_decay: float = 0.0,
    lr_power: float = -0.5,
    l1: float = 0.0,
    l2: float = 0.0,
    l2_shrinkage: float = 0.0,
    beta: float = 0.0,
    maximize: bool = False,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """The same step in plain torch: runs where there is no kernel, and is the oracle of the kernel's tests.

    It waits for the number of touched rows.
    """
    _check_update(table, state, copy, rows, grads, lr, step, rule, grad_scale, found_inf)
    inside = (rows >= 0) & (rows < len(table))
    check_inside("sparse_table_update", "rows", rows, inside, torch.tensor(len(table)))
    if rows.device.type != "cpu":
        rows, grads = rows[inside], grads[inside]
    if grads.numel() == 0:
        return
    wide = torch.promote_types(table.dtype, torch.float32)
    touched, g = _summed(rows, grads.to(wide))
    g = unscaled(g, wide, grad_scale, maximize)
    olds = [tensor[touched] for tensor in state]
    weights = newest(table[touched], None if copy is None else copy[touched]).to(wide)
    lr, step = lr.double().reshape(()), step.double().reshape(())
    if rule == "ftrl":
        penalties = {"l1": l1, "l2": l2, "l2_shrinkage": l2_shrinkage, "beta": beta}
        new, *news = ftrl_formula(weights, g, *olds, lr, lr_power=lr_power, **penalties)
    elif rule == "adam":
        m = olds[0] + (1 - beta1) * (g - olds[0])
        v = olds[1] + (1 - beta2) * (g * g - olds[1])
        rate = lr * (1 - beta2**step).sqrt() / (1 - beta1**step)
        new, news = weights - rate.to(wide) * (m / (v.sqrt() + eps)), [m, v]
    elif rule == "sgd":
        new, news = weights - lr.to(wide) * g, []
    else:
        added = g * g if rule == "adagrad" else (g * g).mean(1)
        news, rate = [olds[0] + added], lr / (1 + (step - 1) * lr_decay)
        root = news[0].sqrt() + eps
        new = weights - rate.to(wide) * (g / (root if rule == "adagrad" else root[:, None]))
    for tensor, of_rows in zip((table, *state), (new, *news), strict=True):
        _write_rows(tensor, touched, of_rows, found_inf)
    if copy is not None:
        _write_rows(copy, touched, new, found_inf)


@torch.library.register_fake("airank_fast::sparse_table_update_", lib=_library)
def _update_fake(
    table,
    state,
    copy,
    rows,
    grads,
    lr,
    step,
    *,
    rule,
    grad_scale=None,
    found_inf=None,
    **_options,
):
    _check_update(table, state, copy, rows, grads, lr, step, rule, grad_scale, found_inf)


def _summed(rows: Tensor, grads: Tensor) -> tuple[Tensor, Tensor]:
    """The touched rows in ascending order, and the sum of each one's gradients in their order."""
    order = rows.argsort(stable=True)
    touched, places = rows[order].unique_consecutive(return_inverse=True)
    sums = grads.new_zeros(len(touched), grads.shape[1])
    if grads.device.type == "cpu":
        return touched, sums.index_add_(0, places, grads[order])
    return touched, sums.index_put_((places,), grads[order], accumulate=True)  # without atomics, the same in every run


def _write_rows(tensor: Tensor, rows: Tensor, new: Tensor, found_inf: Tensor | None) -> None:
    kept = tensor[rows]
    write(kept, new, found_inf)
    tensor.index_copy_(0, rows, kept)


def _check_update(table, state, copy, rows, grads, lr, step, rule, grad_scale, found_inf) -> None:
    """The checks of csrc/sparse_table_update_args.h, in the same order and words."""
    op = "sparse_table_update"
    require(op, rule in RULES, "rule must be sgd, adagrad, row_wise_adagrad, adam or ftrl", rule)
    check_table(op, table)
    narrow = table.dtype == torch.float32
    required = f"state must have {RULES[rule]} tensors for {rule}"
    require(op, len(state) == RULES[rule], required, len(state))
    for i, tensor in enumerate(state):
        _check_part(op, f"state[{i}]", tensor, table, table.shape[:1] if rule == "row_wise_adagrad" else table.shape)
        check_dtype(op, f"state[{i}]", tensor, torch.promote_types(table.dtype, torch.float32))
    if copy is not None:
        _check_part(op, "copy", copy, table, table.shape)
        good = narrow and copy.dtype in IN_16_BITS
        got = f"{name_of(copy.dtype)} of {name_of(table.dtype)}"
        require(op, good, "copy must be bfloat16 or float16, of a float32 table", got)
    check_int64(op, "rows", rows, table)
    require(op, rows.dim() == 1, "rows must have shape [ids]", list(rows.shape))
    check_device(op, "grads", grads, table.device)
    check_shape(op, "grads", grads, [rows.shape[0], table.shape[1]])
    required = f"grads must be {name_of(table.dtype)}" + ", bfloat16 or float16" * narrow
    good = grads.dtype == table.dtype or (narrow and grads.dtype in IN_16_BITS)
    require(op, good, required, name_of(grads.dtype))
    check_scalars(op, table.device, lr=lr, step=step, grad_scale=grad_scale, found_inf=found_inf)


def _check_part(op: str, name: str, part: Tensor, table: Tensor, shape: Sequence[int]) -> None:
    check_device(op, name, part, table.device)
    check_shape(op, name, part, shape)
    check_contiguous(op, name, part)
