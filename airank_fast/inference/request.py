"""What an inference command asks for: its options, their checks, and the tests that follow from them. No torch here.

request = parse(["resnet50", "--checkpoint", "runs/resnet50-1", "--scenario", "server"])
request.scenarios                                         # ("server",)
request.settings("server", "performance", bound_s=0.015)  # the fields of a test's settings
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import tyro

from airank_fast.errors import UserError, require
from airank_fast.recipes import command_line
from airank_fast.recipes.options import Command
from airank_fast.rules import early_stopping
from airank_fast.rules.inference_profiles import (
    PERFORMANCE_SAMPLES,
    PROFILES,
    Bound,
    Profile,
    Scenario,
    bounds,
    compliance_of,
    scenario_of,
)

LOADGEN = ("offline", "server", "singlestream", "multistream")
AIRANK = ("offline", "online", "latency", "max-batch")
FLAGPERF = ("flagperf",)
SINGLE_THREAD = ("latency", "max-batch")  # AI-Rank docs/software/inference_mobile.md

QUICK_S, REHEARSAL_S = 6.0, 60.0  # of a scenario: MLPerf Mobile's rapid run; embedded data
FACTOR = 0.99  # of the reference, where the profile has no bound of the task: that of AI-Rank and of MLPerf
BOUND_FACTOR = 10  # of a rehearsal's own latency bound, in single inferences
NUM_LOADED = 1024  # samples that LoadGen has in memory, of a task without a number of its own
UNKNOWN_BOUND_S = 1.0  # of an accuracy run, in which no time counts, before a single inference was timed
MLPERF_WEIGHTS = {"resnet50": "19c8e357"}  # sha256 of torchvision's file, its beginning, as its name has it

ScenarioName = Literal[
    "all", "offline", "server", "singlestream", "multistream", "online", "latency", "max-batch", "flagperf"
]
ProfileName = Literal["v6.1", "v4.0", "paper", "airank-2021-05", "airank-2020-12", "flagperf"]


@dataclass(frozen=True)
class Submission:
    """Who hands the run in."""

    org: str = "unknown"
    """Submitting organisation."""
    platform: str = "unknown"
    """Name of the system."""
    division: Literal["closed", "open"] = "open"
    """MLPerf's division. The closed one takes MLPerf's published weights alone."""
    status: Literal["available", "preview", "rdi"] = "rdi"
    """MLPerf's availability category."""
    systems_kind: Literal["edge", "datacenter"] = "edge"
    """MLPerf's suite, and AI-Rank's: terminal or cloud."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured, with what, and what it leaves."""

    checkpoint: Path | None = None
    """The weights: the directory of a training run, one of its checkpoints, or a file. Default without --data: the
    newest finished run on embedded data below runs/; without one, it is trained first."""
    scenario: tuple[ScenarioName, ...] = ("all",)
    """The scenarios, several or all of the profile: MLPerf's offline, server, singlestream and multistream (by
    LoadGen); AI-Rank's offline, online, latency and max-batch, and flagperf (by clients of this package)."""
    profile: ProfileName = "v6.1"
    """The rules: MLPerf Inference's round, its paper's (v0.5), AI-Rank's text, or FlagPerf's."""
    backend: Literal["torch", "onnxruntime"] = "torch"
    """What computes."""
    precision: Literal["fp32", "bf16", "fp16", "int8"] = "fp32"
    """The arithmetic. int8 is for onnxruntime, calibrated on training samples."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes CUDA where there is a device."""
    data: Path | None = None
    """The prepared data set. Default: that of the checkpoint's run, or the one that comes with the package."""
    output: Path | None = None
    """Directory for logs and figures. Default: runs/infer-<benchmark>-<date>-<time>."""
    threads: int | None = None
    """Threads of the engine on a CPU. Default: all cores; AI-Rank's latency and max-batch have one."""
    max_batch: int = 32
    """The greatest batch of the engine."""
    target_latency: float | None = None
    """The latency bound in milliseconds. Default: the profile's; of embedded data at least ten single inferences."""
    qps: float | None = None
    """Server: queries a second. Default: half of what single inferences allow."""
    find_qps: bool = False
    """Server: find the greatest rate of queries at which a run is valid, and measure there."""
    duration: float | None = None
    """Seconds of a LoadGen scenario. Default: the profile's; 60 with embedded data."""
    quick: bool = False
    """MLPerf Mobile's rapid run: 64 queries and 6 s (662 queries where the percentile is 99)."""
    compliance: bool = False
    """Run the profile's compliance tests (TEST01, TEST04, TEST05) after each performance run."""
    export: Path | None = None
    """Also write the network as ONNX into this file, its outputs checked against torch's."""
    calibration_samples: int = 128
    """Training samples that int8 is calibrated on."""
    seed: int = 1
    """Seed of the choice of calibration samples."""
    accuracy_factor: float | None = None
    """The part of the float32 accuracy that must be reached. Default: the profile's, 0.99; MLPerf's bert-99.9 has
    0.999."""
    submission: Submission = field(default_factory=Submission)
    """Who hands the run in."""


@dataclass(frozen=True)
class Request:
    """A checked command line. `rest` are the options of the training command, which describe network and data.

    data: the data set, None for the embedded one.
    """

    name: str
    command: Command
    options: Options
    rest: tuple[str, ...]
    profile: Profile
    scenarios: tuple[str, ...]
    data: Path | None = None

    @property
    def task(self) -> str:
        """The task's name, as the rule books' tables have it."""
        return self.command.task.name

    @property
    def arguments(self) -> list[str]:
        """The command line of the training command for the same network and data."""
        return [self.name, *(["--data", str(self.data)] if self.data else []), *self.rest]

    @property
    def is_embedded(self) -> bool:
        """Whether the data set is the one that comes with the package."""
        return self.data is None

    @cached_property
    def bound(self) -> Bound | None:
        """What the profile requires of the task's quality and latency, where it has the task."""
        found, factor = bounds(self.task, self.options.profile), self.options.accuracy_factor
        return replace(found, factor=factor) if found and factor else found

    @property
    def factor(self) -> float:
        """The part of the float32 accuracy that must be reached."""
        return self.options.accuracy_factor or (self.bound.factor if self.bound else FACTOR)

    @property
    def bound_s(self) -> float | None:
        """The latency bound in seconds: --target-latency, else the profile's; None where neither states one."""
        given_ms = self.options.target_latency
        stated_ms = self.bound.latency_ms if given_ms is None and self.bound else given_ms
        return None if stated_ms is None else stated_ms / 1000

    def bound_for(self, scenario: str, single_s: float | None) -> float | None:
        """The latency bound of a scenario in seconds. `single_s`: the time of one inference, None if not known yet.

        AI-Rank's terminals have bounds of their own. That of a rehearsal is at least ten single inferences.
        """
        if self.options.target_latency is not None:
            return self.bound_s
        mobile = bounds(self.task, self.options.profile, "mobile") if scenario in SINGLE_THREAD else None
        stated_s = mobile.latency_ms / 1000 if mobile and mobile.latency_ms else self.bound_s
        if not self.is_embedded or single_s is None:
            return stated_s
        least_s = math.ceil(BOUND_FACTOR * single_s * 1000) / 1000  # whole milliseconds
        return max(stated_s or 0.0, least_s)

    def stated(self, scenario: str) -> Scenario | None:
        """What the profile requires of a LoadGen scenario; None of one of our own clients."""
        return scenario_of(self.profile, scenario, self.task)

    def duration_s(self, scenario: str) -> float | None:
        """The least duration of a LoadGen scenario; None of one of our own clients, which count requests."""
        options, stated = self.options, self.stated(scenario)
        if stated is None:
            return None
        if options.duration is not None:
            return options.duration
        return QUICK_S if options.quick else REHEARSAL_S if self.is_embedded else stated.min_duration_s

    @property
    def shortest_s(self) -> float | None:
        """The duration that the run's configuration states: of its shortest LoadGen scenario."""
        found = [self.duration_s(scenario) for scenario in self.scenarios]
        return min((seconds for seconds in found if seconds is not None), default=None)

    def is_short(self, scenario: str) -> bool:
        """Whether a scenario runs for less than the profile requires."""
        stated, seconds = self.stated(scenario), self.duration_s(scenario)
        return self.options.quick or (stated is not None and seconds is not None and seconds < stated.min_duration_s)

    @property
    def is_rehearsal(self) -> bool:
        """Whether nothing of the run may be handed in: its data are embedded, or it is too short."""
        return self.is_embedded or any(self.is_short(scenario) for scenario in self.scenarios)

    @property
    def hardware_type(self) -> str:
        """AI-Rank's hardware_type: mobile for its terminals, else datacenter."""
        is_mobile = self.options.submission.systems_kind == "edge" and "online" not in self.scenarios
        return "mobile" if is_mobile and self.options.profile.startswith("airank") else "datacenter"

    @property
    def threads(self) -> int:
        """Threads of the engine, unless a scenario prescribes one."""
        return self.options.threads or len(os.sched_getaffinity(0))

    def threads_of(self, scenario: str) -> int:
        """Threads of the engine in a scenario."""
        return 1 if scenario in SINGLE_THREAD else self.threads

    def is_by_loadgen(self, scenario: str) -> bool:
        """Whether LoadGen runs the scenario, and not one of our own clients."""
        return scenario in self.profile.scenarios

    def settings(
        self,
        scenario: str,
        mode: str,
        *,
        num_samples: int,
        bound_s: float | None = None,
        target_qps: float | None = None,
        expected_latency_s: float | None = None,
        duration_s: float | None = None,
    ) -> dict[str, Any]:
        """The fields of a LoadGen test's settings over `num_samples` samples. Seconds; target_qps in queries a second.

        A scenario that is too short for the profile has as many queries as early stopping needs at least, and Offline
        as many samples as its duration allows.
        """
        stated = self.stated(scenario)
        assert stated is not None
        least = stated.min_queries
        if self.is_short(scenario) or (self.is_embedded and not stated.early_stopping):
            least = 1 if stated.percentile is None else early_stopping.required_queries(stated.percentile, 1)
        return {
            "scenario": scenario,
            "mode": mode,
            "profile": self.options.profile,
            "min_duration_s": duration_s or self.duration_s(scenario),
            "max_duration_s": None,
            "min_queries": least,
            "samples_per_query": stated.samples_per_query,
            "target_latency_s": (bound_s or UNKNOWN_BOUND_S) if scenario == "server" else None,
            "target_qps": target_qps if scenario in ("server", "offline") else None,
            "expected_latency_s": expected_latency_s,
            "performance_count": min(num_samples, PERFORMANCE_SAMPLES.get(self.task, NUM_LOADED)),
        }

    def is_published(self, sha256: str) -> bool:
        """Whether weights are those that MLPerf publishes for the task."""
        return self.task in MLPERF_WEIGHTS and sha256.startswith(MLPERF_WEIGHTS[self.task])

    def check_weights(self, sha256: str) -> None:
        """UserError for weights that the requested division does not take."""
        is_closed = self.options.submission.division == "closed"
        if is_closed and not self.is_published(sha256):
            published = MLPERF_WEIGHTS.get(self.task)
            which = f"the weights that MLPerf publishes (sha256 {published}...)" if published else "open"
            raise UserError(
                f"--submission.division closed: must have {which} for {self.task}, "
                f"got others (sha256 {sha256[:8]}...); --submission.division open takes them"
            )


def parse(arguments: Sequence[str], *, program: str = "", text: str = "") -> Request:
    """The request of the command line `NAME OPTIONS...`; exits with help, or 2 for a line that cannot be parsed.

    UserError where options contradict each other, the profile or what is installed.
    """
    known = command_line.commands()
    if not arguments or arguments[0] in ("-h", "--help"):
        print(text)
        print("Tasks:", *known)
        raise SystemExit(0 if arguments else 2)
    require(arguments[0] in known, "TASK", f"one of {', '.join(known)}", arguments[0])
    name, command = arguments[0], known[arguments[0]]
    description = f"{text} Options of `airank_fast.train {name}` that describe network and data may follow."
    options, rest = tyro.cli(
        Options,
        args=list(arguments[1:]),
        prog=f"{program} {name}",
        description=description,
        return_unknown_args=True,
    )
    profile = PROFILES[options.profile]
    request = Request(name, command, options, tuple(rest), profile, scenarios_of(profile, options), options.data)
    check(request)
    return request


def scenarios_of(profile: Profile, options: Options) -> tuple[str, ...]:
    """The scenarios of a run in their order; UserError for one that the profile lacks."""
    stated = tuple(name for name in LOADGEN if name in profile.scenarios)
    own = FLAGPERF if profile.name == "flagperf" else AIRANK
    available = (*stated, *(name for name in own if name not in stated))
    if "all" in options.scenario:
        return available
    for name in options.scenario:
        require(name in available, "--scenario", f"one of {', '.join(available)} with --profile {profile.name}", name)
    return tuple(name for name in available if name in options.scenario)


def check(request: Request) -> None:
    """UserError for options that contradict each other, the profile, or what is installed."""
    options = request.options
    for name in ("threads", "max_batch", "calibration_samples"):
        value = getattr(options, name)
        require(value is None or value >= 1, _option(name), "at least 1", value)
    for name in ("target_latency", "qps", "duration"):
        value = getattr(options, name)
        is_number = value is None or 0 < value < float("inf")
        require(is_number, _option(name), "a number above 0", value)
    factor = options.accuracy_factor
    require(factor is None or FACTOR <= factor <= 1, "--accuracy-factor", f"in [{FACTOR}, 1]", factor)
    has_server = "server" in request.scenarios
    require(has_server or not options.find_qps, "--find-qps", "with --scenario server", ", ".join(request.scenarios))
    require(has_server or options.qps is None, "--qps", "with --scenario server", ", ".join(request.scenarios))
    require(not (options.find_qps and options.qps), "--qps", "left out with --find-qps", options.qps)
    require(not (options.quick and options.duration), "--duration", "left out with --quick", options.duration)
    what = "onnxruntime with --precision int8"
    require(options.precision != "int8" or options.backend == "onnxruntime", "--backend", what, options.backend)
    has_precision = options.backend == "torch" or options.precision in ("fp32", "int8")
    require(has_precision, "--precision", "fp32 or int8 with --backend onnxruntime", options.precision)
    has_tests = bool(compliance_of(request.profile, request.task))
    what = f"left out: --profile {options.profile} has no compliance tests for {request.task}"
    require(has_tests or not options.compliance, "--compliance", what, "--compliance")
    check_bound(request)
    check_installed(request)
    check_output(options.output)


def check_bound(request: Request) -> None:
    """UserError where a scenario requires a latency bound, and there is none."""
    needy = [name for name in request.scenarios if name in ("server", "online", "max-batch")]
    has_bound = request.bound_s is not None or request.is_embedded or not needy
    what = f"given: --profile {request.options.profile} states no bound of {request.task} for {', '.join(needy)}"
    require(has_bound, "--target-latency", what, "none")


def check_installed(request: Request) -> None:
    """UserError where LoadGen or ONNX Runtime is required and is missing, or LoadGen is of another version."""
    if any(request.is_by_loadgen(scenario) for scenario in request.scenarios):
        own = ", ".join(AIRANK)
        hint = f"pip install 'airank-fast[infer]'; --profile airank-2021-05 does without: {own}"
        require(importlib.util.find_spec("mlperf_loadgen"), "mlcommons-loadgen", f"installed ({hint})", "none")
        check_loadgen(request.profile, importlib.metadata.version("mlcommons-loadgen"))
    if request.options.backend == "onnxruntime" or request.options.export:
        for module in ("onnxruntime", "onnx", "onnxscript"):
            there = importlib.util.find_spec(module)
            require(there, module, "installed (pip install 'airank-fast[onnx]')", "none")


def check_loadgen(profile: Profile, version: str) -> None:
    """UserError where the installed LoadGen is of another version than the profile requires."""
    required = profile.loadgen
    parts = (required or "").split(".")
    matches = required is None or version.split(".")[: len(parts)] == parts
    what = f"version {required} for --profile {profile.name} (pip install 'mlcommons-loadgen=={required}.*')"
    require(matches, "mlcommons-loadgen", what, version)


def check_output(directory: Path | None) -> None:
    """UserError for an output directory that is not free."""
    if directory is None:
        return
    is_free = not directory.exists() or (directory.is_dir() and not any(directory.iterdir()))
    require(is_free, "--output", "a directory that is absent or empty", directory)


def default_output(benchmark: str, stamp: str) -> Path:
    """Where a run without --output leaves its files."""
    return Path("runs") / f"infer-{benchmark}-{stamp}"


def train_command(request: Request, output: Path) -> list[str]:
    """The command that trains the network on embedded data, for a run that lacks one."""
    return [sys.executable, "-m", "airank_fast.train", *request.arguments, "--output", str(output)]


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
