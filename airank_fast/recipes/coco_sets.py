"""The data sets of jobs that find objects: a folder in the form of COCO 2017, or scenes of embedded digits."""

from __future__ import annotations

from typing import Any

import numpy as np

from airank_fast.data.images import digit_coco
from airank_fast.data.images.coco import ANNOTATIONS, Coco
from airank_fast.data.images.coco_file import SKIP, LeftOut, read_coco
from airank_fast.errors import UserError, require
from airank_fast.quality.coco_ap import Truth, truth_of
from airank_fast.recipes.base_job import DataSets
from airank_fast.recipes.options import RunOptions


def coco_sets(options: RunOptions, num_classes: int, num_threads: int, *, masks: bool) -> tuple[DataSets, Truth]:
    """The pictures to train on, without crowds, and to evaluate on, and the truth of the latter for `CocoAP`.

    UserError where the two have other categories, or more than num_classes, where one has no object but crowds, or,
    with masks, where an object has none, which --skip-corrupt leaves out.
    """
    root: Any = options.data or digit_coco.materialise()
    source = f"{root}" if options.data else f"the embedded data set, {digit_coco.NAME}"
    found, left_out = {}, []
    for side in ANNOTATIONS:
        coco, its = read_coco(root, side, skip_corrupt=options.skip_corrupt, num_threads=num_threads)
        if masks:
            coco, more = _with_masks(coco, f"{root / ANNOTATIONS[side]}", options.skip_corrupt)
            its = its + more
        require((~coco.crowd).any(), str(root / ANNOTATIONS[side]), "with an object that is no crowd", "none")
        found[side] = coco
        left_out += its
    train, val = found["train"], found["val"]
    _require_same_categories(root, train, val)
    number = len(train.category_ids)
    require(number <= num_classes, "--num-classes", f"at least the {number} of the data set", num_classes)
    pictures = [each for each in left_out if not _is_of_object(each[0])]
    objects = [each for each in left_out if _is_of_object(each[0])]
    return DataSets(train.to_train_on(), val, source, pictures, objects=objects), truth_of(val, masks=masks)


def _with_masks(coco: Coco, path: str, skip_corrupt: bool) -> tuple[Coco, LeftOut]:
    """The objects that have a mask, and the others; UserError where there is one and nothing may be left out."""
    what = "with a segmentation, as masks are trained and evaluated"
    has = coco.has_mask
    without = [f"{path}, annotation {number}" for number in coco.annotation_ids[~has].tolist()]
    if without and not skip_corrupt:
        raise UserError(f"{without[0]}: must be {what}, got none; {SKIP}")
    rows = np.flatnonzero(has)
    left_out = [(where, f"must be {what}, got none") for where in without]
    return (coco.take_objects(rows, coco.pictures[rows]) if without else coco), left_out


def _require_same_categories(root: Any, train: Coco, val: Coco) -> None:
    """UserError where the classes of the two files are not the same, by id and by name."""
    ids, others = (coco.category_ids.tolist() for coco in (train, val))
    require(ids == others, str(root), "with the same category ids in both files", f"{ids} to train on and {others}")
    for number, name, other in zip(ids, train.category_names.tolist(), val.category_names.tolist(), strict=True):
        got = f"{name!r} to train on and {other!r} for id {number}"
        require(name == other, str(root), "with the same category names in both files", got)


def _is_of_object(where: str) -> bool:
    """Whether what is left out here is an annotation or a category, not a picture."""
    return any(f"{name}, {kind}" in where for name in ANNOTATIONS.values() for kind in ("annotation", "categories"))
