"""Darknet's .weights: written as darknet wrote them, the backbone's part, and files that are none."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
from darknet_case import BLOCKS, NUM_CLASSES, SEEN, WIDTHS, case, network

from airank_fast.errors import UserError
from airank_fast.models.yolov3 import YOLOv3
from airank_fast.recipes.darknet_weights import read_into, write

HEADER = 20  # bytes


@pytest.fixture
def content() -> bytes:
    return case()["weights"].numpy().tobytes()


def fresh() -> YOLOv3:
    torch.manual_seed(1)
    return YOLOv3(NUM_CLASSES, widths=WIDTHS, blocks=BLOCKS)


def read(content: bytes, folder) -> YOLOv3:
    path = folder / "some.weights"
    path.write_bytes(content)
    model = fresh()
    read_into(model, path)
    return model


def test_a_file_is_written_as_darknet_wrote_it(content, tmp_path):
    write(network(tmp_path), tmp_path / "again.weights", SEEN)
    assert (tmp_path / "again.weights").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.weights", "again.weights"]


def test_sixteen_bits_are_written_as_numbers(content, tmp_path):
    write(network(tmp_path).bfloat16(), tmp_path / "again.weights", SEEN)
    numbers, expected = (
        np.frombuffer(each, "<f4", offset=HEADER) for each in ((tmp_path / "again.weights").read_bytes(), content)
    )
    np.testing.assert_allclose(numbers, expected, rtol=2**-8)


def test_a_file_before_version_0_2_has_a_shorter_header(content, tmp_path):
    old = struct.pack("<4i", 0, 1, 0, SEEN) + content[HEADER:]
    found, expected = (model.state_dict() for model in (read(old, tmp_path), read(content, tmp_path)))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_the_part_of_the_backbone_leaves_the_heads_as_they_are(content, tmp_path):
    """As `darknet partial yolov3.cfg yolov3.weights darknet53.conv.74 75` makes it."""
    whole, first = read(content, tmp_path).state_dict(), fresh().state_dict()
    numbers = sum(t.numel() for n, t in fresh().backbone.state_dict().items() if "num_batches" not in n)
    found = read(content[: HEADER + 4 * numbers], tmp_path).state_dict()
    assert {name.split(".")[0] for name in found} == {"backbone", "coarse", "middle", "fine"}
    for name, tensor in found.items():
        assert torch.equal(tensor, (whole if name.startswith("backbone.") else first)[name]), name


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-4], r"must be a header and 6088 numbers, or 2948 of the backbone alone, got 6087"),
        (lambda content: content + b"\0" * 8, r"6088 numbers, .*, got 6090 numbers$"),
        (lambda content: content[:-1], r"got 6087 numbers and 3 bytes$"),
        (lambda content: content[:7], r"got 7 bytes$"),
        (lambda content: b"", r"got 0 bytes$"),
        (lambda content: b"PK" + content[2:], r"must be a .weights file of version 0.1 or 0.2, got version "),
        (lambda content: content[:60] + struct.pack("<f", float("nan")) + content[64:], r"number 11: must be finite"),
    ],
    ids=["short", "long", "cut", "header", "empty", "other", "nan"],
)
def test_other_files_are_named(damage, message, content, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        read(damage(content), tmp_path)
    assert str(tmp_path / "some.weights") in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_cannot_be_opened(tmp_path):
    with pytest.raises(UserError, match="must be a readable file of weights, got No such file"):
        read_into(fresh(), tmp_path / "none.weights")
    with pytest.raises(UserError, match="must be a file that can be written, got"):
        write(fresh(), tmp_path / "none" / "a.weights", 0)
