"""Benches of detection apart from the timing: the two real data sets, of made-up wheels, and peers on a GPU."""

from __future__ import annotations

import importlib
import io
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from airank_fast.data.images.coco_file import read_coco
from airank_fast.data.images.run_lengths import decode

ROOT = Path(__file__).parents[1]
BOXES = [(10, 20, 50, 70), (380, 100, 440, 160), (500, 300, 560, 390)]  # the second one is cut where squares meet


@pytest.fixture
def bench(monkeypatch):
    """The modules of bench/ that are tested here; removed from sys.modules afterwards."""
    monkeypatch.syspath_prepend(ROOT / "bench")
    names = ("harness", "other_python", "real_pictures")
    yield types.SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    for name in names:
        del sys.modules[name]


def written(pixels: np.ndarray, form: str) -> bytes:
    """A picture's file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


@pytest.fixture
def wheels(bench, tmp_path):
    """Two wheels with pictures of one object in white for each box, and four nuclei of 20 x 12 pixels."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    picture = np.zeros((420, 700, 3), np.uint8)
    for x1, y1, x2, y2 in BOXES:
        picture[y1:y2, x1:x2] = 255
    corners = [dict(zip(bench.real_pictures.CORNERS, box, strict=True)) for box in BOXES]
    texts = ["".join(f"<{name}>{value}</{name}>" for name, value in box.items()) for box in corners]
    xml = f"<annotation>{''.join(f'<object><bndbox>{text}</bndbox></object>' for text in texts)}</annotation>"
    with zipfile.ZipFile(folder / "deepforest-2.1.0-py3-none-any.whl", "w") as wheel:
        for name in (bench.real_pictures.TRAIN, bench.real_pictures.HELD_OUT):
            wheel.writestr(f"deepforest/data/{name}.png", written(picture, "PNG"))
            wheel.writestr(f"deepforest/data/{name}.xml", xml)
    labels = np.zeros((512, 512), np.uint16)
    for number, (top, left) in enumerate([(30, 40), (20, 250), (300, 60), (400, 350)], 1):
        labels[top : top + 12, left : left + 20] = 100 * number
    with zipfile.ZipFile(folder / "stardist-0.9.2-cp311-cp311-linux.whl", "w") as wheel:
        for name, pixels in (("img", labels), ("mask", labels)):
            wheel.writestr(f"stardist/data/images/{name}2d.tif", written(pixels, "TIFF"))
    return folder


def test_crowns_are_squares_in_eight_orientations(bench, wheels, tmp_path):
    """Each box is around its object in white, in whichever orientation."""
    bench.real_pictures.make("crowns", wheels, tmp_path)
    (train, _), (val, _) = (read_coco(tmp_path / "crowns", side) for side in ("train", "val"))
    assert (len(train), len(train.boxes), len(val), len(val.boxes)) == (32, 24, 4, 3)
    assert np.unique(train.sizes).tolist() == [400]
    assert sorted(val.boxes.tolist()) == [[0, 100, 40, 60], [10, 20, 40, 50], [100, 300, 60, 90]]
    for number in range(len(train)):
        picture = train.read(number).copy()
        for x, y, width, height in train.boxes[train.objects_of(number)].astype(int).tolist():
            assert (picture[y : y + height, x : x + width] == 255).all()
            picture[y : y + height, x : x + width] = 0
        assert (picture[:, :, 0] != 0).sum() in (0, 20 * 60)  # of the box that was cut, the other part


def test_nuclei_have_masks_and_the_last_quarter_is_held_out(bench, wheels, tmp_path):
    """One on a border is on both sides of it."""
    bench.real_pictures.make("nuclei", wheels, tmp_path)
    (train, _), (val, _) = (read_coco(tmp_path / "nuclei", side) for side in ("train", "val"))
    assert (len(train), len(train.boxes), len(val), len(val.boxes)) == (24, 8 * 4, 1, 1)
    assert val.boxes.tolist() == [[350 - 256, 400 - 256, 20, 12]]
    masks = train.masks()
    for number in range(len(train)):
        drawn = sum(decode(masks, row) for row in range(*train.offsets[number : number + 2]))
        assert np.array_equal(drawn > 0, train.read(number)[:, :, 0] > 0)


def test_wheels_that_are_not_there_are_named(bench, tmp_path):
    with pytest.raises(SystemExit, match=r"must be a folder with stardist-0.9.2-\*.whl, got none"):
        bench.real_pictures.make("nuclei", tmp_path, tmp_path)


def test_the_page_has_the_commands_of_the_bench(bench):
    page = (ROOT / "docs" / "coco.md").read_text(encoding="utf-8").replace(" \\\n   ", "")
    for command in bench.real_pictures.COMMANDS.values():
        assert f"\npython -m airank_fast.train {command}\n" in page


def test_a_peer_on_a_gpu_is_called_in_this_process(bench, monkeypatch, capsys):
    """Where it can be imported; one that was built for another torch is named."""
    monkeypatch.setitem(sys.modules, "torchvision", types.SimpleNamespace())
    monkeypatch.setattr(bench.other_python.importlib.metadata, "version", lambda name: "0.0")
    call = bench.other_python.with_torchvision("cuda").contestant("def call(a, b):\n    return a + b", 2, 3)
    assert (call(), call.versions) == (5, {"torchvision": "0.0"})
    assert not hasattr(call, "own_seconds")

    def broken(name: str) -> None:
        raise RuntimeError("operator torchvision::nms does not exist\nand more")

    bench.other_python.with_torchvision.cache_clear()
    monkeypatch.setattr(bench.other_python.importlib, "import_module", broken)
    assert bench.other_python.with_torchvision("cuda") is None
    assert "in this Python, for its torch (operator torchvision::nms does not exist)" in capsys.readouterr().out
