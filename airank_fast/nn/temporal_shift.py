"""A 1x1 convolution of frames of which some channels come from the frame before or after (TSM)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TemporalShift(nn.Module):
    def __init__(self, net: nn.Module, num_segments: int, fold_div: int = 8) -> None:
        super().__init__()
        self.net, self.num_segments, self.fold_div = net, num_segments, fold_div

    def forward(self, x: Tensor) -> Tensor:
        nt, c, h, w = x.shape
        x5 = x.view(nt // self.num_segments, self.num_segments, c, h, w)
        fold = c // self.fold_div
        out = torch.zeros_like(x5)
        out[:, :-1, :fold] = x5[:, 1:, :fold]
        out[:, 1:, fold : 2 * fold] = x5[:, :-1, fold : 2 * fold]
        out[:, :, 2 * fold :] = x5[:, :, 2 * fold :]
        return self.net(out.view(nt, c, h, w))
