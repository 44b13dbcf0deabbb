"""Rehearse a submission in minutes: train full sets on embedded data, measure inference, verify, report, package them.

python -m airank_fast.rehearse
python -m airank_fast.rehearse --quick --output rehearsal
python -m airank_fast.rehearse --all
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from airank_fast.cli import run_command
from airank_fast.errors import require
from airank_fast.recipes import command_line
from airank_fast.rules.airank_score import MODELS
from airank_fast.rules.inference_profiles import PROFILES
from airank_fast.rules.mlperf_inference.rules import ROUNDS, SYSTEM_FIELDS
from airank_fast.rules.trees import AIRANK_FIELDS, MLPERF_FIELDS, MLPERF_NUMBERS, NUM_RESULTS

WORD = "REHEARSAL (演练)"
ORG, PLATFORM = "REHEARSAL", "REHEARSAL-machine"

# Options of a run besides its seed. The full one trains to the recipe's own target.
_RESNET = {
    "quick": ["--epochs", "1", "--target", "0.02"],
    "short": ["--epochs", "2", "--warmup-epochs", "0", "--batch-size", "24", "--target", "0.759"],
    "full": [],
}
_BERT_TINY = ["--warmup-steps", "20", "--eval-samples", "1000"]
_BERT = {
    "quick": ["bert-tiny", *_BERT_TINY, "--steps", "60", "--eval-every-samples", "480", "--target", "0.005"],
    "short": ["bert-tiny", *_BERT_TINY, "--steps", "300", "--eval-every-samples", "800", "--target", "0.03"],
    "full": ["bert-mini"],
}
CHECKERS = ("package_checker", "system_desc_checker", "result_summarizer")
# Options of the inference runs. Server and Offline find their own rates.
_INFER = {"quick": ["--quick"], "short": ["--duration", "10"], "full": []}
# What a hand-in of an edge system, or of AI-Rank's cloud, has.
_SCENARIOS = {"mlperf": ("singlestream", "multistream", "offline"), "airank": ("offline", "online")}
_CHECKER_FILES = ("submission_checker/main.py", "submission_checker.py", "submission-checker.py")
# What embedded data and a short run make MLPerf's submission checkers refuse, and the errors that follow from it.
_LACKS = re.compile(
    r"performance_sample_count, found|Test duration less than 600s|does not cover all dataset"
    r"|minimum samples per query not met|performance/run_1 has issues|Some (performance|accuracy) checks Checks failed"
    r"|NoResults|SUMMARY: submission has errors"
)
_ERROR = re.compile(r"\[[^\]]* (ERROR|CRITICAL)\] |(ERROR|CRITICAL):")  # the beginning of a line of their logs
_INFERENCE_LAYOUT = ("tree.", *(f"[inference.{rule}:" for rule in ("files", "stray", "system", "measurements", "code")))


@dataclass(frozen=True, kw_only=True)
class Options:
    """Make the full sets of runs on embedded data, and take them through every command and the official checkers."""

    output: Path | None = None
    """Directory for runs, packages and the output of each command. Default: runs/rehearsal-<date>-<time>."""
    quick: bool = False
    """As few steps as make a log."""
    full: bool = False
    """The embedded recipes to their own targets (a quarter of an hour on two cores)."""
    all: bool = False
    """Every other task too, one run each to its own target on embedded data (half an hour more)."""
    inference_checker: Path | None = None
    """A checkout of mlcommons/inference of the installed LoadGen's round: its submission checker judges the tree."""


@dataclass
class Step:
    """A command that was run, its expected outcome, and its output."""

    name: str
    command: list[str]
    expected: str  # in words, with the reason
    as_expected: bool = False
    status: int | None = None
    wall_s: float = 0.0
    last_line: str = ""


@dataclass
class Rehearsal:
    """The steps so far, each with its output as a file in `directory`."""

    directory: Path
    steps: list[Step] = field(default_factory=list)

    def run(self, name: str, command: list[object], expected: str, fits: Callable[[int, str], bool]) -> Step:
        """Run a command from the directory; `fits(status, output)` is whether its outcome is the expected one."""
        step = Step(name, [str(part) for part in command], expected)
        started = time.monotonic()
        print(f"{name} ... ", end="", flush=True)
        done = subprocess.run(step.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        output = done.stdout.decode("utf-8", "replace")
        step.status, step.wall_s, step.last_line = done.returncode, time.monotonic() - started, _last_line(output)
        broken = any(sign in output for sign in ("Traceback (most recent call last)", ": No module named "))
        step.as_expected = fits(done.returncode, output) and not broken
        print(f"{step.wall_s:.0f} s, status {step.status}{'' if step.as_expected else ', NOT as expected'}", flush=True)
        file = self.directory / "outputs" / f"{len(self.steps):02d}-{re.sub(r'[^a-z0-9]+', '-', name.lower())}.txt"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"{WORD}\n$ {' '.join(step.command)}\n{output}\nexit status {step.status}\n", encoding="utf-8")
        self.steps.append(step)
        return step

    def airank_fast(self, name: str, command: str, *arguments: object, expected: str, fits=None) -> Step:
        """Run one of our commands; without `fits` it must exit with 0."""
        fits = fits or (lambda status, output: status == 0)
        return self.run(name, [sys.executable, "-m", f"airank_fast.{command}", *arguments], expected, fits)

    def official(self, tool: str, target: Path, expected: str, *parts: str) -> Step:
        """Run one of mlperf-logging's checkers; its verdict is in its output, its exit status is always 0."""
        command = [sys.executable, "-m", f"mlperf_logging.{tool}", target, "training", "4.0.0"]
        if tool == "result_summarizer":
            command += ["--csv", self.directory / "outputs" / "summary.csv"]
        else:
            command += ["--log_output", self.directory / "outputs" / f"{tool}.log"]
        return self.run(
            f"official {tool}", command, expected, lambda status, output: all(part in output for part in parts)
        )


def main() -> int:
    """Rehearse; 1 if a step had another outcome than expected."""
    options = tyro.cli(Options, prog="python -m airank_fast.rehearse", description=__doc__)
    for name in ("full", "all"):
        require(not (options.quick and getattr(options, name)), "--quick", f"left out with --{name}", "both")
    size = "quick" if options.quick else "full" if options.full else "short"
    directory = options.output or Path("runs") / f"rehearsal-{time.strftime('%Y%m%d-%H%M%S')}"
    has_checkers = importlib.util.find_spec("mlperf_logging") is not None
    require(has_checkers, "mlperf-logging", "installed (pip install 'airank-fast[rehearse]')", "none")
    is_free = not directory.exists() or (directory.is_dir() and not any(directory.iterdir()))
    require(is_free, "--output", "a directory that is absent or empty", directory)
    checker = None if options.inference_checker is None else inference_checker(options.inference_checker)
    directory.mkdir(parents=True, exist_ok=True)
    rehearsal = Rehearsal(directory)
    resnet, bert = train(rehearsal, size)
    others = train_others(rehearsal) if options.all else []
    judge(rehearsal, [*resnet, *bert, *others], options.all)
    package(rehearsal, resnet, bert, others)
    rehearse_inference(rehearsal, size, resnet[0], checker)
    (directory / "README.md").write_text(summary(rehearsal.steps), encoding="utf-8")
    odd = [step.name for step in rehearsal.steps if not step.as_expected]
    print(
        f"{directory}/README.md: {len(rehearsal.steps)} steps, {len(odd)} not as expected"
        + (f" ({', '.join(odd)})" if odd else "")
    )
    return int(bool(odd))


def train(rehearsal: Rehearsal, size: str) -> tuple[list[Path], list[Path]]:
    """Train the runs of both benchmarks, as many as MLPerf requires, each with another seed."""
    sets = {"resnet": ["resnet50", *_RESNET[size]], "bert": _BERT[size]}
    made: dict[str, list[Path]] = {}
    for benchmark, (command, *arguments) in sets.items():
        for seed in range(1, NUM_RESULTS[benchmark] + 1):
            run = train_one(rehearsal, f"{benchmark}-{seed}", command, *arguments, "--seed", seed)
            if (benchmark, seed) != ("resnet", 1):  # which the inference runs take
                shutil.rmtree(run / "checkpoints", ignore_errors=True)
            made.setdefault(benchmark, []).append(run)
    return made["resnet"], made["bert"]


def train_others(rehearsal: Rehearsal) -> list[Path]:
    """Train one run of every task but those two, to the target of its embedded recipe."""
    names = [name for name, command in command_line.commands().items() if name == command.task.name != "resnet50"]
    runs = [train_one(rehearsal, name, name) for name in names]
    for run in runs:
        shutil.rmtree(run / "checkpoints", ignore_errors=True)
    return runs


def train_one(rehearsal: Rehearsal, name: str, command: str, *arguments: object) -> Path:
    """Train a run; returns its directory."""
    output = rehearsal.directory / "runs" / name
    submission = ["--submission.org", ORG, "--submission.platform", PLATFORM]
    call = [command, "--amp", *arguments, "--output", output, *submission]
    rehearsal.airank_fast(f"train {name}", "train", *call, expected="reaches its target")
    return output


def judge(rehearsal: Rehearsal, runs: list[Path], is_all: bool) -> None:
    """Verify, score and report; with runs of all tasks, every model of AI-Rank must count."""
    coverage = "task coverage: {0}/{0} ".format(len(MODELS["2020-12"])) if is_all else "task coverage: "
    rehearsal.airank_fast(
        "verify",
        "verify",
        *runs,
        expected="errors: neither data nor targets are the benchmark's",
        fits=lambda status, output: status == 1,
    )
    rehearsal.airank_fast(
        "score",
        "score",
        *runs,
        "--own-targets",
        expected="figures, and a note that the sets do not count" + (f"; {coverage}" if is_all else ""),
        fits=lambda status, output: status in (0, 1) and coverage in output,
    )
    for language in ("zh", "en"):
        options = ["--lang", language, "--mark", WORD, "--output", rehearsal.directory / "report"]
        rehearsal.airank_fast(f"report {language}", "report", *runs, *options, expected="a report, HTML and Markdown")


def package(rehearsal: Rehearsal, resnet: list[Path], bert: list[Path], others: list[Path]) -> None:
    """Build every kind of package, check it, and run the official checkers on it."""
    one_each = [resnet[0], bert[0], *others]
    marks = ["--rehearsal", "--allow-errors"]
    packages = {
        "gp2bm": (["--format", "gp2bm"], resnet + bert),
        "airank-2020-12": (["--format", "airank"], one_each),
        "airank-2021-05": (["--format", "airank", "--profile", "2021-05"], one_each),
    }
    for name, (arguments, runs) in packages.items():
        _package(rehearsal, name, [*arguments, *marks], runs)
    place = rehearsal.directory / "packages" / "gp2bm" / ORG
    rehearsal.official(
        "package_checker",
        place,
        "refuses: below the target of BERT, and faster than the reference",
        "10 files do not comply",
        "RCP Test Failed",
        "PACKAGE CHECKER FOUND ERRORS",
    )
    rehearsal.official("system_desc_checker", place / "systems" / f"{PLATFORM}.json", "passes", "checker passed")
    rehearsal.official(
        "result_summarizer",
        place,
        "refuses: no run of BERT converges by MLPerf's target",
        "Too many non-converging runs",
    )


def _package(
    rehearsal: Rehearsal, name: str, arguments: list[str], runs: list[Path], rules: tuple[str, ...] = ("tree.",)
) -> Path:
    """Build a package, with answers to what the command asks for, and check it by `rules`; returns its directory."""
    output = rehearsal.directory / "packages" / name
    call = [*arguments, "--output", output, *runs]
    first = rehearsal.airank_fast(
        f"package {name}, without answers",
        "package",
        *call,
        expected="builds it, or names every field that it requires",
        fits=lambda status, output: status == 0 or "fields that neither the run nor this machine" in output,
    )
    if first.status != 0:
        rehearsal.airank_fast(f"package {name}", "package", *call, *_answers(first.last_line), expected="a package")
    rehearsal.airank_fast(
        f"check {name}",
        "package",
        "--check",
        output,
        expected="layout and checksums are right",
        fits=lambda status, output: not any(rule in output for rule in rules) and status in (0, 1),
    )
    return output


def rehearse_inference(rehearsal: Rehearsal, size: str, trained: Path, checker: Path | None) -> None:
    """Measure inference of a trained run by MLPerf's scenarios and AI-Rank's, and take both through every command."""
    rounds = [name for name in ROUNDS if loadgen_version().startswith(PROFILES[name].loadgen or "")]
    if not rounds:
        print("MLPerf inference is left out: mlcommons-loadgen is not installed (pip install 'airank-fast[infer]')")
    runs = {profile: infer(rehearsal, size, trained, profile) for profile in (*rounds[:1], "airank-2021-05")}
    shutil.rmtree(trained / "checkpoints", ignore_errors=True)
    fits = lambda status, output: status in (0, 1)  # noqa: E731
    rehearsal.airank_fast(
        "verify inference", "verify", *runs.values(), expected="findings about a rehearsal", fits=fits
    )
    for language in ("zh", "en"):
        options = ["--lang", language, "--mark", WORD, "--output", rehearsal.directory / "report-inference"]
        name, expected = f"report inference {language}", "a report of training and inference"
        rehearsal.airank_fast(name, "report", trained, *runs.values(), *options, expected=expected)
    marks = ["--rehearsal", "--allow-errors"]
    for profile, run in runs.items():
        form = "airank-inference" if profile.startswith("airank") else "mlperf-inference"
        division = ["--set", "division=open"] if form == "mlperf-inference" else []
        tree = _package(rehearsal, form, ["--format", form, *division, *marks], [run], _INFERENCE_LAYOUT)
        if checker is not None and division:
            check_officially(rehearsal, checker, tree, profile)


def loadgen_version() -> str:
    """The version of MLPerf's load generator that is installed; "" if there is none."""
    try:
        return importlib.metadata.version("mlcommons-loadgen")
    except importlib.metadata.PackageNotFoundError:
        return ""


def infer(rehearsal: Rehearsal, size: str, trained: Path, profile: str) -> Path:
    """Measure inference of a trained ResNet-50 under a profile; returns the run's directory."""
    output = rehearsal.directory / "runs" / f"infer-{profile}"
    duration = [] if profile.startswith("airank") and size == "short" else _INFER[size]
    submission = ["--submission.org", ORG, "--submission.platform", PLATFORM]
    rehearsal.airank_fast(
        f"infer {profile}",
        "infer",
        "resnet50",
        "--checkpoint",
        trained,
        "--profile",
        profile,
        "--scenario",
        *_SCENARIOS["airank" if profile.startswith("airank") else "mlperf"],
        *duration,
        "--output",
        output,
        *submission,
        expected="each scenario, valid or with the reason why not",
        fits=lambda status, output: status in (0, 1),
    )
    return output


def inference_checker(checkout: Path) -> Path:
    """The submission checker in a checkout of mlcommons/inference; UserError if there is none."""
    found = [path for name in _CHECKER_FILES if (path := checkout / "tools" / "submission" / name).is_file()]
    require(found, "--inference-checker", "a checkout of mlcommons/inference with tools/submission", checkout)
    return found[0]


def check_officially(rehearsal: Rehearsal, checker: Path, tree: Path, profile: str) -> None:
    """Run MLPerf's own submission checker on a tree; its verdict is the line with SUMMARY."""
    csv = (rehearsal.directory / "outputs" / "inference_summary.csv").resolve()
    ours = ["--skip-extra-files-in-root-check"]  # SHA256SUMS and manifest.json
    rehearsal.run(
        f"official submission_checker {profile}",
        [sys.executable, checker.resolve(), "--input", tree.resolve(), "--version", profile, "--csv", csv, *ours],
        "refuses the size of the data set and the duration, and nothing else",
        lambda status, output: "SUMMARY: submission" in output and is_explained(output),
    )


def is_explained(output: str) -> bool:
    """Whether the data and the duration of a rehearsal explain all errors in a submission checker's output."""
    errors = [line for line in output.splitlines() if _ERROR.match(line)]
    has_verdict = bool(errors) or "SUMMARY: submission looks OK" in output
    return has_verdict and all(_LACKS.search(line) for line in errors)


def _answers(error: str) -> list[str]:
    """--set for every field that the package command requires."""
    required = error.partition("got no ")[2].partition(";")[0].split(", ")
    names = [name for name in required if name in {*MLPERF_FIELDS, *SYSTEM_FIELDS, *AIRANK_FIELDS}]
    values = {name: "1" if name in MLPERF_NUMBERS else f"{WORD}: not stated" for name in names}
    return [part for name, value in values.items() for part in ("--set", f"{name}={value}")]


def summary(steps: list[Step]) -> str:
    """README.md of the rehearsal: each step with its expected and its real outcome."""
    rows = [
        f"| {step.name} | {step.expected} | {'yes' if step.as_expected else '**no**'} | {step.status} | "
        f"{step.wall_s:.0f} | {step.last_line.replace('|', '/')[:200]} |"
        for step in steps
    ]
    total_s = sum(step.wall_s for step in steps)
    head = (
        f"# {WORD}\n\nA whole submission, tried out on embedded data; no result. 演练产物，不是成绩。\n\n"
        f"{len(steps)} steps, {total_s / 60:.1f} minutes. The output of each command: `outputs/`. The packages: "
        "`packages/`.\n\n"
        "| step | expected | as expected | exit status | s | last line |\n|---|---|---|---|---|---|\n"
    )
    return head + "\n".join(rows) + "\n"


def _last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else ""


if __name__ == "__main__":
    run_command(main)
