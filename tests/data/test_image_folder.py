"""The index of an ImageFolder tree and its errors."""

import hashlib
import os

import numpy as np
import pytest
from PIL import Image

from airank_fast.data.images import ImageFolder, find_corrupt, left_out
from airank_fast.errors import UserError


def tree(root, names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix:
            Image.new("RGB", (8, 8)).save(path, format="JPEG")
        else:
            path.mkdir()
    return root


GOOD = ["train/a/1.JPEG", "train/a/2.jpg", "train/b/3.jpeg", "val/a/4.JPEG", "val/b/5.png"]


def test_index(tmp_path):
    (tree(tmp_path, GOOD) / "train/a/notes.txt").write_text("not a picture")
    folder = ImageFolder(tmp_path, 2)
    assert folder.classes == ("a", "b")
    assert folder.train.labels.dtype == np.int64
    assert folder.train.labels.tolist() == [0, 0, 1]
    assert [f[len(str(tmp_path)) + 1 :] for f in folder.train.files + folder.val.files] == GOOD


@pytest.mark.parametrize(
    ("names", "num_classes", "match"),
    [
        (["train/a/1.jpg"], 1, "no val/"),
        (["val/a/1.jpg"], 1, "no train/"),
        (["train/.hidden/1.jpg", "val/a/1.jpg"], 1, "one folder per class"),
        ([*GOOD, "train/c/1.jpg"], 2, r"'c' missing in .*val"),
        ([*GOOD, "val/c/1.jpg", "val/d/1.jpg"], 2, r"'c', 'd' missing in .*train"),
        ([*GOOD, "train/c", "val/c/1.jpg"], 3, r"train/c has none"),
        (GOOD, 1000, r"1000 classes, got 2 .*--num-classes 2"),
    ],
)
def test_complaints(tmp_path, names, num_classes, match):
    with pytest.raises(UserError, match=match) as caught:
        ImageFolder(tree(tmp_path, names), num_classes)
    assert "\n" not in str(caught.value)


def test_no_such_directory(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        ImageFolder(tmp_path / "nowhere", 2)


def test_corrupt_files_are_found_and_left_out(tmp_path):
    folder = ImageFolder(tree(tmp_path, GOOD), 2)
    victim, empty = folder.train.files[1], folder.val.files[0]
    with open(victim, "rb+") as file:
        file.truncate(400)
    open(empty, "wb").close()
    found = find_corrupt(folder.train.files + folder.val.files, num_threads=2)
    assert [path for path, _ in found] == [victim, empty]
    assert all(why for _, why in found)
    with pytest.raises(UserError, match="class 'a' has none"):
        folder.skip([victim, empty])
    folder.skip([victim])
    assert victim not in folder.train.files
    assert folder.train.labels.tolist() == [0, 1]


def test_pictures_in_sub_folders_are_those_of_torchvision(tmp_path):
    """torchvision's ImageFolder: files of a folder by name, folders by their paths, links followed."""
    names = ["a/9.jpg", "a/x/2.jpg", "a/x/y/1.JPEG", "a/x.d/3.png", "a/deep/er/4.jpg", "b/5.jpg"]
    tree(tmp_path, [f"{side}/{name}" for side in ("train", "val") for name in names])
    tree(tmp_path, ["train/a/.cache/6.jpg", "train/a/x/.7.jpg", "elsewhere/8.jpg"])
    (tmp_path / "train/b/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "train/b/linked.jpg").symlink_to(tmp_path / "elsewhere/8.jpg")
    (tmp_path / "train/a/x/round").symlink_to(tmp_path / "train/a")
    folder = ImageFolder(tmp_path, 2)
    files = [os.path.relpath(path, tmp_path / "train") for path in folder.train.files]
    expected = []
    for name in ("a", "b"):
        top = tmp_path / "val" / name
        for root, _, found in sorted(os.walk(top, followlinks=True)):
            expected += [os.path.relpath(os.path.join(root, file), tmp_path / "val") for file in sorted(found)]
    assert files == [*expected, "b/linked.jpg", "b/linked/8.jpg"]
    assert folder.train.labels.tolist() == [0] * 5 + [1] * 3


def test_pictures_of_other_kinds_are_counted(tmp_path):
    folder = tree(tmp_path, GOOD)
    assert ImageFolder(folder, 2).passed_over() is None
    for name in ("train/a/x/3.WEBP", "train/a/4.webp", "val/b/5.tif", "val/b/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    expected = "data: pictures that are neither JPEG nor PNG are passed over: 1 .tif, 2 .webp"
    assert ImageFolder(folder, 2).passed_over() == expected


def test_a_name_that_is_not_utf8(tmp_path):
    """The checksum is of the bytes, so that it does not depend on the locale."""
    folder = tree(tmp_path, ["train/a/1.jpg", "val/a/2.jpg"])
    name = b"\xff\xe9\xb4.jpg"
    os.rename(folder / "train/a/1.jpg", os.fsencode(folder / "train/a/") + b"/" + name)
    expected = hashlib.sha256(b"train/a/" + name + b"\nval/a/2.jpg\n").hexdigest()
    assert ImageFolder(folder, 1).checksum() == expected


@pytest.mark.parametrize("size", [(1, 1), (7, 7), (3, 200), (200, 5), (8, 8)])
def test_a_small_picture_is_not_corrupt(tmp_path, size):
    for name in ("1.jpg", "1.png"):
        Image.new("RGB", size, "teal").save(tmp_path / name)
    assert find_corrupt([str(tmp_path / "1.jpg"), str(tmp_path / "1.png")]) == []


def test_of_many_files_left_out_the_first_are_named():
    lines = left_out([(f"{n}.jpg", "empty") for n in range(25)], 1000)
    assert lines[0] == "data: 25 of 1000 pictures cannot be read and are left out"
    assert lines[20] == "data: left out 19.jpg (empty)"
    assert lines[21:] == ["data: and 5 more, all of them in the log's data event"]
    assert left_out([], 7) == ["data: 0 of 7 pictures cannot be read and are left out"]
