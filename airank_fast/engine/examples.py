"""Pictures of predictions, which a run leaves for its report; made after the clock has stopped."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from airank_fast.engine.journal import Journal
from airank_fast.engine.state import State
from airank_fast.job import Illustrated

FOLDER, MOST = "examples", 12


def write_examples(state: State, journal: Journal, directory: Path) -> None:
    """Write what rank 0's first evaluation samples are taken for to `directory`/examples, where the job shows it."""
    job = state.job
    if state.world.rank != 0 or not isinstance(job, Illustrated):
        return
    for network in state.networks.values():
        network.eval()
    batches: Any = job.eval_batches()
    with torch.inference_mode(), state.autocast():
        batch = next(batches)
        examples = job.examples(job.predict(state.networks, batch), batch)[:MOST]
    if isinstance(batches, Generator):
        batches.close()
    (directory / FOLDER).mkdir(exist_ok=True)
    files = [f"{FOLDER}/{number:02d}.png" for number in range(1, len(examples) + 1)]
    for name, example in zip(files, examples, strict=True):
        Image.fromarray(example.picture).save(directory / name)
    texts = {name: [getattr(example, name) for example in examples] for name in ("predicted", "truth")}
    journal.emit("examples", files=files, **texts)
