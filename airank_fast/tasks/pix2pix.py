"""pix2pix: paired image translation on Cityscapes. No published text names a target.

`l1` is the mean absolute difference of made pictures from their true partners, of levels from 0 to 1. A run states the
metrics that it measures: FID only where the user has the features for it.
"""

import math

from airank_fast.tasks import BLANK_2020, Metric, Task

TASK = Task(
    name="pix2pix",
    model="pix2pix",
    title={"zh": "图像生成", "en": "image generation"},
    unit="images",
    metrics=(Metric("fid", ".2f", "down", math.inf), Metric("l1", ".4f", "down")),
    names={"airank": "pix2pix"},
    data_set="Cityscapes",
    train_samples=2_975,
    eval_samples=500,
    targets={"airank 2020-12": BLANK_2020},
)
