"""What a run shows: the table of all scenarios, and a line for each stage."""

import io

from airank_fast import tasks
from airank_fast.inference.console import Console, final_table


def summary(**scenarios):
    return {
        "benchmark": "resnet50",
        "task": tasks.find("resnet50").facts({}),
        "accuracy": {"server": {"value": 0.9775}},
        "scenarios": scenarios,
    }


FIGURES = {
    "metric": {"scheduled_qps": 11.56},
    "latency_p50_s": 0.04245,
    "latency_p90_s": 0.9856,
    "latency_p99_s": 1.543,
    "samples_per_s": 11.57,
    "memory": {"total_bytes": 617 * 2**20},
}


def test_the_table_has_a_row_for_each_scenario_and_says_why_one_is_not_valid():
    late = {**FIGURES, "valid": False, "reasons": ["152 of 695 queries were late"]}
    online = {"metric": {"concurrency": 4}, "valid": True, "reasons": []}
    lines = final_table(summary(server=late, online=online)).splitlines()
    assert lines[2].split("  ")[0] == "server"
    expected = ["11.56", "queries/s", "97.75%", "42.45", "985.6", "1543", "11.57", "617", "MiB", "NOT", "valid"]
    assert lines[2].split()[1:] == expected
    assert lines[3].split() == ["online", "4", "clients", "97.75%", "-", "-", "-", "-", "-", "valid"]
    assert lines[4:] == ["server: 152 of 695 queries were late"]


def test_a_run_without_a_measured_scenario_says_so():
    assert final_table(summary()) == "no scenario was measured"


def test_stages_are_lines_and_a_stream_that_is_gone_silences_them():
    stream = io.StringIO()
    console = Console(stream)
    console({"kind": "probe", "scenario": "online", "purpose": "search", "concurrency": 8, "valid": False})
    console({"kind": "search", "scenario": "server", "valid_qps": 50.0, "refused_qps": None, "probes": 3})
    console({"kind": "queries", "scenario": "server"})
    stop = {"kind": "test_stop", "scenario": "server", "mode": "performance", "metric": {"scheduled_qps": 9.0}}
    console({**stop, "valid": False, "reasons": ["late", "short"]})
    assert stream.getvalue().splitlines() == [
        "online: search, 8 clients: not valid",
        "server: of 3 rates 50 valid",
        "server: performance 9 queries/s, NOT valid: late; short",
    ]
    stream.close()
    console({**stop, "valid": True, "reasons": []})
