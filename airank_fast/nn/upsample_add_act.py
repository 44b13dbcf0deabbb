"""The sum of pictures of several resolutions with a ReLU as a module, over the fused op."""

from __future__ import annotations

from torch import Tensor, nn

from airank_fast import ops
from airank_fast.nn.tracing import one_call


class UpsampleAddAct(nn.Module):
    """The sum of pictures, interpolated to the size of the first, and a ReLU: HRNet's exchange between branches.

    See ``ops.upsample_add_act``, which has the shapes, dtypes and errors.

    Args:
        relu: end with a ReLU.
        mode: "bilinear" or "nearest".
        align_corners: as in ``F.interpolate``.
    """

    def __init__(self, *, relu: bool = True, mode: str = "bilinear", align_corners: bool = False) -> None:
        super().__init__()
        self.relu = relu
        self.mode = mode
        self.align_corners = align_corners

    def extra_repr(self) -> str:
        return f"relu={self.relu}, mode={self.mode!r}, align_corners={self.align_corners}"

    @one_call
    def forward(self, *inputs: Tensor) -> Tensor:
        return ops.upsample_add_act(inputs, relu=self.relu, mode=self.mode, align_corners=self.align_corners)
