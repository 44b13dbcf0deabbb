"""DSSM: semantic matching of question pairs on the BQ corpus. No published text names a target.

The corpus has 100,000 lines to train on and 10,000 to evaluate (icrc.hitsz.edu.cn/Article/show/175.html). A training
sample is a line whose questions match; no document states how many these are, so that `least_samples` is ours. The
order rate is the metric of PaddleRec's DSSM (正序率).
"""

from airank_fast.tasks import BLANK_2020, Metric, Task

TASK = Task(
    name="dssm",
    model="DSSM",
    title={"zh": "智能推荐", "en": "semantic matching"},
    metrics=(Metric("order_rate", ".4f"), Metric("auc", ".4f"), Metric("recall_at_10")),
    names={"airank": "DSSM"},
    data_set="BQ corpus",
    eval_samples=10_000,
    least_samples=20_000,
    targets={"airank 2020-12": BLANK_2020},
)
