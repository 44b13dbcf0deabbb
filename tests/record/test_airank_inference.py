"""AI-Rank's inference logs: the lines of the texts, read back; published logs with their departures."""

import re

import pytest
from record.inference_run import inference_run

from airank_fast.errors import UserError
from airank_fast.record.formats.airank_inference import FILES, airank_inference
from airank_fast.record.formats.airank_inference_reading import parse, read

PROFILES = ("2020-12", "2021-05")
SHAPES = {  # of each log of 2021-05, numbers as #
    "accuracy_check.log": [
        *("load_data, checksum:c0ffee", "test_begin", "sampleid:#, result=true", "sampleid:#, result=false"),
        *("total_accuracy:#", "test_end"),
    ],
    "offline_ips.log": [
        *("load_data, checksum:c0ffee", "test_begin", "warmup_begin, warmup_samples:#", "warmup_finish"),
        *("total_accuracy:#, total_samples_cnt:#", "avg_ips:#images/sec", "test_end"),
    ],
    "online_ips.log": [
        *("load_data, checksum:c0ffee", "test_begin", "target_qps:#"),
        *("total_accuracy:#, max_latency:#ms, total_samples_cnt:#", "test_end"),
    ],
    "latency.log": [
        *("load_data, checksum:c0ffee", "test_begin", "latency_case#_latency:#ms"),
        *("90th_percentile_latency:#ms, min_latency:#ms, max_latency:#ms", "test_end"),
    ],
    "max_qps_max_memory_use.log": [
        *("load_data, checksum:c0ffee", "test_begin", "samples_cnt_each_case:#"),
        *("total_accuracy:#, max_latency:#ms, total_samples_cnt:#, max_memory_use:#M", "test_end"),
    ],
}
OLD_LATENCY = ["test_begin", "latency_case#_begin", "latency_case#_finish", "90th_percentile_latency:#ms", "test_end"]


@pytest.fixture(scope="module", name="events", params=PROFILES)
def events_fixture(request):
    return inference_run(f"airank-{request.param}", eval_samples=1500)


def shapes(lines):
    """The forms of the lines, each once, in the order of their first appearance."""
    texts = [line.split(" ", 2)[2] for line in lines]
    texts = [re.sub(r"(?<![a-zA-Z0-9.])(?!90th)\d+(?:\.\d+)?|(?<=case)\d+", "#", text) for text in texts]
    return list(dict.fromkeys(text if "c0ffee" not in text else "load_data, checksum:c0ffee" for text in texts))


def test_the_lines_of_every_log(events):
    profile = events[1]["profile"].removeprefix("airank-")
    written = airank_inference(events)
    assert set(written) == set(FILES.values())
    for name, lines in written.items():
        expected = [shape for shape in SHAPES[name] if profile == "2021-05" or "load_data" not in shape]
        if name == "latency.log" and profile == "2020-12":
            expected = OLD_LATENCY
        assert sorted(shapes(lines)) == sorted(expected), name
        assert all(re.match(r"AI-Rank-log \d{10}\.\d{3}(?:\d{3})? \S", line) for line in lines)
        times = [float(line.split()[1]) for line in lines]
        assert times == sorted(times), name


def test_what_is_written_is_read_back(events):
    for lines in airank_inference(events).values():
        entries = list(read(lines))
        assert len(entries) == len(lines)
        assert not any(entry.troubles for entry in entries)
    accuracy = next(event for event in events if event["kind"] == "accuracy")
    read_back = list(parse(airank_inference(events)["accuracy_check.log"]))
    results = [event["correct"] for event in read_back if event["kind"] == "sample"]
    assert results == [bool(each) for each in accuracy["sample_results"]]
    (progress,) = (event for event in read_back if event["kind"] == "progress")
    assert progress["accuracy"] == accuracy["correct"] / accuracy["counted"]


def test_figures_are_those_of_the_events(events):
    stops = {e["scenario"]: e for e in events if e["kind"] == "test_stop" and e["mode"] == "performance"}
    written = {name: list(parse(lines)) for name, lines in airank_inference(events).items()}

    def figure(name, kind):
        return next(e["value"] for e in written[name] if e["kind"] == "figure" and e["name"] == kind)

    rates = {name: stop["num_samples"] / stop["duration_s"] for name, stop in stops.items()}
    assert figure("offline_ips.log", "avg_ips") == pytest.approx(rates["offline"], abs=1e-3)
    assert figure("online_ips.log", "target_qps") == pytest.approx(rates["online"], abs=1e-3)
    assert figure("max_qps_max_memory_use.log", "samples_cnt_each_case") == 2
    last = [e for e in written["max_qps_max_memory_use.log"] if e["kind"] == "progress"][-1]
    assert last["memory_bytes"] == 420 << 20
    assert last["samples"] == stops["max-batch"]["num_samples"]
    assert last["max_latency_s"] == pytest.approx(stops["max-batch"]["metric"]["latency_s"], abs=1e-7)
    p90 = next(e for e in written["latency.log"] if e["kind"] == "percentile")
    assert p90["p90_s"] == pytest.approx(stops["latency"]["metric"]["latency_p90_s"], abs=1e-7)
    progress = [e for e in written["online_ips.log"] if e["kind"] == "progress"]
    assert len(progress) == 750  # every second of 1,500 answers
    accuracy = next(event for event in events if event["kind"] == "accuracy")
    assert progress[-1]["accuracy"] == pytest.approx(accuracy["correct"] / accuracy["counted"])


def test_without_right_answers_the_last_line_alone_is_written():
    events = inference_run("airank-2021-05", ("offline",), eval_samples=1500)
    for event in events:
        if event["kind"] == "queries":
            del event["correct"]
    progress = [e for e in parse(airank_inference(events)["offline_ips.log"]) if e["kind"] == "progress"]
    accuracy = next(event for event in events if event["kind"] == "accuracy")
    (line,) = progress
    assert (line["accuracy"], line["samples"]) == (accuracy["correct"] / accuracy["counted"], 1500)


def test_a_run_of_another_profile_has_no_such_log():
    assert airank_inference(inference_run("v6.1", ("offline",), eval_samples=100)) == {}


# as published, result_v0.1 of AI-Rank
BERT = """\
AI-Rank-log 1617949478.7344139 load_data, checksum:dcae6c7048fe71e5229d0d62c880ea7d
AI-Rank-log 1617949478.737468 test_begin
AI-Rank-log 1617949766.1544502 sampleid:56be4db0acb8001400a502ec, same num=2
AI-Rank-log 1617949766.154643 sampleid:56be4db0acb8001400a502ed, same num=0
AI-Rank-log 1617949767.1617453 total_accuracy:0.9096548349581789
AI-Rank-log 1617949767.1618578 avg_ips:37.38911666551918
AI-Rank-log 1617949767.161881 test_end
"""
MOBILE = """\
[ AI-Rank-Log  4/ 7 20:44: 7.880 ]load ground_truth_images, checksum: 91c001caf4bca3a9cf27e3ed45adf96
[ AI-Rank-Log  4/ 7 20:44: 7.887 ]XNNPACK delegate is created.
[ AI-Rank-Log  4/ 7 20:44: 7.914 ]Test begin
[ AI-Rank-Log  4/ 7 20:44: 7.973 ]latency_case1_latency: 47.94 ms
[ AI-Rank-Log  4/ 7 20:44: 8. 26 ]latency_case2_latency: 45.774 ms
[ AI-Rank-Log  4/ 7 20:45: 7.476 ]Num evaluation runs: 1000
[ AI-Rank-Log  4/ 7 20:45: 7.476 ]90th_percentile_latency: 45.841ms, min_latency: 45.09ms, max_latency: 47.94ms
[ AI-Rank-Log  4/ 7 20:45: 7.476 ]total_accuracy:
[ AI-Rank-Log  4/ 7 20:45: 7.476 ]Top-1 Accuracy: 0.728
[ AI-Rank-Log  4/ 7 20:45: 7.476 ]Top-5 Accuracy: 0.909
[ AI-Rank-Log  4/ 7 20:45: 7.476 ]Test end
"""
SAMPLE = """\
- AI-Rank-log 1558631910.424 load_data, checksum:xxxxxxxxxx
- AI-Rank-log 1558631910.424 test_begin
- AI-Rank-log 1558631910.424 target_qps：2000
- AI-Rank-log 1558631912.424 total_accuracy:0.95943342, max_latency:50ms, total_samples_cnt:2
- AI-Rank-log 1558631912.424 total_accuracy:0.95943342, max_latency:50ms, total_samples_cnt:10, max_memory_use:10M
- AI-Rank-log 1558631910.424 test_finish
"""


def troubles(text):
    return [trouble.kind for entry in read(text.splitlines()) for trouble in entry.troubles]


def test_published_logs_are_read_with_what_is_odd():
    events = list(parse(BERT.splitlines()))
    assert [event["kind"] for event in events] == [
        *("data", "test_start", "sample", "sample", "progress", "figure", "test_stop")
    ]
    assert [event["correct"] for event in events if event["kind"] == "sample"] == [None, None]
    assert troubles(BERT) == ["result", "result"]
    events = list(parse(MOBILE.splitlines()))
    assert [event["latency_s"] for event in events if event["kind"] == "case"] == pytest.approx([0.04794, 0.045774])
    assert events[-1]["t"] - events[1]["t"] == pytest.approx(59.562)
    assert next(event for event in events if "accuracy" in event)["accuracy"] == 0.728
    assert next(event for event in events if event["kind"] == "percentile")["min_s"] == pytest.approx(0.04509)
    kinds = troubles(MOBILE)
    assert kinds.count("prefix") == 11
    assert (kinds.count("other"), kinds.count("top"), kinds.count("spelling")) == (3, 2, 3)


def test_the_samples_of_the_texts_are_read():
    events = list(parse(SAMPLE.splitlines()))
    assert events[2] == {"t": 1558631910.424, "kind": "figure", "name": "target_qps", "value": 2000.0, "unit": ""}
    assert events[4]["memory_bytes"] == 10 << 20
    assert events[3]["max_latency_s"] == 0.05
    assert troubles(SAMPLE) == ["full_width", "spelling"]


@pytest.mark.parametrize("text", ["test_over", "sampleid:7, result=maybe", "avg_ips:fast", "latency_case1:3ms"])
def test_a_line_that_gives_no_event_is_named(text):
    with pytest.raises(UserError, match="line 2: must be a line of the AI-Rank log, got"):
        list(parse(["AI-Rank-log 1558631910.424 test_begin", f"AI-Rank-log 1558631911.424 {text}"]))


def test_other_output_and_prose_are_skipped():
    lines = ["step 1", "every line begins with AI-Rank-log and a time", "0: AI-Rank-log 1558631910.424 test_begin"]
    ((number, event, found, _),) = read(lines)
    assert (number, event["kind"], [trouble.kind for trouble in found]) == (3, "test_start", ["interleaved"])
