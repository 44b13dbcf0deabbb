"""`prepare wikicorpus` and `--verify` from the command line: the export fragment and Python's reference to shards."""

import bz2
import json
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest

pytest.importorskip("h5py")
pytest.importorskip("mwparserfromhell")
pytest.importorskip("tokenizers")

from airank_fast import prepare
from airank_fast.data.manifest import Manifest
from airank_fast.data.text import wordpiece
from airank_fast.data.text.wikicorpus import WikiCorpus, WikiCorpusReader
from airank_fast.errors import UserError
from airank_fast.sources import documents, wikicorpus

EXPORT = Path(__file__).parents[1] / "sources/export.xml"
FRAGMENT = [
    "--train-vocab",
    "300",
    "--max-seq-length",
    "64",
    "--eval-fraction",
    "0.3",
    "--part-mb",
    "0.001",
    "--workers",
    "1",
]
PYDOC = [
    "--train-vocab",
    "1000",
    "--max-seq-length",
    "128",
    "--eval-fraction",
    "0.1",
    "--part-mb",
    "0.1",
    "--duplicates",
    "2",
    "--workers",
    "1",
]


def run(*arguments) -> int:
    return prepare.parse([str(argument) for argument in arguments]).run()


def refusal(*arguments) -> str:
    with pytest.raises(UserError) as error:
        run(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def dump(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("dump") / "testwiki-pages-articles.xml.bz2"
    path.write_bytes(bz2.compress(EXPORT.read_bytes()))
    return path


@pytest.fixture(scope="module")
def fragment(dump, tmp_path_factory) -> Path:
    """The export fragment, prepared."""
    root = tmp_path_factory.mktemp("fragment") / "data"
    assert run("wikicorpus", "--input", dump, "--output", root, *FRAGMENT) == 0
    return root


@pytest.fixture(scope="module")
def pydoc_text(tmp_path_factory) -> Path:
    """Python's language reference, a file a topic."""
    folder = tmp_path_factory.mktemp("pydoc")
    for name, text in topics.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def pydoc(pydoc_text, tmp_path_factory) -> Path:
    """The reference, prepared."""
    root = tmp_path_factory.mktemp("data") / "pydoc"
    assert run("wikicorpus", "--input", pydoc_text, "--output", root, *PYDOC) == 0
    return root


@pytest.fixture
def copy(fragment, tmp_path) -> Path:
    """A copy of the fragment's data set, to be damaged."""
    return Path(shutil.copytree(fragment, tmp_path / "copy"))


def test_the_fragment(fragment):
    manifest = json.loads((fragment / "manifest.json").read_text())
    stage = manifest["stages"]["documents"]
    assert {key: stage[key] for key in ("read", "redirects", "other_namespaces", "not_wikitext", "short")} == {
        "read": 16,
        "redirects": 1,
        "other_namespaces": 3,
        "not_wikitext": 1,
        "short": 2,
    }
    assert (stage["documents"], stage["eval_documents"]) == (9, 3)
    assert manifest["stages"]["samples"]["shards"] > 1
    text = "".join(path.read_text() for path in (fragment / "text").iterdir())
    assert "The Lighthouse of Northpoint (Leuchtturm Nordspitze) is a light tower" in text
    assert "nobody should train on" not in text
    assert not list(fragment.rglob("*.partial"))
    corpus = WikiCorpus(fragment, vocab_size=300, max_seq_length=64)
    assert corpus.num_train == manifest["stages"]["samples"]["train"]["samples"]
    tokens = wordpiece.read_vocabulary(fragment / "vocab.txt")
    batch, _ = next(WikiCorpusReader(corpus, batch_size_local=16, global_batch_size=16).train())
    sample = batch[0]
    words = [tokens[i] for i in sample["input_ids"]]
    assert words[0] == "[CLS]"
    assert words[-1] == "[SEP]"
    assert words.count("[SEP]") == 2
    assert "[MASK]" in "".join(tokens[i] for i in batch.input_ids)


def test_neither_workers_nor_an_interruption_change_a_byte(pydoc_text, pydoc, tmp_path, monkeypatch):
    expected = tree(pydoc)
    shared = tmp_path / "shared"
    assert run("wikicorpus", "--input", pydoc_text, "--output", shared, *PYDOC[:-1], "2") == 0
    assert tree(shared) == expected

    interrupted = tmp_path / "interrupted"
    command = ["wikicorpus", "--input", pydoc_text, "--output", interrupted, *PYDOC]
    enter, build = documents._enter, wikicorpus._build
    for module, name, original, times in (
        (documents, "_enter", enter, 2),
        (documents, "_enter", enter, 1),
        (wikicorpus, "_build", build, 2),
    ):
        calls = iter(range(times))

        def stop(*arguments, original=original, calls=calls):
            result = original(*arguments)
            if next(calls, None) is None:
                raise KeyboardInterrupt
            return result

        monkeypatch.setattr(module, name, stop)
        with pytest.raises(KeyboardInterrupt):
            run(*command)
        assert not list(interrupted.rglob("*.partial"))
        monkeypatch.setattr(module, name, original)
    with pytest.raises(UserError, match=r"preparing .* was interrupted"):
        WikiCorpus(interrupted, vocab_size=1000, max_seq_length=128)
    assert run(*command) == 0
    assert tree(interrupted) == expected


def test_pydoc_trains_by_the_reader(pydoc):
    corpus = WikiCorpus(pydoc, vocab_size=1000, max_seq_length=128)
    reader = WikiCorpusReader(corpus, batch_size_local=32, global_batch_size=32, seed=1)
    seen = [digest for batch, _ in islice(reader.train(), corpus.num_train // 32) for digest in batch.digests()]
    assert len(set(seen)) == len(seen)
    assert sum(map(len, reader.evaluate())) == corpus.num_eval
    reader.close()
    manifest = Manifest.load(pydoc)
    counts = manifest.stages["samples"]["train"]
    assert 0.13 < counts["masked"] / counts["tokens"] < 0.16
    assert counts["unknown_tokens"] < 0.001 * counts["text_tokens"]


def test_the_same_text_one_sentence_a_line_and_in_padded_form(pydoc, tmp_path):
    """The text that one run wrote is the input of another, at another length."""
    (tmp_path / "in").mkdir()
    for path in (pydoc / "text").glob("train-*"):
        shutil.copy(path, tmp_path / "in")
    root = tmp_path / "out"
    command = [
        "wikicorpus",
        "--input",
        tmp_path / "in",
        "--output",
        root,
        "--vocab",
        pydoc / "vocab.txt",
        "--text-form",
        "sentences",
        "--max-seq-length",
        "32",
        "--form",
        "padded",
        "--eval-fraction",
        "0.1",
        "--duplicates",
        "1",
        "--workers",
        "1",
        "--eval-samples",
        "20",
    ]
    assert run(*command) == 0
    stages = Manifest.load(root).stages
    assert stages["documents"]["sentences"] == sum(
        entry["sentences"] for name, entry in Manifest.load(pydoc).files.items() if name.startswith("text/train")
    )
    corpus = WikiCorpus(root, vocab_size=1000, max_seq_length=32)
    assert (corpus.num_eval, corpus.train[0].form) == (20, "padded")
    assert corpus.read(corpus.train[0]).num_masked.max() == 4


def test_verify(fragment, capsys):
    assert run("--verify", fragment) == 0
    out = capsys.readouterr().out
    assert "documents              9   (3 held out, 16 read)" in out
    assert f"{fragment}: sound" in out


def problems(root: Path, capsys) -> list[str]:
    capsys.readouterr()
    assert run("--verify", root, "--workers", "1") == 1
    return capsys.readouterr().err.splitlines()


def test_verify_finds_what_was_changed(copy, capsys):
    shard = copy / "train/part-00001.hdf5"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (line,) = problems(copy, capsys)
    assert line.startswith("error: train/part-00001.hdf5: must have sha256 ")
    shard.write_bytes(content[:-9])
    assert problems(copy, capsys) == [
        f"error: train/part-00001.hdf5: must have {len(content)} bytes, got {len(content) - 9}"
    ]
    shard.unlink()
    assert problems(copy, capsys) == ["error: train/part-00001.hdf5: missing"]
    shard.write_bytes(content)
    (copy / "train/part-00077.hdf5").write_bytes(content)
    assert problems(copy, capsys) == ["error: train/part-00077.hdf5: not in the manifest"]


def test_verify_finds_shards_with_the_same_samples(copy, capsys):
    """A copy in another order, as of a script that shuffles, entered in the manifest."""
    corpus = WikiCorpus(copy, vocab_size=300, max_seq_length=64)
    samples = corpus.read(corpus.train[0])
    reversed_samples = samples.take(np.arange(len(samples))[::-1])
    wikicorpus.write_shard(
        copy / "train/part-00001.hdf5",
        reversed_samples,
        form="variable",
        max_seq_length=64,
        max_predictions=9,
        vocab_size=300,
    )
    manifest = Manifest.load(copy)
    manifest.add(copy, "train/part-00001.hdf5", **wikicorpus.shard_counts(reversed_samples))
    manifest.save(copy)
    assert problems(copy, capsys) == ["error: train/part-00001.hdf5: the same samples as in train/part-00000.hdf5"]
    (copy / "manifest.json").unlink()
    shutil.rmtree(copy / "text")
    assert "a manifest" in refusal("--verify", copy)
    capsys.readouterr()
    assert run("--verify", copy, "--vocab-size", "300", "--workers", "1") == 1
    assert "train/part-00001.hdf5: the same samples as in train/part-00000.hdf5" in capsys.readouterr().err


def test_verify_finds_another_vocabulary_and_missing_stages(copy, capsys):
    shutil.rmtree(copy / "text")  # allowed, to save space
    assert run("--verify", copy, "--workers", "1") == 0
    with open(copy / "vocab.txt", "a") as file:
        file.write("more\n")
    assert problems(copy, capsys)[0].startswith("error: vocab.txt: ")
    with pytest.raises(UserError, match="a vocabulary of 300 tokens, got 301"):
        WikiCorpus(copy, vocab_size=300, max_seq_length=64)
    manifest = Manifest.load(copy)
    manifest.stages["samples"]["done"] = False
    manifest.save(copy)
    assert problems(copy, capsys)[0].startswith("error: samples: not finished")


def test_input_that_cannot_be_used(tmp_path, dump):
    def prepare_(*arguments):
        return refusal("wikicorpus", "--output", tmp_path / "out", "--workers", "1", *arguments)

    vocab = ["--train-vocab", "300"]
    assert prepare_("--input", tmp_path / "none", *vocab).startswith("--input: must be a file or a directory, got")
    (tmp_path / "empty").mkdir()
    assert "a directory with text files" in prepare_("--input", tmp_path / "empty", *vocab)
    (tmp_path / "empty/a.txt").touch()
    assert "a.txt is empty" in prepare_("--input", tmp_path / "empty", *vocab)
    (tmp_path / "a.txt").write_bytes("Größe".encode("latin-1") * 100)
    assert "UTF-8 text" in prepare_("--input", tmp_path / "a.txt", *vocab)
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "a.txt").write_text("One document. It is long enough to be taken. " * 9)
    few = prepare_("--input", tmp_path / "a.txt", *vocab)
    assert "at least 2 documents to train on and 2 held out, got 1 and 0 (1 read" in few
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "cut.xml.bz2").write_bytes(dump.read_bytes()[:-500])
    assert "cut.xml.bz2 is truncated after" in prepare_("--input", tmp_path / "cut.xml.bz2", *vocab)
    assert not list((tmp_path / "out").rglob("*.partial"))


def test_options_that_cannot_be(tmp_path, dump, fragment):
    def prepare_(*arguments, output=tmp_path / "out"):
        return refusal("wikicorpus", "--input", dump, "--output", output, "--workers", "1", *arguments)

    one_of = "--vocab or --train-vocab: must be one of them, got"
    assert prepare_() == f"{one_of} neither"
    assert prepare_("--vocab", "a", "--train-vocab", "300") == f"{one_of} both"
    assert prepare_("--train-vocab", "10") == "--train-vocab: must be at least 100, got 10"
    assert prepare_("--train-vocab", "300", "--max-seq-length", "4").startswith("--max-seq-length: must be 8 ... 32767")
    assert prepare_("--train-vocab", "300", "--eval-fraction", "0").startswith("--eval-fraction: must be above 0")
    assert "a readable vocab.txt" in prepare_("--vocab", tmp_path / "vocab.txt")
    assert not (tmp_path / "out").exists()
    for tokens, message in (
        (["[PAD]", "a"], "has no [UNK], [CLS], [SEP], [MASK]"),
        ([*wordpiece.SPECIAL_TOKENS, "a", "a"], "has 'a' twice"),
        (["a", *wordpiece.SPECIAL_TOKENS], "[PAD] as the first token"),
    ):
        (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens))
        assert message in prepare_("--vocab", tmp_path / "vocab.txt")
    large = prepare_("--train-vocab", "300000", "--eval-fraction", "0.3")
    assert large.startswith("--train-vocab: must be at most what the text has words for, got 300000")
    other = prepare_("--train-vocab", "400", *FRAGMENT[2:-2], output=fragment)
    assert other.startswith(f"--output: must be a directory for train_vocab = 400, got {fragment}, where preparing")


def test_a_vocabulary_of_another_script(tmp_path, pydoc_text):
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in (*wordpiece.SPECIAL_TOKENS, "塔", "光")))
    root = tmp_path / "out"
    message = refusal(
        "wikicorpus", "--input", pydoc_text, "--output", root, "--vocab", tmp_path / "vocab.txt", *PYDOC[2:]
    )
    assert message.startswith("--vocab: must be a vocabulary for this text, ")


@pytest.mark.parametrize("room", [60_000, 150_000])  # not enough for a part of the text, or for a shard
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(pydoc_text, pydoc, tmp_path, room):
    root = tmp_path / "data"
    command = ["wikicorpus", "--input", str(pydoc_text), "--output", str(root), *PYDOC[:-1], "2"]
    code = (
        "import resource, sys\nfrom airank_fast import prepare\nfrom airank_fast.cli import run_command\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))\nrun_command(prepare.main)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ") or "Traceback" in line]
    assert len(errors) == 1
    assert errors[0].startswith("error: files: must be readable and writable, with space on the disk, got [Errno 27]")
    assert not list(root.rglob("*.partial"))
    assert run(*command) == 0
    assert tree(root) == tree(pydoc)


def test_an_output_that_cannot_be_written(tmp_path, dump, monkeypatch):
    (tmp_path / "file").touch()
    command = ["wikicorpus", "--input", str(dump), "--output", str(tmp_path / "file/out"), *FRAGMENT]
    monkeypatch.setattr("sys.argv", ["prepare", *command])
    with pytest.raises(UserError, match="files: must be readable and writable"):
        prepare.main()


@pytest.mark.parametrize("library", ["h5py", "mwparserfromhell", "tokenizers"])
def test_a_missing_library_is_reported_before_any_work(tmp_path, dump, monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    message = refusal("wikicorpus", "--input", dump, "--output", tmp_path / "out", *FRAGMENT)
    assert f"{library}" in message
    assert "pip install 'airank-fast[wikicorpus]'" in message
    assert not (tmp_path / "out").exists()
