"""The two tables of a training command: what is computed, and where it happens.

A field of a task's Recipe is a hyper-parameter. From it come an option of the command, its help, its default, and an
entry of `recipe.json`; its values are in the task's RECIPES. RunOptions is the other table: where a run happens and
what it writes. `command_line` makes the command of both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from airank_fast.errors import UserError, require
from airank_fast.tasks import Task

T = TypeVar("T")
Precision = Literal["fp32", "tf32", "bf16", "fp16"]
Fixed = Annotated[T, tyro.conf.Fixed, tyro.conf.Suppress]
"""A field of a recipe that no option changes."""


def read_target(text: str) -> float | dict[str, float] | None:
    """`0.97`, `box_ap=0.377,mask_ap=0.339` or `None`, as written on a command line; ValueError for another text."""
    if text == "None":
        return None
    if "=" not in text:
        return float(text)
    pairs = [part.partition("=") for part in text.split(",")]
    return {name.strip(): float(value) for name, _, value in pairs}


def _target_text(target: float | dict[str, float] | None) -> list[str]:
    return [",".join(f"{k}={v}" for k, v in target.items()) if isinstance(target, dict) else str(target)]


Target = Annotated[
    float | dict[str, float] | None,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="FLOAT|METRIC=FLOAT,...|None",
        instance_from_str=lambda texts: read_target(texts[0]),
        is_instance=lambda value: value is None or isinstance(value, float | int | dict),
        str_from_instance=_target_text,
    ),
]
"""The target of one evaluation: a value of the task's first metric, a value of each of several, or None."""


@dataclass(frozen=True)
class Submission:
    """Who hands the run in; goes into the MLPerf log and system_information.json."""

    org: str = "unknown"
    """Submitting organisation (MLPerf submission_org)."""
    platform: str = "unknown"
    """Name of the system (MLPerf submission_platform)."""
    division: Literal["closed", "open"] = "closed"
    """MLPerf division."""
    status: Literal["cloud", "onprem", "preview", "research"] = "research"
    """MLPerf availability category."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where a run happens and what it writes, in every task."""

    data: Path | None = None
    """The prepared data set. Default: the one that comes with the package."""
    output: Path | None = None
    """Directory for logs, metrics and checkpoints. Default: runs/<benchmark>-<date>-<time>."""
    resume: bool = False
    """Go on from the last checkpoint in --output, with the recipe and the options that are saved there."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes CUDA where there is a device."""
    amp: bool = False
    """Mixed precision where it is faster: bf16, or fp16 with dynamic loss scaling on GPUs before compute capability
    8.0; fp32 on CPUs without bf16 instructions."""
    workers: int | None = None
    """Threads (DALI) or processes (torch reader) that decode, per rank. Default: the cores of this rank."""
    skip_corrupt: bool = False
    """Read every file once before training, leave out those that do not decode, and report them."""
    checkpoint_every: int = 1
    """Save at every N-th evaluation (and at the end, on SIGTERM, Ctrl-C and a lost terminal)."""
    checkpoint_steps: int | None = None
    """Save every N steps as well."""
    cuda_graphs: bool = False
    """Capture the training step and replay it, which saves the host's work; on one GPU."""
    tensorboard: bool = False
    """Write TensorBoard event files to OUTPUT/tensorboard."""
    airank_profile: Literal["2020-12", "2021-05"] = "2020-12"
    """Which published text of the AI-Rank log format to write."""
    airank_warmup_epochs: int = 0
    """Epochs that AI-Rank's avg_ips leaves out at the start (its warmup_epoch_cnt)."""
    examples: bool = False
    """Leave pictures of predictions for the report with --data too, though a report that is handed in publishes
    them. Of embedded data there are always some."""
    clear_cache: bool = False
    """Drop the operating system's page cache before the run (needs root), as MLPerf's cache_clear requires."""
    submission: Submission = field(default_factory=Submission)
    """Who hands the run in."""


@dataclass(frozen=True, kw_only=True)
class CommonRecipe:
    """All settings of what is computed; saved with the run, and enough to repeat it."""

    name: Fixed[str]
    batch_size: int
    """Global batch: samples per optimizer step over all ranks and accumulated micro-batches."""
    gradient_accumulation_steps: int = 1
    """Micro-batches per optimizer step on each rank."""
    learning_rate: float
    """Base learning rate (after warm-up), for the whole global batch."""
    eval_batch_size: int
    """Global batch of the evaluation."""
    target: Target
    """Quality to reach, by the task's first metric (an accuracy is a fraction) or by several in one evaluation."""
    stop_at_target: bool = True
    """Stop when the target is reached; --no-stop-at-target goes on to the best quality, as AI-Rank requires."""
    seed: int = 1
    """Seed of initial weights, sample order, augmentation, masks and dropout."""
    precision: Precision = "fp32"
    """The arithmetic, where --amp is not to choose it."""
    fused: bool = True
    """Use the fused operators; --no-fused runs torch's own modules and losses, for comparison."""

    def micro_batch_size(self, world_size: int) -> int:
        """Samples of one micro-batch of one rank."""
        return self.batch_size // world_size // self.gradient_accumulation_steps


@dataclass(frozen=True, kw_only=True)
class Request:
    """A parsed command line. `given` has the names of the options on it."""

    command: Command
    options: Any
    recipe: Any
    given: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Command:
    """A training command, as a task's file defines it.

    job: the module that has the class Job. recipes: the first is that of a command line without options.
    defaults: from a request and the number of ranks, the recipe with the values of options that are not given.
    finish: checks a recipe, and fills in what depends on the machine; raises UserError.
    fixed: the values that distinguish this command's recipes from those of the task's other commands.
    decides: option -> the field of the recipe that depends on it, which a resumed run has already.
    """

    text: str
    task: Task
    job: str
    options: type[RunOptions]
    recipes: Mapping[str, CommonRecipe]
    defaults: Callable[[Request, int], Any]
    finish: Callable[[Any, Any], Any]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    decides: Mapping[str, str] = field(default_factory=dict)


def target_values(target: float | Mapping[str, float] | None, task: Task) -> dict[str, float]:
    """A recipe's target as {metric: value}: {} without one; a number is of the task's first metric."""
    if target is None:
        return {}
    return dict(target) if isinstance(target, Mapping) else {task.headline.name: target}


def check_target(target: float | Mapping[str, float] | None, task: Task) -> None:
    """UserError for a metric that the task lacks, or a value out of the metric's range."""
    for name, value in target_values(target, task).items():
        metric = task.metric(name)
        if metric is None:
            names = ", ".join(each.name for each in task.metrics)
            raise UserError(f"--target: must be of {names}, got {name}")
        least = "above 0" if metric.direction == "up" else "at least 0"
        what = f"{least} and at most {metric.maximum:g}" if metric.maximum < float("inf") else least
        if metric.maximum == 1:
            what = "a fraction in (0, 1]"
        sound = (value > 0 or (value == 0 and metric.direction == "down")) and value <= metric.maximum
        require(sound, "--target", what, value)


def check_common(options: RunOptions, recipe: CommonRecipe, task: Task, world_size: int) -> None:
    """UserError for a value out of range in every task."""
    for name in ("workers", "checkpoint_every", "checkpoint_steps"):
        value = getattr(options, name)
        require(value is None or value >= 1, option(name), "at least 1", value)
    require(options.airank_warmup_epochs >= 0, "--airank-warmup-epochs", "at least 0", options.airank_warmup_epochs)
    check_counts(recipe, ("batch_size", "gradient_accumulation_steps", "eval_batch_size"))
    require(recipe.learning_rate >= 0, "--learning-rate", "at least 0", recipe.learning_rate)
    micro_batches = world_size * recipe.gradient_accumulation_steps
    what = f"a multiple of ranks x gradient accumulation steps = {micro_batches}"
    require(recipe.batch_size % micro_batches == 0, "--batch-size", what, recipe.batch_size)
    check_target(recipe.target, task)


def check_counts(recipe: CommonRecipe, names: Iterable[str]) -> None:
    """UserError unless these fields of the recipe are at least 1."""
    for name in names:
        require(getattr(recipe, name) >= 1, option(name), "at least 1", getattr(recipe, name))


def check_betas(recipe: Any) -> None:
    """UserError unless beta1 and beta2, by which means decay, are in [0, 1)."""
    for name in ("beta1", "beta2"):
        require(0 <= getattr(recipe, name) < 1, option(name), "in [0, 1)", getattr(recipe, name))


def option(name: str) -> str:
    """A field as it is written on a command line: --batch-size."""
    return "--" + name.replace("_", "-")
