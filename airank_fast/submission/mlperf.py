"""MLPerf's submission tree, and GP2BM's, which is the same for both benchmarks with a score sheet.

    <org>/systems/<system>.json
    <org>/results/<system>/<benchmark>/result_<n>.txt       5 of resnet, 10 of bert
    <org>/benchmarks/<benchmark>/implementations/airank_fast/
    MLPerf.csv, MLPerf.md                                   GP2BM

Sources: MLCommons' submission rules (training), mlperf-logging 4.1.68 (package_checker, system_desc_checker,
result_summarizer), GP2BM's MLPerf benchmark document.
"""

from __future__ import annotations

import csv
import io

from airank_fast.errors import UserError
from airank_fast.rules.trees import NUM_RESULTS, SCORE_SHEET
from airank_fast.submission import texts
from airank_fast.submission.candidates import Candidate, by_benchmark, choose, olympic_minutes
from airank_fast.submission.request import Request, add_code, manifest
from airank_fast.submission.system import mlperf_description
from airank_fast.submission.tree import Tree, component

RULESET = "4.0.0"
IMPLEMENTATION = "airank_fast"
_TITLES = {"resnet50": "ResNet-50 v1.5, image classification", "bert_large": "BERT-large, pre-training"}
_WEIGHTS = {"resnet": 7.19, "bert": 9.05}


def build(request: Request) -> tuple[Tree, dict]:
    """The tree of an organization with its manifest; UserError for what the rules do not take."""
    tree = Tree()
    placed, description = _organization(tree, request)
    return tree, manifest(f"mlperf training {RULESET}", placed, request) | {"system": description["system_name"]}


def build_gp2bm(request: Request) -> tuple[Tree, dict]:
    """The tree of both benchmarks on one node, with the score sheet and its manifest."""
    names = {one.short for one in request.candidates}
    if missing := sorted(set(NUM_RESULTS) - names):
        raise UserError(f"gp2bm: runs of resnet and bert are required, got none of {', '.join(missing)}")
    tree = Tree()
    placed, description = _organization(tree, request)
    if description["number_of_nodes"] != "1":
        raise UserError(f"gp2bm: one node is required, got {description['number_of_nodes']}")
    groups = by_benchmark([one for _, one in placed], lambda one: one.short)
    minutes = {name: olympic_minutes(runs) for name, runs in groups.items()}
    for name, value in minutes.items():
        if value is None and not (request.allowed or request.is_rehearsal):
            raise UserError(f"gp2bm: at most one run of {name} without success is allowed, got more")
    score = None if None in minutes.values() else sum(_WEIGHTS[name] / minutes[name] for name in minutes)
    rows = _sheet(placed, minutes, score, request.is_rehearsal)
    tree.add(SCORE_SHEET, _csv(rows))
    tree.add("MLPerf.md", _markdown(rows, description, request))
    return tree, manifest(f"gp2bm, mlperf training {RULESET}", placed, request) | {"score": score}


def _organization(tree: Tree, request: Request) -> tuple[list[tuple[str, Candidate]], dict]:
    """Add systems/, results/ and benchmarks/; returns the logs by their names, and the description."""
    run, here = request.facts()
    description = mlperf_description(request.given, run, here, request.source()[0])
    if "submitter" in run and run["submitter"] != description["submitter"]:
        raise UserError(f"--set submitter: {run['submitter']!r} is required as in the logs' submission_org, "
                        f"got {description['submitter']!r}")  # fmt: skip
    if request.is_rehearsal:
        description["hw_notes"] = f"{texts.BANNER} {description['hw_notes']}"
    org = component("submitter", description["submitter"])
    system = component("system_name", description["system_name"])
    tree.add_json(f"{org}/systems/{system}.json", description)
    placed = []
    for benchmark, given in by_benchmark(request.candidates, lambda one: one.short).items():
        runs = choose(benchmark, given)
        for number, one in enumerate(runs):
            name = f"{org}/results/{system}/{benchmark}/result_{number}.txt"
            tree.copy(name, one.log, request.first_line())
            placed.append((name, one))
        title = _title(runs, request)
        folder = f"{org}/benchmarks/{benchmark}/implementations/{IMPLEMENTATION}"
        add_code(tree, folder, title, runs, request)
        for name, content in request.write_report(title, runs, request.is_rehearsal).items():
            tree.add(f"{folder}/report/{name}", content)
    return placed, description


def _title(runs: list[Candidate], request: Request) -> str:
    """What stands above the texts of a benchmark. UserError for a smaller model than MLPerf's, but in a rehearsal."""
    names = sorted({one.benchmark for one in runs})
    if len(names) > 1 or (names[0] not in _TITLES and not request.is_rehearsal):
        raise UserError(f"benchmark: {' or '.join(_TITLES)} is required in all runs, got {', '.join(names)}")
    return _TITLES.get(names[0], names[0])


def _sheet(placed: list[tuple[str, Candidate]], minutes: dict, score: float | None, is_rehearsal: bool) -> list[tuple]:
    """(quantity, value, unit, where it comes from), the score first."""
    letters = {"resnet": "R", "bert": "B"}
    rows: list[tuple] = [("quantity", "value", "unit", "source")]
    if is_rehearsal:
        rows.append(("REHEARSAL (演练)", "no result", "", texts.BANNER))
    rows.append(("score", _text(score), "", "7.19 / R + 9.05 / B"))
    for name in sorted(minutes, reverse=True):
        kept = NUM_RESULTS[name] - 2
        told = f"mean of the middle {kept} of {NUM_RESULTS[name]} runs of {name}, not scaled by convergence points"
        rows.append((letters[name], _text(minutes[name]), "minutes", told))
    for file, one in placed:
        value = _text(one.minutes) if one.minutes != float("inf") else "not converged"
        rows.append((f"run of {one.short}, seed {one.config.get('seed', '-')}", value, "minutes", file))
    return rows


def _text(value: float | None) -> str:
    return "invalid" if value is None else f"{value:.6f}"


def _csv(rows: list[tuple]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _markdown(rows: list[tuple], description: dict, request: Request) -> str:
    head = texts.banner(request.is_rehearsal) + "# GP2BM: MLPerf benchmark\n\n"
    told = (
        f"{description['submitter']}, {description['system_name']}: one node, "
        f"{description['accelerators_per_node']} x {description['accelerator_model_name']}, "
        f"{description['framework']}. The same rows as {SCORE_SHEET}, for the \"MLPerf\" tab of the spreadsheet.\n\n"
    )
    table = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    table.insert(1, "|---" * len(rows[0]) + "|")
    notes = "\n\n" + texts.findings_text(request.allowed) if request.allowed else ""
    return head + told + "\n".join(table) + notes + "\n"
