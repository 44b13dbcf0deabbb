"""Reads the rank that torchrun, srun or mpirun has given this process. Needs the standard library only.

Each launcher states ranks in environment variables of its own. torchrun alone states the address of rank 0; for the
others it follows from the list of nodes, or is 127.0.0.1 where all ranks are on one. Else MASTER_ADDR is required.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from typing import NamedTuple

from airank_fast.errors import UserError, require

# Variables of rank, size, local rank, local size. The first launcher found counts: srun may have started mpirun.
LAUNCHERS: dict[str, tuple[str, ...]] = {
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    "Open MPI's mpirun": tuple(f"OMPI_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")),
    "MPICH's or Intel's mpirun": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", ""),
}
ALL_OF_THEM = "torchrun sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT"
FIRST_PORT, NUM_PORTS = 15000, 10000  # below those that systems give to outgoing connections


class Launch(NamedTuple):
    """This process among those of its launch; address and port of rank 0 where there are several."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    address: str = ""
    port: int = 0


def read_launch(variables: Mapping[str, str]) -> Launch:
    """The launch that the environment `variables` state; a single rank where they state none.

    UserError where they do not suffice, such as a RANK without a MASTER_ADDR, which would start N runs of one rank.
    """
    for launcher, names in LAUNCHERS.items():
        if names[0] in variables and (launcher != "srun" or _is_step(variables)):
            break
    else:
        if "PMIX_RANK" in variables or variables.get("WORLD_SIZE", "1") != "1":
            name = "PMIX_RANK" if "PMIX_RANK" in variables else "WORLD_SIZE"
            raise UserError(f"RANK: must be set beside {name}, got nothing ({ALL_OF_THEM})")
        return Launch()
    rank_name, size_name, local_rank_name, local_size_name = names
    if launcher == "srun" and size_name not in variables:
        size_name = "SLURM_NTASKS"
    require(size_name in variables, size_name, f"set beside {rank_name}", "nothing")
    size = _count(variables, size_name, 1)
    rank = _count(variables, rank_name, 0)
    require(rank < size, rank_name, f"below {size_name} = {size}", rank)
    local_rank = _count(variables, local_rank_name, 0) if local_rank_name in variables else 0
    if launcher == "srun":
        local_size = _tasks_here(variables)
    else:
        local_size = _count(variables, local_size_name, 1) if local_size_name in variables else 1
    if size == 1:
        return Launch()
    address = variables.get("MASTER_ADDR") or _address(variables, launcher, local_size == size) or ""
    what = f"set to the host of rank 0 where {launcher} has started {size} ranks"
    require(address, "MASTER_ADDR", what, "nothing")
    if "MASTER_PORT" in variables:
        port = _count(variables, "MASTER_PORT", 1)
    else:
        require(launcher != "torchrun", "MASTER_PORT", "set beside RANK and MASTER_ADDR", "nothing")
        port = _port(variables)
    return Launch(rank, size, local_rank, local_size, address, port)


def lone_process_warning(variables: Mapping[str, str]) -> str | None:
    """The warning for a process that no launcher has started, in a batch job of several tasks; else None."""
    tasks = variables.get("SLURM_NTASKS", "1")
    if tasks == "1" or "RANK" in variables or _is_step(variables):
        return None
    return f"SLURM_NTASKS = {tasks}, but neither srun nor torchrun has started this process: it trains as the only rank"


def _is_step(variables: Mapping[str, str]) -> bool:
    """Whether srun has started this process. A batch script has a SLURM_PROCID of 0 as well."""
    if "SLURM_STEP_NUM_TASKS" in variables or "SLURM_STEP_ID" in variables:
        return "SLURM_PROCID" in variables
    return variables.get("SLURM_PROCID", "0") != "0"


def _count(variables: Mapping[str, str], name: str, least: int) -> int:
    text = variables[name]
    require(text.isdecimal() and int(text) >= least, name, f"a whole number of at least {least}", text or "nothing")
    return int(text)


def _tasks_here(variables: Mapping[str, str]) -> int:
    """Tasks of this node by Slurm's list (`2(x3),1`: two on each of three nodes, one on the fourth); 1 without it."""
    counts = []
    listed = variables.get("SLURM_STEP_TASKS_PER_NODE") or variables.get("SLURM_TASKS_PER_NODE", "")
    for number, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", listed):
        counts += [int(number)] * int(times or 1)
    node = variables.get("SLURM_NODEID", "0")
    return counts[int(node)] if node.isdecimal() and int(node) < len(counts) else 1


def _address(variables: Mapping[str, str], launcher: str, on_one_node: bool) -> str | None:
    if launcher == "torchrun":
        raise UserError(f"MASTER_ADDR: must be set beside RANK, got nothing ({ALL_OF_THEM})")
    if on_one_node:
        return "127.0.0.1"
    nodes = variables.get("SLURM_STEP_NODELIST") or variables.get("SLURM_JOB_NODELIST")
    return first_host(nodes) if nodes else variables.get("SLURM_LAUNCH_NODE_IPADDR")


def first_host(nodes: str) -> str:
    """The first name of a Slurm node list: gpu003-ib of `gpu[003-006,9]-ib,login`."""
    first = re.split(r",(?![^\[]*\])", nodes)[0]
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", first)


def _port(variables: Mapping[str, str]) -> int:
    """A port from a hash of the job's number: the same for all its ranks, rarely that of another job."""
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "PMI_PORT")
    job = "/".join(variables.get(name, "") for name in names)
    return FIRST_PORT + zlib.crc32(job.encode()) % NUM_PORTS
