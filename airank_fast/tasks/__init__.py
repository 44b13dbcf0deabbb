"""What a benchmark is: one file a task holds the facts, and `find` is the one place that knows its names.

    from airank_fast import tasks
    tasks.find("bert_large").unit           # "samples"; also BERT, bert-mini; None of a name that no task has
    tasks.of(run_config)                    # the task of a run, also one that no file here describes

A task is added by one new file in this folder that defines TASK. The run_config event carries `TASK.facts()`, from
which `of` makes the task again.
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

AIRANK_2020 = "AI-Rank docs/software/train.md (2020-12-01), 评价指标"
AIRANK_2021 = "AI-Rank docs/software/train.md (2021-05-28), 模型、数据集和约束条件"
MLPERF_RULES = "mlcommons/training_policies, training_rules.adoc"
FLAGPERF_CONFIG = "FlagPerf training/benchmarks/{}/pytorch/config/_base.py"
COUNTED_IN = ("epochs", "steps", "samples")
SMALLER = ("tiny", "mini")  # words in the name of a network that is smaller than the benchmark's


@dataclass(frozen=True)
class Metric:
    """A quality figure: its name, in which direction it is better, how it is printed, and the largest value it has.

    `maximum` is 1 of a fraction (also one that is printed in per cent), 100 of BLEU, inf where there is no bound.
    `mlperf` is its name in an MLPerf log whose eval_accuracy is an object of several metrics.
    """

    name: str
    format: str = ".2%"
    direction: str = "up"
    maximum: float = 1.0
    mlperf: str = ""

    def reaches(self, value: float, target: float) -> bool:
        """Whether a value is as good as the target or better; NaN never is."""
        return value >= target if self.direction == "up" else value <= target

    @property
    def digits(self) -> int:
        """Decimals that are printed; of .4g at most so many."""
        return int(self.format[1:-1])

    @property
    def scale(self) -> int:
        """What a value is multiplied by where it is printed: 100 of one in per cent."""
        return 100 if self.format.endswith("%") else 1

    def best(self, values: Iterable[float]) -> float | None:
        """The best of some values; None of none."""
        return (max if self.direction == "up" else min)(values, default=None)

    def is_per_cent(self, values: Iterable[float]) -> bool:
        """Whether a log's values of a fraction are in per cent: one of them is above 1, so that all are.

        UserError where one is above what this metric can have in any unit.
        """
        largest = max((value for value in values if math.isfinite(value)), default=0.0)
        if largest <= self.maximum * (1 + 1e-6):
            return False
        if self.maximum != 1 or largest > 100:
            unit = "from 0 to 1, or to 100 in per cent" if self.maximum == 1 else f"at most {self.maximum:g}"
            raise UserError(f"{self.name}: must be {unit}, got {largest:g}")
        return True

    def text(self, value: float) -> str:
        """The value as this metric is printed."""
        return format(value, self.format)


@dataclass(frozen=True)
class Target:
    """The least that one evaluation must have of each metric, and the document it stands in."""

    values: Mapping[str, float]
    source: str


BLANK_2020 = Target({}, AIRANK_2020)  # a model of that document's table whose target it leaves blank


@dataclass(frozen=True, kw_only=True)
class Task:
    """The facts of a benchmark.

    `names` are those of the rule books (airank, mlperf, flagperf), `aliases` other spellings of it. `network` is the
    one that MLPerf prescribes, by the name in our logs. `targets` are keyed by rule book and version: "airank 2020-12",
    "mlperf", "mlperf 0.7"; one without values is a row whose target the document leaves blank. `train_samples` is the
    size of the data set where a text fixes it, `least_samples` the least that any preparation of it has.
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
    targets: Mapping[str, Target] = field(default_factory=dict)

    @property
    def benchmark(self) -> str:
        """What our logs call a run of this task in full: bert_large."""
        return self.network or self.name

    def is_spelled(self, name: object) -> bool:
        """Whether a name is one of this task's in full: ResNet-50 and resnet, BERT-large and bert; not bert_base."""
        return "".join(_words(name)) in {"".join(_words(each)) for each in (self.network, *self.spellings)}

    @property
    def spellings(self) -> tuple[str, ...]:
        """Every name that the rule books and others have for it."""
        return (self.name, self.model, *self.names.values(), *self.aliases)

    @property
    def headline(self) -> Metric:
        """The metric that a log calls its accuracy."""
        return self.metrics[0]

    def metric(self, name: str) -> Metric | None:
        """The metric of that name."""
        return next((metric for metric in self.metrics if metric.name == name), None)

    def is_listed(self, book: str, version: str = "") -> bool:
        """Whether a rule book has this task, with or without a target."""
        return f"{book} {version}".strip() in self.targets

    def target(self, book: str, version: str = "") -> Target | None:
        """What a rule book requires, in this version where it says so; None where it states nothing."""
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

    A task's own name may be followed by words that tell its networks apart. None of a name that no task has.
    """
    words = _words(name)
    if "".join(words) in _aliases():
        return _aliases()["".join(words)]
    beginnings = ("".join(words[:count]) for count in range(len(words), 0, -1))
    return next((_own_names()[beginning] for beginning in beginnings if beginning in _own_names()), None)


def fraction(per_cent: float) -> float:
    """A value in per cent as a fraction, as it would be written: 76.1 is 0.761, whatever 76.1 / 100 is."""
    return float(Decimal(repr(per_cent)).scaleb(-2)) if math.isfinite(per_cent) else per_cent


def is_smaller(name: object) -> bool:
    """Whether a network is named as a smaller one than the benchmark's: bert_tiny, bert_mini."""
    return any(word in SMALLER for word in _words(name))


def of(config: Mapping) -> Task | None:
    """The task of a run_config: of its benchmark, with the facts that the run itself carries in place of ours."""
    facts = config.get("task")
    name = facts.get("name") if isinstance(facts, Mapping) else None
    task = find(config.get("benchmark")) or find(name)
    return from_facts(facts, task) if isinstance(facts, Mapping) else task


def from_facts(facts: Mapping, base: Task | None = None) -> Task | None:
    """The task that `Task.facts` describes, as far as it can be read; what it lacks is that of `base`.

    None where it has no name and there is no base.
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
    """The metric that a run_config's log calls its accuracy.

    A fraction where no benchmark is stated; of one that no task has, a number of any size.
    """
    task = of(config)
    if task is not None:
        return task.headline
    return Metric("accuracy", ".4g", maximum=math.inf) if config.get("benchmark") else Metric("accuracy")


def target_of_facts(facts: object) -> dict[str, float]:
    """The target that the facts of a run state: {metric: value}, {} where they state none that can be read."""
    target = facts.get("target") if isinstance(facts, Mapping) else None
    if not isinstance(target, Mapping) or not all(_is_number(value) for value in target.values()):
        return {}
    return dict(target)


def _metric(facts: object) -> Metric | None:
    """A metric of `Task.facts`; None where it has no name."""
    if not isinstance(facts, Mapping) or not _is_word(facts.get("name")):
        return None
    form, direction, maximum = (facts.get(key) for key in ("format", "direction", "maximum"))
    return Metric(
        facts["name"],
        form if isinstance(form, str) and re.fullmatch(r"\.\d{1,2}[%fg]", form) else ".4f",
        direction if direction in ("up", "down") else "up",
        maximum if _is_number(maximum) and maximum > 0 else math.inf,
    )


def _is_word(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and not math.isnan(value)


def _words(name: object) -> list[str]:
    """A name in lower case without what spellings differ in: wide, deep of Wide&Deep."""
    return re.findall(r"[^\W_]+", name.lower()) if isinstance(name, str) else []


@cache
def _own_names() -> dict[str, Task]:
    return {"".join(_words(task.name)): task for task in all_tasks()}


@cache
def _aliases() -> dict[str, Task]:
    return {"".join(_words(name)): task for task in all_tasks() for name in task.spellings}
