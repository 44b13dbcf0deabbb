"""Mixed precision: the products of autocast, float32 masters, and the choice of --amp."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from airank_fast import processor
from airank_fast.data.images import ImageBatch
from airank_fast.engine import precision, weights
from airank_fast.engine.step import TrainingStep
from airank_fast.errors import UserError
from airank_fast.job import Update
from airank_fast.models.resnet import ResNet
from airank_fast.recipes import resnet50

CPU = torch.device("cpu")


def small_model():
    torch.manual_seed(0)
    return ResNet((1, 1, 1, 1), 10, base_width=8)


def batch(size=8):
    torch.manual_seed(1)
    return torch.randn(size, 3, 32, 32), torch.randint(10, (size,))


def job():
    return resnet50.Job(resnet50.RECIPES["digits"], resnet50.Options())


def step_of(model, optimizer, scaler) -> TrainingStep:
    return TrainingStep(
        [Update(model, optimizer, lambda batch: job().loss(model, batch), "model")], {"model": model}, scaler
    )


def test_loss_and_gradients_are_as_close_to_float64_as_autocasts():
    images, labels = batch()
    losses, gradients = {}, {}
    for name in ("float64", "autocast", "ours"):
        model = small_model().to(memory_format=torch.channels_last)
        if name == "float64":
            loss = F.cross_entropy(model.double()(images.double()), labels, label_smoothing=0.1)
        elif name == "autocast":
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(model(images), labels, label_smoothing=0.1)
        else:
            model = weights.apply(model, "bf16", CPU)
            loss = job().loss(model, ImageBatch(images.bfloat16(), labels))
            assert loss.dtype == torch.float32
        loss.backward()
        losses[name] = loss.item()
        gradients[name] = torch.cat([p.grad.flatten().double() for p in model.parameters()])

    def error(of, name):
        return (of[name] - of["float64"]).norm() if of is gradients else abs(of[name] - of["float64"])

    assert error(gradients, "autocast") > 0
    assert error(gradients, "ours") <= 2 * error(gradients, "autocast")
    assert error(losses, "ours") <= 2 * error(losses, "autocast") + 1e-4


def test_weights_are_16_bit_and_batch_norm_float32():
    model = weights.apply(small_model(), "bf16", CPU)
    dtypes = {name: p.dtype for name, p in model.named_parameters()}
    assert {d for n, d in dtypes.items() if "bn" in n or "downsample.1" in n} == {torch.float32}
    assert {d for n, d in dtypes.items() if "conv" in n or "fc" in n or "downsample.0" in n} == {torch.bfloat16}


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_what_is_saved_is_the_float32_master_and_loads_back(name):
    initial = {key: value.clone() for key, value in small_model().state_dict().items()}
    model = weights.apply(small_model(), name, CPU)
    optimizer = job().build_optimizer(model, CPU)
    images, labels = batch()
    made = ImageBatch(images.to(precision.DTYPES[name]), labels)
    step = step_of(model, optimizer, torch.amp.GradScaler("cpu", enabled=name == "fp16"))
    step([made], learning_rate=0.1)
    weights.load_full_state(model, [optimizer], initial)
    saved = weights.full_state(model, [optimizer])
    assert [key for key in initial if not torch.equal(saved[key], initial[key])] == []
    for key, parameter in model.named_parameters():
        assert torch.equal(parameter, initial[key].to(parameter.dtype))


def test_accumulated_micro_batches_are_the_mean_gradient():
    images, labels = batch(8)
    gradients = []
    for parts in (1, 2):
        model = weights.apply(small_model(), "fp32", CPU).eval()  # batch norm of the batch would differ
        optimizer = job().build_optimizer(model, CPU)
        optimizer.zero_grad = lambda set_to_none: None
        batches = [ImageBatch(i, la) for i, la in zip(images.chunk(parts), labels.chunk(parts), strict=True)]
        step_of(model, optimizer, torch.amp.GradScaler("cpu", enabled=False))(batches, 0.0)
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_an_overflow_in_fp16_skips_the_step_and_halves_the_scale():
    model = weights.apply(small_model(), "fp16", CPU)
    optimizer = job().build_optimizer(model, CPU)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    images, labels = batch()
    before = [p.clone() for p in model.parameters()]
    loss = step_of(model, optimizer, scaler)([ImageBatch(images.half(), labels)], 0.1)
    assert torch.isfinite(loss)
    assert scaler.get_scale() == 2.0**39
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_tf32_needs_cuda():
    with pytest.raises(UserError, match="CUDA device, got cpu"):
        precision.check("tf32", CPU)


def stand_in(monkeypatch, instructions: str, *, kernels: bool = True, speed: float | None = None) -> None:
    """Simulate a processor: its instructions, whether oneDNN has kernels of 16 bits for it, how fast they are."""

    def measured(dtype):
        assert speed is not None, "measured where the instructions decide"
        return speed

    monkeypatch.setattr(processor, "instruction_set", lambda: instructions)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: kernels)
    monkeypatch.setattr(precision, "relative_speed", measured)


@pytest.mark.parametrize(
    ("instructions", "kernels", "speed", "expected"),
    [
        ("AVX512_BF16", True, None, "bf16"),
        ("AMX", True, None, "bf16"),
        ("AVX512", True, 1.7, "bf16"),
        ("AVX512", True, 1.1, "fp32"),  # within the error on a busy machine
        ("AVX512", True, 0.4, "fp32"),
        ("AVX2", True, None, "fp32"),
        ("DEFAULT", False, None, "fp32"),
        ("SVE256", True, 2.5, "bf16"),
    ],
)
def test_amp_on_a_cpu_is_16_bits_only_where_that_is_faster(monkeypatch, instructions, kernels, speed, expected):
    stand_in(monkeypatch, instructions, kernels=kernels, speed=speed)
    choice = precision.choose(True, None, CPU)
    assert (choice.precision, choice.warning) == (expected, None)
    assert choice.reason.startswith("--amp: ")
    assert instructions in choice.reason
    assert speed is None or f"{speed} times" in choice.reason


def test_a_requested_precision_that_is_slower_than_fp32_warns_with_the_factor(monkeypatch):
    stand_in(monkeypatch, "AVX2", kernels=False, speed=1 / 26)
    choice = precision.choose(False, "bf16", CPU)
    assert (choice.precision, choice.reason) == ("bf16", "--precision bf16")
    assert "26.0 times as slow as fp32 on this processor (AVX2)" in choice.warning
    assert "26.0 times" in precision.choose(False, "fp16", CPU).warning
    stand_in(monkeypatch, "AVX512", speed=1.3)
    assert precision.choose(False, "bf16", CPU).warning is None


def test_what_needs_no_measurement_is_not_measured(monkeypatch):
    stand_in(monkeypatch, "AVX512_BF16")
    assert precision.choose(False, "bf16", CPU) == precision.Choice("bf16", "--precision bf16")
    stand_in(monkeypatch, "AVX2")
    assert precision.choose(False, "fp32", CPU) == precision.Choice("fp32", "--precision fp32")
    assert precision.choose(False, None, CPU) == precision.Choice("fp32", "the default")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    assert precision.choose(True, None, torch.device("cuda")).precision == "fp16"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert precision.choose(True, None, torch.device("cuda")).precision == "bf16"


def test_the_measurement_is_of_the_fastest_rounds_and_leaves_random_numbers_alone(monkeypatch):
    # A clock that advances by the cost of a call: float32 products 1 s, bfloat16 4 s, ten times that at first.
    costs = {torch.float32: 1.0, torch.bfloat16: 4.0}
    calls = dict.fromkeys(costs, 0)

    def seconds(of):
        calls[of] += 1
        return costs[of] * (10 if calls[of] <= 2 else 1)

    monkeypatch.setattr(precision, "_typical_operations", lambda of: (of, of))
    monkeypatch.setattr(precision, "_seconds", seconds)
    assert precision.relative_speed(torch.bfloat16) == 0.25
    monkeypatch.undo()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert 0.001 < precision.relative_speed(torch.float64) < 10
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}, ["AVX2", "AVX2", "fp32"]),
        ({"ATEN_CPU_CAPABILITY": "default"}, ["DEFAULT", "baseline", None]),
    ],
)
def test_the_variables_that_make_an_older_processor_are_respected(variables, expected):
    """torch's name of the instructions, the name of those of our kernels, what --amp means."""
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        pytest.skip("the processor has no AVX2")
    done = subprocess.run(
        [sys.executable, "-m", "airank_fast.info", "--json"],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    facts = json.loads(done.stdout)
    name, ours, amp = expected
    assert facts["devices"][0].endswith(f" {name}")
    assert facts["extension"].get("cpu_instructions", ours) == ours
    assert amp is None or facts["amp"]["cpu"]["precision"] == amp


def test_a_network_that_was_trained_here_exports():
    """torch.export reads one TF32 switch for convolutions and recurrent networks, and refuses where they differ."""
    network = weights.place(nn.Linear(3, 2), "fp32", torch.device("cpu"))
    torch.export.export(network, (torch.randn(4, 3),))
