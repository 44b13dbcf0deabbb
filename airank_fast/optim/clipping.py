"""Clipping of gradients for optimizers of torch's; the fused ones clip inside their step (`max_grad_norm`)."""

from __future__ import annotations

import torch
from torch import nn


def clip_grad_norm(optimizer: torch.optim.Optimizer, max_norm: float) -> None:
    """Have every step begin with `torch.nn.utils.clip_grad_norm_` over the optimizer's parameters.

    Scaled gradients, which an optimizer with ``fused=True`` has from torch.amp.GradScaler, are clipped to the scaled
    norm; the step then waits for the device.
    """

    def clip(optimizer: torch.optim.Optimizer, *_: object) -> None:
        scale = getattr(optimizer, "grad_scale", None)
        params = [param for group in optimizer.param_groups for param in group["params"]]
        nn.utils.clip_grad_norm_(params, max_norm if scale is None else max_norm * float(scale))

    optimizer.register_step_pre_hook(clip)
