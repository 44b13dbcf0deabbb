"""Makes two small data sets of real pictures with one class each, trains on them, and reports the AP that is reached.

    pip download --no-deps --dest wheels deepforest==2.1.0 stardist==0.9.2
    python bench/real_pictures.py wheels --make .                      # the folders crowns and nuclei, for --data
    python bench/real_pictures.py wheels [--sets crowns] [--seeds 1 2 3] [--save]

Crowns are trees from above: deepforest's wheel (MIT; the pictures are NEON's, CC0 1.0) has 574 boxes in one place to
train on and 279 in another one. Nuclei are in one fluorescence picture of stardist's wheel (BSD-3-Clause, which names
no licence of the picture itself; it is from the 2018 Data Science Bowl) with 125 masks, of which the lower right
quarter is held out. Pictures to train on are in eight orientations, as neither kind has one of its own.

A value is that of the last evaluation, not of the best. No time is measured: the machine may have other work.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import harness
import numpy as np
from PIL import Image

from airank_fast.data.images.coco_writer import Sample, write_side
from airank_fast.record.events import read_events

WHEELS = {"crowns": "deepforest-2.1.0-*.whl", "nuclei": "stardist-0.9.2-*.whl"}
COMMANDS = {
    "crowns": "yolov3 --recipe digit_scenes --data crowns --image-size 224 --train-sizes 224 --target None "
    "--batch-size 4 --learning-rate 0.005 --epochs 10 --decay-epochs 7 9 --eval-every 10 --colours --jitter 0.2 "
    "--anchors 10 10 18 18 28 28 40 40 56 56 80 80 100 100 140 140 200 200",
    "nuclei": "mask_rcnn --recipe digit_scenes --data nuclei --min-size 256 --max-size 256 --target None "
    "--anchor-sizes 16 24 32 48 64 --detections 100 --steps 200 --decay-steps 140 --eval-every 200",
}
"""Of `python -m airank_fast.train`, in the folder of the data sets; the recipes are those of the embedded digits."""
TRAIN, HELD_OUT = "2019_YELL_2_528000_4978000_image_crop2", "2019_YELL_2_541000_4977000_image_crop"
CORNERS = ("xmin", "ymin", "xmax", "ymax")
SQUARE = 400  # pixels of a square of crowns
QUARTER = 256  # of a quarter of the nuclei


def crowns(wheel: zipfile.ZipFile, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A picture, uint8 [H, W, 3], and its boxes (x1, y1, x2, y2), float64 [n, 4], which are in Pascal VOC's form."""
    found = ElementTree.fromstring(wheel.read(f"deepforest/data/{name}.xml")).iter("bndbox")
    boxes = np.array([[float(box.findtext(corner)) for corner in CORNERS] for box in found])
    return np.array(opened(wheel, f"deepforest/data/{name}.png").convert("RGB")), boxes


def nuclei(wheel: zipfile.ZipFile) -> tuple[np.ndarray, np.ndarray]:
    """The picture, uint8 [512, 512, 3], and the number of the nucleus of each pixel, 0 for none: [512, 512]."""
    grey, labels = (np.array(opened(wheel, f"stardist/data/images/{name}2d.tif")) for name in ("img", "mask"))
    return np.repeat((255 * (grey / grey.max())).astype(np.uint8)[:, :, None], 3, 2), labels


def opened(wheel: zipfile.ZipFile, name: str) -> Image.Image:
    """A picture of a wheel."""
    return Image.open(io.BytesIO(wheel.read(name)))


def squares(picture: np.ndarray, boxes: np.ndarray) -> Iterator[Sample]:
    """Squares of a picture, black beyond its edges, with the boxes whose centres they have, cut to them."""
    height, width = picture.shape[:2]
    for top, left in product(range(0, height, SQUARE), range(0, width, SQUARE)):
        part = picture[top : top + SQUARE, left : left + SQUARE]
        beyond = [(0, SQUARE - side) for side in part.shape[:2]]
        moved = boxes - [left, top, left, top]
        centres = (moved[:, :2] + moved[:, 2:]) / 2
        its = moved[((centres >= 0) & (centres < SQUARE)).all(1)].clip(0, SQUARE)
        yield Sample(np.pad(part, [*beyond, (0, 0)]), [0] * len(its), boxes=its.tolist())


def quarters(picture: np.ndarray, labels: np.ndarray, *, held_out: bool) -> Iterator[Sample]:
    """The lower right quarter, or the three others, with the masks of the nuclei in it."""
    for top, left in product((0, QUARTER), repeat=2):
        if bool(top and left) == held_out:
            window = slice(top, top + QUARTER), slice(left, left + QUARTER)
            numbers = np.unique(labels[window])
            masks = labels[window] == numbers[numbers > 0, None, None]
            yield Sample(picture[window], [0] * len(masks), masks)


def turned(sample: Sample) -> Iterator[Sample]:
    """A square sample in its eight orientations."""
    for transposed, mirrored, upside_down in product((False, True), repeat=3):
        picture, masks, boxes = sample.picture, sample.masks, np.array(sample.boxes).reshape(-1, 4)
        if transposed:
            picture, boxes = picture.swapaxes(0, 1), boxes[:, [1, 0, 3, 2]]
            masks = None if masks is None else masks.swapaxes(1, 2)
        for axis in (0, 1):
            if (upside_down, mirrored)[axis]:
                picture, boxes = np.flip(picture, axis), flipped(boxes, 1 - axis, len(picture))
                masks = None if masks is None else np.flip(masks, 1 + axis)
        yield Sample(np.ascontiguousarray(picture), sample.labels, masks, boxes.tolist() if masks is None else ())


def flipped(boxes: np.ndarray, column: int, side: int) -> np.ndarray:
    """Boxes of a mirrored picture of so many pixels. column: 0 for x, 1 for y."""
    found = boxes.copy()
    found[:, [column, column + 2]] = side - boxes[:, [column + 2, column]]
    return found


def make(name: str, wheels: Path, root: Path) -> None:
    """Write a data set, `crowns` or `nuclei`, from its wheel into the folder root / name."""
    found = sorted(wheels.glob(WHEELS[name]))
    if not found:
        raise SystemExit(f"{wheels}: must be a folder with {WHEELS[name]}, got none")
    with zipfile.ZipFile(found[0]) as wheel:
        if name == "crowns":
            train, val = (squares(*crowns(wheel, place)) for place in (TRAIN, HELD_OUT))
        else:
            train, val = (quarters(*nuclei(wheel), held_out=held_out) for held_out in (False, True))
        classes = [name.removesuffix("s") if name == "crowns" else "nucleus"]
        write_side(root / name, "train", (each for sample in train for each in turned(sample)), classes)
        write_side(root / name, "val", val, classes)


def trained(name: str, seed: int, root: Path) -> dict:
    """The metrics of a run's last evaluation."""
    output = root / f"{name}-{seed}"
    options = [*COMMANDS[name].split(), "--seed", str(seed), "--output", str(output)]
    done = subprocess.run(
        [sys.executable, "-m", "airank_fast.train", *options], cwd=root, capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 1):
        raise SystemExit(f"{name}: the run failed\n{done.stderr}")
    events = list(read_events(output / "events.jsonl"))
    return [event["quality"] for event in events if event["kind"] == "eval_stop"][-1]


def main() -> None:
    """Make the data sets, train on them, print; save on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", type=Path, help="the folder of the two wheels")
    parser.add_argument("--make", type=Path, metavar="FOLDER", help="only write the data sets, into this folder")
    parser.add_argument("--sets", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--save", action="store_true", help="append to bench/results/real_pictures.jsonl")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = arguments.make or Path(temporary)
        for name in arguments.sets:
            make(name, arguments.wheels, root)
        for name, seed in product(arguments.sets, () if arguments.make else arguments.seeds):
            quality = trained(name, seed, root)
            print(f"{name}, seed {seed}: {quality}", flush=True)
            if arguments.save:
                harness.append("real_pictures", f"{COMMANDS[name]} --seed {seed}", data_set=name, quality=quality)


if __name__ == "__main__":
    main()
