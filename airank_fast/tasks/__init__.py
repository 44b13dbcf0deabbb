"""The facts of each benchmark, one file a task; `find` returns the task of a name and alone matches names.

    from airank_fast import tasks
    tasks.find("bert_large").unit           # "samples"; also of BERT and bert-mini; None for any other name
    tasks.of(run_config)                    # the task of a run, also one without a file here

A new file in this folder that defines TASK adds a task. The run_config event carries `TASK.facts()`; `of` makes the
task from it.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cache

from airank_fast.errors import UserError
from airank_fast.numeric import is_number

AIRANK_2020 = "AI-Rank docs/software/train.md (2020-12-01), 评价指标"
AIRANK_2021 = "AI-Rank docs/software/train.md (2021-05-28), 模型、数据集和约束条件"
MLPERF_RULES = "mlcommons/training_policies, training_rules.adoc"
FLAGPERF_CONFIG = "FlagPerf training/benchmarks/{}/pytorch/config/_base.py"
COUNTED_IN = ("epochs", "steps", "samples")
SMALLER = ("tiny", "mini")  # words in the name of a network that is smaller than the benchmark's


@dataclass(frozen=True)
class Metric:
    """A quality figure: its name, the direction of improvement, its print format and its maximum.

    `maximum` is 1 for a fraction (also if printed in per cent), 100 for BLEU, inf without a bound. `mlperf` is its name
    in an MLPerf log whose eval_accuracy is an object of several metrics.
    """

    name: str
    format: str = ".2%"
    direction: str = "up"
    maximum: float = 1.0
    mlperf: str = ""

    def reaches(self, value: float, target: float) -> bool:
        """Whether a value reaches the target; NaN does not."""
        return value >= target if self.direction == "up" else value <= target

    @property
    def digits(self) -> int:
        """The number of printed decimals; the largest number for .4g."""
        return int(self.format[1:-1])

    @property
    def scale(self) -> int:
        """The factor of a printed value: 100 in per cent, else 1."""
        return 100 if self.format.endswith("%") else 1

    def best(self, values: Iterable[float]) -> float | None:
        """The best of the values; None without values."""
        return (max if self.direction == "up" else min)(values, default=None)

    def is_per_cent(self, values: Iterable[float]) -> bool:
        """Whether the values of a log are in per cent: if one value of a fraction is above 1, all are in per cent.

        UserError for a value above the metric's maximum in any unit.
        """
        largest = max((value for value in values if math.isfinite(value)), default=0.0)
        if largest <= self.maximum * (1 + 1e-6):
            return False
        if self.maximum != 1 or largest > 100:
            unit = "from 0 to 1, or to 100 in per cent" if self.maximum == 1 else f"at most {self.maximum:g}"
            raise UserError(f"{self.name}: must be {unit}, got {largest:g}")
        return True

    def text(self, value: float) -> str:
        """The printed value."""
        return format(value, self.format)


@dataclass(frozen=True)
class Target:
    """The values that one evaluation must reach, by metric, and the document that requires them."""

    values: Mapping[str, float]
    source: str


BLANK_2020 = Target({}, AIRANK_2020)  # a model whose target is blank in that document's table


@dataclass(frozen=True, kw_only=True)
class Task:
    """The facts of a benchmark.

    `names` are those in the rule books (airank, mlperf, flagperf), `aliases` other spellings. `network` is the one that
    MLPerf prescribes, by its name in our logs. `targets` are keyed by rule book and version: "airank 2020-12",
    "mlperf", "mlperf 0.7"; a target without values is a blank row of the document. `train_samples` is the size of the
    data set if a document fixes it, `least_samples` the smallest size of any preparation; `classes` are those that a
    run's `data` event states.
    """

    name: str
    model: str
    title: Mapping[str, str]
    unit: str = "samples"
    counted_in: str = "epochs"
    metrics: tuple[Metric, ...] = (Metric("accuracy"),)
    names: Mapping[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    network: str = ""
    data_set: str = ""
    train_samples: int | None = None
    eval_samples: int | None = None
    least_samples: int | None = None
    classes: int | None = None
    targets: Mapping[str, Target] = field(default_factory=dict)

    @property
    def benchmark(self) -> str:
        """The full benchmark name in our logs: bert_large."""
        return self.network or self.name

    def is_spelled(self, name: object) -> bool:
        """Whether a name is a spelling of this task: ResNet-50 and resnet, BERT-large and bert; not bert_base."""
        return "".join(_words(name)) in {"".join(_words(each)) for each in (self.network, *self.spellings)}

    @property
    def spellings(self) -> tuple[str, ...]:
        """Every name of the task in the rule books and elsewhere."""
        return (self.name, self.model, *self.names.values(), *self.aliases)

    def has_classes(self, stated: object) -> bool:
        """Whether a data set of so many classes may be the task's; None of a log that does not state them."""
        return self.classes is None or stated is None or stated == self.classes

    @property
    def headline(self) -> Metric:
        """The metric that a log names accuracy."""
        return self.metrics[0]

    def metric(self, name: str) -> Metric | None:
        """The metric of that name; None if there is none."""
        return next((metric for metric in self.metrics if metric.name == name), None)

    def is_listed(self, book: str, version: str = "") -> bool:
        """Whether a rule book lists this task, with or without a target."""
        return f"{book} {version}".strip() in self.targets

    def target(self, book: str, version: str = "") -> Target | None:
        """The target in a rule book, of this version if it has its own; None if the book states none."""
        found = self.targets.get(f"{book} {version}".strip(), self.targets.get(book))
        return found if found and found.values else None

    def headline_target(self, book: str, version: str = "") -> float | None:
        """What a rule book requires of the headline metric."""
        found = self.target(book, version)
        return found.values.get(self.headline.name) if found else None

    def reached(self, values: Mapping[str, float], target: Mapping[str, float]) -> bool:
        """Whether one evaluation has all that the target requires; a target without metrics is never reached."""
        return bool(target) and all(
            name in values and (self.metric(name) or Metric(name)).reaches(values[name], least)
            for name, least in target.items()
        )

    def facts(self, target: Mapping[str, float] | None = None) -> dict:
        """The field `task` of a run_config event, plain JSON; `target` is the run's own."""
        metrics = [
            {"name": m.name, "direction": m.direction, "format": m.format}
            | ({"maximum": m.maximum} if math.isfinite(m.maximum) else {})
            for m in self.metrics
        ]
        return {
            "name": self.name,
            "model": self.model,
            "title": dict(self.title),
            "unit": self.unit,
            "counted_in": self.counted_in,
            "metrics": metrics,
            "target": dict(target or {}),
        }


@cache
def all_tasks() -> tuple[Task, ...]:
    """Every task that has a file here, by name."""
    modules = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return tuple(importlib.import_module(f"{__name__}.{name}").TASK for name in modules)


def find(name: object) -> Task | None:
    """The task of a benchmark's name in any rule book or log: resnet50, ResNet-50, Wide&Deep, bert_large, hrnet_w18.

    Words for its network may follow a task's own name. None if no task has the name.
    """
    words = _words(name)
    if "".join(words) in _aliases():
        return _aliases()["".join(words)]
    beginnings = ("".join(words[:count]) for count in range(len(words), 0, -1))
    return next((_own_names()[beginning] for beginning in beginnings if beginning in _own_names()), None)


def fraction(per_cent: float) -> float:
    """A value in per cent as the decimal fraction: 76.1 gives 0.761, without the rounding error of 76.1 / 100."""
    return float(Decimal(repr(per_cent)).scaleb(-2)) if math.isfinite(per_cent) else per_cent


def is_smaller(name: object) -> bool:
    """Whether a name is that of a network smaller than the benchmark's: bert_tiny, bert_mini."""
    return any(word in SMALLER for word in _words(name))


def of(config: Mapping) -> Task | None:
    """The task of a run_config's benchmark; facts in the run_config replace ours."""
    facts = config.get("task")
    name = facts.get("name") if isinstance(facts, Mapping) else None
    task = find(config.get("benchmark")) or find(name)
    return from_facts(facts, task) if isinstance(facts, Mapping) else task


def from_facts(facts: Mapping, base: Task | None = None) -> Task | None:
    """The task that `Task.facts` describes; invalid and missing facts are those of `base`.

    None without a name and a base.
    """
    name, model, unit, title = (facts.get(key) for key in ("name", "model", "unit", "title"))
    if base is None:
        if not _is_word(name):
            return None
        base = Task(name=name, model=name, title={"zh": name, "en": name})
    fields = {key: value for key, value in (("model", model), ("unit", unit)) if _is_word(value)}
    if facts.get("counted_in") in COUNTED_IN:
        fields["counted_in"] = facts["counted_in"]
    if isinstance(title, Mapping):
        fields["title"] = {**base.title, **{key: text for key, text in title.items() if _is_word(text)}}
    metrics = facts.get("metrics")
    found = [_metric(each) for each in metrics] if isinstance(metrics, list) else []
    if found and None not in found:
        fields["metrics"] = tuple(found)
    return replace(base, **fields)


def headline(config: Mapping) -> Metric:
    """The metric that the log of a run_config names accuracy.

    Without a benchmark it is a fraction; for a benchmark without a task it is a number of any size.
    """
    task = of(config)
    if task is not None:
        return task.headline
    return Metric("accuracy", ".4g", maximum=math.inf) if config.get("benchmark") else Metric("accuracy")


def target_of_facts(facts: object) -> dict[str, float]:
    """The target in the facts of a run, {metric: value}; {} if it is missing or invalid."""
    target = facts.get("target") if isinstance(facts, Mapping) else None
    if not isinstance(target, Mapping) or not all(is_number(value, math.inf) for value in target.values()):
        return {}
    return dict(target)


def _metric(facts: object) -> Metric | None:
    """A metric of `Task.facts`; None without a name."""
    if not isinstance(facts, Mapping) or not _is_word(facts.get("name")):
        return None
    form, direction, maximum = (facts.get(key) for key in ("format", "direction", "maximum"))
    return Metric(
        facts["name"],
        form if isinstance(form, str) and re.fullmatch(r"\.\d{1,2}[%fg]", form) else ".4f",
        direction if direction in ("up", "down") else "up",
        maximum if is_number(maximum) and maximum > 0 else math.inf,
    )


def _is_word(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _words(name: object) -> list[str]:
    """The words of a name in lower case: Wide&Deep gives [wide, deep]."""
    return re.findall(r"[^\W_]+", name.lower()) if isinstance(name, str) else []


@cache
def _own_names() -> dict[str, Task]:
    return {"".join(_words(task.name)): task for task in all_tasks()}


@cache
def _aliases() -> dict[str, Task]:
    return {"".join(_words(name)): task for task in all_tasks() for name in task.spellings}
