"""BERT: pre-training on Wikipedia to a masked-LM accuracy.

No document fixes the number of samples; it depends on the preparation. MLPerf's has 391,434,110,129 bytes at ten
maskings and 2,538 bytes a sample (language_model/tensorflow/bert/README.md): 15.4 million samples a masking, and
about half of that when packed without padding.
"""

from airank_fast.tasks import AIRANK_2021, FLAGPERF_CONFIG, MLPERF_RULES, Metric, Target, Task

TASK = Task(
    name="bert",
    model="BERT",
    title={"zh": "语义表示", "en": "language representation"},
    unit="samples",
    counted_in="samples",
    metrics=(Metric("mlm_accuracy"),),
    names={"airank": "BERT", "mlperf": "bert", "flagperf": "bert"},
    network="bert_large",
    data_set="Wikipedia 2020-01-01",
    eval_samples=10_000,
    least_samples=5_000_000,
    targets={
        "airank 2020-12": Target(
            {"mlm_accuracy": 0.712}, "AI-Rank 软件赛道, 主要指标 (blank in train.md of 2020-12-01)"
        ),
        "airank 2021-05": Target({"mlm_accuracy": 0.712}, AIRANK_2021),
        "mlperf": Target({"mlm_accuracy": 0.720}, MLPERF_RULES),
        "mlperf 0.7": Target({"mlm_accuracy": 0.712}, MLPERF_RULES),
        "flagperf": Target({"mlm_accuracy": 0.710}, FLAGPERF_CONFIG.format("bert")),
    },
)
