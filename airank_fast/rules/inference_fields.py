"""Checks that an event of an inference run is well-formed; record/events.py documents the fields of each kind."""

from __future__ import annotations

from airank_fast.record.events import Event
from airank_fast.rules import event_fields

_TEST = "scenario:text mode:text"
FIELDS = event_fields.table(
    {
        "process_start": "pid:count",
        "infer_config": (
            "benchmark:text task:object? unit:text? profile:text scenarios:texts backend:text? precision:text? "
            "device:text? devices:texts? threads:count? max_batch:count? duration_s:seconds? "
            "target_latency_s:seconds? is_quick:bool? is_rehearsal:bool? data:object? checkpoint:object? "
            "division:text? submission:object? seed:any? command:list? peak_flops:number?"
        ),
        "system": "",
        "cache_clear": "value:any",
        "model": (
            "parameters:count? flops_per_sample:number? file_bytes:count? engine:object load_s:seconds? "
            "export_s:seconds? first_inference_s:seconds?"
        ),
        "reference": "quality:float_object correct:count? counted:count? source:text",
        "quantize": "method:text per_channel:bool? num_samples:count seed:any? samples:list? checksum:text?",
        "warm_up": "times:pairs",
        "test_start": f"{_TEST} settings:object",
        "queries": (
            f"{_TEST} first:count issued_s:seconds_list latency_s:seconds_list queue_s:seconds_list? batch:counts "
            "correct:counts?"
        ),
        "test_stop": (
            f"{_TEST} valid:bool reasons:texts metric:float_object num_queries:count num_samples:count "
            "duration_s:seconds over_latency:count? early_stopping:object? effective:object? loadgen:object? "
            "memory:object?"
        ),
        "accuracy": (
            "scenario:text quality:float_object correct:count? counted:count? required:number factor:number? "
            "reference:number? passed:bool agreement:number? largest_error:float? predictions:object? "
            "sample_results:counts?"
        ),
        "probe": (
            "scenario:text purpose:text? target_qps:number? queries:count over_latency:count? p99_s:seconds? "
            "valid:bool? duration_s:seconds"
        ),
        "search": "scenario:text valid_qps:number? refused_qps:number? probes:count?",
        "warning": "message:text",
        "run_stop": "status:text reason:text? detail:text?",
        "process_stop": "",
    }
)
_NESTED = {  # (kind, field) -> what the books read of it
    ("infer_config", "data"): "eval_samples:count?",
    ("model", "engine"): "precision:text?",
    ("test_start", "settings"): "target_latency_s:seconds? min_duration_s:seconds? samples_per_query:positive?",
    ("test_stop", "early_stopping"): "percentile:number met:bool? estimate_s:seconds?",
    ("test_stop", "memory"): "total_bytes:count? model_bytes:count? run_bytes:count?",
}
_NESTED_FIELDS = event_fields.table({f"{kind}.{name}": fields for (kind, name), fields in _NESTED.items()})


def troubles(event: Event) -> list[tuple[str, str]]:
    """(found, required) of each field that is missing or has the wrong type; [] for an undocumented kind of event."""
    kind, found = event["kind"], event_fields.troubles(event, FIELDS)
    if found:
        return found
    for outer, name in _NESTED:
        if outer == kind and event.get(name) is not None:
            found += event_fields.troubles({**event[name], "kind": f"{kind}.{name}"}, _NESTED_FIELDS)
    if kind in ("accuracy", "reference") and (event.get("correct") is None) != (event.get("counted") is None):
        found.append((f"{kind} with one of correct and counted", "both or none are required"))
    if kind == "test_stop" and not found:
        share = (event.get("early_stopping") or {}).get("percentile", 0.5)
        if not 0 < share < 1:
            found.append((f"early stopping at {share:g}", "a percentile in (0, 1) is required"))
    if kind == "queries":
        lengths = {name: len(values) for name, values in event.items() if isinstance(values, list)}
        if len(set(lengths.values())) > 1:
            shown = ", ".join(f"{count} of {name}" for name, count in lengths.items())
            found.append((f"queries with {shown}", "one value a query is required"))
    return found
