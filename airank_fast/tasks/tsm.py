"""TSM: video classification on Kinetics-400.

Videos vanish from the web, so that nobody has all: AI-Rank's own run has 234,619.
A data set below 200,000 is a part of it.
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
    targets={"airank 2020-12": BLANK_2020, "airank 2021-05": Target({"top1": 0.711}, AIRANK_2021)},
)
