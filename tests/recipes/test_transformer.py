"""The Transformer's job: its loss by its definition however a step is shared, its options, and what it reads."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip("sacrebleu")
pytest.importorskip("sentencepiece")

from airank_fast.data.text.translation_pairs import Pair
from airank_fast.engine.distributed import World
from airank_fast.engine.state import State
from airank_fast.errors import UserError
from airank_fast.nn import PackedSequences
from airank_fast.optim import FusedAdam
from airank_fast.recipes.command_line import parse, resolve, resumed
from airank_fast.recipes.schedule import inverse_square_root
from airank_fast.recipes.transformer import Job
from airank_fast.tasks.transformer import TASK

CPU = torch.device("cpu")
ALONE = World(0, 1, 0, 1, CPU)
SMALL = [
    "--recipe",
    "interface",
    "--vocab-size",
    "48",
    "--layers",
    "1",
    "--width",
    "16",
    "--inner-width",
    "32",
    "--heads",
    "2",
]
SMALL += ["--dropout", "0", "--batch-size", "16", "--max-length", "40", "--target", "None"]
WORDS = {"open": "abre", "the": "la", "door": "puerta", "close": "cierra", "window": "ventana", "now": "ya"}
ENGLISH = [" ".join(list(WORDS)[(i * j + j) % 6] for j in range(1, 2 + i % 5)) for i in range(96)]
PAIRS = [Pair(text, " ".join(WORDS[word] for word in text.split())) for text in ENGLISH]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """96 pairs to train on, word by word; the first 24 are evaluated."""
    root = tmp_path_factory.mktemp("text")
    for name, pairs in (("train", PAIRS), ("test", PAIRS[:24])):
        for language, lines in zip(("en", "de"), zip(*pairs, strict=True), strict=True):
            (root / f"{name}.{language}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return root


def job(folder, *options: str, world_size: int = 1) -> Job:
    request = parse(["transformer", "--data", str(folder), *SMALL, *options], world_size=world_size)
    return Job(resolve(request, "fp32", world_size), request.options)


def opened(made: Job, ranks: World = ALONE):
    made.open_data(ranks, CPU, torch.float32)
    return next(made.train_batches(0))


@pytest.mark.parametrize("fused", ["--fused", "--no-fused"])
@pytest.mark.parametrize("norm", ["--pre-norm", "--no-pre-norm"])
def test_the_loss_is_the_mean_of_the_smoothed_cross_entropy_over_the_target_tokens(fused, norm, folder):
    """Each sentence alone, in float64; a share of 0.1 of the probability is spread over all subwords."""
    made = job(folder, fused, norm)
    batch = opened(made)
    model = made.build()["model"].train()
    loss = made.loss(model, batch)
    sentences = [
        (batch.source[a:b], batch.previous[c:d], batch.target[c:d])
        for a, b, c, d in zip(
            batch.source_offsets, batch.source_offsets[1:], batch.target_offsets, batch.target_offsets[1:], strict=False
        )
    ]
    total = 0.0
    for source, previous, target in sentences:
        sequences = PackedSequences([len(source)]), PackedSequences([len(previous)])
        log_probs = model(source, sequences[0], previous, sequences[1]).double().log_softmax(1)
        nll = -log_probs.gather(1, target[:, None]).sum()
        total += 0.9 * nll - 0.1 * log_probs.mean(1).sum()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx((total / batch.units).item(), rel=1e-5)
    loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    made.close()


def test_micro_batches_and_ranks_give_the_gradient_of_the_whole_batch(folder):
    """The mean over micro-batches, which the step and DistributedDataParallel take, is that over the step's tokens."""
    whole = job(folder)
    batch = opened(whole)
    model = whole.build()["model"]
    whole.loss(model, batch).backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    for rank in range(2):
        part = job(folder, "--gradient-accumulation-steps", "2", world_size=2)
        part.open_data(World(rank, 2, rank, 1, CPU), CPU, torch.float32)
        batches = part.train_batches(0)
        for _ in range(2):
            (part.loss(model, next(batches)) / 4).backward()
        part.close()
    whole.close()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize(("option", "kind"), [("--fused", FusedAdam), ("--no-fused", torch.optim.Adam)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_steps_learn_and_translations_are_texts(option, kind, precision, folder):
    made = job(folder, option)
    made.recipe = replace(made.recipe, precision=precision)
    state = State(made, ALONE)
    assert type(state.optimizers[0]) is kind
    batch = opened(made)
    losses = [state.step([batch], learning_rate=0.01).item() for _ in range(12)]
    assert losses[-1] < losses[0] / 1.5
    model = state.networks["model"].eval()
    has_masters = precision == "bf16" and kind is FusedAdam
    assert model.encoder.layers[0].fc1.weight.dtype == (torch.bfloat16 if has_masters else torch.float32)
    with torch.inference_mode(), state.autocast():
        held_out = next(made.eval_batches())
        found = made.predict(state.networks, held_out)
    assert len(found) == held_out.num_samples == 24
    assert set(" ".join(found)) <= set(" ".join(pair.target for pair in PAIRS)) | set(" ".join(ENGLISH))
    meter = made.meter()
    meter.update(found, held_out)
    assert set(meter.values(ALONE)) == {metric.name for metric in TASK.metrics}
    examples = made.examples(found, held_out)
    assert [example.truth for example in examples] == [PAIRS[number].target for number in held_out.ids]
    assert all(example.picture.dtype.name == "uint8" and example.picture.min() < 128 for example in examples)
    made.close()


def test_the_run_states_its_data_and_the_signatures_of_bleu(folder, capsys):
    made = job(folder)
    found = made.open_data(ALONE, CPU, torch.float32)
    assert (found["train_samples"], found["eval_samples"], found["classes"]) == (96, 24, 48)
    assert found["signatures"]["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert found["checksum"] == job(folder).open_data(ALONE, CPU, torch.float32)["checksum"]
    assert f"data: {folder}: 96 pairs, 24 held out, 48 subwords" in capsys.readouterr().err
    state = made.state()
    made.load_state({"subwords": state["subwords"] + b"x"})
    with pytest.raises(UserError, match="--resume: must be with the subwords of the run, got others"):
        made.open_data(ALONE, CPU, torch.float32)


def test_a_checkpoint_of_another_vocabulary_is_one_line(folder, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(job(folder, "--vocab-size", "56").build()["model"].state_dict(), path)
    with pytest.raises(UserError, match=r"encoder.embed_tokens.weight must have shape \[48, 16\], got \[56, 16\]"):
        job(folder, "--init-checkpoint", str(path)).build()


def test_a_network_for_marians_weights(folder):
    found = job(folder, "--marian", "--activation", "swish").build()["model"].state_dict()
    assert found["decoder.output_projection.bias"].shape == (48,)
    assert "decoder.output_projection.bias" not in job(folder).build()["model"].state_dict()


def test_the_learning_rate_is_fairseqs_inverse_square_root():
    rates = [inverse_square_root(step, base=6e-4, warmup_steps=4000) for step in (0, 3999, 4000, 15_999)]
    assert rates == pytest.approx([1.5e-7, 6e-4, 6e-4 * (4000 / 4001) ** 0.5, 3e-4])


# -- options ----------------------------------------------------------------------------------------------------------


def recipe_of(line: str, world_size: int = 1):
    request = parse(line.split(), world_size=world_size)
    return resolve(request, "fp32", world_size)


def test_recipes_by_data_and_batches_by_tokens():
    assert recipe_of("transformer").name == "interface"
    big = recipe_of("transformer --data x")
    assert (big.name, big.width, big.batch_size, big.target) == ("big", 1024, 160, 25.0)
    assert recipe_of("transformer --data x --max-tokens 10240", world_size=8).batch_size == 8 * 320
    accumulated = recipe_of("transformer --data x --recipe base --gradient-accumulation-steps 2", world_size=2)
    assert (accumulated.width, accumulated.batch_size) == (512, 640)
    assert recipe_of("transformer --data x --batch-size 7").batch_size == 7


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--vocab-size 2001", "--vocab-size: must be a multiple of 8, got 2001"),
        ("--label-smoothing 1", r"--label-smoothing: must be in \[0, 1\), got 1"),
        ("--beam 0", "--beam: must be at least 1, got 0"),
        ("--length-penalty -1", "--length-penalty: must be at least 0, got -1"),
        ("--skip-corrupt", "--skip-corrupt: must be left out without --data"),
        ("--data x --split component", "--split: must be left out with --data, got component"),
        ("--target bleu=101", "--target: must be above 0 and at most 100, got 101"),
        ("--cuda-graphs", "--cuda-graphs: must be left out: batches differ in their number of tokens"),
    ],
)
def test_settings_out_of_range_are_named(line, message):
    with pytest.raises(UserError, match=message):
        recipe_of(f"transformer {line}")


def test_a_resumed_run_keeps_its_recipe():
    request = parse(["transformer", "--data", "x", "--recipe", "base"])
    saved = resolve(request, "fp32", 1)
    again = resumed(parse(["transformer", "--data", "x", "--resume"]), asdict(saved), {})
    assert again.recipe == saved
