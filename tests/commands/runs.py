"""Small training runs for the tests of the train command: a tree of pictures, and runs as separate processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import numpy as np
from ops.threads import threads
from PIL import Image

from airank_fast import train as command
from airank_fast.models.resnet import ResNet
from airank_fast.recipes import resnet50

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

NUM_CLASSES, NUM_TRAIN, NUM_VAL = 4, 24, 5
NUM_THREADS = 2  # of a run of one rank
LIMIT_S = 1200  # a run that takes longer hangs; machines may be slow and busy


def write_tree(root: Path, *, num_train: int = NUM_TRAIN, num_val: int = NUM_VAL) -> Path:
    """An ImageFolder of NUM_CLASSES classes, each a colour with noise, 40 x 40 px."""
    rng = np.random.default_rng(0)
    for side, number in (("train", num_train), ("val", num_val)):
        for label in range(NUM_CLASSES):
            folder = root / side / f"class{label}"
            folder.mkdir(parents=True)
            colour = np.array([60 + 120 * (label % 2), 60 + 120 * (label // 2), 128])
            for index in range(number):
                pixels = np.clip(colour + rng.normal(0, 40, (40, 40, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{index:03d}.JPEG", quality=90)
    return root


def arguments(data: Path, output: Path, *more: str) -> list[str]:
    """A run of a few seconds: 6 steps an epoch, 3 epochs, out of reach of its target."""
    return [
        "resnet50",
        "--recipe",
        "digits",
        "--num-classes",
        str(NUM_CLASSES),
        "--data",
        str(data),
        "--output",
        str(output),
        "--batch-size",
        "16",
        "--eval-batch-size",
        "8",
        "--epochs",
        "3",
        "--target",
        "1.0",
        "--no-stop-at-target",
        *more,
    ]


def narrow_resnet() -> AbstractContextManager:
    """A small network for the resnet50 job: runs from nothing and the full training have the whole one."""
    return mock.patch.object(resnet50, "resnet50", partial(ResNet, (1, 1, 1, 1), base_width=16))


def here(args: list[str], num_threads: int = NUM_THREADS) -> int:
    """Run the command in this process, which has torch already; returns its exit status.

    With the threads of a process of its own, and so with the same bits; resnet50 has a small network. With one thread
    a run of small layers takes less of two processors that others use too.
    """
    with threads(num_threads), narrow_resnet(), mock.patch.object(sys, "argv", ["train", *args]):
        return command.main()


def environment(num_threads: int = NUM_THREADS) -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": str(num_threads),
    }


def start(args: list[str], *, ranks: int = 1, **kwargs) -> subprocess.Popen:
    """Start `python -m airank_fast.train ARGS`, under torchrun with more than one rank."""
    command = [sys.executable, "-m"]
    if ranks > 1:
        command += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m"]
    return subprocess.Popen(
        [*command, "airank_fast.train", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(NUM_THREADS if ranks == 1 else 1),
        **kwargs,
    )


def train(args: list[str], **kwargs) -> subprocess.CompletedProcess:
    """Run the command to its end."""
    process = start(args, **kwargs)
    out, err = end_of(process)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def end_of(process: subprocess.Popen) -> tuple[str, str]:
    """The rest of a process's output; one that does not end is killed."""
    try:
        return process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise


def kinds_of(output: Path) -> list[str]:
    """Kinds of the events written so far; empty before the log exists."""
    path = output / "events.jsonl"
    if not path.exists():
        return []
    return [json.loads(line)["kind"] for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def wait_until(condition, process) -> None:
    """Poll until ``condition()``; fails if the process ends or LIMIT_S passes before."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        ended = process.poll() is not None
        assert not ended or condition(), f"the run ended before the moment came:\n{process.communicate()[1]}"
        assert time.monotonic() < deadline, "the moment never came"
        time.sleep(0.002)
