"""Weights that a run begins with, from a file of Hugging Face's or our own."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from airank_fast.errors import UserError

_INSIDE = ("model", "state_dict")  # where trainers put the weights beside other things


def load_into(model: nn.Module, path: Path) -> None:
    """Fill `model` with the weights of a file: .safetensors, or what torch.save wrote, read without running its code.

    A directory stands for the model.safetensors or pytorch_model.bin in it. UserError names the first tensor that is
    missing, too many or of another shape, and a file that cannot be read.
    """
    if path.is_dir():
        found = [path / name for name in ("model.safetensors", "pytorch_model.bin") if (path / name).is_file()]
        path = found[0] if found else path / "model.safetensors"
    weights = {name.removeprefix("module."): tensor for name, tensor in _read(path).items()}
    trouble = _fill(model, weights)
    if trouble:
        raise UserError(f"--init-checkpoint {path}: weights of this model are required: {trouble}")


def _fill(model: nn.Module, weights: dict[str, Tensor]) -> str | None:
    """Load weights into the model; returns the first thing that does not fit, if there is one."""
    for name, expected in model.state_dict().items():
        if name in weights and weights[name].shape != expected.shape:
            return f"{name} must have shape {list(expected.shape)}, got {list(weights[name].shape)}"
    missing, unexpected = model.load_state_dict(weights, strict=False)  # old names are understood there
    if missing or unexpected:
        return f"{missing[0]} is missing" if missing else f"{unexpected[0]} is not one of its tensors"
    return None


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        why = f"{type(error).__name__}: {error}".split("\n")[0]
        raise UserError(f"--init-checkpoint {path}: a readable file of weights is required, got {why}") from None
    for name in _INSIDE:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise UserError(f"--init-checkpoint {path}: names and tensors are required, got {type(content).__name__}")
    return content
