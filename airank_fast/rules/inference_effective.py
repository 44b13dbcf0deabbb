"""Holds the settings that LoadGen used, as a test_stop states them, against those of its test and of the profile."""

from __future__ import annotations

from collections.abc import Iterator

from airank_fast.numeric import is_number
from airank_fast.record.entries import quote
from airank_fast.record.events import Event, dictionary
from airank_fast.record.inference_metrics import ACCURACY, LoadTest
from airank_fast.rules.inference_profiles import Profile

Trouble = tuple[str, str]
"""What was found, and what is required."""
_SEEDS = ("qsl_rng_seed", "sample_index_rng_seed", "schedule_rng_seed")
_DIGITS = 1e-5  # LoadGen prints six digits of a rate
# Of a test_start's settings: LoadGen's key, its unit in that of ours, and the scenarios of which it must be the same.
_STREAMS = ("singlestream", "multistream")
_SAME = {
    "min_duration_s": ("min_duration_ms", 1e3, ("offline", "server", *_STREAMS)),
    "min_queries": ("min_query_count", 1.0, ("server", *_STREAMS)),
    "samples_per_query": ("samples_per_query", 1.0, ("server", *_STREAMS)),
    "target_latency_s": ("target_latency_ns", 1e9, ("server",)),
    "target_qps": ("target_qps", 1.0, ("server",)),
}


def troubles(event: Event, test: LoadTest, profile: Profile) -> Iterator[Trouble]:
    """What is wrong with the settings of a test_stop; nothing of a scenario that LoadGen does not run."""
    effective = {key.removeprefix("effective_"): value for key, value in (event.get("effective") or {}).items()}
    if event["scenario"] in profile.scenarios:
        yield from _missing(event, effective, profile)
        yield from _of_mode(event, effective)
        yield from _of_settings(event, effective, dictionary(test.start.get("settings")))
    yield from _of_round(event, effective, profile)


def _missing(event: Event, effective: dict, profile: Profile) -> Iterator[Trouble]:
    missing = [name for name in _SEEDS if name not in effective]
    if missing or not event.get("loadgen"):
        found = f"{event['mode']} of {event['scenario']} without {', '.join(missing) or 'a version of LoadGen'}"
        yield found, f"{profile.name} requires a test by LoadGen, with its settings"


def _of_round(event: Event, effective: dict, profile: Profile) -> Iterator[Trouble]:
    """Seeds and version that are stated must be the profile's."""
    seeds = profile.test05_seeds if event["mode"] == "TEST05" else profile.seeds
    for name, seed in zip(_SEEDS, seeds or (), strict=False):
        if name in effective and str(effective[name]) != str(seed):
            found = f"{name} {quote(str(effective[name]), 30)} in {event['mode']} of {event['scenario']}"
            yield found, f"{seed} is required by {profile.name}"
    version = dictionary(event.get("loadgen")).get("version")
    if version is not None and profile.loadgen and not str(version).startswith(profile.loadgen):
        yield f"LoadGen {quote(str(version), 30)}", f"a {profile.loadgen} is required by {profile.name}"


def _of_mode(event: Event, effective: dict) -> Iterator[Trouble]:
    """What LoadGen ran: every sample once, samples at random, or in TEST04 the same one."""
    mode = event["mode"]
    required = {
        "test_mode": "AccuracyOnly" if mode == ACCURACY else "PerformanceOnly",
        "performance_issue_same": mode == "TEST04",
        "performance_issue_unique": False,
    }
    for name, value in required.items():
        if effective.get(name, value) != value:
            yield f"{name} {quote(str(effective[name]), 30)} in {mode} of {event['scenario']}", f"{value} is required"


def _of_settings(event: Event, effective: dict, settings: dict) -> Iterator[Trouble]:
    for name, (key, factor, scenarios) in _SAME.items():
        asked, used = settings.get(name), effective.get(key)
        if event["scenario"] not in scenarios or not is_number(asked) or not is_number(used):
            continue
        if abs(used - asked * factor) > max(_DIGITS * abs(used), 1.0 if factor > 1 else 0.0):  # whole ms and ns
            found = f"{name} {asked:g} of {event['scenario']} {event['mode']}, and {key} {used:g} in LoadGen's log"
            yield found, "the same is required"
