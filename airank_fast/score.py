"""Score runs by the rules: MLPerf results, the GP2BM score, and AI-Rank's figures with 加速比; also of inference.

python -m airank_fast.score runs/*/
python -m airank_fast.score --r-minutes 28.685 --b-minutes 16.882 --want 1.0
python -m airank_fast.score --rules airank GPUx1.log GPUx8.log --set benchmark=resnet50 --set samples_per_epoch=1281167

Exit status: 0 if every set and every inference result is complete and valid; 1 if not (with --rules airank: if no run
reached its target), or if a log or folder inside a directory cannot be read.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from airank_fast import tasks
from airank_fast.cli import run_command
from airank_fast.errors import UserError
from airank_fast.record.events import name_floats
from airank_fast.record.foreign.read import Run, cards_in_name, read_run
from airank_fast.record.inference_reading import InferenceRun, is_inference, read_inference
from airank_fast.record.settings import parse_settings
from airank_fast.record.tables import table
from airank_fast.rules import airank_score, inference_scoring, scoring
from airank_fast.rules.gathering import gather
from airank_fast.rules.mlperf.result import is_log
from airank_fast.rules.scoring import BENCHMARKS, ReferencePoint, SetResult

WHAT_IF = (0.5, 0.8, 0.9, 1.0, 1.1, 1.25, 2.0)  # factors of the current result


@dataclass(frozen=True, kw_only=True)
class Options:
    """Score runs by the rules of MLPerf, GP2BM and AI-Rank."""

    paths: Annotated[list[Path], tyro.conf.Positional] = field(default_factory=list)
    """Run directories, logs in any format, and directories of these."""
    rules: Literal["all", "mlperf", "airank"] = "all"
    """The rules whose figures are computed."""
    r_minutes: float | None = None
    """Result of ResNet-50 in minutes, in place of runs."""
    b_minutes: float | None = None
    """Result of BERT in minutes, in place of runs."""
    want: list[float] = field(default_factory=list)
    """GP2BM scores to reach: the results of ResNet and BERT that give them."""
    rcp: tyro.conf.UseAppendAction[list[str]] = field(default_factory=list)
    """Reference convergence points, BENCHMARK=MEAN,MINIMUM in epochs (resnet) or samples (bert). Default: those of
    mlperf-logging for the batch size, if it is installed."""
    own_targets: bool = False
    """Judge runs by their own targets, with smaller data and networks too: a rehearsal."""
    set: tyro.conf.UseAppendAction[list[str]] = field(default_factory=list)
    """Facts that the logs do not state: NAME=VALUE for all logs, 'PATTERN:NAME=VALUE' for matching paths. GPUx8.log
    means world_size=8."""
    profile: Literal["2020-12", "2021-05"] = "2020-12"
    """The AI-Rank document, which fixes the models and targets."""
    weights: tuple[float, float, float] = (0.4, 0.4, 0.2)
    """Weights of performance, task coverage and operating systems in AI-Rank's composite score."""
    reference: tyro.conf.UseAppendAction[list[str]] = field(default_factory=list)
    """The Time2train that counts 1 in the composite score: MODEL:CARDS=SECONDS."""
    amp_peak_ratio: float | None = None
    """The hardware's peak rate in mixed precision / that in fp32, for the efficiency of AMP (V100: 8)."""
    json: bool = False
    """One JSON object on standard output instead of tables."""


def main() -> int:
    """Print the figures. Returns 1 if a set is invalid or incomplete, or if a log cannot be read."""
    options = tyro.cli(Options, description=__doc__)
    check(options)
    runs, settings, left_out, is_whole = read_runs(options)
    inference = read_inference_runs(options)
    result, text, status = {"rehearsal": options.own_targets, "notes": [*left_out, *notes_of(runs)]}, [], 0
    text += [f"note: {note}" for note in result["notes"]] + [""] * bool(result["notes"])
    if options.own_targets:
        text += ["REHEARSAL: runs are judged by their own targets, with any data and network; this is no result", ""]
    if inference:
        found = inference_scoring.score(inference, options.own_targets, options.rules)
        result["inference"] = inference_scoring.to_json(found)
        text += inference_scoring.text(found)
        status = int(not found.valid)
    if options.rules != "airank" and (runs or not inference):
        sets, score = mlperf(options, runs)
        result |= {"mlperf": [set_json(each) for each in sets], "gp2bm": score}
        counts = Counter(each.benchmark.name for each in sets)
        text += [part for each in sets for part in set_text(each, counts[each.benchmark.name] == 1)]
        text += gp2bm_text(score)
        status |= int(any(not each.valid for each in sets) or (not sets and score["score"] is None))
    if options.rules != "mlperf" and runs:
        judged, targets = (runs, []) if options.own_targets else with_targets(runs, settings, options.profile)
        airank = airank_score.airank_result(
            judged,
            options.profile,
            airank_score.Weights(*options.weights),
            references(options),
            options.amp_peak_ratio,
            options.own_targets,
        )
        result["airank"] = asdict(airank) | {"targets": targets}
        text += airank_text(airank, targets)
        if options.rules == "airank":
            status |= int(all(row.time2train is None for row in airank.rows))
    print(json.dumps(name_floats(result), ensure_ascii=False, indent=2) if options.json else "\n".join(text))
    return status if is_whole else 1


def check(options: Options) -> None:
    """UserError for invalid options."""
    minutes = {"--r-minutes": options.r_minutes, "--b-minutes": options.b_minutes}
    positive = {**minutes, "--amp-peak-ratio": options.amp_peak_ratio}
    positive |= {"--want": min(options.want, default=None)}
    for name, value in positive.items():
        if value is not None and not (0 < value < math.inf):
            raise UserError(f"{name}: must be a number above 0, got {value}")
    if not options.paths and (options.rules == "airank" or all(value is None for value in minutes.values())):
        raise UserError("score: must have paths of runs, or --r-minutes and --b-minutes, got none")
    if not (all(0 <= weight < math.inf for weight in options.weights) and sum(options.weights) > 0):
        raise UserError(f"--weights: must be numbers from 0, not all of them 0, got {options.weights}")
    parse_settings(options.set)
    rcp_points(options)
    references(options)


def read_runs(options: Options) -> tuple[list[Run], list[dict], list[str], bool]:
    """(the runs at the paths, the settings of each, notes on files left out, whether all logs were read).

    UserError for a log that is named and cannot be read, or the first in folders without any other log.
    """
    read, notes, errors = {}, [], []
    for place in options.paths:
        gathered = gather(place)
        notes += gathered.notes
        errors += map(UserError, gathered.errors)
        for path in (each for each in gathered.runs if not is_inference(each)):
            settings = settings_of(path, options.set)
            try:
                read[path] = read_run(path, settings), settings
            except UserError as error:
                if path == place:
                    raise
                errors.append(error)
    if errors and not read:
        raise errors[0]
    runs, settings = zip(*read.values(), strict=True) if read else ((), ())
    return list(runs), list(settings), [*notes, *(f"left out: {error}" for error in errors)], not errors


def read_inference_runs(options: Options) -> list[InferenceRun]:
    """The inference runs at the paths. UserError for one that cannot be read."""
    paths = dict.fromkeys(path for place in options.paths for path in gather(place).runs if is_inference(path))
    return [read_inference(path) for path in paths]


def notes_of(runs: list[Run]) -> list[str]:
    """Notes on the logs behind the figures, each once: how they were read, missing figures, resumed runs."""
    places = defaultdict(list)
    for run in runs:
        for event in run.events if run.format != "events" else ():
            if event["kind"] == "warning":
                places[event["message"]].append(str(run.path))
        for note in run.summary["notes"] if not run.summary["comparable"] else ():
            places[note].append(str(run.path))
        if "avg_ips" in run.absent:
            places[f"avg_ips: absent, {run.absent['avg_ips']}"].append(str(run.path))
    more = {note: f" and {len(paths) - 1} more" if len(paths) > 1 else "" for note, paths in places.items()}
    return [f"{paths[0]}{more[note]}: {note}" for note, paths in places.items()]


def mlperf(options: Options, runs: list[Run]) -> tuple[list[SetResult], dict]:
    """The sets of the runs, and GP2BM's score. A set has one benchmark, one system and one folder of results."""
    points, groups = rcp_points(options), defaultdict(list)
    for run in runs:
        benchmark = scoring.benchmark_of(run.summary["benchmark"])
        if benchmark is None and options.rules == "mlperf":
            got = run.summary["benchmark"] or "none"
            names = " or ".join(BENCHMARKS)
            raise UserError(f"{run.path}: must be a run of {names} (--set benchmark=), got {got}")
        if benchmark is not None:
            result = scoring.run_result(run, options.own_targets)
            folder = str(run.path.parent) if is_log(run.path) else ""
            place = result.system.order, str(result.division), result.world_size or 0, folder
            groups[benchmark.name, place].append(result)
    sets = []
    for (name, _), group in sorted(groups.items()):
        default = None if options.own_targets else scoring.reference_point(name, group)  # not of rehearsals
        given = None if scoring.is_open(group) else points.get(name)
        sets.append(scoring.set_result(BENCHMARKS[name], group, given or default))
    return sets, score_of(options, sets)


def score_of(options: Options, sets: list[SetResult]) -> dict:
    """GP2BM's score of the given results or of each benchmark's one valid set; else the reasons why there is none."""
    minutes, missing, reasons = {"resnet": options.r_minutes, "bert": options.b_minutes}, {}, {}
    for name, benchmark in BENCHMARKS.items():
        of_name = [each for each in sets if each.benchmark.name == name]
        missing[name] = 0 if minutes[name] is not None else of_name[0].num_missing if of_name else benchmark.num_runs
        if minutes[name] is not None:
            continue
        if missing[name]:
            reasons[name] = f"runs of {name} missing: {missing[name]}"
        elif len(of_name) > 1:
            reasons[name] = f"{len(of_name)} sets of {name}; a score takes one"
        elif not of_name[0].valid:
            reasons[name] = f"the set of {name} is not valid"
        else:
            minutes[name] = of_name[0].minutes
    score = gp2bm(minutes["resnet"], minutes["bert"], options.want)
    return score | {"missing_runs": missing, "reasons": list(reasons.values())}


def settings_of(path: Path, settings: list[str]) -> dict:
    """The --set values of a log, and the number of cards in its name (GPUx8.log)."""
    cards = cards_in_name(path)
    return ({"world_size": cards} if cards else {}) | parse_settings(settings, str(path))


def with_targets(runs: list[Run], settings: list[dict], profile: str) -> tuple[list[Run], list[str]]:
    """(the runs, with AI-Rank's target where a run states none; the targets added, with their sources)."""
    judged, targets = [], {}
    for run, given in zip(runs, settings, strict=True):
        config, benchmark = run.first("run_config"), run.summary["benchmark"]
        task = None if tasks.is_smaller(benchmark) else tasks.of(config)
        target = airank_score.required(task, profile) if task else None
        if run.summary["target"] is None and "target" not in given and target is not None:
            accuracy = target.values[task.headline.name]
            run = read_run(run.path, {**given, "target": accuracy})
            targets[f"{benchmark} {accuracy:g} ({target.source})"] = None
        judged.append(run)
    return judged, list(targets)


def rcp_points(options: Options) -> dict[str, ReferencePoint]:
    """The points of --rcp, by benchmark."""
    points = {}
    for text in options.rcp:
        name, _, numbers = text.partition("=")
        try:
            mean, minimum = (float(number) for number in numbers.split(","))
        except ValueError:
            mean = minimum = math.nan
        if name not in BENCHMARKS or not 0 < minimum <= mean < math.inf:
            raise UserError(f"--rcp: must be BENCHMARK=MEAN,MINIMUM of {' or '.join(BENCHMARKS)}, got {text}")
        points[name] = ReferencePoint(mean, minimum)
    return points


def references(options: Options) -> dict[tuple[str, int], float]:
    """The seconds of --reference, by model and cards."""
    found = {}
    for text in options.reference:
        left, _, seconds = text.partition("=")
        model, _, cards = left.rpartition(":")
        try:
            found[model, int(cards)] = float(seconds)
        except ValueError:
            seconds = "nan"
        if not model or not 0 < float(seconds) < math.inf:
            raise UserError(f"--reference: must be MODEL:CARDS=SECONDS, got {text}")
    return found


def gp2bm(r_minutes: float | None, b_minutes: float | None, want: list[float]) -> dict:
    """The score, the scores at other results, and the results that other scores require."""
    if r_minutes is None or b_minutes is None:
        return {"r_minutes": r_minutes, "b_minutes": b_minutes, "score": None, "what_if": [], "want": []}
    resnet, bert = BENCHMARKS["resnet"], BENCHMARKS["bert"]
    score = scoring.gp2bm_score(r_minutes, b_minutes)
    what_if = [
        {
            "factor": factor,
            "r_minutes": r_minutes * factor,
            "score_at_r": scoring.gp2bm_score(r_minutes * factor, b_minutes),
            "b_minutes": b_minutes * factor,
            "score_at_b": scoring.gp2bm_score(r_minutes, b_minutes * factor),
            "score_at_both": score / factor,
        }
        for factor in WHAT_IF
    ]
    goals = [
        {
            "score": goal,
            "r_minutes": scoring.required_minutes(resnet, goal, bert, b_minutes),
            "b_minutes": scoring.required_minutes(bert, goal, resnet, r_minutes),
            "factor_of_both": score / goal,
        }
        for goal in want
    ]
    return {"r_minutes": r_minutes, "b_minutes": b_minutes, "score": score, "what_if": what_if, "want": goals}


def set_json(result: SetResult) -> dict:
    """A set as JSON values."""
    fields = asdict(replace(result, benchmark=result.benchmark.name))
    fields["chosen"] = [run.name for run in result.chosen] if result.minutes is not None else []
    return fields | {"valid": result.valid, "missing": result.num_missing}


def set_text(result: SetResult, is_alone: bool = True) -> list[str]:
    """A set as text; with its system unless it is the only set of its benchmark."""
    benchmark, where = result.benchmark, ""
    if not is_alone:
        folders = dict.fromkeys(str(Path(run.name).parent) for run in result.runs)
        where = f" on {result.runs[0].system}" + (f" in {next(iter(folders))}" if len(folders) == 1 else "")
    chosen = {run.name for run in result.chosen} if result.minutes is not None else set()
    cells = [
        [
            run.name,
            _cell(run.minutes, ".3f", "did not converge"),
            _cell(run.converged_at, ",.10g"),
            _cell(run.seed, "d"),
            "*" if run.name in chosen else "",
        ]
        for run in result.runs
    ]
    lines = [
        f"MLPerf {benchmark.name}{where}: {len(result.runs)} runs, {benchmark.num_runs} required",
        *table(["run", "minutes", benchmark.unit, "seed", "counts"], cells),
    ]
    if len(result.windows) > 1:
        windows = ", ".join("invalid" if math.isinf(value) else f"{value:.3f}" for value in result.windows)
        lines.append(f"windows of {benchmark.num_runs} consecutive runs: {windows}; the median one counts")
    if result.scaling != 1.0:
        lines.append(
            f"scaled by {result.scaling:.4f}: converged after {result.converged_at:,.10g} {benchmark.unit}, "
            f"the reference after {result.reference.mean:,.10g}"
        )
    elif result.minutes is not None and result.reference is None:
        why = "there is no reference point (--rcp, or install mlperf-logging)"
        why = "the open division has no reference points" if scoring.is_open(result.runs) else why
        lines.append(f"convergence is not compared: {why}")
    lines += [f"problem: {problem}" for problem in result.problems]
    word = "" if result.valid else "; the set is not valid"
    minutes = "none" if result.minutes is None else f"{result.minutes:.3f} minutes"
    return [*lines, f"result: {minutes}{word}", ""]


def gp2bm_text(score: dict) -> list[str]:
    """GP2BM's score, its what-if table and the results for --want, as text."""
    if score["score"] is None:
        return [f"GP2BM: no score ({'; '.join(score['reasons'])})", ""]
    r, b = score["r_minutes"], score["b_minutes"]
    lines = [f"GP2BM score: 7.19 / {r:.3f} + 9.05 / {b:.3f} = {score['score']:.3f}", ""]
    cells = [
        [
            f"{row['factor']:g}",
            f"{row['r_minutes']:.3f}",
            f"{row['score_at_r']:.3f}",
            f"{row['b_minutes']:.3f}",
            f"{row['score_at_b']:.3f}",
            f"{row['score_at_both']:.3f}",
        ]
        for row in score["what_if"]
    ]
    lines += table(["times", "R", "score", "B", "score", "both: score"], cells)
    if score["want"]:
        cells = [
            [
                f"{row['score']:g}",
                _minutes(row["r_minutes"]),
                _minutes(row["b_minutes"]),
                f"{row['factor_of_both']:.3f}",
            ]
            for row in score["want"]
        ]
        lines += ["", *table(["score", "R with this B", "B with this R", "or both times"], cells)]
    return [*lines, ""]


def airank_text(result: airank_score.AIRankResult, targets: list[str]) -> list[str]:
    """AI-Rank's figures as text, the columns of its summary first; `targets` are those that no log states."""
    has_several = len({row.hardware for row in result.rows}) > 1
    cells = [
        [
            row.model,
            row.operating_system or "-",
            row.precision or "-",
            _cell(row.num_cards, "d"),
            _cell(row.time2train, ".3f"),
            _cell(row.throughput, ".1f"),
            _cell(row.accuracy, row.accuracy_format),
            _cell(row.card_speedup, ".2f"),
            _cell(row.card_efficiency, ".1%"),
            f"{row.num_reached}/{row.num_runs}",
            "yes" if row.is_task else "no",
            *([str(row.hardware)] if has_several else []),
        ]
        for row in result.rows
    ]
    header = ["model", "system", "precision", "cards", "Time2train(sec)", "吞吐(samples/sec)", "准确率(%)"]
    more = ["加速比 T1/TN", "efficiency", "reached", "task", *(["hardware"] if has_several else [])]
    lines = ["AI-Rank", *table([*header, *more], cells)]
    if result.amp:
        cells = [
            [
                each.model,
                each.operating_system or "-",
                str(each.num_cards),
                f"{each.speedup:.2f}",
                _cell(each.efficiency, ".1%"),
            ]
            for each in result.amp
        ]
        lines += ["", *table(["model", "system", "cards", "加速比 AMP/FP32", "of peak"], cells)]
    lines += [f"target that the log does not state: {target}" for target in targets]
    if not all(row.is_task for row in result.rows):
        lines += ["", "task no: smaller data, network or target than AI-Rank's; it does not count below"]
    parts, names = result.composite, ", ".join(result.operating_systems) or "not stated"
    models, compared = ", ".join(result.models) or "none", ", ".join(parts.compared) or "none"
    lines += [
        "",
        f"task coverage: {len(result.models)}/{result.num_models} = {parts.coverage:.3f} ({models})",
        f"operating systems: {_cell(parts.operating_systems, '.2f')} ({names})",
        f"performance: {_cell(parts.performance, '.3f')} (reference / Time2train of {compared})",
    ]
    if parts.without_reference:
        lines.append(f"not compared, no --reference: {', '.join(parts.without_reference)}")
    return [*lines, f"composite score: {_cell(parts.score, '.2f', 'none, a part is missing')}", ""]


def _cell(value, form: str, none: str = "-") -> str:
    return none if value is None else format(value, form)


def _minutes(value: float) -> str:
    return "any" if math.isinf(value) else f"{value:.3f}"


if __name__ == "__main__":
    if hasattr(sys.stdout, "reconfigure"):  # for the Chinese headings, in any locale
        sys.stdout.reconfigure(encoding="utf-8")
    run_command(main)
