"""Writes and reads checkpoints, which are complete or absent, and from which a run resumes bit for bit.

``checkpoints/step-00000128/`` holds ``NETWORK.safetensors`` for each network (float32 weights and batch-norm
statistics under its names; ``model.safetensors`` where there is one), and ``state.pt`` (optimizers, loss scaler, random
states, progress; tensors and plain values only, read with ``weights_only=True``). A checkpoint is written under a
temporary name, synced and renamed.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from airank_fast.errors import UserError

Weights: TypeAlias = dict[str, dict[str, Tensor]]
"""Tensors by name, of each network by its name."""

KEEP = 2
_NAME = re.compile(r"step-(\d+)$")


def save(directory: Path, step: int, networks: Weights, state: dict, keep: int = KEEP) -> Path:
    """Write the checkpoint of ``step`` and delete all but the newest ``keep``.

    ``networks`` has the weights of each by its name; they and the tensors in ``state`` may live on any device. OSError
    (a full disk) leaves no trace.
    """
    directory.mkdir(exist_ok=True)
    final = directory / f"step-{step:08d}"
    temporary = directory / f".{final.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        for network, weights in networks.items():
            plain = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
            try:
                save_file(plain, temporary / f"{network}.safetensors", metadata={"format": "pt"})
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
    for old in find(directory)[:-keep]:
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
    return int(path.name.removeprefix("step-"))


def load(path: Path, expected: Weights) -> tuple[Weights, dict]:
    """(weights of each network, state) of a checkpoint, on the CPU; UserError as `load_weights`."""
    with _readable(path):
        state = torch.load(path / "state.pt", weights_only=True, map_location="cpu")
    return load_weights(path, expected), state


def load_weights(path: Path, expected: Weights) -> Weights:
    """The weights of each network of a checkpoint, on the CPU.

    ``expected`` has the state dict that each network's weights must fit; UserError names the first name or shape that
    does not, and a file that cannot be read.
    """
    with _readable(path):
        networks = {name: load_file(path / f"{name}.safetensors") for name in expected}
    for network, weights in networks.items():
        for name in sorted(weights.keys() | expected[network].keys()):
            got, required = (_shape_in(tensors, name) for tensors in (weights, expected[network]))
            if got != required:
                raise UserError(
                    f"{path}: must be a checkpoint of this {network}: {name} must have shape {required}, got {got}"
                )
    return networks


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        why = f"{type(error).__name__}: {error}".split("\n")[0]
        raise UserError(f"{path}: must be a readable checkpoint, got {why}") from None


def _shape_in(tensors: dict[str, Tensor], name: str) -> list[int] | str:
    return list(tensors[name].shape) if name in tensors else "no such tensor"
