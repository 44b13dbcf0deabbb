"""The job and the trained networks of an inference: from a run, a checkpoint, or a file of published weights."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from airank_fast.engine import checkpoint, weights
from airank_fast.engine.averaging import PREFIX
from airank_fast.errors import UserError, require
from airank_fast.inference.origin import RECIPE, locate, run_config
from airank_fast.job import Job, Networks
from airank_fast.recipes import command_line
from airank_fast.recipes.checkpoints import load_into
from airank_fast.recipes.options import Request
from airank_fast.record.events import dictionary

PROGRAM = "python -m airank_fast.infer"
_OF_ITS_TRAINING = ("workers", "checkpoint_every", "checkpoint_steps", "cuda_graphs", "skip_corrupt", "tensorboard")
"""Options of a run that say how it ran, and nothing of its network and data."""
_BUILDS = (0, 1)  # seeds; what differs between two networks is not in the file that both were filled from


def load_job(arguments: Sequence[str], checkpoint_path: Path | None, device: torch.device) -> tuple[Job, Networks]:
    """The job of a training command, and its float32 networks in evaluation on the device.

    arguments: those of the training command, `["resnet50", "--data", "DIR"]`. checkpoint_path: a directory of a run,
    whose newest checkpoint is taken, with its recipe and its data; a checkpoint of a run, step-00000128, or a file in
    one, likewise; or a file of weights from elsewhere, or a directory of Hugging Face's. None: initial weights.

    The job reads its evaluation set with batches of one sample, by Pillow where pictures are files.

    Raises:
        UserError: a path that is not there or holds none of these; weights of another network, or only a part of it; a
            run of another command; and those of the training command.
    """
    request = command_line.parse(list(arguments), program=PROGRAM, text=__doc__)
    origin = None if checkpoint_path is None else locate(checkpoint_path)
    step = None if origin is None else origin.step
    if origin is not None and origin.run is not None:
        request = _as_run(request, origin.run)
    recipe = _for_samples(command_line.resolve(request, "fp32", 1))
    if step is not None:
        recipe = _without_first_weights(recipe)
    job: Job = _made(request, recipe)
    torch.manual_seed(job.recipe.seed)
    networks = job.build() if origin is None or step is not None else _from_file(request, job, origin.path)
    if step is not None:
        _fill(networks, step)
    return job, {name: weights.place(network.eval(), "fp32", device) for name, network in networks.items()}


def _as_run(request: Request, run: Path) -> Request:
    """The request with the recipe of a run, and with its options where they are not given."""
    try:
        saved = json.loads((run / RECIPE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--checkpoint {run}: must have a {RECIPE} that can be read, got {error}") from None
    require(isinstance(saved, dict), f"--checkpoint {run}", "a run with a recipe", type(saved).__name__)
    try:
        return command_line.resumed(request, saved, _options_of(run))
    except UserError as error:
        raise _about(error, run) from None


def _options_of(run: Path) -> Mapping[str, Any]:
    """The options that a run's log has; {} without a log."""
    options = dictionary(run_config(run).get("options"))
    return {name: value for name, value in options.items() if name not in _OF_ITS_TRAINING}


def _for_samples(recipe: Any) -> Any:
    """The recipe with batches of one sample in an evaluation, which are read by number."""
    changes: dict[str, Any] = {"eval_batch_size": 1}
    if getattr(recipe, "reader", None) in ("auto", "dali"):
        changes["reader"] = "torch"
    return replace(recipe, **changes)


def _without_first_weights(recipe: Any) -> Any:
    has_field = any(f.name == "init_checkpoint" for f in fields(recipe))
    return replace(recipe, init_checkpoint=None) if has_field else recipe


def _made(request: Request, recipe: Any) -> Any:
    return importlib.import_module(request.command.job).Job(recipe, request.options)


def _fill(networks: Mapping[str, nn.Module], step: Path) -> None:
    """Load a checkpoint of a run; the mean weights where the run was evaluated with those."""
    expected = {name: network.state_dict() for name, network in networks.items()}
    averaged = {name for name in networks if (step / f"{PREFIX}{name}.safetensors").is_file()}
    files = {(PREFIX if name in averaged else "") + name: state for name, state in expected.items()}
    try:
        found = checkpoint.load_weights(step, files)
    except UserError as error:
        raise _about(error, step) from None
    for name, network in networks.items():
        network.load_state_dict(found[(PREFIX if name in averaged else "") + name])


def _from_file(request: Request, job: Any, path: Path) -> dict[str, nn.Module]:
    """Networks filled from a file of weights, all of them: a backbone is none.

    Where the job knows the names of public checkpoints, it reads the file as its --init-checkpoint.
    """
    if not any(f.name == "init_checkpoint" for f in fields(job.recipe)):
        networks = job.build()
        require(len(networks) == 1, "--checkpoint", f"a run of {job.benchmark}, which has several networks", path)
        try:
            load_into(next(iter(networks.values())), path)
        except UserError as error:
            raise _about(error, path) from None
        return networks
    reader = _made(request, replace(job.recipe, init_checkpoint=str(path)))
    built = []
    for seed in _BUILDS:
        torch.manual_seed(seed)
        try:
            built.append(reader.build())
        except UserError as error:
            raise _about(error, path) from None
    for name, network in built[0].items():
        others = dict(built[1][name].named_parameters())
        for of_network, parameter in network.named_parameters():
            same = torch.equal(parameter, others[of_network])
            require(same, f"--checkpoint {path}", "weights of the whole network", f"none of {of_network}")
    return built[0]


def _about(error: UserError, path: Path) -> UserError:
    """An error of a checkpoint's reader, or of a run that is resumed, as one of --checkpoint."""
    names = rf"(--init-checkpoint [^\n]*?|--resume|{re.escape(str(path))}): (?=must)"
    return UserError(f"--checkpoint {path}: {re.sub(f'^{names}', '', str(error))}")
