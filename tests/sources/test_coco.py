"""`prepare coco` on tiny zips of the published shape, made here."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
from data.coco_files import annotation, change, write_coco
from PIL import Image

from airank_fast import prepare
from airank_fast.data.images.coco import ANNOTATIONS, PICTURES
from airank_fast.data.images.coco_file import read_coco
from airank_fast.errors import UserError

OBJECTS = [
    annotation(7, 3, [2, 2, 10, 8]),
    annotation(8, 3, [2, 2, 10, 8]),
    annotation(9, 3, [25, 5, 5.4, 4], iscrowd=1, segmentation={"size": [20, 30], "counts": [500, 50, 50]}),
    annotation(4, 1, [1, 1, 0, 5]),
]


@pytest.fixture
def tree(tmp_path):
    """The files that the zips are made of: two pictures are equal, one has no object, one box no area."""
    root = tmp_path / "tree"
    for side in PICTURES:
        write_coco(root, side, [(1, "1.jpg", 12, 12), (2, "2.jpg", 12, 12), (3, "3.jpg", 20, 30)], OBJECTS, (1, 90))
        Image.fromarray(np.ones((12, 12, 3), np.uint8)).save(root / PICTURES[side] / "2.jpg")
    return root


def pack(tree):
    """The three zips, with what else they have."""
    for folder in PICTURES.values():
        with zipfile.ZipFile(tree / f"{folder}.zip", "w") as archive:
            archive.writestr(f"{folder}/", "")
            for file in sorted((tree / folder).iterdir()):
                archive.write(file, f"{folder}/{file.name}")
    with zipfile.ZipFile(tree / "annotations.zip", "w") as archive:
        for name in ANNOTATIONS.values():
            archive.write(tree / name, name)
        archive.writestr("annotations/captions_val2017.json", "{}")
    return tree


def run(tree, output, *more: str) -> int:
    zips = "--train", "train2017.zip", "--val", "val2017.zip", "--annotations", "annotations.zip"
    given = [text if text.startswith("--") else str(tree / text) for text in zips]
    return prepare.parse(["coco", *given, "--output", str(output), "--workers", "1", *more]).run()


def test_training_reads_what_is_unpacked_and_verify_finds_it_sound(tree, tmp_path, capsys):
    output = tmp_path / "out"
    assert run(pack(tree), output, "--partial") == 0
    printed = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert printed[:6] == [
        "train 3 pictures with 3 objects, 1 of them crowds, of 2 categories with ids 1 to 90",
        "train 2 pictures without an object; at most 3 objects",
        "train 1 boxes reach out of their picture, by at most 0.40 pixels",
        "train 1 objects with the picture, category and box of another one",
        "train 1 pictures that are copies of another one: 2.jpg",
        f"train left out: {output}/annotations/instances_train2017.json, annotation 4: must be a box "
        "(x, y, width, height) with an area, got [1.0, 1.0, 0.0, 5.0]",
    ]
    assert printed[-1].endswith("out: sound")
    for side in PICTURES:
        there, _ = read_coco(tree, side, skip_corrupt=True)
        found, left_out = read_coco(output, side)
        assert found.checksum() == there.checksum()
        assert len(left_out) == 1
    assert run(tree, output, "--partial") == 0  # nothing is left to do
    with pytest.raises(UserError, match="--output: must be a directory for skip_corrupt = True, got"):
        run(tree, output, "--partial", "--skip-corrupt")


def problems(output, capsys) -> list[str]:
    capsys.readouterr()
    assert prepare.parse(["--verify", str(output), "--workers", "1"]).run() == 1
    return [line.removeprefix("error: ") for line in capsys.readouterr().err.splitlines() if line.startswith("error")]


def test_verify_finds_what_is_not_sound(tree, tmp_path, capsys):
    output = tmp_path / "out"
    assert run(pack(tree), output, "--partial") == 0
    folder = output / "val2017"
    (folder / "1.jpg").rename(folder / "4.jpg")
    (folder / "3.jpg").write_bytes((folder / "3.jpg").read_bytes()[:300])
    found = problems(output, capsys)
    assert found[0].startswith("val2017: must have sha256 ")
    assert found[1:3] == [
        f"{folder}: 1 pictures that the annotations name are missing: 1.jpg",
        f"{folder}: 1 pictures have no entry in the annotations: 4.jpg",
    ]
    assert f"{folder}/3.jpg: must be a whole JPEG" in found[3]
    assert len(found) == 4


def test_a_picture_that_is_left_out_needs_no_entry(tree, tmp_path, capsys):
    """--skip-corrupt has left its entry out; another one without an entry is a problem still."""
    change(tree, "train", lambda content: content["images"][0].pop("height"))
    output = tmp_path / "out"
    assert run(pack(tree), output, "--partial", "--skip-corrupt") == 0
    assert "train left out: " in " ".join(capsys.readouterr().out.split())
    (output / "train2017" / "2.jpg").rename(output / "train2017" / "4.jpg")
    found = problems(output, capsys)
    assert f"{output}/train2017: 2 pictures have no entry in the annotations: 1.jpg, 4.jpg" in found


def test_sides_without_an_object_or_of_other_classes_are_not_sound(tree, tmp_path, capsys):
    """As training on them would be refused."""
    change(tree, "val", lambda content: content.update(annotations=[]))
    change(tree, "val", lambda content: content["categories"][0].update(name="dog"))
    assert run(pack(tree), tmp_path / "out", "--partial") == 1
    assert problems(tmp_path / "out", capsys) == [
        "val: must have an object that is no crowd, got none",
        "annotations: must have the same categories, by id and name, to train and to evaluate",
    ]


def test_published_numbers_unless_partial(tree, tmp_path, capsys, monkeypatch):
    with pytest.raises(UserError, match=r"--train: must be a zip of 118,287 pictures \(--partial .*\), got 3"):
        run(pack(tree), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr("airank_fast.sources.coco.NUM_PICTURES", {"train": 3, "val": 3})
    assert run(tree, tmp_path / "out") == 1
    assert problems(tmp_path / "out", capsys) == [
        "train: must have 80 categories with ids 1 to 90, got 2 with ids 1 to 90",
        "val: must have 80 categories with ids 1 to 90, got 2 with ids 1 to 90",
    ]


def test_bad_annotations_and_zips(tree, tmp_path):
    change(tree, "train", lambda content: content["annotations"][0].update(category_id=2))
    pack(tree)
    with pytest.raises(UserError, match=r"annotation 7: must be of one of .*got category_id 2; --skip-corrupt"):
        run(tree, tmp_path / "out", "--partial")
    assert run(tree, tmp_path / "other", "--partial", "--skip-corrupt") == 0
    assert read_coco(tmp_path / "other", "train")[0].annotation_ids.tolist() == [8, 9]
    with zipfile.ZipFile(tree / "annotations.zip", "w") as archive:
        archive.writestr("annotations/instances_train2017.json", "{}")
    with pytest.raises(UserError, match=r"--annotations: must be a zip with annotations/instances_val2017.json, got"):
        run(tree, tmp_path / "third", "--partial")
    with zipfile.ZipFile(tree / "val2017.zip", "w") as archive:
        archive.writestr("train2017/1.jpg", "x")
    with pytest.raises(UserError, match=r"--val: must be a zip with val2017/NUMBER.jpg, got .*, which has none"):
        run(tree, tmp_path / "third", "--partial")
