"""Rule book of submission trees: the required folders and files, and their checksums.

Sources: MLCommons' submission rules for training and the package checker and system description checker of
mlperf-logging 4.1.68; AI-Rank's docs/software/train.md of 2020-12 and 2021-05 and its reviewers' answers to
submissions (pull requests 7, 8, 21, 25); GP2BM's MLPerf benchmark document.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from airank_fast.errors import UserError
from airank_fast.rules.findings import ERROR, WARNING, Finding, Rule
from airank_fast.rules.mlperf.rules import NUM_LOGS
from airank_fast.rules.scoring import BENCHMARKS
from airank_fast.rules.tree_files import SUMS, check_files, folders, is_blank, json_object

SCORE_SHEET = "MLPerf.csv"

MLPERF_FIELDS = (
    "submitter",
    "division",
    "status",
    "system_name",
    "number_of_nodes",
    "host_processors_per_node",
    "host_processor_model_name",
    "host_processor_core_count",
    "host_processor_vcpu_count",
    "host_processor_frequency",
    "host_processor_caches",
    "host_processor_interconnect",
    "host_memory_capacity",
    "host_storage_type",
    "host_storage_capacity",
    "host_networking",
    "host_networking_topology",
    "host_memory_configuration",
    "accelerators_per_node",
    "accelerator_model_name",
    "accelerator_host_interconnect",
    "accelerator_frequency",
    "accelerator_on-chip_memories",
    "accelerator_memory_configuration",
    "accelerator_memory_capacity",
    "accelerator_interconnect",
    "accelerator_interconnect_topology",
    "cooling",
    "hw_notes",
    "framework",
    "other_software_stack",
    "operating_system",
    "sw_notes",
)
MLPERF_NUMBERS = ("number_of_nodes", "host_processors_per_node", "host_processor_core_count", "accelerators_per_node")
STATUS_WORDS = {
    "onprem": "Available on-premise",
    "cloud": "Available cloud",
    "research": "Research, Development, or Internal (RDI)",
    "preview": "Preview",
}
NUM_RESULTS = {name: benchmark.num_runs for name, benchmark in BENCHMARKS.items()}
AIRANK_FIELDS = (
    "submitter",
    "hardware_name",
    "hardware_type",
    "number_of_nodes",
    "accelerators_per_node",
    "accelerator_name",
    "accelerator_memory_capacity",
    "host_processor_name",
    "host_processors_per_node",
    "host_processor_core_count",
    "host_memory_capacity",
    "host_storage_type",
    "host_storage_capacity",
    "operating_system",
    "software_stack",
)

_CHECKER = "mlperf-logging 4.1.68, package_checker"
_DESCRIPTION = "mlperf-logging 4.1.68, system_desc_checker"
_SUMMARIZER = "mlperf-logging 4.1.68, result_summarizer"
_AIRANK = "AI-Rank train.md, 目录结构"
_GP2BM = "GP2BM, MLPerf benchmark"

DESCRIBED = Rule(name="tree.mlperf.description", severity=ERROR, source=_DESCRIPTION)
FIELDS = Rule(name="tree.mlperf.fields", severity=ERROR, source=_DESCRIPTION)
NUMBERS = Rule(name="tree.mlperf.numbers", severity=ERROR, source=_SUMMARIZER)
TEXT = Rule(name="tree.mlperf.text", severity=ERROR, source=_DESCRIPTION)
STATUS = Rule(name="tree.mlperf.status", severity=ERROR, source=_DESCRIPTION)
COUNT = Rule(name="tree.mlperf.count", severity=ERROR, source=_CHECKER)
STRAY = Rule(name="tree.mlperf.stray", severity=WARNING, source=_CHECKER)
CODE = Rule(name="tree.mlperf.code", severity=ERROR, source="MLCommons submission rules, training, benchmarks/")
BOTH = Rule(name="tree.gp2bm.both", severity=ERROR, source=_GP2BM)
ONE_NODE = Rule(name="tree.gp2bm.one_node", severity=ERROR, source=_GP2BM)
SYSTEM = Rule(name="tree.airank.system", severity=ERROR, source=_AIRANK)
MODEL = Rule(name="tree.airank.model", severity=ERROR, source=_AIRANK)
LOGS = Rule(name="tree.airank.logs", severity=ERROR, source=_AIRANK)
LOG_NAME = Rule(name="tree.airank.log_name", severity=WARNING, source=_AIRANK)
PARTS = Rule(name="tree.airank.parts", severity=ERROR, source=_AIRANK)

_LOG_NAME = re.compile(r"GPUx([1-9]\d*)(_\w+)?\.log")


def is_tree(path: Path) -> bool:
    """Whether a directory is a submission tree, or the folder of one organization or system in it."""
    return path.is_dir() and ((path / SUMS).is_file() or _is_organization(path) or _is_system(path))


def check_tree(path: str | os.PathLike) -> Iterator[Finding]:
    """The findings about the layout of a submission tree; the content of its logs is for their own books.

    A folder or file that cannot be read is one finding. UserError if the directory is no submission tree.
    """
    root = Path(path)
    kind, places = kind_of(root)
    parts = [_airank_system(place) if kind == "airank" else _mlperf_organization(place) for place in places]
    parts += [_gp2bm(root, places)] if kind == "gp2bm" else []
    yield from check_files(root, parts)


def logs_of(path: str | os.PathLike) -> list[Path]:
    """The logs of a submission tree."""
    kind, places = kind_of(Path(path))
    pattern = "*/log*/*.log" if kind == "airank" else "results/*/*/result_*.txt"
    return sorted(log for place in places for log in place.glob(pattern))


def kind_of(root: Path) -> tuple[str, list[Path]]:
    """("mlperf" | "gp2bm", organizations) or ("airank", systems); UserError for any other directory."""
    if not root.is_dir():
        raise UserError(f"{root}: must be a directory, got none")
    places = [root, *folders(root)]
    organizations = [place for place in places if _is_organization(place)]
    if organizations:
        return ("gp2bm" if (root / SCORE_SHEET).exists() else "mlperf"), organizations
    systems = [place for top in places for place in (top, *folders(top)) if _is_system(place)]
    if systems:
        return "airank", sorted(set(systems))
    raise UserError(
        f"{root}: must be a submission tree (systems/ and results/ of MLPerf, or system information of AI-Rank), "
        "got neither"
    )


def _is_organization(place: Path) -> bool:
    return (place / "results").is_dir() and (place / "systems").is_dir()


def _is_system(place: Path) -> bool:
    """A system has system information and model folders; a run directory has system_information and events."""
    return bool(_information(place)) and bool(folders(place)) and not (place / "events.jsonl").exists()


def _named(place: Path, *words: str) -> list[Path]:
    """The entries named by these words, joined by "_" or a blank, with or without a suffix."""
    pattern = re.compile("[ _]".join(words) + r"(\.\w+)?", re.IGNORECASE)
    return sorted(entry for entry in place.iterdir() if pattern.fullmatch(entry.name))


def _information(place: Path) -> list[Path]:
    return _named(place, "system", "information")


def _mlperf_organization(place: Path) -> Iterator[Finding]:
    systems = folders(place / "results")
    if not systems:
        yield COUNT.broken(str(place / "results"), None, "no system", "results/<system>/<benchmark>/ is required")
    for system in systems:
        description = place / "systems" / f"{system.name}.json"
        if not description.is_file():
            yield DESCRIBED.broken(str(description), None, "no file", f"the description of {system.name} is required")
        for benchmark in folders(system):
            yield from _results(benchmark)
            yield from _code(place / "benchmarks" / benchmark.name)
    for description in sorted((place / "systems").glob("*.json")):
        yield from _description(description)


def _results(benchmark: Path) -> Iterator[Finding]:
    results = sorted(benchmark.glob("result_*.txt"))
    required = NUM_LOGS.get(benchmark.name)
    if required is None:
        names = f"one of {', '.join(NUM_LOGS)} is required"
        yield COUNT.broken(str(benchmark), None, f"benchmark {benchmark.name}", names, WARNING)
    elif len(results) != required:
        found = f"{len(results)} files result_*.txt"
        yield COUNT.broken(str(benchmark), None, found, f"exactly {required} are required")
    for entry in sorted(set(benchmark.iterdir()) - set(results)):
        if entry.name not in ("package_checker_params", "scaling.json", "power"):
            yield STRAY.broken(str(entry), None, "no result file", "result_<number>.txt only is required")


def _code(benchmark: Path) -> Iterator[Finding]:
    implementations = folders(benchmark / "implementations") if (benchmark / "implementations").is_dir() else []
    if not implementations:
        yield CODE.broken(str(benchmark), None, "no implementations/<name>/", "the code that ran is required")
    for implementation in implementations:
        if not (implementation / "README.md").is_file():
            yield CODE.broken(str(implementation), None, "no README.md", "how to run the code is required")


def _description(file: Path) -> Iterator[Finding]:
    fields = json_object(file)
    if fields is None:
        yield DESCRIBED.broken(str(file), None, "no JSON object", "the 33 fields are required")
        return
    for name in MLPERF_FIELDS:
        value = fields.get(name)
        if name not in fields or is_blank(value):
            found = f"{name}: {'blank' if name in fields else 'missing'}"
            yield FIELDS.broken(str(file), None, found, "it is required")
        elif name in MLPERF_NUMBERS and not re.fullmatch(r"\d+", str(value).strip()):
            yield NUMBERS.broken(str(file), None, f"{name}: {value!r}", "a whole number is required")
        elif name in ("host_processor_core_count", "accelerators_per_node") and not isinstance(value, str):
            # The checker joins these two as strings and ends with a TypeError on a number.
            yield TEXT.broken(str(file), None, f"{name}: {value!r}", f'text, "{value}", is required')
    status = fields.get("status")
    if not is_blank(status) and status not in STATUS_WORDS.values():
        yield STATUS.broken(str(file), None, f"status: {status!r}", f"one of {', '.join(STATUS_WORDS.values())}")


def _gp2bm(root: Path, organizations: list[Path]) -> Iterator[Finding]:
    for place in organizations:
        for system in folders(place / "results"):
            for name in NUM_RESULTS:
                if not (system / name).is_dir():
                    yield BOTH.broken(str(system), None, f"no results of {name}", "both benchmarks are required")
        for description in sorted((place / "systems").glob("*.json")):
            nodes = (json_object(description) or {}).get("number_of_nodes")
            if str(nodes) != "1":
                yield ONE_NODE.broken(str(description), None, f"number_of_nodes: {nodes!r}", "one node is required")


def _airank_system(place: Path) -> Iterator[Finding]:
    for file in _information(place):
        if file.suffix == ".json":
            fields = json_object(file) or {}
            for name in AIRANK_FIELDS:
                if is_blank(fields.get(name)):
                    yield SYSTEM.broken(str(file), None, f"{name}: missing or blank", "all 15 fields are required")
        elif file.is_file() and not file.read_text(encoding="utf-8", errors="replace").strip():
            yield SYSTEM.broken(str(file), None, "an empty file", "the information is required")
    old = not any(file.suffix == ".json" for file in _information(place))
    if old:
        for words in (("summary", "metrics"), ("submitter", "information")):
            if not _named(place, *words):
                yield PARTS.broken(str(place), None, f"no {' '.join(words)}", "it is required by the text of 2020-12")
    models = [folder for folder in folders(place) if any((folder / part).is_dir() for part in ("log", "code"))]
    if not models:
        yield MODEL.broken(str(place), None, "no model", "a folder with code, data and log for a model is required")
    for model in models:
        yield from _airank_model(model, old)


def _airank_model(model: Path, old: bool) -> Iterator[Finding]:
    for part in ("code", "data", "log", *(("report",) if old else ())):
        found = _named(model, part)
        if not found or not any(entry.is_file() or any(entry.iterdir()) for entry in found):
            yield MODEL.broken(str(model), None, f"no {part}, or an empty one", "it is required")
    if not old and (model / "code").is_dir() and not (model / "code" / "README.md").is_file():
        yield MODEL.broken(str(model / "code"), None, "no README.md", "it is required by the text of 2021-05")
    logs = sorted((model / "log").glob("*.log")) if (model / "log").is_dir() else []
    if not any(_LOG_NAME.fullmatch(log.name) for log in logs):
        yield LOGS.broken(str(model), None, "no log/GPUx<cards>.log", "at least one is required")
    for log in logs:
        if not _LOG_NAME.fullmatch(log.name):
            yield LOG_NAME.broken(str(log), None, "another name", "GPUx<number of cards>.log is required")
