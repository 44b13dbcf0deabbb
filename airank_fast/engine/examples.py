"""Pictures of predictions, which a run leaves for its report."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from airank_fast.engine.journal import Journal
from airank_fast.engine.state import State
from airank_fast.job import Illustrated

FOLDER, MOST = "examples", 12


def write_examples(state: State, journal: Journal, directory: Path) -> None:
    """Write pictures of the last evaluation's first batch to `directory`/examples, where the job makes some.

    They are of rank 0, from all parts of the batch.
    """
    job = state.job
    if state.world.rank != 0 or state.first_evaluated is None or not isinstance(job, Illustrated):
        return
    examples = job.examples(*state.first_evaluated)
    examples = examples[:: max(1, len(examples) // MOST)][:MOST]
    (directory / FOLDER).mkdir(exist_ok=True)
    files = [f"{FOLDER}/{number:02d}.png" for number in range(1, len(examples) + 1)]
    for name, example in zip(files, examples, strict=True):
        Image.fromarray(example.picture).save(directory / name)
    texts = {name: [getattr(example, name) for example in examples] for name in ("predicted", "truth")}
    journal.emit("examples", files=files, **texts)
