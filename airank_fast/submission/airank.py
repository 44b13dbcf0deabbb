"""AI-Rank's submission trees, after its text of 2020-12 and of 2021-05 (docs/software/train.md).

    2020-12                                     2021-05
    <system name>/                              <submitter>/<linux or windows>/
        system_information.md                       system_information.json
        <model>/code, data, log, report             <model>_pytorch/code/README.md, data, log
        summary_metrics.md
        submitter_information.md

Logs are log/GPUx<cards>.log; beside a run with mixed precision, one in float32 is GPUx<cards>_FP32.log, as AI-Rank's
reviewers requested. The text of 2021-05 requires no report or summary; its trees have them in code/.
"""

from __future__ import annotations

from airank_fast import tasks
from airank_fast.errors import UserError
from airank_fast.record.events import dictionary, effective
from airank_fast.record.formats.airank import PROFILES, AIRankLog
from airank_fast.rules.trees import AIRANK_FIELDS
from airank_fast.submission import texts
from airank_fast.submission.candidates import Candidate, by_benchmark
from airank_fast.submission.request import Request, add_code, manifest
from airank_fast.submission.system import airank_description
from airank_fast.submission.tree import Tree, component

_HEADER = (
    "|              | Time2train(sec)  | 吞吐(samples/sec) | 准确率(%) | 加速比 |\n"
    "|--------------|------------|------------|------------|-----------|"
)


def build(request: Request, profile: str) -> tuple[Tree, dict]:
    """The tree with its manifest; UserError for runs that have no place in it."""
    if profile not in PROFILES:
        raise UserError(f"--profile: must be one of {', '.join(PROFILES)}, got {profile}")
    run, here = request.facts()
    system = airank_description(request.given, run, here)
    models = by_benchmark(request.candidates, _folder)
    logs = {model: _log_names(runs) for model, runs in models.items()}
    tree = Tree()
    write = _profile_2020_12 if profile == PROFILES[0] else _profile_2021_05
    placed = write(tree, request, system, logs)
    for name, one in placed:
        _add_log(tree, name, one, profile, request)
    return tree, manifest(f"airank {profile}", placed, request)


Placed = list[tuple[str, Candidate]]


def _folder(one: Candidate) -> str:
    """The name of a model's folder; a network smaller than the model's has one of its own."""
    task = tasks.of({**one.config, "benchmark": one.benchmark})
    return task.name if task and not tasks.is_smaller(one.benchmark) else one.benchmark


def _profile_2020_12(tree: Tree, request: Request, system: dict, models: dict[str, dict[str, Candidate]]) -> Placed:
    root = component("hardware_name", str(system["hardware_name"]))
    banner = texts.banner(request.is_rehearsal)
    tree.add(f"{root}/system_information.md", banner + "# System information\n\n" + _table(system))
    tree.add(f"{root}/summary_metrics.md", banner + summary_metrics(models))
    submitter = f"# Submitter information\n\n- submitter / 单位名称: {system['submitter']}\n"
    notes = "\n" + texts.findings_text(request.allowed) + "\n" if request.allowed else ""
    tree.add(f"{root}/submitter_information.md", banner + submitter + notes)
    placed = []
    for model, logs in models.items():
        placed += _model(tree, f"{root}/{model}", model, logs, request)
        for name, content in request.write_report(model, list(logs.values()), request.is_rehearsal).items():
            tree.add(f"{root}/{model}/report/{name}", content)
    return placed


def _profile_2021_05(tree: Tree, request: Request, system: dict, models: dict[str, dict[str, Candidate]]) -> Placed:
    submitter = component("submitter", str(system["submitter"]))
    root = f"{submitter}/{'windows' if 'windows' in str(system['operating_system']).lower() else 'linux'}"
    rehearsal = {"rehearsal": texts.BANNER} if request.is_rehearsal else {}
    tree.add_json(f"{root}/system_information.json", rehearsal | system)
    placed = []
    for model, logs in models.items():
        folder = f"{root}/{model}_pytorch"
        placed += _model(tree, folder, model, logs, request)
        summary = texts.banner(request.is_rehearsal) + summary_metrics({model: logs})
        tree.add(f"{folder}/code/summary_metrics.md", summary)
        for name, content in request.write_report(model, list(logs.values()), request.is_rehearsal).items():
            tree.add(f"{folder}/code/report/{name}", content)
    return placed


def _model(tree: Tree, folder: str, model: str, logs: dict[str, Candidate], request: Request) -> Placed:
    """Add code and data of one model; returns its logs by their names in the tree."""
    runs = list(logs.values())
    add_code(tree, f"{folder}/code", model, runs, request)
    tree.add(f"{folder}/data/README.md", texts.data_readme(model, runs, request.is_rehearsal))
    return [(f"{folder}/log/{name}", one) for name, one in logs.items()]


def _add_log(tree: Tree, name: str, one: Candidate, profile: str, request: Request) -> None:
    """Add a log unchanged; one of our runs in the other profile is written again from its events."""
    written = dictionary(one.config.get("options")).get("airank_profile", PROFILES[0])
    if one.run.format != "events" or written == profile:
        tree.copy(name, one.log, request.first_line())
        return
    log, lines = AIRankLog(profile), [request.first_line()] if request.is_rehearsal else []
    for event in effective(one.run.events):
        lines += log.feed(event)
    tree.add(name, "".join(line + "\n" for line in [*lines, *log.close()]))


def _log_names(runs: list[Candidate]) -> dict[str, Candidate]:
    """GPUx<cards>.log -> its run, by card count; UserError for a run without a count, or a second of the same."""
    found: dict[str, Candidate] = {}
    for one in sorted(runs, key=lambda one: (one.cards or 0, one.config.get("precision") == "fp32", one.started)):
        if not one.cards:
            raise UserError(
                f"{one.log}: must be a log that states the number of cards, got none; give "
                "--cards, or name it GPUx<cards>.log"
            )
        name = f"GPUx{one.cards}.log"
        if name in found and one.config.get("precision") == "fp32" != found[name].config.get("precision"):
            name = f"GPUx{one.cards}_FP32.log"
        if name in found:
            raise UserError(
                f"{one.log}: must be the only run of {one.benchmark} with {one.cards} cards, got a second "
                f"beside {found[name].log}"
            )
        found[name] = one
    return found


def summary_metrics(models: dict[str, dict[str, Candidate]]) -> str:
    """The summary in the published table's layout, a row for each card count.

    加速比 is the Time2train of one card over that of N. Where a float32 run was given as well, the ratio of the
    throughputs follows the table under its own name.
    """
    parts = []
    for model, logs in models.items():
        main = {one.cards: _figures(one) for name, one in logs.items() if "_FP32" not in name}
        fp32 = {one.cards: _figures(one) for name, one in logs.items() if "_FP32" in name}
        alone = main.get(1, {}).get("time2train")
        rows = [_row(cards, figures, alone) for cards, figures in main.items()]
        ratios = [
            f"- {cards}卡, 混合精度/FP32 吞吐比: {main[cards]['throughput'] / figures['throughput']:.2f}"
            for cards, figures in fp32.items()
            if main.get(cards, {}).get("throughput") and figures["throughput"]
        ]
        parts.append("\n".join([f"- {model}", "", _HEADER, *rows, *(["", *ratios] if ratios else [])]))
    return "# Summary metrics / 数据汇总\n\n" + "\n\n".join(parts) + "\n"


def _figures(one: Candidate) -> dict:
    """Time2train, throughput and best accuracy: from the events, else as the log states them."""
    stated = {e["name"]: e["value"] for e in one.run.events if e["kind"] == "figure"}
    summary = one.run.summary
    return {
        "time2train": summary["time2train"] or stated.get("target_quality_time"),
        "throughput": (summary["avg_ips"] if summary["trained_samples"] else None) or stated.get("avg_ips"),
        "accuracy": summary["best_accuracy"],
        "metric": tasks.headline({**one.config, "benchmark": one.benchmark}),
    }


def _row(cards: int, figures: dict, alone: float | None) -> str:
    time2train, accuracy, metric = figures["time2train"], figures["accuracy"], figures["metric"]
    speed_up = alone / time2train if alone and time2train else None
    cells = [
        _cell(time2train, 2),
        _cell(figures["throughput"], 2),
        _cell(accuracy and accuracy * metric.scale, metric.digits),
        _cell(speed_up, 2),
    ]
    return f"| {cards}卡 | {' | '.join(cells)} |"


def _cell(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _table(system: dict) -> str:
    rows = [f"| {name} | {system[name]} |" for name in AIRANK_FIELDS]
    return "\n".join(["| field | value |", "|---|---|", *rows]) + "\n"
