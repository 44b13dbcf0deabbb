"""The cost of measuring: the training loop with its clock, logs and console, against the same loop without them.

python bench/measuring.py [--steps N] [--rounds N] [--save]
"""

from __future__ import annotations

import argparse
import io
import tempfile
from functools import partial
from pathlib import Path

import harness

from airank_fast.engine import distributed, precision
from airank_fast.engine.clock import Clock
from airank_fast.engine.journal import Journal
from airank_fast.engine.state import State
from airank_fast.engine.training import Trainer
from airank_fast.recipes import command_line, resnet50
from airank_fast.record.console import Console
from airank_fast.record.events import EventLog
from airank_fast.record.logs import attach_logs


def block(trainer: Trainer, clock: Clock, num_steps: int) -> None:
    """Train ``num_steps`` steps as a run does between two evaluations."""
    trainer.clock = clock
    trainer.state.progress["step"] = 0
    trainer.train_block(trainer.job.train_batches(0), 1, num_steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5, help="steps in one timed block")
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--save", action="store_true", help="append to bench/results")
    arguments = parser.parse_args()
    world = distributed.join("auto")
    request = command_line.parse(["resnet50", "--recipe", "digits", "--reader", "synthetic"], world_size=world.size)
    recipe = command_line.resolve(request, precision.amp_choice(world.device).precision, world.size)
    options = request.options
    with tempfile.TemporaryDirectory() as directory:
        log = EventLog(Path(directory) / "events.jsonl")
        attach_logs(log, directory)
        log.subscribe(Console(io.StringIO()))
        state = State(resnet50.Job(recipe, options), world)
        log.emit("run_start")
        trainer = Trainer(state, options, Journal(log), Path(directory))
        clocks = {
            name: Clock(log.emit, world.device, recipe.batch_size, enabled=name == "clock on")
            for name in ("clock on", "clock off")
        }
        times = harness.time_rounds(
            {name: partial(block, trainer, clock, arguments.steps) for name, clock in clocks.items()},
            num_rounds=arguments.rounds,
            device=world.device.type,
            ahead=False,
        )
        log.close()
    case = f"{arguments.steps} steps at {recipe.image_size} px, batch {recipe.batch_size}, {recipe.precision}"
    own = clocks["clock on"].measure_s / clocks["clock on"].core_s
    if arguments.save:
        harness.save("measuring", case, times, "clock off", cost_by_its_own_account=own)
    cost = harness.ratio(times, "clock off", "clock on") - 1
    print(harness.as_text(case, times, "clock off"))
    print(f"cost of measuring: {100 * cost:.2f} % of the time; {100 * own:.3f} % by the clock itself")


if __name__ == "__main__":
    main()
