"""Reading data sets in the form of COCO: what is read, and one line for each kind of bad input."""

from __future__ import annotations

import json

import numpy as np
import pytest
from data.coco_files import annotation, change, write_coco, write_digits
from PIL import Image

from airank_fast.data import json_arrays
from airank_fast.data.images import digit_coco, digit_objects
from airank_fast.data.images.coco import ANNOTATIONS, LARGEST, MOST_OBJECTS, PICTURES
from airank_fast.data.images.coco_file import ARRAYS, load, read_coco, save
from airank_fast.data.images.run_lengths import decode
from airank_fast.errors import UserError

PICTURE = (5, "b.png", 40, 60)
OTHERS = [(9, "c.png", 30, 20), (2, "a.png", 8, 8)]
CROWD = {"size": [40, 60], "counts": [40, 80, 40 * 60 - 120]}  # columns 1 and 2
ANNOTATIONS_OF_IT = [
    annotation(31, 9, [1, 2, 3, 4], category_id=3),
    annotation(30, 5, [10, 10, 20.5, 5]),
    annotation(12, 5, [1, 0, 2, 40], iscrowd=1, segmentation=CROWD),
]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits"))


def test_pictures_and_objects_are_in_the_order_of_ids(tmp_path):
    """Objects of a picture are in the order of the file; classes are numbered, crowds are there to evaluate."""
    write_coco(tmp_path, "val", [PICTURE, *OTHERS], ANNOTATIONS_OF_IT)
    coco, left_out = read_coco(tmp_path, "val")
    assert left_out == []
    assert coco.picture_ids.tolist() == [2, 5, 9]
    assert coco.names.tolist() == ["a.png", "b.png", "c.png"]
    assert coco.sizes.tolist() == [[8, 8], [40, 60], [30, 20]]
    assert coco.annotation_ids.tolist() == [30, 12, 31]
    assert [coco.objects_of(number) for number in range(3)] == [slice(0, 0), slice(0, 2), slice(2, 3)]
    assert coco.category_ids.tolist() == [1, 3]
    assert coco.labels.tolist() == [0, 0, 1]
    assert coco.boxes.tolist() == [[10, 10, 20.5, 5], [1, 0, 2, 40], [1, 2, 3, 4]]
    assert coco.areas.tolist() == [102.5, 80, 12]
    assert coco.crowd.tolist() == [False, True, False]
    assert coco.read(1).shape == (40, 60, 3)
    assert (coco.read(2) == 9).all()
    masks = coco.masks()
    assert decode(masks, 1).nonzero()[1].tolist() == [1, 2] * 40
    assert np.argwhere(decode(masks, 2))[[0, -1]].tolist() == [[2, 1], [5, 3]]
    train = coco.to_train_on()
    assert train.names.tolist() == ["b.png", "c.png"]
    assert train.annotation_ids.tolist() == [30, 31]
    assert train.outlines_of(1)[0][0].tolist() == [[1, 2], [4, 2], [4, 6], [1, 6]]
    assert train.checksum() != coco.checksum() == read_coco(tmp_path, "val")[0].checksum()


def test_digits_are_read_as_they_are_drawn(digits):
    coco, _ = read_coco(digits, "val")
    masks, number = coco.masks(), 0
    for picture in range(len(coco)):
        scene = digit_objects.scene(3, picture, held_out=True)
        assert np.array_equal(coco.read(picture), scene.picture)
        assert coco.labels[coco.objects_of(picture)].tolist() == [digit.label for digit in scene.digits]
        for mask, box in zip(digit_objects.masks(scene), digit_objects.boxes(scene), strict=True):
            assert np.array_equal(decode(masks, number), mask)
            x, y, width, height = coco.boxes[number]
            assert [x, y, x + width, y + height] == box.tolist()
            number += 1
    assert number == len(coco.labels) > 4


def test_the_embedded_set_is_written_once(tmp_path, monkeypatch):
    monkeypatch.setattr(digit_coco, "NUM_TRAIN", 2)
    monkeypatch.setattr(digit_coco, "NUM_HELD_OUT", 1)
    root = digit_coco.materialise(tmp_path)
    assert [len(read_coco(root, side)[0]) for side in PICTURES] == [2, 1]
    assert digit_coco.materialise(tmp_path) == root


def test_arrays_are_read_in_place_of_the_file(digits, tmp_path):
    """As long as the file is of the size that they were made of."""
    path, folder = digits / ANNOTATIONS["train"], digits / PICTURES["train"]
    coco, _ = read_coco(digits, "train")
    target = digits / ARRAYS / path.stem
    target.mkdir(parents=True)
    save(coco, [("where", "must be another, got this")], path, target)
    found = load(path, folder)
    assert found is not None
    assert found[0].checksum() == coco.checksum()
    content = path.read_bytes()
    path.write_bytes(b"x" * len(content))  # not read
    again, left_out = read_coco(digits, "train")
    assert again.checksum() == coco.checksum()
    assert left_out == [("where", "must be another, got this")]
    (target / "labels.npy").unlink()
    with pytest.raises(UserError, match=r"arrays/instances_train2017: must be what airank_fast.prepare wrote, got"):
        read_coco(digits, "train")
    path.write_bytes(content + b"\n")
    assert read_coco(digits, "train")[0].checksum() == coco.checksum()


BAD = {
    "no area": (
        {"bbox": [3, 3, 0, 5]},
        r"annotation 30: must be a box \(.*\) with an area, got \[3.0, 3.0, 0.0, 5.0\]",
    ),
    "corners": (
        {"bbox": [20, 10, 50, 30]},
        r"annotation 30: must be a box \(x, y, width, height\) in its picture, got \[20.0, 10.0, 50.0, 30.0\] in "
        r"60 x 40 pixels, which would be in it as \(x1, y1, x2, y2\)",
    ),
    "outside": (
        {"bbox": [-9, 10, 5, 5]},
        r"annotation 30: .*in its picture, got \[-9.0, 10.0, 5.0, 5.0\] in 60 x 40 pixels;",
    ),
    "nan": ({"bbox": [1, 2, float("nan"), 4]}, r"annotation 30: .*four finite numbers, got \[1, 2, NaN, 4\]"),
    "three numbers": ({"bbox": [1, 2, 3]}, r"annotation 30: .*four finite numbers, got \[1, 2, 3\]"),
    "text": ({"bbox": "1 2 3 4"}, r"annotation 30: .*four finite numbers, got 1 2 3 4"),
    "infinite area": ({"area": float("inf")}, "annotation 30: must be with a finite area of at least 0, got Infinity"),
    "area below 0": ({"area": -1}, "annotation 30: must be with a finite area of at least 0, got -1"),
    "sides below 0": ({"bbox": [9, 9, -3, 4]}, r"annotation 30: must be a box \(.*\) with an area, got \[9.0, 9.0, -3"),
    "two points": ({"segmentation": [[1, 1, 5, 5]]}, r"annotation 30: .*three or more points.*, got \[1, 1, 5, 5\]"),
    "nan in a polygon": (
        {"segmentation": [[1, 1, 5, 5, 9, float("nan")]]},
        r"annotation 30: .*three or more points.*, got \[1, 1, 5, 5, 9, NaN\]",
    ),
    "far polygon": (
        {"segmentation": [[1, 1, 5, 5, 9, -1e9]]},
        r"annotation 30: must be with polygons in its picture, got a coordinate of 1e\+09",
    ),
    "size of an RLE": (
        {"segmentation": {"size": [60, 40], "counts": [2300, 100]}},
        r"annotation 30: must be with an RLE of its picture's size \[height, width\], got \[60, 40\], not \[40, 60\]",
    ),
    "counts of an RLE": (
        {"segmentation": {"size": [40, 60], "counts": [7, 8]}},
        r"annotation 30: .*counts add up to its pixels, got size \[40, 60\] and 15 pixels",
    ),
    "empty RLE": (
        {"segmentation": {"size": [40, 60], "counts": [2400]}},
        "annotation 30: must be with an RLE that has a pixel of the object, got none",
    ),
    "text of an RLE": ({"segmentation": {"size": [40, 60], "counts": "{}"}}, "annotation 30: .*RLE .*, got"),
    "category": ({"category_id": 2}, "annotation 30: must be of one of the file's 2 categories, got category_id 2"),
    "picture": ({"image_id": 77}, "annotation 30: must be of a picture that the file has, got image_id 77"),
    "crowd": ({"iscrowd": 2}, "annotation 30: must be with iscrowd 0 or 1, got 2"),
    "id": ({"id": "x"}, "annotations, element 1: must be with an integer id, got x"),
    "another's id": ({"id": 31}, "annotation 31: must be the only annotation with its id, got another one before it"),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD)
def test_a_bad_annotation(tmp_path, changes, message):
    """It ends the command, or is left out, and listed."""
    annotations = [each | changes if each["id"] == 30 else each for each in ANNOTATIONS_OF_IT]
    write_coco(tmp_path, "train", [PICTURE, *OTHERS], annotations)
    with pytest.raises(UserError, match=message) as caught:
        read_coco(tmp_path, "train")
    assert str(caught.value).endswith("; --skip-corrupt leaves it out")
    assert "\n" not in str(caught.value)
    coco, left_out = read_coco(tmp_path, "train", skip_corrupt=True)
    assert coco.annotation_ids.tolist() == [12, 31]
    assert [f"{where}: {why}; --skip-corrupt leaves it out" for where, why in left_out] == [str(caught.value)]


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        ((5, "b.png", 1, 1), "picture 5: must be a picture with sides of 8 to 6,000 pixels, got 1 x 1"),
        ((5, "b.png", 20, LARGEST + 1), "picture 5: must be a picture with sides of 8 to 6,000 pixels, got 6001 x 20"),
        ((9, "c.png", 30, 20), "picture 9: must be the only picture with its id, got another one before it"),
        ((5, "", 20, 30), "images, element 3: must be a picture with a file_name, got ''"),
        ((5, "b.png", 20, None), "images, element 3: must be with an integer width, got null"),
    ],
)
def test_a_bad_picture_in_the_file(tmp_path, picture, message):
    write_coco(tmp_path, "val", OTHERS, ANNOTATIONS_OF_IT[:1])
    number, name, height, width = picture
    bad = {"id": number, "file_name": name, "height": height, "width": width}
    change(tmp_path, "val", lambda content: content["images"].extend([content["images"][0] | {"id": 40}, bad]))
    with pytest.raises(UserError, match=message):
        read_coco(tmp_path, "val")
    coco, left_out = read_coco(tmp_path, "val", skip_corrupt=True)
    assert coco.picture_ids.tolist() == [2, 9, 40]
    assert len(left_out) == 1


def test_a_crowd_may_be_a_number_with_a_point_or_a_truth(tmp_path):
    """As programs write it that keep annotations in tables."""
    annotations = [annotation(number, 5, [1, 1, 4, 4], iscrowd=crowd) for number, crowd in enumerate([1.0, False, 0.0])]
    write_coco(tmp_path, "val", [PICTURE], annotations)
    assert read_coco(tmp_path, "val")[0].crowd.tolist() == [True, False, False]


def test_boxes_in_parts_of_the_picture_are_refused(tmp_path):
    """All of them: a box of less than a pixel alone is one."""
    boxes = [0.5, 0.5, 0.25, 0.3], [0, 0.1, 1, 0.9]
    write_coco(tmp_path, "val", [PICTURE], [annotation(number, 5, box) for number, box in enumerate(boxes)])
    with pytest.raises(UserError, match=r"val2017.json: must be a file with boxes \(.*\) in pixels, got none with a"):
        read_coco(tmp_path, "val", skip_corrupt=True)


def test_a_picture_with_too_many_objects(tmp_path):
    write_coco(tmp_path, "train", [PICTURE, *OTHERS], [annotation(n, 5, [n % 50, 3, 4, 4]) for n in range(5_001)])
    message = f"picture 5: must be a picture of at most {MOST_OBJECTS:,} objects, got 5,001; --skip-corrupt"
    with pytest.raises(UserError, match=message):
        read_coco(tmp_path, "train")
    coco, _ = read_coco(tmp_path, "train", skip_corrupt=True)
    assert (coco.picture_ids.tolist(), len(coco.labels)) == ([2, 9], 0)


def test_pictures_that_are_missing_broken_or_of_another_size(tmp_path):
    write_coco(tmp_path, "train", [PICTURE, *OTHERS, (11, "d.png", 20, 20)], ANNOTATIONS_OF_IT)
    folder = tmp_path / PICTURES["train"]
    (folder / "a.png").unlink()
    with pytest.raises(
        UserError, match=r"a.png: must be a picture that .*json names, got no such file; --skip-corrupt"
    ):
        read_coco(tmp_path, "train")
    (folder / "c.png").write_bytes((folder / "c.png").read_bytes()[:50])
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(folder / "d.png")
    coco, left_out = read_coco(tmp_path, "train", skip_corrupt=True)
    assert coco.names.tolist() == ["b.png"]
    assert coco.annotation_ids.tolist() == [30, 12]
    assert [where.rpartition("/")[2] for where, _ in left_out] == ["a.png", "c.png", "d.png"]
    assert left_out[2][1] == "must be a picture of 20 x 20 pixels, as the annotations say, got 30 x 20"
    (folder / "b.png").unlink()
    with pytest.raises(UserError, match="must be with a picture of train that can be read, got none of 4"):
        read_coco(tmp_path, "train", skip_corrupt=True)


def test_folders_and_masks_that_are_not_there(tmp_path):
    form = "must be a folder with val2017/ and annotations/instances_val2017.json"
    with pytest.raises(UserError, match=f"{form}, got no such path"):
        read_coco(tmp_path / "none", "val")
    with pytest.raises(UserError, match=f"{form}, got .*val2017, which is no folder"):
        read_coco(tmp_path, "val")
    write_coco(tmp_path, "val", [PICTURE], [annotation(1, 5, [1, 1, 2, 2], segmentation=[]), ANNOTATIONS_OF_IT[1]])
    coco, _ = read_coco(tmp_path, "val")
    assert coco.has_mask.tolist() == [False, True]
    (tmp_path / ANNOTATIONS["val"]).unlink()
    with pytest.raises(UserError, match=f"{form}, got .*instances_val2017.json, which is no file"):
        read_coco(tmp_path, "val")


def test_a_file_that_ends_early_at_any_place(tmp_path, monkeypatch):
    """In elements and between them, read in pieces of any size; the line has the place."""
    path = tmp_path / "file.json"
    content = {"info": {"n": 1}, "images": [{"id": n, "name": 'a"]}' * n} for n in range(4)], "annotations": []}
    text = json.dumps(content, indent=1)
    for chunk in (1, 1 << 20):
        monkeypatch.setattr(json_arrays, "_CHUNK", chunk)
        path.write_text(text)
        found = list(json_arrays.json_arrays(path, ("images", "annotations")))
        assert found == [("images", each) for each in content["images"]]
    monkeypatch.setattr(json_arrays, "_CHUNK", 16)
    for end in range(len(text)):
        path.write_text(text[:end])
        with pytest.raises(UserError, match=r"file.json, character \d+: must be .*, got .*end|; the file ends"):
            list(json_arrays.json_arrays(path, ("images", "annotations")))
    first = text.index("[") + 1
    path.write_text(f"{text[:first]}?{text[first:]}")
    with pytest.raises(UserError, match=r"character \d+: must be whole JSON, got"):
        list(json_arrays.json_arrays(path, ("images", "annotations")))
    path.write_text(text)
    with pytest.raises(UserError, match='must be a JSON object with the arrays "categories", got none'):
        list(json_arrays.json_arrays(path, ("images", "categories")))
    path.write_bytes(b'{"images": ["\xff"]}')
    with pytest.raises(UserError, match="must be UTF-8, got byte 0xFF"):
        list(json_arrays.json_arrays(path, ("images",)))
