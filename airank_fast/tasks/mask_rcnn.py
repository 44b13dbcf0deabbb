"""Mask R-CNN with ResNet-50 and FPN: object detection and instance segmentation on COCO.

Of the 118,287 training images 117,266 have an annotation; common implementations omit the others.
"""

from airank_fast.tasks import AIRANK_2021, BLANK_2020, FLAGPERF_CONFIG, MLPERF_RULES, Metric, Target, Task

TASK = Task(
    name="mask_rcnn",
    model="Mask R-CNN",
    title={"zh": "目标检测", "en": "object detection and instance segmentation"},
    unit="images",
    metrics=(Metric("box_ap", mlperf="BBOX"), Metric("mask_ap", mlperf="SEGM")),
    names={"airank": "MaskRCNN", "mlperf": "maskrcnn", "flagperf": "mask_rcnn"},
    data_set="COCO 2017",
    train_samples=118_287,
    eval_samples=5_000,
    least_samples=117_266,
    classes=80,
    targets={
        "airank 2020-12": BLANK_2020,
        "airank 2021-05": Target({"box_ap": 0.377, "mask_ap": 0.339}, AIRANK_2021),
        "mlperf": Target({"box_ap": 0.377, "mask_ap": 0.339}, MLPERF_RULES),
        "flagperf": Target({"box_ap": 0.38, "mask_ap": 0.34}, FLAGPERF_CONFIG.format("mask_rcnn")),
    },
)
