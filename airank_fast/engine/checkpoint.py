"""Checkpoints: complete or absent, and enough to go on bit for bit.

``checkpoints/step-00000128/`` holds ``model.safetensors`` (float32 weights and batch-norm statistics under the
model's names), and ``state.pt`` (optimizer, loss scaler, random states, progress; tensors and plain values only,
read with ``weights_only=True``). A checkpoint is written under a temporary name, synced and renamed.
"""

from __future__ import annotations

import os
import pickle
import re
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from airank_fast.errors import UserError

KEEP = 2
_NAME = re.compile(r"step-(\d+)$")


def save(directory: Path, step: int, weights: dict[str, Tensor], state: dict) -> Path:
    """Write the checkpoint of ``step`` and delete all but the newest KEEP.

    ``weights`` and the tensors in ``state`` may live on any device. OSError (a full disk) leaves no trace.
    """
    directory.mkdir(exist_ok=True)
    final = directory / f"step-{step:08d}"
    temporary = directory / f".{final.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        try:
            save_file(plain, temporary / "model.safetensors", metadata={"format": "pt"})
        except SafetensorError as error:  # the library wraps the operating system's error in its text
            raise OSError(_errno_of(error), str(error)) from error
        with open(temporary / "state.pt", "wb") as file:
            torch.save(state, file)
        for path in (*temporary.iterdir(), temporary):
            _sync(path)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        _sync(directory)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for old in find(directory)[:-KEEP]:
        shutil.rmtree(old)
    return final


def _errno_of(error: SafetensorError) -> int:
    found = re.search(r"os error (\d+)", str(error))
    return int(found[1]) if found else 0


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def find(directory: Path) -> list[Path]:
    """Complete checkpoints, oldest first; empty where ``directory`` is missing."""
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if _NAME.match(path.name))


def newest(directory: Path) -> Path | None:
    """The last complete checkpoint, if there is one."""
    return next(reversed(find(directory)), None)


def step_of(path: Path) -> int:
    """The step that the checkpoint at ``path`` was taken after."""
    return int(_NAME.match(path.name)[1])


def load(path: Path, expected: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict]:
    """(weights, state) of a checkpoint, on the CPU.

    ``expected`` is the state dict that the weights must fit; UserError names the first name or shape that does
    not, and a file that cannot be read.
    """
    try:
        weights = load_file(path / "model.safetensors")
        state = torch.load(path / "state.pt", weights_only=True, map_location="cpu")
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        why = f"{type(error).__name__}: {error}".split("\n")[0]
        raise UserError(f"{path}: a readable checkpoint is required, got {why}") from None
    for name in sorted(weights.keys() | expected.keys()):
        got = list(weights[name].shape) if name in weights else "no such tensor"
        want = list(expected[name].shape) if name in expected else "no such tensor"
        if got != want:
            raise UserError(f"{path}: a checkpoint of this model is required: {name} must have shape {want}, got {got}")
    return weights, state
