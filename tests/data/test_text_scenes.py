"""ICDAR 2015's form: texts with commas, marks and line ends; bad lines, and pictures and lists without the other."""

from __future__ import annotations

import numpy as np
import pytest
from data.scene_files import line, write_scene
from PIL import Image

from airank_fast.data.images.text_scenes import FOLDERS, read_scenes, read_texts
from airank_fast.data.images.workers import Broken
from airank_fast.errors import UserError

QUAD = [[2, 3], [30, 4], [29, 14], [1, 13]]
PICTURE = np.full((40, 60, 3), 90, np.uint8)


@pytest.fixture
def root(tmp_path):
    """Pictures 1, 2 and 10 of the training side, one of the other."""
    for number in (1, 2, 10):
        write_scene(tmp_path, "train", number, PICTURE + np.uint8(number), [line(QUAD, "ab")])
    write_scene(tmp_path, "val", 1, PICTURE, [line(QUAD, "###")])
    return tmp_path


def test_a_list_as_icdar_publishes_it(root):
    """A byte order mark, CRLF, texts with commas and quotes, an empty one, ###, and an empty line at the end."""
    lines = [line(QUAD, 'Joint, 2,50 "€"'), line(QUAD, "###"), line(QUAD, ""), line(np.add(QUAD, 0.5), "#"), ""]
    write_scene(root, "train", 3, PICTURE, lines)
    texts = read_texts(str(root / FOLDERS["train"][1] / "gt_img_3.txt"))
    assert texts.quads.dtype == np.float32
    assert texts.quads.tolist() == [QUAD, QUAD, QUAD, np.add(QUAD, 0.5).tolist()]
    assert texts.ignored.tolist() == [False, True, False, False]
    assert list(texts.rows) == [1, 2, 3, 4]


def test_pictures_in_the_order_of_their_numbers(root):
    scenes, corrupt = read_scenes(root, "train")
    assert [path.rpartition("/")[2] for path in scenes.pictures] == ["img_1.png", "img_2.png", "img_10.png"]
    assert corrupt == []
    picture, quads, ignored = scenes.read(2)
    assert (picture == PICTURE + np.uint8(10)).all()
    assert (quads.tolist(), ignored.tolist()) == ([QUAD], [False])
    (val, _), before = read_scenes(root, "val"), scenes.checksum()
    assert val.read(0)[2].tolist() == [True]
    write_scene(root, "train", 2, PICTURE, [line(QUAD, "###")])
    assert read_scenes(root, "train")[0].checksum() != before


def test_a_picture_without_texts(root):
    write_scene(root, "train", 1, PICTURE, [])
    scenes, _ = read_scenes(root, "train")
    _, quads, ignored = scenes.read(0)
    assert (quads.shape, ignored.shape) == ((0, 4, 2), (0,))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b"1,2,3,4,5,6,7\n", "must be a line X1,Y1,X2,Y2,X3,Y3,X4,Y4,TEXT, got 7 columns"),
        (b"1,2,3,4,5,6,7,8\n", "must be a line X1,Y1,X2,Y2,X3,Y3,X4,Y4,TEXT, got 8 columns"),
        (b"1,2,3,4,5,6,7,x,ab\n", "must be a line X1,Y1,X2,Y2,X3,Y3,X4,Y4,TEXT with numbers, got 'x'"),
        (b"1,2,3,4,5,6,7,nan,ab\n", "with numbers, got 'nan'"),
        (b"1,2,3,4,5,6,7,8,\xe9\n", "must be UTF-8, got byte 0xE9"),
        (b"1,2,1,2,1,2,1,2,ab\n", "must be a quadrilateral with an area, got 1,2,1,2,1,2,1,2, of 0 pixels"),
        (b"0,0,9,9,9,0,0,9,ab\n", "must be a quadrilateral with an area, got 0,0,9,9,9,0,0,9, of 0 pixels"),
    ],
)
def test_bad_lines_are_named(bad, message, root):
    path = root / FOLDERS["train"][1] / "gt_img_2.txt"
    path.write_bytes(path.read_bytes() + bad)
    with pytest.raises(UserError) as error:
        read_scenes(root, "train")
    assert str(error.value).startswith(f"{path}, line 2: ")
    assert message in str(error.value)
    assert str(error.value).endswith("; --skip-corrupt leaves such pictures out")
    scenes, ((where, why),) = read_scenes(root, "train", skip_corrupt=True)
    assert len(scenes) == 2
    assert (where, message in why) == (f"{path}, line 2", True)


def test_what_is_wrong_with_a_picture_is_found_when_it_is_read(root):
    """A text outside of it, and a file that does not decode; a text that is partly in it is sound."""
    write_scene(root, "train", 2, PICTURE, [line(np.add(QUAD, 35), "ab"), line(np.add(QUAD, (60, 0)), "ab")])
    (root / FOLDERS["train"][0] / "img_10.png").write_bytes(b"no picture")
    scenes, _ = read_scenes(root, "train")
    outside, broken = scenes.read(1), scenes.read(2)
    assert isinstance(outside, Broken)
    assert outside.path.endswith("gt_img_2.txt, line 2")
    assert outside[1:] == ("62,3,90,4,89,14,61,13", "a quadrilateral in its picture of 60 x 40 pixels")
    assert isinstance(broken, Broken)
    assert broken.why == "not a JPEG or PNG file"
    left, corrupt = read_scenes(root, "train", skip_corrupt=True, num_threads=2)
    assert len(left) == 1
    assert [where.rpartition("/")[2] for where, _ in corrupt] == ["gt_img_2.txt, line 2", "img_10.png"]


def test_pictures_and_lists_without_the_other(root):
    pictures, lists = (root / name for name in FOLDERS["train"])
    (lists / "gt_img_2.txt").unlink()
    with pytest.raises(UserError, match=r"img_2.png: must have a list of its texts, got none at .*gt_img_2.txt"):
        read_scenes(root, "train")
    (pictures / "img_2.png").unlink()
    (pictures / "img_10.png").unlink()
    with pytest.raises(UserError, match=r"gt_img_10.txt: must have a picture, got none at .*img_10.jpg"):
        read_scenes(root, "train")
    Image.fromarray(PICTURE).save(pictures / "img_10.jpg")
    assert len(read_scenes(root, "train")[0]) == 2


def test_folders_that_are_missing_or_have_nothing(root, tmp_path):
    with pytest.raises(UserError, match=r"nowhere: must be a folder with ICDAR 2015's .*, got no such path"):
        read_scenes(tmp_path / "nowhere", "train")
    for file in (root / FOLDERS["val"][1]).iterdir():
        file.write_bytes(b"x")
    with pytest.raises(UserError, match=r"must be with a picture and a list that can be read, got none of 1"):
        read_scenes(root, "val", skip_corrupt=True)
    (root / FOLDERS["val"][1] / "gt_img_1.txt").unlink()
    (root / FOLDERS["val"][1]).rmdir()
    with pytest.raises(UserError, match=r"got .*Challenge4_Test_Task1_GT, which is no folder"):
        read_scenes(root, "val")
