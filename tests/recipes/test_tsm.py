"""TSM's job: groups of parameters, its schedule, the shift's necessity, options, and the form of its batches."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch
from data.clip_files import write_frames

from airank_fast.engine.distributed import World
from airank_fast.engine.state import State
from airank_fast.errors import UserError
from airank_fast.recipes import tsm
from airank_fast.recipes.command_line import parse, resolve, resumed
from airank_fast.recipes.schedule import step_decay
from airank_fast.recipes.tsm import Job

CPU = torch.device("cpu")
ALONE = World(0, 1, 0, 1, CPU)


def job(*options: str, command: str = "tsm") -> Job:
    request = parse([command, *options])
    return Job(resolve(request, "fp32", 1), request.options)


@pytest.fixture
def frames(tmp_path):
    """A list of five clips of five frames, of two classes."""
    for number in range(5):
        write_frames(tmp_path / str(number), 5)
    (tmp_path / "train.txt").write_text("".join(f"{number} 5 {number % 2}\n" for number in range(5)))
    (tmp_path / "val.txt").write_text("0 5 0\n1 5 1\n")
    return tmp_path


def test_groups_of_parameters_have_mit_han_labs_factors():
    """Its get_optim_policies, over the network in full: weights, batch norm, and the last layer's weight and bias."""
    made = job("--data", "somewhere")
    model = made.build()["model"]
    optimizer = made.build_optimizer(model, CPU)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = [
        ([names[id(p)] for p in group["params"]], group.get("lr_factor", 1), group["weight_decay"])
        for group in optimizer.param_groups
    ]
    assert [(len(members), factor, decay) for members, factor, decay in groups] == [
        (53, 1, 1e-4),
        (106, 1, 0.0),
        (1, 5.0, 1e-4),
        (1, 10.0, 0.0),
    ]
    assert groups[2][0] + groups[3][0] == ["new_fc.weight", "new_fc.bias"]
    assert "base_model.layer1.0.conv1.net.weight" in groups[0][0]
    assert optimizer.max_grad_norm == 20.0


def test_the_learning_rate_falls_by_ten_after_20_and_40_epochs():
    rates = [step_decay(s, base=0.02, factor=0.1, warmup_steps=0, decay_steps=(20, 40)) for s in (0, 19, 20, 39, 40)]
    assert rates == pytest.approx([0.02, 0.02, 0.002, 0.002, 0.0002])
    rates = [step_decay(s, base=1.0, factor=0.5, warmup_steps=4, decay_steps=(6,)) for s in range(8)]
    assert rates == [0.25, 0.5, 0.75, 1, 1, 1, 0.5, 0.5]


def counts(made: Job) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits, labels) of the evaluation clips, with random weights."""
    made.open_data(ALONE, CPU, torch.float32)
    torch.manual_seed(0)
    networks = {"model": made.build()["model"].eval()}
    torch.nn.init.normal_(networks["model"].new_fc.weight)
    with torch.inference_mode():
        found = [(made.predict(networks, batch), batch.labels) for batch in made.eval_batches()]
    made.close()
    logits, labels = (torch.cat(part) for part in zip(*found, strict=True))
    return logits, labels


def test_without_the_shift_no_network_is_right_for_more_than_half_of_the_clips(monkeypatch):
    """Clips 2 n and 2 n + 1 have the same frames in opposite order: without the shift they have the same logits."""
    monkeypatch.setattr(tsm, "NUM_HELD_OUT", 48)
    logits, labels = counts(job("--no-shift", "--workers", "1"))
    assert labels.tolist() == 6 * [*range(8)]
    torch.testing.assert_close(logits[::2], logits[1::2], rtol=1e-4, atol=1e-4)
    shifted, _ = counts(job("--workers", "1"))
    assert ((shifted[::2] - shifted[1::2]).abs().amax(1) > 0.01).all()


@pytest.mark.parametrize(("option", "precision"), [("--fused", "fp32"), ("--fused", "bf16"), ("--no-fused", "fp32")])
def test_steps_learn_a_batch(option, precision):
    made = job("--batch-size", "4", option, "--workers", "1")
    made.recipe = type(made.recipe)(**asdict(made.recipe) | {"precision": precision})
    state = State(made, ALONE)
    model = state.networks["model"]
    assert model.base_model.layer1[0].conv1.net.weight.dtype == torch.bfloat16 if precision == "bf16" else torch.float32
    made.open_data(ALONE, CPU, state.dtype)
    batch = next(iter(made.train_batches(0)))
    made.close()
    losses = [state.step([batch], learning_rate=0.02).item() for _ in range(8)]
    assert losses[-1] < losses[0] / 2


def test_without_fused_operators_all_is_torchs_own():
    """Modules, shift and optimizer, which clips alike: the same steps, within the rounding of a few."""
    states = [State(job("--batch-size", "4", option, "--workers", "1"), ALONE) for option in ("--fused", "--no-fused")]
    batch = states[0].job.warm_up_batch(ALONE, CPU, torch.float32)
    losses = [[state.step([batch], learning_rate=0.01).item() for _ in range(3)] for state in states]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert losses[0][2] < losses[0][0]
    plain = states[1]
    assert type(plain.optimizers[0]) is torch.optim.SGD
    assert not any(type(m).__module__.startswith("airank_fast.nn") for m in plain.networks["model"].modules())


def test_a_warm_up_batch_has_the_form_of_a_real_one(frames):
    small = ["--num-classes", "2", "--image-size", "32", "--batch-size", "4", "--eval-batch-size", "2"]
    made = job("--data", str(frames), *small, "--workers", "1")
    data = made.open_data(ALONE, CPU, torch.float32)
    batch = next(iter(made.train_batches(0)))
    evaluated = list(made.eval_batches())
    made.close()
    noise = made.warm_up_batch(ALONE, CPU, torch.float32)
    assert (data["train_samples"], data["eval_samples"], data["classes"], data["reader"]) == (5, 2, 2, "torch")
    assert [each.labels.tolist() for each in evaluated] == [[0, 1]]
    assert noise.num_samples == noise.units == batch.num_samples == 4
    for name, tensor in batch.tensors().items():
        found = noise.tensors()[name]
        assert (found.dtype, found.shape, found.stride()) == (tensor.dtype, tensor.shape, tensor.stride()), name


def test_the_recipe_by_data_and_what_follows_from_the_batch():
    digits, kinetics = job().recipe, job("--data", "x").recipe
    assert (digits.name, digits.target, digits.num_classes) == ("moving_digits", 0.95, 8)
    assert (kinetics.name, kinetics.target, kinetics.learning_rate) == ("kinetics", 0.711, 0.02)
    assert job("--data", "x", "--batch-size", "32").recipe.learning_rate == 0.005
    assert job("--data", "x", "--image-size", "112").recipe.eval_resize == 128
    assert job("--image-size", "64").recipe.eval_resize == 64
    request = parse(["tsm", "--blocks", "1", "2", "1", "1", "--decay-epochs", "1", "3"])
    recipe = resolve(request, "fp32", 1)
    assert (recipe.blocks, recipe.decay_epochs) == ((1, 2, 1, 1), (1, 3))
    saved = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(recipe).items()}
    assert resumed(parse(["tsm"]), saved, {}).recipe == recipe


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num-segments", "21"], "--num-segments: must be at most 20, got 21"),
        (["--num-segments", "0"], "--num-segments: must be at least 1, got 0"),
        (["--image-size", "16"], "--image-size: must be at least 32 pixels, got 16"),
        (["--blocks", "1", "0", "1", "1"], "--blocks: must be at least 1 in every stage"),
        (["--shift-div", "1"], "--shift-div: must be at least 2, got 1"),
        (["--dropout", "1"], r"--dropout: must be in \[0, 1\), got 1"),
        (["--warmup-epochs", "99"], r"--warmup-epochs: must be in \[0, "),
        (["--decay-epochs", "-1"], "--decay-epochs: must be at least 0"),
        (["--max-grad-norm", "0"], "--max-grad-norm: must be above 0, got 0"),
        (["--frame-name", "img.jpg"], r"--frame-name: must be a name such as img_{:05d}.jpg, got img.jpg"),
        (["--frame-name", "{:05q}"], "--frame-name: must be a name such as"),
        (["--momentum", "-1"], "--momentum: must be at least 0, got -1"),
        (["--eval-data", "x"], "--eval-data: must be left out without --data, got x"),
        (["--target", "top1=2"], r"--target: must be a fraction in \(0, 1\], got 2"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(UserError, match=message):
        job(*options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num-classes", "7"], "--num-classes: must be at least 8 for the motions of the embedded clips, got 7"),
        (["--data", "typo"], "--data: must be a list of clips, or a directory .*, got typo, which does not exist"),
        (["--data", "typo", "--eval-data", __file__], "--data: must be a list of clips, .* typo, which does not exist"),
    ],
)
def test_data_that_is_missing_or_does_not_fit(options, message):
    with pytest.raises(UserError, match=message):
        job(*options).open_data(ALONE, CPU, torch.float32)


def test_a_list_goes_with_one_to_evaluate_on(frames):
    with pytest.raises(UserError, match="--eval-data: must be given with a list as --data, got none"):
        job("--data", str(frames / "train.txt")).open_data(ALONE, CPU, torch.float32)
