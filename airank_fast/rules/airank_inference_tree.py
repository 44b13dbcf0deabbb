"""Rule book of AI-Rank's inference submission trees: the folders and files that its texts require.

Sources: AI-Rank's docs/software and docs/hardware, inference_cloud.md and inference_mobile.md, of 2020-12-09 and
2021-05-28. The content of each log is for the book of its format.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from airank_fast.errors import UserError
from airank_fast.record.formats.airank_inference import FILES
from airank_fast.rules.findings import ERROR, Finding, Rule
from airank_fast.rules.tree_files import SUMS, check_files, folders, is_blank, json_object
from airank_fast.rules.trees import AIRANK_FIELDS

# The tests of which each kind of system has a log.
LOGS_OF = {
    "cloud": ("accuracy", "offline", "online"),
    "mobile": ("accuracy", "latency", "offline", "max-batch"),
}
_TEXT = "AI-Rank inference_{}.md, 目录结构"
SYSTEM = Rule(name="tree.airank_inference.system", severity=ERROR, source=_TEXT.format("cloud"))
PARTS = Rule(name="tree.airank_inference.parts", severity=ERROR, source=_TEXT.format("cloud"))
MODEL = Rule(name="tree.airank_inference.model", severity=ERROR, source=_TEXT.format("cloud"))
LOGS = Rule(name="tree.airank_inference.logs", severity=ERROR, source=_TEXT.format("cloud and inference_mobile"))
STRAY = Rule(name="tree.airank_inference.stray", severity=ERROR, source=_TEXT.format("cloud and inference_mobile"))
_INFORMATION = re.compile(r"system[ _]information\.(json|md)", re.IGNORECASE)


def is_tree(path: Path) -> bool:
    """Whether a directory is an inference submission tree of AI-Rank, or the folder of a submitter or system in it."""
    try:
        if not path.is_dir():
            return False
        if (path / SUMS).is_file():
            return bool(_systems(path))
        return any(map(_is_system, [path, *folders(path)]))
    except OSError:  # a folder that cannot be read is reported where it is searched
        return False


def logs_of(path: str | os.PathLike) -> list[Path]:
    """The logs of a tree."""
    return sorted(
        log
        for system in _systems(Path(path))
        for model in folders(system)
        for place in _places(model)
        for log in _logs(place)
    )


def model_of(log: Path) -> str:
    """The name of the model whose folder holds a log: resnet50 of resnet50-TeslaT4/log/offline_ips.log."""
    places = log.parts[: log.parts.index("log")] if "log" in log.parts else log.parts[:-1]
    return places[-1].partition("-")[0]


def check_tree(path: str | os.PathLike) -> Iterator[Finding]:
    """The findings about the layout of a tree; UserError if the directory is none."""
    root = Path(path)
    systems = _systems(root) if root.is_dir() else []
    if not systems:
        required = "an inference submission tree of AI-Rank (system information, and logs in <model>/log)"
        raise UserError(f"{root}: must be {required}, got none")
    yield from check_files(root, [_system(system) for system in systems])


def _systems(root: Path) -> list[Path]:
    """The folders with system information and models with logs of inference."""
    places = [root, *folders(root)]
    places += [below for place in places[1:] for below in folders(place)]
    return [place for place in places if _is_system(place)]


def _is_system(place: Path) -> bool:
    return bool(_information(place)) and any(_has_logs(model) for model in folders(place))


def _information(place: Path) -> list[Path]:
    if (place / "events.jsonl").exists():  # a run directory
        return []
    return sorted(entry for entry in place.iterdir() if _INFORMATION.fullmatch(entry.name) and entry.is_file())


def _places(model: Path) -> list[Path]:
    """The folders of a model's logs: log, or one for each architecture and device in it."""
    log = model / "log"
    return [log, *folders(log)] if log.is_dir() else []


def _logs(place: Path) -> list[Path]:
    return sorted(place.glob("*.log"))


def _has_logs(model: Path) -> bool:
    return any(log.name in FILES.values() for place in _places(model) for log in _logs(place))


def _system(place: Path) -> Iterator[Finding]:
    information = _information(place)[0]
    is_of_2020 = information.suffix == ".md"
    if is_of_2020:
        if not information.read_text(encoding="utf-8", errors="replace").strip():
            yield SYSTEM.broken(str(information), None, "an empty file", "the information is required")
        for name in ("summary_metrics", "submitter_information"):
            if not any(entry.stem.lower().replace(" ", "_") == name for entry in place.iterdir()):
                yield PARTS.broken(str(place), None, f"no {name}", "it is required by the text of 2020-12")
    else:
        fields = json_object(information) or {}
        for name in AIRANK_FIELDS:
            if is_blank(fields.get(name)):
                yield SYSTEM.broken(str(information), None, f"{name}: missing or blank", "all 15 fields are required")
    for model in folders(place):
        if any((model / part).is_dir() for part in ("log", "code")):
            yield from _model(model, is_of_2020)


def _model(model: Path, is_of_2020: bool) -> Iterator[Finding]:
    for part in ("code", "data", "log", *(("report",) if is_of_2020 else ())):
        if not (model / part).is_dir() or not any((model / part).iterdir()):
            yield MODEL.broken(str(model), None, f"no {part}, or an empty one", "it is required")
    if not is_of_2020 and not (model / "code" / "README.md").is_file():
        yield MODEL.broken(str(model / "code"), None, "no README.md", "it is required by the text of 2021-05")
    places = [place for place in _places(model) if _logs(place)]
    if not places:
        yield LOGS.broken(str(model), None, "no log", "accuracy_check.log and those of the speed are required")
    for place in places:
        yield from _logs_in(place)


def _logs_in(place: Path) -> Iterator[Finding]:
    """The logs of one kind of system: a terminal's lie in a folder of its architecture and device."""
    present = {log.name for log in _logs(place)}
    is_mobile = place.name != "log" or bool({FILES["latency"], FILES["max-batch"]} & present)
    required = [FILES[name] for name in LOGS_OF["mobile" if is_mobile else "cloud"]]
    if is_mobile:
        for name in required:
            if name not in present:
                yield LOGS.broken(str(place / name), None, "no such file", "it is required of a terminal")
    else:
        if FILES["accuracy"] not in present:
            yield LOGS.broken(str(place / FILES["accuracy"]), None, "no such file", "it is required")
        if not {FILES["offline"], FILES["online"]} & present:
            yield LOGS.broken(str(place), None, "neither offline_ips.log nor online_ips.log", "one of them is required")
    for name in sorted(present - set(required)):
        yield STRAY.broken(str(place / name), None, f"a log {name}", f"only {', '.join(required)} belong here")
