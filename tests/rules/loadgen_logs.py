"""LoadGen logs of made-up tests, as LoadGen 6.0.17 writes them, and submission trees of both rounds made of them.

test = LoadGenTest("SingleStream")      # a performance test of ResNet-50 in round 6.1, valid
test.lines(), test.summary_lines()
write_tree(folder, "v4.0", benchmark="bert-99", system_type="datacenter")
"""

import json
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from airank_fast.rules import early_stopping
from airank_fast.rules.inference_profiles import (
    OFFLINE_SAMPLES,
    PROFILES,
    TEST01_LOG_SAMPLES,
    TEST01_LOG_SEED,
    TEST04_INDEX,
)
from airank_fast.rules.mlperf_inference.rules import BENCHMARKS, MEASUREMENT_FIELDS, OURS, SYSTEM_FIELDS, SYSTEM_NUMBERS

PERCENTILES = ("50.00", "90.00", "95.00", "97.00", "99.00", "99.90")
VERSIONS = {"v6.1": "6.0.17 @ d6147c7eb7", "v4.0": "4.0 @ 8e36925bd3"}
MIN_MS = 600_000
TARGET_QPS = {"Offline": 50.0, "Server": 20.0}
SYSTEM = "machine"
ORGANIZATION = "Example"


@lru_cache
def latencies(scenario, factor):
    """Latencies of single queries (MultiStream: of queries of 8), in ns, in no order."""
    base, spread, num = {
        "SingleStream": (90e6, 20e6, 6_400),
        "MultiStream": (700e6, 90e6, 900),
        "Server": (5e6, 9e6, 12_100),
        "Offline": (2e9, 638e9, 33_000),
    }[scenario]
    return tuple(int(factor * (base + spread * (k * 7919 % num) / num)) for k in range(num))


def digits(value):
    """A float as LoadGen prints it, with six significant digits."""
    return float(f"{value:.6g}")


def record(key, value, time_ms, is_error=False, is_warning=False):
    """A line of the detail log."""
    metadata = {"is_error": is_error, "is_warning": is_warning, "file": "x.cc", "line_no": 1, "pid": 7, "tid": 7}
    fields = {"key": key, "value": value, "time_ms": time_ms, "namespace": "mlperf::logging"}
    return ":::MLLOG " + json.dumps({**fields, "event_type": "POINT_IN_TIME", "metadata": metadata})


@dataclass
class LoadGenTest:
    """A test; `factor` makes all its latencies longer, `changes` replaces values of keys, None takes the line out."""

    scenario: str = "SingleStream"
    test: str = "performance"
    round: str = "v6.1"
    benchmark: str = "resnet"
    factor: float = 1.0
    changes: dict = field(default_factory=dict)
    more: list = field(default_factory=list)  # lines at the end

    @property
    def task(self):
        return BENCHMARKS[self.benchmark].task

    def settings(self):
        """The effective settings, by name."""
        profile, known = PROFILES[self.round], BENCHMARKS[self.benchmark]
        scenario = profile.scenarios[OURS[self.scenario]]
        is_offline = self.scenario == "Offline"
        qsl, index, schedule = profile.test05_seeds if self.test == "TEST05" else profile.seeds
        per_query = len(latencies(self.scenario, self.factor)) if is_offline else scenario.samples_per_query
        latency_ns = {"resnet50": 15_000_000, "bert_squad": 130_000_000}[self.task] if self.scenario == "Server" else 0
        return {
            "scenario": self.scenario,
            "test_mode": "AccuracyOnly" if self.test == "accuracy" else "PerformanceOnly",
            "samples_per_query": per_query,
            "target_qps": TARGET_QPS.get(self.scenario, 100.0),
            "target_latency_ns": latency_ns,
            "target_latency_percentile": scenario.percentile or 0.99,
            "max_async_queries": 0 if self.scenario == "Server" else 1,
            "target_duration_ms": 0 if is_offline else MIN_MS,
            "min_duration_ms": MIN_MS,
            "max_duration_ms": 0,
            "min_query_count": {"MultiStream": 662, "Offline": 1}.get(self.scenario, 100),
            "max_query_count": 0,
            "min_sample_count": per_query if is_offline else 100,
            "qsl_rng_seed": qsl,
            "sample_index_rng_seed": index,
            "schedule_rng_seed": schedule,
            "accuracy_log_rng_seed": TEST01_LOG_SEED if self.test == "TEST01" else 0,
            "accuracy_log_probability": 0,
            "accuracy_log_sampling_target": TEST01_LOG_SAMPLES if self.test == "TEST01" else 0,
            "print_timestamps": False,
            "performance_issue_unique": False,
            "performance_issue_same": self.test == "TEST04",
            "performance_issue_same_index": TEST04_INDEX if self.test == "TEST04" else 0,
            "performance_sample_count": known.performance_samples,
            "accuracy_sample_count": known.eval_samples,
            "sample_concatenate_permutation": False,
        }

    def figures(self):
        """The results, by their full keys."""
        if self.test == "accuracy":
            return {}
        return dict(_figures(self.scenario, self.factor, self.settings()["target_latency_ns"]))

    def values(self):
        """All values by key, with the changes made."""
        settings = self.settings()
        known = BENCHMARKS[self.benchmark]
        requested = {key: value for key, value in settings.items() if key not in ("samples_per_query", "target_qps")}
        requested["min_query_count"] = OFFLINE_SAMPLES[known.task] if self.scenario == "Offline" else 100
        values = {
            "loadgen_version": VERSIONS[self.round],
            "loadgen_build_date_local": "2026-08-20T10:20:50.889431",
            "loadgen_git_status_message": "",
            "test_datetime": "2026-08-21T14:48:33Z",
            "sut_name": "PyFastSUT",
            "qsl_name": "PyQSL",
            "qsl_reported_total_count": known.eval_samples,
            "qsl_reported_performance_count": known.performance_samples,
            **{f"requested_{key}": value for key, value in requested.items()},
            **{f"effective_{key}": value for key, value in settings.items()},
            "generated_query_count": 1,
            "generated_samples_per_query": settings["samples_per_query"],
            **self.figures(),
        }
        values["num_errors"] = 0
        values |= self.changes
        return {key: value for key, value in values.items() if value is not None}

    def lines(self):
        """The lines of the detail log."""
        late = ("result_", "early_", "num_")
        end_ms = 700_000.5 * max(self.factor, 1.0)
        return [
            *(record(key, value, end_ms if key.startswith(late) else 0.03) for key, value in self.values().items()),
            *self.more,
        ]

    def summary_lines(self):
        """The lines of the summary."""
        values = self.values()
        if self.test == "accuracy":
            return ["", "No warnings encountered during test.", "", "No errors encountered during test."]
        rule = "=" * 48
        head = [rule, "MLPerf Results Summary", rule, f"SUT name : {values['sut_name']}"]
        head += [f"Scenario : {values['effective_scenario']}", f"Mode     : {values['effective_test_mode']}"]
        return [
            *head,
            *self._result_lines(values),
            "",
            rule,
            "Test Parameters Used",
            rule,
            *_parameters(values),
            "",
            "No warnings encountered during test.",
            "",
            "No errors encountered during test.",
        ]

    def _result_lines(self, values):
        per_query = "query_" if self.scenario == "MultiStream" else ""
        rows = {
            "SingleStream": [("90.0th percentile latency (ns) ", "result_90.00_percentile_latency_ns")],
            "MultiStream": [("99.0th percentile latency (ns) ", "result_99.00_percentile_per_query_latency_ns")],
            "Server": [("Scheduled samples per second ", "result_scheduled_samples_per_sec")],
            "Offline": [("Samples per second", "result_samples_per_second")],
        }[self.scenario]
        lines = [f"{name}: {values[key]}" for name, key in rows]
        lines += [f"Result is : {values['result_validity']}", "  Min duration satisfied : Yes"]
        lines += ["  Min queries satisfied : Yes", "  Early stopping satisfied: Yes"]
        if values.get("early_stopping_result"):
            lines += [
                "Early Stopping Result:",
                *values["early_stopping_result"].replace(" * ", "\n * ").split("\n")[1:],
            ]
        lines += ["", "Additional Stats"]
        lines += [
            f"{name.capitalize()} latency (ns)                : {values[f'result_{name}_{per_query}latency_ns']}"
            for name in ("min", "max", "mean")
        ]
        middle = "per_query_" if per_query else ""
        lines += [
            f"{each} percentile latency (ns)   : {values[f'result_{each}_percentile_{middle}latency_ns']}"
            for each in PERCENTILES
        ]
        return lines


def _parameters(values):
    units = {"_ns": " (ns)", "_ms": " (ms)"}
    for key, value in values.items():
        name = key.removeprefix("effective_")
        if key == name or name in ("scenario", "test_mode", "target_latency_percentile", "target_duration_ms"):
            continue
        for suffix, unit in units.items():
            name = name.removesuffix(suffix) + unit if name.endswith(suffix) else name
        yield f"{name} : {int(value) if isinstance(value, bool) else value}"


@lru_cache
def _figures(scenario, factor, target_ns):
    taken = sorted(latencies(scenario, factor))
    num, mean = len(taken), sum(taken) // len(taken)
    at = {each: taken[int(num * float(each) / 100)] for each in PERCENTILES}
    figures = {"result_validity": "VALID"}
    if scenario == "Server":
        figures["result_perf_constraints_met"] = True
    figures |= {f"result_min_{name}_met": True for name in ("duration", "queries")}
    figures |= {"early_stopping_met": True, "early_stopping_result": _explanation(scenario, taken)}
    figures["result_query_count"] = 1 if scenario == "Offline" else num
    latency = {
        f"result_{name}_latency_ns": value for name, value in (("min", taken[0]), ("max", taken[-1]), ("mean", mean))
    }
    latency |= {f"result_{each}_percentile_latency_ns": value for each, value in at.items()}
    if scenario == "SingleStream":
        figures["result_qps_with_loadgen_overhead"] = digits((num - 1) / (mean * num * 1.001 / 1e9))
        figures["result_qps_without_loadgen_overhead"] = digits(1e9 / mean)
        figures |= {
            f"early_stopping_latency_{name}": early_stopping.estimate(taken, p)
            for name, p in (("ss", 0.9), ("ms", 0.99))
        }
    elif scenario == "MultiStream":
        figures |= {
            f"result_{name}_query_latency_ns": latency[f"result_{name}_latency_ns"] for name in ("min", "max", "mean")
        }
        figures |= {f"result_{each}_percentile_per_query_latency_ns": value for each, value in at.items()}
        figures["early_stopping_latency_ms"] = early_stopping.estimate(taken, 0.99)
    elif scenario == "Server":
        figures["result_overlatency_query_count"] = sum(each > target_ns for each in taken)
        figures["result_scheduled_samples_per_sec"] = digits((num - 1) / 603.0)
        figures["result_completed_samples_per_sec"] = digits((num - 1) / 603.01)
    else:
        figures["result_samples_per_second"] = digits(num / (taken[-1] / 1e9))
    return tuple((figures | latency).items())


def _explanation(scenario, taken):
    """LoadGen's text about early stopping, on one line."""
    if scenario == "Offline":
        return ""
    if scenario == "Server":
        return " * Run successful."
    num, percentile = len(taken), 0.9 if scenario == "SingleStream" else 0.99
    text = f" * Processed at least {early_stopping.required_queries(percentile, 1)} queries ({num})."
    text += f" * Would discard {early_stopping.discarded(num, percentile)} highest latency queries."
    for each in (0.9, 0.99)[scenario != "SingleStream" :]:
        text += f" * Early stopping {each * 100:.1f}th percentile estimate: {early_stopping.estimate(taken, each)}"
    return text


# accuracy logs


def answer_lines(indices, offset=0):
    """Entries of an accuracy log, by sample: a float32 label each."""
    return [
        f'{{ "seq_id" : {number}, "qsl_idx" : {index}, "data" : "{_label(index + offset)}" }}'
        for number, index in enumerate(indices)
    ]


def _label(index):
    import struct

    return struct.pack("<f", index % 1000).hex().upper()


def whole_log(num, offset=0):
    """The accuracy log of `num` samples, as LoadGen writes it."""
    return "[\n" + ",\n".join(answer_lines(range(num), offset)) + "\n]\n"


def truncated_log(num):
    """The first and last 4 kB of it, as MLPerf's script leaves them."""
    head, tail = ",\n".join(answer_lines(range(80))), ",\n".join(answer_lines(range(num - 80, num)))
    return f"[\n{head}"[:4096] + "\n\n...\n\n" + f"{tail}\n]\n"[-4096:]


# trees


def _write(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_test(folder, test):
    """The detail log and the summary of a test."""
    _write(folder / "mlperf_log_detail.txt", test.lines())
    _write(folder / "mlperf_log_summary.txt", test.summary_lines())


def accuracy_text(benchmark):
    """The lines of accuracy.txt."""
    metric = (
        "accuracy=76.100%, good=38050, total=50000" if benchmark == "resnet" else '{"exact_match": 83.7, "f1": 90.87}'
    )
    return [metric, f"hash={'0123456789abcdef' * 4}"]


def write_tree(root, round="v6.1", benchmark="resnet", system_type="edge", division="closed", scenarios=None):
    """A submission tree without a fault; returns the organization's folder."""
    place = root / division / ORGANIZATION
    known = BENCHMARKS[benchmark]
    for scenario in scenarios or known.scenarios[round][system_type]:
        _write_scenario(place, LoadGenTest(scenario, "performance", round, benchmark))
    fields = dict.fromkeys(SYSTEM_FIELDS, "text")
    fields |= {"submitter": ORGANIZATION, "division": division, "status": "available", "system_type": system_type}
    fields |= dict.fromkeys(SYSTEM_NUMBERS, "1") | {"accelerators_per_node": "0"}
    _write(place / "systems" / f"{SYSTEM}.json", [json.dumps(fields, indent=1)])
    _write(place / ("src" if round == "v6.1" else "code") / benchmark / "README.md", ["how to run"])
    calibration = place / ("documentation/calibration.md" if round == "v6.1" else "calibration.md")
    _write(calibration, ["no calibration"])
    return place


def _write_scenario(place, test):
    round_name = test.round
    tail = Path(SYSTEM) / test.benchmark / test.scenario
    results = place / "results" / tail
    write_test(results / "performance/run_1", test)
    write_test(results / "accuracy", replace(test, test="accuracy"))
    _write(results / "accuracy/accuracy.txt", accuracy_text(test.benchmark))
    known = BENCHMARKS[test.benchmark]
    (results / "accuracy/mlperf_log_accuracy.json").write_text(truncated_log(known.eval_samples))
    measurements = results if round_name == "v6.1" else place / "measurements" / tail
    name = "measurements.json" if round_name == "v6.1" else f"{SYSTEM}_{test.scenario}.json"
    _write(measurements / name, [json.dumps(dict.fromkeys(MEASUREMENT_FIELDS, "text"))])
    for name in ("user.conf", "README.md", *(("mlperf.conf",) if round_name == "v4.0" else ())):
        _write(measurements / name, ["text"])
    compliance = results if round_name == "v6.1" else place / "compliance" / tail
    for name in PROFILES[round_name].compliance[test.task]:
        _write_compliance(compliance / name, replace(test, test=name), test)


def _write_compliance(folder, test, measured):
    write_test(folder / "performance/run_1", test)
    keys = {"SingleStream": "early_stopping_latency_ss", "MultiStream": "early_stopping_latency_ms"}
    key = keys.get(test.scenario, "result_samples_per_second")
    key = "result_scheduled_samples_per_sec" if test.scenario == "Server" else key
    scores = [f"reference score = {measured.values()[key]}", f"test score = {test.values()[key]}"]
    _write(folder / "verify_performance.txt", ["Verifying performance.", *scores, "TEST PASS"])
    if test.test == "TEST01":
        _write(folder / "verify_accuracy.txt", ["num_perf_log_data_mismatch = 0", "TEST PASS"])
        (folder / "accuracy").mkdir(exist_ok=True)
        known = BENCHMARKS[test.benchmark]
        (folder / "accuracy/mlperf_log_accuracy.json").write_text(truncated_log(known.eval_samples))
        _write(folder / "accuracy/accuracy.txt", accuracy_text(test.benchmark))
