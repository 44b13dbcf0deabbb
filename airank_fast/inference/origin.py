"""What --checkpoint names: a training run, one of its checkpoints, or a file of weights. No other place decides that.

origin = locate(Path("runs/resnet50-1"))
origin.run, origin.step, origin.file     # whose recipe applies, what is loaded, and the file whose checksum is stated
run_config(origin.run)["options"]        # as far as the run's log has to be read for it
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airank_fast.engine import checkpoint
from airank_fast.errors import UserError, require
from airank_fast.record.events import iter_events

RECIPE, CHECKPOINTS, STATE = "recipe.json", "checkpoints", "state.pt"
_SUFFIXES = ("safetensors", "bin", "pth", "pt")


@dataclass(frozen=True)
class Origin:
    """Where weights are from.

    path: as given. run: the training run that it lies in, None for weights from elsewhere. step: the checkpoint that is
    loaded, None where the path is a file of weights or a directory of Hugging Face's. file: the one that stands for the
    weights, of several networks the first.
    """

    path: Path
    run: Path | None
    step: Path | None
    file: Path


def locate(path: Path) -> Origin:
    """What lies at a path. UserError where there is nothing, a run without a checkpoint, or no file of weights."""
    what = "the directory of a training run, one of its checkpoints, or a file of weights"
    require(path.exists(), "--checkpoint", what, f"{path}, no such file")
    if path.is_file():
        return Origin(path, _run_at(path.absolute().parent.parent.parent), None, path)
    if (path / CHECKPOINTS).is_dir() or (path / RECIPE).is_file():
        step = checkpoint.newest(path / CHECKPOINTS)
        if step is None:
            raise UserError(f"--checkpoint {path}: must be a run with a checkpoint, got one without")
        return Origin(path, _run_at(path), step, _file_in(step))
    if (path / STATE).is_file():
        return Origin(path, _run_at(path.absolute().parent.parent), path, _file_in(path))
    return Origin(path, None, None, _file_in(path))


def _run_at(place: Path) -> Path | None:
    return place if (place / RECIPE).is_file() else None


def _file_in(folder: Path) -> Path:
    found = sorted(file for suffix in _SUFFIXES for file in folder.glob(f"*.{suffix}"))
    found = [file for file in found if file.name != STATE]
    if not found:
        raise UserError(f"--checkpoint: must be a file of weights or have one, got {folder}")
    return found[0]


def run_config(run: Path) -> dict[str, Any]:
    """The run_config event of a training run, which is one of the first; {} without a log, or in one without it.

    UserError for a line before it that is no event.
    """
    log = run / "events.jsonl"
    if not log.is_file():
        return {}
    return next((event for event in iter_events(log) if event["kind"] == "run_config"), {})
