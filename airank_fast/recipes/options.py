"""What every training command takes, whatever the benchmark, and what is checked of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import tyro

from airank_fast.errors import UserError

T = TypeVar("T")
Precision = Literal["fp32", "tf32", "bf16", "fp16"]
ByRecipe = Annotated[T | None, tyro.conf.arg(help_behavior_hint="(default: the recipe's)")]
"""An option that replaces a value of the recipe where it is given."""


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
    """Options of every benchmark: first those that do not change what is computed, only where it happens and what it
    leaves behind; then those that do."""

    output: Path | None = None
    """Directory for logs, metrics and checkpoints. Default: runs/<benchmark>-<date>-<time>."""
    resume: bool = False
    """Go on from the last checkpoint in --output, with the recipe that is saved there."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes CUDA where there is a device."""
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
    clear_cache: bool = False
    """Drop the operating system's page cache before the run (needs root), as MLPerf's cache_clear asks."""
    submission: Submission = field(default_factory=Submission)
    """Who hands the run in."""

    amp: bool = False
    """Mixed precision where it is faster: bf16, or fp16 with dynamic loss scaling on GPUs before compute capability
    8.0; fp32 on CPUs without bf16 instructions."""
    precision: Precision | None = None
    """Name the arithmetic outright instead of --amp."""
    learning_rate: ByRecipe[float] = None
    """Base learning rate (after warm-up), for the whole global batch."""
    gradient_accumulation_steps: ByRecipe[int] = None
    """Micro-batches per optimizer step on each rank."""
    eval_batch_size: ByRecipe[int] = None
    """Global batch of the evaluation."""
    stop_at_target: bool = True
    """Stop when the target is reached; --no-stop-at-target goes on to the best accuracy, as AI-Rank asks."""


def require(condition: bool, option: str, wanted: str, got: object) -> None:
    """UserError naming ``option`` (a field's name) unless ``condition`` holds."""
    if not condition:
        raise UserError(f"--{option.replace('_', '-')}: must be {wanted}, got {got}")


def chosen(options: RunOptions, recipe: type, amp_precision: Precision) -> dict:
    """The fields of ``recipe`` that ``options`` name, their precision among them.

    ``amp_precision`` is what --amp means on this device. UserError where --precision says something else.
    """
    if options.amp and options.precision not in (None, amp_precision):
        raise UserError(f"--amp means {amp_precision} on this device, got --precision {options.precision} with it")
    named = {f.name: getattr(options, f.name) for f in fields(recipe) if hasattr(options, f.name)}
    named["precision"] = options.precision or (amp_precision if options.amp else "fp32")
    return {name: value for name, value in named.items() if value is not None}


def check_options(options: RunOptions, recipe, world_size: int, counts: Iterable[str]) -> None:
    """UserError for a value of a common option, or of its field in ``recipe``, that cannot be.

    ``counts`` are the fields of ``recipe`` that must be at least 1.
    """
    for name in ("workers", "checkpoint_every", "checkpoint_steps"):
        value = getattr(options, name)
        require(value is None or value >= 1, name, "at least 1", value)
    require(options.airank_warmup_epochs >= 0, "airank_warmup_epochs", "at least 0", options.airank_warmup_epochs)
    for name in counts:
        require(getattr(recipe, name) >= 1, name, "at least 1", getattr(recipe, name))
    micro_batches = world_size * recipe.gradient_accumulation_steps
    wanted = f"a multiple of ranks x gradient accumulation steps = {micro_batches}"
    require(recipe.batch_size % micro_batches == 0, "batch_size", wanted, recipe.batch_size)
    require(recipe.target is None or 0 < recipe.target <= 1, "target", "a fraction in (0, 1]", recipe.target)
