"""MLPerf's inference submission tree, of rounds 6.1 and 4.0.

    <division>/<org>/systems/<system>.json
    <division>/<org>/{src of 6.1, code of 4.0}/<benchmark>/airank_fast/, documentation/calibration.md
    <division>/<org>/results/<system>/<benchmark>/<scenario>/{performance/run_1, accuracy}/
    .../<scenario>/{TEST01, TEST04}/, measurements.json, user.conf, README.md                    6.1
    <division>/<org>/{measurements, compliance}/<system>/<benchmark>/<scenario>/                 4.0

Sources: mlcommons/inference_policies, submission_rules; mlcommons/inference, tools/submission (submission checkers of
both rounds, truncate_accuracy_log.py) and compliance/nvidia. LoadGen's logs are copied byte for byte; an accuracy log
is cut to its first and last 4 kB, and accuracy.txt has the checksum of the whole.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from airank_fast.errors import UserError, require
from airank_fast.record.events import Event, dictionary
from airank_fast.record.formats.loadgen import ACCURACY, CUT, DETAIL, SUMMARY, read_accuracy, read_detail
from airank_fast.record.lines import Lines
from airank_fast.rules.inference_profiles import PROFILES, compliance_of
from airank_fast.rules.mlperf_inference import compliance, rules
from airank_fast.submission import inference, texts
from airank_fast.submission.inference import InferenceCandidate
from airank_fast.submission.privacy import shorten
from airank_fast.submission.request import Request
from airank_fast.submission.system import inference_description
from airank_fast.submission.tree import Tree, component

FORM = "mlperf-inference"
IMPLEMENTATION = "airank_fast"
CODE = {"v6.1": "src", "v4.0": "code"}  # the folder of the code, as each round's checker has it
_KEPT_BYTES = 4096  # of each end of an accuracy log


@dataclass(frozen=True)
class Entry:
    """A scenario of a benchmark in the tree: its run, MLPerf's names, and the folders of its parts."""

    one: InferenceCandidate
    scenario: str  # ours
    benchmark: str
    results: str
    measurements: str
    measurements_file: str
    compliance: str

    @property
    def theirs(self) -> str:
        """LoadGen's name of the scenario."""
        return rules.SCENARIOS[self.scenario]

    def log(self, mode: str, name: str) -> Path:
        """A log of LoadGen in the run's directory."""
        return self.one.run.path / "loadgen" / self.scenario / mode / name


def build(request: Request) -> tuple[Tree, dict]:
    """The tree with its manifest. UserError, in one line, for runs that have no place in it or lack files."""
    runs: list[InferenceCandidate] = list(request.candidates)  # type: ignore[arg-type]
    profile = inference.one_profile(runs, FORM, rules.ROUNDS)
    division = _division(request, runs)
    description = _description(request, runs, division)
    org = component("submitter", description["submitter"])
    system = component("system_name", description["system_name"])
    root, tree = f"{division}/{org}", Tree()
    entries = _entries(root, system, profile, runs)
    if division == "closed":
        entries = _taken(entries, profile, description["system_type"])
    _refuse_missing(entries, profile)
    tree.add_json(f"{root}/systems/{system}.json", description)
    calibration = texts.banner(request.is_rehearsal) + _calibration(inference.distinct(entry.one for entry in entries))
    tree.add(f"{root}/documentation/calibration.md", calibration)
    for benchmark in dict.fromkeys(entry.benchmark for entry in entries):
        of_benchmark = [entry.one for entry in entries if entry.benchmark == benchmark]
        folder, title = f"{root}/{CODE[profile]}/{benchmark}/{IMPLEMENTATION}", inference.title_of(of_benchmark[0])
        inference.add_code(tree, folder, of_benchmark, request)
        report = request.write_report(title, list(inference.distinct(of_benchmark)), request.is_rehearsal)
        for name, content in report.items():
            tree.add(f"{folder}/report/{name}", content)
    for entry in entries:
        _add(tree, entry, profile, request)
    if division == "open" and (mapping := _mapping(entries)):
        tree.add_json(f"{root}/model_mapping.json", mapping)
    logs = {f"{entry.results}/performance/run_1/{DETAIL}": (entry.one, entry.scenario) for entry in entries}
    return tree, inference.manifest(f"mlperf inference {profile}", logs, request) | {"system": system}


def _division(request: Request, runs: list[InferenceCandidate]) -> str:
    """closed or open. UserError for closed with weights that were trained here."""
    stated = dict.fromkeys(str(one.config.get("division") or "open") for one in runs)
    division = request.given.get("division") or next(iter(stated))
    if division not in ("closed", "open") or (len(stated) > 1 and "division" not in request.given):
        raise UserError(f"--set division: must be closed or open for all runs, got {division or ', '.join(stated)}")
    own = [one for one in runs if one.is_own]
    if division == "closed" and own:
        raise UserError(
            f"--set division: must be open for weights trained here, got closed ({own[0].log}): MLPerf's closed "
            "division takes the weights that it publishes; --set division=open packages the runs"
        )
    return division


def _description(request: Request, runs: list[InferenceCandidate], division: str) -> dict:
    run, here = inference.system_of(request)
    run["division"] = division
    if "system_type" not in run:
        scenarios = {scenario for one in runs for scenario in one.tally.scenarios()}
        types = ["datacenter"] * ("server" in scenarios) + ["edge"] * bool({"singlestream", "multistream"} & scenarios)
        run |= {"system_type": ",".join(types)} if types else {}
    description = inference_description(request.given, run, here, request.source()[0])
    if request.is_rehearsal:
        description["hw_notes"] = f"{texts.BANNER} {description['hw_notes']}"
    return description


def _entries(root: str, system: str, profile: str, runs: list[InferenceCandidate]) -> list[Entry]:
    entries = []
    for scenarios in inference.placed(runs, rules.SCENARIOS).values():
        for scenario, one in scenarios.items():
            benchmark, theirs = _benchmark(one, scenario), rules.SCENARIOS[scenario]
            tail = f"{system}/{benchmark}/{theirs}"
            results = f"{root}/results/{tail}"
            if profile == "v4.0":
                name = f"{system}_{IMPLEMENTATION}_{theirs}.json"
                places = (f"{root}/measurements/{tail}", name, f"{root}/compliance/{tail}")
            else:
                places = (results, "measurements.json", results)
            entries.append(Entry(one, scenario, benchmark, results, *places))
    if not entries:
        names = ", ".join(rules.SCENARIOS)
        raise UserError(f"--format {FORM}: must have runs with a scenario of {names}, got none")
    return entries


def _taken(entries: list[Entry], profile: str, system_type: str) -> list[Entry]:
    """The entries that the closed division has for such a system; each of the others is named in a line."""
    kept = []
    for entry in entries:
        benchmark = rules.BENCHMARKS.get(rules.ALIASES.get(entry.benchmark, entry.benchmark))
        wanted = benchmark.wanted(profile, rules.system_types(system_type))[1] if benchmark else ()
        if not wanted or entry.theirs in wanted:
            kept.append(entry)
        else:
            print(
                f"left out: {entry.theirs} of {entry.benchmark}; round {profile} has {', '.join(wanted)} of it in the "
                f"closed division for a system of type {system_type}",
                file=sys.stderr,
            )
    if not kept:
        raise UserError(f"--format {FORM}: must have runs with a scenario of {', '.join(wanted)}, got none")
    return kept


def _benchmark(one: InferenceCandidate, scenario: str) -> str:
    """MLPerf's name of the benchmark; of a network that it does not have, our own."""
    if one.benchmark == "bert_squad_large":
        return _stands_for(one, scenario) or ""
    return component("benchmark", one.benchmark)


def _stands_for(one: InferenceCandidate, scenario: str) -> str | None:
    """The benchmark of MLPerf that a network may stand for, BERT's by the accuracy it must reach; None without one."""
    known = rules.BY_TASK.get(one.task.name) if one.task else None
    is_stricter = dictionary(one.tally.accuracy_of(scenario)).get("factor") == 0.999
    return "bert-99.9" if known == "bert-99" and is_stricter else known


def _mapping(entries: list[Entry]) -> dict[str, str]:
    """In the open division, the benchmark that a network of one's own stands for."""
    found = {}
    for entry in entries:
        known = _stands_for(entry.one, entry.scenario)
        if known and entry.benchmark not in (*rules.BENCHMARKS, *rules.ALIASES):
            found[entry.benchmark] = known
    return found


def _refuse_missing(entries: list[Entry], profile: str) -> None:
    """UserError that names every file that a tree must have and the runs lack."""
    missing = []
    for entry in entries:
        needed = [entry.log("performance", name) for name in (SUMMARY, DETAIL)]
        needed += [entry.log("accuracy", name) for name in (SUMMARY, DETAIL, ACCURACY)]
        for test in _tests(entry, profile):
            needed += [entry.log(test, name) for name in (SUMMARY, DETAIL)]
            needed += [entry.log(test, ACCURACY)] if test == "TEST01" else []
        missing += [str(path) for path in needed if not path.is_file()]
    if missing:
        raise UserError(f"runs: must have {len(missing)} more files of LoadGen, got no {', '.join(missing)}")


def _tests(entry: Entry, profile: str) -> list[str]:
    """The compliance tests of the round that the run made."""
    task = entry.one.task.name if entry.one.task else ""
    return [test for test in compliance_of(PROFILES[profile], task) if entry.one.test(entry.scenario, test)]


def _add(tree: Tree, entry: Entry, profile: str, request: Request) -> None:
    """Add everything of a scenario."""
    for name in (SUMMARY, DETAIL):
        _add_log(tree, f"{entry.results}/performance/run_1/{name}", entry.log("performance", name), request)
        _add_log(tree, f"{entry.results}/accuracy/{name}", entry.log("accuracy", name), request)
    cut, checksum = truncated(entry.log("accuracy", ACCURACY))
    tree.add(f"{entry.results}/accuracy/{ACCURACY}", cut)
    tree.add(f"{entry.results}/accuracy/accuracy.txt", _marked(_accuracy_text(entry), request) + f"hash={checksum}\n")
    for test in _tests(entry, profile):
        _add_test(tree, entry, test, request)
    rehearsal = {"rehearsal": texts.BANNER} if request.is_rehearsal else {}
    tree.add_json(f"{entry.measurements}/{entry.measurements_file}", measurements(entry.one) | rehearsal)
    tree.add(f"{entry.measurements}/user.conf", _marked(_user_conf(entry), request))
    tree.add(f"{entry.measurements}/README.md", texts.banner(request.is_rehearsal) + _readme(entry, profile))
    if profile == "v4.0":
        tree.add(f"{entry.measurements}/mlperf.conf", _marked(_mlperf_conf(profile, entry), request))


def _add_log(tree: Tree, name: str, log: Path, request: Request) -> None:
    """Add a log of LoadGen; that of a rehearsal has its mark as the last line, since a checker reads the first one."""
    if request.first_line() is None:
        tree.copy(name, log)
    else:
        _require_regular(log)
        tree.add(name, log.read_bytes() + f"{request.first_line()}\n".encode())


def _require_regular(log: Path) -> None:
    """UserError for a symbolic link: what it points to is no part of the run."""
    require(not log.is_symlink(), str(log), "a regular file", "a symbolic link")


def _add_test(tree: Tree, entry: Entry, test: str, request: Request) -> None:
    """Add a compliance test with the verdicts that its logs give."""
    folder = f"{entry.compliance}/{test}"
    for name in (SUMMARY, DETAIL):
        _add_log(tree, f"{folder}/performance/run_1/{name}", entry.log(test, name), request)
    tree.add(f"{folder}/{compliance.PERFORMANCE_VERDICT}", _marked(_speed_verdict(entry, test), request))
    if test == "TEST01":
        verdict, correct, total = _answers_verdict(entry)
        tree.add(f"{folder}/{compliance.ACCURACY_VERDICT}", _marked(verdict, request))
        cut, checksum = truncated(entry.log(test, ACCURACY))
        tree.add(f"{folder}/accuracy/{ACCURACY}", cut)
        text = _counts_text(correct, total) if correct is not None else _accuracy_text(entry)
        tree.add(f"{folder}/accuracy/accuracy.txt", _marked(text, request) + f"hash={checksum}\n")


def truncated(log: Path) -> tuple[bytes, str]:
    """(an accuracy log, cut to its ends where it has more than 10 kB; the sha256 of the whole)."""
    _require_regular(log)
    digest, size = hashlib.sha256(), log.stat().st_size
    with open(log, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
        file.seek(0)
        if size <= rules.MAX_ACCURACY_LOG_BYTES:
            return file.read(), digest.hexdigest()
        head = file.read(_KEPT_BYTES)
        file.seek(-_KEPT_BYTES, os.SEEK_END)
        return head + f"\n\n{CUT}\n\n".encode() + file.read(), digest.hexdigest()


def measurements(one: InferenceCandidate) -> dict[str, str]:
    """The five fields of a measurements file: what the weights are and what was done to them."""
    precision = str(one.engine.get("precision") or one.config.get("precision"))
    changes = [f"exported for {one.framework}"] if one.engine.get("name") != "torch" else []
    if one.tally.quantize:
        count, method = one.tally.quantize.get("num_samples"), one.tally.quantize.get("method")
        changes.append(f"quantised ({method}), calibrated on {count} training samples")
    elif precision != "fp32":
        changes.append(f"converted to {precision}")
    name = str(dictionary(one.config.get("checkpoint")).get("file") or "unknown").rpartition("/")[2]
    return {
        "input_data_types": "fp32" if precision in ("fp32", "int8") else precision,
        "retraining": "yes" if one.is_own else "no",
        "starting_weights_filename": name,
        "weight_data_types": precision,
        "weight_transformations": "; ".join(changes) or "none",
    }


def _accuracy_text(entry: Entry) -> str:
    """The line of accuracy.txt that the benchmark's script writes."""
    event: Event = entry.one.tally.accuracy_of(entry.scenario)
    quality = dictionary(event.get("quality"))
    if "f1" in quality and "exact_match" in quality:
        return f'{{"exact_match": {100 * quality["exact_match"]:.6f}, "f1": {100 * quality["f1"]:.6f}}}\n'
    if event.get("counted"):
        return _counts_text(event["correct"], event["counted"])
    return "".join(f"{name}={value}\n" for name, value in quality.items())


def _counts_text(correct: int, counted: int) -> str:
    return f"accuracy={100 * correct / counted:.3f}%, good={correct}, total={counted}\n"


def _speed_verdict(entry: Entry, test: str) -> str:
    """verify_performance.txt: the results of the performance run and of the test, and whether they are near enough."""
    key, _ = rules.RESULTS[entry.theirs]
    scores = [read_detail(Lines(entry.log(mode, DETAIL))).value(key) for mode in ("performance", test)]
    if not all(isinstance(score, (int, float)) and score for score in scores):
        raise UserError(f"{entry.log(test, DETAIL)}: must have {key}, as the performance run, got {scores[1]}")
    reference, score = scores
    passes = compliance.passes(test, entry.theirs, reference, score)
    return f"reference score = {reference}\ntest score = {score}\nTEST {'PASS' if passes else 'FAIL'}\n"


def _answers_verdict(entry: Entry) -> tuple[str, int | None, int]:
    """(verify_accuracy.txt of TEST01, how many of the logged answers are right if the run states it, their number)."""
    whole, tested = (read_accuracy(Lines(entry.log(mode, ACCURACY))) for mode in ("accuracy", "TEST01"))
    known, logged = whole.data, tested.data
    common = [index for index in logged if index in known]
    others = {index for index in common if logged[index].lower() != known[index].lower()}
    differing = len(others | set(tested.changed))
    passes = bool(logged) and len(common) == len(logged) and not differing
    lines = [
        f"num_acc_log_entries = {len(known)}",
        f"num_perf_log_entries = {len(logged)}",
        f"num_perf_log_qsl_idx_match = {len(common)}",
        f"num_perf_log_data_mismatch = {differing}",
        f"TEST {'PASS' if passes else 'FAIL'}",
    ]
    accuracy = entry.one.tally.accuracy_of(entry.scenario)
    results = accuracy.get("sample_results") if accuracy.get("counted") else None
    stated = isinstance(results, list) and all(index < len(results) for index in logged)
    correct = sum(results[index] for index in logged) if stated and passes else None
    return "\n".join(lines) + "\n", correct, len(logged)


def _settings(entry: Entry) -> dict:
    test = entry.one.test(entry.scenario)
    return dictionary(test.start.get("settings")) if test else {}


def _user_conf(entry: Entry) -> str:
    """The submitter's own settings in the words of LoadGen's configuration files."""
    settings, lines = _settings(entry), []
    if settings.get("target_qps") is not None:
        lines.append(("target_qps", settings["target_qps"]))
    if settings.get("expected_latency_s") is not None:
        lines.append(("target_latency", 1000 * settings["expected_latency_s"]))  # ms
    if settings.get("min_duration_s") is not None:
        lines.append(("min_duration", round(1000 * settings["min_duration_s"])))  # ms
    head = "# The run's settings; its program sets them in code, from the profile, and reads no file.\n"
    return head + "".join(f"{entry.benchmark}.{entry.theirs}.{name} = {value}\n" for name, value in lines)


def _mlperf_conf(profile: str, entry: Entry) -> str:
    """The round's settings of the scenario in the words of LoadGen's configuration files."""
    found = PROFILES[profile]
    names = ("qsl_rng_seed", "sample_index_rng_seed", "schedule_rng_seed")
    lines = [f"*.*.{name} = {seed}" for name, seed in zip(names, found.seeds, strict=True)]
    scenario = found.scenarios[entry.scenario]
    lines.append(f"*.{entry.theirs}.min_duration = {scenario.min_duration_s * 1000:.0f}")
    if scenario.percentile is not None:
        lines.append(f"*.{entry.theirs}.target_latency_percentile = {100 * scenario.percentile:g}")
    head = f"# Settings of round {profile} ({found.source}), which the run's program sets in code.\n"
    return head + "\n".join(lines) + "\n"


def _readme(entry: Entry, profile: str) -> str:
    command = inference.command_of(entry.one)
    parts = [
        f"# {inference.title_of(entry.one)}: {entry.theirs}",
        f"{entry.one.framework}, {entry.one.engine.get('precision')}. The code and how to install it: "
        f"`{CODE[profile]}/{entry.benchmark}/{IMPLEMENTATION}`.",
        "## Run\n\n" + (f"    {command}" if command else "The run does not have the command that made it."),
        "## Data\n\n" + inference.data_text([entry.one]),
    ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _calibration(runs: Iterable[InferenceCandidate]) -> str:
    """documentation/calibration.md: how the quantised runs were calibrated, with the list of their samples."""
    parts = ["# Calibration"]
    for one in runs:
        found = one.tally.quantize
        if not found:
            parts.append(f"{one.benchmark}, {one.framework}: not quantised; nothing was calibrated.")
            continue
        samples = found.get("samples")
        listed = [f"    {shorten(str(name))}" for name in (samples if isinstance(samples, list) else [])]
        parts.append(
            f"{one.benchmark}, {one.framework}: {found.get('method')}, "
            f"{'per channel' if found.get('per_channel') else 'per tensor'}, calibrated on {found.get('num_samples')} "
            f"samples of the training set (seed {found.get('seed')}, checksum {found.get('checksum')}):\n\n"
            + "\n".join(listed)
        )
    return "\n\n".join(parts) + "\n"


def _marked(text: str, request: Request) -> str:
    """A text file of a rehearsal with its mark in a first line, which readers skip."""
    first = request.first_line()
    return text if first is None else f"{first}\n{text}"
