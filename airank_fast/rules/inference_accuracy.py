"""Checks an accuracy event: its counts, its results, and the bound that it was judged by."""

from __future__ import annotations

import math
from collections.abc import Iterator

from airank_fast import tasks
from airank_fast.record.events import Event, dictionary
from airank_fast.record.inference_metrics import InferenceTally, headline_value
from airank_fast.rules import inference_profiles

Trouble = tuple[str, str]
"""What was found, and what is required."""
_LEAST_FACTOR = 0.99  # of every document


def troubles(event: Event, tally: InferenceTally, is_free: bool) -> Iterator[Trouble]:
    """What is wrong with an accuracy event of the run; `is_free`: the run says that it is no result."""
    yield from _ratio(event, tally.metric)
    yield from _results(event)
    yield from _bound(event, tally, is_free)
    if event.get("agreement") is not None and not 0 <= event["agreement"] <= 1:
        yield f"agreement {event['agreement']:g}", "a share from 0 to 1 is required"


def _ratio(event: Event, metric: tasks.Metric) -> Iterator[Trouble]:
    counted, correct, stated = event.get("counted"), event.get("correct"), event["quality"].get(metric.name)
    if counted is None:
        return
    if not counted or correct > counted:
        yield f"{correct} of {counted} correct", "a part of the counted samples is required"
    elif stated is not None and not math.isclose(stated, correct / counted, rel_tol=1e-6):
        yield f"{metric.name} {stated} with {correct} of {counted} correct", f"{correct / counted!r} is required"


def _results(event: Event) -> Iterator[Trouble]:
    counted, results = event.get("counted"), event.get("sample_results")
    if results is None or counted is None:
        return
    if len(results) != counted or any(result > 1 for result in results):
        yield f"{len(results)} results of {counted} samples", "0 or 1 for each sample is required"
    elif sum(results) != event["correct"]:
        yield f"{sum(results)} right results with {event['correct']} correct", "the same number is required"


def _bound(event: Event, tally: InferenceTally, is_free: bool) -> Iterator[Trouble]:
    """The bound must be a factor of the reference, and no lower than the profile's for published weights."""
    reference, factor, required = event.get("reference"), event.get("factor"), event["required"]
    if reference is not None and factor is not None and required < reference * factor * (1 - 1e-9):
        yield f"{required!r} required, {factor:g} x {reference!r}", f"{reference * factor!r} is required"
    task = tasks.of(tally.config)
    bound = inference_profiles.bounds(task.name if task else "", tally.config.get("profile") or "")
    least = bound.factor if bound else _LEAST_FACTOR
    if factor is not None and factor < least:
        yield f"a factor of {factor:g}", f"at least {least:g} is required"
    stated = headline_value(tally.reference, tally.metric)
    if stated is not None and reference is not None and not math.isclose(stated, reference, rel_tol=1e-9):
        yield f"reference {reference!r}, not {stated!r}", "the reference event's value is required"
    own = is_free or dictionary(tally.config.get("checkpoint")).get("trained_here")
    if not own and bound is not None and required < bound.required:
        yield f"{required!r} required of published weights", f"{bound.required!r} is required ({bound.source})"
