"""The Transformer as a user trains it, on text files and on the embedded text: the tests of ResNet-50, small."""

from __future__ import annotations

import random

import pytest

pytest.importorskip("sacrebleu")
pytest.importorskip("sentencepiece")

from commands.forks import kill_and_resume, train_on_two_ranks
from commands.handed_in import assert_handed_in
from commands.outcomes import events_of, losses, refused
from commands.runs import here
from commands.same_run import assert_same_run

from airank_fast import prepare
from airank_fast.record.events import read_events
from airank_fast.record.metrics import summarize

WORDS = {"light": "luz", "door": "puerta", "window": "ventana", "room": "sala", "lamp": "foco", "key": "llave"}
COLOURS = {"red": "rojo", "blue": "azul", "green": "verde", "white": "claro"}


def pairs(number: int, seed: int) -> list[tuple[str, str]]:
    """ "the red light is in the blue room" and its translation, in which adjectives follow their nouns."""
    rng, found = random.Random(seed), []
    for _ in range(number):
        things, colours = rng.choices(list(WORDS), k=2), rng.choices(list(COLOURS), k=2)
        english = [f"the {colour} {thing}" for colour, thing in zip(colours, things, strict=True)]
        spanish = [f"{WORDS[thing]} {COLOURS[colour]}" for colour, thing in zip(colours, things, strict=True)]
        found.append((" is in ".join(english), " en ".join(spanish)))
    return found


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """256 pairs to train on and 40 to evaluate."""
    return write(tmp_path_factory.mktemp("text"), pairs(256, 0), pairs(40, 1))


def write(root, train, test):
    for name, rows in (("train", train), ("test", test)):
        for language, lines in zip(("en", "de"), zip(*rows, strict=True), strict=True):
            (root / f"{name}.{language}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return root


def arguments(data, output, *more: str) -> list[str]:
    """A run of seconds: 4 epochs of 8 steps, to the end, also beyond its target."""
    small = [
        "--recipe",
        "interface",
        "--vocab-size",
        "80",
        "--layers",
        "1",
        "--width",
        "32",
        "--inner-width",
        "64",
        "--heads",
        "2",
    ]
    small += ["--batch-size", "32", "--max-tokens", "1000", "--warmup-steps", "8", "--learning-rate", "0.02"]
    small += ["--epochs", "4", "--eval-every", "2", "--max-length", "60", "--target", "100", "--no-stop-at-target"]
    return ["transformer", "--data", str(data), "--output", str(output), *small, *more]


@pytest.fixture(scope="module")
def uninterrupted(text, tmp_path_factory):
    output = tmp_path_factory.mktemp("transformer") / "out"
    assert here(arguments(text, output, "--checkpoint-steps", "5"), 1) in (0, 1)
    return output


def test_a_run_learns_and_reports_its_metrics(uninterrupted):
    found = [event["quality"] for event in events_of(uninterrupted, "eval_stop")]
    assert [set(each) for each in found] == [{"bleu", "bleu_lowercase", "bleu_uncased"}] * 2
    assert losses(uninterrupted)[-1] < losses(uninterrupted)[0] / 2
    (data,) = events_of(uninterrupted, "data")
    assert (data["train_samples"], data["eval_samples"]) == (256, 40)
    summary = summarize(read_events(uninterrupted / "events.jsonl"))
    units = sum(sum(event["units"]) for event in events_of(uninterrupted, "steps"))
    assert summary["trained_samples"] == 4 * 256
    assert summary["units_per_sample"] == pytest.approx(units / 1024)
    assert "tokens/sec" in (uninterrupted / "airank.log").read_text()


def test_killed_and_resumed_is_the_same_run_bit_for_bit(text, uninterrupted, tmp_path):
    output = tmp_path / "out"
    kill_and_resume(arguments(text, output, "--checkpoint-steps", "5"), output, "checkpoint")
    assert_same_run(output, uninterrupted)


def test_two_ranks_learn_what_one_does(text, tmp_path):
    """Without dropout, whose draws are each rank's own."""
    alone, both = tmp_path / "alone", tmp_path / "both"
    options = ("--dropout", "0", "--epochs", "2")
    assert here(arguments(text, alone, *options), 1) in (0, 1)
    process = train_on_two_ranks(arguments(text, both, *options))
    assert process.returncode in (0, 1), process.stderr
    assert losses(both) == pytest.approx(losses(alone), rel=1e-3)
    (ours,), (theirs,) = (events_of(output, "eval_stop") for output in (both, alone))
    assert ours["accuracy"] == pytest.approx(theirs["accuracy"], abs=5)


def test_a_finished_run_is_verified_scored_reported_and_packaged(uninterrupted, tmp_path):
    assert_handed_in(
        uninterrupted, "\u673a\u5668\u7ffb\u8bd1", tmp_path, errors=["mlperf.cache_clear", "mlperf.status"]
    )


def test_a_prepared_directory_trains_as_its_text_does(text, uninterrupted, tmp_path):
    prepared, output = tmp_path / "prepared", tmp_path / "out"
    test = [str(text / f"test.{language}") for language in ("en", "de")]
    options = ["--vocab-size", "80", "--max-ratio", "9", "--shard-pairs", "100", "--workers", "1"]
    command = ["wmt", "--train", str(text / "train.en"), "--test", *test, "--output", str(prepared), *options]
    assert prepare.parse(command).run() == 0
    assert here(arguments(prepared, output, "--epochs", "1", "--beam", "1"), 1) in (0, 1)
    assert losses(output) == losses(uninterrupted)[:8]


def test_bad_text_is_named_and_the_log_closed(text, tmp_path, capsys):
    folder = tmp_path / "data"
    folder.mkdir()
    for path in text.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    german, output = folder / "train.de", tmp_path / "out"
    good = german.read_bytes()
    german.write_bytes(good + b"eins\n")
    what = f"{german}: must be as many lines as {folder / 'train.en'}, 256, got 257"
    refused(arguments(folder, output), capsys, what)
    assert summarize(read_events(output / "events.jsonl"))["reason"] == "bad_data"
    german.write_bytes(good.replace(b"luz", b"", 1).replace(b"puerta", b"p\xfcerta", 1))
    refused(arguments(folder, tmp_path / "b"), capsys, f"{german}, line ", "must be UTF-8, got byte 0xFC")
    options = ("--skip-corrupt", "--epochs", "1", "--eval-every", "1", "--beam", "1")
    assert here(arguments(folder, tmp_path / "c", *options), 1) in (0, 1)
    assert "data: 1 lines are left out" in capsys.readouterr().err
    (data,) = events_of(tmp_path / "c", "data")
    assert (data["train_samples"], len(data["corrupt_files"])) == (255, 1)


def test_runs_that_cannot_be(text, tmp_path, capsys):
    refused(arguments(text / "none", tmp_path / "a"), capsys, "none: must be a directory, got none")
    refused(
        arguments(text, tmp_path / "b", "--max-tokens", "90"), capsys, "--batch-size: must be ", "by --max-tokens 90"
    )
    nan = ("--learning-rate", "1e30", "--epochs", "1")
    refused(arguments(text, tmp_path / "c", *nan), capsys, "loss")
    assert summarize(read_events(tmp_path / "c" / "events.jsonl"))["reason"] == "nan_loss"


def test_the_embedded_text_is_learned_in_an_epoch(tmp_path, capsys):
    """Half as wide, to a BLEU of 3, where the network before training has 0: the recipe's own target takes minutes."""
    output = tmp_path / "out"
    narrow = ["--width", "64", "--inner-width", "256", "--batch-size", "64", "--warmup-steps", "100", "--beam", "1"]
    arguments = ["transformer", "--output", str(output), *narrow, "--learning-rate", "0.008", "--epochs", "1"]
    assert here([*arguments, "--target", "3"], 1) == 0
    assert "Home Assistant's interface text, English to Spanish (Apache-2.0), split by text" in capsys.readouterr().err
    summary = summarize(read_events(output / "events.jsonl"))
    assert (summary["status"], summary["reason"]) == ("success", "target")
    assert summary["trained_samples"] == 186 * 64
    assert len(list((output / "examples").glob("*.png"))) == 12
