"""Word2Vec's job: its loss and step by their definition, the learning rate, the options, what it writes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from airank_fast.data.text import word_vectors
from airank_fast.engine.distributed import World
from airank_fast.errors import UserError
from airank_fast.ops.skip_gram import negative_table, skip_gram
from airank_fast.recipes.command_line import parse, resolve
from airank_fast.recipes.word2vec import LEAST_RATE, Job

ALONE = World(0, 1, 0, 1, torch.device("cpu"))
SMALL = [
    "--dim",
    "8",
    "--batch-size",
    "16",
    "--vocab-size",
    "40",
    "--min-count",
    "1",
    "--epochs",
    "2",
    "--threads",
    "1",
]
QUESTIONS = ": family\nw1 w2 w3 w4\nw5 w6 w7 W8\nw1 w2 w3 nowhere\n: others\nw9 w8 w7 w6\n"


def job(*options: str, world_size: int = 1) -> Job:
    request = parse(["word2vec", *SMALL, *options], world_size=world_size)
    return Job(resolve(request, "fp32", world_size), request.options)


@pytest.fixture
def files(tmp_path):
    """100 sentences of 20 words, and questions about them."""
    rng = np.random.default_rng(0)
    lines = [" ".join(f"w{n}" for n in rng.integers(20, size=rng.integers(2, 9))) for _ in range(100)]
    (tmp_path / "text").write_text("\n".join(lines))
    (tmp_path / "questions").write_text(QUESTIONS)
    return ["--data", str(tmp_path / "text"), "--questions", str(tmp_path / "questions")]


def opened(made: Job, ranks=ALONE):
    """The model and the update of a job whose data is open."""
    torch.manual_seed(0)
    networks = made.build()
    with torch.no_grad():
        networks["model"].syn1neg.weight.normal_()
    (update,) = made.updates(networks, torch.device("cpu"))
    made.warm_up_batch(ranks, torch.device("cpu"), torch.float32)
    made.open_data(ranks, torch.device("cpu"), torch.float32)
    return networks["model"], update


def test_a_step_makes_the_weights_those_that_the_op_has_trained(files):
    made = job(*files)
    model, update = opened(made)
    batch = next(made.train_batches(0))
    counts = [*torch.bincount(torch.from_numpy(made.reader._corpus.words)).tolist(), *[0] * 20]
    rate, recipe = 0.03, made.recipe
    options = {"lr": rate, "window": recipe.window, "num_negatives": recipe.negatives, "seed": batch.seed}
    tables = model.syn0.weight.detach().clone(), model.syn1neg.weight.detach().clone()
    expected = skip_gram(*tables, batch.words, batch.offsets, negative_table(counts), threads=1, **options)
    for table, rows, deltas in zip(tables, expected[2::2], expected[3::2], strict=True):
        table[rows] -= rate * deltas
    update.optimizer.param_groups[0]["lr"] = rate
    loss = update.loss(batch)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.loss_sum.item() / expected.num_pairs)
    loss.backward()
    update.optimizer.step()
    for parameter, table in zip((model.syn0.weight, model.syn1neg.weight), tables, strict=True):
        torch.testing.assert_close(parameter.detach(), table)
    unused = slice(len(made._words), None)
    assert torch.equal(model.syn1neg.weight[unused], tables[1][unused])


def test_changes_of_all_ranks_are_added(files):
    """DistributedDataParallel takes the mean of the gradients, so that a rank's own are times the number of ranks."""
    grads = []
    for size in (1, 2):
        made = job(*files)
        model, update = opened(made, World(0, size, 0, size, torch.device("cpu")))
        made._num_ranks = size
        batch = made.warm_up_batch(World(0, size, 0, size, torch.device("cpu")), torch.device("cpu"), torch.float32)
        batch.words, batch.offsets = torch.tensor([1, 2, 3, 4], dtype=torch.int32), torch.tensor([0, 4])
        update.loss(batch).backward()
        grads.append([parameter.grad.to_dense() for parameter in (model.syn0.weight, model.syn1neg.weight)])
    for one, two in zip(*grads, strict=True):
        torch.testing.assert_close(two, 2 * one)
        assert one.any()


def test_the_learning_rate_falls_with_the_words_before_a_step(files):
    made = job(*files, "--learning-rate", "0.5")
    opened(made)
    total = 2 * made.reader.num_words
    for step in range(13):
        before = made.reader.words_before(16 * step)
        assert made.learning_rate(step, None) == pytest.approx(0.5 * max(1 - before / total, LEAST_RATE))
    assert made.learning_rate(10_000, None) == 0.5 * LEAST_RATE


def test_a_warm_up_batch_has_the_form_of_a_real_one(files):
    made = job(*files)
    model, _ = opened(made)
    batch, noise = next(made.train_batches(0)), made.warm_up_batch(ALONE, torch.device("cpu"), torch.float32)
    assert noise.num_samples == batch.num_samples == 16
    assert {name: tensor.dtype for name, tensor in noise.tensors().items()} == {
        name: tensor.dtype for name, tensor in batch.tensors().items()
    }
    for group in made._optimizer.param_groups:
        group["lr"] = 0.0  # as the engine warms up
    assert torch.isfinite(made.loss(model, noise))


def test_an_evaluation_counts_each_question_once_and_writes_the_vectors(files, tmp_path):
    path = tmp_path / "vectors.bin"
    values = []
    for size in ("2", "100"):
        made = job(*files, "--eval-batch-size", size, "--vectors", str(path))
        model, _ = opened(made)
        meter = made.meter()
        for batch in made.eval_batches():
            meter.update(made.predict({"model": model}, batch), batch)
        values.append((meter.values(ALONE), meter.counts, meter.by_section))
    assert values[0] == values[1]
    assert values[0][1]["counted"] == 4
    assert {name: of for name, (_, of) in values[0][2]["usual"].items()} == {"family": 2, "others": 1}
    words, vectors = word_vectors.read(path)
    assert words == made._words
    assert np.array_equal(vectors, model.syn0.weight[: len(words)].detach().numpy())


def test_a_resumed_run_has_the_same_vocabulary(files):
    made = job(*files)
    assert made.state() == {}
    opened(made)
    saved = made.state()
    again = job(*files)
    again.load_state(saved)
    opened(again)
    other = job(*files, "--vocab-size", "10")
    other.load_state(saved)
    with pytest.raises(UserError, match="--resume: must be with the vocabulary of the run, got another one"):
        opened(other)


def test_questions_of_unknown_words_alone(files, tmp_path):
    (tmp_path / "questions").write_text(": a\nAthens Greece Oslo Norway\n")
    with pytest.raises(UserError, match=r"questions: must be with a question whose words are all in the vocab.* of 1"):
        opened(job(*files))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--window", "0"], "--window: must be at least 1, got 0"),
        (["--vocab-size", "1"], "--vocab-size: must be at least 2, got 1"),
        (["--vocab-size", "20000"], "--vocab-size: must be at most 13412 without --data, got 20000"),
        (["--negatives", "-1"], "--negatives: must be at least 0, got -1"),
        (["--threads", "-1"], "--threads: must be at least 0, got -1"),
        (["--sample", "1"], r"--sample: must be in \[0, 1\), got 1"),
        (["--learning-rate", "0"], "--learning-rate: must be above 0, got 0"),
        (["--no-fused"], "--no-fused: must be left out"),
        (["--gradient-accumulation-steps", "2"], "--gradient-accumulation-steps: must be 1"),
        (["--skip-corrupt"], "--skip-corrupt: must be left out without --data"),
        (["--cuda-graphs"], "--cuda-graphs: must be left out"),
        (["--target", "family_accuracy=2"], r"--target: must be a fraction in \(0, 1\], got 2"),
        (["--target", "family=0.5"], "--target: must be of analogy_accuracy, usual_accuracy, family_accuracy, got"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(UserError, match=message):
        job(*options)


def test_the_usual_number_of_threads_depends_on_the_device(monkeypatch):
    def parts(*options: str) -> tuple[int, bool]:
        recipe = resolve(parse(["word2vec", *options]), "fp32", 1)
        return recipe.threads, recipe.unlocked

    assert parts("--device", "cpu") == (2, False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(multi_processor_count=132))
    assert parts() == (132, True)
    assert parts("--threads", "3") == (3, False)
    assert parts("--device", "cpu", "--unlocked") == (2, True)


def test_vectors_are_trained_in_fp32_with_amp_too():
    assert resolve(parse(["word2vec", "--amp"]), "bf16", 1).precision == "fp32"
    with pytest.raises(UserError, match="--precision: must be fp32: the tables have no 16-bit arithmetic, got bf16"):
        resolve(parse(["word2vec", "--precision", "bf16"]), "bf16", 1)
