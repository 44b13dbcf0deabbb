"""airank_fast::roi_align: for each RoI a grid of bins, each the mean of bilinear samples, from one level of a pyramid.

torchvision.ops.roi_align and MultiScaleRoIAlign in one op, as He et al. (2017) and Lin et al. (2017) describe them.
Where the samples lie is in csrc/roi_align_math.h. Along each axis a bin is a weighted sum of cells, so that the
reference below takes rows first and columns after them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from airank_fast.ops import autograd
from airank_fast.ops.checks import FLOATING, check_device, check_dtype, name_of, require
from airank_fast.ops.pictures import (
    check_picture,
    check_picture_format,
    check_picture_shape,
    in_format,
    is_channels_last,
    memory_format,
)

_OP = "roi_align"
_SCHEMAS = (
    """roi_align(Tensor x, Tensor? a, Tensor? b, Tensor? c, Tensor rois, float[] scales, float[] areas, SymInt height,
                 SymInt width, int sampling_ratio, bool aligned, bool channels_last) -> Tensor""",
    """roi_align_backward(Tensor grad, Tensor rois, SymInt pictures, SymInt[] sizes, float[] scales, float[] areas,
                          int sampling_ratio, bool aligned, bool channels_last) -> Tensor[]""",
)
_library = torch.library.Library("airank_fast", "FRAGMENT")
_ops = torch.ops.airank_fast
for _schema in _SCHEMAS:
    _library.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))

_LEVELS = 4
_BYTES = (torch.uint8, torch.bool)
# csrc/roi_align_args.h and roi_align_math.h have both.
_MOST_BINS = 256
_MOST_SAMPLES = 1 << 20


@autograd.overridable
def roi_align(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> Tensor:
    """Each box as a grid of bins, means of bilinear samples; torchvision.ops.roi_align's signature and results.

    Args:
        input: pictures [N, C, H, W], float32, float64, bfloat16 or float16, contiguous or channels_last; also uint8 or
            bool, as masks of instances are, without a gradient.
        boxes: [K, 5], of which column 0 is the picture's index, or for each picture its boxes [k, 4]; corners
            (x1, y1, x2, y2), of any floating dtype. They have no gradient.
        output_size: height and width in bins, or one number for both, in [1, 256].
        spatial_scale: what coordinates are multiplied by.
        sampling_ratio: samples in a bin along each axis; 0 or less: as many as a bin has pixels, rounded up.
        aligned: coordinates are shifted by half a pixel, and boxes may be smaller than one pixel.

    Returns:
        [K, C, height, width] of the input's memory format and dtype; float32 of bytes. Samples further than one pixel
        from the picture are 0. The gradient of the input is the same for any number of threads and on a GPU in every
        run, as its sums have a fixed order.

    A box with a coordinate that is not finite gives NaN and has no part in the gradient, as does one of more than 2^20
    samples in a bin. A picture's index outside the input is an error on the CPU; on a GPU, where the host does not wait
    for it, its bins are NaN.

    Raises:
        RuntimeError: "roi_align: NAME must be WHAT, got GOT".
    """
    return _align((input,), boxes, output_size, (spatial_scale,), (), sampling_ratio, aligned)


@autograd.overridable
def multiscale_roi_align(
    features: Sequence[Tensor],
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    scales: Sequence[float],
    sampling_ratio: int = 2,
    *,
    aligned: bool = False,
    canonical_scale: float = 224,
    canonical_level: int = 4,
) -> Tensor:
    """roi_align of each box from one level of a pyramid, in one call; torchvision.ops.MultiScaleRoIAlign.

    The level is floor(canonical_level + log2(sqrt(area) / canonical_scale) + 1e-6), within those that there are, and
    level l has the scale 2^-l (equation 1 of Lin et al. 2017).

    Args:
        features: one to four levels [N, C, H, W], each half as large as the one before, of one dtype. All take the
            memory format of the first; one that has another is copied.
        boxes, output_size, sampling_ratio, aligned: as of `roi_align`, in pixels of the pictures.
        scales: of each level, powers of 2, each half of the one before: 1/4, 1/8, 1/16, 1/32.
        canonical_scale: side of a box at the canonical level.
        canonical_level: its number.

    Returns:
        [K, C, height, width], boxes in their order.

    Raises:
        RuntimeError: "roi_align: NAME must be WHAT, got GOT".
    """
    require(_OP, 1 <= len(features) <= _LEVELS, f"features must be 1 to {_LEVELS} tensors", len(features))
    scales = [float(scale) for scale in scales]
    require(_OP, len(scales) == len(features), f"scales must be {len(features)} numbers", len(scales))
    halves = all(scale > 0 for scale in scales) and all(b == a / 2 for a, b in pairwise(scales))
    require(_OP, halves, "scales must be positive and each half of the one before", scales)
    # A box is at level l or above where its side is at least that of the level, but for torchvision's 1e-6.
    sides = [canonical_scale * 2 ** (-canonical_level - 1e-6) / scale for scale in scales[1:]]
    return _align(features, boxes, output_size, scales, [side * side for side in sides], sampling_ratio, aligned)


def _align(features, boxes, output_size, scales, areas, sampling_ratio, aligned) -> Tensor:
    x = features[0]
    height, width = (output_size, output_size) if isinstance(output_size, int) else output_size
    rois = _rois(boxes, x)
    last = is_channels_last(x) and x.dtype not in _BYTES
    levels = [in_format(picture, last) for picture in features]
    padded = (*levels, *(None,) * (_LEVELS - len(levels)))
    scales, areas = [float(scale) for scale in scales], [float(area) for area in areas]
    return _roi_align(*padded, rois, scales, areas, height, width, sampling_ratio, bool(aligned), last)


def _rois(boxes: Tensor | Sequence[Tensor], x: Tensor) -> Tensor:
    """[K, 5] in the dtype of the arithmetic."""
    if not isinstance(boxes, Tensor):
        require(_OP, len(boxes) == len(x), f"boxes must be {len(x)} tensors, one for each picture", len(boxes))
        for i, of_picture in enumerate(boxes):
            is_table = of_picture.dim() == 2 and of_picture.shape[1] == 4
            require(_OP, is_table, f"boxes[{i}] must have shape [k, 4]", list(of_picture.shape))
            check_device(_OP, f"boxes[{i}]", of_picture, x.device)
        wide = [of_picture.detach().to(_wide(x)) for of_picture in boxes]
        if not wide:
            return torch.zeros(0, 5, dtype=_wide(x), device=x.device)
        return torch.cat([torch.nn.functional.pad(of, (1, 0), value=i) for i, of in enumerate(wide)])
    return boxes.detach().to(_wide(x))


def _wide(x: Tensor) -> torch.dtype:
    """The dtype of coordinates, weights and sums."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


@torch.library.impl(_library, "roi_align", "CompositeExplicitAutograd")
def roi_align_reference(
    x, a, b, c, rois, scales, areas, height, width, sampling_ratio, aligned, channels_last
) -> Tensor:
    """The same in plain torch."""
    levels = _check(x, (a, b, c), rois, scales, areas, height, width, sampling_ratio, channels_last)
    _check_pictures(_OP, rois, len(x))
    how = (scales, areas, sampling_ratio, aligned)
    return in_format(_pooled(levels, rois, height, width, *how), channels_last)


@torch.library.impl(_library, "roi_align_backward", "CompositeExplicitAutograd")
def roi_align_backward_reference(
    grad, rois, pictures, sizes, scales, areas, sampling_ratio, aligned, channels_last
) -> list[Tensor]:
    """The gradients of the levels, whose heights and widths are `sizes`, in plain torch."""
    _check_backward(grad, rois, pictures, sizes, scales, areas, sampling_ratio, channels_last)
    _check_pictures("roi_align_backward", rois, pictures)
    gradients = _spread(grad, rois, pictures, sizes, scales, areas, sampling_ratio, aligned)
    return [in_format(gradient, channels_last) for gradient in gradients]


def _taps(low, high, scale, size, bins, sampling_ratio, aligned) -> tuple[Tensor, Tensor]:
    """Cells and weights [K, bins, samples] along an axis; of a RoI that is not finite all weights are NaN."""
    offset = 0.5 if aligned else 0.0
    start = low * scale - offset
    length = high * scale - offset - start
    length = length if aligned else length.clamp(min=1)
    each = length / bins
    grid = torch.full_like(each, sampling_ratio) if sampling_ratio > 0 else each.ceil()
    is_finite = start.isfinite() & length.isfinite() & (grid <= _MOST_SAMPLES)
    grid = torch.where(is_finite, grid, 1)
    most = sampling_ratio
    if sampling_ratio <= 0:
        traced = autograd.needs_torchs_own(low)
        require(_OP, not traced, "sampling_ratio must be above 0 in an export or a transform", sampling_ratio)
        most = max(0, int(grid.max())) if len(grid) else 0
    i = torch.arange(most, device=low.device, dtype=low.dtype)
    start, each, grid = (values[:, None, None] for values in (start, each, grid))
    b = torch.arange(bins, device=low.device, dtype=low.dtype)[:, None]
    at = start + b * each + (i + 0.5) * each / grid
    is_inside = (i < grid) & (at >= -1) & (at <= size)
    at = torch.where(is_inside, at, 0).clamp(0, size - 1)
    cell = at.floor()
    weight = at - cell
    weights = torch.cat([torch.where(is_inside, w / grid, 0) for w in (1 - weight, weight)], -1)
    weights = torch.where(is_finite[:, None, None], weights, torch.nan)
    return torch.cat([cell, (cell + 1).clamp(max=size - 1)], -1).long(), weights


def _levels(rois, pictures, sizes, height, width, scales, areas, sampling_ratio, aligned):
    """For each level the RoIs' pictures and the taps of their rows and columns; of other levels' RoIs weights are 0."""
    picture, x1, y1, x2, y2 = rois.unbind(1)
    area = (x2 - x1) * (y2 - y1)
    level = sum([(area >= limit).long() for limit in areas], torch.zeros_like(area, dtype=torch.long))
    index = picture.long().clamp(0, max(pictures - 1, 0))
    for i, scale in enumerate(scales):
        rows, of_rows = _taps(y1, y2, scale, sizes[2 * i], height, sampling_ratio, aligned)
        columns, of_columns = _taps(x1, x2, scale, sizes[2 * i + 1], width, sampling_ratio, aligned)
        here = (level == i)[:, None, None]
        # NaN of one axis reaches every bin, also where the other has no sample.
        broken = of_rows.isnan().any(-1, keepdim=True) | of_columns.isnan().any((1, 2), keepdim=True)
        yield index, rows, torch.where(here, of_rows, 0), columns, torch.where(here, of_columns, 0), broken & here


def _pooled(levels, rois, height, width, scales, areas, sampling_ratio, aligned) -> Tensor:
    x = levels[0]
    sizes = [size for picture in levels for size in picture.shape[2:]]
    total = x.new_zeros(len(rois), height, x.shape[1], width, dtype=_wide(x))
    every = _levels(rois, len(x), sizes, height, width, scales, areas, sampling_ratio, aligned)
    for picture, (index, rows, of_rows, columns, of_columns, broken) in zip(levels, every, strict=True):
        by_row = picture.to(total.dtype).transpose(1, 2)
        summed = by_row.new_zeros(len(rois), height, *by_row.shape[2:])
        for s in range(rows.shape[2]):
            weight = of_rows[..., s, None, None]
            summed = summed + weight * torch.where(weight != 0, by_row[index[:, None], rows[..., s]], 0)
        for s in range(columns.shape[2]):
            weight = of_columns[:, None, None, :, s]
            at = columns[:, None, None, :, s].expand(total.shape)
            total = total + weight * torch.where(weight != 0, summed.gather(3, at), 0)
        total = total.masked_fill(broken[..., None], torch.nan)
    return total.transpose(1, 2).to(torch.float32 if x.dtype in _BYTES else x.dtype)


def _spread(grad, rois, pictures, sizes, scales, areas, sampling_ratio, aligned) -> list[Tensor]:
    height, width = grad.shape[2:]
    wide = grad.to(_wide(grad)).transpose(1, 2)
    every = _levels(rois, pictures, sizes, height, width, scales, areas, sampling_ratio, aligned)
    gradients = []
    for i, (index, rows, of_rows, columns, of_columns, broken) in enumerate(every):
        given = wide.masked_fill(broken[..., None], 0)
        of_rows, of_columns = of_rows.nan_to_num(0), of_columns.nan_to_num(0)
        spread = wide.new_zeros(*wide.shape[:3], sizes[2 * i + 1])
        for s in range(columns.shape[2]):
            weight = of_columns[:, None, None, :, s]
            at = columns[:, None, None, :, s].expand(wide.shape)
            spread = spread.scatter_add(3, at, torch.where(weight != 0, given * weight, 0))
        sums = wide.new_zeros(pictures, sizes[2 * i], *spread.shape[2:])
        for s in range(rows.shape[2]):
            weight = of_rows[..., s, None, None]
            given_rows = torch.where(weight != 0, spread * weight, 0)
            sums = sums.index_put((index[:, None], rows[..., s]), given_rows, accumulate=True)
        gradients.append(sums.transpose(1, 2).to(grad.dtype))
    return gradients


@torch.library.register_fake("airank_fast::roi_align", lib=_library)
def _fake(x, a, b, c, rois, scales, areas, height, width, sampling_ratio, aligned, channels_last):
    _check(x, (a, b, c), rois, scales, areas, height, width, sampling_ratio, channels_last)
    dtype = torch.float32 if x.dtype in _BYTES else x.dtype
    y = x.new_empty(rois.shape[0], x.shape[1], height, width, dtype=dtype)
    return y.to(memory_format=memory_format(channels_last))


@torch.library.register_fake("airank_fast::roi_align_backward", lib=_library)
def _backward_fake(grad, rois, pictures, sizes, scales, areas, sampling_ratio, aligned, channels_last):
    _check_backward(grad, rois, pictures, sizes, scales, areas, sampling_ratio, channels_last)
    shapes = zip(sizes[::2], sizes[1::2], strict=True)
    gradients = [grad.new_empty(pictures, grad.shape[1], height, width) for height, width in shapes]
    return [gradient.to(memory_format=memory_format(channels_last)) for gradient in gradients]


def _setup_context(ctx, inputs, output):
    *levels, rois, scales, areas, _, _, sampling_ratio, aligned, channels_last = inputs
    levels = [picture for picture in levels if picture is not None]
    ctx.pictures = levels[0].shape[0]
    ctx.sizes = [size for picture in levels for size in picture.shape[2:]]
    ctx.how = (list(scales), list(areas), sampling_ratio, aligned, channels_last)
    ctx.save_for_backward(rois)


def _backward(ctx, grad):
    (rois,) = ctx.saved_tensors
    grad = in_format(grad, ctx.how[-1])
    gradients = autograd.backward_of(_kernel, _formula, grad, rois, ctx.pictures, ctx.sizes, *ctx.how)
    return *gradients, *(None,) * (12 - len(gradients))


def _kernel(*arguments) -> list[Tensor]:
    return _ops.roi_align_backward.default(*arguments)


def _formula(grad, rois, pictures, sizes, scales, areas, sampling_ratio, aligned, _channels_last) -> list[Tensor]:
    return _spread(grad, rois, pictures, sizes, scales, areas, sampling_ratio, aligned)


def _torchs_own(x, a, b, c, rois, scales, areas, height, width, sampling_ratio, aligned, _channels_last) -> Tensor:
    levels = [picture for picture in (x, a, b, c) if picture is not None]
    return _pooled(levels, rois, height, width, scales, areas, sampling_ratio, aligned)


_roi_align = autograd.differentiable(_ops.roi_align.default, _setup_context, _backward, _torchs_own, lib=_library)
autograd.refuse_derivatives(_library, "roi_align_backward")


def _check(x, others, rois, scales, areas, height, width, sampling_ratio, channels_last) -> list[Tensor]:
    """The checks of csrc/roi_align_args.h, in the same order and words, as are those below; the levels."""
    check_picture_shape(_OP, "x", x)
    required = "x must be float32, float64, bfloat16, float16, uint8 or bool"
    require(_OP, x.dtype in (*FLOATING, *_BYTES), required, name_of(x.dtype))
    is_usable = not channels_last or x.dtype not in _BYTES
    require(_OP, is_usable, "channels_last must be False for uint8 and bool", channels_last)
    check_picture_format(_OP, "x", x, channels_last)
    levels = [x]
    for name, other in zip("abc", others, strict=True):
        if other is None:
            continue
        check_device(_OP, name, other, x.device)
        check_dtype(_OP, name, other, x.dtype)
        check_picture_shape(_OP, name, other)
        required = f"{name} must have shape [{x.shape[0]}, {x.shape[1]}, h, w]"
        require(_OP, other.shape[:2] == x.shape[:2], required, list(other.shape))
        check_picture_format(_OP, name, other, channels_last)
        levels.append(other)
    _check_options(_OP, x, rois, len(levels), scales, areas, (height, width), sampling_ratio)
    return levels


def _check_options(op, like, rois, num_levels, scales, areas, output_size, sampling_ratio) -> None:
    check_device(op, "rois", rois, like.device)
    check_dtype(op, "rois", rois, _wide(like))
    require(op, rois.dim() == 2 and rois.shape[1] == 5, "rois must have shape [K, 5]", list(rois.shape))
    require(op, len(scales) == num_levels, f"scales must have {num_levels} numbers", len(scales))
    require(op, len(areas) == num_levels - 1, f"areas must have {num_levels - 1} numbers", len(areas))
    is_usual = all(1 <= size <= _MOST_BINS for size in output_size)
    require(op, is_usual, f"output_size must be in [1, {_MOST_BINS}]", list(output_size))
    require(op, sampling_ratio <= _MOST_SAMPLES, f"sampling_ratio must be at most {_MOST_SAMPLES}", sampling_ratio)


def _check_backward(grad, rois, pictures, sizes, scales, areas, sampling_ratio, channels_last) -> None:
    op = f"{_OP}_backward"
    check_picture(op, "grad", grad, channels_last)
    require(op, pictures >= 0, "pictures must be at least 0", pictures)
    are_pairs = len(sizes) in range(2, 2 * _LEVELS + 1, 2) and all(size > 0 for size in sizes)
    require(op, are_pairs, "sizes must be one to four pairs of at least 1", list(sizes))
    _check_options(op, grad, rois, len(sizes) // 2, scales, areas, grad.shape[2:], sampling_ratio)
    required = f"rois must have shape [{grad.shape[0]}, 5]"
    require(op, rois.shape[0] == grad.shape[0], required, list(rois.shape))


def _check_pictures(op: str, rois: Tensor, pictures: int) -> None:
    """On the CPU every RoI's picture must be there."""
    index = rois[:, 0]
    if not rois.is_cpu:
        return
    for i in (~((index >= 0) & (index < pictures))).nonzero()[:1].flatten().tolist():
        got = f"{index[i].item():g}"
        require(op, False, f"rois[{i}, 0] must be in [0, {pictures})", got)
