"""Instance norm, residual addition and activation in one module, over the fused op."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from airank_fast.nn.tracing import one_call
from airank_fast.ops import instance_norm_act
from airank_fast.ops.batch_norm_act import slope_of


class InstanceNormAct2d(nn.InstanceNorm2d):
    """``nn.InstanceNorm2d`` with the addition and the activation that may follow it, in one pass over memory.

    ``forward(input)`` is torch's instance norm; ``forward(input, residual)`` adds ``residual`` to the result;
    ``activation="relu"`` or ``"leaky_relu"`` ends with that.

    Args:
        num_features, eps, momentum, affine, device, dtype, bias: as in ``nn.InstanceNorm2d``; so are parameters and
            state-dict keys, weight and bias with ``affine``, else none.
        track_running_stats: must be False: running statistics are not kept, and evaluation is as training.
        activation: None, "relu" or "leaky_relu".
        negative_slope: of "leaky_relu", as in ``nn.LeakyReLU``; above 0.

    Shapes: input and residual ``[N, C, H, W]`` or ``[C, H, W]``; float32, float64, bfloat16 or float16, of one dtype.
    The result has the layout of the input: contiguous and channels_last are both fast, others are copied. Parameters
    may be float32 beside a 16-bit input (best), or of its dtype. Statistics are float32 (float64 for float64).

    Raises:
        ValueError: track_running_stats; an unknown activation, or its slope; an input of other dimensions, or of one
            pixel.
        RuntimeError: "instance_norm_act: NAME must be WHAT, got GOT".
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        activation: str | None = None,
        negative_slope: float = 0.01,
    ) -> None:
        if track_running_stats:
            raise ValueError("instance_norm_act: track_running_stats must be False, got True")
        super().__init__(num_features, eps, momentum, affine, False, device, dtype)
        if not bias:  # an argument of nn.InstanceNorm2d from torch 2.13 on
            self.register_parameter("bias", None)
        slope_of(activation, negative_slope, "instance_norm_act")
        self.activation = activation
        self.negative_slope = negative_slope

    def extra_repr(self) -> str:
        """As torch's modules have it."""
        slope = f", negative_slope={self.negative_slope}" if self.activation == "leaky_relu" else ""
        return f"{super().extra_repr()}, activation={self.activation!r}{slope}"

    @one_call
    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """Normalise the input, add the residual if there is one, and apply the activation."""
        self._check_input_dim(input)
        if input.shape[-3] != self.num_features:
            required = f"instance_norm_act: input must have {self.num_features} channels"
            raise ValueError(f"{required}, got shape {list(input.shape)}")
        if input.dim() == 3:
            return self.forward(input[None], None if residual is None else residual[None])[0]
        wide = torch.float64 if input.dtype == torch.float64 else torch.float32
        weight, bias = (t if t is None or t.dtype == wide else t.to(wide) for t in (self.weight, self.bias))
        return instance_norm_act(
            input,
            weight,
            bias,
            residual,
            activation=self.activation,
            negative_slope=self.negative_slope,
            eps=self.eps,
        )
