"""The state of a run: warm-up leaves no trace, arithmetic follows the optimizer, no step waits for the device."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from airank_fast.engine import state as state_file
from airank_fast.engine.clock import Clock
from airank_fast.engine.distributed import World
from airank_fast.engine.precision import DTYPES
from airank_fast.engine.state import State
from airank_fast.engine.weights import full_state
from airank_fast.models.resnet import ResNet
from airank_fast.recipes import bert, resnet50


class SmallJob(resnet50.Job):
    """The digits recipe on a network of a few thousand weights."""

    def build(self):
        return {"model": ResNet((1, 1, 1, 1), self.recipe.num_classes, base_width=8)}


def prepared(precision: str, device="cpu") -> State:
    recipe = replace(resnet50.RECIPES["digits"], precision=precision, batch_size=8)
    return State(SmallJob(recipe, resnet50.Options()), World(0, 1, 0, 1, torch.device(device)))


def batch_of(state: State):
    generator = torch.Generator().manual_seed(5)
    made = state.job.warm_up_batch(state.world, state.device, state.dtype)
    made.images.copy_(torch.randn(made.images.shape, generator=generator))
    made.labels.copy_(torch.randint(10, made.labels.shape, generator=generator))
    return made


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_warm_up_leaves_no_trace(monkeypatch, precision):
    torch.manual_seed(resnet50.RECIPES["digits"].seed)
    initial = SmallJob(resnet50.RECIPES["digits"], resnet50.Options()).build()["model"].state_dict()
    states, random_states = [], []
    for num_steps in (1, 4):
        monkeypatch.setattr(state_file, "NUM_WARMUP_STEPS", num_steps)
        states.append(prepared(precision))
        random_states.append(torch.get_rng_state())
    assert torch.equal(*random_states)
    one, four = states
    assert one.scaler.state_dict() == four.scaler.state_dict() == one.fresh_scaler().state_dict()
    for name, tensor in full_state(four.networks["model"], four.optimizers).items():
        assert torch.equal(tensor, initial[name]), name
    for _ in range(3):  # momentum changes the weights in the next steps
        losses = [state.step([batch_of(state)], learning_rate=0.05) for state in states]
        assert torch.equal(*losses)
    for name, tensor in one.networks["model"].state_dict().items():
        assert torch.equal(four.networks["model"].state_dict()[name], tensor), name


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_no_step_waits_for_the_device(precision):
    state = prepared(precision, "cuda:0")
    assert state.dtype == DTYPES[precision]
    clock = Clock(lambda kind, **fields: None, state.device, batch_size=8)
    batch = batch_of(state)
    batches = iter([batch] * 32)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(1, 33):
            parts = clock.next_batches(batches, 1)
            clock.start()
            losses = state.step(parts, learning_rate=0.01)
            clock.stop(step, losses, 0.01, parts)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    clock.finish_block()
    assert len(clock.losses) == 32


def test_warm_up_leaves_no_trace_on_lamb_which_counts_its_steps(monkeypatch):
    recipe = replace(bert.RECIPES["pydoc"], size="tiny", batch_size=4, sequence_length=16)
    losses = []
    for num_steps in (1, 4):
        monkeypatch.setattr(state_file, "NUM_WARMUP_STEPS", num_steps)
        job = bert.Job(recipe, bert.Options())
        state = State(job, World(0, 1, 0, 1, torch.device("cpu")))
        torch.manual_seed(3)
        batch = job.warm_up_batch(state.world, state.device, state.dtype)
        losses.append([state.step([batch], learning_rate=0.01).item() for _ in range(3)])
    assert losses[0] == losses[1]
    assert losses[0][2] < losses[0][0]


class PlainJob(SmallJob):
    """With an optimizer that keeps no masters."""

    def build_optimizer(self, model, device):
        return torch.optim.AdamW(model.parameters(), lr=torch.zeros((), device=device))


class PlainBert(bert.Job):
    """The same for BERT, whose modules are fused ones."""

    build_optimizer = PlainJob.build_optimizer


def plain_job(kind: str, precision: str, fused: bool):
    if kind == "resnet":
        recipe = replace(resnet50.RECIPES["digits"], precision=precision, batch_size=8, fused=fused)
        return PlainJob(recipe, resnet50.Options())
    recipe = replace(bert.RECIPES["pydoc"], size="tiny", batch_size=4, sequence_length=16, precision=precision)
    return PlainBert(replace(recipe, fused=fused), bert.Options())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
@pytest.mark.parametrize("kind", ["resnet", "bert"])
def test_without_masters_weights_stay_float32_under_autocast(kind, fused, precision):
    losses, seen = {}, set()
    for name in ("fp32", precision):
        state = State(plain_job(kind, name, fused), World(0, 1, 0, 1, torch.device("cpu")))
        torch.manual_seed(0)
        batch = state.job.warm_up_batch(state.world, state.device, state.dtype)
        layer = next(m for m in state.networks["model"].modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear))
        layer.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
        losses[name] = [state.step([batch], learning_rate=1e-3).item() for _ in range(12)]
        everything = [*state.networks["model"].parameters()]
        everything += [value for values in state.optimizers[0].state.values() for value in values.values()]
        assert {tensor.dtype for tensor in everything} == {torch.float32}
        with state.autocast(), torch.inference_mode():
            assert torch.isfinite(state.job.predict(state.networks, batch)).all()
    assert seen == {torch.float32, DTYPES[precision]}  # the products were in 16 bits
    assert losses[precision][0] == pytest.approx(losses["fp32"][0], rel=0.02)
    assert losses[precision][0] != losses["fp32"][0]
    assert losses[precision][-1] < 0.9 * losses[precision][0]  # fp16 leaves out steps until its scale fits


def test_a_checkpoint_of_the_time_of_one_network_is_understood(tmp_path):
    """It had one optimizer's state, and rank 0's random state."""
    state = prepared("bf16")
    state.step([batch_of(state)], learning_rate=0.05)
    state.progress["step"] = 1
    path = state.save(tmp_path)
    saved = torch.load(path / "state.pt", weights_only=True)
    saved["optimizer"] = saved.pop("optimizers")["model"]
    saved["rng"] = saved.pop("ranks")[0]["rng"]
    torch.save(saved, path / "state.pt")
    resumed = State(state.job, state.world, found=path)
    assert resumed.progress == {"step": 1, "evaluated_step": 0, "reached": False}
    assert torch.equal(saved["rng"], torch.get_rng_state())
    losses = [made.step([batch_of(made)], learning_rate=0.05) for made in (state, resumed)]
    assert torch.equal(*losses)
    for name, tensor in state.networks["model"].state_dict().items():
        assert torch.equal(resumed.networks["model"].state_dict()[name], tensor), name
