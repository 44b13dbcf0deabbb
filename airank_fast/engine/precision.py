"""Which arithmetic a run uses, and where its float32 weights live.

Mixed precision keeps convolution and linear weights in 16 bits in the model and in float32 in the optimizer (its
"master" weights), which writes the 16-bit copy in the pass that updates them. Batch norm stays in float32, the
loss too. The products are those of autocast; its casts of every weight and gradient in every step are not needed.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from airank_fast.errors import UserError

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def amp_precision(device: torch.device) -> Literal["bf16", "fp16"]:
    """What --amp means: bf16 on the CPU and on GPUs of compute capability 8.0 and later, else fp16."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        return "fp16"
    return "bf16"


def check(precision: str, device: torch.device) -> None:
    """UserError where ``device`` does not have ``precision``."""
    if precision == "tf32" and device.type != "cuda":
        raise UserError(f"--precision tf32: a CUDA device is required, got {device.type}")


def apply(model: nn.Module, precision: str, device: torch.device) -> nn.Module:
    """Move ``model`` to ``device`` in channels_last with weights in ``precision``, and set the TF32 switches."""
    float32_products = "tf32" if precision == "tf32" else "ieee"
    torch.backends.cuda.matmul.fp32_precision = float32_products
    torch.backends.cudnn.conv.fp32_precision = float32_products
    model = model.to(device=device, memory_format=torch.channels_last)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.to(DTYPES[precision])
    return model


def full_state(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """The model's state dict with float32 master weights in place of their 16-bit copies."""
    state = model.state_dict()
    for name, parameter in model.named_parameters():
        state[name] = optimizer.state.get(parameter, {}).get("master", state[name])
    return state


def load_full_state(model: nn.Module, optimizer: Optimizer, state: dict[str, Tensor]) -> None:
    """The inverse of ``full_state``, in place; every value lands in the model and in its master."""
    model.load_state_dict(state)
    for name, parameter in model.named_parameters():
        if "master" in optimizer.state.get(parameter, {}):
            optimizer.state[parameter]["master"].copy_(state[name])
