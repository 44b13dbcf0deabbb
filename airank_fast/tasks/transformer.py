"""Transformer: translation from English to German, BLEU on newstest2014."""

from airank_fast.tasks import AIRANK_2021, BLANK_2020, FLAGPERF_CONFIG, MLPERF_RULES, Metric, Target, Task

TASK = Task(
    name="transformer",
    model="Transformer",
    title={"zh": "机器翻译", "en": "translation"},
    unit="tokens",
    metrics=(Metric("bleu", ".2f", maximum=100.0),),
    names={"airank": "Transformer", "mlperf": "transformer", "flagperf": "transformer"},
    data_set="WMT English-German",
    targets={
        "airank 2020-12": BLANK_2020,
        "airank 2021-05": Target({"bleu": 25.0}, AIRANK_2021),
        "mlperf 0.7": Target({"bleu": 25.0}, MLPERF_RULES),
        "flagperf": Target({"bleu": 27.0}, FLAGPERF_CONFIG.format("transformer")),
    },
)
