"""Prints the loaded kernels by device, how they were built, what --amp means, and the versions of the libraries."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import torch
import tyro

import airank_fast.ops  # noqa: F401  (registers the ops that are reported on)
from airank_fast.cli import run_command
from airank_fast.engine import precision, system


@dataclass(frozen=True)
class Options:
    """Print the loaded kernels by device, how they were built, what --amp means, and the versions of the libraries."""

    json: bool = False
    """Print one JSON object instead of text."""


def collect() -> dict:
    """One dict that JSON can hold: ops, extension, devices, --amp's choice on each, versions."""
    names = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    return {
        "ops": system.kernels(),
        "extension": system.extension(),
        "devices": system.devices(),
        "amp": {name: asdict(precision.amp_choice(torch.device(name))) for name in names},
        "versions": system.versions(),
    }


def as_text(facts: dict) -> str:
    """The facts of `collect` as text."""
    width = max(map(len, (*facts["ops"], *facts["extension"], *facts["versions"])))
    lines = ["ops (kernel: this package's; reference: plain torch)"]
    lines += [
        f"  {op:<{width}}  " + ", ".join(f"{device} {what}" for device, what in by_device.items())
        for op, by_device in facts["ops"].items()
    ]
    lines += ["extension"] + [f"  {key:<{width}}  {value}" for key, value in facts["extension"].items()]
    lines += ["devices"] + [f"  {device}" for device in facts["devices"]]
    lines += ["--amp"] + [f"  {name}: {what['precision']} ({what['reason']})" for name, what in facts["amp"].items()]
    lines += ["versions"] + [f"  {name:<{width}}  {version}" for name, version in facts["versions"].items()]
    return "\n".join(lines)


def main() -> None:
    """Print the facts."""
    options = tyro.cli(Options, prog="python -m airank_fast.info")
    facts = collect()
    print(json.dumps(facts, indent=2) if options.json else as_text(facts))


if __name__ == "__main__":
    run_command(main)
