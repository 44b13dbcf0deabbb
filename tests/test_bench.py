"""bench/ apart from the timing: on a simulated GPU, without git, with missing peers."""

import importlib
import json
import sys
import tarfile
import types
from pathlib import Path

import pytest
import torch

BENCH = Path(__file__).parents[1] / "bench"
MODULES = ("harness", "compare", "convolution", "tables", "gpu")


@pytest.fixture
def bench(monkeypatch):
    """The modules that the benchmarks share, by name; removed from sys.modules afterwards."""
    monkeypatch.syspath_prepend(BENCH)
    yield types.SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    for name in MODULES:
        del sys.modules[name]


class Gpu:
    """A host's clock, and a queue that runs beside it."""

    def __init__(self) -> None:
        self.now = self.free_at = 0.0

    def launch(self, host_s: float, device_s: float) -> None:
        self.now += host_s
        self.free_at = max(self.now, self.free_at) + device_s

    def synchronize(self) -> None:
        self.now = max(self.now, self.free_at)

    def event(self, enable_timing: bool) -> types.SimpleNamespace:
        made = types.SimpleNamespace(at=0.0)
        made.record = lambda: setattr(made, "at", max(self.now, self.free_at))
        made.query = lambda: self.now >= made.at
        made.synchronize = lambda: setattr(self, "now", max(self.now, made.at))
        made.elapsed_time = lambda other: 1e3 * (other.at - made.at)
        return made


@pytest.fixture
def gpu(bench, monkeypatch):
    device = Gpu()
    monkeypatch.setattr(torch.cuda, "Event", device.event)
    monkeypatch.setattr(torch.cuda, "synchronize", device.synchronize)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: device.launch(0, cycles / 1.5e9))
    monkeypatch.setattr(bench.harness.time, "perf_counter", lambda: device.now)
    monkeypatch.setattr(bench.harness, "_flush", lambda where: device.launch(1e-5, 7e-5))
    return device


def launches(gpu: Gpu) -> None:
    for _ in range(10):
        gpu.launch(host_s=1e-4, device_s=1e-5)


def waits(gpu: Gpu) -> None:
    launches(gpu)
    gpu.synchronize()
    launches(gpu)


def test_a_gpu_s_time_is_without_the_gaps_in_which_it_waits_for_the_host(bench, gpu):
    times = bench.harness.time_rounds({"ours": lambda: launches(gpu)}, num_rounds=5, device="cuda")
    assert times["ours"] == pytest.approx([1e-4] * 5)
    assert times.host_s["ours"] == pytest.approx([1e-3] * 5)
    assert times.host_in_time == []
    assert "host 1.000 ms\n" in bench.harness.as_text("case", times, "ours") + "\n"


def test_a_call_that_waits_for_the_gpu_is_timed_with_the_host_and_named(bench, gpu):
    calls = {"ours": lambda: launches(gpu), "waits": lambda: waits(gpu)}
    times = bench.harness.time_rounds(calls, num_rounds=5, device="cuda")
    assert times["ours"] == pytest.approx([1e-4] * 5)
    assert times["waits"] == pytest.approx([2e-3 + 2e-5] * 5, rel=0.01)
    assert times.host_in_time == ["waits"]
    assert "host 2.010 ms, in the time   ours is" in bench.harness.as_text("case", times, "ours")


def test_whole_steps_are_timed_as_they_come(bench, gpu):
    times = bench.harness.time_rounds({"ours": lambda: launches(gpu)}, num_rounds=5, device="cuda", ahead=False)
    assert times["ours"] == pytest.approx([1e-3 + 1e-5] * 5)
    assert times.host_in_time == ["ours"]


def test_an_input_that_is_written_over_is_restored_outside_the_time(bench, gpu):
    num_refills = []

    def refill() -> None:
        num_refills.append(1)
        gpu.launch(1e-3, 1e-3)

    calls = {"ours": lambda: launches(gpu)}
    times = bench.harness.time_rounds(calls, num_rounds=5, device="cuda", refill={"ours": refill})
    assert times["ours"] == pytest.approx([1e-4] * 5)
    assert len(num_refills) >= 5


def test_a_contestant_in_another_process_times_itself(bench):
    def call() -> None:
        calls.append(1)

    calls: list[int] = []
    call.own_seconds = lambda: 2.0
    times = bench.harness.time_rounds({"ours": lambda: None, "elsewhere": call}, num_rounds=5)
    assert times["elsewhere"] == [2.0] * 5
    assert times["ours"] < [1.0] * 5
    assert len(calls) == 3  # to warm up


def test_results_are_saved_where_there_is_no_git(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(bench.harness, "RESULTS", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    line = bench.harness.append("name", "case")
    assert line["commit"] is line["uncommitted_changes"] is None
    assert json.loads((tmp_path / "name.jsonl").read_text()) == line


def result(**facts) -> dict:
    times = {"ours": {"median_s": 0.3}}
    return {"ours": "ours", "times": times, "speedup_over": {}, "floor_s": 0.25, "memory_peak_bytes": {}} | facts


def verdicts(modules, **facts) -> dict[str, str]:
    return {row[3]: row[-1] for row in modules.compare.judged(result(**facts), "cuda") if row[-1]}


def test_goals_beyond_the_floor_or_beyond_bare_copies_are_out_of_reach(bench):
    case = {"bench": "dropout_add_layer_norm", "case": "65536 x 1024 bfloat16, cuda"}
    compiled = {"torch.compile": 1.0}
    assert verdicts(bench, **case, speedup_over=compiled | {"torch": 3.1})["torch"] == "met"
    assert verdicts(bench, **case, speedup_over=compiled | {"torch": 2.9})["torch"] == "MISSED"
    assert verdicts(bench, **case, speedup_over=compiled | {"torch": 2.4})["torch"] == "out of reach"
    slower_copies = compiled | {"torch": 2.9, bench.compare.COPIES: 0.99}
    assert verdicts(bench, **case, speedup_over=slower_copies)["torch"] == "out of reach"


def test_a_ratio_to_a_time_with_the_host_in_it_is_marked(bench):
    found = verdicts(bench, bench="sgd", case="cuda", speedup_over={"torch fused": 2.0}, host_in_time=["torch fused"])
    assert found == {"torch fused": "met, with the host in the peer's time"}


def test_memory_peaks_have_a_goal(bench):
    case = {"bench": "cross_entropy", "case": "256 x 1000 float32, cuda"}
    assert verdicts(bench, **case, memory_peak_bytes={"ours": 1, "torch": 2}) == {"torch, memory peak": "met"}
    assert verdicts(bench, **case, memory_peak_bytes={"ours": 2, "torch": 3}) == {"torch, memory peak": "MISSED"}


def test_goals_whose_peer_is_missing_are_named(bench):
    found = verdicts(bench, bench="lamb", case="BERT-large, float32, cuda")
    assert found["apex"] == "not judged: the peer is missing"


def test_parts_that_do_not_fit_are_left_out_and_the_others_packed(bench, monkeypatch, tmp_path, capsys):
    def part(name: str, command: str, **options) -> bench.gpu.Part:
        return bench.gpu.Part(name, ("-c", command), ("tests",), **{"limit_s": 60} | options)

    made = [
        part("one", "print('done')", together=True),
        part("two", "raise SystemExit('broken')", together=True),
        part("slow", "import time; time.sleep(60)", limit_s=0.2),
        part("last", "import time; time.sleep(60)"),
        part("never", ""),
    ]
    monkeypatch.setattr(bench.gpu, "parts", lambda: made)
    monkeypatch.setattr(bench.gpu, "LEAST_S", 1.5)
    monkeypatch.setattr(sys, "argv", ["gpu.py", str(tmp_path / "results"), "--limit", "5"])
    assert bench.gpu.main() == 1
    printed = capsys.readouterr().out
    assert "failed: two, slow\nleft out: last, never\n" in printed
    with tarfile.open(tmp_path / "results.tar.gz") as packed:
        assert {"results/summary.md", "results/one.log", "results/parts.jsonl"} <= set(packed.getnames())


def test_every_part_of_the_gpu_run_is_in_a_group_and_is_there(bench):
    stages = bench.gpu.chosen([])
    assert [part for stage in stages for part in stage] == bench.gpu.parts()
    assert {group for part in bench.gpu.parts() for group in part.groups} == set(bench.gpu.GROUPS)
    scripts = [word for part in bench.gpu.parts() for word in part.command if word.endswith(".py")]
    assert all((BENCH.parent / script.removeprefix("--ignore=")).exists() for script in scripts)
    assert all(len({part.name for part in stage}) == 1 for stage in stages if not stage[0].together)


def convolution(kernel: int, pixels: int, *ratios: float, **facts) -> list[dict]:
    line = {"instructions": "AVX2", "dtype": "float32", "kernel": kernel, "pixels": pixels} | facts
    return [line | {"speedup_over": {"torch": ratio}} for ratio in ratios]


def test_convolutions_are_products_up_to_where_they_were_faster(bench):
    measured = [
        *convolution(1, 32, 2.0, 1.5),
        *convolution(1, 128, 0.9, 1.6),  # faster on the mean
        *convolution(1, 512, 1.0, 1.0),
        *convolution(1, 2048, 3.0, 3.0),  # after a size that was not
        *convolution(3, 32, 1.0, 1.04),
        *convolution(3, 128, 5.0, 5.0),
        *convolution(1, 32, 2.0, instructions="AVX"),
        *convolution(1, 32, 2.0, instructions="AVX512_BF16"),  # fixed
    ]
    found = bench.convolution.choose(measured)
    assert found.pop("AVX") == {"float32": {"1": None}}
    assert found.pop("AVX2") == {"float32": {"1": 128}}
    assert found == bench.convolution.FIXED


def test_the_choices_of_the_modules_are_those_of_the_results(bench):
    chosen = bench.convolution.choose(bench.tables.latest("convolution"))
    assert json.loads(bench.convolution.choices.FILE.read_text()) == chosen


def test_results_of_one_case_on_two_kinds_of_processors_stand_side_by_side(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(bench.tables, "RESULTS", tmp_path)
    made = []
    for number, (device, more) in enumerate(
        [
            ("cpu: Made-up, 2 threads, AVX512", {}),  # from before results named their instructions
            ("cpu: Made-up, 2 threads, AVX512_BF16", {"instructions": "AVX512_BF16", "stand_in": False}),
            ("cpu: Made-up, 2 threads, AVX2", {"instructions": "AVX2", "stand_in": True}),
        ]
    ):
        ours = {"median_s": 0.001 * (number + 1), "p20_s": 0, "p80_s": 0}
        made.append(
            result(bench="op", case="a, cpu", times={"ours": ours}, speedup_over={"torch": 1.5}, commit="abc", **more)
            | {"machine": {"devices": [device], "load": 1.5}, "versions": {"torch": "2.13.0"}, "time": f"{number}"}
        )
    (tmp_path / "op.jsonl").write_text("".join(json.dumps(line) + "\n" for line in made))
    assert [bench.tables.kind(line) for line in bench.tables.latest("op")] == ["AVX-512", "AVX2"]
    text = bench.tables.tables("op")
    assert [line for line in text.splitlines() if line.startswith("| a, cpu")] == [
        "| a, cpu | 3.0 ms | 1.50 |",
        "| a, cpu | 2.0 ms | 1.50 |",
    ]
    assert text.count("a later processor limited to these instructions") == 1
    assert "a, cpu, AVX2" in bench.compare.table(bench.tables.latest("op"), "cpu")


def test_a_rate_stands_beside_the_time_with_arithmetic_s_share(bench):
    line = {"ours": "us", "images_per_s": {"us": 58.4}, "images_per_s_by_arithmetic": 70.2}
    assert bench.tables.amount(line, 0.5) == "500.0 ms, 58 of 70 images/s"
    line = {"ours": "us", "target_tokens_per_s": {"us": 1065.2}}
    assert bench.tables.amount(line, 0.5) == "500.0 ms, 1065 target tokens/s"


def test_no_op_is_behind_torch_where_it_is_chosen(bench):
    """An op that is must become torch's own on that kind of processor, as convolutions do by choices.json."""
    ratios = bench.tables.against_torch(bench.tables.OPS)
    assert {kind for by_kind in ratios.values() for kind in by_kind} >= {"AVX2", "AVX-512"}
    assert ("layer_norm", "float32") in ratios
    chosen = {key: by_kind for key, by_kind in ratios.items() if key[1] == "float32"}  # what runs on every processor
    chosen |= {
        key: {k: r for k, r in by_kind.items() if k != "AVX2"} for key, by_kind in ratios.items() if key not in chosen
    }
    behind = {(*key, k): r for key, by_kind in chosen.items() for k, r in by_kind.items() if r <= bench.tables.BEHIND}
    assert behind == {}


def test_an_op_s_forward_and_backward_count_together(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(bench.tables, "RESULTS", tmp_path)
    lines = [
        result(
            bench="op",
            case=case,
            times={"ours": {"median_s": ours}},
            speedup_over={"torch": over},
            time="1",
            ours="ours",
        )
        | {"machine": {"devices": ["cpu: Made-up, 2 threads, AVX2"]}}
        for case, ours, over in [("forward 8 x 8 float32, cpu", 1.0, 2.0), ("backward 8 x 8 float32, cpu", 3.0, 0.5)]
    ]
    (tmp_path / "op.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert bench.tables.against_torch(["op"]) == {("op", "float32"): {"AVX2": pytest.approx(3.5 / 4)}}
