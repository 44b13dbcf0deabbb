"""Two processes that form a group, for tests of what ranks do together."""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

if TYPE_CHECKING:
    from collections.abc import Callable


def on_two_ranks(function: Callable[..., Any], *args: object) -> list[Any]:
    """What ``function(rank, *args)`` returns on each of two ranks joined by gloo; all of it is pickled."""
    with tempfile.TemporaryDirectory() as directory:
        mp.spawn(_rank, (function, directory, args), nprocs=2)
        return [torch.load(f"{directory}/{rank}.pt", weights_only=False) for rank in range(2)]


class OneOfTwo:
    """A rank whose collective sums add those of another rank, which are known."""

    device = torch.device("cpu")

    def __init__(self, others: torch.Tensor) -> None:
        self._others = others

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.add_(self._others)


def _rank(rank: int, function: Callable[..., Any], directory: str, args: tuple) -> None:
    dist.init_process_group("gloo", init_method=f"file://{directory}/meet", rank=rank, world_size=2)
    torch.save(function(rank, *args), f"{directory}/{rank}.pt")
    dist.barrier()
    # A thread of gloo that drops a Python object while the interpreter ends would abort the process (torch 2.13).
    os._exit(0)
