"""`prepare word2vec`: the same corpus as from the text itself; interrupted, changed and damaged ones."""

from __future__ import annotations

import json
import sys
from unittest import mock

import numpy as np
import pytest

from airank_fast import prepare
from airank_fast.data.manifest import Manifest
from airank_fast.data.text.words import Text, prepared
from airank_fast.errors import UserError
from airank_fast.sources import word_text

OPTIONS = {"min_count": 2, "vocab_size": 12, "lowercase": True}


@pytest.fixture
def text(tmp_path):
    """Three files of sentences of 20 words, one of them with a line in GBK, and an empty one."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "text"
    folder.mkdir()
    for name in "abc":
        lines = [" ".join(f"Wört{n}" for n in rng.geometric(0.15, size=rng.integers(1, 9))) for _ in range(200)]
        (folder / name).write_text("\n".join(lines), encoding="utf-8")
    (folder / "b").write_bytes((folder / "b").read_bytes() + "\n怎么\n".encode("gbk"))
    (folder / "d").write_bytes(b"")
    return folder


def command(text, root, *more: str) -> int:
    args = ["prepare", "word2vec", "--input", str(text), "--output", str(root), "--min-count", "2"]
    with mock.patch.object(sys, "argv", [*args, "--vocab-size", "12", "--workers", "1", "--skip-corrupt", *more]):
        return prepare.main()


def verified(root, capsys) -> list[str]:
    with mock.patch.object(sys, "argv", ["prepare", "--verify", str(root), "--workers", "1"]):
        status = prepare.main()
    problems = [line.removeprefix("error: ") for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert status == int(bool(problems))
    return problems


def contents(root) -> dict:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_prepared_corpus_is_that_of_the_text(workers, text, tmp_path, capsys):
    assert command(text, tmp_path / "out", "--workers", workers) == 0
    assert "sound" in (printed := capsys.readouterr().out)
    assert "1 lines left out" in printed
    expected, _ = Text(text, skip_corrupt=True).corpus(least=2, most=12)
    found = prepared(tmp_path / "out", **OPTIONS)
    assert found.vocabulary.words == expected.vocabulary.words
    assert found.vocabulary.counts.tolist() == expected.vocabulary.counts.tolist()
    assert found.checksum() == expected.checksum()
    assert found.num_sentences == expected.num_sentences > 500
    assert prepared(text) is None


@pytest.mark.parametrize("place", [1, 4, 5, 7])
def test_an_interrupted_preparation_goes_on(place, text, tmp_path, monkeypatch):
    whole, root = tmp_path / "whole", tmp_path / "out"
    command(text, whole)
    saves, save = [], Manifest.save

    def interrupted(manifest, where):
        save(manifest, where)
        saves.append(where)
        if len(saves) == place:
            raise KeyboardInterrupt

    monkeypatch.setattr(Manifest, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        command(text, root)
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"must be a finished preparation, got one that was interrupted"):
        prepared(root, **OPTIONS)
    assert command(text, root) == 0
    assert contents(root) == contents(whole)


def test_other_options_or_another_text_need_another_directory(text, tmp_path):
    command(text, tmp_path / "out")
    with pytest.raises(UserError, match=r"--output: must be a new directory, or with --min-count 2, .* got 3"):
        command(text, tmp_path / "out", "--min-count", "3")
    with pytest.raises(UserError, match=r"--min-count: must be 2, with which .* was prepared, got 6"):
        prepared(tmp_path / "out", **OPTIONS | {"min_count": 6})
    (text / "e").write_text("more\n")
    with pytest.raises(
        UserError, match=r"--output: must be a new directory, or with the same text, .* got another one"
    ):
        command(text, tmp_path / "out")


def test_damage_is_found(text, tmp_path, capsys):
    root = tmp_path / "out"
    command(text, root)
    assert verified(root, capsys) == []
    (root / "train" / "00009.words.npy").write_bytes(b"")
    first = root / "train" / "00001.words.npy"
    first.write_bytes(first.read_bytes()[:-1] + b"\x7f")
    problems = verified(root, capsys)
    assert len(problems) == 2
    assert problems[0].startswith("train/00001.words.npy: must have sha256 ")
    assert problems[1] == "train/00009.words.npy: not in the manifest"
    first.unlink()
    assert "train/00001.words.npy: missing" in verified(root, capsys)
    with pytest.raises(UserError, match=r"must be as prepared \(prepare --verify .* checks it\), got: "):
        prepared(root, **OPTIONS)


def test_files_of_the_same_sentences_and_numbers_outside_the_vocabulary(text, tmp_path, capsys):
    (text / "c").write_bytes((text / "a").read_bytes())
    root = tmp_path / "out"
    command(text, root)
    capsys.readouterr()
    assert verified(root, capsys) == ["train/00003.words.npy: the same sentences as in train/00001.words.npy"]
    manifest = Manifest.load(root)
    words = np.load(root / "train" / "00002.words.npy")
    np.save(root / "train" / "00002.words.npy", np.append(words, np.int32(99)))
    manifest.add(root, "train/00002.words.npy")
    manifest.save(root)
    problems = verified(root, capsys)
    assert "train/00002.words.npy: must have words of the vocabulary of 12, got others" in problems
    assert any("by the lengths beside it" in problem for problem in problems)


def test_bad_text_is_one_clear_line(text, tmp_path):
    plan = word_text.Plan(1, 100, lowercase=True, skip_corrupt=False)
    with pytest.raises(UserError, match=r"text/b, line 201: must be UTF-8, got byte 0xD4"):
        word_text.prepare(plan, text, tmp_path / "out", 1)
    (tmp_path / "single").write_text("word word")
    with pytest.raises(UserError, match="single: must be text with at least 2 words, got 1 in a text of 2 words"):
        word_text.prepare(plan, tmp_path / "single", tmp_path / "other", 1)
    (tmp_path / "kind").mkdir()
    (tmp_path / "kind" / "manifest.json").write_text(json.dumps({"version": 1, "kind": "imagenet"}))
    with pytest.raises(UserError, match=r"--output: must be a directory of its own, got .*, which holds imagenet"):
        word_text.prepare(plan, text, tmp_path / "kind", 1)
