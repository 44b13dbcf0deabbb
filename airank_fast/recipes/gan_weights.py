"""First weights of pix2pix and CycleGAN: junyanz's files, one a network, or a checkpoint of a run of this package."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from airank_fast.errors import UserError, require
from airank_fast.recipes.checkpoints import load_into

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_SECOND_OF_BLOCK = re.compile(r"conv_block\.([56])\.(weight|bias)$")
_OTHER = {"5": "6", "6": "5"}  # the number of a block's second convolution is 6 behind a dropout


def files_of(path: Path, names: Iterable[str]) -> dict[str, Path]:
    """The file of each network in a directory: G.safetensors, latest_net_G.pth, or 200_net_G.pth if it is the only one.

    Networks without a file are left out. UserError for no directory, several files of a network, and no generator's.
    """
    require(path.is_dir(), f"--init-checkpoint {path}", "a directory with latest_net_G.pth and so on", "no directory")
    found = {}
    for name in names:
        others = sorted(path.glob(f"*_net_{name}.pth"))
        for file in (path / f"{name}.safetensors", path / f"latest_net_{name}.pth"):
            if file.is_file():
                others = [file]
                break
        if len(others) > 1:
            listed = ", ".join(file.name for file in others)
            raise UserError(f"--init-checkpoint {path}: must have one file of the network {name}, got {listed}")
        if others:
            found[name] = others[0]
        elif name.startswith("G"):
            raise UserError(
                f"--init-checkpoint {path}: must have latest_net_{name}.pth or {name}.safetensors, got none"
            )
    return found


def load_all(networks: Mapping[str, nn.Module], path: Path) -> list[str]:
    """Fill the networks that have a file in the directory; returns lines for the user about what was left out.

    UserError: see `files_of` and `load_into`.
    """
    files, notes = files_of(path, networks), []
    for name, network in networks.items():
        if name not in files:
            notes.append(f"--init-checkpoint {path}: has no weights of {name}, which begins with random ones")
            continue
        dropped: list[str] = []
        load_into(network, files[name], renamed=partial(fitted, network, dropped=dropped))
        if dropped:
            number = sum(each.endswith("running_mean") for each in dropped)
            what = f"running statistics of {number} instance norms, which have none here"
            notes.append(f"--init-checkpoint {files[name]}: left out are the {what}")
    return notes


def fitted(network: nn.Module, weights: dict[str, Tensor], dropped: list[str]) -> dict[str, Tensor]:
    """The weights without the running statistics of instance norms, whose names are added to `dropped`.

    In residual blocks the second convolution has the number that it has in the network, with a dropout or without.
    """
    own, kept = network.state_dict(), {}
    for name, tensor in weights.items():
        if name not in own and name.endswith(_STATISTICS):
            dropped.append(name)
            continue
        other = _SECOND_OF_BLOCK.sub(lambda match: f"conv_block.{_OTHER[match[1]]}.{match[2]}", name)
        kept[other if name not in own and other in own else name] = tensor
    return kept
