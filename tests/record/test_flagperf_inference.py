"""FlagPerf's figures of an inference run: the dictionary, the row, and published tables read back."""

import json

import pytest
from record.inference_run import inference_run

from airank_fast.errors import UserError
from airank_fast.record.events import to_json
from airank_fast.record.formats.flagperf_inference import (
    HEADER,
    flagperf_inference,
    parse_json,
    parse_table,
    read_table,
    row,
)
from airank_fast.rules import verifying

PUBLISHED = """\
| 推理工具  | precision | bs   | byte_per_batch | e2e_time | p_val_whole | \\*p_val_core | p_infer_whole | \\*p_infer_core | \\*MFU | acc(推理/验证) | mem |
| ----------- | --- | ---- | ---- | -------- | ----- | ---------- | ------- | ------- | ----- | ---------- | ---------- |
| tensorrt | fp16 | 256 | 77070336 | 613.4 | 1358.9 | 4469.4 | 1391.4 | 12698.7 | 16.8% | 76.2/76.2 | 19.7/40.0 |
| tensorrt | fp32 | 256 | 77070336 | 474.4 | 1487.3 | 2653.2 | 1560.3 | 6091.6 | 16.1% | 76.2/76.2 | 28.86/40.0 |
| bert-trt | fp16 | 32 | 1 | 1283.9 | 257.3 | 260.4 | 408.3 | 418.1 | 45.3% | 0.600/0.638 | 17.4/40.0 |
"""  # noqa: E501
FINISH = (
    "2026-01-01 rank0: Finish Info {'vendor': 'nvidia', 'compiler': 'tensorrt', 'precision': 'fp16', 'batchsize': 256, "
    "'flops': 4120000000.0, 'e2e_time(second)': 613.4, 'p_validation_whole(qps)': None, "
    "'p_inference_whole(qps)': 1391.4, '*p_inference_core(qps)': 12698.7, 'val_average_acc': None, "
    "'infer_average_acc': 0.762}"
)


@pytest.fixture(scope="module", name="run")
def run_fixture():
    return flagperf_inference(inference_run("flagperf", eval_samples=2000, peak_flops=5e11))


def test_the_figures_are_those_of_the_events(run):
    events = inference_run("flagperf", eval_samples=2000)
    metric = next(e["metric"] for e in events if e["kind"] == "test_stop" and e["mode"] == "performance")
    assert run["p_inference_whole(qps)"] == metric["p_infer_whole"]
    assert run["*p_inference_core(qps)"] == metric["p_infer_core"]
    assert run["p_validation_core(qps)"] == 24.0
    assert (run["compiler"], run["precision"], run["batchsize"]) == ("onnxruntime", "fp32", 256)
    assert run["infer_average_acc"] == run["val_average_acc"] == 0.761
    assert run["vendor_usage(GiB)"] == pytest.approx(420 / 1024)
    assert run["e2e_time(second)"] == pytest.approx(events[-1]["t"] - events[0]["t"])


def test_flagperfs_mfu_counts_half_of_ours(run):
    core = run["*p_inference_core(qps)"]
    assert run["*MFU"] == pytest.approx(core * 4.12e9 / 5e11)
    assert run["mfu"] == pytest.approx(core * 8.178e9 / 5e11)
    without = flagperf_inference(inference_run("flagperf", eval_samples=200))
    assert (without["*MFU"], without["mfu"]) == (None, None)


@pytest.mark.parametrize(
    "changed", [("model", "flops_per_sample", 166_862_848), ("infer_config", "benchmark", "bert_mini")]
)
def test_operations_of_flagperfs_case_are_not_stated_of_another_network(changed):
    kind, name, value = changed
    events = [
        {**event, name: value} if event["kind"] == kind else event
        for event in inference_run("flagperf", eval_samples=200, peak_flops=5e11)
    ]
    run = flagperf_inference(events)
    assert (run["flops"], run["*MFU"]) == (None, None)
    assert run["mfu"] == pytest.approx(run["*p_inference_core(qps)"] * run["flops_per_sample"] / 5e11)


def test_the_memory_of_a_cpu_is_that_of_its_host():
    events = inference_run("flagperf", eval_samples=200)
    for event in events:
        if event["kind"] == "system":
            event |= {"accelerator_memory_capacity": "0 GiB", "host_memory_capacity": "23.5 GiB"}
    assert flagperf_inference(events)["vendor_max_mem(GiB)"] == 23.5


def test_the_row_is_read_back(run):
    (read_back,) = parse_table([*HEADER.split("\n"), row(run)])
    for name in ("p_inference_whole(qps)", "*p_inference_core(qps)", "e2e_time(second)"):
        assert read_back[name] == pytest.approx(run[name], abs=0.05)
    assert read_back["*MFU"] == pytest.approx(run["*MFU"], abs=5e-4)
    assert (read_back["infer_average_acc"], read_back["vendor_usage(GiB)"]) == (76.1, 0.4)
    assert parse_json(to_json(run).splitlines()) == json.loads(json.dumps(run))


def test_published_tables_are_read():
    entries = list(read_table(PUBLISHED.splitlines()))
    assert [entry.troubles for entry in entries] == [(), (), ()]
    assert [entry.event["*p_inference_core(qps)"] for entry in entries] == [12698.7, 6091.6, 418.1]
    assert entries[2].event["val_average_acc"] == 0.638
    assert parse_json(["other output", FINISH])["*p_inference_core(qps)"] == 12698.7
    with pytest.raises(UserError, match="must be a JSON object with FlagPerf's figures"):
        parse_json(["Finish Info {'vendor'"])


def test_a_run_without_the_scenario_has_no_figures():
    assert flagperf_inference(inference_run("v6.1", ("offline",), eval_samples=100)) is None


# the rule book


def rules(path, text):
    path.write_text(text)
    return [(finding.severity, finding.rule.partition(".")[2]) for finding in verifying.verify(path)]


def test_the_book_and_the_published_table(tmp_path, run):
    assert rules(tmp_path / "flagperf_inference.json", to_json(run)) == []
    assert rules(tmp_path / "flagperf_inference.md", f"{HEADER}\n{row(run)}\n") == []
    assert rules(tmp_path / "README.md", PUBLISHED) == [("warning", "loss")]  # BERT: 0.600 of 0.638


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("*p_inference_core(qps)", 1.0, "rates"),
        ("p_inference_whole(qps)", 0, "rates"),
        ("p_inference_whole(qps)", None, "missing"),
        ("p_validation_core(qps)", 1.0, "rates"),
        ("precision", "half", "precision"),
        ("batchsize", -1, "cell"),
        ("infer_average_acc", 76.1, "acc"),
        ("vendor_usage(GiB)", 90.0, "mem"),
        ("*MFU", 1.7, "mfu"),
        ("mfu", 0.5, "mfu"),
        ("compiler", None, "missing"),
        ("e2e_time(second)", 1.0, "e2e_time"),
    ],
)
def test_a_change_is_refused_by_its_rule(tmp_path, run, name, value, rule):
    found = rules(tmp_path / "flagperf_inference.json", to_json({**run, name: value}))
    assert ("error", rule) in found
