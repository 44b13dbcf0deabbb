"""The data sets of YOLOv3 and Mask R-CNN: what is refused of the two sides together, and what is left out."""

from __future__ import annotations

import pytest
from data.coco_files import annotation, change, write_coco

from airank_fast.data.images.coco import ANNOTATIONS
from airank_fast.errors import UserError
from airank_fast.recipes.coco_sets import coco_sets
from airank_fast.recipes.options import RunOptions

PICTURES = [(1, "a.png", 20, 30), (2, "b.png", 20, 30)]


@pytest.fixture
def root(tmp_path):
    """Two pictures on each side, with an object each."""
    for side in ANNOTATIONS:
        objects = [annotation(number, number, [2, 3, 5, 6], category_id=7) for number in (1, 2)]
        write_coco(tmp_path, side, PICTURES, objects, (7,))
    return tmp_path


def sets(root, *, masks: bool = True, skip_corrupt: bool = False, num_classes: int = 3):
    """The data sets and the truth of the folder."""
    return coco_sets(RunOptions(data=root, skip_corrupt=skip_corrupt), num_classes, 1, masks=masks)


def edit(root, side: str, number: int, **changes) -> None:
    """Change an annotation."""
    change(root, side, lambda content: content["annotations"][number - 1].update(changes))


@pytest.mark.parametrize("side", ANNOTATIONS)
@pytest.mark.parametrize("nothing", [[], None])
def test_an_object_without_a_mask_is_refused_where_masks_are_needed(root, side, nothing):
    """To train on as well: the mask head would learn that there is nothing in its box."""
    edit(root, side, 2, segmentation=nothing)
    where = f"{root / ANNOTATIONS[side]}, annotation 2"
    with pytest.raises(UserError) as caught:
        sets(root)
    message = "must be with a segmentation, as masks are trained and evaluated, got none"
    assert str(caught.value) == f"{where}: {message}; --skip-corrupt leaves it out"
    found, truth = sets(root, skip_corrupt=True)
    assert (found.corrupt, list(found.objects)) == ([], [(where, message)])
    assert (len(found.train), len(truth.labels)) == ((1, 2) if side == "train" else (2, 1))
    assert len(sets(root, masks=False)[1].labels) == 2


def test_pictures_and_annotations_that_are_left_out_are_told_apart(root):
    edit(root, "train", 1, category_id=8)
    (root / "val2017" / "b.png").unlink()
    found, truth = sets(root, skip_corrupt=True)
    assert [where for where, _ in found.corrupt] == [f"{root}/val2017/b.png"]
    assert [where for where, _ in found.objects] == [f"{root / ANNOTATIONS['train']}, annotation 1"]
    assert (len(found.train), len(found.val), len(truth.labels)) == (1, 1, 1)


@pytest.mark.parametrize("side", ANNOTATIONS)
def test_a_side_without_an_object_that_counts_is_refused_before_training(root, side):
    for number in (1, 2):
        edit(root, side, number, iscrowd=1)
    with pytest.raises(UserError, match=f"{ANNOTATIONS[side]}: must be with an object that is no crowd, got none"):
        sets(root)


def test_the_sides_must_have_the_same_classes(root):
    change(root, "val", lambda content: content["categories"][0].update(name="dog"))
    with pytest.raises(UserError, match="same category names in both files, got '7' to train on and 'dog' for id 7"):
        sets(root)
    change(root, "val", lambda content: content["categories"].append({"id": 9}))
    with pytest.raises(UserError, match=r"same category ids in both files, got \[7\] to train on and \[7, 9\]"):
        sets(root)
    change(root, "train", lambda content: content["categories"].append({"id": 9}))
    change(root, "val", lambda content: content["categories"][0].pop("name"))
    with pytest.raises(UserError, match="--num-classes: must be at least the 2 of the data set, got 1"):
        sets(root, num_classes=1)
