"""`prepare wmt`: the pairs of tars and files in subwords; interrupted, changed and damaged ones."""

from __future__ import annotations

import gzip
import io
import shutil
import sys
import tarfile
from itertools import pairwise
from unittest import mock

import numpy as np
import pytest

pytest.importorskip("sentencepiece")

from airank_fast import prepare
from airank_fast.data.manifest import Manifest
from airank_fast.data.text.translation_sets import TranslationSets
from airank_fast.data.text.translation_subwords import EOS
from airank_fast.errors import UserError
from airank_fast.sources import wmt

WORDS = ["Haus", "T\u00fcr", "Licht", "rot", "gr\u00fcn", "das", "die", "ist", "und", "nicht"]
SGM = """<refset setid="newstest2014" srclang="any" trglang="{language}">
<doc docid="1"><p>
<seg id="1">{first} &amp; more</seg>
<seg id="2">two</seg>
</p></doc></refset>
"""


def lines(seed: int, number: int, prefix: str) -> tuple[list[str], list[str]]:
    """Pairs of 2 to 9 words; each has a word of its own, so that none is a copy of another."""
    rng = np.random.default_rng(seed)
    found = [[WORDS[n] for n in rng.integers(0, 10, rng.integers(2, 10))] for _ in range(number)]
    german = [" ".join([*each, f"{prefix}{row}"]) for row, each in enumerate(found)]
    return [text.lower() for text in german], german


def content(of_lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in of_lines).encode()


@pytest.fixture
def inputs(tmp_path):
    """A tar with two corpora of two languages and one of another, a pair of .gz and .xz, and a test set in SGML."""
    folder = tmp_path / "in"
    folder.mkdir()
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w:gz") as archive:
        for seed, stem in enumerate(("europarl-v7.de-en", "news.de-en", "europarl-v7.fr-en")):
            for language, of_language in zip(("en", "de"), lines(seed, 60, f"a{seed}b"), strict=True):
                language = "fr" if "fr" in stem and language == "de" else language
                of_language = [*of_language[:20], "" if language == "en" else "leer", *of_language[20:]]
                info = tarfile.TarInfo(f"training/{stem}.{language}")
                info.size = len(content(of_language))
                archive.addfile(info, io.BytesIO(content(of_language)))
    (folder / "training.tgz").write_bytes(tar.getvalue())
    english, german = lines(7, 50, "c")
    english[3], german[3] = "long " * 80, "lang " * 80
    english[4] = "a b c d e f g h i j k l m n o p q r s"
    (folder / "own.en.gz").write_bytes(gzip.compress(content(english)))
    (folder / "own.de.gz").write_bytes(gzip.compress(content(german)))
    for language, first in (("en", "one"), ("de", "eins")):
        (folder / f"test.{language}.sgm").write_text(SGM.format(language=language, first=first))
    return folder


def arguments(inputs, root, *more: str) -> list[str]:
    train = [str(inputs / "training.tgz"), str(inputs / "own.en.gz")]
    test = [str(inputs / f"test.{language}.sgm") for language in ("en", "de")]
    settings = [
        "--vocab-size",
        "120",
        "--max-length",
        "60",
        "--max-ratio",
        "2.5",
        "--shard-pairs",
        "40",
        "--workers",
        "1",
    ]
    return ["wmt", "--train", *train, "--test", *test, "--output", str(root), *settings, *more]


def command(*args) -> int:
    with mock.patch.object(sys, "argv", ["prepare", *args]):
        return prepare.main()


def verified(root, capsys) -> list[str]:
    status = command("--verify", str(root), "--workers", "1")
    problems = [line.removeprefix("error: ") for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert status == int(bool(problems))
    return problems


def contents(root) -> dict:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def opened(root, vocab_size=120) -> TranslationSets:
    return TranslationSets.open(root, "en", "de", vocab_size=vocab_size, max_length=100, skip_corrupt=False)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_all_pairs_are_there_but_those_that_are_filtered_which_are_said(workers, inputs, tmp_path, capsys):
    root = tmp_path / "out"
    assert command(*arguments(inputs, root, "--workers", workers)) == 0
    printed = capsys.readouterr().out
    assert "61 lines of europarl-v7.de-en: 1 empty, 0 left out" in printed
    assert "168 pairs, 1 too long and 1 too different in length left out" in printed
    assert printed.endswith(f"{root}: sound\n")
    assert not (root / "raw").exists()
    found = opened(root)
    source, target = (
        found.subwords.decode([side.tokens[first : last - 1] for first, last in pairwise(side.offsets)])
        for side in (found.train.source, found.train.target)
    )
    expected = [
        pair
        for seed, name, number in ((0, "a0b", 60), (1, "a1b", 60), (7, "c", 50))
        for pair in zip(*lines(seed, number, name), strict=True)
    ]
    del expected[123:125]  # of own, the last corpus by name
    assert list(zip(source, target, strict=True)) == expected
    assert (found.train.source.tokens[found.train.source.offsets[1:] - 1] == EOS).all()
    assert [tuple(pair) for pair in found.held_out_pairs] == [("one & more", "eins & more"), ("two", "two")]


def test_an_interrupted_preparation_goes_on_and_makes_the_same_files(inputs, tmp_path, capsys):
    whole, root = tmp_path / "whole", tmp_path / "out"
    assert command(*arguments(inputs, whole)) == 0
    for name in ("_shards", "_subwords", "_encode"):
        interrupted = (
            _first_only(getattr(wmt, name)) if name != "_subwords" else mock.Mock(side_effect=KeyboardInterrupt)
        )
        with mock.patch.object(wmt, name, interrupted), pytest.raises(KeyboardInterrupt):
            command(*arguments(inputs, root))
    with pytest.raises(UserError, match=r"must be a finished preparation, got one that was interrupted"):
        opened(root)
    assert command(*arguments(inputs, root)) == 0
    assert contents(root) == contents(whole)
    assert command(*arguments(inputs, root)) == 0
    assert contents(root) == contents(whole)


def _first_only(function):
    """Calls the function once, and is interrupted at the second call."""
    calls = []

    def call(*args, **kwargs):
        calls.append(args)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    return call


def test_another_preparation_needs_another_directory(inputs, tmp_path):
    root = tmp_path / "out"
    assert command(*arguments(inputs, root)) == 0
    with pytest.raises(UserError, match=r"--output: must be a directory for max_length = 9, got .*, where preparing"):
        command(*arguments(inputs, root, "--max-length", "9"))
    (inputs / "own.de.gz").write_bytes(gzip.compress(b"other text"))
    with pytest.raises(UserError, match=r"--output: must be a new directory, or with the text with which .* was begun"):
        command(*arguments(inputs, root))
    with pytest.raises(UserError, match=r"--vocab-size: must be 120, for the 120 subwords of .*, got 128"):
        opened(root, 128)


def test_verify_finds_what_was_changed(inputs, tmp_path, capsys):
    root = tmp_path / "out"
    assert command(*arguments(inputs, root)) == 0
    capsys.readouterr()
    for path in (root / "text").iterdir():
        path.unlink()
    assert verified(root, capsys) == []
    tokens = root / "train/001-00001.source.tokens.npy"
    tokens.write_bytes(tokens.read_bytes()[:-1] + b"\1")
    (root / "train/002-00001.target.lengths.npy").unlink()
    (root / "train/more.npy").write_bytes(b"")
    assert [problem.partition(":")[0] for problem in verified(root, capsys)] == [
        "train/001-00001.source.tokens.npy",
        "train/002-00001.target.lengths.npy",
        "train/more.npy",
    ]
    assert Manifest.load(root).kind == "translation"


def test_files_that_cannot_be_prepared(inputs, tmp_path, capsys):
    def refusal(*more: str) -> str:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        with pytest.raises(UserError) as error:
            command(*arguments(inputs, tmp_path / "out", *more))
        return str(error.value)

    own = inputs / "own.de.gz"
    good = own.read_bytes()
    own.write_bytes(gzip.compress(gzip.decompress(good) + b"one more\n"))
    assert refusal() == f"{own}: must be as many lines as {inputs / 'own.en.gz'}, 50, got 51"
    for broken in (own, inputs / "own.en.gz"):
        whole = gzip.compress(gzip.decompress(broken.read_bytes()))
        broken.write_bytes(whole[:-30])
        assert refusal().startswith(f"{broken}: must be a whole, readable file, got: ")
        broken.write_bytes(whole)
    own.write_bytes(gzip.compress(gzip.decompress(good).replace("\u00fc".encode(), b"\xfc")))
    message = refusal()
    assert message.startswith(f"{own}, line ")
    assert message.endswith("--skip-corrupt leaves such lines out")
    assert command(*arguments(inputs, tmp_path / "skipped", "--skip-corrupt")) == 0
    counts = Manifest.load(tmp_path / "skipped").stages["text"]["corpora"]["own"]
    assert len(counts["left_out"]) == counts["read"] - counts["pairs"] > 0
    assert f"0 empty, {len(counts['left_out'])} left out" in capsys.readouterr().out
    own.unlink()
    assert refusal() == f"{inputs / 'own.en.gz'}: must be beside own.de.gz, the other language, got no such file"
    (inputs / "own.de.gz").write_bytes(good)
    (inputs / "training.tgz").write_bytes(b"no tar")
    assert refusal().startswith(f"--train: must be a tar file, got {inputs / 'training.tgz'}")
    (inputs / "test.de.sgm").write_text('<seg id="1">one</seg>')
    message = refusal()
    assert message == f"{inputs / 'test.de.sgm'}: must be as many sentences as {inputs / 'test.en.sgm'}, 2, got 1"
    assert "--max-ratio: must be at least 1, got 0.5" in refusal("--max-ratio", "0.5")
