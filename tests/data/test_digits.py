"""The embedded digits: content, split, and the tree that is written once."""

import numpy as np
import pytest
from PIL import Image

from airank_fast.data.images import ImageFolder, digits
from airank_fast.errors import UserError


def test_the_embedded_pictures_are_scikit_learns():
    from sklearn.datasets import load_digits

    original = load_digits()
    images, labels = digits.load()
    assert np.array_equal(images, original.images)
    assert np.array_equal(labels, original.target)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return digits.materialise(tmp_path_factory.mktemp("cache"))


def test_every_fifth_picture_of_a_class_is_held_out(root):
    folder = ImageFolder(root, digits.NUM_CLASSES)
    assert len(folder.train) + len(folder.val) == 1797
    train, val = np.bincount(folder.train.labels), np.bincount(folder.val.labels)
    assert ((train + val) // 5 == val).all()
    assert folder.classes == tuple("0123456789")


def test_a_written_picture_is_the_embedded_one(root):
    images, labels = digits.load()
    for number in (0, 7, 1796):
        (path,) = root.glob(f"*/{labels[number]}/{number:04d}.JPEG")
        pixels = np.asarray(Image.open(path), np.float32)
        assert pixels.shape == (40, 40, 3)
        small = pixels[4:36, 4:36, 0].reshape(8, 4, 8, 4).mean((1, 3))
        assert np.corrcoef(small.ravel(), images[number].ravel())[0, 1] > 0.97
        assert np.abs(small - images[number] * (255 / 16)).mean() < 20  # bicubic softens the strokes
        assert pixels[:2].max() < 16


def test_it_is_written_once(root):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*.JPEG")}
    assert digits.materialise(root.parent) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.JPEG")} == before


def test_an_unwritable_cache_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"embedded data set: must have a writable .*file"):
        digits.materialise(tmp_path / "file")
