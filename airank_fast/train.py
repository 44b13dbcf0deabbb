"""Train a benchmark to its quality target, and write its logs and metrics.

python -m airank_fast.train resnet50 --amp
python -m airank_fast.train bert-mini --amp
torchrun --nproc-per-node 8 -m airank_fast.train resnet50 --amp --data /data/imagenet
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from airank_fast.cli import run_command
from airank_fast.engine.launch import lone_process_warning, read_launch
from airank_fast.errors import UserError, require
from airank_fast.recipes import command_line
from airank_fast.recipes.options import Request, RunOptions
from airank_fast.record.console import Console, final_table
from airank_fast.record.events import EventLog, effective, process_start_time, read_events
from airank_fast.record.logs import Logs, attach_logs

if TYPE_CHECKING:  # they import torch, which --help does without
    from airank_fast.engine.distributed import World
    from airank_fast.engine.precision import Choice
    from airank_fast.job import Job

T = TypeVar("T")


def main() -> int:
    """Read the command line, join the ranks, train."""
    request = parse(sys.argv[1:])
    from airank_fast.engine import distributed

    world = distributed.join(request.options.device)
    try:
        return start(request, world)
    finally:
        world.close()


def parse(arguments: list[str]) -> Request:
    """The request of the command line, with the number of ranks of the environment."""
    size = read_launch(os.environ).size
    return command_line.parse(arguments, world_size=size, program="python -m airank_fast.train", text=__doc__)


def start(request: Request, world: World) -> int:
    """Make the job, and on rank 0 its directory and log; run it. Returns the exit status."""
    from airank_fast.engine import precision, run

    saved = on_rank_0(world, lambda: saved_run(request.options))
    if saved is not None:
        request = command_line.resumed(request, saved.recipe, saved.options)
    choice = choose_precision(request, world)
    recipe = command_line.resolve(request, choice.precision, world.size)
    if recipe.precision != choice.precision:  # a task without 16-bit arithmetic
        choice = replace(
            choice, precision=recipe.precision, reason=f"the only arithmetic of {request.command.task.name}"
        )
    precision.check(recipe.precision, world.device)
    options = request.options
    job = importlib.import_module(request.command.job).Job(recipe, options)
    if saved is not None and saved.status is not None:
        if world.rank == 0:
            print(f"{options.output}: the run is finished, nothing to resume")
        return run.EXIT_REACHED if saved.status == "success" else run.EXIT_NOT_REACHED
    default = Path("runs") / f"{job.benchmark}-{time.strftime('%Y%m%d-%H%M%S')}"
    directory = world.broadcast([options.output or default])[0]
    written: list[tuple[EventLog, Logs]] = []
    on_rank_0(world, lambda: written.append(open_log(job, options, world, directory, choice)))
    if world.rank != 0:
        return run.execute(job, options, world, None, directory)
    log, logs = written[0]
    try:
        return run.execute(job, options, world, log, directory)
    finally:
        log.emit("process_stop")
        log.close()
        summary = logs.summary()
        table = f"{final_table(summary)}\n" if summary["steps"] else ""
        with suppress(OSError):  # a closed output must not change the exit status
            print(f"{table}logs, metrics and checkpoints: {directory}", flush=True)


def on_rank_0(world: World, function: Callable[[], T]) -> T:
    """Call `function` on rank 0; its result (picklable) is returned, or its UserError raised, on every rank."""
    result = message = None
    if world.rank == 0:
        try:
            result = function()
        except UserError as error:
            message = str(error)
    result, message = world.broadcast([result, message])
    if message is not None:
        raise UserError(message)
    return result


def choose_precision(request: Request, world: World) -> Choice:
    """Rank 0's choice, on every rank, as processors and measurements may differ.

    A resumed run keeps its own. UserError for --amp with a --precision other than --amp's on this device.
    """
    from airank_fast.engine import precision

    amp, requested = request.options.amp, request.recipe.precision
    if request.options.resume:
        return precision.Choice(requested, "the run's own")
    is_given = "precision" in request.given
    chosen = precision.choose(amp, requested if is_given else None, world.device) if world.rank == 0 else None
    chosen = world.broadcast([chosen])[0]
    what = f"left out, or {chosen.precision}, with --amp on this device"
    require(not (amp and is_given) or requested == chosen.precision, "--precision", what, requested)
    return chosen


@dataclass(frozen=True)
class Saved:
    """The run to resume: its recipe.json, the options in its run_config event, and its status if it has ended."""

    recipe: dict
    options: dict
    status: str | None


def saved_run(options: RunOptions) -> Saved | None:
    """The run in --output with --resume, else None. UserError where it is missing, or there without --resume."""
    directory = options.output
    if not options.resume:
        holds_run = directory is not None and (directory / "events.jsonl").exists()
        what = "a directory without a run, or one to --resume"
        require(not holds_run, "--output", what, f"{directory}, which holds one")
        return None
    if directory is None:
        raise UserError("--output: must be the directory of a run to resume, got none")
    recipe, log = directory / "recipe.json", directory / "events.jsonl"
    require(recipe.is_file() or log.exists(), "--output", "the directory of a run to resume", directory)
    try:
        saved = json.loads(recipe.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{recipe}: must be the recipe that the run was started with, got {error}") from None
    require(isinstance(saved, dict), str(recipe), "the recipe that the run was started with", type(saved).__name__)
    events = []
    if log.exists():
        with unreadable_is_refused(log):
            events = effective(read_events(log))
    config = next((e for e in events if e["kind"] == "run_config"), {})
    ending = [e for e in events if e["kind"] in ("run_stop", "checkpoint")][-2:]
    is_finished = [e["kind"] for e in ending] == ["run_stop", "checkpoint"]
    return Saved(saved, config.get("options") or {}, ending[0]["status"] if is_finished else None)


@contextmanager
def unreadable_is_refused(path: Path) -> Iterator[None]:
    """Turns an OSError of a file in the user's directory into a UserError."""
    try:
        yield
    except OSError as error:
        name = error.filename or path
        raise UserError(f"{name}: must be readable and writable, got: {error.strerror}") from None


def open_log(job: Job, options: RunOptions, world: World, directory: Path, choice: Choice) -> tuple[EventLog, Logs]:
    """Rank 0's event log, with every format and display that subscribes to it and its first events written.

    UserError where the directory or one of the files cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--output: must be a directory that can be written, got {directory} ({error.strerror})"
        ) from None
    with unreadable_is_refused(directory):
        if not (directory / "recipe.json").exists():
            _write_json(directory / "recipe.json", asdict(job.recipe))
        path = directory / "events.jsonl"
        log = EventLog(path, resume=options.resume and path.exists())
    try:
        with unreadable_is_refused(path):
            return log, _begin_log(log, job, options, world, directory, choice)
    except UserError:
        log.close()
        raise


def _begin_log(log: EventLog, job: Job, options: RunOptions, world: World, directory: Path, choice: Choice) -> Logs:
    from airank_fast.engine import system

    logs = attach_logs(log, directory, airank_profile=options.airank_profile)
    log.subscribe(Console(sys.stderr, history=log.history))
    if options.tensorboard:
        from airank_fast.record.tensorboard import TensorBoard

        log.subscribe(TensorBoard(directory / "tensorboard"))
    log.emit("process_start", t=process_start_time(), pid=os.getpid())
    if any(event["kind"] == "run_config" for event in log.history):
        return logs
    log.emit("run_config", **run_config(job, options, world), precision_reason=choice.reason)
    for message in (choice.warning, lone_process_warning(os.environ)):
        if message:
            log.emit("warning", message=message)
    information = system.information(options.submission, world)
    _write_json(directory / "system_information.json", information)
    log.emit("system", **information)
    log.emit("cache_clear", value=options.clear_cache and system.drop_page_cache())
    return logs


def run_config(job: Job, options: RunOptions, world: World) -> dict:
    """The fields of the `run_config` event: what is run, and where."""
    from airank_fast.engine import system

    recipe = asdict(job.recipe)
    return {
        "benchmark": job.benchmark,
        "task": job.task.facts(job.target),
        "unit": job.task.unit,
        "recipe": recipe,
        "options": command_line.to_plain(options, recipe),
        "command": sys.argv,
        "seed": recipe["seed"],
        "precision": recipe["precision"],
        "target": job.target.get(job.task.headline.name),
        "world_size": world.size,
        "devices": [system.device_name(world.device)] * world.size,
        "global_batch_size": recipe["batch_size"],
        "gradient_accumulation_steps": recipe["gradient_accumulation_steps"],
        "warmup_epochs_excluded": options.airank_warmup_epochs,
        "submission": asdict(options.submission),
    }


def _write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_command(main)
