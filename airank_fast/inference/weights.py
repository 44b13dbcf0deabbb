"""Finds the weights of an inference run: those that are given, or the newest finished run on embedded data.

weights = find(request)          # trains first where nothing is given and no run lies there
weights.facts()                  # of the `infer_config` event
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airank_fast import tasks
from airank_fast.data.manifest import checksum
from airank_fast.engine import checkpoint
from airank_fast.errors import UserError, require
from airank_fast.inference.origin import CHECKPOINTS, RECIPE, locate, run_config
from airank_fast.inference.request import Request, train_command
from airank_fast.record.events import dictionary

RUNS = Path("runs")
_KEPT = ("benchmark", "best_accuracy")  # of a training run's summary
_STDERR = 2


@dataclass(frozen=True)
class Weights:
    """Weights on the disk. path: as samples.load_job takes it; file: the one that the checksum is of.

    run: the directory of the training run that made them, None for weights from elsewhere. data: its data set, None for
    the embedded one.
    """

    path: Path
    file: Path
    sha256: str
    run: Path | None = None
    data: Path | None = None

    def facts(self) -> dict[str, Any]:
        """The field `checkpoint` of the `infer_config` event."""
        summary = _json(self.run / "summary.json") if self.run else {}
        run = {name: summary.get(name) for name in _KEPT} if self.run else None
        return {"file": str(self.file), "sha256": self.sha256, "trained_here": self.run is not None, "run": run}


def find(request: Request) -> Weights:
    """The weights of the request; trains the network where none are given and no run lies below `RUNS`.

    UserError: no such path, another task's run, one without a checkpoint or with a broken log, a training that misses
    its target.
    """
    path = request.options.checkpoint
    if path is None:
        require(request.options.data is None, "--checkpoint", "given with --data", "none")
        path = newest_run(RUNS, request) or train(request)
    origin = locate(path)
    config = run_config(origin.run) if origin.run else {}
    if origin.run:
        require_same_task(request, origin.run, config)
    data = dictionary(config.get("options")).get("data")
    return Weights(path, origin.file, checksum(origin.file), origin.run, Path(data) if data else None)


def require_same_task(request: Request, run: Path, config: Mapping[str, Any]) -> None:
    """UserError for a run of another task, or of another size of its network."""
    require(config, f"--checkpoint {run}", "a run whose events.jsonl states what was trained", "no such event")
    name = config.get("benchmark")
    is_same = tasks.find(name) is request.command.task and _is_of(request, _json(run / RECIPE))
    require(is_same, "--checkpoint", f"a run of {request.name}", f"{run}, a run of {name}")


def _is_of(request: Request, recipe: Mapping[str, Any]) -> bool:
    return all(recipe.get(name) == value for name, value in request.command.fixed.items())


def newest_run(root: Path, request: Request) -> Path | None:
    """The last run below `root` that reached its target on embedded data, for the request's network; else None."""
    summaries = [path for path in root.glob("*/summary.json") if (path.parent / RECIPE).is_file()]
    for summary in sorted(summaries, key=lambda path: path.stat().st_mtime, reverse=True):
        run = summary.parent
        if _json(summary).get("status") != "success" or checkpoint.newest(run / CHECKPOINTS) is None:
            continue
        config = _readable_config(run)
        is_embedded = "options" in config and dictionary(config["options"]).get("data") is None
        is_task = tasks.find(config.get("benchmark")) is request.command.task
        if is_embedded and is_task and _is_of(request, _json(run / RECIPE)):
            return run
    return None


def train(request: Request) -> Path:
    """Train the network on embedded data, in a process of its own; returns the run's directory."""
    output = RUNS / f"{request.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    print(f"{RUNS}/ has no finished run of {request.name} on embedded data: training it first, to {output}", flush=True)
    status = subprocess.run(train_command(request, output), stdout=_STDERR, check=False).returncode
    if status == 130:
        raise KeyboardInterrupt
    what = f"given, as the training of {request.name} did not reach its target"
    require(status == 0, "--checkpoint", what, f"none (its exit status is {status}, its log {output})")
    return output


def _readable_config(run: Path) -> dict[str, Any]:
    """`run_config` of a run that nobody named: one with a broken log is passed over, with a line."""
    try:
        return run_config(run)
    except UserError as error:
        print(f"{run}: left out ({error})", file=sys.stderr)
        return {}


def _json(path: Path) -> dict[str, Any]:
    try:
        return dictionary(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        print(f"{path}: not readable, left out", file=sys.stderr)
        return {}
