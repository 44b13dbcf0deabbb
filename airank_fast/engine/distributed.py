"""The ranks of a run: one process per device, started by torchrun, srun or mpirun, or a single process."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from airank_fast.engine.launch import Launch, read_launch
from airank_fast.errors import UserError, require

COLLECTIVE_TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class World:
    """This process among the ranks. With one rank every collective below is the identity."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    device: torch.device

    @property
    def cores(self) -> int:
        """CPU cores for each rank of this machine, at least 1."""
        return max(1, len(os.sched_getaffinity(0)) // self.local_size)

    def wait_for_all(self) -> None:
        """Return when every rank has called this."""
        if self.size > 1:
            dist.barrier()

    def gather(self, values: list[float]) -> list[list[float]]:
        """``values`` of every rank, in rank order (float64; all ranks give the same number of values)."""
        if self.size == 1:
            return [list(values)]
        mine = torch.tensor(values, dtype=torch.float64, device=self.device)
        everyone = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(everyone, mine)
        return [tensor.tolist() for tensor in everyone]

    def sum(self, tensor: Tensor) -> Tensor:
        """``tensor`` summed over the ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather_objects(self, value: Any) -> list[Any]:
        """``value`` of every rank, in rank order (any picklable values, of any size)."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def broadcast(self, objects: list) -> list:
        """Rank 0's ``objects`` (any picklable values), on every rank."""
        if self.size > 1:
            dist.broadcast_object_list(objects, device=self.device)
        return objects

    def average_buffers(self, network: nn.Module) -> None:
        """Replace batch-norm statistics by their mean over the ranks, in one transfer; no other buffer is touched."""
        norms = [module for module in network.modules() if isinstance(module, _NormBase)]
        buffers = [b for norm in norms for b in (norm.running_mean, norm.running_var) if b is not None]
        if self.size == 1 or not buffers:
            return
        flat = torch.cat([b.flatten() for b in buffers])
        dist.all_reduce(flat)
        flat /= self.size
        for buffer, mean in zip(buffers, flat.split([b.numel() for b in buffers]), strict=True):
            buffer.copy_(mean.view_as(buffer))

    def close(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()


def join(device: str) -> World:
    """Join the ranks that torchrun, srun or mpirun has started; without them be the only one.

    ``device``: auto, cpu or cuda. UserError where cuda is requested and there is no such device, and where the ranks
    cannot connect.
    """
    if device == "cuda" and not torch.cuda.is_available():
        built = torch.version.cuda
        why = f"torch {torch.__version__} sees no GPU" if built else f"torch {torch.__version__} is a CPU build"
        raise UserError(f"--device: must be cpu or auto where there is no CUDA device, got cuda ({why})")
    launch = read_launch(os.environ)
    use_cuda = device != "cpu" and torch.cuda.is_available()
    if use_cuda:
        most = torch.cuda.device_count()
        require(launch.local_rank < most, "ranks of a machine", f"at most its {most} GPUs", launch.local_rank + 1)
    target = torch.device("cuda", launch.local_rank) if use_cuda else torch.device("cpu")
    if use_cuda:
        torch.cuda.set_device(target)
    if launch.size > 1:
        _connect(launch, target)
    return World(launch.rank, launch.size, launch.local_rank, launch.local_size, target)


def _connect(launch: Launch, target: torch.device) -> None:
    os.environ |= {"RANK": str(launch.rank), "WORLD_SIZE": str(launch.size)}
    os.environ |= {"MASTER_ADDR": launch.address, "MASTER_PORT": str(launch.port)}
    use_cuda = target.type == "cuda"
    try:
        dist.init_process_group(
            "nccl" if use_cuda else "gloo", timeout=COLLECTIVE_TIMEOUT, device_id=target if use_cuda else None
        )
    except (RuntimeError, ValueError) as error:  # torch's errors of the network are RuntimeErrors
        why = str(error).split("\n")[0][:200]
        place = f"{launch.address}:{launch.port}"
        raise UserError(f"MASTER_ADDR:MASTER_PORT: must be where rank 0 can listen, got {place} ({why})") from None


def is_lost_rank(error: BaseException) -> bool:
    """Whether ``error`` is a collective that failed because another rank is gone."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower())
