"""Weights that a run begins with, from files of Hugging Face's, of other trainers of PyTorch's, or our own."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from airank_fast.errors import UserError

_FILES = (  # what a directory of Hugging Face's may hold, the first that is there
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_INSIDE = ("model", "state_dict")  # where trainers put the weights beside other things
_WRAPPERS = re.compile(r"(^|(?<=\.))(module|_orig_mod)\.")  # DistributedDataParallel's and torch.compile's prefixes
_OF_OTHERS = re.compile(r"\.(h5|msgpack|pb|tflite|ckpt[^.]*\.(index|meta|data-\d+-of-\d+))$")


def load_into(model: nn.Module, path: Path) -> None:
    """Fill `model` with the weights of a file: .safetensors, or what torch.save wrote, read without running its code.

    An index (.index.json) stands for the shards that it lists beside itself; a directory for the model.safetensors or
    pytorch_model.bin in it, whole or sharded. Prefixes of DistributedDataParallel and torch.compile are left out.

    Raises:
        UserError: the first tensor that is missing, too many, of another shape, or quantised; a file that cannot be
            read, and one of TensorFlow's or Flax's.
    """
    path = _file_of(path)
    weights = {_WRAPPERS.sub("", name): tensor for name, tensor in _read(path).items()}
    trouble = _fill(model, weights)
    if trouble:
        raise UserError(f"--init-checkpoint {path}: must have weights of this model: {trouble}")


def _file_of(path: Path) -> Path:
    """The file that a path stands for."""
    names = _FILES if path.is_dir() else ()
    if found := [path / name for name in names if (path / name).is_file()]:
        return found[0]
    folder, prefix = (path, "") if path.is_dir() else (path.parent, path.name)
    others = sorted(file.name for file in folder.glob("*") if file.name.startswith(prefix))
    if others := [name for name in others if _OF_OTHERS.search(name)]:
        raise UserError(
            f"--init-checkpoint {path}: must be weights of PyTorch's, got TensorFlow's or Flax's ({others[0]}); "
            "transformers 4 converts them: from_pretrained(..., from_tf=True) or from_flax=True, then save_pretrained"
        )
    return path / _FILES[0] if path.is_dir() else path


def _fill(model: nn.Module, weights: dict[str, Tensor]) -> str | None:
    """Load weights into the model; returns the first thing that does not fit, if there is one."""
    expected = model.state_dict()
    for name, tensor in weights.items():
        counts = name.endswith("position_ids") or (name in expected and not expected[name].is_floating_point())
        if not counts and not (tensor.is_floating_point() and tensor.dtype.itemsize > 1):
            dtype = str(tensor.dtype).removeprefix("torch.")
            return f"{name} must be float32, float64, bfloat16 or float16, not quantised, got {dtype}"
    for name, tensor in expected.items():
        if name in weights and weights[name].shape != tensor.shape:
            return f"{name} must have shape {list(tensor.shape)}, got {list(weights[name].shape)}"
    missing, unexpected = model.load_state_dict(weights, strict=False)  # old names are understood there
    if missing or unexpected:
        return f"{missing[0]} is missing" if missing else f"{unexpected[0]} is not one of its tensors"
    return None


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.name.endswith(".index.json"):
            return _read_shards(path)
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        why = f"{type(error).__name__}: {error}".split("\n")[0]
        raise UserError(f"--init-checkpoint {path}: must be a readable file of weights, got {why}") from None
    for name in _INSIDE:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise UserError(f"--init-checkpoint {path}: must be names and tensors, got {type(content).__name__}")
    return content


def _read_shards(index: Path) -> dict[str, Tensor]:
    """The tensors of all files that an index of Hugging Face's names; they lie beside it."""
    content = json.loads(index.read_text(encoding="utf-8"))
    files = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
        raise UserError(f"--init-checkpoint {index}: weight_map must be names and files, got {type(files).__name__}")
    weights: dict[str, Tensor] = {}
    for file in sorted(set(files.values())):
        if Path(file).name != file:
            raise UserError(f"--init-checkpoint {index}: shards must lie beside the index, got {file!r}")
        weights |= _read(index.parent / file)
    return weights
