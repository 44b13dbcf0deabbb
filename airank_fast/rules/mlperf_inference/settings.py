"""Judges the form of a detail log, the load generator that wrote it, and the settings of its test."""

from __future__ import annotations

from airank_fast.rules.inference_profiles import TEST01_LOG_SAMPLES, TEST01_LOG_SEED, TEST04_INDEX
from airank_fast.rules.mlperf_inference import rules
from airank_fast.rules.mlperf_inference.judge import Judge, short

_MAX_OF_A_RULE = 5  # troubles and messages that are listed
# An accuracy run generates the queries of each part of the data set that it loads.
_OF_A_PART = ("generated_query_count", "generated_samples_per_query", "generated_query_duration")
SEED_KEYS = ("effective_qsl_rng_seed", "effective_sample_index_rng_seed", "effective_schedule_rng_seed")
_SAME, _UNIQUE = "effective_performance_issue_same", "effective_performance_issue_unique"
_LOG_SEED, _LOG_SAMPLES = "effective_accuracy_log_rng_seed", "effective_accuracy_log_sampling_target"


def judge_settings(judge: Judge) -> None:
    """Adds the findings about everything that was settled before the test began."""
    _form(judge)
    _load_generator(judge)
    _messages(judge)
    _mode(judge)
    _seeds(judge)
    _same_as_requested(judge)
    _issued_samples(judge)
    _scenario(judge)
    _data_set(judge)


def _form(judge: Judge) -> None:
    for number, trouble in judge.detail.troubles[:_MAX_OF_A_RULE]:
        judge.find(rules.RECORD, number, trouble, "the official parser refuses the line")
    repeated = [(number, key) for number, key in judge.detail.repeated if judge.is_performance or key not in _OF_A_PART]
    for number, key in repeated[:_MAX_OF_A_RULE]:
        judge.find(
            rules.ONCE, number, f"{key} again, with another value", "one line, as LoadGen writes it, is required"
        )
    required = rules.REQUIRED_KEYS + (rules.REQUIRED_RESULTS if judge.is_performance else ())
    if missing := [key for key in required if key not in judge.detail.values]:
        judge.find(rules.MISSING, None, f"no line {', '.join(missing)}", "each of them: the log was cut off or edited")


def _load_generator(judge: Judge) -> None:
    version = judge.value("loadgen_version")
    match = rules.VERSION.fullmatch(version) if isinstance(version, str) else None
    profile = judge.context.profile
    if "loadgen_version" in judge.detail.values:
        release = profile.loadgen if profile else None
        form = f'"{release or "X.Y"}[.N] @ revision", a release of LoadGen'
        judge.require(match is not None and release in (None, match[1]), rules.LOADGEN, "loadgen_version", form)
    status = judge.value("loadgen_git_status_message")
    if status not in (None, "", "NA"):
        found = f"LoadGen built from changed sources: {short(status)}"
        judge.find(rules.LOADGEN, "loadgen_git_status_message", found, "an unmodified LoadGen is required")
    sources = judge.value("loadgen_file_sha1")
    known = rules.RELEASE_SOURCES.get(version.partition(" ")[0]) if isinstance(version, str) else None
    if known and isinstance(sources, dict):
        changed = [name for name, digest in known.items() if sources.get(name, digest) != digest]
        if changed:
            found = f"{', '.join(changed)} of another content than in LoadGen {version.partition(' ')[0]}"
            judge.find(rules.SOURCES, "loadgen_file_sha1", found, "the release's sources are required")


def _messages(judge: Judge) -> None:
    errors = judge.detail.errors
    for message in errors[:_MAX_OF_A_RULE]:
        found = f"LoadGen's error {message.key}: {message.text}"
        judge.find(rules.ERRORS, message.line, found, "a test without errors is required")
    num_errors = judge.value("num_errors")
    if num_errors not in (None, len(errors)):
        found = f"num_errors {short(num_errors)}, and {len(errors)} lines of errors"
        judge.find(rules.ERRORS, "num_errors", found, "the lines and their number are required to agree")
    if judge.detail.warnings:
        first = judge.detail.warnings[0]
        found = f"{len(judge.detail.warnings)} warnings of LoadGen, the first: {first.text}"
        judge.find(rules.WARNED, first.line, found, "for information")


def _mode(judge: Judge) -> None:
    required = "PerformanceOnly" if judge.is_performance else "AccuracyOnly"
    if "effective_test_mode" in judge.detail.values:
        judge.require(judge.value("effective_test_mode") == required, rules.MODE, "effective_test_mode", required)
    if "effective_scenario" in judge.detail.values:
        names = ", ".join(rules.OURS)
        judge.require(judge.scenario_name is not None, rules.SCENARIO, "effective_scenario", f"one of {names}")


def _seeds(judge: Judge) -> None:
    profile = judge.context.profile
    if profile is None:
        if "effective_qsl_rng_seed" in judge.detail.values:
            judge.find(rules.NO_ROUND, SEED_KEYS[0], "seeds of no round", f"those of {', '.join(rules.ROUNDS)}")
        return
    is_other = judge.context.test == "TEST05" and profile.test05_seeds
    for key, seed in zip(SEED_KEYS, profile.test05_seeds if is_other else profile.seeds, strict=True):
        if key in judge.detail.values:
            judge.require(judge.value(key) == seed, rules.SEEDS, key, f"{seed}, {profile.name}'s")


def _same_as_requested(judge: Judge) -> None:
    for name in rules.SAME_SETTINGS:
        requested, effective = judge.value(f"requested_{name}"), judge.value(f"effective_{name}")
        if requested is not None and effective is not None:
            required = f"{short(requested)}, as requested,"
            judge.require(requested == effective, rules.SETTINGS, f"effective_{name}", required)


def _issued_samples(judge: Judge) -> None:
    """Which samples are issued, and whether answers are logged: the compliance tests differ in these settings."""
    test, values = judge.context.test, judge.detail.values
    is_test04 = test == "TEST04"
    if _SAME in values:
        judge.require(judge.value(_SAME) is is_test04, rules.ISSUE, _SAME, str(is_test04).lower())
    if _UNIQUE in values:
        judge.require(judge.value(_UNIQUE) is False, rules.ISSUE, _UNIQUE, "false")
    if is_test04:
        key = "effective_performance_issue_same_index"
        judge.require(judge.value(key) == TEST04_INDEX, rules.ISSUE, key, str(TEST04_INDEX))
    if not judge.is_performance:
        return
    seed, samples = (TEST01_LOG_SEED, TEST01_LOG_SAMPLES) if test == "TEST01" else (0, 0)
    for key, number in ((_LOG_SEED, seed), (_LOG_SAMPLES, samples)):
        if key in values and (test == "TEST01" or key == _LOG_SAMPLES):
            judge.require(judge.value(key) == number, rules.LOGGED, key, str(number))
    if test != "TEST01" and judge.value("effective_accuracy_log_probability") not in (None, 0):
        judge.require(False, rules.LOGGED, "effective_accuracy_log_probability", "0")


def _scenario(judge: Judge) -> None:
    """The numbers that a scenario prescribes."""
    scenario = judge.scenario
    if scenario is None:
        if judge.context.profile is not None and judge.scenario_name is not None:
            required = f"a scenario of {judge.context.profile.name}"
            judge.require(False, rules.SCENARIO, "effective_scenario", required)
        return
    percentile = judge.number("effective_target_latency_percentile")
    if scenario.percentile is not None and percentile is not None:
        is_right = abs(percentile - scenario.percentile) < 1e-9
        judge.require(is_right, rules.PERCENTILE, "effective_target_latency_percentile", f"{scenario.percentile:g}")
    per_query = judge.number("effective_samples_per_query")
    if scenario.name != "offline" and per_query is not None:
        is_right = per_query == scenario.samples_per_query
        required = str(scenario.samples_per_query)
        judge.require(is_right, rules.SAMPLES_PER_QUERY, "effective_samples_per_query", required)
    benchmark = judge.context.benchmark
    if benchmark is not None and judge.is_performance:
        loaded = judge.number("effective_performance_sample_count")
        if loaded is not None:
            least, key = benchmark.performance_samples, "effective_performance_sample_count"
            judge.require(loaded >= least, rules.PERFORMANCE_SAMPLES_RULE, key, f"at least {least}")
    if scenario.name == "server" and judge.is_performance:
        _latency_bound(judge)


def _latency_bound(judge: Judge) -> None:
    key = "effective_target_latency_ns"
    target_ns = judge.number(key)
    if target_ns is None:
        return
    # A bound below 1 ms is 0 in LoadGen, which counts in whole milliseconds when it reads a file.
    judge.require(target_ns > 0, rules.SETTINGS, key, "a bound above 0")
    benchmark, profile = judge.context.benchmark, judge.context.profile
    bound = benchmark.bound(profile.name) if benchmark and profile else None
    if bound and bound.latency_ms:
        most_ns = bound.latency_ms * 1e6
        judge.require(target_ns <= most_ns, rules.LATENCY, key, f"at most {most_ns:.0f}")


def _data_set(judge: Judge) -> None:
    """An accuracy run evaluates the whole data set."""
    benchmark = judge.context.benchmark
    for key in ("qsl_reported_total_count", "effective_accuracy_sample_count"):  # the second from 5.1 on
        if benchmark is not None and not judge.is_performance and key in judge.detail.values:
            judge.require(judge.value(key) == benchmark.eval_samples, rules.DATASET, key, str(benchmark.eval_samples))
