"""The engines' numbers: folded batch norms, 16 bits, ONNX Runtime in fp32 and int8; and what is refused in one line."""

from __future__ import annotations

import copy

import pytest
import torch
from inference.jobs import made, untrained
from torch import nn
from torch.nn import functional as F

from airank_fast import processor
from airank_fast.errors import UserError
from airank_fast.inference.engine import open_engine
from airank_fast.inference.engine_torch import _Graphs, on_host, powers_of_two
from airank_fast.inference.folding import Call, folded, noise_call
from airank_fast.inference.samples import CPU

FOLDED = {"resnet50": 53, "tsm": 10, "ocr": 3, "deeplabv3plus": 21, "hrnet": 53, "yolov3": 36, "ocr_detection": 14}
"""How many at least: TSM's first layers of few pixels run as products, and HRNet's last one follows a sum."""


def engine_of(task: str, backend: str = "torch", **options):
    job, networks = untrained(task)
    return open_engine(backend, job, networks, **{"device": CPU, "threads": torch.get_num_threads()} | options)


@pytest.mark.parametrize("task", FOLDED)
def test_folded_batch_norms_change_no_more_than_rounding(task):
    job, networks = untrained(task)
    network, call = networks["model"], noise_call(job)
    with torch.inference_mode():
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        expected = call.of(network.eval())
        plain, number = folded(network, call)
        got = call.of(plain)
    assert FOLDED[task] <= number <= sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


class Several(nn.Module):
    """A convolution and a batch norm, in which `between` says what comes between or beside them."""

    def __init__(self, between: str) -> None:
        super().__init__()
        self.conv, self.norm, self.between = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), between
        with torch.no_grad():
            self.norm.running_mean += 1.0
            self.norm.running_var *= 3.0
            self.norm.weight *= -0.5

    def forward(self, x):
        y = self.conv(x)
        if self.between == "relu":
            y = F.relu(y)
        if self.between == "relu in place":
            y = F.relu_(y)
        if self.between == "twice":
            return self.norm(y) + self.norm(y + 1)
        if self.between == "two inputs":
            return self.norm(y) + self.norm.weight.sum() * self.conv(x + 1)
        return self.norm(y) + y if self.between == "sum" else self.norm(y)


@pytest.mark.parametrize("between", ["relu", "relu in place", "twice", "two inputs", "sum", ""])
def test_only_a_convolution_that_a_batch_norm_alone_follows_is_folded(between):
    torch.manual_seed(0)
    network = Several(between).eval()
    call = Call((torch.randn(2, 3, 8, 8),), {})
    expected = call.of(network)
    plain, number = folded(network, call)
    assert number == (between == "")
    torch.testing.assert_close(call.of(plain), expected, rtol=1e-5, atol=1e-5)


def test_a_transposed_convolution_folds_along_its_other_dimension():
    torch.manual_seed(0)
    network = nn.Sequential(nn.ConvTranspose2d(3, 5, 2, 2), nn.BatchNorm2d(5), nn.ConvTranspose2d(5, 2, 3, 2, 1, 1))
    with torch.no_grad():
        network[1].running_mean.uniform_(-1, 1)
        network[1].weight.uniform_(0.5, 2)
    call = Call((torch.randn(2, 3, 4, 4),), {})
    expected = call.of(network.eval())
    plain, number = folded(network, call)
    assert number == 1
    torch.testing.assert_close(call.of(plain), expected, rtol=1e-5, atol=1e-5)


def test_the_facts_are_of_what_runs():
    engine = engine_of("resnet50")
    assert engine.facts["precision"] == "fp32"
    assert engine.facts["folded"] == 53
    assert engine.facts["file_bytes"] == pytest.approx(4 * 23_520_842, rel=0.01)  # ResNet-50 of ten classes
    assert engine.facts["load_s"] > 0
    assert engine.batch_sizes == ()


def test_sixteen_bits_where_the_processor_has_them(monkeypatch):
    monkeypatch.setattr(processor, "instruction_set", lambda: "AVX2")
    with pytest.raises(UserError, match=r"^--precision: must be fp32 on this processor \(.*torch, got bf16$"):
        engine_of("ocr", precision="bf16")
    monkeypatch.setattr(processor, "instruction_set", lambda: "AVX512_BF16")
    _, networks, samples = made("tsm")
    before = copy.deepcopy(networks["model"].state_dict())
    narrow, exact = engine_of("tsm", precision="bf16"), engine_of("tsm")
    assert (narrow.facts["precision"], exact.facts["precision"]) == ("bf16", "fp32")
    assert narrow.facts["file_bytes"] < 0.6 * exact.facts["file_bytes"]
    samples.load(range(3))
    got, expected = (engine.run(samples.batch(range(3))) for engine in (narrow, exact))
    assert got.dtype == torch.float32
    assert 0 < (got - expected).abs().max() < 0.05 * expected.abs().max()
    assert all(torch.equal(tensor, before[name]) for name, tensor in networks["model"].state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int8"}, "--precision: must be fp32, bf16 or fp16 with --backend torch, got int8"),
        ({"precision": "fp16"}, "--precision: must be fp32"),
        ({"precision": "int4"}, "--precision: must be fp32, bf16, fp16, int8, got int4"),
        ({"backend": "tensorrt"}, "--backend: must be torch or onnxruntime, got tensorrt"),
        ({"threads": 0}, "--threads: must be at least 1, got 0"),
        ({"max_batch": 0}, "--max-batch: must be at least 1, got 0"),
        ({"backend": "onnxruntime", "precision": "bf16"}, "--precision: must be fp32 or int8 with --backend onnxr"),
    ],
)
def test_what_an_engine_lacks_is_said_in_one_line(options, message):
    with pytest.raises(UserError) as error:
        engine_of("ocr", **options)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_sizes_that_are_worth_a_graph():
    assert powers_of_two(1) == (1,)
    assert powers_of_two(8) == (1, 2, 4, 8)
    assert powers_of_two(12) == (1, 2, 4, 8, 12)


def test_outputs_on_the_host_keep_their_form():
    made_of = (torch.ones(1, dtype=torch.bfloat16), [torch.ones(2, dtype=torch.int64)], None)
    first, (second,), third = on_host(made_of)
    assert (first.dtype, second.dtype, third) == (torch.float32, torch.int64, None)


def test_graphs_are_captured_by_shape_and_read_their_own_copy_of_the_input():
    """On a stand-in of a CUDA graph, which computes from the same memory at each replay."""
    captured = []

    def capture(function):
        captured.append(function)
        return function

    network = nn.Conv2d(3, 2, 3)
    graphs = _Graphs(network, capture)
    with torch.inference_mode():
        for size, calls in ((1, 4), (2, 3), (1, 2)):
            for _ in range(calls):
                x = torch.randn(size, 3, 5, 5)
                y = graphs(x)
                torch.testing.assert_close(y, network(x))
        kept = graphs(torch.ones(1, 3, 5, 5))
        graphs(torch.zeros(1, 3, 5, 5))
        torch.testing.assert_close(kept, network(torch.ones(1, 3, 5, 5)))
    assert len(captured) == 2


def test_a_task_of_several_networks_is_refused():
    job, networks = untrained("ocr")
    with pytest.raises(UserError, match=r"^infer: must be a task of one network, got ocr, which has 2$"):
        open_engine("torch", job, {**networks, "other": networks["model"]}, device=CPU)
