"""The temporal shift of TSM: a layer over frames, of which some channels are those of the frames before and after."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from airank_fast.nn.choices import product_is_faster
from airank_fast.nn.pointwise_conv import PointwiseConv2d
from airank_fast.nn.tracing import one_call


class TemporalShift(nn.Module):
    """``net(shifted x)``, with the names of mit-han-lab/temporal-shift-module (Lin, Gan and Han, 2018).

    Of C channels the first C // fold_div are those of the next frame of the clip, the next C // fold_div those of the
    previous frame, and the others the frame's own; beyond the ends of a clip they are 0.

    Where a PointwiseConv2d runs as a matrix product, only the shifted channels are copied, and two products take the
    others where they are, forward and backward. Elsewhere the shift is one copy, where indexing in torch takes several
    passes.

    Args:
        net: of the shifted frames, in TSM a 1x1 convolution.
        num_segments: frames of a clip, T.
        fold_div: at least 2.

    Shapes: input ``[N * T, C, H, W]``, the frames of a clip one behind the other; output that of ``net``.
    """

    def __init__(self, net: nn.Module, num_segments: int, fold_div: int = 8) -> None:
        super().__init__()
        self.net, self.num_segments, self.fold_div = net, num_segments, fold_div

    def extra_repr(self) -> str:
        """As torch's modules have it."""
        return f"num_segments={self.num_segments}, fold_div={self.fold_div}"

    @one_call
    def forward(self, x: Tensor) -> Tensor:
        fold = x.shape[1] // self.fold_div
        if fold == 0:
            return self.net(x)
        if isinstance(self.net, PointwiseConv2d) and self.net.stride == (1, 1) and product_is_faster(self.net, x):
            return _ShiftedProduct.apply(x, self.net.weight, self.num_segments, fold)
        return self.net(_Shift.apply(x, self.num_segments, fold, True))


def _write_shifted(out: Tensor, x: Tensor, fold: int, forwards: bool) -> None:
    """The first 2 * fold channels of x, [N, T, C, ...], shifted, into those of out; forwards=False: the adjoint."""
    ahead, behind = slice(0, fold), slice(fold, 2 * fold)
    if not forwards:
        ahead, behind = behind, ahead
    out[:, :-1, ahead] = x[:, 1:, ahead]
    out[:, -1, ahead] = 0
    out[:, 1:, behind] = x[:, :-1, behind]
    out[:, 0, behind] = 0


class _Shift(torch.autograd.Function):
    """The shift as one copy, whose adjoint is a shift the other way."""

    @staticmethod
    def forward(x: Tensor, num_segments: int, fold: int, forwards: bool) -> Tensor:
        out = torch.empty_like(x)
        theirs, ours = (tensor.unflatten(0, (-1, num_segments)) for tensor in (x, out))
        _write_shifted(ours, theirs, fold, forwards)
        ours[:, :, 2 * fold :] = theirs[:, :, 2 * fold :]
        return out

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        _, ctx.num_segments, ctx.fold, ctx.forwards = inputs

    @staticmethod
    def backward(ctx, grad: Tensor):
        return _Shift.apply(grad, ctx.num_segments, ctx.fold, not ctx.forwards), None, None, None


class _ShiftedProduct(torch.autograd.Function):
    """A 1x1 convolution of shifted frames as two products over pixels: of the shifted channels, and of the others."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, num_segments: int, fold: int) -> Tensor:
        pixels, matrix, both = x.permute(0, 2, 3, 1), weight.flatten(1), 2 * fold
        moved = pixels.new_empty(*pixels.shape[:3], both)
        _write_shifted(_clips(moved, num_segments), _clips(pixels, num_segments), fold, forwards=True)
        moved = moved.view(-1, both)
        y = pixels.reshape(-1, x.shape[1])[:, both:] @ matrix[:, both:].t()
        y.addmm_(moved, matrix[:, :both].t())
        ctx.save_for_backward(x, weight, moved)
        ctx.num_segments, ctx.fold = num_segments, fold
        return y.view(*pixels.shape[:3], -1).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, weight, moved = ctx.saved_tensors
        pixels, matrix, both = x.permute(0, 2, 3, 1), weight.flatten(1), 2 * ctx.fold
        flat = grad.permute(0, 2, 3, 1).reshape(-1, matrix.shape[0])
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.empty_like(pixels, memory_format=torch.contiguous_format)
            torch.mm(flat, matrix[:, both:], out=grad_x.view(-1, x.shape[1])[:, both:])
            grad_moved = (flat @ matrix[:, :both]).view(*pixels.shape[:3], both)
            clips = (_clips(tensor, ctx.num_segments) for tensor in (grad_x, grad_moved))
            _write_shifted(*clips, ctx.fold, forwards=False)
            grad_x = grad_x.permute(0, 3, 1, 2)
        if ctx.needs_input_grad[1]:
            grad_weight = torch.empty_like(matrix)
            torch.mm(flat.t(), moved, out=grad_weight[:, :both])
            torch.mm(flat.t(), pixels.reshape(-1, x.shape[1])[:, both:], out=grad_weight[:, both:])
            grad_weight = grad_weight.view(weight.shape)
        return grad_x, grad_weight, None, None


def _clips(pixels: Tensor, num_segments: int) -> Tensor:
    """[N * T, H, W, C] as [N, T, C, H, W]: a view."""
    return pixels.unflatten(0, (-1, num_segments)).movedim(4, 2)
