"""Checks submission trees of MLPerf inference: the layout of rounds 4.0 and 6.1, and every log in them.

closed/ORG/systems/S.json
closed/ORG/results/S/BENCHMARK/SCENARIO/{accuracy, performance/run_1}/      both rounds
.../SCENARIO/{TEST01, TEST04, measurements.json, user.conf, README.md}      6.1
closed/ORG/{measurements, compliance}/S/BENCHMARK/SCENARIO/                 4.0
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from airank_fast.errors import UserError
from airank_fast.record.formats.loadgen import ACCURACY, DETAIL, Detail, read_detail
from airank_fast.record.lines import Lines
from airank_fast.rules.findings import Finding
from airank_fast.rules.inference_profiles import PROFILES, compliance_of
from airank_fast.rules.mlperf_inference import accuracy, compliance, description, log, rules
from airank_fast.rules.mlperf_inference.files import strays
from airank_fast.rules.mlperf_inference.judge import Context
from airank_fast.rules.mlperf_inference.rules import BENCHMARKS, Benchmark
from airank_fast.rules.tree_files import READABLE, check_files, folders
from airank_fast.walk import walk


@dataclass(frozen=True)
class Organization:
    """The folder of an organization in a tree, its division (None: not known) and the round of its layout."""

    place: Path
    division: str | None
    round: str


@dataclass(frozen=True)
class Entry:
    """A scenario of a benchmark on a system, and the folders in which the round has its parts."""

    results: Path
    measurements: Path
    measurements_file: Path | None
    compliance: Path
    system: str
    scenario: str  # by LoadGen's name


def is_tree(path: Path) -> bool:
    """Whether a directory is a submission tree of MLPerf inference, or the folder of a division or organization."""
    try:
        return path.is_dir() and bool(organizations(path))
    except OSError:  # a folder that cannot be read is reported where it is searched
        return False


def organizations(root: Path) -> list[Organization]:
    """The organizations in a tree with inference results, by path."""
    places = [root]
    for top in folders(root):
        places += [top, *(folders(top) if top.name.lower() in rules.DIVISIONS else ())]
    return [
        Organization(place, _division(place), "v4.0" if _is_of_40(place) else "v6.1")
        for place in places
        if _has_results(place)
    ]


def _is_of_40(place: Path) -> bool:
    return any((place / name).is_dir() for name in ("measurements", "compliance"))


def _division(place: Path) -> str | None:
    name = place.resolve().parent.name.lower()
    return name if name in rules.DIVISIONS else None


def _has_results(place: Path) -> bool:
    results = place / "results"
    return results.is_dir() and any(
        (scenario / name).is_dir()
        for system in folders(results)
        for benchmark in folders(system)
        for scenario in folders(benchmark)
        if scenario.name.lower() in rules.SCENARIOS
        for name in ("performance", "accuracy")
    )


def check_tree(path: str | os.PathLike) -> Iterator[Finding]:
    """The findings about a submission tree: layout, descriptions, and the logs of every test.

    UserError if the directory is none.
    """
    root = Path(path)
    found = organizations(root) if root.is_dir() else []
    if not found:
        required = "a submission tree of MLPerf inference (results/<system>/<benchmark>/<scenario>/performance)"
        raise UserError(f"{root}: must be {required}, got none")
    yield from check_files(root, [_organization(each) for each in found])


def _organization(one: Organization) -> Iterator[Finding]:
    descriptions = {path.stem: path for path in sorted((one.place / "systems").glob("*.json"))}
    systems = folders(one.place / "results")
    for system in systems:
        path = descriptions.get(system.name, one.place / "systems" / f"{system.name}.json")
        yield from description.judge_system(path, one.place.name, one.division)
        fields = description.read_system(path)
        if description.is_rehearsal(fields):
            required = "a tree of real runs is required of a hand-in"
            yield rules.REHEARSAL.broken(str(path), None, "a rehearsal: no result", required)
        for benchmark in folders(system):
            yield from _benchmark(one, system, benchmark, fields)
    for name in sorted(descriptions.keys() - {system.name for system in systems}):
        yield rules.SYSTEMS.broken(str(descriptions[name]), None, f"no results of {name}", "results are required")
    yield from _documents(one)
    yield from _names(one)


def _documents(one: Organization) -> Iterator[Finding]:
    # The text of 6.1 has code/, its checker requires src/.
    code = one.place / ("src" if one.round == "v6.1" else "code")
    if not code.is_dir() or not any(code.iterdir()):
        yield rules.CODE.broken(str(code), None, "no code", "the code that ran is required")
    calibration = ("calibration.md", "documentation/calibration.md")
    if one.division != "open" and not any((one.place / name).is_file() for name in calibration):
        required = f"{calibration[one.round == 'v6.1']} is required"
        yield rules.FILES.broken(str(one.place), None, "no calibration.md", required)


def _benchmark(one: Organization, system: Path, folder: Path, fields: dict) -> Iterator[Finding]:
    name = rules.ALIASES.get(folder.name, folder.name)
    benchmark = BENCHMARKS.get(name)
    if benchmark is None and rules.OTHERS.fullmatch(name):
        found = f"benchmark {name}, which has no book here"
        yield rules.NO_BOOK.broken(
            str(folder), None, found, f"checked by the rules of all; {', '.join(BENCHMARKS)} have one"
        )
    elif benchmark is None and one.division != "open":
        yield rules.BENCHMARK.broken(str(folder), None, f"benchmark {folder.name}", f"one of {', '.join(BENCHMARKS)}")
    entries = []
    for scenario in folders(folder):
        known = rules.SCENARIOS.get(scenario.name.lower())
        if known is None:
            names = ", ".join(rules.OURS)
            yield rules.SCENARIOS_RULE.broken(str(scenario), None, f"scenario {scenario.name}", f"one of {names}")
        else:
            entries.append(_entry(one, system.name, folder.name, scenario, known))
    if benchmark is not None and one.division != "open":
        yield from _required_scenarios(one, folder, benchmark, entries, fields)
    for entry in entries:
        try:
            yield from _scenario(one, entry, benchmark, fields)
        except UserError as error:  # a file that cannot be read
            yield READABLE.broken(str(entry.results), None, str(error), "files that can be read are required")


def _entry(one: Organization, system: str, benchmark: str, results: Path, scenario: str) -> Entry:
    if one.round == "v6.1":
        file = results / "measurements.json"
        return Entry(results, results, file if file.is_file() else None, results, system, scenario)
    tail = Path(system) / benchmark / results.name
    measurements = one.place / "measurements" / tail
    names = sorted(measurements.glob("*.json")) if measurements.is_dir() else []
    own = [path for path in names if path.name.startswith(system)]
    return Entry(results, measurements, own[0] if own else None, one.place / "compliance" / tail, system, scenario)


def _required_scenarios(
    one: Organization, folder: Path, benchmark: Benchmark, entries: list[Entry], fields: dict
) -> Iterator[Finding]:
    types = rules.system_types(fields.get("system_type"))
    known, wanted = benchmark.wanted(one.round, types)
    if not known:
        if all(each in ("datacenter", "edge") for each in types):
            found = f"{benchmark.name} on a system of type {' and '.join(types)}"
            required = f"round {one.round} has it for {' and '.join(benchmark.scenarios[one.round])}"
            yield rules.BENCHMARK.broken(str(folder), None, found, required)
        return
    has = {entry.scenario for entry in entries}
    for scenario in wanted:
        if scenario not in has:
            found, required = f"no {scenario}", f"it is required of {benchmark.name}, {' and '.join(known)}"
            yield rules.SCENARIOS_RULE.broken(str(folder), None, found, required)
    for entry in entries:
        if entry.scenario not in wanted:
            found = f"{entry.scenario} of {benchmark.name}, {' and '.join(known)}"
            yield rules.SCENARIOS_RULE.broken(str(entry.results), None, found, f"round {one.round} has no such result")


def _scenario(one: Organization, entry: Entry, benchmark: Benchmark | None, fields: dict) -> Iterator[Finding]:
    yield from description.judge_measurements(entry.measurements_file, entry.measurements, one.round)
    context = Context(
        PROFILES[one.round],
        benchmark,
        is_submission=True,
        is_rehearsal=description.is_rehearsal(fields),
        is_closed=one.division != "open",
    )
    measured = yield from _performance(entry, context, fields)
    yield from _accuracy(entry, context)
    if one.division == "open" or benchmark is None or measured is None:
        return
    for test in compliance_of(PROFILES[one.round], benchmark.task):
        folder, answers = entry.compliance / test, entry.results / "accuracy" / ACCURACY
        yield from compliance.judge_test(folder, test, measured, context, answers)
    for folder in folders(entry.compliance) if entry.compliance.is_dir() else ():
        if folder.name in rules.TESTS and folder.name not in compliance_of(PROFILES[one.round], benchmark.task):
            found = f"{folder.name} of {benchmark.name}"
            yield rules.COMPLIANCE.broken(str(folder), None, found, f"round {one.round} has no such test")


def _files(folder: Path, required: tuple[str, ...]) -> Iterator[Finding]:
    """Findings for required files that are missing, and for files that have no place in the folder."""
    if not folder.is_dir():
        yield rules.FILES.broken(str(folder), None, "no such folder", f"it is required, with {', '.join(required)}")
        return
    present = {entry.name for entry in folder.iterdir() if entry.is_file()}
    for name in required:
        if name not in present:
            yield rules.FILES.broken(str(folder / name), None, "no such file", "it is required")
    yield from strays(folder, required, rules.OPTIONAL_FILES)


def _read(path: Path) -> Detail | None:
    return read_detail(Lines(path)) if path.is_file() else None


def _performance(entry: Entry, context: Context, fields: dict) -> Generator[Finding, None, tuple[Path, Detail] | None]:
    """The findings about a performance run. Returns its log and the content, None if there is none."""
    folder = entry.results / "performance" / "run_1"
    yield from _files(folder, rules.PERFORMANCE_FILES)
    path = folder / DETAIL
    detail = _read(path)
    if detail is None:
        return None
    yield from log.judge(path, detail, context)
    yield from log.beside(folder, detail)
    ran = detail.value("effective_scenario")
    if ran in tuple(rules.OURS) and ran != entry.scenario:
        is_edge = "edge" in str(fields.get("system_type"))
        if not (is_edge and (ran, entry.scenario) in rules.INFERRED):
            found = f"a test of scenario {ran}"
            yield rules.SCENARIO.broken(
                str(path), detail.line("effective_scenario"), found, f"{entry.scenario} is required"
            )
    return path, detail


def _accuracy(entry: Entry, context: Context) -> Iterator[Finding]:
    folder = entry.results / "accuracy"
    yield from _files(folder, rules.ACCURACY_FILES)
    path = folder / DETAIL
    detail = _read(path)
    if detail is None:
        return
    of_accuracy = replace(context, test="accuracy")
    yield from log.judge(path, detail, of_accuracy)
    yield from accuracy.judge_folder(folder, of_accuracy, detail)
    ran = detail.value("effective_scenario")
    # An inferred result may take the accuracy run of the scenario that ran.
    if ran in tuple(rules.OURS) and ran != entry.scenario and (ran, entry.scenario) not in rules.INFERRED:
        found, required = f"a test of scenario {ran}", f"{entry.scenario} is required"
        yield rules.SCENARIO.broken(str(path), detail.line("effective_scenario"), found, required)


def _names(one: Organization) -> Iterator[Finding]:
    """Names that a repository of submissions does not take, empty folders, and files that are too large."""
    for entry in walk(one.place, lambda folder: os.access(folder.path, os.R_OK | os.X_OK)):
        name, required = entry.name, None
        if name.startswith(".") or " " in name or name == "__pycache__":
            required = "a name without a leading dot or blanks, and no __pycache__, is required"
        elif entry.is_dir(follow_symlinks=False):
            if os.access(entry.path, os.R_OK | os.X_OK) and not os.listdir(entry.path):
                name, required = f"{name}, which is empty", "no empty folder is allowed"
        elif entry.is_file(follow_symlinks=False) and entry.stat().st_size > rules.MAX_FILE_BYTES:
            name, required = f"{name} of {entry.stat().st_size / 2**20:.0f} MiB", "at most 50 MiB are required"
        if required:
            yield rules.NAMES.broken(entry.path, None, name, required)
