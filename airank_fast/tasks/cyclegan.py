"""CycleGAN: unpaired image translation on Cityscapes. No published text names a target.

`translated` is the share of made pictures that a classifier of real ones takes for their new domain, `to_a` and `to_b`
the shares of each; `l1` the mean absolute difference from true partners, `cycle_l1` that of pictures from what both
generators make of them, there and back. A run states the metrics that it measures.
"""

import math

from airank_fast.tasks import BLANK_2020, Metric, Task

TASK = Task(
    name="cyclegan",
    model="CycleGAN",
    title={"zh": "图像生成", "en": "image generation"},
    unit="images",
    metrics=(
        Metric("fid", ".2f", "down", math.inf),
        Metric("translated"),
        Metric("to_a"),
        Metric("to_b"),
        Metric("l1", ".4f", "down"),
        Metric("cycle_l1", ".4f", "down"),
    ),
    names={"airank": "CycleGAN"},
    data_set="Cityscapes",
    train_samples=2_975,
    eval_samples=500,
    targets={"airank 2020-12": BLANK_2020},
)
