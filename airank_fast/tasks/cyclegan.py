"""CycleGAN: unpaired image translation on Cityscapes. No published text names a target."""

import math

from airank_fast.tasks import BLANK_2020, Metric, Task

TASK = Task(
    name="cyclegan",
    model="CycleGAN",
    title={"zh": "图像生成", "en": "image generation"},
    unit="images",
    metrics=(Metric("fid", ".2f", "down", math.inf),),
    names={"airank": "CycleGAN"},
    data_set="Cityscapes",
    train_samples=2_975,
    eval_samples=500,
    targets={"airank 2020-12": BLANK_2020},
)
