"""AI-Rank's inference submission trees, after its texts of 2020-12 and of 2021-05 (docs/software/inference_*.md).

    2020-12                                              2021-05
    <system name>/                                       <submitter>/<Linux, Windows or device>/
        system_information.md                                system_information.json
        <model>-<accelerator>/code, data, log, report        <model>/code/README.md, data, log
        summary_metrics.md
        submitter_information.md

Cloud: log/{accuracy_check, offline_ips, online_ips}.log. Terminal: log/<armv8_cpu>/{accuracy_check, latency,
offline_ips, max_qps_max_memory_use}.log. The logs are made of the runs' events.
"""

from __future__ import annotations

from airank_fast.errors import UserError
from airank_fast.record.events import dictionary
from airank_fast.record.formats import airank_inference as logs
from airank_fast.record.inference_metrics import ACCURACY, headline_value
from airank_fast.rules.airank_inference_tree import LOGS_OF
from airank_fast.rules.trees import AIRANK_FIELDS
from airank_fast.submission import inference, texts
from airank_fast.submission.inference import InferenceCandidate
from airank_fast.submission.request import Request
from airank_fast.submission.system import airank_description
from airank_fast.submission.tree import Tree, component

FORM = "airank-inference"
_PROFILES = {f"airank-{profile}": profile for profile in logs.PROFILES}
MIB = 1 << 20


def build(request: Request, profile: str | None = None) -> tuple[Tree, dict]:
    """The tree with its manifest. `profile` is the runs' own, or None; UserError for runs that have no place in it."""
    runs: list[InferenceCandidate] = list(request.candidates)  # type: ignore[arg-type]
    found = _PROFILES[inference.one_profile(runs, FORM, _PROFILES)]
    if profile not in (None, found):
        raise UserError(f"--profile: must be {found}, by which the runs were made, got {profile}")
    own = [one for one in runs if one.is_own]
    if own and not request.is_rehearsal:
        raise UserError(
            f"runs: must be of the reference model's weights, got weights trained here ({own[0].log}); "
            "--rehearsal packages them"
        )
    run, here = inference.system_of(request)
    system = airank_description(request.given, run, here)
    kind = _kind(system, runs)
    models = inference.placed(runs, [scenario for scenario in logs.FILES if scenario != ACCURACY])
    models = {
        name: kept
        for name, scenarios in models.items()
        if (kept := {scenario: one for scenario, one in scenarios.items() if scenario in LOGS_OF[kind]})
    }
    _refuse_missing(models, kind)
    tree = Tree()
    root, folders = (_profile_2020_12 if found == "2020-12" else _profile_2021_05)(tree, request, system, kind, models)
    placed = {}
    for name, scenarios in models.items():
        placed |= _model(tree, f"{root}/{folders[name]}", kind, scenarios, request, here)
    return tree, inference.manifest(f"airank inference {found}, {kind}", placed, request)


def _kind(system: dict, runs: list[InferenceCandidate]) -> str:
    """mobile, by the system's hardware_type or because no run has clients of a service, or cloud."""
    if str(system.get("hardware_type")).lower() in ("mobile", "edge", "terminal"):
        return "mobile"
    scenarios = {scenario for one in runs for scenario in one.tally.scenarios()}
    return "mobile" if {"latency", "max-batch"} & scenarios and "online" not in scenarios else "cloud"


def _refuse_missing(models: dict[str, dict[str, InferenceCandidate]], kind: str) -> None:
    """UserError that names the scenarios that a text requires and the runs lack."""
    if not models:
        names = ", ".join(name for name in LOGS_OF[kind] if name != ACCURACY)
        raise UserError(f"--format {FORM}: must have runs with a scenario of {names}, got none")
    missing = []
    for name, scenarios in models.items():
        lacks = [each for each in LOGS_OF[kind] if each != ACCURACY and each not in scenarios]
        if kind == "cloud" and scenarios:  # "at least one of online and offline"
            lacks = []
        missing += [f"{name}: {each}" for each in lacks]
        missing += [f"{one.log}: accuracy" for one in scenarios.values() if not one.tally.accuracies]
    if missing:
        raise UserError(f"runs: must have {len(missing)} more tests for a {kind} tree, got no {', '.join(missing)}")


Models = dict[str, dict[str, InferenceCandidate]]


def _profile_2020_12(
    tree: Tree, request: Request, system: dict, kind: str, models: Models
) -> tuple[str, dict[str, str]]:
    root = component("hardware_name", str(system["hardware_name"]))
    banner = texts.banner(request.is_rehearsal)
    rows = [f"| {name} | {system[name]} |" for name in AIRANK_FIELDS]
    table = "\n".join(["| field | value |", "|---|---|", *rows]) + "\n"
    tree.add(f"{root}/system_information.md", banner + "# System information\n\n" + table)
    tree.add(f"{root}/summary_metrics.md", banner + summary_metrics(models, kind))
    notes = "\n" + texts.findings_text(request.allowed) + "\n" if request.allowed else ""
    submitter = f"# Submitter information\n\n- submitter / 单位名称: {system['submitter']}\n"
    tree.add(f"{root}/submitter_information.md", banner + submitter + notes)
    device = system["accelerator_name"] if system["accelerators_per_node"] else system["host_processor_name"]
    folders = {name: f"{_model_name(name)}-{component('device', str(device))}" for name in models}
    for name, scenarios in models.items():
        for file, content in _report(scenarios, request).items():
            tree.add(f"{root}/{folders[name]}/report/{file}", content)
    return root, folders


def _profile_2021_05(
    tree: Tree, request: Request, system: dict, kind: str, models: Models
) -> tuple[str, dict[str, str]]:
    submitter = component("submitter", str(system["submitter"]))
    is_windows = "windows" in str(system["operating_system"]).lower()
    place = component("hardware_name", str(system["hardware_name"])) if kind == "mobile" else ""
    root = f"{submitter}/{place or ('Windows' if is_windows else 'Linux')}"
    rehearsal = {"rehearsal": texts.BANNER} if request.is_rehearsal else {}
    tree.add_json(f"{root}/system_information.json", rehearsal | system)
    folders = {name: _model_name(name) for name in models}
    for name, scenarios in models.items():
        summary = texts.banner(request.is_rehearsal) + summary_metrics({name: scenarios}, kind)
        tree.add(f"{root}/{folders[name]}/code/summary_metrics.md", summary)
        for file, content in _report(scenarios, request).items():
            tree.add(f"{root}/{folders[name]}/code/report/{file}", content)
    return root, folders


def _model_name(benchmark: str) -> str:
    return component("benchmark", benchmark)


def _report(scenarios: dict[str, InferenceCandidate], request: Request) -> dict[str, str | bytes]:
    runs = inference.distinct(scenarios.values())
    return request.write_report(inference.title_of(runs[0]), runs, request.is_rehearsal)


def _model(
    tree: Tree, folder: str, kind: str, scenarios: dict[str, InferenceCandidate], request: Request, here: dict
) -> dict[str, tuple[InferenceCandidate, str]]:
    """Add code, data and logs of one model; returns its logs by their names in the tree."""
    runs = inference.distinct(scenarios.values())
    inference.add_code(tree, f"{folder}/code", runs, request)
    data = f"# {inference.title_of(runs[0])}: data\n\n{inference.data_text(runs)}"
    tree.add(f"{folder}/data/README.md", texts.banner(request.is_rehearsal) + data)
    place = f"{folder}/log/{inference.processor_folder(runs[0], here)}" if kind == "mobile" else f"{folder}/log"
    first, placed = request.first_line(), {}
    for scenario, one in {ACCURACY: runs[0], **scenarios}.items():
        lines = logs.logs(one.tally).get(logs.FILES[scenario])
        if lines is None:
            raise UserError(f"{one.log}: must have the events of {logs.FILES[scenario]}, got none")
        name = f"{place}/{logs.FILES[scenario]}"
        tree.add(name, "".join(f"{line}\n" for line in ([first] if first else []) + lines))
        placed[name] = (one, scenario)
    return placed


def summary_metrics(models: Models, kind: str) -> str:
    """The table of results, a row for each model, as AI-Rank's texts have it; a test that is not valid has none."""
    heads = {
        "cloud": ("模型", "准确率", "离线吞吐(samples/sec)", "在线吞吐(samples/sec)", "最大时延(ms)"),
        "mobile": ("模型", "准确率", "时延 p90(ms)", "离线吞吐(samples/sec)", "最大并发推理量", "峰值内存(MiB)"),
    }[kind]
    rows = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for name, scenarios in models.items():
        measured = {scenario: one.tally.figures(scenario) for scenario, one in scenarios.items()}
        figures = {scenario: found for scenario, found in measured.items() if found["valid"] is True}
        one = next(iter(scenarios.values()))
        event = next(iter(one.tally.accuracies.values()), {})
        value = headline_value(event, one.tally.metric) if event else None
        accuracy = "-" if value is None else one.tally.metric.text(value)
        offline = _cell(figures, "offline", "samples_per_s", 2)
        if kind == "cloud":
            cells = [
                offline,
                _cell(figures, "online", "samples_per_s", 2),
                _cell(figures, "online", "latency_max_s", 2, 1e3),
            ]
        else:
            batch = dictionary(figures.get("max-batch", {}).get("metric")).get("batch")
            memory = dictionary(figures.get("max-batch", {}).get("memory")).get("total_bytes")
            cells = [_cell(figures, "latency", "latency_p90_linear_s", 2, 1e3), offline]
            cells += ["-" if batch is None else f"{batch:g}", "-" if memory is None else f"{memory / MIB:.0f}"]
        rows.append("| " + " | ".join([name, accuracy, *cells]) + " |")
    return "# Summary metrics / 数据汇总\n\n" + "\n".join(rows) + "\n"


def _cell(figures: dict[str, dict], scenario: str, name: str, digits: int, factor: float = 1) -> str:
    value = figures.get(scenario, {}).get(name)
    return "-" if value is None else f"{value * factor:.{digits}f}"
