"""The variables of each launcher, and that ranks of srun and mpirun connect instead of being N runs of rank 0."""

from __future__ import annotations

import subprocess
import sys

import pytest
from commands.runs import environment

from airank_fast.engine.launch import FIRST_PORT, NUM_PORTS, Launch, first_host, lone_process_warning, read_launch
from airank_fast.errors import UserError

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
TORCHRUN |= {"MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
SLURM_JOB = {"SLURM_JOB_ID": "77", "SLURM_NTASKS": "4", "SLURM_JOB_NODELIST": "gpu[003-004]"}
SRUN = SLURM_JOB | {
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "gpu[003-004]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
}
BATCH_SCRIPT = SLURM_JOB | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
MPIRUN = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "PMIX_RANK": "1",
    "PMIX_NAMESPACE": "prterun-7",
}


def without(variables: dict, *names: str) -> dict:
    return {name: value for name, value in variables.items() if name not in names}


@pytest.mark.parametrize(
    ("variables", "launch"),
    [
        ({}, Launch()),
        ({"RANK": "0", "WORLD_SIZE": "1"}, Launch()),
        (BATCH_SCRIPT, Launch()),
        (TORCHRUN, Launch(3, 4, 1, 2, "node1", 29500)),
        (SRUN | TORCHRUN, Launch(3, 4, 1, 2, "node1", 29500)),
        (SRUN | {"MASTER_PORT": "5"}, Launch(3, 4, 1, 2, "gpu003", 5)),
        (BATCH_SCRIPT | MPIRUN | {"MASTER_PORT": "5"}, Launch(1, 2, 1, 2, "127.0.0.1", 5)),
        (
            MPIRUN | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"} | {"MASTER_ADDR": "a", "MASTER_PORT": "5"},
            Launch(1, 2, 1, 1, "a", 5),
        ),
        (
            {"PMI_RANK": "0", "PMI_SIZE": "2", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "2", "MASTER_PORT": "5"},
            Launch(0, 2, 0, 2, "127.0.0.1", 5),
        ),
    ],
)
def test_launch_by_variables(variables, launch):
    assert read_launch(variables) == launch


@pytest.mark.parametrize("variables", [SRUN, MPIRUN])
def test_all_ranks_of_a_job_find_the_same_port(variables):
    names = ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMIX_RANK")
    others = variables | {name: "0" for name in names if name in variables}
    assert read_launch(variables).port == read_launch(others).port
    assert FIRST_PORT <= read_launch(variables).port < FIRST_PORT + NUM_PORTS
    another = {name: value.replace("7", "8") for name, value in variables.items()}
    assert read_launch(another).port != read_launch(variables).port


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            without(TORCHRUN, "MASTER_ADDR"),
            "MASTER_ADDR: must be set beside RANK, got nothing .torchrun sets .*MASTER_PORT",
        ),
        (without(TORCHRUN, "MASTER_PORT"), "MASTER_PORT: must be set beside RANK"),
        (without(TORCHRUN, "WORLD_SIZE"), "WORLD_SIZE: must be set beside RANK, got nothing"),
        (without(TORCHRUN, "RANK"), "RANK: must be set beside WORLD_SIZE"),
        (TORCHRUN | {"RANK": "4"}, "RANK: must be below WORLD_SIZE = 4, got 4"),
        (TORCHRUN | {"RANK": "one"}, "RANK: must be a whole number of at least 0, got one"),
        (TORCHRUN | {"MASTER_PORT": ""}, "MASTER_PORT: must be a whole number of at least 1, got nothing"),
        (MPIRUN | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, "MASTER_ADDR: must be set to the host of rank 0 where Open MPI"),
        ({"PMIX_RANK": "0"}, "RANK: must be set beside PMIX_RANK"),
    ],
)
def test_variables_that_do_not_suffice(variables, message):
    with pytest.raises(UserError, match=message):
        read_launch(variables)


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("gpu[003-006,9]-ib,login", "gpu003-ib"), ("a,b", "a"), ("n7", "n7"), ("r[1-2]n[10,12]", "r1n10")],
)
def test_first_host(nodes, host):
    assert first_host(nodes) == host


def test_a_batch_script_is_warned_that_its_process_is_alone():
    assert "SLURM_NTASKS = 4" in lone_process_warning(BATCH_SCRIPT)
    assert [lone_process_warning(variables) for variables in ({}, SRUN, BATCH_SCRIPT | TORCHRUN)] == [None] * 3


MEET = """
import torch
from airank_fast.engine import distributed
world = distributed.join("cpu")
print(world.rank, world.local_size, world.sum(torch.tensor(float(world.rank + 1))).item())
world.close()
"""


def test_two_processes_of_mpirun_are_two_ranks_that_connect():
    processes = []
    for rank in "01":
        variables = environment() | MPIRUN | dict.fromkeys((n for n in MPIRUN if n.endswith("_RANK")), rank)
        command = [sys.executable, "-c", MEET]
        processes.append(subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True))
    assert [p.communicate(timeout=300)[0].split() for p in processes] == [["0", "2", "3.0"], ["1", "2", "3.0"]]
