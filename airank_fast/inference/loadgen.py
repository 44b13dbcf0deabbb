"""Runs one test with MLCommons LoadGen: settings from the profile, built in code, and read back from LoadGen's log.

LoadGen runs once a process: a second test in it is refused. Configuration files are not read, so that one that lies in
the working directory changes nothing. A setting that LoadGen did not use as requested makes the test void.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.metadata
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from airank_fast.errors import UserError, require
from airank_fast.inference.settings import SCENARIOS, TestSettings, milliseconds, nanoseconds
from airank_fast.inference.sut import Complete, Sut
from airank_fast.inference.verdict import Outcome, judge, write_something
from airank_fast.rules.inference_profiles import PROFILES, TEST01_LOG_SAMPLES, TEST01_LOG_SEED, TEST04_INDEX, Profile

NO_AUDIT_FILE = ""  # by default LoadGen takes settings from an audit.config in the working directory
SAMPLING_TARGET = "accuracy_log_sampling_target"
PR_SET_TIMERSLACK = 29  # in ns, of this thread and of those that it starts (prctl(2))


class Data(Protocol):
    """What is asked of the samples here; see airank_fast.inference.samples."""

    def __len__(self) -> int: ...
    def load(self, indices: Sequence[int]) -> None: ...
    def unload(self, indices: Sequence[int]) -> None: ...


def load_generator(profile: Profile) -> Any:
    """The module mlperf_loadgen; UserError where it is missing or not of the profile's version."""
    try:
        module = importlib.import_module("mlperf_loadgen")
        version = importlib.metadata.version("mlcommons-loadgen")
    except ImportError:
        raise UserError("mlcommons-loadgen: must be installed (pip install 'airank-fast[infer]'), got none") from None
    required = profile.loadgen
    is_right = required is None or version == required or version.startswith(f"{required}.")
    require(is_right, "mlcommons-loadgen", f"version {required} for profile {profile.name}", version)
    return module


_has_run = False


def run_test(settings: TestSettings, sut: Sut, samples: Data, output: Path) -> Outcome:
    """Run the one test of this process; LoadGen writes its four files into `output`, which is made.

    UserError for bad settings, a second test, or a directory that cannot be written. What fails during the test is the
    outcome's failure.
    """
    global _has_run
    settings.check()
    needs_qps = settings.scenario == "server"
    require(settings.target_qps is not None or not needs_qps, "--qps", "given for the Server scenario", "none")
    require(not _has_run, "LoadGen", "run once a process", "a second test")
    count = min(settings.performance_count, len(samples))
    is_there = settings.mode != "TEST04" or count > TEST04_INDEX  # LoadGen reads what lies behind the set
    require(is_there, "TEST04", f"a test of at least {TEST04_INDEX + 1} samples, as it issues that one alone", count)
    loadgen = load_generator(PROFILES[settings.profile])
    make_directory(output)
    _has_run = True
    sut.connect(_completer(loadgen))
    _wake_exactly()
    library = loadgen.ConstructQSL(len(samples), count, _guarded(sut, samples.load), _guarded(sut, samples.unload))
    system = loadgen.ConstructFastSUT(sut.issue, sut.flush)
    made, logs = _loadgen_settings(loadgen, settings, count), _log_settings(loadgen, output)
    try:
        with _audit_file(made, settings) as audit:
            sut.run(lambda: loadgen.StartTestWithLogSettings(system, library, made, logs, audit))
    finally:
        loadgen.DestroyQSL(library)
        loadgen.DestroyFastSUT(system)
    sut.close()
    return judge(settings, sut, len(samples), output)


def _wake_exactly() -> None:
    """Have Linux wake this process's threads when they asked for it, and not up to 50 us later, its default.

    LoadGen sleeps until Server's next query is due, and counts the latency from then on.
    """
    with contextlib.suppress(OSError, AttributeError):  # other systems
        ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)


def make_directory(output: Path) -> None:
    """Make a directory; UserError where it cannot be made or written. LoadGen itself ends without a word then."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_something(output)
    except OSError as error:
        raise UserError(f"--output: must be a directory that can be written, got {output} ({error.strerror})") from None


def _completer(loadgen: Any) -> Complete:
    def complete(ids: Sequence[int], responses: Sequence[bytes]) -> None:
        data = b"".join(responses)  # LoadGen copies it in QuerySamplesComplete
        address = np.frombuffer(data, np.uint8).__array_interface__["data"][0] if data else 0
        answers = []
        for sample_id, response in zip(ids, responses, strict=True):
            answers.append(loadgen.QuerySampleResponse(sample_id, address, len(response)))
            address += len(response)
        loadgen.QuerySamplesComplete(answers)

    return complete


def _guarded(sut: Sut, function: Callable[[Sequence[int]], None]) -> Callable[[Sequence[int]], None]:
    def call(indices: Sequence[int]) -> None:
        with sut.guarded():
            function(indices)

    return call


def _loadgen_settings(loadgen: Any, settings: TestSettings, num_samples: int) -> Any:
    made = loadgen.TestSettings()
    made.scenario = getattr(loadgen.TestScenario, SCENARIOS[settings.scenario])
    made.mode = loadgen.TestMode.AccuracyOnly if settings.is_accuracy else loadgen.TestMode.PerformanceOnly
    made.min_duration_ms = milliseconds(settings.min_duration_s)
    made.max_duration_ms = milliseconds(settings.max_duration_s)
    made.min_query_count = settings.min_queries
    made.qsl_rng_seed, made.sample_index_rng_seed, made.schedule_rng_seed = settings.seeds
    made.performance_sample_count_override = num_samples
    _set_scenario(made, settings)
    if settings.mode == "TEST01":
        made.accuracy_log_rng_seed = TEST01_LOG_SEED
        if hasattr(made, SAMPLING_TARGET):
            made.accuracy_log_sampling_target = TEST01_LOG_SAMPLES
    if settings.mode == "TEST04":
        made.performance_issue_same = True
        made.performance_issue_same_index = TEST04_INDEX
    return made


def _set_scenario(made: Any, settings: TestSettings) -> None:
    if settings.scenario == "server":
        made.server_target_qps = settings.target_qps
        made.server_target_latency_ns = nanoseconds(settings.target_latency_s)
        made.server_target_latency_percentile = settings.percentile
    elif settings.scenario == "offline":
        if settings.target_qps is not None:
            made.offline_expected_qps = settings.target_qps
    else:
        name = {"singlestream": "single_stream", "multistream": "multi_stream"}[settings.scenario]
        setattr(made, f"{name}_target_latency_percentile", settings.percentile)
        if settings.expected_latency_s is not None:
            setattr(made, f"{name}_expected_latency_ns", nanoseconds(settings.expected_latency_s))
        if settings.scenario == "multistream":
            made.multi_stream_samples_per_query = settings.samples_per_query


@contextlib.contextmanager
def _audit_file(made: Any, settings: TestSettings) -> Iterator[str]:
    """The file of what cannot be set in code: in LoadGen 4.0, how many responses TEST01 logs.

    It lies outside the test's directory, where a checker of submissions takes LoadGen's files alone.
    """
    if settings.mode != "TEST01" or hasattr(made, SAMPLING_TARGET):
        yield NO_AUDIT_FILE
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "audit.config"
        path.write_text(f"*.*.{SAMPLING_TARGET} = {TEST01_LOG_SAMPLES}\n", encoding="utf-8")
        yield os.fspath(path)


def _log_settings(loadgen: Any, output: Path) -> Any:
    made = loadgen.LogSettings()
    made.log_output.outdir = os.fspath(output)
    made.log_output.copy_summary_to_stdout = False
    made.enable_trace = False
    return made
