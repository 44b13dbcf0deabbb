"""Which accuracy AI-Rank and MLPerf ask of a model, each with the document it stands in.

Targets that are no fraction (COCO's box and mask AP, BLEU) are left out: how an AI-Rank log would write them is
defined nowhere.
"""

from __future__ import annotations

from typing import NamedTuple

IMAGENET_SAMPLES = 1_281_167  # training images of ILSVRC 2012


class Target(NamedTuple):
    """An accuracy as a fraction, and where it stands."""

    accuracy: float
    source: str


_2020 = "AI-Rank docs/software/train.md (2020-12-01), 评价指标"
_2021 = "AI-Rank docs/software/train.md (2021-05-28), 模型、数据集和约束条件"

# (profile, model) -> target. The train.md of 2020-12-01 names one for ResNet-50 alone, its row for BERT is blank; the
# description of the software track that came before it asks 0.712.
TARGETS = {
    ("2020-12", "resnet50"): Target(0.759, _2020),
    ("2020-12", "bert"): Target(0.712, "AI-Rank 软件赛道, 主要指标, 云端训练 (blank in train.md of 2020-12-01)"),
    ("2021-05", "resnet50"): Target(0.759, _2021),
    ("2021-05", "bert"): Target(0.712, _2021),
    ("2021-05", "deeplabv3+"): Target(0.785, _2021),
    ("2021-05", "hrnet"): Target(0.78, _2021),
    ("2021-05", "tsm"): Target(0.711, _2021),
    ("2021-05", "deepfm"): Target(0.788, _2021),
    ("2021-05", "wide&deep"): Target(0.795, _2021),
    ("2021-05", "word2vec"): Target(0.6, _2021),
}
MODELS = tuple(dict.fromkeys(model for _, model in TARGETS))
# MLPerf's name of a benchmark -> target in its closed division: training_rules.adoc as rules.py names it.
MLPERF_TARGETS = {"resnet": 0.759, "bert": 0.720}


def is_smaller(benchmark: str) -> bool:
    """Whether a network is called like a model and is none of AI-Rank's: bert_tiny, bert_mini."""
    return any(word in benchmark for word in ("tiny", "mini"))


def model_of(benchmark: object) -> str | None:
    """The model that a run's benchmark is: bert of bert_large; None of another network."""
    name = str(benchmark or "")
    if is_smaller(name):
        return None
    return "bert" if name.startswith("bert") else name if name in MODELS else None


def target_of(benchmark: object, profile: str) -> Target | None:
    """What a profile asks of a run's benchmark; None where it names none."""
    return TARGETS.get((profile, model_of(benchmark)))
