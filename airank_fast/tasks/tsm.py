"""TSM: video classification on Kinetics-400.

Some videos are no longer on the web: AI-Rank's own run has 234,619. Fewer than 200,000 are a part of the data set.
"""

from airank_fast.tasks import AIRANK_2021, BLANK_2020, Metric, Target, Task

TASK = Task(
    name="tsm",
    model="TSM",
    title={"zh": "视频分类", "en": "video classification"},
    unit="videos",
    metrics=(Metric("top1"),),
    names={"airank": "TSM"},
    data_set="Kinetics-400",
    least_samples=200_000,
    classes=400,
    targets={"airank 2020-12": BLANK_2020, "airank 2021-05": Target({"top1": 0.711}, AIRANK_2021)},
)
