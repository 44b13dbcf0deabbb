"""COCO's AP on one core: this project's scorer against pycocotools and faster-coco-eval; and masks to run lengths.

    python bench/coco_ap.py [--save] [--rounds N] [--pictures N]

Made-up sets in COCO's proportions: pictures of 640 x 480, 80 classes, 7 objects a picture, one in a hundred a crowd,
and 100 detections a picture, of which a third are near an object. The scorers begin with detections in their own form
(arrays; lists of dictionaries with compressed RLEs) and with an indexed truth, and end with the twelve or six numbers;
that they agree is checked first, on a twentieth of the pictures. Of masks ours has the numbers of boxes too. The last
case is of a picture's 100 masks of 28 x 28: pasted over their boxes as run lengths, against torchvision's way, a
full-size picture of each, which pycocotools encodes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Callable
from functools import partial
from typing import Any

import harness
import numpy as np
import torch
from torch.nn.functional import interpolate, pad

from airank_fast.data.host import host
from airank_fast.data.images.run_lengths import RunLengths, draw_polygons, pack_polygons, paste_masks
from airank_fast.quality.coco_ap import CocoAP, Detections, Truth

OURS = "airank_fast"
HEIGHT, WIDTH, CLASSES, FOUND = 480, 640, 80, 100
NAMES = "ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"  # the first of COCOeval's stats


def ellipses(boxes: np.ndarray) -> RunLengths:
    """Of 24 corners, in boxes (x1, y1, x2, y2)."""
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    points = middle[:, None] + half[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    return draw_polygons(pack_polygons([[each] for each in points]), np.tile([HEIGHT, WIDTH], (len(boxes), 1)))


def rows_of(runs: RunLengths, rows: slice) -> RunLengths:
    """Some of the masks."""
    offsets = runs.offsets[rows.start : rows.stop + 1]
    return RunLengths(runs.counts[offsets[0] : offsets[-1]], offsets - offsets[0], runs.sizes[rows])


def made_up(num_pictures: int) -> tuple[Truth, list[Detections]]:
    """A truth, and detections of each picture, whose scores are higher near objects."""
    rng = np.random.default_rng(0)
    limits = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT])
    pictures = np.repeat(np.arange(num_pictures), rng.poisson(7, num_pictures))
    num = len(pictures)

    def boxes_of(count: int) -> np.ndarray:
        sides = np.exp(rng.uniform(np.log(12), np.log(400), (count, 2))).clip(max=[WIDTH, HEIGHT])
        low = rng.random((count, 2)) * ([WIDTH, HEIGHT] - sides)
        return np.concatenate([low, low + sides], 1).round(2)

    boxes, labels = boxes_of(num), rng.integers(0, CLASSES, num)
    corners, classes, scores = [], [], []
    first = np.searchsorted(pictures, np.arange(num_pictures + 1))
    for picture in range(num_pictures):
        its = np.arange(first[picture], first[picture + 1])
        near = rng.choice(its, FOUND // 3) if len(its) else its
        moved = boxes[near] + rng.normal(0, 0.08, (len(near), 4)) * np.tile(boxes[near, 2:] - boxes[near, :2], 2)
        others = boxes_of(FOUND - len(near))
        corners.append(np.concatenate([moved, others]).clip(0, limits))
        corners[-1][:, 2:] = np.maximum(corners[-1][:, 2:], corners[-1][:, :2] + 1)
        right = rng.random(len(near)) < 0.8
        its_labels = np.where(right, labels[near], rng.integers(0, CLASSES, len(near)))
        classes.append(np.concatenate([its_labels, rng.integers(0, CLASSES, len(others))]))
        scores.append(np.concatenate([rng.beta(3, 2, len(near)), rng.beta(1, 6, len(others))]))
    masks, found_masks = ellipses(boxes), ellipses(np.concatenate(corners))
    found = [
        Detections(
            corners[picture].astype(np.float32),
            scores[picture].astype(np.float32),
            classes[picture],
            rows_of(found_masks, slice(FOUND * picture, FOUND * (picture + 1))),
        )
        for picture in range(num_pictures)
    ]
    xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
    areas = xywh[:, 2] * xywh[:, 3] * 0.78
    return Truth(num_pictures, pictures, xywh, labels, areas, rng.random(num) < 0.01, masks), found


def ours(truth: Truth, found: list[Detections]) -> dict[str, float]:
    """This project's, from arrays."""
    column = np.empty(len(found), object)
    column[:] = found
    return CocoAP(truth).compute({"pictures": np.arange(len(found)), "found": column})


def rle(runs: RunLengths, number: int) -> dict[str, Any]:
    """A mask in pycocotools' compressed form."""
    from pycocotools import mask

    size = runs.sizes[number].tolist()
    return mask.frPyObjects({"size": size, "counts": runs.of(number).tolist()}, *size)


def as_json(truth: Truth, found: list[Detections], kind: str) -> tuple[dict, list[dict]]:
    """The content of a JSON of annotations, and the list of results."""
    annotations = []
    for number, box in enumerate(truth.boxes.tolist()):
        entry = {"id": number + 1, "image_id": int(truth.pictures[number]), "category_id": int(truth.labels[number])}
        entry |= {"bbox": box, "area": float(truth.areas[number]), "iscrowd": int(truth.crowd[number])}
        annotations.append(entry | ({"segmentation": rle(truth.masks, number)} if kind == "mask" else {}))
    results = []
    for picture, its in enumerate(found):
        corners = its.boxes.astype(np.float64)
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1).tolist()
        for row, (label, score) in enumerate(zip(its.labels.tolist(), its.scores.tolist(), strict=True)):
            shape = {"segmentation": rle(its.masks, row)} if kind == "mask" else {"bbox": boxes[row]}
            results.append({"image_id": picture, "category_id": label, "score": score} | shape)
    images = [{"id": picture, "height": HEIGHT, "width": WIDTH} for picture in range(truth.num_pictures)]
    categories = [{"id": label, "name": str(label)} for label in range(CLASSES)]
    return {"images": images, "annotations": annotations, "categories": categories}, results


def by_coco_eval(index: Any, evaluator: Callable, results: list[dict], kind: str) -> dict[str, float]:
    """A library with pycocotools' interface."""
    copies = [*map(dict, results)]  # loadRes writes into them
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = evaluator(index, index.loadRes(copies), {"box": "bbox", "mask": "segm"}[kind])
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {f"{kind}_{name}": float(value) for name, value in zip(NAMES, evaluation.stats, strict=False)}


def peers(truth: Truth, found: list[Detections], kind: str) -> dict[str, Callable[[], dict[str, float]]]:
    """The libraries that are there."""
    content, results = as_json(truth, found, kind)
    there = {}
    if harness.is_there("pycocotools.cocoeval"):
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        there["pycocotools"] = COCO, COCOeval
    if harness.is_there("faster_coco_eval"):
        from faster_coco_eval import COCO as FasterCOCO
        from faster_coco_eval import COCOeval_faster

        there["faster-coco-eval"] = FasterCOCO, COCOeval_faster
    contestants = {}
    for name, (index_type, evaluator) in there.items():
        with contextlib.redirect_stdout(io.StringIO()):
            index = index_type()
            index.dataset = content
            index.createIndex()
        contestants[name] = partial(by_coco_eval, index, evaluator, results, kind)
    return contestants


def scorers(truth: Truth, found: list[Detections], kind: str) -> dict[str, Callable[[], dict[str, float]]]:
    """This project's and the libraries'."""
    mine = truth if kind == "mask" else truth._replace(masks=None)
    return {OURS: partial(ours, mine, found), **peers(truth, found, kind)}


def full_size(masks: torch.Tensor, boxes: torch.Tensor) -> list[dict]:
    """torchvision's paste_masks_in_image by its description, and pycocotools' RLEs of what is above one half."""
    from pycocotools import mask as coco_mask

    found = []
    for mask, box in zip(pad(masks, (1, 1, 1, 1)), boxes, strict=True):
        half, middle = (box[2:] - box[:2]) * 0.5 * (30 / 28), (box[2:] + box[:2]) * 0.5
        x1, y1, x2, y2 = torch.cat([middle - half, middle + half]).to(torch.int64).tolist()
        picture = torch.zeros(HEIGHT, WIDTH)
        window = picture[max(y1, 0) : y2 + 1, max(x1, 0) : x2 + 1]
        stretched = interpolate(mask[None, None], (y2 - y1 + 1, x2 - x1 + 1), mode="bilinear", align_corners=False)
        window[:] = stretched[0, 0, max(-y1, 0) :, max(-x1, 0) :][: len(window), : window.shape[1]]
        found.append(coco_mask.encode(np.asfortranarray((picture > 0.5).to(torch.uint8).numpy())))
    return found


def pasting() -> dict[str, Callable[[], Any]]:
    """A picture's 100 masks, smooth as a network's are."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.randn(FOUND, 1, 5, 5, generator=generator)
    masks = (6 * interpolate(masks, (28, 28), mode="bicubic")[:, 0] + 2).sigmoid()
    _, found = made_up(1)
    boxes = torch.from_numpy(found[0].boxes)
    contestants = {OURS: partial(paste_masks, masks.numpy(), boxes.numpy(), (HEIGHT, WIDTH))}
    if harness.is_there("pycocotools.mask"):
        from pycocotools import mask as coco_mask

        contestants["full-size pictures"] = partial(full_size, masks, boxes)
        runs = contestants[OURS]()
        for number, each in enumerate(contestants["full-size pictures"]()):
            drawn = np.repeat(np.arange(len(runs.of(number))) % 2, runs.of(number)).reshape(WIDTH, HEIGHT).T
            assert np.array_equal(coco_mask.decode(each), drawn), f"mask {number}: another"
    return contestants


def main() -> None:
    """Check, time, print; save on request."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save", action="store_true", help="append the results to bench/results/coco_ap.jsonl")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--pictures", type=int, default=5000)
    arguments = parser.parse_args()
    if host is None:
        raise SystemExit("airank_fast._host: must be built, got none (python setup.py build_ext --inplace)")
    if arguments.save and not harness.wait_until_idle():
        parser.exit(1, "the machine is busy: nothing was measured\n")
    torch.set_num_threads(1)
    small, whole = (made_up(number) for number in (max(1, arguments.pictures // 20), arguments.pictures))
    facts = {"num_pictures": arguments.pictures, "num_detections": FOUND * arguments.pictures, "threads": 1}
    for kind, what in (("box", "boxes"), ("mask", "masks")):
        contestants = scorers(*small, kind)
        values = contestants[OURS]()
        for name, function in contestants.items():
            theirs = function()
            worst = max(abs(values[key] - theirs[key]) for key in values if key.startswith(kind))
            assert worst <= 1e-9, f"{name}: other values, {worst} apart"
        contestants = scorers(*whole, kind)
        case = f"AP of {what}, {arguments.pictures:,} pictures, {FOUND} detections each"
        report(arguments, case, contestants, facts, arguments.rounds, 0)
    report(arguments, f"{FOUND} masks to run lengths, {WIDTH} x {HEIGHT}", pasting(), facts, 21, 3)


def report(
    arguments: argparse.Namespace, case: str, contestants: dict, facts: dict, rounds: int, num_warm_up: int
) -> None:
    """Time and print one case; save it on request."""
    times = harness.time_rounds(contestants, num_rounds=rounds, num_warm_up=num_warm_up)
    print(harness.as_text(case, times, OURS), flush=True)
    if arguments.save:
        harness.save("coco_ap", case, times, OURS, **facts)


if __name__ == "__main__":
    main()
