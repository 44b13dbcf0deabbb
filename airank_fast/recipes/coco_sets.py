"""The data sets of jobs that find objects: a folder in the form of COCO 2017, or scenes of embedded digits."""

from __future__ import annotations

from functools import partial
from typing import Any

from airank_fast.data.images import digit_coco
from airank_fast.data.images.coco_file import read_coco
from airank_fast.errors import require
from airank_fast.quality.coco_ap import Truth, truth_of
from airank_fast.recipes.base_job import DataSets
from airank_fast.recipes.options import RunOptions


def coco_sets(options: RunOptions, num_classes: int, num_threads: int, *, masks: bool) -> tuple[DataSets, Truth]:
    """The pictures to train on, without crowds, and to evaluate on, and the truth of the latter for `CocoAP`.

    UserError where the two have other categories, or more than num_classes, or, with masks, an object has none.
    """
    root: Any = options.data or digit_coco.materialise()
    source = f"{root}" if options.data else f"the embedded data set, {digit_coco.NAME}"
    read = partial(read_coco, root, skip_corrupt=options.skip_corrupt, num_threads=num_threads)
    (train, corrupt), (val, more) = (read(side) for side in ("train", "val"))
    ids, others = (coco.category_ids.tolist() for coco in (train, val))
    require(ids == others, str(root), "with the same category ids in both files", f"{ids} to train on and {others}")
    require(len(ids) <= num_classes, "--num-classes", f"at least the {len(ids)} of the data set", num_classes)
    return DataSets(train.to_train_on(), val, source, corrupt + more), truth_of(val, masks=masks)
