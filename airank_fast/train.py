"""Train a benchmark to its quality target, and leave logs and metrics behind.

python -m airank_fast.train resnet50 --amp
python -m airank_fast.train bert-mini --amp
torchrun --nproc-per-node 8 -m airank_fast.train resnet50 --amp --data /data/imagenet
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import suppress
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path

import tyro

from airank_fast.cli import run_command
from airank_fast.engine import distributed, precision, run, system
from airank_fast.errors import UserError
from airank_fast.recipes import bert, resnet50
from airank_fast.record.console import Console, final_table
from airank_fast.record.events import EventLog, effective, process_start_time, read_events
from airank_fast.record.logs import Logs, attach_logs

COMMANDS = {"resnet50": resnet50.Options, **bert.COMMANDS}


def main() -> int:
    options = parse(sys.argv[1:])
    recipes = next(module for module in (resnet50, bert) if isinstance(options, module.Options))
    world = distributed.join(options.device)
    try:
        choice = choose_precision(options, world)
        recipe = recipes.resolve(options, world.size, choice.precision)
        precision.check(recipe.precision, world.device)
        return train(recipes.Job(recipe, options), options, world, choice)
    finally:
        world.close()


def parse(arguments: list[str]):
    """The options that the command line names: an instance of one benchmark's Options."""
    return tyro.extras.subcommand_cli_from_dict(
        COMMANDS, args=arguments, prog="python -m airank_fast.train", description=__doc__
    )


def choose_precision(options, world: distributed.World) -> precision.Choice:
    """Rank 0's choice, on every rank: processors may differ, and so may what is measured on them."""
    chosen = precision.choose(options.amp, options.precision, world.device) if world.rank == 0 else None
    return world.broadcast([chosen])[0]


def train(job, options, world: distributed.World, choice: precision.Choice) -> int:
    """Run ``job`` on this rank with everything that rank 0 writes; returns the exit status."""
    directory, finished = prepare_directory(job, options, world)
    if finished:
        if world.rank == 0:
            print(f"{directory}: the run is finished, nothing to resume")
        return run.EXIT_REACHED if finished == "success" else run.EXIT_NOT_REACHED
    if world.rank != 0:
        return run.execute(job, options, world, None, directory)
    log, logs = open_log(job, options, world, directory, choice)
    try:
        return run.execute(job, options, world, log, directory)
    finally:
        log.emit("process_stop")
        log.close()
        summary = logs.summary()
        table = f"{final_table(summary)}\n" if summary["steps"] else ""
        with suppress(OSError):  # a lost output must not hide how the run ended
            print(f"{table}logs, metrics and checkpoints: {directory}", flush=True)


def prepare_directory(job, options, world: distributed.World) -> tuple[Path, str | None]:
    """The output directory, made by rank 0 and checked against what it already holds; the same on every rank.

    With it the status of the run that it holds, if that came to its end and was saved; else None.
    """
    directory = options.output or Path("runs") / f"{job.benchmark}-{time.strftime('%Y%m%d-%H%M%S')}"
    trouble = finished = None
    if world.rank == 0:
        try:
            finished = _check_directory(directory, job, options)
            directory.mkdir(parents=True, exist_ok=True)
            if not (directory / "recipe.json").exists():
                _write_json(directory / "recipe.json", job.description())
        except OSError as error:
            trouble = f"--output: a directory that can be written is required, got {directory} ({error.strerror})"
        except UserError as error:
            trouble = str(error)
    directory, finished, trouble = world.broadcast([directory, finished, trouble])
    if trouble:
        raise UserError(trouble)
    return directory, finished


def _check_directory(directory: Path, job, options) -> str | None:
    if not options.resume:
        if (directory / "events.jsonl").exists():
            raise UserError(
                f"--output: a directory without a run is required, got {directory}, which holds one "
                "(--resume goes on with it)"
            )
        return None
    if options.output is None:
        raise UserError("--resume: --output with the directory of the run is required, got none")
    if (directory / "recipe.json").exists():
        saved = json.loads((directory / "recipe.json").read_text())
        for name, value in job.description().items():
            if saved.get(name) != value:
                raise UserError(f"--resume: the run's own recipe is required, {name} = {saved.get(name)}, got {value}")
    if not (directory / "events.jsonl").exists():
        return None
    ending = [e for e in effective(read_events(directory / "events.jsonl")) if e["kind"] in ("run_stop", "checkpoint")]
    if [e["kind"] for e in ending[-2:]] == ["run_stop", "checkpoint"]:
        return ending[-2]["status"]
    return None


def open_log(
    job, options, world: distributed.World, directory: Path, choice: precision.Choice
) -> tuple[EventLog, Logs]:
    """Rank 0's event log with every format and display that hangs on it, its first events written."""
    path = directory / "events.jsonl"
    resume = options.resume and path.exists()
    log = EventLog(path, resume=resume)
    logs = attach_logs(log, directory, airank_profile=options.airank_profile)
    log.subscribe(Console(sys.stderr, history=log.history))
    if options.tensorboard:
        from airank_fast.record.tensorboard import TensorBoard

        log.subscribe(TensorBoard(directory / "tensorboard"))
    log.emit("process_start", t=process_start_time(), pid=os.getpid())
    if not any(event["kind"] == "run_config" for event in log.history):
        log.emit("run_config", **run_config(job, options, world), precision_reason=choice.reason)
        if choice.warning:
            log.emit("warning", message=choice.warning)
        information = system.information(options.submission, world)
        _write_json(directory / "system_information.json", information)
        log.emit("system", **information)
        log.emit("cache_clear", value=options.clear_cache and system.drop_page_cache())
    return log, logs


def run_config(job, options, world: distributed.World) -> dict:
    """What was asked for, as the fields of the `run_config` event."""
    recipe = job.description()
    return {
        "benchmark": job.benchmark,
        "task": job.task.facts(job.target),
        "unit": job.task.unit,
        "recipe": recipe,
        "options": {f.name: _plain(getattr(options, f.name)) for f in fields(options) if f.name not in recipe},
        "command": sys.argv,
        "seed": recipe["seed"],
        "precision": recipe["precision"],
        "target": recipe["target"],
        "world_size": world.size,
        "devices": [system.device_name(world.device)] * world.size,
        "global_batch_size": recipe["batch_size"],
        "gradient_accumulation_steps": recipe["gradient_accumulation_steps"],
        "warmup_epochs_excluded": options.airank_warmup_epochs,
        "submission": asdict(options.submission),
    }


def _write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def _plain(value):
    if is_dataclass(value):
        return asdict(value)
    return str(value) if isinstance(value, Path) else value


if __name__ == "__main__":
    run_command(main)
