"""The ResNet-50 training step on the CPU with freed memory that malloc keeps, against malloc's defaults.

    python bench/memory.py [--sizes 32 64 224] [--rounds N] [--save]

malloc is configured once for a process, so that each contestant is a process of its own, and they take turns.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
from multiprocessing.connection import Connection

import harness
import step
import torch

from airank_fast.engine.memory import keep_freed_memory

KEPT, PLAIN = "airank_fast", "malloc's own ways"


def serve(connection: Connection, keep: bool, size: int) -> None:
    """Make one step for each message, and reply with the page faults so far."""
    if keep:
        keep_freed_memory()
    device = torch.device("cpu")
    torch.manual_seed(0)
    training_step = step.our_step(device, "bf16")
    images, labels = step.made_up(size, step.BATCH_SIZES[size], device)
    while connection.recv():
        training_step(images, labels)
        connection.send(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)


class Contestant:
    """A process that makes a step at each call."""

    def __init__(self, keep: bool, size: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, keep, size), daemon=True)
        self.process.start()
        self.num_page_faults: list[int] = []

    def __call__(self) -> None:
        self.connection.send(True)
        self.num_page_faults.append(self.connection.recv())

    def page_faults_per_step(self, num_steps: int) -> float:
        """The page faults per step of the last `num_steps` steps."""
        return (self.num_page_faults[-1] - self.num_page_faults[-1 - num_steps]) / num_steps

    def close(self) -> None:
        self.connection.send(False)
        self.process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(step.BATCH_SIZES), help="pixels")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--save", action="store_true", help="append to bench/results")
    arguments = parser.parse_args()
    for size in arguments.sizes:
        contestants = {KEPT: Contestant(True, size), PLAIN: Contestant(False, size)}
        times = harness.time_rounds(contestants, num_rounds=arguments.rounds, num_warm_up=5)
        faults = {name: c.page_faults_per_step(arguments.rounds) for name, c in contestants.items()}
        for contestant in contestants.values():
            contestant.close()
        case = f"ResNet-50 training step, {size} px, batch {step.BATCH_SIZES[size]}, bf16, cpu"
        if arguments.save:
            harness.save("memory", case, times, KEPT, page_faults_per_step=faults)
        print(harness.as_text(case, times, KEPT))
        print("  page faults per step: " + ", ".join(f"{name} {number:.0f}" for name, number in faults.items()))


if __name__ == "__main__":
    main()
