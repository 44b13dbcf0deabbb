"""OCR's job: CTC's loss by its definition and its traps, options, optimizers, and the form of its batches."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from itertools import groupby, product

import pytest
import torch
from data.line_files import write_list

from airank_fast.data.images.line_reader import LineBatch, Targets
from airank_fast.engine.distributed import World
from airank_fast.engine.state import State
from airank_fast.errors import UserError
from airank_fast.optim import FusedAdam
from airank_fast.recipes.command_line import parse, resolve, resumed
from airank_fast.recipes.ocr import Job

CPU = torch.device("cpu")
ALONE = World(0, 1, 0, 1, CPU)
STEPS = 4


def job(*options: str) -> Job:
    """A network of 4 steps over the characters a and b."""
    small = ["--alphabet", "ab", "--image-width", "12", "--width", "2", "--hidden", "4", "--batch-size", "4"]
    request = parse(["ocr", *small, *options])
    return Job(resolve(request, "fp32", 1), request.options)


def batch_of(texts: list[list[int]], width: int = 12) -> LineBatch:
    """Noise with these texts."""
    classes = torch.tensor([each for text in texts for each in text], dtype=torch.int32)
    images = torch.randn(len(texts), 1, 32, width, generator=torch.Generator().manual_seed(0))
    targets = Targets(classes, tuple(map(len, texts)))
    return LineBatch(images, targets, torch.arange(len(texts)))


def by_definition(logits: torch.Tensor, texts: list[list[int]]) -> float:
    """The mean over lines of -log(sum of the probabilities of all paths that give the text) / length of the text."""
    losses = []
    for line, text in enumerate(texts):
        log_probs = logits[:, line].double().log_softmax(1).tolist()
        paths = [
            path
            for path in product(range(3), repeat=STEPS)
            if [each for each, _ in groupby(path) if each] == text  # 0 is the blank
        ]
        total = sum(math.exp(sum(log_probs[step][each] for step, each in enumerate(path))) for path in paths)
        losses.append(-math.log(total) / len(text) if paths else 0.0)
    return sum(losses) / len(losses)


POSSIBLE = [[1], [2, 1], [1, 1], [1, 2, 1, 2]]
TOO_LONG = [[1, 1, 1], [1, 2, 1, 2, 1]]  # three characters and two blanks, and five characters


def test_the_loss_is_ctcs_by_its_definition():
    made, logits = job(), torch.randn(STEPS, 4, 3, generator=torch.Generator().manual_seed(1))
    loss = made.loss(lambda images: logits, batch_of(POSSIBLE))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(by_definition(logits, POSSIBLE), rel=1e-5)
    assert made.loss(lambda images: logits.bfloat16(), batch_of(POSSIBLE)).item() == pytest.approx(
        loss.item(), rel=0.02
    )


def test_a_text_that_is_too_long_has_no_loss_and_no_gradient_and_still_counts():
    texts = POSSIBLE[:2] + TOO_LONG
    logits = torch.randn(STEPS, 4, 3, generator=torch.Generator().manual_seed(1), requires_grad=True)
    loss = job().loss(lambda images: logits, batch_of(texts))
    assert loss.item() == pytest.approx(by_definition(logits, texts), rel=1e-5)
    loss.backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[:, 2:] == 0).all()
    assert (logits.grad[:, :2] != 0).any()
    made = job()
    model = made.build()["model"]
    meter, batch = made.meter(), batch_of(texts)
    meter.update(made.predict({"model": model.eval()}, batch), batch)
    meter.values(ALONE)
    assert meter.counts["counted"] == 4


@pytest.mark.gpu
def test_the_loss_on_a_gpu_with_texts_on_the_host():
    """cuDNN's CTC, which takes int32 texts on the host alone, and its gradient."""
    logits = torch.randn(STEPS, 4, 3, generator=torch.Generator().manual_seed(1))
    found = []
    for device in ("cpu", "cuda"):
        on_device = logits.to(device, copy=True).requires_grad_()
        loss = job().loss(lambda images, logits=on_device: logits, batch_of(POSSIBLE[:2] + TOO_LONG))
        loss.backward()
        found.append((loss.detach().cpu(), on_device.grad.cpu()))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("option", "kind"), [("--fused", FusedAdam), ("--no-fused", torch.optim.Adam)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_steps_by_the_projects_adam_and_by_torchs(option, kind, precision):
    """In mixed precision the former keeps masters of 16-bit weights; the LSTMs' stay float32."""
    made = job(option)
    made.recipe = replace(made.recipe, precision=precision)
    state = State(made, ALONE)
    model = state.networks["model"]
    assert type(state.optimizers[0]) is kind
    has_masters = precision == "bf16" and kind is FusedAdam
    assert model.cnn.conv1.weight.dtype == (torch.bfloat16 if has_masters else torch.float32)
    assert model.rnn[0].rnn.weight_ih_l0.dtype == torch.float32
    batch = batch_of(POSSIBLE)
    batch.images = batch.images.to(state.dtype)
    losses = [state.step([batch], learning_rate=0.02).item() for _ in range(30)]
    assert losses[-1] < losses[0] / 2
    model.eval()
    with torch.inference_mode(), state.autocast():
        assert made.predict(state.networks, batch).shape == (4, STEPS)


def test_a_warm_up_batch_has_the_form_of_a_real_one(tmp_path):
    path = write_list(tmp_path, ["ab", "b", "aa", "ba", "b"])
    made = job("--data", str(path), "--eval-data", str(path), "--workers", "1")
    data = made.open_data(ALONE, CPU, torch.float32)
    batch = next(iter(made.train_batches(0)))
    made.close()
    noise = made.warm_up_batch(ALONE, CPU, torch.float32)
    assert (data["train_samples"], data["eval_samples"], data["classes"]) == (5, 5, 3)
    assert noise.num_samples == batch.num_samples == 4
    for name, tensor in batch.tensors().items():
        found = noise.tensors()[name]
        assert (found.dtype, found.shape, found.stride()) == (tensor.dtype, tensor.shape, tensor.stride()), name
    assert noise.targets.classes.dtype == batch.targets.classes.dtype
    assert torch.isfinite(made.loss(made.build()["model"], noise))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_initial_weights_under_crnn_pytorchs_names(prefix, tmp_path):
    """Of a torch before 0.4.1, without counts of batches; the log has the file's checksum."""
    state = {name: tensor + 1 for name, tensor in job().build()["model"].state_dict().items()}
    old = {prefix + name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "crnn.pth")
    path = write_list(tmp_path, ["ab", "b", "aa", "ba", "b"])
    made = job("--init-checkpoint", str(tmp_path / "crnn.pth"), "--data", str(path), "--eval-data", str(path))
    found = made.build()["model"].state_dict()
    assert all(torch.equal(found[name.removeprefix(prefix)], tensor) for name, tensor in old.items())
    assert len(made.open_data(ALONE, CPU, torch.float32)["init_checkpoint"]["sha256"]) == 64
    with pytest.raises(UserError, match=r"must have shape \[4, 8\], got \[3, 8\]"):
        job("--init-checkpoint", str(tmp_path / "crnn.pth"), "--alphabet", "abc").build()


def test_lines_that_are_too_long_are_reported(tmp_path, capsys):
    path = write_list(tmp_path, ["ab", "aaa", "ababab"])
    job("--data", str(path), "--eval-data", str(path), "--batch-size", "1").open_data(ALONE, CPU, torch.float32)
    printed = capsys.readouterr().err.splitlines()
    for side, line in zip(("training", "evaluation"), printed, strict=True):
        assert line.startswith(f"data: 2 of 3 {side} lines need more than the network's 4 steps and are wrong")


def test_the_recipe_by_data_and_the_alphabet_of_a_file(tmp_path):
    assert parse(["ocr"]).recipe.name == "digit_lines"
    lines = parse(["ocr", "--data", "x"]).recipe
    assert (lines.name, lines.target, len(lines.alphabet)) == ("lines", None, 36)
    path = tmp_path / "characters.txt"
    path.write_text("x\ny\nZ\n")
    request = parse(["ocr", "--alphabet-file", str(path)])
    recipe = resolve(request, "fp32", 1)
    assert recipe.alphabet == "xyZ"
    assert resumed(request, asdict(recipe), {}).recipe == recipe
    path.write_text("xyz")
    with pytest.raises(UserError, match="--resume: must be without options that differ from the run's, alphabet_file"):
        resumed(parse(["ocr", "--alphabet-file", str(path)]), asdict(recipe), {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--alphabet", "aba"], "--alphabet: must be of different characters, got 'a' as characters 1 and 3"),
        (["--alphabet-file", "x"], "--alphabet-file: must be left out with --alphabet, got x"),
        (["--image-width", "3"], "--image-width: must be at least 4 pixels, got 3"),
        (["--hidden", "0"], "--hidden: must be at least 1, got 0"),
        (["--eval-data", "x"], "--eval-data: must be left out without --data, got x"),
        (["--cuda-graphs"], "--cuda-graphs: must be left out"),
        (["--warmup-epochs", "99"], r"--warmup-epochs: must be in \[0, "),
        (["--decay-power", "-1"], "--decay-power: must be at least 0, got -1"),
        (["--target", "exact_match=2"], r"--target: must be a fraction in \(0, 1\], got 2"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(UserError, match=message):
        job(*options)
