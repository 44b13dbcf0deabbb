"""DSSM: semantic matching of question pairs on the BQ corpus. No published text names a target."""

from airank_fast.tasks import BLANK_2020, Metric, Task

TASK = Task(
    name="dssm",
    model="DSSM",
    title={"zh": "智能推荐", "en": "semantic matching"},
    metrics=(Metric("order_rate", ".4f"),),
    names={"airank": "DSSM"},
    data_set="BQ corpus",
    train_samples=100_000,
    eval_samples=10_000,
    targets={"airank 2020-12": BLANK_2020},
)
