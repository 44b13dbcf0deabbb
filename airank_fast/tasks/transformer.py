"""Transformer: translation from English to German, BLEU on newstest2014.

bleu is cased, of sacrebleu's 13a tokens. FlagPerf lower-cases first, MLPerf has tokens of its own besides: both are
named here, see airank_fast/quality/bleu.py. Their logs call their own reading BLEU, as the targets below do.
"""

from airank_fast.tasks import AIRANK_2021, BLANK_2020, FLAGPERF_CONFIG, MLPERF_RULES, Metric, Target, Task

TASK = Task(
    name="transformer",
    model="Transformer",
    title={"zh": "机器翻译", "en": "translation"},
    unit="tokens",
    metrics=tuple(Metric(name, ".2f", maximum=100.0) for name in ("bleu", "bleu_lowercase", "bleu_uncased")),
    names={"airank": "Transformer", "mlperf": "transformer", "flagperf": "transformer"},
    data_set="WMT English-German",
    targets={
        "airank 2020-12": BLANK_2020,
        "airank 2021-05": Target({"bleu": 25.0}, AIRANK_2021),
        "mlperf 0.7": Target({"bleu": 25.0}, MLPERF_RULES),
        "flagperf": Target({"bleu": 27.0}, FLAGPERF_CONFIG.format("transformer")),
    },
)
