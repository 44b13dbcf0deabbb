"""`prepare ocr`: published lists of text lines -> LMDBs, interrupted and broken ones, and `--verify`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from data.line_files import TEXTS, png

pytest.importorskip("lmdb")

from airank_fast import prepare
from airank_fast.data.images.text_lines import read_lines
from airank_fast.data.manifest import Manifest
from airank_fast.data.text.alphabet import Alphabet, read_alphabet
from airank_fast.errors import UserError

LINES = {
    "tab": "{name}\t{text}\r\n",
    "icdar": '{name}, "{text}"\r\n',
    "mjsynth": "./{name} 45484\n",
}


def run(*arguments) -> int:
    return prepare.parse([str(argument) for argument in ("ocr", *arguments)]).run()


def write(folder, form="tab", texts=TEXTS):
    """A published list with its pictures."""
    (folder / "2425").mkdir(parents=True)
    rows = []
    for number, text in enumerate(texts):
        name = f"2425/{number}_{text}_45484.png" if form == "mjsynth" else f"2425/word_{number}.png"
        (folder / name).write_bytes(png(number))
        rows.append(LINES[form].format(name=name, text=text))
    path = folder / "gt.txt"
    path.write_text("".join(rows), encoding="utf-8-sig", newline="")
    return path


@pytest.fixture
def source(tmp_path) -> Path:
    return write(tmp_path / "source")


@pytest.fixture
def data(source, tmp_path) -> Path:
    """Eight lines in LMDBs of three."""
    assert run("--train", source, "--output", tmp_path / "data", "--part-lines", 3, "--workers", 1) == 0
    return tmp_path / "data"


def texts_and_pictures(folder, alphabet) -> list[tuple[str, bytes]]:
    lines, _ = read_lines(folder, Alphabet(alphabet))
    texts = [
        Alphabet(alphabet).text(lines.classes[a:b]) for a, b in zip(lines.offsets, lines.offsets[1:], strict=False)
    ]
    found = sorted(zip(texts, map(lines.picture, range(len(lines))), strict=True))
    for each in lines.sources:
        each.close()
    return found


@pytest.mark.parametrize("form", LINES)
def test_a_published_list_becomes_lmdbs_that_training_reads(form, tmp_path, capsys):
    train, val = write(tmp_path / "a", form), write(tmp_path / "b", form, ["bc", "ca"])
    moved = tmp_path / "val.txt"
    val.rename(moved)
    both = ("--train", train, "--val", moved, "--val-folder", tmp_path / "b", "--form", form)
    assert run(*both, "--output", tmp_path / "data", "--part-lines", 5, "--workers", 2) == 0
    printed = capsys.readouterr().out
    assert "train             8 lines in 2 LMDBs, 0 left out" in printed
    assert "val               2 lines in 1 LMDBs, 0 left out" in printed
    alphabet = read_alphabet(tmp_path / "data" / "characters.txt")
    assert alphabet == "abc"
    expected = sorted(zip(TEXTS, map(png, range(8)), strict=True))
    assert texts_and_pictures(tmp_path / "data" / "train", alphabet) == expected
    assert texts_and_pictures(tmp_path / "data" / "val", alphabet) == [("bc", png(0)), ("ca", png(1))]


def test_quoted_characters_of_icdar_are_read(tmp_path):
    write(tmp_path, texts=["x", "y"])
    rows = 'a.png, "say \\"5,-\\""\n2425/word_1.png,"JOIN, OR"'
    (tmp_path / "gt.txt").write_text(rows)
    (tmp_path / "a.png").write_bytes(png(3))
    assert run("--train", tmp_path / "gt.txt", "--form", "icdar", "--output", tmp_path / "out", "--workers", 1) == 0
    found = texts_and_pictures(tmp_path / "out", 'say "5,-JOINR')
    assert [text for text, _ in found] == ["JOIN, OR", 'say "5,-"']


def test_an_interrupted_preparation_goes_on_and_ends_in_the_same_files(source, data):
    before = {name: facts["sha256"] for name, facts in Manifest.load(data).files.items()}
    shutil.rmtree(data / "train" / "00002")
    (data / "train" / "00002.partial").mkdir()
    manifest = Manifest.load(data)
    del manifest.files["train/00002/data.mdb"], manifest.stages["lines"]
    manifest.save(data)
    kept = (data / "train" / "00001" / "data.mdb").stat().st_mtime_ns
    assert prepare.parse(["--verify", str(data)]).run() == 1
    assert run("--train", source, "--output", data, "--part-lines", 3, "--workers", 1) == 0
    assert {name: facts["sha256"] for name, facts in Manifest.load(data).files.items()} == before
    assert (data / "train" / "00001" / "data.mdb").stat().st_mtime_ns == kept
    with pytest.raises(UserError, match=r"must be a directory for part_lines = 4, got .*began with 3"):
        run("--train", source, "--output", data, "--part-lines", 4)


def test_what_verification_finds(data, capsys):
    (data / "train" / "00003" / "data.mdb").unlink()
    path = data / "train" / "00002" / "data.mdb"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    shutil.copytree(data / "train" / "00001", data / "val" / "00001")
    manifest = Manifest.load(data)
    manifest.files["val/00001/data.mdb"] = manifest.files["train/00001/data.mdb"]
    (data / "train" / "more.mdb").write_bytes(b"")
    manifest.save(data)
    assert prepare.parse(["--verify", str(data)]).run() == 1
    found = capsys.readouterr().err
    for problem in (
        "train/00003/data.mdb: missing",
        "train/00002/data.mdb: must have sha256",
        "train/more.mdb: not in the manifest",
        "val/00001/data.mdb: the same lines as in train/00001/data.mdb",
    ):
        assert problem in found


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (b"2425/word_1.png\n", r"line 9: must be a line PATH TAB TEXT, got '2425/word_1.png'"),
        (b"2425/word_1.png\t\n", "line 9: must be a line with a text, got an empty one"),
        (b"gone.png\tab\n", r"line 9: must have a picture that can be read, got .*gone.png \(No such file"),
        (b"a\0.png\tab\n", r"line 9: must have a picture that can be read, got .*\(embedded null byte\)"),
        (b"gt.txt\tab\n", r"line 9: must be a whole JPEG or PNG picture, got .*gt.txt \(not a JPEG"),
        (b"2425/word_1.png\t\xb4\xf3\n", "line 9: must be UTF-8, got byte 0xB4"),
    ],
    ids=["no text", "empty", "no picture", "NUL", "no PNG", "GBK"],
)
def test_a_bad_line_ends_the_command_or_is_left_out_and_counted(row, why, source, tmp_path, capsys):
    with open(source, "ab") as file:
        file.write(row)
    with pytest.raises(UserError, match=why) as error:
        run("--train", source, "--output", tmp_path / "a", "--workers", 1)
    assert str(error.value).endswith("--skip-corrupt leaves such lines out")
    assert run("--train", source, "--output", tmp_path / "b", "--skip-corrupt", "--workers", 1) == 0
    assert "8 lines in 1 LMDBs, 1 left out" in capsys.readouterr().out
    (left_out,) = Manifest.load(tmp_path / "b").files["train/00001/data.mdb"]["left_out"]
    assert f"{source}, line 9" in left_out


def test_lists_without_a_line(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.txt: must be a list of pictures .*, got no file"):
        run("--train", tmp_path / "nowhere.txt", "--output", tmp_path / "a")
    (tmp_path / "empty.txt").write_bytes(b"")
    with pytest.raises(UserError, match=r"empty.txt: must be a list .*, got an empty file"):
        run("--train", tmp_path / "empty.txt", "--output", tmp_path / "b", "--workers", 1)
    (tmp_path / "bad.txt").write_bytes(b"x\n")
    with pytest.raises(UserError, match=r"bad.txt: must be with a line .* among train/00001.s 1, got .*line 1"):
        run("--train", tmp_path / "bad.txt", "--output", tmp_path / "c", "--workers", 1, "--skip-corrupt")
