"""Batch norm, residual addition and ReLU in one module, with statistics of one process or of a group."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from airank_fast.ops import batch_norm_act, batch_norm_finish_, batch_norm_moments, batch_norm_statistics_


class BatchNormAct2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d``, and on request the addition and the ReLU that follow it, in one pass over memory.

    ``forward(x)`` is torch's batch norm; ``forward(x, residual)`` adds ``residual`` to the result; with
    ``relu=True`` what comes out of that goes through a ReLU, of which the backward pass keeps one bit per element.

    Args:
        num_features, eps, momentum, affine, track_running_stats, device, dtype: as in ``nn.BatchNorm2d``; so are
            parameters, buffers, state-dict keys, and what training and evaluation do with them.
        relu: end with a ReLU.
        group: processes over whose batches together the statistics of a training step are taken (a batch-norm
            group), as ``nn.SyncBatchNorm`` does it: gradients of weight and bias remain those of this process,
            for DistributedDataParallel to average. Every process of the group must run the module, forward and
            backward. Use this rather than ``convert_sync_batchnorm``, which knows nothing of the ReLU.

    Shapes: x and residual ``[N, C, H, W]``; float32, float64, bfloat16 or float16, of one dtype. Parameters and
    buffers may be float32 beside 16-bit x (best), or of x's dtype. Statistics and sums are float32 (float64 for
    float64 x). Channels_last is the fast path; other layouts are converted, and the result is converted back.

    Raises:
        ValueError: x without 4 dimensions; or one value per channel in training.
        RuntimeError: "batch_norm_act: what is required, got what".
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device=None,
        dtype=None,
        *,
        relu: bool = False,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        self.relu = relu
        self.group = group

    def extra_repr(self) -> str:
        group = "" if self.group is None else f", group of {dist.get_world_size(self.group)}"
        return f"{super().extra_repr()}, relu={self.relu}{group}"

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if x.dim() != 4:
            raise ValueError(f"batch_norm_act: x must have the 4 dimensions [N, C, H, W], got shape {list(x.shape)}")
        x_nhwc = _nhwc(x)
        residual = None if residual is None else _nhwc(residual)
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        weight, bias = self.weight, self.bias
        if weight is not None and weight.dtype != wide:
            weight, bias = weight.to(wide), bias.to(wide)
        if self.training or self.running_mean is None:
            statistics, group = self._of_batch(x_nhwc.detach(), wide), self.group
        else:
            statistics, group = self._of_running(wide), None
        y = batch_norm_act(x_nhwc, residual, weight, bias, statistics, relu=self.relu, group=group)
        return y if x_nhwc is x else y.contiguous()

    def _of_batch(self, x: Tensor, wide: torch.dtype) -> Tensor:
        """Statistics of this batch (over the group); the running ones are updated."""
        mean, var, count = self.running_mean, self.running_var, self.num_batches_tracked
        if not self.training:
            mean = var = count = None
        narrow = mean is not None and mean.dtype != wide
        running = (mean.to(wide), var.to(wide)) if narrow else (mean, var)
        if self.group is None:
            if x.numel() == x.shape[1]:
                required = "batch_norm_act: more than one value per channel is required in training"
                raise ValueError(f"{required}, got shape {list(x.shape)}")
            statistics = batch_norm_statistics_(x, *running, count, self.momentum, self.eps)
        else:
            moments = batch_norm_moments(x)
            size = moments.numel()
            everyone = moments.new_empty(dist.get_world_size(self.group) * size)
            dist.all_gather_into_tensor(everyone, moments, group=self.group)
            statistics = batch_norm_finish_(everyone.view(-1, size), *running, count, self.momentum, self.eps)
        if narrow:
            mean.copy_(running[0])
            var.copy_(running[1])
        return statistics

    def _of_running(self, wide: torch.dtype) -> Tensor:
        """The running statistics; an infinite count says that they do not depend on x."""
        mean, var = self.running_mean.to(wide), self.running_var.to(wide)
        return torch.cat([mean, (var + self.eps).rsqrt(), mean.new_full((1,), torch.inf)])


def _nhwc(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
