"""The scenes of embedded digits (digit_objects.py) in the form of COCO 2017: boxes and masks of the classes 0 to 9."""

from __future__ import annotations

import os
from pathlib import Path

from airank_fast.data.cache import made_once
from airank_fast.data.images import digit_objects
from airank_fast.data.images.coco_writer import Sample, write_side
from airank_fast.data.images.digit_objects import NUM_HELD_OUT, NUM_TRAIN, masks, scene

NAME = digit_objects.NAME
NUM_CLASSES = 10
_FOLDER = "digit-coco-v1"  # a change of what is written needs another version


def materialise(cache_dir: str | os.PathLike | None = None) -> Path:
    """Write the scenes to train and to evaluate on, once, and return their folder.

    cache_dir: default `~/.cache/airank_fast`. UserError: not writable.
    """
    return made_once(_FOLDER, _write, "embedded data set", "--data with a folder in the form of COCO", cache_dir)


def _write(root: Path) -> None:
    write(root, "train", NUM_TRAIN)
    write(root, "val", NUM_HELD_OUT)


def write(root: Path, side: str, number: int, seed: int = 0) -> None:
    """Write so many scenes of one side, train or val, with their annotations; the digits of val are held out."""
    scenes = (scene(seed, index, held_out=side == "val") for index in range(number))
    samples = (Sample(each.picture, [digit.label for digit in each.digits], masks(each)) for each in scenes)
    write_side(root, side, samples, [str(label) for label in range(NUM_CLASSES)])
