"""airank_fast::sparse_table_lookup and sparse_table_bag: rows of a table that many slots share, and sums of them.

The table's gradient is never dense: backward returns it as a sparse COO tensor, of look-ups the gradient of each beside
its row, as torch.nn.Embedding does with sparse=True, of bags that of each row. `sparse_table_update_` takes it from
there.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from torch.nn import functional as F

from airank_fast.ops import autograd
from airank_fast.ops.checks import check_device, check_dtype, check_floating, check_shape, require

_SCHEMAS = (
    "sparse_table_lookup(Tensor table, Tensor ids, Tensor? first_rows, int padding_idx) -> Tensor",
    "sparse_table_bag(Tensor table, Tensor ids, Tensor offsets, Tensor? weights, bool mean, int padding_idx) -> Tensor",
    "sparse_table_bag_backward(Tensor grad, Tensor ids, Tensor offsets, Tensor? weights, bool mean, int padding_idx)"
    " -> (Tensor, Tensor)",
)
_library = torch.library.Library("airank_fast", "FRAGMENT")
_ops = torch.ops.airank_fast
for _schema in _SCHEMAS:
    _library.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))


@autograd.overridable
def sparse_table_lookup(
    table: Tensor, ids: Tensor, first_rows: Tensor | None = None, *, padding_idx: int | None = None
) -> Tensor:
    """The rows of the table with these ids, as torch.nn.functional.embedding with sparse=True.

    Args:
        table: [rows, dim], float32, float64, bfloat16 or float16, contiguous.
        ids: int64 or int32; [...], or [..., slots] with first_rows.
        first_rows: [slots], int64, ascending: slot s has the rows from first_rows[s] to that of the next slot, or to
            the end of the table, and its ids count from 0. None: ids are rows.
        padding_idx: a row whose look-ups have no gradient.

    Returns:
        [..., dim], of the dtype of the table. The table's gradient is a sparse COO tensor, not coalesced.

    An id outside its slot is an error on the CPU; on a GPU, where the host does not wait for it, its row is NaN.

    Raises:
        RuntimeError: "sparse_table_lookup: NAME must be WHAT, got GOT".
    """
    return _lookup(table, ids, first_rows, -1 if padding_idx is None else padding_idx)


@autograd.overridable
def sparse_table_bag(
    table: Tensor,
    ids: Tensor,
    offsets: Tensor | None = None,
    *,
    mode: str = "mean",
    include_last_offset: bool = False,
    padding_idx: int | None = None,
    per_sample_weights: Tensor | None = None,
) -> Tensor:
    """The sum or the mean of rows for bags of ids, as torch.nn.functional.embedding_bag with sparse=True.

    Args:
        table: [rows, dim], float32, float64, bfloat16 or float16, contiguous.
        ids: int64 or int32; [bags, ids], or [ids] with offsets.
        offsets: [bags], int64 or int32, where each bag begins in ids; with include_last_offset [bags + 1], and the last
            is the number of ids.
        mode: "sum", or "mean".
        padding_idx: ids that count as absent, also in the mean.
        per_sample_weights: a factor of each id's row, of the shape of ids and of any floating dtype, with mode "sum".
            They have no gradient.

    Returns:
        [bags, dim], of the dtype of the table; zeros for an empty bag. Sums are in float32 (float64 of float64). The
        table's gradient is a sparse COO tensor, with every row once, for whose number backward waits on a GPU.

    An id outside the table is an error on the CPU; on a GPU, where the host does not wait for it, its bag is NaN. There
    the offsets are not checked either.

    Raises:
        RuntimeError: "sparse_table_bag: NAME must be WHAT, got GOT".
    """
    op = "sparse_table_bag"
    require(op, mode in ("sum", "mean"), "mode must be sum or mean", mode)
    required = "ids must have shape [bags, ids], or [ids] with offsets"
    require(op, ids.dim() == (2 if offsets is None else 1), required, list(ids.shape))
    weights = per_sample_weights
    if weights is not None:
        require(op, mode == "sum", "mode must be sum with per_sample_weights", mode)
        check_shape(op, "per_sample_weights", weights, ids.shape)
        required = "per_sample_weights must be without a gradient"
        require(op, not autograd.records(weights), required, "one that requires it")
        weights = weights.to(torch.promote_types(table.dtype, torch.float32)).flatten()
    if offsets is None:
        bags, size = ids.shape
        offsets = torch.arange(bags + 1, device=ids.device) * size
        ids = ids.flatten()
    else:
        offsets = offsets.long()
        if not include_last_offset:
            offsets = torch.cat([offsets, offsets.new_full((1,), len(ids))])
    return _bag(table, ids, offsets, weights, mode == "mean", -1 if padding_idx is None else padding_idx)


@torch.library.impl(_library, "sparse_table_lookup", "CompositeExplicitAutograd")
def sparse_table_lookup_reference(table: Tensor, ids: Tensor, first_rows: Tensor | None, padding_idx: int) -> Tensor:
    """The same in plain torch."""
    _check_lookup(table, ids, first_rows)
    limits = _slot_sizes(first_rows, len(table))
    inside = (ids >= 0) & (ids < limits)
    check_inside("sparse_table_lookup", "ids", ids, inside, limits)
    rows = ids if first_rows is None else ids + first_rows
    return _rows_or_nan(table, rows, inside)


@torch.library.impl(_library, "sparse_table_bag", "CompositeExplicitAutograd")
def sparse_table_bag_reference(
    table: Tensor, ids: Tensor, offsets: Tensor, weights: Tensor | None, mean: bool, padding_idx: int
) -> Tensor:
    """The same in plain torch."""
    _check_bag(table, ids, offsets, weights)
    _check_offsets("sparse_table_bag", offsets, len(ids))
    inside = (ids >= 0) & (ids < len(table))
    check_inside("sparse_table_bag", "ids", ids, inside, torch.tensor(len(table)))
    bags, counts = _bags_of(ids, offsets, padding_idx)
    rows = _rows_or_nan(table, ids, inside).to(torch.promote_types(table.dtype, torch.float32))
    rows = torch.where(((ids != padding_idx) | ~inside)[:, None], rows, 0)
    rows = rows if weights is None else rows * weights[:, None]
    sums = rows.new_zeros(len(counts), table.shape[1]).index_add(0, bags, rows)
    return (sums / counts[:, None] if mean else sums).to(table.dtype)


@torch.library.impl(_library, "sparse_table_bag_backward", "CompositeExplicitAutograd")
def sparse_table_bag_backward_reference(
    grad: Tensor, ids: Tensor, offsets: Tensor, weights: Tensor | None, mean: bool, padding_idx: int
) -> tuple[Tensor, Tensor]:
    """The rows in the bags, int64 [rows], ascending, and the gradient of each, [rows, dim], in plain torch."""
    _check_bag_backward(grad, ids, offsets, weights)
    _check_offsets("sparse_table_bag_backward", offsets, len(ids))
    return _of_rows(grad, ids, offsets, weights, mean, padding_idx)


@torch.library.register_fake("airank_fast::sparse_table_lookup", lib=_library)
def _lookup_fake(table, ids, first_rows, padding_idx):
    _check_lookup(table, ids, first_rows)
    return table.new_empty((*ids.shape, table.shape[1]))


@torch.library.register_fake("airank_fast::sparse_table_bag", lib=_library)
def _bag_fake(table, ids, offsets, weights, mean, padding_idx):
    _check_bag(table, ids, offsets, weights)
    return table.new_empty((offsets.shape[0] - 1, table.shape[1]))


@torch.library.register_fake("airank_fast::sparse_table_bag_backward", lib=_library)
def _bag_backward_fake(grad, ids, offsets, weights, mean, padding_idx):
    _check_bag_backward(grad, ids, offsets, weights)
    num_rows = torch.library.get_ctx().new_dynamic_size()
    return ids.new_empty(num_rows, dtype=torch.int64), grad.new_empty((num_rows, grad.shape[1]))


def _setup_lookup(ctx, inputs, output):
    table, ids, first_rows, ctx.padding_idx = inputs
    ctx.shape = table.shape
    ctx.save_for_backward(ids, first_rows)


def _lookup_backward(ctx, grad):
    ids, first_rows = ctx.saved_tensors
    rows = ids if first_rows is None else ids + first_rows
    rows, values = rows.flatten(), grad.reshape(-1, ctx.shape[1])
    if ctx.padding_idx >= 0:  # a row without a gradient
        kept = rows != ctx.padding_idx
        rows, values = rows[kept], values[kept]
    return torch.sparse_coo_tensor(rows.long()[None], values, ctx.shape, check_invariants=False), None, None, None


def _torchs_lookup(table, ids, first_rows, padding_idx):
    rows = ids if first_rows is None else ids + first_rows
    return F.embedding(rows, table, None if padding_idx < 0 else padding_idx)


def _setup_bag(ctx, inputs, output):
    table, ids, offsets, weights, ctx.mean, ctx.padding_idx = inputs
    ctx.shape = table.shape
    ctx.save_for_backward(ids, offsets, weights)


def _bag_backward(ctx, grad):
    inputs = grad, *ctx.saved_tensors, ctx.mean, ctx.padding_idx
    if torch.compiler.is_compiling():  # the number of rows is not known there
        rows, values = _of_ids(*inputs)
    else:
        rows, values = autograd.backward_of(_ops.sparse_table_bag_backward.default, _of_rows, *inputs)
    gradient = torch.sparse_coo_tensor(rows[None], values, ctx.shape, check_invariants=False)
    return gradient, None, None, None, None, None


def _torchs_bag(table, ids, offsets, weights, mean, padding_idx):
    return F.embedding_bag(
        ids,
        table,
        offsets.to(ids.dtype),
        mode="mean" if mean else "sum",
        per_sample_weights=None if weights is None else weights.to(table.dtype),
        include_last_offset=True,
        padding_idx=None if padding_idx < 0 else padding_idx,
    )


_lookup = autograd.differentiable(
    _ops.sparse_table_lookup.default, _setup_lookup, _lookup_backward, _torchs_lookup, lib=_library
)
_bag = autograd.differentiable(_ops.sparse_table_bag.default, _setup_bag, _bag_backward, _torchs_bag, lib=_library)
autograd.refuse_derivatives(_library, "sparse_table_bag_backward")


def _of_rows(
    grad: Tensor, ids: Tensor, offsets: Tensor, weights: Tensor | None, mean: bool, padding_idx: int
) -> tuple[Tensor, Tensor]:
    wide = grad.to(torch.promote_types(grad.dtype, torch.float32))
    of_ids, values = _of_ids(wide, ids, offsets, weights, mean, padding_idx)
    rows, place = torch.unique(of_ids, return_inverse=True)
    return rows, values.new_zeros(len(rows), grad.shape[1]).index_add(0, place, values).to(grad.dtype)


def _of_ids(
    grad: Tensor, ids: Tensor, offsets: Tensor, weights: Tensor | None, mean: bool, padding_idx: int
) -> tuple[Tensor, Tensor]:
    """The rows of the ids, and the gradient of each: a row comes as often as it is looked up."""
    bags, counts = _bags_of(ids, offsets, padding_idx)
    values = (grad / counts[:, None] if mean else grad)[bags]
    rows, values = ids.long(), values if weights is None else values * weights[:, None]
    if padding_idx < 0:
        return rows, values
    kept = ids != padding_idx
    return rows[kept], values[kept]


def _bags_of(ids: Tensor, offsets: Tensor, padding_idx: int) -> tuple[Tensor, Tensor]:
    """The bag of each id, and the number of ids in each bag, at least 1."""
    bags = torch.repeat_interleave(torch.arange(len(offsets) - 1, device=ids.device), offsets.diff())
    counts = torch.zeros(len(offsets) - 1, dtype=torch.int64, device=ids.device)
    return bags, counts.index_add(0, bags, (ids != padding_idx).long()).clamp(min=1)


def _rows_or_nan(table: Tensor, rows: Tensor, inside: Tensor) -> Tensor:
    if len(table) == 0:
        return table.new_full((*rows.shape, table.shape[1]), torch.nan)
    found = F.embedding(torch.where(inside, rows, 0), table)
    return found if table.device.type == "cpu" else found.masked_fill(~inside[..., None], torch.nan)


def _slot_sizes(first_rows: Tensor | None, num_rows: int) -> Tensor:
    """The number of rows of each slot, or of the only one."""
    if first_rows is None:
        return torch.tensor(num_rows)
    least = torch.cat([first_rows.new_zeros(1), first_rows])[:-1]
    if first_rows.device.type == "cpu":
        for i, (first, lower) in enumerate(zip(first_rows.tolist(), least.tolist(), strict=True)):
            required = f"first_rows[{i}] must be in [{lower}, {num_rows}]"
            require("sparse_table_lookup", lower <= first <= num_rows, required, first)
    return torch.cat([first_rows, first_rows.new_full((1,), num_rows)])[1:] - first_rows


def check_inside(op: str, name: str, ids: Tensor, inside: Tensor, limits: Tensor) -> None:
    """Each id must be in [0, its limit). Only on the CPU: on a GPU the check would wait for the device."""
    if ids.device.type == "cpu" and not inside.all():
        place = (~inside).nonzero()[0].tolist()
        limit = int(limits.expand(ids.shape)[tuple(place)])
        require(op, False, f"{name}{place} must be in [0, {limit})", int(ids[tuple(place)]))


def _check_offsets(op: str, offsets: Tensor, num_ids: int) -> None:
    if offsets.device.type != "cpu":
        return
    numbers = offsets.tolist()
    require(op, numbers[0] == 0, "offsets[0] must be 0", numbers[0])
    for i, (lower, offset) in enumerate(itertools.pairwise(numbers), 1):
        require(op, lower <= offset <= num_ids, f"offsets[{i}] must be in [{lower}, {num_ids}]", offset)
    last = len(numbers) - 1
    require(op, numbers[last] == num_ids, f"offsets[{last}] must be the number of ids, {num_ids}", numbers[last])


def check_table(op: str, table: Tensor) -> None:
    """This and the checks below: those of csrc/sparse_table_args.h, in the same order and words."""
    require(op, table.dim() == 2, "table must have shape [rows, dim]", list(table.shape))
    check_floating(op, "table", table)
    check_contiguous(op, "table", table)


def check_contiguous(op: str, name: str, tensor: Tensor) -> None:
    """The tensor must be contiguous."""
    require(op, tensor.is_contiguous(), f"{name} must be contiguous", f"strides {list(tensor.stride())}")


def _check_ids(op: str, ids: Tensor, like: Tensor) -> None:
    check_device(op, "ids", ids, like.device)
    check_dtype(op, "ids", ids, torch.int64, torch.int32)


def check_int64(op: str, name: str, tensor: Tensor, like: Tensor) -> None:
    """The tensor must be int64, on the device of `like`."""
    check_device(op, name, tensor, like.device)
    check_dtype(op, name, tensor, torch.int64)


def _check_lookup(table: Tensor, ids: Tensor, first_rows: Tensor | None) -> None:
    op = "sparse_table_lookup"
    check_table(op, table)
    _check_ids(op, ids, table)
    if first_rows is not None:
        require(op, ids.dim() >= 1, "ids must have shape [..., slots]", list(ids.shape))
        check_int64(op, "first_rows", first_rows, table)
        check_shape(op, "first_rows", first_rows, ids.shape[-1:])


def _check_bag_ids(op: str, ids: Tensor, offsets: Tensor, weights: Tensor | None, like: Tensor) -> None:
    _check_ids(op, ids, like)
    require(op, ids.dim() == 1, "ids must have shape [ids]", list(ids.shape))
    check_int64(op, "offsets", offsets, like)
    good = offsets.dim() == 1 and offsets.shape[0] >= 1
    require(op, good, "offsets must have shape [bags + 1]", list(offsets.shape))
    if weights is not None:
        check_device(op, "weights", weights, like.device)
        check_dtype(op, "weights", weights, torch.promote_types(like.dtype, torch.float32))
        check_shape(op, "weights", weights, ids.shape)


def _check_bag(table: Tensor, ids: Tensor, offsets: Tensor, weights: Tensor | None) -> None:
    check_table("sparse_table_bag", table)
    _check_bag_ids("sparse_table_bag", ids, offsets, weights, table)


def _check_bag_backward(grad: Tensor, ids: Tensor, offsets: Tensor, weights: Tensor | None) -> None:
    op = "sparse_table_bag_backward"
    check_floating(op, "grad", grad)
    _check_bag_ids(op, ids, offsets, weights, grad)
    bags = offsets.shape[0] - 1
    good = grad.dim() == 2 and grad.shape[0] == bags
    require(op, good, f"grad must have shape [{bags}, dim]", list(grad.shape))
