"""The index of a tree and its complaints."""

import numpy as np
import pytest
from PIL import Image

from airank_fast.data.images import ImageFolder, find_corrupt
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
        (GOOD, 1000, r"1000 classes are required, got 2 .*--num-classes 2"),
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
