"""YOLOv3 with DarkNet-53: object detection on COCO."""

from airank_fast.tasks import AIRANK_2021, BLANK_2020, Metric, Target, Task

BOX_METRICS = ("box_ap", "box_ap50", "box_ap75", "box_ap_small", "box_ap_medium", "box_ap_large")

TASK = Task(
    name="yolov3",
    model="YOLOv3",
    title={"zh": "目标检测", "en": "object detection"},
    unit="images",
    metrics=tuple(map(Metric, BOX_METRICS)),
    names={"airank": "YOLOv3"},
    data_set="COCO 2017",
    train_samples=118_287,
    eval_samples=5_000,
    least_samples=117_266,
    classes=80,
    targets={"airank 2020-12": BLANK_2020, "airank 2021-05": Target({"box_ap": 0.348}, AIRANK_2021)},
)
