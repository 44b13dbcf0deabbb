"""Batch norm, residual addition and ReLU in one module, with statistics of one process or of a group."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn import functional as F

from airank_fast.nn.tracing import one_call
from airank_fast.ops import batch_norm_act, batch_norm_finish_, batch_norm_moments, batch_norm_statistics_
from airank_fast.ops.autograd import needs_torchs_own


class BatchNormAct2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` with the addition and the ReLU that may follow it, in one pass over memory.

    ``forward(input)`` is torch's batch norm; ``forward(input, residual)`` adds ``residual`` to the result;
    ``relu=True`` ends with a ReLU, of which the backward pass keeps one bit per element.

    Args:
        num_features, eps, momentum, affine, track_running_stats, device, dtype, bias: as in ``nn.BatchNorm2d``; so are
            parameters, buffers, state-dict keys, and their use in training and evaluation.
        relu: end with a ReLU.
        group: processes over whose batches together the statistics of a training step are taken (a batch-norm
            group), as in ``nn.SyncBatchNorm``: gradients of weight and bias remain those of this process,
            for DistributedDataParallel to average. Every process of the group must run the module, forward and
            backward. Use this instead of ``convert_sync_batchnorm``.

    ``isinstance`` finds an ``nn.BatchNorm2d``, which is right for weight decay, initialisation and ``update_bn``. Tools
    that replace the module (``convert_sync_batchnorm``, timm's ``freeze_batch_norm_2d``) or fold it into a convolution
    (``fuse_conv_bn_eval``) drop the ReLU without an error: give them a network of torch's own modules, which takes the
    same state dict (``ResNet(fused=False)``). To freeze this one, ``eval()`` and ``requires_grad_(False)`` are enough.

    Shapes: input and residual ``[N, C, H, W]``; float32, float64, bfloat16 or float16, of one dtype. Parameters and
    buffers may be float32 beside a 16-bit input (best), or of its dtype. Statistics and sums are float32 (float64 for
    float64). Channels_last is fast; other layouts are converted, and results and gradients converted back.
    Exports, torch.func's transforms and DTensors get torch's own operators, without a group.

    Raises:
        ValueError: an input without 4 dimensions; one value per channel in training; eps out of range; a group where
            torch's own operators are needed.
        RuntimeError: "batch_norm_act: NAME must be WHAT, got GOT".
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
        bias: bool = True,
        relu: bool = False,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        if not bias:  # an argument of nn.BatchNorm2d from torch 2.13 on
            self.register_parameter("bias", None)
        self.relu = relu
        self.group = group

    def extra_repr(self) -> str:
        group = "" if self.group is None else f", group of {dist.get_world_size(self.group)}"
        return f"{super().extra_repr()}, relu={self.relu}{group}"

    @one_call
    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """Normalise the input, add the residual if there is one, and apply the ReLU if `relu` is set."""
        of_batch = self.training or self.running_mean is None
        if isinstance(input, Proxy) or needs_torchs_own(input, residual, self.weight):
            return self._in_torchs_own(input, residual, of_batch)
        self._check_input_dim(input)
        if self.eps < 0 or (of_batch and self.eps == 0):
            required = "positive in training" if of_batch else "at least 0"
            raise ValueError(f"batch_norm_act: eps must be {required}, got {self.eps}")
        x = _nhwc(input)
        residual = None if residual is None else _nhwc(residual)
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        weight, bias = (t if t is None or t.dtype == wide else t.to(wide) for t in (self.weight, self.bias))
        if of_batch:
            statistics, group = self._of_batch(x.detach(), wide), self.group
        else:
            statistics, group = self._of_running(wide), None
        y = batch_norm_act(x, residual, weight, bias, statistics, relu=self.relu, group=group)
        return y if x is input else y.contiguous()

    def _check_input_dim(self, input: Tensor) -> None:
        if not isinstance(input, Proxy) and input.dim() != 4:
            required = "batch_norm_act: x must have the 4 dimensions [N, C, H, W]"
            raise ValueError(f"{required}, got shape {list(input.shape)}")

    def _in_torchs_own(self, input: Tensor, residual: Tensor | None, of_batch: bool) -> Tensor:
        """The same in torch's operators; see ops/autograd.py."""
        if of_batch and self.group is not None:
            required = "batch_norm_act: group must be None for export, torch.func, forward mode and DTensor"
            raise ValueError(f"{required}, got a group of {dist.get_world_size(self.group)}")
        if self.training and isinstance(input, Proxy):
            raise ValueError("BatchNormAct2d: must be in evaluation where it is traced by itself, got training")
        y = super().forward(input)
        if residual is not None:
            y = y + residual
        return F.relu(y) if self.relu else y

    def _of_batch(self, x: Tensor, wide: torch.dtype) -> Tensor:
        """Statistics of this batch (over the group); updates the running ones."""
        mean, var, count = self.running_mean, self.running_var, self.num_batches_tracked
        if not self.training:
            mean = var = count = None
        narrow = mean is not None and mean.dtype != wide
        running = (mean.to(wide), var.to(wide)) if narrow else (mean, var)
        if (counter := count) is not None and count.dtype != torch.int64:  # of a state dict that was cast as a whole
            count = count.to(torch.int64)
        if self.group is None:
            if x.numel() == x.shape[1]:
                required = "batch_norm_act: x must have more than one value per channel in training"
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
        if count is not counter:
            counter.copy_(count)
        return statistics

    def _of_running(self, wide: torch.dtype) -> Tensor:
        """The running statistics, with an infinite count, as they do not depend on x."""
        mean, var = self.running_mean.to(wide), self.running_var.to(wide)
        return torch.cat([mean, (var + self.eps).rsqrt(), mean.new_full((1,), torch.inf)])


def _nhwc(x: Tensor) -> Tensor:
    if x.dim() != 4 or x.is_contiguous(memory_format=torch.channels_last):
        return x
    return _ToNHWC.apply(x)


class _ToNHWC(torch.autograd.Function):
    """A copy in channels_last; its gradient has the layout of x."""

    @staticmethod
    def forward(ctx, x):
        ctx.was_nchw = x.is_contiguous()
        return x.contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx, grad):
        return grad.contiguous() if ctx.was_nchw else grad
