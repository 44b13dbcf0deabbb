"""Trains a benchmark to its target once for each seed, and reports accuracy and time.

    python bench/convergence.py [--benchmark bert-mini] [--seeds 1 2 3 4 5] [--save] [-- more options of the command]

A seed that misses the target makes the exit status 1.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import harness

from airank_fast.tasks import target_of_facts

FIGURES = ("best_accuracy", "time2train", "e2e_time", "epochs", "avg_ips")


def run(command: list[str]) -> dict:
    """The summary of one run, which may miss its target; raises CalledProcessError for a run that failed."""
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "run"
        whole = [sys.executable, "-m", "airank_fast.train", *command, "--output", str(output)]
        done = subprocess.run(whole, capture_output=True, text=True, check=False)
        if done.returncode not in (0, 1):
            print(done.stderr, file=sys.stderr)
            done.check_returncode()
        return json.loads((output / "summary.json").read_text())


def target_of(summary: dict) -> float | str | None:
    """The target of a run: a value of the headline metric, else a text with the names of the metrics."""
    if summary["target"] is not None:
        return summary["target"]
    return ", ".join(f"{name} {value}" for name, value in target_of_facts(summary["task"]).items()) or None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark", default="resnet50")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--save", action="store_true", help="append to bench/results")
    parser.add_argument("more", nargs="*", help="more options of the train command, after --")
    arguments = parser.parse_args()
    missed = 0
    for seed in arguments.seeds:
        command = [arguments.benchmark, *arguments.more, "--amp", "--seed", str(seed)]
        summary = run(command)
        missed += summary["status"] != "success"
        figures = {name: summary[name] for name in FIGURES}
        print(f"seed {seed}: {summary['status']} ({summary['reason']})  {figures}", flush=True)
        if arguments.save:
            facts = {"target": target_of(summary), "status": summary["status"], **figures}
            harness.append("convergence", case=" ".join(command), **facts)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
