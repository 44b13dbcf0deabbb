"""airank_fast::winograd_*: the transforms of 3x3 convolutions of stride 1 by Winograd's minimal filtering.

    Y = A^T [(G w G^T) * (B^T d B)] A        of each 4x4 window d of the input, at steps of 2

takes 16 products for 2x2 outputs where a direct convolution takes 36; those of all windows and channels are 16 matrix
products. `windows` is B^T d B, `outputs` A^T m A, each with its adjoint, `filters` G w G^T. Pictures are in NHWC, so
that every step is an addition of rows of channels. Sums have C terms instead of 9 C: in float32 the result is as close
to float64's as a direct convolution's. Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks",
2016, F(2x2, 3x3).
"""

from __future__ import annotations

import torch
from torch import Tensor

from airank_fast.ops.checks import check_dtype, require

_B = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
_G = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_A = ((1, 1, 1, 0), (0, 1, -1, -1))

_library = torch.library.Library("airank_fast", "FRAGMENT")
_ops = torch.ops.airank_fast
for _schema in (
    "winograd_windows(Tensor x) -> Tensor",
    "winograd_windows_backward(Tensor x) -> Tensor",
    "winograd_outputs(Tensor x) -> Tensor",
    "winograd_outputs_backward(Tensor x) -> Tensor",
):
    _library.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))


def windows(x: Tensor) -> Tensor:
    """B^T d B of every window.

    Args:
        x: [N, H, W, C], padding included, H and W even and at least 4; contiguous float32 or float64.

    Returns:
        [16, N, H / 2 - 1, W / 2 - 1, C]. No op of this file has a gradient by itself.

    Raises:
        RuntimeError: "winograd_windows: x must be WHAT, got GOT"; those of the others have their own names.
    """
    return _ops.winograd_windows.default(x)


def windows_backward(x: Tensor) -> Tensor:
    """The adjoint of `windows`: [16, N, rows, columns, C] -> [N, 2 rows + 2, 2 columns + 2, C]."""
    return _ops.winograd_windows_backward.default(x)


def outputs(x: Tensor) -> Tensor:
    """A^T m A of the 16 products of every window: [16, N, rows, columns, C] -> [N, 2 rows, 2 columns, C]."""
    return _ops.winograd_outputs.default(x)


def outputs_backward(x: Tensor) -> Tensor:
    """The adjoint of `outputs`: [N, H, W, C], H and W even -> [16, N, H / 2, W / 2, C]."""
    return _ops.winograd_outputs_backward.default(x)


def filters(weight: Tensor) -> Tensor:
    """G w G^T: [K, C, 3, 3] -> [16, K, C]."""
    taps = weight.permute(0, 2, 3, 1).flatten(1, 2)
    return (_both_sides(_G, weight) @ taps).transpose(0, 1)


def filters_backward(x: Tensor) -> Tensor:
    """The adjoint of `filters`: [16, K, C] -> [K, C, 3, 3], channels_last."""
    taps = _both_sides(_G, x).t() @ x.transpose(0, 1)
    return taps.unflatten(1, (3, 3)).permute(0, 3, 1, 2)


def _matrix(rows: tuple[tuple[float, ...], ...], like: Tensor) -> Tensor:
    return torch.tensor(rows, dtype=like.dtype, device=like.device)


def _both_sides(rows: tuple[tuple[float, ...], ...], like: Tensor) -> Tensor:
    """The matrix by which both sides of a square, flattened, are transformed."""
    matrix = _matrix(rows, like)
    return torch.kron(matrix, matrix)


def _squares(x: Tensor, side: int, step: int) -> Tensor:
    """[N, rows, columns, C, side, side]: a view."""
    return x.unfold(1, side, step).unfold(2, side, step)


@torch.library.impl(_library, "winograd_windows", "CompositeExplicitAutograd")
def windows_reference(x: Tensor) -> Tensor:
    """`windows` in plain torch."""
    _check_pixels("winograd_windows", x, 2)
    matrix = _matrix(_B, x)
    return torch.einsum("ai,bj,nyxcij->abnyxc", matrix, matrix, _squares(x, 4, 2)).flatten(0, 1).contiguous()


@torch.library.impl(_library, "winograd_windows_backward", "CompositeExplicitAutograd")
def windows_backward_reference(x: Tensor) -> Tensor:
    """`windows_backward` in plain torch."""
    _check_numbers("winograd_windows_backward", x)
    matrix = _matrix(_B, x)
    made = torch.einsum("ai,bj,abnyxc->nyxcij", matrix, matrix, x.unflatten(0, (4, 4)))
    num, rows, columns, channels = made.shape[:4]
    pixels = x.new_zeros(num, 2 * rows + 2, 2 * columns + 2, channels)
    for i in range(4):
        for j in range(4):
            pixels[:, i : i + 2 * rows : 2, j : j + 2 * columns : 2] += made[..., i, j]
    return pixels


@torch.library.impl(_library, "winograd_outputs", "CompositeExplicitAutograd")
def outputs_reference(x: Tensor) -> Tensor:
    """`outputs` in plain torch."""
    _check_numbers("winograd_outputs", x)
    matrix = _matrix(_A, x)
    y = torch.einsum("ia,jb,abnyxc->nyixjc", matrix, matrix, x.unflatten(0, (4, 4)))
    return y.flatten(3, 4).flatten(1, 2).contiguous()


@torch.library.impl(_library, "winograd_outputs_backward", "CompositeExplicitAutograd")
def outputs_backward_reference(x: Tensor) -> Tensor:
    """`outputs_backward` in plain torch."""
    _check_pixels("winograd_outputs_backward", x, 0)
    matrix = _matrix(_A, x)
    return torch.einsum("ia,jb,nyxcij->abnyxc", matrix, matrix, _squares(x, 2, 2)).flatten(0, 1).contiguous()


@torch.library.register_fake("airank_fast::winograd_windows", lib=_library)
def _windows_fake(x):
    _check_pixels("winograd_windows", x, 2)
    return x.new_empty(16, x.shape[0], x.shape[1] // 2 - 1, x.shape[2] // 2 - 1, x.shape[3])


@torch.library.register_fake("airank_fast::winograd_windows_backward", lib=_library)
def _windows_backward_fake(x):
    _check_numbers("winograd_windows_backward", x)
    return x.new_empty(x.shape[1], 2 * x.shape[2] + 2, 2 * x.shape[3] + 2, x.shape[4])


@torch.library.register_fake("airank_fast::winograd_outputs", lib=_library)
def _outputs_fake(x):
    _check_numbers("winograd_outputs", x)
    return x.new_empty(x.shape[1], 2 * x.shape[2], 2 * x.shape[3], x.shape[4])


@torch.library.register_fake("airank_fast::winograd_outputs_backward", lib=_library)
def _outputs_backward_fake(x):
    _check_pixels("winograd_outputs_backward", x, 0)
    return x.new_empty(16, x.shape[0], x.shape[1] // 2, x.shape[2] // 2, x.shape[3])


def _check_pixels(op: str, x: Tensor, margin: int) -> None:
    """The checks of csrc/winograd_args.h, in the same order and words, as are those below."""
    least = 2 + margin
    good = x.dim() == 4 and all(size >= least and size % 2 == 0 for size in x.shape[1:3])
    required = f"x must have shape [N, H, W, C] with H and W even and at least {least}"
    require(op, good, required, list(x.shape))
    _check_dense(op, x)


def _check_numbers(op: str, x: Tensor) -> None:
    good = x.dim() == 5 and x.shape[0] == 16
    require(op, good, "x must have shape [16, N, rows, columns, C]", list(x.shape))
    _check_dense(op, x)


def _check_dense(op: str, x: Tensor) -> None:
    check_dtype(op, "x", x, torch.float32, torch.float64)
    require(op, x.is_contiguous(), "x must be contiguous", f"strides {list(x.stride())}")
