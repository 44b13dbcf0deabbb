"""The settings of a LoadGen test, and the values that LoadGen must have used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from airank_fast.errors import require
from airank_fast.rules.inference_profiles import PROFILES, TEST01_LOG_SAMPLES, TEST01_LOG_SEED, TEST04_INDEX

SCENARIOS = {
    "offline": "Offline",
    "server": "Server",
    "singlestream": "SingleStream",
    "multistream": "MultiStream",
}
MODES = ("accuracy", "performance", "TEST01", "TEST04", "TEST05")


@dataclass(frozen=True)
class TestSettings:
    """A test as it is requested. Durations and latencies are in seconds, rates in queries a second.

    min_queries: samples, of Offline. target_latency_s: Server's bound. target_qps: Server's rate; of Offline the
    expected rate, from which LoadGen makes the size of its query. expected_latency_s: of SingleStream and MultiStream,
    likewise. performance_count: samples that LoadGen has in memory at a time.
    """

    scenario: str
    mode: str
    profile: str
    min_duration_s: float
    min_queries: int
    performance_count: int
    samples_per_query: int = 1
    max_duration_s: float | None = None
    target_latency_s: float | None = None
    target_qps: float | None = None
    expected_latency_s: float | None = None

    def as_json(self) -> dict[str, Any]:
        """The fields, as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TestSettings:
        """The inverse of `as_json`."""
        return cls(**value)

    @property
    def is_accuracy(self) -> bool:
        """Whether each sample of the data set is issued once, and no time counts."""
        return self.mode == "accuracy"

    @property
    def percentile(self) -> float | None:
        """That of the latency which the scenario is about; None for Offline."""
        return PROFILES[self.profile].scenarios[self.scenario].percentile

    @property
    def seeds(self) -> tuple[int, int, int]:
        """Of the samples that are loaded, of their order, and of Server's schedule."""
        profile = PROFILES[self.profile]
        return (profile.test05_seeds if self.mode == "TEST05" else None) or profile.seeds

    def check(self) -> None:
        """UserError for settings with which LoadGen cannot run; Server's rate may still be missing."""
        profile = PROFILES.get(self.profile)
        loadgen_profiles = [name for name, one in PROFILES.items() if one.scenarios]
        require(profile is not None and profile.scenarios, "--profile", f"one of {loadgen_profiles}", self.profile)
        assert profile is not None
        known = [name for name in SCENARIOS if name in profile.scenarios]
        require(self.scenario in known, "--scenario", f"one of {known} in profile {self.profile}", self.scenario)
        require(self.mode in MODES, "mode", f"one of {MODES}", self.mode)
        require(self.mode != "TEST05" or profile.test05_seeds, "TEST05", "a test of v4.0", f"profile {self.profile}")
        bound_s, is_server = self.target_latency_s, self.scenario == "server"
        require(bound_s is not None or not is_server, "--target-latency", "given for the Server scenario", "none")
        require(bound_s is None or bound_s >= 1e-6, "--target-latency", "at least 0.001 ms", bound_s)
        for name in ("target_qps", "expected_latency_s", "max_duration_s"):
            value = getattr(self, name)
            require(value is None or 0 < value < math.inf, name, "a number above 0", value)
        require(self.min_duration_s >= 0.001, "--duration", "at least 0.001 s", self.min_duration_s)
        for name in ("min_queries", "samples_per_query", "performance_count"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))


def milliseconds(seconds: float | None) -> int:
    """Whole milliseconds, as LoadGen takes durations; None is 0, its "without limit"."""
    return round((seconds or 0.0) * 1000)


def nanoseconds(seconds: float | None) -> int:
    """Whole nanoseconds, as LoadGen takes latencies, at least 1."""
    return max(1, round((seconds or 0.0) * 1e9))


def required_values(settings: TestSettings, num_samples: int) -> dict[str, Any]:
    """The values that LoadGen's log must have for a data set of `num_samples`, by their keys without `effective_`."""
    qsl, index, schedule = settings.seeds
    is_offline, is_test01 = settings.scenario == "offline", settings.mode == "TEST01"
    required: dict[str, Any] = {
        "scenario": SCENARIOS[settings.scenario],
        "test_mode": "AccuracyOnly" if settings.is_accuracy else "PerformanceOnly",
        "min_duration_ms": milliseconds(settings.min_duration_s),
        "max_duration_ms": milliseconds(settings.max_duration_s),
        "min_query_count": 1 if is_offline else settings.min_queries,
        "max_query_count": 0,
        "qsl_rng_seed": qsl,
        "sample_index_rng_seed": index,
        "schedule_rng_seed": schedule,
        "performance_sample_count": min(settings.performance_count, num_samples),
        "performance_issue_unique": False,
        "performance_issue_same": settings.mode == "TEST04",
        "performance_issue_same_index": TEST04_INDEX if settings.mode == "TEST04" else 0,
        "accuracy_log_rng_seed": TEST01_LOG_SEED if is_test01 else 0,
        "accuracy_log_probability": 0.0,
        "accuracy_log_sampling_target": TEST01_LOG_SAMPLES if is_test01 else 0,
    }
    if not is_offline:
        required["samples_per_query"] = settings.samples_per_query
        required["target_latency_percentile"] = settings.percentile
    if settings.scenario == "server":
        required["target_latency_ns"] = nanoseconds(settings.target_latency_s)
        required["target_qps"] = settings.target_qps
    return required
