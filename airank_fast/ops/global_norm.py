"""airank_fast::global_norm: the 2-norm over all elements of a list of tensors, without synchronising with the host.

LAMB clips by it. The result is the same in every run: sums over chunks of fixed size are added in order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from airank_fast.ops.checks import check_dense, check_device, check_floating, require

_library = torch.library.Library("airank_fast", "FRAGMENT")
_library.define("global_norm(Tensor[] tensors) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))


def global_norm(tensors: Sequence[Tensor]) -> Tensor:
    """The square root of the sum of the squares of all elements, a float64 scalar on the tensors' device.

    Args:
        tensors: at least one, on one device; float32, float64, bfloat16 and float16 may be mixed; any shapes and
            strides (a tensor with holes is copied).

    Squares and the first few dozen sums are in float32 (float64 for float64 tensors), all others in float64. Not
    differentiable.

    Raises:
        RuntimeError: "global_norm: NAME must be WHAT, got GOT".
    """
    return torch.ops.airank_fast.global_norm(tensors)


@torch.library.impl(_library, "global_norm", "CompositeExplicitAutograd")
def global_norm_reference(tensors: Sequence[Tensor]) -> Tensor:
    """The same in plain torch."""
    _check(tensors)
    norms = [torch.linalg.vector_norm(t, dtype=torch.promote_types(t.dtype, torch.float32)) for t in tensors]
    return torch.linalg.vector_norm(torch.stack([norm.double() for norm in norms]))


@torch.library.register_fake("airank_fast::global_norm", lib=_library)
def _global_norm_fake(tensors):
    _check(tensors)
    return tensors[0].new_empty((), dtype=torch.float64)


def _check(tensors) -> None:
    """The checks of check_tensors in csrc/tensor_lists.h, in the same order and words."""
    op = "global_norm"
    require(op, len(tensors) > 0, "tensors must hold at least one tensor", "none")
    for i, tensor in enumerate(tensors):
        check_device(op, f"tensors[{i}]", tensor, tensors[0].device)
        check_dense(op, f"tensors[{i}]", tensor)
        check_floating(op, f"tensors[{i}]", tensor)
