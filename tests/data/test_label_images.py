"""Lists and Cityscapes' trees of pictures with label images: classes, crops, and every kind of bad input."""

from __future__ import annotations

import struct
import zlib
from functools import partial
from itertools import islice

import numpy as np
import pytest
import torch
from data.label_files import CLASSES, pixels, write_list, write_tree
from PIL import Image

from airank_fast.data.host import host
from airank_fast.data.images.geometry import scaled_crop
from airank_fast.data.images.label_images import read_pairs
from airank_fast.data.images.place import Place
from airank_fast.data.images.segmentation_reader import PADDING, Crops, SegmentationReader, prefetch
from airank_fast.data.images.workers import Broken
from airank_fast.data.sampling import TrainStream
from airank_fast.errors import UserError

CPU = torch.device("cpu")


def test_a_list_gives_pictures_and_classes_as_they_are(tmp_path):
    pairs, corrupt = read_pairs(write_list(tmp_path, 3), "train", CLASSES)
    assert (len(pairs), corrupt) == (3, [])
    for number in range(3):
        for found, expected in zip(pairs.read(number), pixels(number), strict=True):
            assert np.array_equal(found, expected)


@pytest.mark.parametrize("content", ["\ufefftrain/0.png\ttrain/0_labels.png\r\n", "train/0.png train/0_labels.png"])
def test_the_forms_of_a_list(content, tmp_path):
    path = write_list(tmp_path, 1)
    path.write_bytes(content.encode())
    assert read_pairs(path, "train", CLASSES)[0].labels == [str(tmp_path / "train/0_labels.png")]


def test_cityscapes_label_ids_are_mapped_to_the_19_classes(tmp_path):
    """By the table of cityscapesScripts' labels.py: (name, id, trainId) of the classes that are evaluated."""
    table = "road 7 0, sidewalk 8 1, building 11 2, wall 12 3, fence 13 4, pole 17 5, traffic-light 19 6, "
    table += "traffic-sign 20 7, vegetation 21 8, terrain 22 9, sky 23 10, person 24 11, rider 25 12, car 26 13, "
    table += "truck 27 14, bus 28 15, train 31 16, motorcycle 32 17, bicycle 33 18"
    classes = {int(label): int(train) for _, label, train in (row.split() for row in table.split(", "))}
    ids_of = write_tree(tmp_path)
    for side, number in (("train", 5), ("val", 2)):
        pairs, _ = read_pairs(tmp_path, side, 19)
        assert len(pairs) == number
        for index, path in enumerate(pairs.pictures):
            ids = ids_of[path.rsplit("/", 1)[1].removesuffix("_leftImg8bit.png")]
            expected = np.vectorize(lambda label: classes.get(label, 255))(ids)
            assert np.array_equal(pairs.read(index)[1], expected)
    assert len(classes) == 19


def test_label_ids_have_19_classes(tmp_path):
    write_tree(tmp_path)
    ids = "gtFine/train/ulm/ulm_000000_000019_gtFine_labelIds.png"
    (tmp_path / "list.txt").write_text(f"leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png\t{ids}\n")
    for path in (tmp_path, tmp_path / "list.txt"):
        with pytest.raises(UserError, match="--num-classes: must be at least 19 for Cityscapes' label ids, got 18"):
            read_pairs(path, "train", 18)
        assert len(read_pairs(path, "train", 20)[0]) in (1, 5)


def grey(path, value, bits=8, side=(40, 60)):
    """A grey PNG of one level, of which Pillow writes no 2 and 4 bits."""
    height, width = side
    row = b"\0" + int(f"{value:0{bits}b}" * width, 2).to_bytes(width * bits // 8, "big")
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(row * height)),
        (b"IEND", b""),
    ]
    parts = (struct.pack(">I", len(c)) + kind + c + struct.pack(">I", zlib.crc32(kind + c)) for kind, c in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def palette(path):
    image = Image.fromarray(np.zeros((40, 60), np.uint8)).convert("P")
    image.putpalette([0, 0, 0] * 200)
    image.save(path)


def another_id(path):
    classes = pixels(1)[1]
    classes[2, 7] = CLASSES
    Image.fromarray(classes).save(path)


FORM = "must be an 8-bit grey PNG of labels"
BAD_LABELS = {
    "another size": (
        lambda path: Image.fromarray(pixels(1)[1][:30]).save(path),
        "must be a label image of its picture's size, 60 x 40",
        "60 x 30",
    ),
    "another id": (another_id, "must be a label image of ids 0 to 4 or 255", "5 in row 2, column 7"),
    "16 bits": (lambda path: grey(path, 1, 16), FORM, "16-bit grey"),
    "4 bits": (lambda path: grey(path, 1, 4), FORM, "4-bit grey"),
    "a palette": (palette, FORM, "8-bit palette"),
    "colour": (lambda path: Image.fromarray(pixels(1)[0]).save(path), FORM, "8-bit RGB"),
    "a JPEG": (lambda path: Image.fromarray(pixels(1)[1]).save(path, "JPEG"), FORM, "no PNG file"),
    "a part": (lambda path: path.write_bytes(path.read_bytes()[:100]), FORM, ""),
    "nothing": (lambda path: path.write_bytes(b""), FORM, "the file is empty"),
}


@pytest.mark.parametrize("name", BAD_LABELS)
def test_a_bad_label_image_is_named_or_left_out_with_its_picture(name, tmp_path):
    spoil, required, got = BAD_LABELS[name]
    path = write_list(tmp_path, 3)
    labels = tmp_path / "train/1_labels.png"
    spoil(labels)
    pairs, _ = read_pairs(path, "train", CLASSES)
    broken = pairs.read(1)
    assert isinstance(broken, Broken)
    assert (broken.path, f"must be {broken.what}") == (str(labels), required)
    assert got in broken.why
    assert "\n" not in broken.why
    left, corrupt = read_pairs(path, "train", CLASSES, skip_corrupt=True, num_threads=2)
    assert [picture.rsplit("/", 1)[1] for picture in left.pictures] == ["0.png", "2.png"]
    assert corrupt == [(str(labels), f"{required}, got {broken.why}")]


def test_levels_of_label_images_are_read_as_they_are_written(tmp_path):
    path = write_list(tmp_path, 1)
    grey(tmp_path / "train/0_labels.png", 3)
    assert (read_pairs(path, "train", CLASSES)[0].read(0)[1] == 3).all()


BAD_LINES = {
    "one column": ("train/1.png", "must be a line PICTURE TAB LABELS, got 1 columns"),
    "three columns": ("a\tb\tc", "must be a line PICTURE TAB LABELS, got 3 columns"),
    "an empty line": ("", "must be a line PICTURE TAB LABELS, got 1 columns"),
    "a missing picture": ("train/9.png\ttrain/1_labels.png", "must be a line with the paths of two files, got "),
    "missing labels": ("train/1.png\ttrain/9_labels.png", "must be a line with the paths of two files, got "),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_of_a_list_is_named_or_left_out(name, tmp_path):
    line, message = BAD_LINES[name]
    path = write_list(tmp_path, 3)
    rows = path.read_text().splitlines()
    path.write_text("\n".join([rows[0], line, *rows[1:]]))
    with pytest.raises(UserError) as error:
        read_pairs(path, "train", CLASSES)
    assert str(error.value).startswith(f"{path}, line 2: {message}")
    pairs, corrupt = read_pairs(path, "train", CLASSES, skip_corrupt=True)
    assert len(pairs) == 3
    assert [where for where, _ in corrupt] == [f"{path}, line 2"]
    assert corrupt[0][1].startswith(message)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("gtFine/train/ulm/ulm_000001_000019_gtFine_labelIds.png", "must have a label image, got none at "),
        ("leftImg8bit/train/ulm/ulm_000001_000019_leftImg8bit.png", "must have a picture, got none at "),
    ],
)
def test_a_picture_without_labels_and_labels_without_a_picture(file, message, tmp_path):
    write_tree(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(UserError) as error:
        read_pairs(tmp_path, "train", 19)
    assert f"{message}{tmp_path / file}" in str(error.value)
    pairs, corrupt = read_pairs(tmp_path, "train", 19, skip_corrupt=True)
    assert (len(pairs), len(corrupt)) == (4, 1)


def test_paths_that_are_no_data_set(tmp_path):
    cases = [(tmp_path / "nowhere", "no such path"), (tmp_path, "leftImg8bit/train, which is no folder")]
    for path, got in cases:
        with pytest.raises(UserError, match=r"must be Cityscapes' tree with .* or a list of lines") as error:
            read_pairs(path, "train", 19)
        assert str(error.value).endswith(got)
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    with pytest.raises(UserError, match="must be a list of lines PICTURE TAB LABELS, got an empty file"):
        read_pairs(empty, "train", 19)
    write_tree(tmp_path / "tree", [("train", "ulm", 1), ("val", "ulm", 0)])
    with pytest.raises(UserError, match="with a picture and label image that can be read, got none for val"):
        read_pairs(tmp_path / "tree", "val", 19)


# -- crops -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.3, 0.5, 1.0, 1.7, 2.0])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_crop_scales_picture_and_labels_alike(scale, mirrored):
    """Colours are classes, so that the labels of a crop can be read from its picture, away from edges."""
    picture, classes = pixels(3)
    full = np.round((picture[:, :, 0]) / 50.0 - 0.1).astype(int)
    crop = scaled_crop((40, 60), (32, 48), scale, np.array([0.4, 0.9]), mirrored)
    out, labels = np.zeros((32, 48, 3), np.uint8), np.full((32, 48), 255, np.uint8)
    crop.draw(picture, out)
    crop.draw_nearest(full.astype(np.uint8), labels)
    filled = labels[: crop.to_height, : crop.to_width]
    assert (labels[crop.to_height :] == 255).all()
    assert (labels[:, crop.to_width :] == 255).all()
    assert (crop.to_height, crop.to_width) == (min(32, round(40 * scale)), min(48, round(60 * scale)))
    read = np.round(out[: crop.to_height, : crop.to_width, 0] / 50.0 - 0.1)
    assert (read == filled).mean() > (0.98 if scale == 1 else 0.7)
    assert classes.shape == full.shape


def test_a_mirrored_crop_is_the_mirror_image():
    picture, classes = pixels(4)
    offset = np.array([0.5, 0.25])
    found = []
    for mirrored in (False, True):
        crop = scaled_crop((40, 60), (32, 48), 1.3, offset, mirrored)
        out, labels = np.zeros((32, 48, 3), np.uint8), np.zeros((32, 48), np.uint8)
        crop.draw(picture, out)
        crop.draw_nearest(classes, labels)
        found.append((out, labels))
    for plain, mirror in zip(*found, strict=True):
        assert np.array_equal(plain[:, ::-1], mirror)


def test_a_crop_is_read_with_the_rows_above_its_bottom_alone(tmp_path):
    pairs, _ = read_pairs(write_list(tmp_path, 2), "train", CLASSES)
    crop_of = partial(scaled_crop, crop=(8, 16), scale=1.0, offset=np.array([0.3, 0.5]), mirrored=False)
    picture, classes, crop = pairs.read_crop(1, crop_of)
    assert crop == crop_of((40, 60))
    assert crop.bottom == 17
    assert len(picture) == len(classes) == (40 if host is None else 17)
    for found, expected in zip((picture, classes), pixels(1), strict=True):
        assert np.array_equal(found, expected[: len(found)])


def reader_of(tmp_path, crops, *, rank=0, world_size=1, batch=4):
    train, _ = read_pairs(write_list(tmp_path / f"{rank}of{world_size}", 6), "train", CLASSES)
    stream = TrainStream(
        6, 7, batch_size_local=batch // world_size, global_batch_size=batch, rank=rank, world_size=world_size
    )
    return SegmentationReader(train, train, stream, Place(2, rank, world_size, CPU, 0), crops)


def test_batches_are_functions_of_seed_and_step_on_any_number_of_ranks(tmp_path):
    crops = Crops(32, 64, 0.5, 2.0, True)
    alone = list(islice(prefetch(reader_of(tmp_path, crops).train(), CPU, torch.float32), 3))
    later = next(prefetch(reader_of(tmp_path / "later", crops).train(2), CPU, torch.float32))
    assert torch.equal(alone[2].images, later.images)
    ranks = [
        list(islice(prefetch(reader_of(tmp_path, crops, rank=rank, world_size=2).train(), CPU, torch.float32), 3))
        for rank in range(2)
    ]
    for whole, *parts in zip(alone, *ranks, strict=True):
        assert torch.equal(whole.images, torch.cat([part.images for part in parts]))
        assert torch.equal(whole.labels, torch.cat([part.labels for part in parts]))
    batch = alone[0]
    assert (batch.images.shape, batch.labels.shape, batch.labels.dtype) == ((4, 3, 32, 64), (4, 32, 64), torch.uint8)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_padding_is_about_zero_and_ignored(tmp_path):
    (batch,) = islice(prefetch(reader_of(tmp_path, Crops(50, 70, 1.0, 1.0, False)).train(), CPU, torch.float32), 1)
    assert (batch.labels[:, 40:] == 255).all()
    assert (batch.labels[:, :, 60:] == 255).all()
    assert batch.images[:, :, 40:].abs().max() < 0.01
    assert PADDING == (124, 116, 104)


def test_pictures_are_evaluated_whole_each_once(tmp_path):
    shares = [reader_of(tmp_path, Crops(8, 8, 1, 1, True), rank=rank, world_size=2).evaluate() for rank in range(2)]
    labels = np.concatenate([labels.numpy() for share in shares for _, labels in share])
    assert np.array_equal(labels, np.stack([pixels(number)[1] for number in range(6)]))


def test_a_batch_of_pictures_of_two_sizes(tmp_path):
    small, large = write_list(tmp_path, 1, "small"), write_list(tmp_path, 1, "large", height=50)
    path = tmp_path / "both.txt"
    path.write_text(small.read_text() + large.read_text())
    pairs, _ = read_pairs(path, "val", CLASSES)
    stream = TrainStream(2, 7, batch_size_local=1, global_batch_size=1, rank=0, world_size=1)
    for batch, expected in ((1, [40, 50]), (2, None)):
        reader = SegmentationReader(pairs, pairs, stream, Place(batch, 0, 1, CPU, 0), Crops(8, 8, 1, 1, False))
        if expected:
            assert [labels.shape[1] for _, labels in reader.evaluate()] == expected
        else:
            with pytest.raises(UserError, match=r"0.png: must be of 60 x 40 pixels, .* got 60 x 50"):
                list(reader.evaluate())
