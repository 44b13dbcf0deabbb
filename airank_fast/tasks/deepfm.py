"""DeepFM: click-through rate on Criteo.

Criteo's Kaggle set has 45,840,617 rows and no fixed split; the smallest training part in use is 80 %.
"""

from airank_fast.tasks import AIRANK_2021, BLANK_2020, Metric, Target, Task

TASK = Task(
    name="deepfm",
    model="DeepFM",
    title={"zh": "智能推荐", "en": "click-through rate"},
    metrics=(Metric("auc", ".4f"),),
    names={"airank": "DeepFM"},
    data_set="Criteo, Kaggle",
    least_samples=36_672_493,
    targets={"airank 2020-12": BLANK_2020, "airank 2021-05": Target({"auc": 0.788}, AIRANK_2021)},
)
