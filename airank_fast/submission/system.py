"""The description of the system that ran: MLPerf's fields, 33 of training and 35 of inference, and AI-Rank's 15.

A field comes from the first of these that has it: the packager (--set, --system), the run's record of its machine,
and this machine where it is the one that ran. An error names the fields that none of them has.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from airank_fast.errors import UserError
from airank_fast.record.events import Event, dictionary
from airank_fast.rules.mlperf_inference.rules import SYSTEM_FIELDS
from airank_fast.rules.trees import AIRANK_FIELDS, MLPERF_FIELDS, MLPERF_NUMBERS, STATUS_WORDS

UNKNOWN = {"", "unknown"}
_RUN_NAMES = {"host_processor_name": "host_processor_model_name", "accelerator_name": "accelerator_model_name"}
# Words for a system's availability in a description of inference, by those that runs have.
AVAILABILITIES = {
    "onprem": "available",
    "cloud": "available",
    "available": "available",
    "research": "rdi",
    "rdi": "rdi",
    "preview": "preview",
}
_SAME_MACHINE = (
    "host_processor_model_name",
    "host_processor_vcpu_count",
    "host_memory_capacity",
    "accelerator_model_name",
)


def given_fields(settings: Iterable[str], file: Path | None) -> dict[str, str]:
    """The fields of --system FILE and, before them, of --set NAME=VALUE; values are text.

    UserError for a name that no description has, a blank value, and a number that is not one.
    """
    given = _read(file) if file is not None else {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise UserError(f"--set: must be NAME=VALUE, got {setting!r}")
        given[name.strip()] = value
    fields = {*MLPERF_FIELDS, *SYSTEM_FIELDS, *AIRANK_FIELDS}
    for name, value in given.items():
        if name not in fields:
            raise UserError(f"--set: must be one of the fields {', '.join(sorted(fields))}, got {name!r}")
        if isinstance(value, (dict, list)) or not str(value).strip():
            raise UserError(f"--set {name}: must be a value that is not blank, got {value!r}")
        if name in MLPERF_NUMBERS and not re.fullmatch(r"\d+", str(value).strip()):
            raise UserError(f"--set {name}: must be a whole number, got {value!r}")
    return {name: str(value).strip() for name, value in given.items()}


def _read(file: Path) -> dict:
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".json":
            values = json.loads(text)
        else:
            values = importlib.import_module("tomllib").loads(text)
    except ModuleNotFoundError:
        raise UserError(f"--system: must be a .json file with Python 3.10, got {file}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"--system: must be a TOML or JSON file of fields, got {file} ({error})") from None
    if not isinstance(values, dict):
        raise UserError(f"--system: must be a table of fields, got {file}, which holds none")
    return values


def facts_of_run(system: Event, config: Event) -> dict:
    """The facts of a run's `system` and `run_config` events by MLPerf's names; "unknown" is left out."""
    machine, versions = dictionary(system.get("machine")), dictionary(system.get("versions"))
    submission = dictionary(config.get("submission"))
    facts = {_RUN_NAMES.get(name, name): system.get(name) for name in AIRANK_FIELDS}
    facts |= machine  # e.g. cores of one processor, where the run itself counts all hardware threads
    for name in ("accelerators_per_node", "accelerator_model_name", "accelerator_memory_capacity", "host_storage_type"):
        if _is_stated(used := system.get(_run_name(name))):  # the run may use only a part of the machine
            facts[name] = used
    if not machine and "host_processor_core_count" in system:  # an older run: no count of cores, only of threads
        facts["host_processor_vcpu_count"] = facts.pop("host_processor_core_count")
    facts |= {
        "submitter": submission.get("org") or system.get("submitter"),
        "system_name": submission.get("platform") or system.get("hardware_name"),
        "division": submission.get("division"),
        "status": submission.get("status"),
        "system_type": submission.get("systems_kind"),
        "framework": f"PyTorch {versions['torch']}" if "torch" in versions else None,
        "other_software_stack": {k: v for k, v in versions.items() if k not in ("torch", "airank-fast")} or None,
    }
    return {
        name: value if name == "other_software_stack" else _plain(value)
        for name, value in facts.items()
        if _is_stated(value)
    }


def _plain(value) -> str | int:
    """A field's value: a whole number or one line of text, whatever a log holds."""
    return value if type(value) is int else " ".join(str(value).split())


def _run_name(name: str) -> str:
    return {new: old for old, new in _RUN_NAMES.items()}.get(name, name)


def _is_stated(value) -> bool:
    return value not in (None, {}, []) and str(value).strip().lower() not in UNKNOWN


def is_same_machine(run: dict, here: dict) -> bool:
    """Whether the facts of a run may be this machine's: at least three can be compared and none differs."""
    shared = [name for name in _SAME_MACHINE if name in run and name in here]
    if "accelerator_model_name" in run and run.get("accelerators_per_node") == 0:
        shared = [name for name in shared if name != "accelerator_model_name"]
    return len(shared) >= 3 and all(str(run[name]) == str(here[name]) for name in shared)


def mlperf_description(
    given: dict,
    run: dict,
    here: dict,
    source: dict | None,
    fields: Sequence[str] = MLPERF_FIELDS,
    statuses: Mapping[str, str] = STATUS_WORDS,
) -> dict:
    """The 33 fields of training, every value text but other_software_stack. UserError that names all that are missing.

    `given` as from `given_fields`, `run` as from `facts_of_run`; `here`, the facts of this machine, {} if it is not
    the one that ran; `source`, the identity of our source code, None if another program ran. `fields` are those of
    another description, `statuses` its words for the runs'.
    """
    facts = {**here, **run, **given}
    if facts.get("division") not in (None, "closed", "open"):
        raise UserError(f"--set division: must be closed or open, got {facts['division']!r}")
    facts["status"] = statuses.get(facts.get("status"), facts.get("status"))
    if facts["status"] not in (None, *statuses.values()):
        raise UserError(
            f"--set status: must be one of {', '.join(dict.fromkeys(statuses.values()))}, got {facts['status']!r}"
        )
    facts = {**_not_applicable(facts), **{name: value for name, value in facts.items() if value is not None}}
    if facts.get("accelerators_per_node") in (0, "0"):
        facts |= {name: value for name, value in _not_applicable(facts).items() if name not in given}
    facts.setdefault("hw_notes", facts.get("virtualization") or "no further notes")
    facts.setdefault("sw_notes", _software_notes(facts, source))
    _refuse_missing(name for name in fields if not _is_stated(facts.get(name)))
    description = {}
    for name in fields:
        value = facts[name]
        if name in MLPERF_NUMBERS and not re.fullmatch(r"\d+", str(value)):
            raise UserError(f"--set {name}: must be a whole number, got {value!r}")
        # Text throughout: the official system_desc_checker joins some of the numbers as strings.
        description[name] = value if isinstance(value, dict) else str(value)
    return description


def inference_description(given: dict, run: dict, here: dict, source: dict | None) -> dict:
    """The 35 fields of an MLPerf inference system, as `mlperf_description`."""
    types = ("datacenter", "edge", "datacenter,edge", "edge,datacenter")
    stated = given.get("system_type", run.get("system_type"))
    if stated is not None and stated not in types:
        raise UserError(f"--set system_type: must be one of {'; '.join(types)}, got {stated!r}")
    run = {"system_type_detail": "N/A", **run}
    # Numbers are text, as there: the official checker of round 6.1 takes the number 0 for an empty field.
    return mlperf_description(given, run, here, source, SYSTEM_FIELDS, AVAILABILITIES)


def airank_description(given: dict, run: dict, here: dict) -> dict:
    """The 15 fields of system_information.json. UserError that names all that are missing."""
    facts = {**here, **run, **given}
    if run.get("accelerators_per_node") == 0:
        facts = {"accelerator_model_name": "none", "accelerator_memory_capacity": "0 GiB", **facts}
    stack = facts.get("other_software_stack") or {}
    names = [f"{name} {v}" for name, v in stack.items()] if isinstance(stack, dict) else [str(stack)]
    versions = ", ".join([str(facts.get("framework", "")), *names])
    own = {
        **{name: facts.get(_RUN_NAMES.get(name, name)) for name in AIRANK_FIELDS},
        "submitter": facts.get("submitter"),
        "hardware_name": facts.get("hardware_name") or facts.get("system_name"),
        "hardware_type": facts.get("hardware_type") or facts.get("status"),
        "software_stack": facts.get("software_stack") or versions.strip(", "),
    }
    own |= {name: given[name] for name in AIRANK_FIELDS if name in given}
    _refuse_missing(name for name, value in own.items() if not _is_stated(value))
    return {name: int(value) if str(value).isdigit() else value for name, value in own.items()}


def _refuse_missing(missing: Iterable[str]) -> None:
    missing = list(missing)
    if missing:
        raise UserError(
            f"system description: must have {len(missing)} fields that neither the run nor this machine states, "
            f"got no {', '.join(missing)}; give each with --set NAME=VALUE, or all in --system FILE.toml"
        )


def _not_applicable(facts: dict) -> dict:
    """Fields that follow from a count: there is no network of one node, no interconnect of one accelerator."""
    found = {}
    counts = {name: _count(facts.get(name)) for name in MLPERF_NUMBERS}
    if counts["number_of_nodes"] == 1:
        names = ("host_networking", "host_networking_topology", "host_network_card_count")
        found |= dict.fromkeys(names, "N/A (one node)")
    if counts["host_processors_per_node"] == 1:
        found["host_processor_interconnect"] = "N/A (one processor)"
    links = ("accelerator_interconnect", "accelerator_interconnect_topology")
    if counts["accelerators_per_node"] == 1:
        found |= dict.fromkeys(links, "N/A (one accelerator per node)")
    if counts["accelerators_per_node"] == 0:
        names = [name for name in MLPERF_FIELDS if name.startswith("accelerator_")]
        found |= dict.fromkeys(names, "N/A (no accelerator)")
    return found


def _count(value) -> int | None:
    return int(value) if str(value).isdigit() else None


def _software_notes(facts: dict, source: dict | None) -> str:
    commit = f", commit {source['commit']}" if source and "commit" in source else ""
    code = [f"airank_fast {source['version']}{commit}"] if source else []
    container = [f"container: {facts['container']}"] if facts.get("container") else []
    return "; ".join(code + container) or "no further notes"
