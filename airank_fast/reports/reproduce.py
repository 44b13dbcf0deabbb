"""The commands that repeat a run, from its record."""

from __future__ import annotations

import re
import shlex

from airank_fast.reports.reading import ReportedRun

_MODULE = re.compile(r"(?:^|/)airank_fast/(\w+)\.py$")


def training_command(run: ReportedRun) -> str | None:
    """The command line of the run for a shell; None where its log does not carry one.

    The program's path becomes `python -m airank_fast.train`; with several ranks torchrun starts it, with as many
    nodes and ranks a node as the run had.
    """
    command = run.config.get("command")
    if not isinstance(command, list) or not command:
        return None
    match = _MODULE.search(command[0].replace("\\", "/"))
    program = ["-m", f"airank_fast.{match[1]}"] if match else [command[0]]
    num_nodes, num_ranks = run.flagperf["nnodes"] or 1, run.flagperf["nproc"] or 1
    launcher = ["python"]
    if num_nodes * num_ranks > 1:
        launcher = ["torchrun", "--nproc-per-node", str(num_ranks)]
        if num_nodes > 1:
            launcher += ["--nnodes", str(num_nodes), "--rdzv-backend", "c10d", "--rdzv-endpoint", "HOST:29400"]
    return shlex.join([*launcher, *program, *command[1:]])


def requirements(runs: list[ReportedRun]) -> list[str]:
    """`name==version` of the packages that the runs recorded, for pip; Python, CUDA and its libraries are not pip's."""
    found: dict[str, None] = {}
    for run in runs:
        versions = run.system.get("versions")
        for name, version in versions.items() if isinstance(versions, dict) else ():
            if name not in ("python", "cuda", "cudnn", "nccl") and re.fullmatch(r"[\w.+!-]+", str(version)):
                found[f"{name}=={str(version).partition('+')[0]}"] = None
    return [word for word in found if re.fullmatch(r"[A-Za-z0-9][\w.-]*==[\w.!-]+", word)]


def check_commands(runs: list[ReportedRun], options: list[str]) -> list[str]:
    """The commands that verify the logs and make the report again, with its options."""
    paths = [str(run.path) for run in runs]
    return [
        shlex.join(["python", "-m", "airank_fast.verify", *paths]),
        shlex.join(["python", "-m", "airank_fast.report", *paths, *options]),
    ]
