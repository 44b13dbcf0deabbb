"""Batches of pictures with boxes and masks: every transform moves the picture, its boxes and polygons alike."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from data.coco_files import annotation, write_coco, write_digits
from PIL import Image

from airank_fast.data.images.coco import PICTURES
from airank_fast.data.images.coco_file import read_coco
from airank_fast.data.images.detection_batch import Window
from airank_fast.data.images.detection_reader import DetectionReader, prefetch
from airank_fast.data.images.object_layouts import Colours, Placed, Scaled, Stretched
from airank_fast.data.images.place import Place
from airank_fast.data.images.run_lengths import Polygons, decode, draw_polygons
from airank_fast.data.sampling import NUM_DRAWS, TrainStream, draws
from airank_fast.errors import UserError

CPU = torch.device("cpu")
PADDING = (9, 9, 9)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    root = write_digits(tmp_path_factory.mktemp("digits"), 8, 5)
    return read_coco(root, "train")[0].to_train_on(), read_coco(root, "val")[0]


def reader_of(train, val, layout, *, batch=4, masks=True, rank=0, ranks=1, workers=0):
    stream = TrainStream(len(train), 5, batch_size_local=batch, global_batch_size=4, rank=rank, world_size=ranks)
    place = Place(2, rank, ranks, CPU, workers)
    return DetectionReader(train, val, stream, place, layout, masks=masks, padding=PADDING)


def batches_of(reader, number, first_step=0):
    """The first training batches, pixels as levels from 0 to 255."""
    found = prefetch(reader.train(first_step), CPU, torch.float32, (0, 0, 0), (1 / 255,) * 3)
    taken = [next(found) for _ in range(number)]
    found.close()
    return taken


def mask_of(batch, number):
    """The pixels of an object, bool [H, W]."""
    polygons = Polygons(batch.points.double().numpy(), batch.polygon_offsets.numpy(), batch.object_offsets.numpy())
    size = np.array([batch.images.shape[2:]])
    return decode(draw_polygons(polygons.take(np.array([number])), size), 0)


LAYOUTS = {
    "scaled": Scaled(120, 180),
    "stretched": Stretched(lambda step: 64, flip=False),
    "letterbox": Stretched(lambda step: 128, letterbox=True, jitter=0.3),
    "crop": Stretched(lambda step: 96, expand=2, crop=True),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_boxes_and_polygons_lie_on_the_digits(digits, layout):
    """Digits are bright on a dark ground: the mean inside a mask is far above that in the box around it."""
    batches = batches_of(reader_of(*digits, layout), 2)
    assert any(len(set(batch.windows)) > 1 for batch in batches) == (layout in list(LAYOUTS.values())[2:])
    num_whole = 0
    for batch in batches:
        first = 0
        for number, (image, split) in enumerate(zip(batch.images, batch.splits, strict=True)):
            assert image.min() >= 0
            grey = image.mean(0).numpy()
            for row in range(first, first + split):
                mask, box, window = mask_of(batch, row), batch.boxes[row].tolist(), batch.windows[number]
                shown = np.zeros_like(mask)
                shown[window.top : window.top + window.height, window.left : window.left + window.width] = True
                if not mask[~shown].any():
                    ys, xs = mask.nonzero()
                    extent = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
                    assert np.abs(np.array(extent) - box).max() <= 2
                    num_whole += 1
                mask &= shown
                x1, y1, x2, y2 = (round(value) for value in box)
                around = ~mask[y1:y2, x1:x2]
                assert grey[mask].mean() > 1.4 * grey[y1:y2, x1:x2][around].mean()
                assert window.left - 0.01 <= box[0] < box[2] <= window.left + window.width + 0.01
            first += split
        assert first == len(batch.boxes) == len(batch.labels) == len(batch.crowd) == len(batch.object_offsets) - 1
        assert not batch.crowd.any()
    assert num_whole >= 8


def test_padding_windows_and_sizes(tmp_path):
    """Mask R-CNN's: the shorter side 50, the longer at most 70; YOLOv3's are stretched, or in the middle."""
    pictures = [(1, "a.png", 40, 20), (2, "b.png", 20, 20)]
    write_coco(tmp_path, "val", pictures, [annotation(1, 1, [5, 10, 10, 20])])
    coco, _ = read_coco(tmp_path, "val")

    def evaluated(layout):
        stream = TrainStream(2, 0, batch_size_local=1, global_batch_size=1, rank=0, world_size=1)
        reader = DetectionReader(coco, coco, stream, Place(2, 0, 1, CPU, 0), layout, masks=True, padding=PADDING)
        (batch,) = prefetch(reader.evaluate(), CPU, torch.float32, (0, 0, 0), (1 / 255,) * 3)
        assert (batch.ids, batch.sizes, batch.splits) == ((0, 1), ((40, 20), (20, 20)), (1, 0))
        assert batch.positions.tolist() == [0, 0]
        assert batch.in_picture(batch.boxes, 0).numpy() == pytest.approx(np.array([[5, 10, 15, 30]]), abs=1e-4)
        return batch

    batch = evaluated(Scaled(50, 70))
    assert batch.images.shape == (2, 3, 96, 64)
    assert batch.windows == (Window(0, 0, 70, 35), Window(0, 0, 50, 50))
    assert batch.boxes.tolist() == [[8.75, 17.5, 26.25, 52.5]]
    assert batch.images[1, 0, :50, :50].unique().tolist() == [2]
    assert batch.images[1, 0, 50:].unique().tolist() == batch.images[1, 0, :, 50:].unique().tolist() == [9]
    batch = evaluated(Stretched(lambda step: 32 + 10**6 * step))
    assert batch.windows == (Window(0, 0, 32, 32),) * 2
    assert batch.boxes.tolist() == [[8, 8, 24, 24]]
    batch = evaluated(Stretched(lambda step: 32, letterbox=True))
    assert batch.windows == (Window(0, 8, 32, 16), Window(0, 0, 32, 32))
    assert batch.boxes.tolist() == [[12, 8, 20, 24]]
    assert batch.images[0, 0, :, [0, 7, 24, 31]].unique().tolist() == [9]


def test_a_batch_depends_on_its_step_and_rows_alone(digits):
    """Resumed, by a worker, on two ranks: the same batches; the size is the step's."""
    layout = Stretched(lambda step: 32 * (1 + step % 3), expand=2, crop=True, colours=Colours())
    whole = batches_of(reader_of(*digits, layout), 3)
    assert [batch.images.shape[-1] for batch in whole] == [32, 64, 96]
    assert [batch.positions.tolist() for batch in whole] == [[*range(4)], [*range(4, 8)], [*range(8, 12)]]
    (again,) = batches_of(reader_of(*digits, layout, workers=1), 1, first_step=2)
    assert all(torch.equal(value, again.tensors()[name]) for name, value in whole[2].tensors().items())
    halves = [batches_of(reader_of(*digits, layout, batch=2, rank=rank, ranks=2), 2)[1] for rank in range(2)]
    assert torch.equal(torch.cat([half.images for half in halves]), whole[1].images)
    assert torch.equal(torch.cat([half.boxes for half in halves]), whole[1].boxes)
    assert halves[0].splits + halves[1].splits == whole[1].splits


def test_evaluation_has_each_picture_once_with_crowds(tmp_path, digits):
    train, val = digits
    batches = [
        batch
        for rank in range(2)
        for batch in prefetch(
            reader_of(train, val, Scaled(96, 96), batch=2, rank=rank, ranks=2, masks=False).evaluate(),
            CPU,
            torch.bfloat16,
            (0, 0, 0),
            (1, 1, 1),
        )
    ]
    assert [number for batch in batches for number in batch.ids] == [*range(5)]
    assert sum(batch.num_samples for batch in batches) == 5
    assert sum(len(batch.boxes) for batch in batches) == len(val.labels)
    assert all(len(batch.points) == 0 and batch.images.dtype == torch.bfloat16 for batch in batches)
    crowd = {"size": [20, 20], "counts": [0, 30, 370]}
    annotations = [annotation(1, 1, [0, 0, 2, 20], iscrowd=1, segmentation=crowd), annotation(2, 1, [5, 5, 4, 4])]
    write_coco(tmp_path, "val", [(1, "a.png", 20, 20)], annotations)
    coco, _ = read_coco(tmp_path, "val")
    stream = TrainStream(1, 0, batch_size_local=1, global_batch_size=1, rank=0, world_size=1)
    reader = DetectionReader(coco.to_train_on(), coco, stream, Place(1, 0, 1, CPU, 0), Scaled(40, 40), masks=True)
    (batch,) = prefetch(reader.evaluate(), CPU, torch.float32, (0, 0, 0), (1, 1, 1))
    assert batch.crowd.tolist() == [True, False]
    assert mask_of(batch, 0).sum() == 4 * 30
    (batch,) = batches_of(reader, 1)
    assert batch.crowd.tolist() == [False]


def test_random_windows_and_mirrors():
    """Over many draws: half are mirrored, windows are in their limits and keep the centre of an object."""
    size, boxes = (60, 100), np.array([[10.0, 10, 30, 50], [60, 20, 70, 30]])
    u = draws(0, 0, 200)
    assert u.shape[1] == NUM_DRAWS
    placed = [Scaled(60, 100).place(size, boxes, row, 0) for row in u]
    assert 80 < sum(each.mirror > 0 for each in placed) < 120
    expanded = [Stretched(lambda step: 100, expand=4).place(size, boxes, row, 0) for row in u]
    shrunk = [each for each in expanded if each.target.width < 100]
    assert 75 < len(shrunk) < 125
    assert min(each.target.width for each in shrunk) in range(24, 30)
    assert all(each.source == Window(0, 0, *size) for each in expanded)
    cropped = [Stretched(lambda step: 100, crop=True).place(size, boxes, row, 0) for row in u]
    parts = [each.source.height * each.source.width / 6000 for each in cropped]
    assert 1 / 8 < np.mean([part == 1 for part in parts]) < 5 / 7  # also where no window overlaps so much
    assert min(parts) < 0.2
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    for each in cropped:
        window, moved = each.window, each.points(centres) - [each.window.left, each.window.top]
        assert ((moved >= 0) & (moved <= [window.width, window.height])).all(1).any()
        ratio = each.source.width / each.source.height / (100 / 60)
        assert 0.45 < ratio < 2.2
    moved = [Stretched(lambda step: 100, jitter=0.3).place(size, boxes, row, 0) for row in u]
    assert min(each.source.width for each in moved) < 60
    assert min(each.target.width for each in moved) < 80


def test_colours_change_in_their_limits():
    image = np.full((4, 4, 3), (120, 60, 200), np.uint8)
    u = draws(1, 0, 200)
    changed = []
    for row in u:
        copy = image.copy()
        Stretched(lambda step: 4, colours=Colours()).recolour(copy, row)
        changed.append(copy[0, 0].astype(int))
    same = [np.abs(each - image[0, 0]).max() <= 1 for each in changed]
    assert 0.02 < np.mean(same) < 0.12  # 1 / 16
    only = Stretched(lambda step: 4, colours=Colours(brightness=32, contrast=0, saturation=0, hue=0))
    shifts = []
    for row in u:
        copy = image.copy()
        only.recolour(copy, row)
        shifts.append(copy[0, 0].astype(int) - image[0, 0])
    assert all(abs(shift - shift[0]).max() <= 1 and abs(shift[0]) <= 33 for shift in shifts)
    assert min(shift[0] for shift in shifts) < -25
    grey = np.full((2, 2, 3), 90, np.uint8)
    Stretched(lambda step: 4, colours=Colours(0, 0, 0.5, 18)).recolour(grey, u[3])
    assert np.abs(grey.astype(int) - 90).max() <= 1  # grey has no hue


def test_a_place_maps_its_windows_corners():
    placed = Placed(Window(10, 20, 30, 40), Window(5, 6, 60, 120), mirror=200)
    assert placed.window == Window(5, 200 - 6 - 120, 60, 120)
    assert placed.points(np.array([[20.0, 10], [60, 40]])).tolist() == [[194, 5], [74, 65]]
    assert placed.boxes(np.array([[20.0, 10, 60, 40]])).tolist() == [[74, 5, 194, 65]]
    assert math.isclose(placed.boxes(np.array([[30.0, 10, 40, 20]]))[0, 2], 194 - 30)


def test_a_broken_picture_is_named(tmp_path):
    write_coco(tmp_path, "train", [(1, "a.png", 20, 30)], [annotation(1, 1, [1, 1, 5, 5])])
    train, _ = read_coco(tmp_path, "train")
    Image.fromarray(np.zeros((30, 20, 3), np.uint8)).save(tmp_path / PICTURES["train"] / "a.png")
    stream = TrainStream(1, 0, batch_size_local=1, global_batch_size=1, rank=0, world_size=1)
    reader = DetectionReader(train, train, stream, Place(1, 0, 1, CPU, 0), Scaled(20, 30), masks=False)
    with pytest.raises(UserError, match=r"30 x 20 pixels, as the annotations say, got .*a.png \(20 x 30\)"):
        next(prefetch(reader.train(), CPU, torch.float32, (0, 0, 0), (1, 1, 1)))
