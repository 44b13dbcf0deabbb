"""MLPerf's training rules of the 4.0 round, closed division, as data: the rules by name, and the values that each
benchmark's log must have.

Sources: mlcommons/training_policies, training_rules.adoc at 6e66845 (the text that GP2BM pins), here "training rules,
<section>"; and mlperf-logging's checkers for ruleset 4.0.0, here by their files. Where the two differ, the checker
is the source of truth, as the training rules state; the text decides what the checker leaves open.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from airank_fast import numeric
from airank_fast.rules.findings import ERROR, NOTE, WARNING, Rule
from airank_fast.tasks import find

ROUND = "4.0"
COMMON_YAML = "compliance_checker training_4.0.0/common.yaml"
CLOSED_YAML = "compliance_checker training_4.0.0/closed_common.yaml"
PARSER = "compliance_checker mlp_parser/ruleset_400.py"
MLLOG = "mlperf_logging.mllog"
HYPERPARAMETERS = "training rules, Hyperparameters"
QUALITY = "training rules, Quality measure"
RUN_RESULTS = "training rules, Run Results"
# As of mlperf-logging 4.0.0-rc3, which the 4.0 round used: if one run logs a seed, all must. 4.1 requires one of each.
SEED_CHECKER = "package_checker/seed_checker.py of 4.0.0"


def _rule(name: str, severity: str, source: str) -> Rule:
    return Rule(name=f"mlperf.{name}", severity=severity, source=source)


RECORD = _rule("record", ERROR, PARSER)
ENCODING = _rule("encoding", ERROR, PARSER)
METADATA = _rule("metadata", ERROR, PARSER)
EVENT_TYPE = _rule("event_type", WARNING, MLLOG)
NAMESPACE = _rule("namespace", NOTE, MLLOG)
TIME_UNIT = _rule("time_unit", ERROR, MLLOG)
TIME_ORDER = _rule("time_order", ERROR, RUN_RESULTS)
EVENT_ORDER = _rule("event_order", ERROR, COMMON_YAML)
RUNNING = _rule("event_order", ERROR, RUN_RESULTS)  # not checked by the official checker
REQUIRED = _rule("required", ERROR, COMMON_YAML)
ONCE = _rule("once", ERROR, COMMON_YAML)
SUBMISSION = _rule("submission", ERROR, COMMON_YAML)
DIVISION = _rule("division", NOTE, "training rules, Divisions")
CACHE = _rule("cache_clear", ERROR, "training rules, Data State at Start of Run")
INITIALIZATION = _rule("initialization", ERROR, RUN_RESULTS)
CLOCK = _rule("clock", ERROR, RUN_RESULTS)
STATUS = _rule("status", ERROR, RUN_RESULTS)
TARGET = _rule("target", ERROR, QUALITY)
ACCURACY = _rule("accuracy", ERROR, QUALITY)
CADENCE = _rule("evaluation_cadence", ERROR, QUALITY)
EVALUATION = _rule("evaluation", WARNING, QUALITY)
STARTING_POINT = _rule("starting_point", WARNING, "training rules, Pre-training is not allowed")
EPOCHS = _rule("epoch_numbering", ERROR, "training rules, Epoch numbering")
INTERVALS = _rule("intervals", WARNING, COMMON_YAML)
SIZES = _rule("sizes", ERROR, QUALITY)
HYPERPARAMETER = _rule("hyperparameter", ERROR, HYPERPARAMETERS)
NOT_A_NUMBER = _rule("not_a_number", WARNING, MLLOG)
SEED = _rule("seed", ERROR, SEED_CHECKER)
UNKNOWN_KEYS = _rule("unknown_keys", NOTE, MLLOG)
OTHER_OPTIMIZER = _rule("other_optimizer", NOTE, HYPERPARAMETERS)
# Rules for the set of logs of a result.
_PACKAGE = "package_checker/package_checker.py"
# Exact number of logs in a result: package_checker's benchmark_meta.py.
NUM_LOGS = {
    **dict.fromkeys(("gpt3", "llama31_405b", "deepseekv3_671b", "qwen35_397b_grpo"), 3),
    **dict.fromkeys(("resnet", "ssd", "retinanet", "maskrcnn", "dlrm"), 5),
    **dict.fromkeys(("bert", "dlrm_dcnv2", "dlrmv4", "gnn", "rgat", "rnnt", "stable_diffusion", "flux1"), 10),
    **dict.fromkeys(("llama2_70b_lora", "llama31_8b", "gpt_oss_20b", "gnmt", "transformer", "ncf", "minigo"), 10),
    "unet3d": 40,
}
MAX_FAILED = {"unet3d": 4}  # runs of a set that may fail to converge; 1 for other benchmarks
NUM_RUNS = _rule("num_runs", ERROR, f"training rules, Benchmark Results; {_PACKAGE}")
CONVERGED = _rule("converged", ERROR, "training rules, Benchmark Results")
SAME_SYSTEM = _rule("same_system", ERROR, "training rules, System and framework must be consistent")
SAME_HYPERPARAMETERS = _rule(
    "same_hyperparameters", ERROR, "training rules, Scoring: independent runs of one submission"
)
SEEDS_DIFFER = _rule("seeds_differ", ERROR, SEED_CHECKER)
SEEDS_OF_ALL = _rule("seeds_of_all", ERROR, SEED_CHECKER)
COPY = _rule("copy", ERROR, "training rules, Scoring: independent runs of one submission")
RCP = _rule("rcp", ERROR, "training rules, Reference Convergence Points; rcp_checker training_4.0.0")
RCP_MISSING = _rule("rcp_missing", NOTE, "rcp_checker training_4.0.0")

# Rules that differ between benchmarks: their unit of epochs and accuracy, and the order of evaluations.
OF_A_BOOK = (RUNNING, ACCURACY, EPOCHS)
POINT, START, END = "POINT_IN_TIME", "INTERVAL_START", "INTERVAL_END"
MAX_INITIALIZATION_MS = {"closed": 30 * 60_000, "open": 240 * 60_000}
TIME_SLACK_MS = 1000  # lines of several processes may be out of order by some milliseconds
LARGE_BATCH = 32_000  # "0.9 for batch<32k": 32k is 32,000, so 32,256 is free
# Benchmarks of the 4.0 round's checker, and those of other rounds (benchmark_meta.py), by MLPerf's names.
_OF_THIS_ROUND = (
    "resnet",
    "ssd",
    "stable_diffusion",
    "maskrcnn",
    "gpt3",
    "dlrm_dcnv2",
    "bert",
    "rnnt",
    "unet3d",
    "gnn",
    "llama2_70b_lora",
)
OTHER_ROUNDS = {
    "ncf": "0.6",
    **dict.fromkeys(("gnmt", "transformer"), "0.6 and 0.7"),
    "minigo": "0.6 to 2.1",
    "dlrm": "0.7 to 2.1",
    **dict.fromkeys(("retinanet", "rgat"), "5.0 and 5.1"),
    "llama31_405b": "5.0 to 6.0",
    **dict.fromkeys(("flux1", "llama31_8b"), "5.1 and later"),
    **dict.fromkeys(("gpt_oss_20b", "deepseekv3_671b"), "6.0 and later"),
    **dict.fromkeys(("qwen35_397b_grpo", "dlrmv4"), "6.1"),
}
WORDS = {
    "submission_benchmark": (*_OF_THIS_ROUND, *OTHER_ROUNDS),
    "submission_division": ("closed", "open"),
    "submission_status": ("cloud", "onprem", "preview", "research"),
}
SUBMISSION_KEYS = (
    "submission_benchmark",
    "submission_org",
    "submission_platform",
    "submission_division",
    "submission_status",
)
CLEARED = (
    True,
    "true",
    "True",
    None,
)  # cache_clear: the checker accepts any value; a line without a value states the event
CLOCK_KEYS = ("init_stop", "run_start", "run_stop")
KEYS_IN_ORDER = ("submission_division", "cache_clear", "init_start", *CLOCK_KEYS, "seed", "eval_accuracy")
# BERT's checkpoints may be evaluated after run_stop, with the times at which they were written.
KEYS_OF_CHECKPOINTS = ("eval_start", "eval_accuracy", "eval_stop", "run_stop")
INTERVALS_OF = ("block", "epoch", "eval")  # each has a _start and a _stop
# Keys whose time decides the result or the order of a run; the others only state facts.
KEYS_OF_THE_CLOCK = {
    *CLOCK_KEYS,
    "eval_accuracy",
    *(f"{name}_{end}" for name in INTERVALS_OF for end in ("start", "stop")),
}
_BEFORE_5_0 = {"submission_org", "submission_platform", "submission_status"}  # later rounds omit them
# A log must have one key of each tuple.
REQUIRED_KEYS = [
    *((key,) for key in (*SUBMISSION_KEYS, "cache_clear", "init_start", *CLOCK_KEYS)),
    *((key,) for key in ("train_samples", "eval_samples", "eval_accuracy")),
    ("block_start", "epoch_start"),
    ("block_stop", "epoch_stop"),
]
REQUIRED_IN_EVERY_ROUND = [keys for keys in REQUIRED_KEYS if not _BEFORE_5_0 & set(keys)]
# Keys of mllog and of common trainers that no rule concerns.
HARMLESS_KEYS = {
    "weights_initialization",
    "tracked_stats",
    "opt_gradient_clip_norm",
    "max_sequence_length",
    "eval_max_prediction_symbols",
    "submission_entry",
    "submission_poc_name",
    "submission_poc_email",
    "trained_samples",
    "init_checkpoint_step",
}


class Requirement(NamedTuple):
    """A required value: in words, and as a test."""

    text: str
    holds: Callable[[object], bool]
    source: str = HYPERPARAMETERS


def short(value: object) -> str:
    """A value in at most 80 characters, for a message."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    return repr(value)[:80]


def is_number(value: object) -> bool:
    """A number of less than 1e18 either way; bool, NaN and inf are none."""
    return numeric.is_number(value, 10**18 - 1)


def is_whole(value: object) -> bool:
    """A whole number, also as a float."""
    return is_number(value) and value == math.floor(value)


def _positive(value: object) -> bool:
    return is_number(value) and value > 0


def _whole_count(value: object) -> bool:
    return is_whole(value) and value > 0


def _whole_or_zero(value: object) -> bool:
    return is_whole(value) and value >= 0


def _is_near_whole(value: float) -> bool:
    return abs(round(value) - value) < 1e-5  # the checker's tolerance


def _thousandths(value: object) -> bool:
    return is_number(value) and _is_near_whole(value / 0.001)


def _weight_decay(value: object) -> bool:
    return _positive(value) and _is_near_whole(math.log2(value / 0.0001))


def _exactly(number: float) -> Requirement:
    return Requirement(f"{number:g}", lambda value: is_number(value) and value == number)


_NUMBER = Requirement("a number", is_number)
_POSITIVE = Requirement("a number above 0", _positive)
_WEIGHT_DECAY = Requirement("0.0001 x 2^N with a whole N", _weight_decay)
SIZE_KEYS = {
    "global_batch_size": Requirement("a whole number above 0", _whole_count, CLOSED_YAML),
    "gradient_accumulation_steps": Requirement("a whole number above 0", _whole_count, CLOSED_YAML),
}
_LARS = {
    "lars_opt_base_learning_rate": _NUMBER,
    "lars_opt_end_learning_rate": _exactly(0.0001),
    "lars_opt_learning_rate_decay_poly_power": _exactly(2),
    "lars_opt_learning_rate_decay_steps": _NUMBER,
    "lars_epsilon": _exactly(0),
    "lars_opt_learning_rate_warmup_epochs": _NUMBER,
    "lars_opt_momentum": _NUMBER,  # 0.9 below a batch of 32k
    "lars_opt_weight_decay": _WEIGHT_DECAY,
}
_SGD = {
    "sgd_opt_base_learning_rate": Requirement("0.001 k with a whole k", _thousandths),
    "sgd_opt_end_learning_rate": _exactly(0.0001),
    "sgd_opt_learning_rate_decay_poly_power": _exactly(2),
    "sgd_opt_learning_rate_decay_steps": Requirement("a whole number from 0", _whole_or_zero),
    "sgd_opt_weight_decay": _WEIGHT_DECAY,
    "sgd_opt_momentum": _exactly(0.9),
    "model_bn_span": _NUMBER,
    "opt_learning_rate_warmup_epochs": Requirement("a whole number from 0", _whole_or_zero),
}
_LAMB = {
    "opt_base_learning_rate": _NUMBER,
    "opt_lamb_epsilon": _NUMBER,
    "opt_learning_rate_training_steps": _NUMBER,
    "opt_learning_rate_warmup_steps": _NUMBER,
    "num_warmup_steps": _NUMBER,
    "start_warmup_step": _NUMBER,
    "opt_lamb_beta_1": _NUMBER,
    "opt_lamb_beta_2": _NUMBER,
    "opt_lamb_weight_decay_rate": _NUMBER,
}
_SHARE = Requirement("from 0, below 1", lambda value: is_number(value) and 0 <= value < 1)
# Values that the rules allow outside this range, but no optimizer trains with: warnings.
PLAUSIBLE = {
    **dict.fromkeys(("lars_opt_base_learning_rate", "sgd_opt_base_learning_rate", "opt_base_learning_rate"), _POSITIVE),
    **dict.fromkeys(("lars_opt_learning_rate_decay_steps", "opt_learning_rate_training_steps"), _POSITIVE),
    **dict.fromkeys(("opt_lamb_epsilon", "opt_epsilon", "model_bn_span"), _POSITIVE),
    **dict.fromkeys(("opt_lamb_beta_1", "opt_lamb_beta_2", "opt_lamb_weight_decay_rate", "lars_opt_momentum"), _SHARE),
}
# Two names of one value: (the key that the checker requires, the key in the rules and the RCP files).
SAME = {
    "resnet": (),
    "bert": (("opt_lamb_epsilon", "opt_epsilon"), ("num_warmup_steps", "opt_learning_rate_warmup_steps")),
}


@dataclass(frozen=True)
class Benchmark:
    """The values that a log of one benchmark must have; `optimizers` maps each optimizer to its required lines."""

    name: str
    num_runs: int
    target: float
    eval_samples: int
    train_samples: int | None  # None: any; BERT's may also be the samples to converge
    optimizers: dict[str, dict[str, Requirement]] = field(repr=False)
    default_optimizer: str | None = None  # if the log names none
    counts_samples: bool = False  # its epoch_num is the number of samples trained

    @property
    def yaml(self) -> str:
        """The official checker's file for the benchmark."""
        return f"compliance_checker training_4.0.0/closed_{self.name}.yaml"


def _benchmark(name: str, num_runs: int, optimizers: dict, default_optimizer: str | None = None) -> Benchmark:
    """The benchmark, with the sizes and the target of its task."""
    task = find(name)
    target, counts_samples = task.headline_target("mlperf", ROUND), task.counted_in == "samples"
    sizes = task.eval_samples, task.train_samples
    return Benchmark(name, num_runs, target, *sizes, optimizers, default_optimizer, counts_samples)


BENCHMARKS = {
    "resnet": _benchmark("resnet", 5, {"lars": _LARS, "sgd": _SGD}),
    "bert": _benchmark("bert", 10, {"lamb": _LAMB}, "lamb"),
}
KEYS_ONCE = {*SUBMISSION_KEYS, *CLOCK_KEYS, *SIZE_KEYS, "train_samples", "eval_samples", "opt_name", "opt_epsilon"}
KEYS_ONCE |= {key for each in BENCHMARKS.values() for keys in each.optimizers.values() for key in keys}
ROUNDING = 25_000  # samples; BERT's interval is rounded down to a multiple
BERT_STARTING_ACCURACY = 0.34085  # masked-LM accuracy of the checkpoint that training starts from


def evaluation_interval(benchmark: str, global_batch_size: int) -> int:
    """Epochs between evaluations of resnet; samples of bert: 0.05 (230.23 GBS + 3,000,000), down to 25,000 k."""
    if benchmark == "resnet":
        return 4
    return (23_023 * global_batch_size + 300_000_000) // 50_000_000 * ROUNDING


def has_no_time(record: dict) -> bool:
    """Whether a line outside the clock has time_ms 0, as shell scripts write it."""
    return record["time_ms"] == 0 and record["key"] not in KEYS_OF_THE_CLOCK


def missing_metadata(key: str, metadata: dict) -> str | None:
    """The required metadata that a block_start, epoch_stop or similar line lacks; None if it is complete."""
    samples = metadata.get("samples_count")
    if not key.startswith("block"):
        is_stated = "epoch_num" in metadata or ("samples_count" in metadata and key.startswith("eval"))
        return None if is_stated else "metadata.epoch_num"
    if "samples_count" in metadata and not (is_number(samples) and samples >= 0):
        return "metadata.samples_count from 0"
    if key == "block_stop":
        return None if {"first_epoch_num", "samples_count"} & metadata.keys() else "metadata.first_epoch_num"
    count = metadata.get("epoch_count")
    if "epoch_count" in metadata:
        whole = "first_epoch_num" in metadata and is_number(count) and count > 0
        return None if whole else "metadata.first_epoch_num, and epoch_count above 0"
    return None if "samples_count" in metadata else "metadata.first_epoch_num and epoch_count, or samples_count"
