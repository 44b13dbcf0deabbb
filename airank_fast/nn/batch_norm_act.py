"""Batch norm, residual addition and activation in one module: statistics of one process, of a group, or frozen."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from airank_fast.nn.tracing import one_call
from airank_fast.ops import batch_norm_act, batch_norm_finish_, batch_norm_moments, batch_norm_statistics_
from airank_fast.ops.autograd import needs_torchs_own
from airank_fast.ops.batch_norm_act import activated, slope_of


class BatchNormAct2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` with the addition and the activation that may follow it, in one pass over memory.

    ``forward(input)`` is torch's batch norm; ``forward(input, residual)`` adds ``residual`` to the result;
    ``activation="relu"`` or ``"leaky_relu"`` ends with that, of which the backward pass keeps one bit per element.

    Args:
        num_features, eps, momentum, affine, track_running_stats, device, dtype, bias: as in ``nn.BatchNorm2d``; so are
            parameters, buffers, state-dict keys, and their use in training and evaluation.
        relu: short for ``activation="relu"``.
        activation: None, "relu" or "leaky_relu".
        negative_slope: of "leaky_relu", as in ``nn.LeakyReLU``; above 0.
        group: processes over whose batches together the statistics of a training step are taken (a batch-norm
            group), as in ``nn.SyncBatchNorm``: gradients of weight and bias remain those of this process,
            for DistributedDataParallel to average. Every process of the group must run the module, forward and
            backward. Use this instead of ``convert_sync_batchnorm``.

    ``isinstance`` finds an ``nn.BatchNorm2d``, which is right for weight decay, initialisation and ``update_bn``. Tools
    that replace the module (``convert_sync_batchnorm``, timm's ``freeze_batch_norm_2d``) or fold it into a convolution
    (``fuse_conv_bn_eval``) drop the activation without an error: give them a network of torch's own modules, which
    takes the same state dict (``ResNet(fused=False)``). ``freeze_batch_norm`` keeps it. In evaluation the parameters
    may be trained, as torch's.

    Shapes: input and residual ``[N, C, H, W]``; float32, float64, bfloat16 or float16, of one dtype. Parameters and
    buffers may be float32 beside a 16-bit input (best), or of its dtype. Statistics and sums are float32 (float64 for
    float64). Channels_last is fast; other layouts are converted, and results and gradients converted back, but for
    contiguous float32 on a CPU without a group, which torch's own operators compute.
    Exports, torch.func's transforms and DTensors get torch's own operators, without a group.

    Raises:
        ValueError: an input without 4 dimensions; one value per channel in training; eps or negative_slope out of
            range; an unknown activation; a group where torch's own operators are needed.
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
        activation: str | None = None,
        negative_slope: float = 0.01,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        if not bias:  # an argument of nn.BatchNorm2d from torch 2.13 on
            self.register_parameter("bias", None)
        self.activation = _activation(relu, activation, negative_slope)
        self.negative_slope = negative_slope
        self.group = group

    def extra_repr(self) -> str:
        group = "" if self.group is None else f", group of {dist.get_world_size(self.group)}"
        return f"{super().extra_repr()}{_text_of_activation(self)}{group}"

    @one_call
    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """Normalise the input, add the residual if there is one, and apply the activation."""
        of_batch = self.training or self.running_mean is None
        if isinstance(input, Proxy) or needs_torchs_own(input, residual, self.weight):
            return _followed(self, self._in_torchs_own(input, of_batch), residual)
        self._check_input_dim(input)
        if self.eps < 0 or (of_batch and self.eps == 0):
            required = "positive in training" if of_batch else "at least 0"
            raise ValueError(f"batch_norm_act: eps must be {required}, got {self.eps}")
        if self.group is None and _is_torchs_layout(input) and input.shape[1] == self.num_features:
            return _followed(self, super().forward(input), residual)
        return _fused(self, input, residual, self._of_batch if of_batch else self._of_running)

    def _check_input_dim(self, input: Tensor) -> None:
        if not isinstance(input, Proxy) and input.dim() != 4:
            required = "batch_norm_act: x must have the 4 dimensions [N, C, H, W]"
            raise ValueError(f"{required}, got shape {list(input.shape)}")

    def _in_torchs_own(self, input: Tensor, of_batch: bool) -> Tensor:
        """The batch norm in torch's operators; see ops/autograd.py."""
        if of_batch and self.group is not None:
            required = "batch_norm_act: group must be None for export, torch.func, forward mode and DTensor"
            raise ValueError(f"{required}, got a group of {dist.get_world_size(self.group)}")
        if self.training and isinstance(input, Proxy):
            raise ValueError("BatchNormAct2d: must be in evaluation where it is traced by itself, got training")
        return super().forward(input)

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

    def _of_running(self, _x: Tensor, wide: torch.dtype) -> Tensor:
        return _of_running(self, wide)


class FrozenBatchNormAct2d(nn.Module):
    """torchvision's ``FrozenBatchNorm2d`` with the addition and the activation that may follow it.

    ``BatchNormAct2d`` whose statistics are the running ones in training too, and whose weight and bias are buffers,
    which no optimizer changes: ``weight``, ``bias``, ``running_mean``, ``running_var``. The forward pass is one pass
    over memory; so is the backward pass, which reads the gradient alone and keeps nothing of the input.

    Args:
        num_features, eps: as in ``FrozenBatchNorm2d``.
        relu, activation, negative_slope: as in ``BatchNormAct2d``; so are shapes, dtypes and layouts.

    State dicts of batch norms load; their ``num_batches_tracked`` is ignored. It is no ``nn.BatchNorm2d``, so that
    ``update_bn`` and ``convert_sync_batchnorm`` leave it as it is.

    Raises:
        ValueError: eps or negative_slope out of range; an unknown activation.
        RuntimeError: "batch_norm_act: NAME must be WHAT, got GOT".
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        device=None,
        dtype=None,
        *,
        relu: bool = False,
        activation: str | None = None,
        negative_slope: float = 0.01,
    ) -> None:
        super().__init__()
        if eps < 0:
            raise ValueError(f"batch_norm_act: eps must be at least 0, got {eps}")
        self.num_features = num_features
        self.eps = eps
        self.activation = _activation(relu, activation, negative_slope)
        self.negative_slope = negative_slope
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((num_features,), value, device=device, dtype=dtype))

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}{_text_of_activation(self)}"

    @one_call
    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """Scale and shift the input, add the residual if there is one, and apply the activation."""
        if isinstance(input, Proxy) or needs_torchs_own(input, residual):
            y = F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
            return _followed(self, y, residual)
        return _fused(self, input, residual, lambda _, wide: _of_running(self, wide))

    def _load_from_state_dict(self, state_dict, prefix, *rest) -> None:
        state_dict.pop(f"{prefix}num_batches_tracked", None)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def freeze_batch_norm(module: nn.Module) -> nn.Module:
    """Replace the batch norms in the module by ``FrozenBatchNormAct2d`` with their tensors, and return it.

    Where the module is a batch norm itself, the result is the frozen one. Other parameters stay as they are.

    Raises:
        ValueError: a batch norm that is neither ``BatchNormAct2d`` nor ``nn.BatchNorm2d``, or has no running
            statistics.
    """
    if isinstance(module, _BatchNorm):
        return _frozen(module)
    for name, child in module._modules.items():
        if child is not None:
            setattr(module, name, freeze_batch_norm(child))
    return module


def join_ranks(module: nn.Module) -> None:
    """Have the ``BatchNormAct2d`` in the module take their statistics over all processes, where there are several."""
    if dist.is_initialized():
        for norm in module.modules():
            if isinstance(norm, BatchNormAct2d):
                norm.group = dist.group.WORLD


def _frozen(norm: _BatchNorm) -> FrozenBatchNormAct2d:
    if not (isinstance(norm, BatchNormAct2d) or type(norm) is nn.BatchNorm2d) or norm.running_mean is None:
        required = "batch norms must be BatchNormAct2d or nn.BatchNorm2d with running statistics"
        raise ValueError(f"freeze_batch_norm: {required}, got {norm}")
    frozen = FrozenBatchNormAct2d(norm.num_features, norm.eps).to(norm.running_mean).train(norm.training)
    if isinstance(norm, BatchNormAct2d):
        frozen.activation, frozen.negative_slope = norm.activation, norm.negative_slope
    for name, _ in frozen.named_buffers():
        if (tensor := getattr(norm, name)) is not None:
            setattr(frozen, name, tensor.detach())
    return frozen


def _activation(relu: bool, activation: str | None, negative_slope: float) -> str | None:
    if relu and activation not in (None, "relu"):
        raise ValueError(f"batch_norm_act: relu must be False beside activation {activation!r}, got True")
    activation = "relu" if relu else activation
    slope_of(activation, negative_slope)
    return activation


def _text_of_activation(norm: BatchNormAct2d | FrozenBatchNormAct2d) -> str:
    slope = f", negative_slope={norm.negative_slope}" if norm.activation == "leaky_relu" else ""
    return f", activation={norm.activation!r}{slope}"


def _of_running(norm: BatchNormAct2d | FrozenBatchNormAct2d, wide: torch.dtype) -> Tensor:
    """The running statistics, which do not depend on x."""
    return torch.cat([norm.running_mean.to(wide), (norm.running_var.to(wide) + norm.eps).rsqrt()])


def _fused(
    norm: BatchNormAct2d | FrozenBatchNormAct2d,
    input: Tensor,
    residual: Tensor | None,
    statistics_of: Callable[[Tensor, torch.dtype], Tensor],
) -> Tensor:
    """The op on tensors of any layout, with parameters of any dtype."""
    x = _nhwc(input)
    residual = None if residual is None else _nhwc(residual)
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    weight, bias = (t if t is None or t.dtype == wide else t.to(wide) for t in (norm.weight, norm.bias))
    y = batch_norm_act(
        x,
        residual,
        weight,
        bias,
        statistics_of(x.detach(), wide),
        activation=norm.activation,
        negative_slope=norm.negative_slope,
        group=getattr(norm, "group", None),
    )
    return y if x is input else y.contiguous()


def _followed(norm: BatchNormAct2d | FrozenBatchNormAct2d, y: Tensor, residual: Tensor | None) -> Tensor:
    """The addition and the activation in torch's operators."""
    return activated(y if residual is None else y + residual, slope_of(norm.activation, norm.negative_slope))


def _is_torchs_layout(x: Tensor) -> bool:
    """Whether torch is faster than the op between two conversions: on a CPU, of contiguous float32."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or not x.is_contiguous():
        return False
    return not x.is_contiguous(memory_format=torch.channels_last)


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
