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

from airank_fast import tasks
from airank_fast.errors import UserError
from airank_fast.rules.scoring import BENCHMARKS, gp2bm_score
from airank_fast.rules.trees import SCORE_SHEET
from airank_fast.submission import texts
from airank_fast.submission.candidates import Candidate
from airank_fast.submission.request import Request, add_code, manifest
from airank_fast.submission.system import mlperf_description
from airank_fast.submission.tree import Tree, component

RULESET = "4.0.0"
IMPLEMENTATION = "airank_fast"


def build(request: Request) -> tuple[Tree, dict]:
    """The tree of an organization with its manifest; UserError for runs that the rules do not accept."""
    tree = Tree()
    placed, description = _organization(tree, request)
    return tree, manifest(f"mlperf training {RULESET}", placed, request) | {"system": description["system_name"]}


def build_gp2bm(request: Request) -> tuple[Tree, dict]:
    """The tree of both benchmarks on one node, with the score sheet and its manifest."""
    if missing := sorted(set(BENCHMARKS) - set(request.results)):
        raise UserError(f"gp2bm: must have runs of resnet and bert, got none of {', '.join(missing)}")
    tree = Tree()
    placed, description = _organization(tree, request)
    if description["number_of_nodes"] != "1":
        raise UserError(f"gp2bm: must be of one node, got {description['number_of_nodes']}")
    r_minutes, b_minutes = (request.results[name].score.minutes for name in ("resnet", "bert"))
    score = None if None in (r_minutes, b_minutes) else gp2bm_score(r_minutes, b_minutes)
    rows = _sheet(placed, score, request)
    tree.add(SCORE_SHEET, _csv(rows))
    tree.add("MLPerf.md", _markdown(rows, description, request))
    return tree, manifest(f"gp2bm, mlperf training {RULESET}", placed, request) | {"score": score}


def _organization(tree: Tree, request: Request) -> tuple[list[tuple[str, Candidate]], dict]:
    """Add systems/, results/ and benchmarks/; returns the logs by their names, and the description."""
    run, here = request.facts()
    description = mlperf_description(request.given, run, here, request.source()[0])
    if "submitter" in run and run["submitter"] != description["submitter"]:
        raise UserError(
            f"--set submitter: must be {run['submitter']!r}, the logs' submission_org, got {description['submitter']!r}"
        )
    if request.is_rehearsal:
        description["hw_notes"] = f"{texts.BANNER} {description['hw_notes']}"
    org = component("submitter", description["submitter"])
    system = component("system_name", description["system_name"])
    tree.add_json(f"{org}/systems/{system}.json", description)
    placed = []
    for benchmark, runs in ((name, result.runs) for name, result in request.results.items()):
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
    """The heading of a benchmark's texts. UserError for a smaller model than MLPerf's, except in a rehearsal."""
    names = sorted({one.benchmark for one in runs})
    networks = [benchmark.network for benchmark in BENCHMARKS.values()]
    if len(names) > 1 or (names[0] not in networks and not request.is_rehearsal):
        raise UserError(f"benchmark: must be {' or '.join(networks)} in all runs, got {', '.join(names)}")
    task = tasks.find(names[0])
    return f"{task.model} ({names[0]}), {task.title['en']}" if task else names[0]


def _sheet(placed: list[tuple[str, Candidate]], score: float | None, request: Request) -> list[tuple]:
    """(quantity, value, unit, where it comes from), the score first."""
    rows: list[tuple] = [("quantity", "value", "unit", "source")]
    if request.is_rehearsal:
        rows.append(("REHEARSAL (演练)", "no result", "", texts.BANNER))
    weights = (BENCHMARKS[name].reference_minutes for name in ("resnet", "bert"))
    rows.append(("score", _text(score), "", "{:g} / R + {:g} / B".format(*weights)))
    for letter, name in (("R", "resnet"), ("B", "bert")):
        result, num_runs = request.results[name], BENCHMARKS[name].num_runs
        origin = f"mean of the middle {num_runs - 2} of {num_runs} runs of {name}, {result.scaling}"
        rows.append((letter, _text(result.score.minutes), "minutes", origin))
    for file, one in placed:
        minutes = request.results[one.mlperf_name].of(one).minutes
        value = "not converged" if minutes is None else _text(minutes)
        rows.append((f"run of {one.mlperf_name}, seed {one.config.get('seed', '-')}", value, "minutes", file))
    return rows


def _text(value: float | None) -> str:
    return "invalid" if value is None else f"{value:.6f}"


def _csv(rows: list[tuple]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _markdown(rows: list[tuple], description: dict, request: Request) -> str:
    head = texts.banner(request.is_rehearsal) + "# GP2BM: MLPerf benchmark\n\n"
    summary = (
        f"{description['submitter']}, {description['system_name']}: one node, "
        f"{description['accelerators_per_node']} x {description['accelerator_model_name']}, "
        f'{description["framework"]}. The same rows as {SCORE_SHEET}, for the "MLPerf" tab of the spreadsheet.\n\n'
    )
    table = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    table.insert(1, "|---" * len(rows[0]) + "|")
    notes = "\n\n" + texts.findings_text(request.allowed) if request.allowed else ""
    return head + summary + "\n".join(table) + notes + "\n"
