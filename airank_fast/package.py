"""Build a submission tree of AI-Rank, MLPerf or GP2BM from runs, or of inference; its directory is whole or absent.

python -m airank_fast.package --format mlperf runs/resnet50-* runs/bert-* --output submission
python -m airank_fast.package --format airank runs/resnet50-1gpu runs/resnet50-8gpu --output submission
python -m airank_fast.package --format mlperf-inference runs/infer-resnet50 --set division=open --output submission
python -m airank_fast.package --check submission
python -m airank_fast.package --optimizer-report --output optimizers.md
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from airank_fast import tasks
from airank_fast.cli import run_command
from airank_fast.errors import UserError
from airank_fast.record import machine
from airank_fast.record.inference_reading import is_inference
from airank_fast.rules import airank_inference_tree, tree_files, trees, verifying
from airank_fast.rules.findings import ERROR, Finding, worst
from airank_fast.rules.mlperf_inference import tree as inference_tree
from airank_fast.submission import (
    airank,
    airank_inference,
    candidates,
    inference,
    mlperf,
    mlperf_inference,
    privacy,
    results,
    texts,
)
from airank_fast.submission.request import Request, markdown_report
from airank_fast.submission.system import given_fields
from airank_fast.submission.tree import Tree


@dataclass(frozen=True, kw_only=True)
class Options:
    """Build a submission tree from runs, or check one."""

    runs: Annotated[list[Path], tyro.conf.Positional] = field(default_factory=list)
    """Run directories, or logs of the format."""
    format: Literal["airank", "mlperf", "gp2bm", "mlperf-inference", "airank-inference"] | None = None
    """Whose tree to build; the last two are of runs of airank_fast.infer."""
    output: Path | None = None
    """Directory to make; absent or empty. With --optimizer-report the file (default: standard output)."""
    profile: Literal["2020-12", "2021-05"] | None = None
    """AI-Rank's text to follow. Default: 2020-12; of inference that of the runs."""
    settings: Annotated[list[str], tyro.conf.UseAppendAction, tyro.conf.arg(name="set")] = field(default_factory=list)
    """NAME=VALUE of the system description, e.g. host_storage_type=NVMe; as often as needed."""
    system: Path | None = None
    """TOML or JSON file with fields of the system description; --set overrides it."""
    this_machine: bool = False
    """The runs were made on this machine: read here what they lack. Without it, only if they match it."""
    benchmark: str | None = None
    """Benchmark of logs that do not state it (AI-Rank's), by any rule book's name of it."""
    cards: int | None = None
    """Number of cards of logs that do not state it."""
    code: Path | None = None
    """Source of the program that made the runs, where it was not this one."""
    allow_errors: bool = False
    """Package logs that the rules refuse; the package lists the errors."""
    allow_names: bool = False
    """Package logs that name this host, this user or a home folder."""
    rehearsal: bool = False
    """Mark every file that a reviewer sees as a rehearsal (演练)."""
    check: Path | None = None
    """Check the layout and the checksums of a tree instead, and verify its logs."""
    optimizer_report: bool = False
    """Write the optimizer equivalence report instead: equations and measured deviations (needs torch)."""


def main() -> int:
    """Build or check; exit status 1 where the rules refuse."""
    options = tyro.cli(Options, prog="python -m airank_fast.package", description=__doc__)
    requested = [options.format is not None, options.check is not None, options.optimizer_report]
    if sum(requested) != 1:
        raise UserError(
            f"package: must have one of --format, --check and --optimizer-report, got {sum(requested)} of them"
        )
    if options.optimizer_report:
        return optimizer_report(options.output)
    return check(options.check) if options.check is not None else build(options)


def build(options: Options) -> int:
    """Build the tree; 1 if the rules refuse a log, 0 otherwise."""
    if options.output is None or not options.runs:
        raise UserError("--format: must have runs and --output with it, got " + ("runs" if options.runs else "none"))
    given = given_fields(options.settings, options.system)
    are_inference = options.format in (mlperf_inference.FORM, airank_inference.FORM)
    chosen = read_runs(options)
    candidates.check_distinct(chosen)
    if not options.rehearsal and any(one.is_rehearsal for one in chosen):
        raise UserError(f"runs: must be of no rehearsal without --rehearsal, got {candidates.REHEARSAL} runs")
    if not options.allow_names:
        privacy.refuse_names(one.log for one in chosen if not are_inference)  # of inference no event log is handed in
    found = results.choose(chosen, options.rehearsal) if options.format in ("mlperf", "gp2bm") else {}
    refused = inference.refusals(chosen) if are_inference else candidates.refusals(chosen) + results.refusals(found)
    print_findings(refused)
    if refused and not options.allow_errors:
        print(
            f"not packaged: the rules refuse {len(refused)} points (--allow-errors packages them and lists the errors)",
            file=sys.stderr,
        )
        return 1
    request = Request(
        candidates=[one for result in found.values() for one in result.runs] or chosen,
        results=found,
        given=given,
        here=machine.facts(),
        runs_were_here=options.this_machine,
        allowed=refused,
        is_rehearsal=options.rehearsal,
        code=options.code,
        write_report=write_report,
    )
    tree, manifest = build_tree(options, request)
    tree.write(options.output, manifest)
    print(f"{options.output}: {len(list(tree))} files, {len(manifest['runs'])} logs; checksums in {tree_files.SUMS}")
    status = check(options.output, logs=False)
    return 0 if are_inference and options.allow_errors else status  # its book judges the logs again


def read_runs(options: Options) -> list[candidates.Candidate]:
    """The runs of the format; UserError for one that is none."""
    if options.format in (mlperf_inference.FORM, airank_inference.FORM):
        return [inference.read_candidate(path) for path in options.runs]
    for path in options.runs:
        if is_inference(path):
            form = airank_inference.FORM if options.format == "airank" else mlperf_inference.FORM
            raise UserError(
                f"{path}: must be a training run with --format {options.format}, got one of inference: --format {form}"
            )
    log_format = "airank" if options.format == "airank" else "mlperf"
    benchmark = benchmark_named(options.benchmark)
    return [candidates.read_candidate(path, log_format, benchmark, options.cards) for path in options.runs]


def build_tree(options: Options, request: Request) -> tuple[Tree, dict]:
    """The tree of the format with its manifest; UserError for runs that have no place in it."""
    if options.format == "airank":
        return airank.build(request, options.profile or "2020-12")
    if options.format == airank_inference.FORM:
        return airank_inference.build(request, options.profile)
    builders = {"mlperf": mlperf.build, "gp2bm": mlperf.build_gp2bm, mlperf_inference.FORM: mlperf_inference.build}
    return builders[options.format or ""](request)


def benchmark_named(name: str | None) -> str | None:
    """--benchmark as our logs have it; UserError for one that no task has."""
    task = tasks.find(name)
    if name is not None and task is None:
        names = ", ".join(each.name for each in tasks.all_tasks())
        raise UserError(f"--benchmark: must be one of {names}, got {name}")
    return task.benchmark if task and task.is_spelled(name) else name


def write_report(title: str, runs: list[candidates.Candidate], is_rehearsal: bool) -> dict[str, str | bytes]:
    """The test and reproduction report in both languages; one plain Markdown file where jinja2 is not installed."""
    if importlib.util.find_spec("jinja2") is None:
        are_inference = all(isinstance(one, inference.InferenceCandidate) for one in runs)
        return (inference.markdown_report if are_inference else markdown_report)(title, runs, is_rehearsal)
    from airank_fast.reports import page, reading, rendering

    read = [reading.read(one.run.path, {"benchmark": runs[0].benchmark}) for one in runs]
    files = {}
    for language in ("zh", "en"):
        report, folder = page.Report(read, language, texts.BANNER if is_rehearsal else ""), f"report.{language}"
        files |= {f"{folder}.html": rendering.html(report), f"{folder}.md": rendering.markdown(report, folder)}
        files |= {f"{folder}/{name}": content for name, content in rendering.picture_files(report).items()}
    return {name: privacy.shorten(each) if isinstance(each, str) else each for name, each in files.items()}


def check(directory: Path, logs: bool = True) -> int:
    """Print the findings about a tree, and with `logs` about its logs; 1 if one of them is an error."""
    if inference_tree.is_tree(directory):  # its book judges the logs with the layout
        findings = list(inference_tree.check_tree(directory))
    elif airank_inference_tree.is_tree(directory):
        findings = list(verifying.verify(directory) if logs else airank_inference_tree.check_tree(directory))
    else:
        findings = list(trees.check_tree(directory))
        if logs:
            findings += [finding for log in trees.logs_of(directory) for finding in verifying.verify(log)]
    print_findings(findings)
    if logs:
        print(f"{directory}: {sum(one.severity == ERROR for one in findings)} errors, {len(findings)} findings")
    return int(worst(findings) == ERROR)


def print_findings(findings: list[Finding]) -> None:
    """Print findings on standard error, a line each."""
    for finding in findings:
        print(finding, file=sys.stderr)


def optimizer_report(output: Path | None) -> int:
    """Measure the optimizers and write the report; torch is imported here alone."""
    from airank_fast.optim import equivalence
    from airank_fast.submission.optimizer_report import markdown

    text = markdown(equivalence.measure(), equivalence.environment())
    if output is None:
        print(text, end="")
        return 0
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--output: must be a file that can be written, got {output} ({error.strerror})") from None
    print(output)
    return 0


if __name__ == "__main__":
    run_command(main)
