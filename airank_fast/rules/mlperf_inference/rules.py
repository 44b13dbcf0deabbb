"""MLPerf's inference rules as data: the rules by name, the benchmarks with their scenarios, and the required files.

Sources: mlcommons/inference_policies (inference_rules.adoc, submission_rules), here "inference rules, <section>"; the
submission checkers of rounds 4.0 and 6.1 in mlcommons/inference, tools/submission; LoadGen's own definitions of the
figures that it logs (loadgen/results.cc); compliance/nvidia. The checker of 6.1 accepts runs that LoadGen calls
invalid (`is_valid` begins as True and is never taken back): the rules decide here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from airank_fast.record.formats.loadgen import ACCURACY, DETAIL, SUMMARY
from airank_fast.rules.findings import ERROR, NOTE, WARNING, Rule
from airank_fast.rules.inference_profiles import EVAL_SAMPLES, PERFORMANCE_SAMPLES, Bound, bounds

ROUNDS = ("v6.1", "v4.0")
# Our names of the scenarios with LoadGen's, which the folders of a tree have in any case.
SCENARIOS = {"offline": "Offline", "server": "Server", "singlestream": "SingleStream", "multistream": "MultiStream"}
OURS = {theirs: ours for ours, theirs in SCENARIOS.items()}
TESTS = ("TEST01", "TEST04", "TEST05")

_RULES, _LOADGEN = "inference rules, {}", "LoadGen, results.cc"
_CHECKER = "mlcommons/inference, submission checker"
_AUDIT = "mlcommons/inference, compliance/nvidia/{}"


def _rule(name: str, source: str, severity: str = ERROR) -> Rule:
    return Rule(name=f"inference.{name}", severity=severity, source=source)


# the log of a test
RECORD = _rule("record", _CHECKER + ", loadgen_parser.py")
ONCE = _rule("once", _LOADGEN)
MISSING = _rule("missing", _LOADGEN)
LOADGEN = _rule("loadgen", _RULES.format("LoadGen: the round's release, unmodified"))
SOURCES = _rule("loadgen_sources", _RULES.format("LoadGen: the round's release, unmodified"), WARNING)
ERRORS = _rule("errors", _RULES.format("LoadGen") + "; " + _CHECKER)
WARNED = _rule("warned", "LoadGen, logging.cc", NOTE)
MODE = _rule("mode", _RULES.format("Scenarios: accuracy and performance are separate runs"))
SCENARIO = _rule("scenario", _RULES.format("Scenarios"))
VALID = _rule("valid", _RULES.format("Scenarios") + "; " + _LOADGEN)
EARLY_STOPPING = _rule("early_stopping", _RULES.format("Early Stopping Criterion"))
MIN_QUERIES = _rule("min_queries", _RULES.format("Scenarios: number of queries and samples"))
DURATION = _rule("duration", _RULES.format("Scenarios: minimum duration"))
SEEDS = _rule("seeds", _RULES.format("LoadGen: seeds of the round"))
PERCENTILE = _rule("percentile", _RULES.format("Scenarios: tail latency"))
SAMPLES_PER_QUERY = _rule("samples_per_query", _RULES.format("Scenarios"))
LATENCY = _rule("latency", _RULES.format("Benchmarks: server latency constraints"))
ISSUE = _rule("issue", _RULES.format("Scenarios: samples are drawn at random"))
LOGGED = _rule("accuracy_log", _RULES.format("Scenarios: a performance run logs no answers"))
PERFORMANCE_SAMPLES_RULE = _rule("performance_samples", _RULES.format("Benchmarks: QSL size"))
SETTINGS = _rule("settings", "LoadGen, test_settings_internal.cc")
RESULT = _rule("result", _LOADGEN)
CONTRADICTION = _rule("contradiction", _LOADGEN)
CLOCK = _rule("clock", _LOADGEN)
NO_ROUND = _rule("round", _RULES.format("LoadGen: seeds of the round"), WARNING)
SUMMARY_RULE = _rule("summary", _LOADGEN)

# the accuracy of a test
DATASET = _rule("dataset", _RULES.format("Benchmarks: the whole data set is evaluated"))
ACCURACY_TEXT = _rule("accuracy_text", _CHECKER + ", accuracy.txt")
BOUND = _rule("accuracy", _RULES.format("Benchmarks: quality targets"))
ANSWERS = _rule("answers", "LoadGen, mlperf_log_accuracy.json")
LOST = _rule("lost_samples", _RULES.format("Benchmarks: the whole data set is evaluated"))
HASH = _rule("hash", "mlcommons/inference, tools/submission/truncate_accuracy_log.py")
TRUNCATED = _rule("truncated", "mlcommons/inference, tools/submission/truncate_accuracy_log.py")
NOT_CHECKED = _rule("not_checked", _CHECKER, NOTE)

# compliance
COMPLIANCE = _rule("compliance", _RULES.format("Audit Process"))
TEST01 = _rule("test01", _AUDIT.format("TEST01"))
TEST04 = _rule("test04", _AUDIT.format("TEST04"))
TEST05 = _rule("test05", _AUDIT.format("TEST05"))
OF_TEST = {"TEST01": TEST01, "TEST04": TEST04, "TEST05": TEST05}

# the tree
FILES = _rule("files", _CHECKER + "; submission rules, Directory structure")
NAMES = _rule("names", _CHECKER + ", names of files and folders")
STRAY = _rule("stray", _CHECKER + "; submission rules, Directory structure")
SYSTEM = _rule("system", _CHECKER + ", system_check.py")
MEASUREMENTS = _rule("measurements", _CHECKER + ", measurements_checks.py")
BENCHMARK = _rule("benchmark", _RULES.format("Benchmarks"))
SCENARIOS_RULE = _rule("scenarios", _RULES.format("Benchmarks: required scenarios"))
CODE = _rule("code", "submission rules, Directory structure")
SYSTEMS = _rule("systems", _CHECKER + ", systems_check.py")
NO_BOOK = _rule("no_book", _RULES.format("Benchmarks"), NOTE)
REHEARSAL = _rule("rehearsal", "airank_fast package", WARNING)

# Rules about the size of a run: outside a submission, and in a rehearsed one, breaking them is a warning.
OF_SIZE = {rule.name for rule in (MIN_QUERIES, DURATION, PERFORMANCE_SAMPLES_RULE, DATASET, BOUND, LATENCY)}
# Rules of a round: outside a submission breaking them is a warning, because the log states no round.
OF_ROUND = {rule.name for rule in (SEEDS, LOADGEN)}

VERSION = re.compile(r"(\d+\.\d+)(\.\d+)? @ (NA|[0-9a-f]{7,40})")  # NA: built outside a checkout, as on PyPI

FLAGS = {  # key of the detail log that must be true: the rule of it
    "result_min_duration_met": DURATION,
    "result_min_queries_met": MIN_QUERIES,
    "early_stopping_met": EARLY_STOPPING,
    "result_perf_constraints_met": VALID,
}
REQUIRED_KEYS = (
    "loadgen_version",
    "sut_name",
    "qsl_reported_total_count",
    "qsl_reported_performance_count",
    "effective_scenario",
    "effective_test_mode",
    "effective_samples_per_query",
    "effective_target_latency_percentile",
    "effective_min_duration_ms",
    "effective_min_query_count",
    "effective_qsl_rng_seed",
    "effective_sample_index_rng_seed",
    "effective_schedule_rng_seed",
    "effective_performance_issue_same",
    "effective_performance_issue_unique",
    "effective_performance_sample_count",
)
REQUIRED_RESULTS = (
    "result_validity",
    "result_min_duration_met",
    "result_min_queries_met",
    "result_query_count",
    "result_min_latency_ns",
    "result_max_latency_ns",
    "result_mean_latency_ns",
)
# The figure that is a scenario's result, and which way is better.
RESULTS = {
    "Offline": ("result_samples_per_second", "up"),
    "Server": ("result_scheduled_samples_per_sec", "up"),
    "SingleStream": ("early_stopping_latency_ss", "down"),
    "MultiStream": ("early_stopping_latency_ms", "down"),
}
# Settings that LoadGen passes on as they were requested.
SAME_SETTINGS = (
    "min_duration_ms",
    "max_duration_ms",
    "max_query_count",
    "qsl_rng_seed",
    "sample_index_rng_seed",
    "schedule_rng_seed",
    "accuracy_log_rng_seed",
    "accuracy_log_probability",
    "accuracy_log_sampling_target",
    "performance_issue_unique",
    "performance_issue_same",
    "performance_issue_same_index",
)


def system_types(stated: object) -> list[str]:
    """The types of a system, "edge, datacenter": a list."""
    return [each.strip() for each in str(stated).split(",")]


@dataclass(frozen=True)
class Benchmark:
    """A benchmark by MLPerf's name, and the scenarios that a round requires of each type of system."""

    name: str
    task: str
    factor: float
    scenarios: Mapping[str, Mapping[str, tuple[str, ...]]]  # round -> datacenter or edge -> scenarios

    def bound(self, profile: str) -> Bound | None:
        """The accuracy and latency that the round requires."""
        found = bounds(self.task, profile)
        return found and replace(found, factor=self.factor)

    def wanted(self, profile: str, types: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
        """(the types of a system for which the round has the benchmark, the scenarios that it requires and takes)."""
        by_type = self.scenarios[profile]
        known = [each for each in types if each in by_type]
        both = by_type.get("both", ()) if known and len(types) == 2 else ()
        return known, both or tuple(dict.fromkeys(name for each in known for name in by_type[each]))

    @property
    def eval_samples(self) -> int:
        """The number of samples in the data set."""
        return EVAL_SAMPLES[self.task]

    @property
    def performance_samples(self) -> int:
        """The least number of samples that a performance run loads."""
        return PERFORMANCE_SAMPLES[self.task]


_EDGE = ("SingleStream", "MultiStream", "Offline")
# By round: "both" is of a system of both types, where that is not the union.
BENCHMARKS = {
    "resnet": Benchmark(
        "resnet",
        "resnet50",
        0.99,
        {
            "v6.1": {"edge": _EDGE, "both": (*_EDGE, "Server")},
            "v4.0": {"datacenter": ("Server", "Offline"), "edge": _EDGE},
        },
    ),
    "bert-99": Benchmark(
        "bert-99",
        "bert_squad",
        0.99,
        {
            "v6.1": {"edge": ("SingleStream", "Offline")},
            "v4.0": {"datacenter": ("Server", "Offline"), "edge": ("SingleStream", "Offline")},
        },
    ),
    "bert-99.9": Benchmark(
        "bert-99.9",
        "bert_squad",
        0.999,
        {"v6.1": {"edge": ("SingleStream", "Offline")}, "v4.0": {"datacenter": ("Server", "Offline")}},
    ),
}
ALIASES = {"resnet50": "resnet"}
# MLPerf's other benchmarks of these rounds, which have no book here.
OTHERS = re.compile(
    r"(retinanet|rnnt|3d-unet|dlrm|gptj|llama|mixtral|stable-diffusion|rgat|pointpainting|deepseek|whisper|gpt-oss|wan|"
    r"qwen|yolo)[\w.-]*"
)
BY_TASK = {"resnet50": "resnet", "bert_squad": "bert-99"}  # for a log that stands alone

# From which scenario a result of another one may be inferred, on an edge system.
INFERRED = {("SingleStream", "MultiStream"), ("SingleStream", "Offline"), ("MultiStream", "Offline")}

DIVISIONS = ("closed", "open", "network")
PERFORMANCE_FILES = (SUMMARY, DETAIL)
ACCURACY_FILES = (SUMMARY, DETAIL, ACCURACY, "accuracy.txt")
OPTIONAL_FILES = (ACCURACY, "mlperf_log_trace.json", "spl.txt", "README.md")
MEASUREMENT_FILES = {"v6.1": ("user.conf", "README.md"), "v4.0": ("mlperf.conf", "user.conf", "README.md")}
MAX_ACCURACY_LOG_BYTES = 10 * 1024
MAX_FILE_BYTES = 50 * 2**20
MEASUREMENT_FIELDS = (
    "input_data_types",
    "retraining",
    "starting_weights_filename",
    "weight_data_types",
    "weight_transformations",
)
SYSTEM_TYPES = ("datacenter", "edge", "datacenter,edge", "edge,datacenter")
AVAILABILITIES = ("available", "preview", "rdi")
SYSTEM_FIELDS = (
    "division",
    "submitter",
    "status",
    "system_name",
    "system_type",
    "system_type_detail",
    "number_of_nodes",
    "host_processor_model_name",
    "host_processors_per_node",
    "host_processor_core_count",
    "host_processor_frequency",
    "host_processor_caches",
    "host_processor_interconnect",
    "host_memory_capacity",
    "host_memory_configuration",
    "host_storage_capacity",
    "host_storage_type",
    "host_networking",
    "host_network_card_count",
    "host_networking_topology",
    "accelerators_per_node",
    "accelerator_model_name",
    "accelerator_memory_capacity",
    "accelerator_memory_configuration",
    "accelerator_frequency",
    "accelerator_host_interconnect",
    "accelerator_interconnect",
    "accelerator_interconnect_topology",
    "accelerator_on-chip_memories",
    "cooling",
    "framework",
    "operating_system",
    "other_software_stack",
    "hw_notes",
    "sw_notes",
)
SYSTEM_NUMBERS = ("number_of_nodes", "accelerators_per_node")  # the checker of 6.1 crashes on text
# Fields of these that may be empty, of a machine without an accelerator or with nothing to note.
MAY_BE_BLANK = {
    "system_type_detail",
    "host_processor_frequency",
    "host_processor_caches",
    "host_processor_interconnect",
    "accelerator_frequency",
    "accelerator_interconnect_topology",
    "accelerator_on-chip_memories",
    "hw_notes",
    "sw_notes",
}

# The SHA-1 of the files that decide a test, as LoadGen logs them, of releases whose sources are at hand.
RELEASE_SOURCES: dict[str, dict[str, str]] = {
    "6.0.17": {
        "/bindings/python_api.cc": "90e9c362d9c0e3fdb7d9fad70b34227d7b70f205",
        "/early_stopping.cc": "0cd7b546a389deac73f7955cd39255ed76557d62",
        "/issue_query_controller.cc": "02fcfe6d9cf958eeb4b6f1f4dbe87ba7eb4d7dec",
        "/loadgen.cc": "86bc3765857092b9d1f380604b101c771679842a",
        "/logging.cc": "49e63158ebca654fa4b7c5f3321054cf4d6c3a30",
        "/mlperf.conf": "68cdba8667e971c3ae8f1617ba67fa56d01065b4",
        "/results.cc": "fde4e173d3ec8461dd439ff0d8e605b52c4becf5",
        "/test_settings_internal.cc": "1e6b962f1e22450b3e0ced24292230c64d23e20a",
        "/utils.cc": "3df8fdabf6eaea4697cf25d1dcb89cae88e36efd",
    },
}
