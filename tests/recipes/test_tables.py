"""Wide&Deep and DeepFM to their targets on the embedded table, and what the other commands make of such a run."""

from __future__ import annotations

import sys
from dataclasses import replace
from unittest import mock

import pytest
import torch
from commands import inprocess

from airank_fast import report, score, verify
from airank_fast import train as command
from airank_fast.data.tables import adult, flights
from airank_fast.engine.distributed import World
from airank_fast.engine.graph import CapturedStep
from airank_fast.engine.state import State
from airank_fast.errors import UserError
from airank_fast.optim import FusedAdam, FusedFTRL, SparseAdam
from airank_fast.recipes import command_line, deepfm, wide_deep
from airank_fast.record.events import read_events
from airank_fast.record.metrics import summarize

ALONE = World(0, 1, 0, 1, torch.device("cpu"))
MODULES = {"wide_deep": wide_deep, "deepfm": deepfm}


def job(name: str, *options: str):
    request = command_line.parse([name, *options])
    return MODULES[name].Job(command_line.resolve(request, "fp32", 1), request.options)


@pytest.mark.parametrize("name", MODULES)
def test_the_default_run_reaches_its_target_and_the_other_commands_read_it(name, tmp_path, capsys):
    output = tmp_path / "out"
    with mock.patch.object(sys, "argv", ["train", name, "--output", str(output)]):
        status = command.main()
    printed = capsys.readouterr()
    assert status == 0, printed.err
    assert printed.err.count("UCI Adult (CC BY 4.0)") == 1
    summary = summarize(read_events(output / "events.jsonl"))
    target = MODULES[name].RECIPES["adult"].target
    assert (summary["status"], summary["reason"], summary["target"]) == ("success", "target", target)
    assert summary["best_accuracy"] >= target
    assert f"eval_accuracy:{summary['best_accuracy']}," in (output / "airank.log").read_text()

    verified = inprocess.run_without_torch(verify, output)
    assert (verified.returncode, "0 errors" in verified.stdout + verified.stderr) == (0, True), verified.stdout
    scored = inprocess.run(score, output)
    assert "task coverage: 0/14" in scored.stdout  # which it counts on Criteo alone
    assert inprocess.run(report, output, "--output", tmp_path / "report").returncode == 0


@pytest.mark.parametrize("name", MODULES)
def test_warm_up_batches_have_the_shapes_of_training_batches(name):
    made = job(name, "--batch-size", "64")
    made.open_data(ALONE, ALONE.device, torch.float32)
    batches = next(made.train_batches(0)), made.warm_up_batch(ALONE, ALONE.device, torch.float32)
    of_training, of_warm_up = (
        {name: (tensor.shape, tensor.dtype) for name, tensor in batch.tensors().items()} for batch in batches
    )
    assert of_training == of_warm_up
    sizes = torch.tensor(list(made.slots.values()))
    assert all(((batch.ids >= 0) & (batch.ids < sizes)).all() for batch in batches)
    assert made.table().slots == made.slots


def test_deepfm_learns_the_table_of_flights():
    """An eighth of an epoch is far from the target, and far from chance."""
    made = job("deepfm", "--table", "flights")
    assert (made.recipe.target, made.slots, made.num_numbers) == (0.77, flights.SLOTS, len(flights.NUMBERS))
    state = stepped(made, 40)
    meter = made.meter()
    with torch.no_grad():
        for batch in made.eval_batches():
            meter.update(made.predict(state.networks, batch), batch)
    assert 0.6 < meter.values(ALONE)["auc"] < 0.77


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--table", "flights", "--sizes", "airank"], "--table: must be left out with --data or --sizes, got flights"),
        (["--table", "adult", "--data", "x"], "--table: must be left out with --data or --sizes, got adult"),
    ],
)
def test_a_table_is_not_chosen_beside_another_data_set(options, message):
    with pytest.raises(UserError, match=message):
        job("deepfm", *options)


@pytest.mark.parametrize(("buckets", "number"), [("0", 0), ("50", len(adult.CROSSES))])
def test_the_wide_part_has_a_weight_for_each_bucket_of_a_cross(buckets, number):
    made = job("wide_deep", "--cross-buckets", buckets)
    weights = made.build()["model"].linear_model.embedding_dict.tables()
    assert list(weights)[: len(adult.SLOTS)] == list(adult.SLOTS)
    assert [tuple(weights[name].shape) for name in list(weights)[len(adult.SLOTS) :]] == [(50, 1)] * number


def stepped(made, num_steps=3, capture=None) -> State:
    """The state after some steps, each over a batch of its own."""
    state = State(made, ALONE)
    step = CapturedStep(state.step, capture) if capture else state.step
    made.open_data(ALONE, ALONE.device, state.dtype)
    for number, batch in zip(range(num_steps), made.train_batches(0), strict=False):
        step([batch], learning_rate=made.learning_rate(number, None))
    return state


SMALL = ("--batch-size", "64", "--hidden", "16-8")
FTRL = ("--wide-optimizer", "ftrl", "--ftrl-l1", "0.001")
JOBS = {"wide_deep": ("wide_deep",), "wide_deep, ftrl": ("wide_deep", *FTRL), "deepfm": ("deepfm",)}
every_job = pytest.mark.parametrize("options", JOBS.values(), ids=JOBS.keys())


@pytest.mark.parametrize("name", MODULES)
def test_without_fused_operators_steps_are_the_same_by_torchs_adam(name):
    fused, plain = (stepped(job(name, *SMALL, *options)) for options in ((), ("--no-fused",)))
    assert type(fused.optimizers[0]) is FusedAdam
    assert type(plain.optimizers[0]) is torch.optim.Adam
    networks = [state.networks["model"] for state in (fused, plain)]
    assert not any(type(module).__module__.startswith("airank_fast.nn.") for module in networks[1].modules())
    for parameter, torchs in zip(*(network.parameters() for network in networks), strict=True):
        torch.testing.assert_close(parameter, torchs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODULES)
def test_with_sparse_tables_adam_is_lazy(name):
    """Its first step is Adam's; from then on a row that a batch lacks stays as it is."""
    tables, exact = [], ("--epsilon", "1e-15")  # which they scale differently
    for number in (1, 2):
        lazy, dense = (stepped(job(name, *SMALL, *exact, *options), number) for options in (["--sparse"], []))
        assert [type(each) for each in lazy.optimizers[0].optimizers] == [SparseAdam, FusedAdam]
        tables.append([state.networks["model"].embedding_dict.weight.detach().clone() for state in (lazy, dense)])
    torch.testing.assert_close(*tables[0])
    changed = [(after != before).any(1) for after, before in zip(*reversed(tables), strict=True)]
    assert 0 < changed[0].sum() < changed[1].sum()
    assert not (changed[0] & ~changed[1]).any()


def test_without_fused_operators_tables_are_not_sparse():
    state = stepped(job("deepfm", *SMALL, "--sparse", "--no-fused"))
    assert type(state.optimizers[0]) is torch.optim.Adam


@every_job
def test_a_captured_step_is_the_step(options):
    """With a substitute for the device's capture, which runs the step again on the tensors that it was given."""
    captured = []
    plain, graphed = (stepped(job(*options, *SMALL), 4, each) for each in (None, lambda f: captured.append(f) or f))
    assert len(captured) == 1
    for parameter, replayed in zip(*(s.networks["model"].parameters() for s in (plain, graphed)), strict=True):
        assert torch.equal(parameter, replayed)


@every_job
def test_mixed_precision_has_16_bit_layers_behind_float32_tables(options):
    made = job(*options, *SMALL)
    made.recipe = replace(made.recipe, precision="bf16")
    state = stepped(made)
    model = state.networks["model"]
    assert {linear.weight.dtype for linear in model.dnn.linears} == {torch.bfloat16}
    assert model.embedding_dict.weight.dtype == model.linear_model.embedding_dict.weight.dtype == torch.float32
    exact = stepped(job(*options, *SMALL)).networks["model"]
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    got, expected = (m.linear_model.embedding_dict.weight for m in (model, exact))
    torch.testing.assert_close(got, expected, rtol=0.1, atol=1e-3)


def test_the_wide_part_is_ftrls_and_the_rest_adams():
    made = job("wide_deep", *SMALL, *FTRL, "--learning-rate", "0.002", "--ftrl-learning-rate", "0.05", "--ftrl-l2", "3")
    state = stepped(made)
    model = state.networks["model"]
    ftrl, adam = state.optimizers[0].optimizers
    assert (type(ftrl), type(adam)) == (FusedFTRL, FusedAdam)
    assert {id(p) for p in ftrl.param_groups[0]["params"]} == {id(p) for p in model.linear_model.parameters()}
    assert len(list(model.parameters())) == sum(len(o.param_groups[0]["params"]) for o in (ftrl, adam))
    assert [o.param_groups[0]["lr"].item() for o in (ftrl, adam)] == pytest.approx([0.05, 0.002])
    assert (ftrl.param_groups[0]["l1"], ftrl.param_groups[0]["l2"]) == (0.001, 3.0)


@pytest.mark.parametrize("options", [FTRL, ("--sparse",), ("--sparse", *FTRL)], ids=["ftrl", "sparse", "all three"])
def test_every_optimizer_is_in_a_checkpoint(options, tmp_path):
    made = job("wide_deep", *SMALL, *options)
    state = stepped(made)
    again = State(made, ALONE, found=state.save(tmp_path))
    batches = list(zip(range(2), made.train_batches(3), strict=False))
    for each in (state, again):
        for _, batch in batches:
            each.step([batch], learning_rate=0.001)
    for parameter, resumed in zip(*(s.networks["model"].parameters() for s in (state, again)), strict=True):
        assert torch.equal(parameter, resumed)


@pytest.mark.parametrize("name", MODULES)
def test_adams_settings_are_the_recipes(name):
    made = job(name, "--learning-rate", "0.01", "--beta1", "0.8", "--beta2", "0.9", "--epsilon", "1e-6")
    networks = made.build()
    (update,) = made.updates(networks, ALONE.device)
    (group,) = update.optimizer.param_groups
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.8, 0.9), 1e-6, 0)
    assert {id(p) for p in group["params"]} == {id(p) for p in networks["model"].parameters()}
    assert made.learning_rate(0, None) == made.learning_rate(999, None) == 0.01
    assert made.reported(None) == {
        "opt_name": "adam",
        "opt_base_learning_rate": 0.01,
        "opt_adam_beta_1": 0.8,
        "opt_adam_beta_2": 0.9,
        "opt_adam_epsilon": 1e-6,
    }
