"""ResNet-50 v1.5: image classification on ImageNet."""

from airank_fast.tasks import AIRANK_2020, AIRANK_2021, FLAGPERF_CONFIG, MLPERF_RULES, Metric, Target, Task

TASK = Task(
    name="resnet50",
    model="ResNet-50",
    title={"zh": "图像分类", "en": "image classification"},
    unit="images",
    counted_in="epochs",
    metrics=(Metric("top1"),),
    names={"airank": "ResNet50", "mlperf": "resnet", "flagperf": "resnet50"},
    aliases=("resnet50v1.5",),
    network="resnet50",
    data_set="ImageNet-2012",
    train_samples=1_281_167,
    eval_samples=50_000,
    classes=1000,
    targets={
        "airank 2020-12": Target({"top1": 0.759}, AIRANK_2020),
        "airank 2021-05": Target({"top1": 0.759}, AIRANK_2021),
        "mlperf": Target({"top1": 0.759}, MLPERF_RULES),
        "flagperf": Target({"top1": 0.755}, FLAGPERF_CONFIG.format("resnet50")),
    },
)
