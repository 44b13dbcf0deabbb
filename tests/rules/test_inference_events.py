"""The rule book of an inference run's events: sound runs pass, each mutation is refused by its rule."""

import json
import pickle

import pytest
from record.inference_run import SCENARIOS, inference_run, write
from rules.loadgen_logs import LoadGenTest
from rules.samples import write_run

from airank_fast import tasks
from airank_fast.record.events import to_line
from airank_fast.record.formats.loadgen import read_detail
from airank_fast.record.lines import Lines
from airank_fast.rules import inference_events, verifying
from airank_fast.rules.facts import Facts

RUNS = {  # name -> arguments of the made-up run; small, so that a mutation is checked in a moment
    "v6.1": ("v6.1", ("singlestream", "offline"), {}),
    "multi": ("v6.1", ("multistream",), {}),
    "server": ("v4.0", ("server",), {}),
    "airank": ("airank-2021-05", ("offline", "online", "latency", "max-batch"), {"eval_samples": 1000}),
    "own": ("v6.1", ("offline",), {"division": "open", "checkpoint": {"trained_here": True}}),
    "int8": ("v6.1", ("offline",), {"precision": "int8"}),
}


@pytest.fixture(scope="module", name="runs")
def runs_fixture():
    """The events of each of RUNS, made once; tests change copies."""
    made = {}

    def run(name):
        if name not in made:
            profile, scenarios, config = RUNS[name]
            made[name] = inference_run(profile, scenarios, **config)
            for index in places(made[name], "accuracy")[1:]:  # one list of 50,000 results is enough
                del made[name][index]["sample_results"]
        return made[name]

    return run


def findings(path, events):
    path.write_text("".join(to_line(event) + "\n" for event in events))
    return list(inference_events.check(Lines(path), Facts()))


@pytest.mark.parametrize("profile", SCENARIOS)
def test_a_sound_run_of_every_profile(tmp_path, profile):
    small = {"eval_samples": 2000} if profile.startswith(("airank", "flagperf")) else {}
    assert findings(tmp_path / "events.jsonl", inference_run(profile, **small)) == []


@pytest.mark.parametrize("name", RUNS)
def test_the_sound_runs_that_are_mutated(tmp_path, runs, name):
    assert findings(tmp_path / "events.jsonl", runs(name)) == []


# mutations


def places(events, kind, **where):
    return [
        index
        for index, event in enumerate(events)
        if event["kind"] == kind and all(event.get(name) == value for name, value in where.items())
    ]


def edit(kind, change, nth=0, **where):
    """With `change` done to the nth event of a kind."""

    def mutate(events):
        change(events[places(events, kind, **where)[nth]])
        return events

    return mutate


def put(kind, nth=0, where=None, **fields):
    """With other fields in an event; a name like metric.samples_per_s is of an object in it."""

    def change(event):
        for name, value in fields.items():
            outer, _, inner = name.partition("__")
            target, key = (event[outer], inner) if inner else (event, outer)
            target[key] = value(target[key]) if callable(value) else value

    return edit(kind, change, nth, **(where or {}))


def drop(kind, nth=None, **where):
    """Without the events of a kind, or the nth of them."""

    def mutate(events):
        found = places(events, kind, **where)
        gone = set(found if nth is None else [found[nth]])
        return [event for index, event in enumerate(events) if index not in gone]

    return mutate


def short_offline(events):
    """A valid Offline run of ten batches, all its figures in agreement."""
    at = places(events, "queries", scenario="offline", mode="performance")[0]
    for name in ("issued_s", "latency_s", "batch"):
        events[at][name] = events[at][name][:10]
    duration_s = events[at]["issued_s"][-1] + events[at]["latency_s"][-1]
    stop = events[places(events, "test_stop", scenario="offline", mode="performance")[0]]
    samples = sum(events[at]["batch"])
    stop.update(num_samples=samples, duration_s=duration_s, metric={"samples_per_s": samples / duration_s})
    return events


def slow_request(events):
    """One request of `online` over the bound, in the events alone."""
    events[places(events, "queries", scenario="online")[0]]["latency_s"][3] = 0.0172
    return events


def fewer_cases(events):
    at = places(events, "queries", scenario="latency")[0]
    for name in ("issued_s", "latency_s", "batch"):
        events[at][name] = events[at][name][:900]
    ascending = sorted(events[at]["latency_s"])
    done_s = events[at]["issued_s"][-1] + events[at]["latency_s"][-1]
    low = int(899 * 0.9)
    p90 = ascending[low] + (ascending[low + 1] - ascending[low]) * (899 * 0.9 - low)
    stop = events[places(events, "test_stop", scenario="latency")[0]]
    stop.update(num_queries=900, num_samples=900, duration_s=done_s, metric={"latency_p90_s": p90})
    return events


def flip_result(event):
    event["sample_results"][7] ^= 1


PERFORMANCE = {"mode": "performance"}
STOP = {"where": PERFORMANCE}
SERVER = {"where": {"mode": "performance", "scenario": "server"}}
OFFLINE = {"where": {"mode": "performance", "scenario": "offline"}}
ONLINE = {"mode": "performance", "scenario": "online"}
MUTATIONS = [  # (what, run, rule, mutate)
    ("no infer_config", "v6.1", "missing", drop("infer_config")),
    ("no model", "v6.1", "missing", drop("model")),
    ("no run_stop", "v6.1", "missing", drop("run_stop")),
    ("two configurations", "v6.1", "order", lambda events: [*events[:2], events[1], *events[2:]]),
    ("a test after the end", "v6.1", "order", lambda events: [*events, events[places(events, "test_start")[0]]]),
    ("the clock runs backwards", "v6.1", "time_order", put("test_stop", t=1.0)),
    ("an unknown profile", "v6.1", "profile", put("infer_config", profile="v5.0")),
    ("a scenario of another profile", "v6.1", "profile", put("infer_config", scenarios=["singlestream", "flagperf"])),
    ("own weights in the closed division", "v6.1", "weights", put("infer_config", checkpoint__trained_here=True)),
    ("a division of its own", "v6.1", "weights", put("infer_config", division="Closed")),
    ("a part of the data", "v6.1", "data", put("infer_config", data__eval_samples=5000)),
    ("other classes", "v6.1", "data", put("infer_config", data__classes=10)),
    ("fp32 was requested, fp16 ran", "v6.1", "precision", put("model", engine__precision="fp16")),
    ("what ran is not read back", "v6.1", "precision", put("model", engine__precision=None)),
    ("int8 without its calibration", "int8", "calibration", drop("quantize")),
    ("speed before accuracy", "v6.1", "gate", drop("accuracy")),
    ("accuracy of another scenario alone", "v6.1", "gate", drop("accuracy", scenario="offline")),
    ("an accuracy below its bound passes", "v6.1", "accuracy", put("accuracy", required=0.77)),
    ("more right answers than results", "v6.1", "accuracy", put("accuracy", correct=49_000, quality__top1=0.98)),
    ("quality is not the ratio", "v6.1", "accuracy", put("accuracy", quality__top1=0.7712)),
    ("one result is turned", "v6.1", "accuracy", edit("accuracy", flip_result)),
    ("a result is missing", "v6.1", "accuracy", edit("accuracy", lambda event: event["sample_results"].pop())),
    ("90 % of the reference", "v6.1", "accuracy", put("accuracy", factor=0.9, required=0.69)),
    ("a reference of its own", "v6.1", "accuracy", put("accuracy", reference=0.70, required=0.693)),
    ("a reference that was not measured", "own", "accuracy", put("accuracy", reference=0.70, required=0.693)),
    ("agreement above 1", "v6.1", "accuracy", put("accuracy", agreement=1.02)),
    ("accuracy on a part of the set", "v6.1", "accuracy", put("test_stop", num_samples=100)),
    ("a lost sample behind those that fill up", "multi", "accuracy", put("test_stop", num_samples=50_007)),
    ("samples/s x 10", "v6.1", "figures", put("test_stop", **OFFLINE, metric__samples_per_s=lambda rate: 10 * rate)),
    ("samples/s + 3 %", "v6.1", "figures", put("test_stop", **OFFLINE, metric__samples_per_s=lambda rate: 1.03 * rate)),
    ("p90 - 10 %", "v6.1", "figures", put("test_stop", **STOP, metric__latency_p90_s=lambda time: 0.9 * time)),
    ("p99 - 10 %", "multi", "figures", put("test_stop", **STOP, metric__latency_p99_s=lambda time: 0.9 * time)),
    ("half of the estimate", "v6.1", "figures", put("test_stop", **STOP, early_stopping__estimate_s=0.26)),
    ("no estimate", "v6.1", "figures", put("test_stop", **STOP, early_stopping__estimate_s=None)),
    ("early stopping at p50", "v6.1", "figures", put("test_stop", **STOP, early_stopping__percentile=0.5)),
    ("valid, early stopping not met", "v6.1", "verdict", put("test_stop", **STOP, early_stopping__met=False)),
    ("valid without early stopping", "v6.1", "verdict", put("test_stop", **STOP, early_stopping=None)),
    ("1,000 queries more", "v6.1", "figures", put("test_stop", **STOP, num_queries=lambda count: count + 1000)),
    ("twice the samples", "v6.1", "figures", put("test_stop", **OFFLINE, num_samples=lambda count: 2 * count)),
    ("half of the time", "v6.1", "figures", put("test_stop", **OFFLINE, duration_s=lambda time: time / 2)),
    ("queries are missing", "v6.1", "queries", drop("queries", 0)),
    ("queries of another test", "v6.1", "queries", put("queries", scenario="offline")),
    ("no queries", "v6.1", "figures", drop("queries", **OFFLINE["where"])),
    ("one latency is no number", "v6.1", "field", edit("queries", lambda e: e["latency_s"].__setitem__(3, "0.5"))),
    ("a latency is missing", "v6.1", "field", edit("queries", lambda event: event["latency_s"].pop())),
    ("valid is no truth value", "v6.1", "field", put("test_stop", valid="yes")),
    ("not valid, for no reason", "v6.1", "verdict", put("test_stop", **STOP, valid=False)),
    ("valid in spite of a reason", "v6.1", "verdict", put("test_stop", **STOP, reasons=["an error in the log"])),
    ("a mode of its own", "v6.1", "test", put("test_start", **STOP, mode="speed", settings__mode="speed")),
    ("no test_stop", "v6.1", "test", drop("test_stop", **OFFLINE["where"])),
    ("a scenario that was not asked for", "v6.1", "test", put("infer_config", scenarios=["singlestream"])),
    ("other settings", "v6.1", "settings", put("test_start", **OFFLINE, settings__scenario="singlestream")),
    ("60 s are enough", "v6.1", "settings", put("test_start", **STOP, settings__min_duration_s=60.0)),
    ("one sample a MultiStream query", "multi", "settings", put("test_start", **STOP, settings__samples_per_query=1)),
    ("another seed", "v6.1", "settings", put("test_stop", **STOP, effective__effective_qsl_rng_seed=0)),
    ("four clients, and eight said", "airank", "figures", put("test_stop", where=ONLINE, metric__concurrency=8.0)),
    ("a run's weights, said to be given", "v6.1", "weights", put("infer_config", checkpoint__run={"benchmark": "x"})),
    ("another bound in LoadGen", "server", "settings", put("test_stop", **SERVER, effective__target_latency_ns=10**8)),
    ("60 s in LoadGen", "v6.1", "settings", put("test_stop", **STOP, effective__min_duration_ms=60_000)),
    (
        "one sample again and again",
        "v6.1",
        "settings",
        put("test_stop", **STOP, effective__performance_issue_same=True),
    ),
    ("an accuracy run as speed", "v6.1", "settings", put("test_stop", **STOP, effective__test_mode="AccuracyOnly")),
    ("no seeds", "v6.1", "settings", put("test_stop", **STOP, effective={})),
    ("no LoadGen", "v6.1", "settings", put("test_stop", **STOP, loadgen=None)),
    ("embedded data, not said", "own", "data", put("infer_config", data__source="the embedded data set, digits")),
    ("another LoadGen", "v6.1", "settings", put("test_stop", **STOP, loadgen__version="3.1 @ hacked")),
    ("a short run", "v6.1", "length", short_offline),
    ("no late queries, said", "server", "figures", put("test_stop", **SERVER, over_latency=400)),
    ("late queries are not counted", "server", "figures", put("test_stop", **SERVER, over_latency=None)),
    ("scheduled x 2", "server", "figures", put("test_stop", **SERVER, metric__scheduled_qps=lambda rate: 2 * rate)),
    ("completed x 2", "server", "figures", put("test_stop", **SERVER, metric__completed_qps=lambda rate: 2 * rate)),
    ("waited longer than it took", "server", "figures", edit("queries", lambda e: e["queue_s"].__setitem__(5, 9.0))),
    ("a bound of 100 ms", "server", "bound", put("test_start", **SERVER, settings__target_latency_s=0.1)),
    ("no bound", "server", "bound", put("test_start", **SERVER, settings__target_latency_s=None)),
    ("a rate that was not tried", "server", "search", put("search", valid_qps=6.0)),
    ("a refused rate that was not tried", "server", "search", put("search", refused_qps=9.0)),
    ("more memory in a part", "v6.1", "memory", put("test_stop", **STOP, memory__run_bytes=10**12)),
    ("success with a reason of training", "v6.1", "status", put("run_stop", reason="target")),
    ("aborted, and valid", "v6.1", "status", put("run_stop", status="aborted")),
    (
        "success without a scenario",
        "v6.1",
        "status",
        put("infer_config", scenarios=["singlestream", "offline", "server"]),
    ),
    ("a failed compliance test", "v6.1", "compliance", put("test_stop", where={"mode": "TEST04"}, valid=False)),
    ("no compliance test", "v6.1", "compliance", drop("test_stop", mode="TEST01")),
    ("an event of training", "v6.1", "kind", lambda events: [*events[:-2], {**events[-2], "kind": "epoch_stop"}]),
    ("a request over the bound", "airank", "figures", slow_request),
    (
        "valid with requests over the bound",
        "airank",
        "verdict",
        put("test_stop", where={"scenario": "online", **PERFORMANCE}, over_latency=1),
    ),
    ("900 latencies", "airank", "length", fewer_cases),
    ("half of the set", "airank", "length", put("infer_config", data__eval_samples=2000)),
    (
        "right answers that were not given",
        "airank",
        "figures",
        edit("queries", lambda e: e["correct"].__setitem__(0, 9000)),
    ),
    (
        "a greater batch than ran",
        "airank",
        "figures",
        put("test_stop", where={"scenario": "max-batch"}, metric__batch=64),
    ),
]


@pytest.mark.parametrize(("what", "run", "rule", "mutate"), MUTATIONS, ids=[each[0] for each in MUTATIONS])
def test_a_mutation_is_refused_by_its_rule(tmp_path, runs, what, run, rule, mutate):
    found = findings(tmp_path / "events.jsonl", mutate(pickle.loads(pickle.dumps(runs(run)))))
    severities = {finding.severity for finding in found if finding.rule == f"infer.{rule}"}
    expected = "warning" if what in ("no compliance test", "an event of training") else "error"
    assert expected in severities, [str(finding) for finding in found][:5]


def test_a_rehearsal_may_be_short_and_says_so(tmp_path):
    quick = inference_run("v6.1", ("offline", "multistream"), is_rehearsal=True, eval_samples=355, duration_s=530.0)
    found = findings(tmp_path / "events.jsonl", quick)
    assert [(finding.severity, finding.rule) for finding in found] == [("note", "infer.rehearsal")]


def test_a_run_that_failed_its_accuracy_is_sound_if_it_says_so(tmp_path):
    events = inference_run("v6.1", ("offline",))
    at = places(events, "accuracy")[0]
    counts = {"correct": 30_000, "quality": {"top1": 0.6}, "passed": False, "sample_results": [1, 1, 1, 0, 0] * 10_000}
    events = [*events[:at], events[at] | counts, *events[-2:]]
    events[-2] = events[-2] | {"status": "aborted", "reason": "accuracy"}
    assert findings(tmp_path / "events.jsonl", events) == []


def test_anything_in_an_event_gives_findings_and_no_traceback(tmp_path):
    small = inference_run("v4.0", ("server",), is_rehearsal=True, eval_samples=20, duration_s=6.0, division="open")
    for index in {event["kind"]: index for index, event in enumerate(small)}.values():  # the last of each kind
        for field in [key for key in small[index] if key not in ("t", "kind")]:
            for value in (None, -1, "text", [None], {"a": []}):
                changed = [*small[:index], {**small[index], field: value}, *small[index + 1 :]]
                assert findings(tmp_path / "events.jsonl", changed), (small[index]["kind"], field, value)


# a run directory


@pytest.mark.parametrize("name", ["v6.1", "airank"])
def test_a_run_directory_agrees_with_its_events(tmp_path, runs, name):
    directory = write(tmp_path / "run", runs(name))
    found = list(verifying.verify(directory))
    missing = {each.path.removeprefix(f"{directory}/") for each in found if each.rule == "run.missing"}
    assert [str(each) for each in found if each.rule != "run.missing"] == []
    scenarios, modes = RUNS[name][1], ("accuracy", "performance", "TEST01", "TEST04")
    of_loadgen = {f"loadgen/{scenario}/{mode}" for scenario in scenarios for mode in modes}
    assert missing == (of_loadgen if name == "v6.1" else set())  # which a made-up run has not


def test_flagperfs_table_of_a_small_set_agrees_with_its_events(tmp_path):
    directory = write(tmp_path / "run", inference_run("flagperf", eval_samples=2000))
    assert (directory / "flagperf_inference.md").is_file()
    assert [str(finding) for finding in verifying.verify(directory)] == []


def test_a_log_that_no_event_stands_behind_is_named(tmp_path, runs):
    directory = write(tmp_path / "run", runs("airank"))
    log = directory / "offline_ips.log"
    log.write_text(log.read_text().replace("total_samples_cnt:512", "total_samples_cnt:511"))
    summary = json.loads((directory / "summary.json").read_text())
    summary["scenarios"]["online"]["samples_per_s"] *= 2
    (directory / "summary.json").write_text(json.dumps(summary))
    (directory / "flagperf_inference.json").write_text("{}")
    found = {(finding.rule, finding.path.rpartition("/")[2]) for finding in verifying.verify(directory)}
    assert {("run.agreement", name) for name in ("offline_ips.log", "summary.json", "flagperf_inference.json")} <= found


@pytest.mark.parametrize(
    ("what", "change"),
    [
        (None, {}),
        ("samples_per_s", {"metric": {"samples_per_s": 441.0}}),
        ("version", {"loadgen": {"version": "6.0.1"}}),
        ("effective_min_duration_ms", {"effective": {"min_duration_ms": 6000}}),
        ("result_validity INVALID", {}),
    ],
)
def test_loadgens_own_log_has_the_figures_of_the_events(tmp_path, runs, what, change):
    loadgen = LoadGenTest("Offline", changes={"result_validity": "INVALID"} if what and "INVALID" in what else {})
    detail = read_detail(loadgen.lines())
    events = pickle.loads(pickle.dumps(runs("own")))
    stop = events[places(events, "test_stop", **PERFORMANCE)[0]]
    stop |= {"num_queries": detail.value("result_query_count") or stop["num_queries"]}
    stop |= {"metric": {"samples_per_s": detail.value("result_samples_per_second")}, "over_latency": None}
    stop |= {"effective": detail.part("effective_"), "loadgen": {"version": detail.value("loadgen_version")}} | change
    directory = write(tmp_path / "run", events)
    log = directory / "loadgen" / "offline" / "performance" / "mlperf_log_detail.txt"
    log.parent.mkdir(parents=True)
    log.write_text("".join(f"{line}\n" for line in loadgen.lines()))
    found = [each for each in verifying.verify(directory) if each.rule == "run.agreement"]
    assert [each.path for each in found] == ([str(log)] if what else [])
    assert not what or found[0].found.startswith(what)


def test_a_kind_that_is_the_name_of_a_number_is_named(tmp_path, runs):
    for directory in (write(tmp_path / "inference", runs("airank")), write_run(tmp_path / "training")):
        with (directory / "events.jsonl").open("a") as file:
            file.write('{"t": 2e9, "kind": "nan"}\n')
        found = [str(finding) for finding in verifying.verify(directory) if finding.rule.endswith(".line")]
        assert len(found) == 1
        assert "a kind that is a word is required, got nan" in found[0]


def test_events_that_are_broken_are_not_compared(tmp_path, runs):
    directory = write(tmp_path / "run", runs("airank"))
    with (directory / "events.jsonl").open("a") as file:
        file.write('{"t": 1.0, "kind": "test_stop"}\n')
    rules = {finding.rule for finding in verifying.verify(directory)}
    assert {"infer.field", "run.not_compared"} <= rules


def test_training_readers_refuse_an_inference_run(tmp_path, runs):
    from airank_fast.errors import UserError
    from airank_fast.record.foreign.read import read_run

    directory = write(tmp_path / "run", runs("own"))
    with pytest.raises(UserError, match=r"must be a log of a training run, got one of inference \(inference_events\)"):
        read_run(directory)
    assert tasks.find("resnet50").eval_samples == 50_000
