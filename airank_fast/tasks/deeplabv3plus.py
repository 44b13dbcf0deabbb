"""DeepLabv3+: semantic segmentation of Cityscapes, 19 classes."""

from airank_fast.tasks import AIRANK_2021, BLANK_2020, Metric, Target, Task

TASK = Task(
    name="deeplabv3plus",
    model="DeepLabv3+",
    title={"zh": "图像分割", "en": "semantic segmentation"},
    unit="images",
    counted_in="steps",
    metrics=(Metric("mean_iou"),),
    names={"airank": "DeepLabv3"},
    data_set="Cityscapes, fine annotations",
    train_samples=2_975,
    eval_samples=500,
    classes=19,
    targets={"airank 2020-12": BLANK_2020, "airank 2021-05": Target({"mean_iou": 0.785}, AIRANK_2021)},
)
