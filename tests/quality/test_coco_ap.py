"""COCO's AP equals pycocotools' on random sets with crowds, ties, empty pictures and too many detections; on ranks."""

from __future__ import annotations

import contextlib
import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from airank_fast.data.images import run_lengths
from airank_fast.data.images.run_lengths import RunLengths, decode, draw_polygons, encode, pack_polygons
from airank_fast.engine.distributed import World
from airank_fast.errors import UserError
from airank_fast.quality import coco_match
from airank_fast.quality.coco_ap import MOST, CocoAP, Detections, Truth

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools'

ALONE = World(0, 1, 0, 1, torch.device("cpu"))
SIZE = 40, 50
NAMES = "ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"  # as COCOeval.stats[:6]


@pytest.fixture(params=["host", "python"])
def either(request, monkeypatch):
    """csrc/host/masks.h, or the Python beside it."""
    if request.param == "python":
        monkeypatch.setattr(coco_match, "host", None)
        monkeypatch.setattr(run_lengths, "host", None)
    elif coco_match.host is None:
        pytest.skip("airank_fast._host is not built")


def take(runs: RunLengths, first: int, last: int) -> RunLengths:
    """Masks first ... last - 1."""
    offsets = runs.offsets[first : last + 1]
    return RunLengths(runs.counts[offsets[0] : offsets[-1]], offsets - offsets[0], runs.sizes[first:last])


def random_set(seed: int, num_pictures: int, most: int, scale: int):
    """Objects and detections near them: in `scale` times SIZE pixels, with crowds, ties of scores, empty pictures.

    Some detections equal their object; some objects and detections are twice there.
    """
    rng = np.random.default_rng(seed)
    height, width = (scale * side for side in SIZE)

    def shapes(boxes):
        triangles = rng.random(len(boxes)) < 0.5
        low, high = boxes[:, :2], boxes[:, 2:]
        polygons = []
        for triangle, (x1, y1), (x2, y2) in zip(triangles, low, high, strict=True):
            corners = [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]
            polygons.append([np.array(corners[:3] if triangle else corners)])
        return draw_polygons(pack_polygons(polygons), np.tile([height, width], (len(boxes), 1)))

    truth, found = [], []
    for picture in range(num_pictures):
        num = int(rng.integers(0, 6)) if picture % 4 else 0
        corners = np.sort(rng.uniform(0, [width, height], (num, 2, 2)), 1)
        corners[:, 1] += 1
        boxes = corners.reshape(-1, 4).round(1)
        boxes = np.concatenate([boxes, boxes[:1]])
        labels = rng.choice(3, len(boxes), p=(0.6, 0.2, 0.2))
        truth.append((np.full(len(boxes), picture), boxes, labels, rng.random(len(boxes)) < 0.2))
        more = most if most > MOST else int(rng.integers(0, most))
        near = boxes[rng.integers(0, len(boxes), more)] if len(boxes) else np.tile([3.0, 4, 20, 30], (more, 1))
        near = near + rng.normal(0, scale * rng.choice([0, 0.5, 3]), (more, 4)).round(1)
        near = np.concatenate([near[:, :2].clip(0), np.maximum(near[:, 2:], near[:, :2].clip(0) + 0.5)], 1)
        scores = rng.integers(0, 8, more) / 8 if picture % 2 else rng.random(more)
        its = near.astype(np.float32)
        its_labels = rng.choice(4, more, p=(0.7, 0.1, 0.1, 0.1))
        found.append(Detections(its, scores.astype(np.float32), its_labels, shapes(its.astype(float))))
    pictures, boxes, labels, crowd = (np.concatenate(column) for column in zip(*truth, strict=True))
    masks = shapes(boxes)
    areas = run_lengths.areas(masks) * rng.uniform(0.9, 1.1, len(boxes))
    xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
    return Truth(num_pictures, pictures, xywh, labels, areas, crowd, masks), found


def by_pycocotools(truth: Truth, found: list[Detections]) -> dict[str, float]:
    """The same metrics by COCOeval."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def rle(runs, number):
        counts = runs.of(number).tolist()
        return {"size": runs.sizes[number].tolist(), "counts": counts}

    assert truth.masks is not None
    columns = zip(truth.pictures, truth.boxes, truth.labels, truth.areas, truth.crowd, strict=True)
    annotations = [
        {
            "id": 1 + number,
            "image_id": int(picture),
            "category_id": int(label),
            "bbox": box.tolist(),
            "area": float(area),
            "iscrowd": int(crowd),
            "segmentation": rle(truth.masks, number),
        }
        for number, (picture, box, label, area, crowd) in enumerate(columns)
    ]
    height, width = truth.masks.sizes[0].tolist()
    values = {}
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": n, "height": height, "width": width} for n in range(truth.num_pictures)],
            "annotations": annotations,
            "categories": [{"id": n} for n in range(5)],
        }
        coco.createIndex()
        for kind, key in (("box", "bbox"), ("mask", "segm")):
            results = []
            for picture, its in enumerate(found):
                for row, box in enumerate(its.boxes.astype(float)):
                    result = {"image_id": picture, "category_id": int(its.labels[row]), "score": float(its.scores[row])}
                    if kind == "box":
                        result["bbox"] = [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()]
                    else:
                        result["segmentation"] = compressed(rle(its.masks, row))
                    results.append(result)
            evaluation = COCOeval(coco, coco.loadRes(results), key)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            values |= {f"{kind}_{name}": value for name, value in zip(NAMES, evaluation.stats, strict=False)}
    return {name: float(value) for name, value in values.items() if value >= 0}


def compressed(rle):
    from pycocotools import mask

    return mask.frPyObjects(rle, *rle["size"])


def meter_of(truth, found, parts):
    meter = CocoAP(truth)
    for part in parts:
        meter.update([found[number] for number in part], SimpleNamespace(ids=tuple(part)))
    return meter


@pytest.mark.parametrize(
    ("seed", "num_pictures", "most", "scale", "sizes"),
    [(0, 30, 12, 1, "small"), (1, 12, 12, 8, "medium large"), (2, 3, 180, 3, "small")],
)
def test_equals_pycocotools(either, seed, num_pictures, most, scale, sizes):
    """Of small, medium and large objects; with more than 100 detections of a class in a picture."""
    pytest.importorskip("pycocotools")
    truth, found = random_set(seed, num_pictures, most, scale)
    counts = [np.bincount(each.labels).max(initial=0) for each in found]
    assert (max(counts) > MOST) == (most > MOST)
    values = meter_of(truth, found, [range(num_pictures)]).values(ALONE)
    expected = by_pycocotools(truth, found)
    assert values == pytest.approx(expected, abs=1e-9, rel=0)
    assert 0.02 < values["box_ap"] < 0.98
    assert {f"{kind}_ap_{size}" for kind in ("box", "mask") for size in sizes.split()} <= values.keys()


def test_ranks_batches_and_repeated_pictures_do_not_matter():
    truth, found = random_set(3, 20, 12, 2)
    whole = meter_of(truth, found, [range(20)])
    expected = whole.values(ALONE)
    parts = [[19, 3], [0], [], [*range(4, 12)]], [[1, 2, 3], [*range(12, 19)]]
    ranks = [meter_of(truth, found, [part for part in its if part]) for its in parts]
    gathered = []
    for meter in ranks:
        meter.values(SimpleNamespace(gather_objects=lambda mine: gathered.append(mine) or [whole_parts(whole)]))
    both = SimpleNamespace(gather_objects=lambda mine: gathered)
    assert all(meter.values(both) == expected for meter in ranks)


def whole_parts(meter):
    kept = []
    meter.values(SimpleNamespace(gather_objects=lambda mine: kept.append(mine) or kept))
    return kept[0]


def test_perfect_detections_and_none():
    truth, _ = random_set(4, 8, 2, 8)
    truth = truth._replace(crowd=np.zeros(len(truth.crowd), bool))
    corners = np.concatenate([truth.boxes[:, :2], truth.boxes[:, :2] + truth.boxes[:, 2:]], 1)
    found, nothing = [], []
    for picture in range(8):
        rows = np.flatnonzero(truth.pictures == picture)
        first, last = (rows[0], rows[-1] + 1) if len(rows) else (0, 0)
        scores = np.ones(len(rows), np.float32)
        found.append(Detections(corners[rows], scores, truth.labels[rows], take(truth.masks, first, last)))
        nothing.append(Detections(corners[:0], scores[:0], truth.labels[:0], take(truth.masks, 0, 0)))
    values = meter_of(truth, found, [range(8)]).values(ALONE)
    assert values["box_ap"] == values["mask_ap"] == pytest.approx(1)
    assert set(meter_of(truth, nothing, [range(8)]).values(ALONE).values()) == {0.0}
    boxes_only = [each._replace(masks=None) for each in found]
    values = meter_of(truth._replace(masks=None), boxes_only, [range(8)]).values(ALONE)
    assert values["box_ap"] == pytest.approx(1)
    assert "mask_ap" not in values


def test_a_set_without_objects_and_a_part_of_the_set():
    truth, found = random_set(5, 4, 6, 1)
    with pytest.raises(UserError, match="evaluation: must be of all 4 pictures, got 3"):
        meter_of(truth, found, [range(3)]).values(ALONE)
    with pytest.raises(UserError, match="evaluation set: must be one with an object that counts, got none"):
        meter_of(truth._replace(crowd=np.ones(len(truth.crowd), bool)), found, [range(4)]).values(ALONE)


def test_polygons_are_drawn_as_by_pycocotools(either):
    """Concave and crossing ones, beyond the picture, two of one object, corners on pixels' borders and middles."""
    mask = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    for number in range(60):
        count = 1 + number % 2
        polygons = [rng.uniform(-8, 60, (int(rng.integers(3, 9)), 2)).round(number % 3) for _ in range(count)]
        drawn = draw_polygons(pack_polygons([polygons]), np.array([SIZE]))
        expected = mask.decode(mask.merge(mask.frPyObjects([each.ravel().tolist() for each in polygons], *SIZE)))
        assert np.array_equal(decode(drawn, 0), expected.astype(bool))


def test_masks_are_pasted_as_by_torchvision(either):
    """Its recipe in plain torch, over a whole picture: a ring of zeros, a larger box, bilinear, above one half."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(40, 14, 14, generator=generator)
    corners = torch.rand(40, 2, 2, generator=generator).sort(1).values * torch.tensor([50.0, 40.0])
    boxes = corners.reshape(40, 4)
    boxes[:3] = torch.tensor([[0.0, 0, 50, 40], [5, 5, 5.2, 5.2], [10, 0, 10.9, 40]])
    runs = run_lengths.paste_masks(masks.numpy(), boxes.numpy(), SIZE)
    padded = torch.nn.functional.pad(masks, (1, 1, 1, 1))
    for number, (mask, box) in enumerate(zip(padded, boxes, strict=True)):
        half, middle = (box[2:] - box[:2]) * 0.5 * (16 / 14), (box[2:] + box[:2]) * 0.5
        x1, y1, x2, y2 = torch.cat([middle - half, middle + half]).to(torch.int64).tolist()
        around = torch.zeros(SIZE[0] + 100, SIZE[1] + 100)
        shape = y2 - y1 + 1, x2 - x1 + 1
        stretched = torch.nn.functional.interpolate(mask[None, None], shape, mode="bilinear", align_corners=False)
        around[y1 + 50 : y1 + 50 + shape[0], x1 + 50 : x1 + 50 + shape[1]] = stretched[0, 0]
        assert np.array_equal(decode(runs, number), (around[50:-50, 50:-50] > 0.5).numpy())


def test_run_lengths_and_their_compressed_form():
    mask = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(1)
    pixels = np.repeat(rng.random((6, *SIZE)) < 0.5, 3, 1)
    pixels[0], pixels[1] = False, True
    runs = encode(pixels)
    assert np.array_equal(run_lengths.areas(runs), pixels.sum((1, 2)))
    for number, each in enumerate(pixels):
        assert np.array_equal(decode(runs, number), each)
        text = mask.encode(np.asfortranarray(each.astype(np.uint8)))["counts"].decode()
        assert np.array_equal(run_lengths.parse_counts(text), runs.of(number))
    assert all(run_lengths.parse_counts(text) is None for text in ("", "ab\x7f", "P", "é", "oooooooo0"))


@pytest.mark.parametrize("noisy", [False, True])
def test_outlines_cover_the_pixels(noisy):
    rng = np.random.default_rng(2)
    pixels = rng.random((3, *SIZE)) < (0.5 if noisy else 1)
    pixels[:, 10:20, 10:20] = False  # a hole
    runs = encode(pixels)
    polygons = pack_polygons([run_lengths.outlines(runs.of(number), SIZE[0]) for number in range(3)])
    drawn = draw_polygons(polygons, runs.sizes)
    assert np.array_equal(drawn.counts, runs.counts)
    assert not noisy or len(polygons.polygon_offsets) > 100
