"""Loads initial weights from files of Hugging Face, of other PyTorch trainers, or of this package."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from airank_fast.data.manifest import checksum
from airank_fast.errors import UserError, require

_FILES = (  # of a directory of Hugging Face's; the first that exists is read
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_INSIDE = ("model", "state_dict", "model_state")  # keys of the weights in files that hold other things too
_COUNTS = "position_ids", "num_batches_tracked"  # integers, also under names that the model lacks
_WRAPPERS = re.compile(r"(^|(?<=\.))(module|_orig_mod)\.")  # DistributedDataParallel's and torch.compile's prefixes
_scalar = np.float64().__reduce__()[0]  # which makes a number of its dtype and bytes
_NUMBERS: list[Any] = [  # of NumPy, as a best mIoU beside weights, which torch.load refuses
    np.dtype,
    *(type(np.dtype(name)) for name in ("float64", "float32", "int64")),
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),  # before and since NumPy 2
]


class _Ignored:
    """Stands in for the objects of other programs that lie beside weights, so that none of their code is needed."""


_OBJECTS: list[Any] = [  # fairseq's options and meters
    (_Ignored, "argparse.Namespace"),
    *(
        (_Ignored, f"fairseq.{module}.{kind}Meter")
        for module in ("meters", "logging.meters")
        for kind in ("Average", "Time", "Stopwatch")
    ),
]
_OF_SUMMARY = ("benchmark", "best_accuracy", "epochs")
_OF_OTHERS = re.compile(r"\.(h5|msgpack|pb|tflite|ckpt[^.]*\.(index|meta|data-\d+-of-\d+))$")


def load_into(
    model: nn.Module,
    path: Path,
    *,
    renamed: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
    unused: tuple[str, ...] = (),
    fresh: tuple[str, ...] = (),
) -> None:
    """Fill `model` with the weights of a file: .safetensors, or one of torch.save, of which no code is run.

    unused: beginnings of the names in the file that the model lacks, as of a classifier. renamed: makes the model's
    weights of those of another network. fresh: beginnings of the model's own names, whose weights the file may lack.

    Of an index (.index.json) the shards are read that it lists, beside it; of a directory its model.safetensors or
    pytorch_model.bin, whole or sharded. Prefixes of DistributedDataParallel and torch.compile are removed.

    Raises:
        UserError: the first tensor that is missing, unexpected, of another shape, or quantised; a file that cannot be
            read, or is TensorFlow's or Flax's.
    """
    path = _file_of(path)
    weights = {_WRAPPERS.sub("", name): tensor for name, tensor in _read(path).items()}
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith(unused)}
    mismatch = _fill(model, renamed(kept) if renamed else kept, fresh)
    if mismatch:
        raise UserError(f"--init-checkpoint {path}: must have weights of this model: {mismatch}")


def origin(path: Path) -> dict[str, Any]:
    """Of initial weights, for a log: their file, its sha256, and of a run of this package its settings and quality.

    UserError where there is no such file.
    """
    file = _file_of(path)
    require(file.is_file(), f"--init-checkpoint {path}", "a file of weights", "no file")
    found: dict[str, Any] = {"file": str(file), "sha256": checksum(file)}
    run = file.absolute().parent.parent.parent  # RUN/checkpoints/step-.../model.safetensors
    for name, keys in (("recipe.json", None), ("summary.json", _OF_SUMMARY)):
        if (run / name).is_file():
            content = json.loads((run / name).read_text(encoding="utf-8"))
            found |= {name: content if keys is None else {key: content.get(key) for key in keys}}
    return found


def first_weights(init_checkpoint: str | None) -> dict[str, Any]:
    """The field of a run's `data` event on the origin of its first weights; {} where they are random."""
    return {} if init_checkpoint is None else {"init_checkpoint": origin(Path(init_checkpoint))}


def _file_of(path: Path) -> Path:
    """The file of weights at a path, which may be a directory."""
    names = _FILES if path.is_dir() else ()
    if found := [path / name for name in names if (path / name).is_file()]:
        return found[0]
    folder, prefix = (path, "") if path.is_dir() else (path.parent, path.name)
    others = sorted(file.name for file in folder.glob("*") if file.name.startswith(prefix))
    if others := [name for name in others if _OF_OTHERS.search(name)]:
        raise UserError(
            f"--init-checkpoint {path}: must be PyTorch's weights, got TensorFlow's or Flax's ({others[0]}); "
            "transformers 4 converts them: from_pretrained(..., from_tf=True) or from_flax=True, then save_pretrained"
        )
    return path / _FILES[0] if path.is_dir() else path


def _fill(model: nn.Module, weights: dict[str, Tensor], fresh: tuple[str, ...]) -> str | None:
    """Load weights into the model; returns the first mismatch, or None."""
    expected = model.state_dict()
    for name, tensor in weights.items():
        counts = name.endswith(_COUNTS) or (name in expected and not expected[name].is_floating_point())
        if not counts and not (tensor.is_floating_point() and tensor.dtype.itemsize > 1):
            dtype = str(tensor.dtype).removeprefix("torch.")
            return f"{name} must be float32, float64, bfloat16 or float16, not quantised, got {dtype}"
    for name, tensor in expected.items():
        if name in weights and weights[name].shape != tensor.shape:
            return f"{name} must have shape {list(tensor.shape)}, got {list(weights[name].shape)}"
    missing, unexpected = model.load_state_dict(weights, strict=False)  # the model renames old names
    missing = [name for name in missing if not name.startswith(fresh)]
    if missing or unexpected:
        return f"{missing[0]} is missing" if missing else f"{unexpected[0]} is not one of its tensors"
    return None


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.name.endswith(".index.json"):
            return _read_shards(path)
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals([*_NUMBERS, *_OBJECTS]):
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
    """The tensors of all files that Hugging Face's index lists; they are beside it."""
    content = json.loads(index.read_text(encoding="utf-8"))
    files = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
        raise UserError(f"--init-checkpoint {index}: weight_map must be names and files, got {type(files).__name__}")
    weights: dict[str, Tensor] = {}
    for file in sorted(set(files.values())):
        if Path(file).name != file:
            raise UserError(f"--init-checkpoint {index}: shards must be beside the index, got {file!r}")
        weights |= _read(index.parent / file)
    return weights
