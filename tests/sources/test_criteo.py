"""`prepare criteo` on small files in the exact published form: rows, resuming, bad input, verification, memory."""

from __future__ import annotations

import gzip
import io
import random
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from sources import criteo_text

from airank_fast import prepare
from airank_fast.cli import run_command
from airank_fast.data.host import host
from airank_fast.data.manifest import Manifest
from airank_fast.data.tables.criteo import MISSING, ROW
from airank_fast.sources import criteo
from airank_fast.sources.criteo_lines import category_hash, parse, parse_line, parse_reference

NUMBER = 250
TEXT = criteo_text.text(NUMBER)
BAD = [
    (b"1\t2", "a line of 40 columns (label, 13 integers, 26 categories), got 2 columns"),
    (b"", "a line of 40 columns (label, 13 integers, 26 categories), got an empty line"),
    (
        b"\t".join([b"1", b"5"] * 20 + [b"a"]),
        "a line of 40 columns (label, 13 integers, 26 categories), got 41 columns",
    ),
    (b"2" + b"\t" * 39, "a line with a label of 0 or 1, got '2'"),
    (b"\t" * 39, "a line with a label of 0 or 1, got ''"),
    (b"label" + b"\t" * 39, "a line with a label of 0 or 1, got 'label'"),
    (b"0\tabc" + b"\t" * 38, "a line with an integer of 32 bits in column 2, got 'abc'"),
    (b"0\t\t1.5" + b"\t" * 37, "a line with an integer of 32 bits in column 3, got '1.5'"),
    (b"0\t\t-" + b"\t" * 37, "a line with an integer of 32 bits in column 3, got '-'"),
    (
        b"0" + b"\t" * 13 + b"2147483648" + b"\t" * 26,
        "a line with an integer of 32 bits in column 14, got '2147483648'",
    ),
    (b"0\t-2147483648" + b"\t" * 38, "a line with an integer of 32 bits in column 2, got '-2147483648'"),
    (b"0" + b"\t" * 39 + b"a" * 2**20, "a line of at most 65,536 bytes, got a longer one"),
]


def run(*arguments) -> int:
    return prepare.parse([str(argument) for argument in arguments]).run()


def made(tmp_path: Path, content: bytes, *options, name: str = "train.txt", output: str = "out") -> Path:
    """The prepared data set of one input."""
    (tmp_path / name).write_bytes(content)
    root = tmp_path / output
    assert (
        run("criteo", "--input", tmp_path / name, "--output", root, "--partial", "--shard-rows", "100", *options) == 0
    )
    return root


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.npy"))}


def rows_of(root: Path) -> np.ndarray:
    return np.concatenate([np.load(path) for path in sorted(root.glob("rows/*"))])


def test_a_line_is_a_row():
    (line,) = criteo_text.lines(1, seed=3)
    label, *columns = line.decode().rstrip("\n").split("\t")
    row = parse_line(line, "line").view(ROW)[0]
    assert row["label"] == int(label)
    assert row["numbers"].tolist() == [int(text) if text else MISSING for text in columns[:13]]
    assert row["hashes"].tolist() == [category_hash(text.encode(), slot) for slot, text in enumerate(columns[13:], 1)]
    assert {"", *columns[:13]} > {""}
    assert "" in columns[13:]


def test_hashes_are_the_same_on_every_machine():
    """The upper halves of splitmix64's first words from the states 0 and 1, as published; then fixed by this test."""
    assert [category_hash(b"", slot) for slot in (0, 1)] == [0xE220A839, 0x910A2DEC]
    assert [category_hash(b"68fd1e64", 1), category_hash(b"0123456789abcdef0", 1)] == [4051549002, 2489170975]
    assert category_hash(b"68fd1e64", 2) != category_hash(b"68fd1e64", 1)


@pytest.mark.skipif(host is None, reason="airank_fast._host is not built")
def test_the_parser_reads_as_the_reference_does():
    """Categories of every length up to 20, any bytes in them, and each end of a line."""
    rng = random.Random(0)
    lines = []
    for _ in range(400):
        label, *columns = criteo_text.columns(rng)
        parts = [text.encode() for text in (label, *columns)]
        for place in rng.sample(range(14, 40), 6):
            parts[place] = bytes(rng.randrange(256) for _ in range(rng.randrange(20))).translate(None, b"\t\n")
        for place in rng.sample(range(1, 14), 3):
            parts[place] = str(rng.choice([2**31 - 1, -(2**31) + 1, -7, 0])).encode()
        lines.append(b"\t".join(parts) + rng.choice([b"\n", b"\r\n", b"\r\r\n"]))
    text = b"".join(lines)
    ours, theirs = (np.zeros(500, ROW) for _ in range(2))
    found = parse(text, len(lines[0]), ours, 7)
    assert found == parse_reference(text, len(lines[0]), theirs.view(np.int32).reshape(-1, 40), 7) == (399, len(text))
    assert np.array_equal(ours, theirs)
    assert parse(text, 0, ours, 490) == (10, sum(map(len, lines[:10])))


@pytest.mark.skipif(host is None, reason="airank_fast._host is not built")
@pytest.mark.parametrize("bad", [line for line, _ in BAD], ids=range(len(BAD)))
def test_the_parser_stops_before_a_bad_line_as_the_reference_does(bad):
    first, after = criteo_text.lines(2)
    text = first + bad + b"\n" + after
    rows = np.zeros(5, ROW)
    assert parse(text, 0, rows, 0) == (1, len(first))
    assert parse_reference(text, 0, rows.view(np.int32).reshape(-1, 40), 0) == (1, len(first))


@pytest.mark.skipif(host is None, reason="airank_fast._host is not built")
def test_the_parser_refuses_what_the_reference_refuses():
    """Lines with one byte changed, lost or more."""
    rng, rows = random.Random(1), np.zeros(2, ROW)
    (line,) = criteo_text.lines(1)
    refused = 0
    for _ in range(3000):
        at, end = rng.randrange(len(line) - 1), rng.choice([0, 1])
        changed = line[:at] + rng.choice([b"", b"\t", b"\n", b"-", b"9", b"a", b"\r"]) + line[at + end :]
        found = parse(changed, 0, rows, 0)
        assert found == parse_reference(changed, 0, rows.view(np.int32).reshape(-1, 40), 0)
        refused += found.rows == 0
    assert 500 < refused < 2900


def test_plain_gzip_and_the_published_archive_make_the_same_shards(tmp_path, capsys):
    expected = tree(made(tmp_path, TEXT))
    assert list(expected) == [f"rows/00000{number}.npy" for number in range(3)]
    out = capsys.readouterr().out
    assert "rows                 250 in 3 shards" in out
    assert f"{tmp_path / 'out'}: sound" in out
    assert tree(made(tmp_path, gzip.compress(TEXT), name="train.txt.gz", output="gz")) == expected
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, content in (("readme.txt", b"Criteo"), ("test.txt", TEXT[2:]), ("train.txt", TEXT)):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    assert tree(made(tmp_path, archive.getvalue(), name="dac.tar.gz", output="tar")) == expected


def test_neither_the_last_line_feed_nor_crlf_nor_the_blocks_change_a_row(tmp_path, monkeypatch):
    expected = tree(made(tmp_path, TEXT))
    assert tree(made(tmp_path, TEXT[:-1], output="without")) == expected
    assert tree(made(tmp_path, TEXT.replace(b"\n", b"\r\n"), output="crlf")) == expected
    assert tree(made(tmp_path, TEXT.replace(b"\n", b"\r\n")[:-1], output="crlf without")) == expected
    monkeypatch.setattr(criteo, "BLOCK_BYTES", 77)
    assert tree(made(tmp_path, TEXT, output="blocks")) == expected


def test_without_the_extension_the_rows_are_the_same(tmp_path, monkeypatch, capsys):
    expected = tree(made(tmp_path, TEXT))
    for module in ("airank_fast.prepare", "airank_fast.sources.criteo_lines"):
        monkeypatch.setattr(f"{module}.host", None)
    assert tree(made(tmp_path, TEXT, output="python")) == expected
    assert "note: airank_fast._host is not built" in capsys.readouterr().err


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_an_interruption_changes_no_byte(tmp_path, monkeypatch, compress):
    content = compress(TEXT)
    expected = made(tmp_path, content, output="whole")
    command = ["criteo", "--input", tmp_path / "train.txt", "--output", tmp_path / "out", "--partial"]
    command += ["--shard-rows", "100"]
    add, calls = Manifest.add, []

    def stop(*arguments, **counts):
        calls.append(arguments)
        if len(calls) in (2, 3):  # once with a shard that is written but not entered
            raise KeyboardInterrupt
        add(*arguments, **counts)

    monkeypatch.setattr(Manifest, "add", stop)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(*command)
        assert not list(tmp_path.rglob("*.partial"))
    assert run("--verify", tmp_path / "out") == 1
    assert run(*command) == 0
    assert tree(tmp_path / "out") == tree(expected)
    assert (tmp_path / "out/manifest.json").read_bytes() == (expected / "manifest.json").read_bytes()
    assert run(*command) == 0  # nothing is left to do


def test_several_files_are_one_data_set_in_their_order(tmp_path):
    lines = criteo_text.lines(NUMBER)
    for name, part in (("a", lines[:130]), ("b", lines[130:])):
        (tmp_path / name).write_bytes(b"".join(part))
    inputs = [tmp_path / "a", tmp_path / "b"]
    assert run("criteo", "--input", *inputs, "--output", tmp_path / "two", "--partial", "--shard-rows", "100") == 0
    assert [len(np.load(path)) for path in sorted((tmp_path / "two/rows").iterdir())] == [100, 30, 100, 20]
    assert np.array_equal(rows_of(tmp_path / "two"), rows_of(made(tmp_path, TEXT)))


def refusal(capsys, *arguments) -> str:
    """The line of a command that exits with status 2."""
    with mock.patch.object(sys, "argv", ["prepare", *map(str, arguments)]), pytest.raises(SystemExit) as stop:
        run_command(prepare.main)
    assert stop.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


@pytest.mark.parametrize(("bad", "message"), BAD, ids=range(len(BAD)))
def test_a_bad_line_is_refused_by_its_number(bad, message, tmp_path, capsys):
    lines = criteo_text.lines(NUMBER)
    path = tmp_path / "train.txt"
    path.write_bytes(b"".join([*lines[:149], bad + b"\n", *lines[149:]]))
    command = ["criteo", "--input", path, "--output", tmp_path / "out", "--partial", "--shard-rows", "100"]
    assert refusal(capsys, *command) == f"{path}, line 150: must be {message}"
    assert run("criteo", "--input", path, "--output", tmp_path / "skip", *command[5:], "--skip-corrupt") == 0
    out = capsys.readouterr().out
    assert f"left out   {path}, line 150: must be {message}" in out
    assert tree(tmp_path / "skip") == tree(made(tmp_path, TEXT, output="good", name="good.txt"))


@pytest.mark.parametrize("tail", [b"", b"\n", b"\n" + TEXT])
def test_a_line_longer_than_a_block_takes_no_memory_and_loses_no_line(tail, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(criteo, "BLOCK_BYTES", 100_000)
    content = TEXT + b"0" + b"\t" * 39 + b"a" * 1_000_000 + tail
    root = made(tmp_path, content, "--skip-corrupt")
    assert f"line {NUMBER + 1}: must be a line of at most 65,536 bytes, got a longer one" in capsys.readouterr().out
    assert len(rows_of(root)) == NUMBER * (2 if tail.endswith(TEXT) else 1)
    stage = Manifest.load(root).stages["rows"]
    assert len(stage["corrupt"]) == 1


def test_a_short_last_line_is_a_bad_line(tmp_path, capsys):
    path = tmp_path / "train.txt"
    path.write_bytes(TEXT[:-30])
    message = refusal(capsys, "criteo", "--input", path, "--output", tmp_path / "out", "--partial")
    assert message.startswith(f"{path}, line {NUMBER}: must be a line of 40 columns")


def test_files_that_cannot_be_used(tmp_path, capsys):
    path, empty, other = (tmp_path / name for name in ("train.txt", "empty", "other.tar.gz"))
    path.write_bytes(TEXT)
    empty.touch()
    (tmp_path / "empty.gz").write_bytes(gzip.compress(b""))
    (tmp_path / "cut.gz").write_bytes(gzip.compress(TEXT)[:-300])
    with tarfile.open(other, "w:gz") as tar:
        tar.add(path, "test.txt")

    def refused(*inputs, options=("--partial",)) -> str:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        return refusal(capsys, "criteo", "--output", tmp_path / "out", *options, "--input", *inputs)

    assert refused(tmp_path / "none") == f"--input: must be files, got {tmp_path / 'none'}, which is missing"
    assert refused(tmp_path) == f"--input: must be files, got {tmp_path}, a directory"
    assert refused(empty) == f"{empty}: must be a file with lines, got an empty file"
    gz = tmp_path / "empty.gz"
    assert refused(gz) == f"{gz}: must be a file with lines, got an empty file"
    assert refused(path, path) == "--input: must be files that differ, got one of them twice"
    cut = refused(tmp_path / "cut.gz")
    assert cut.startswith(
        f"{tmp_path / 'cut.gz'}: must be a whole file, got one that is truncated or damaged behind line "
    )
    assert refused(other) == f"{other}: must be Criteo's archive with train.txt, got one without"
    assert refused(path, options=["--partial", "--shard-rows", "0"]) == "--shard-rows: must be in [1, 16777216], got 0"
    whole = "--input: must be 45,840,617 rows in all, as Kaggle's set (--partial accepts what is there), got 250"
    assert refused(path, options=[]) == whole
    assert problems(tmp_path / "out", capsys)[0].startswith("rows: not finished")
    assert run("criteo", "--input", path, "--output", tmp_path / "out", "--partial") == 0  # its rows are there
    again = refusal(capsys, "criteo", "--input", path, "--output", tmp_path / "out", "--skip-corrupt")
    assert again.startswith("--output: must be a directory for skip_corrupt = True, got ")


def test_more_bad_lines_than_a_sound_file_has_end_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(criteo, "MOST_CORRUPT", 3)
    path = tmp_path / "train.txt"
    path.write_bytes(TEXT + b"x\n" * 4)
    command = ["criteo", "--input", path, "--output", tmp_path / "out", "--partial", "--skip-corrupt"]
    assert refusal(capsys, *command) == f"{path}: must be a file of at most 3 bad lines, got more"


def problems(root: Path, capsys) -> list[str]:
    capsys.readouterr()
    assert run("--verify", root) == 1
    return [line.removeprefix("error: ") for line in capsys.readouterr().err.splitlines() if "error: " in line]


def test_verify_finds_what_was_changed(tmp_path, capsys):
    root = made(tmp_path, TEXT)
    shard = root / "rows/000001.npy"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (line,) = problems(root, capsys)
    assert line.startswith("rows/000001.npy: must have sha256 ")
    shard.write_bytes(content[:-9])
    assert problems(root, capsys) == [f"rows/000001.npy: must have {len(content)} bytes, got {len(content) - 9}"]
    shard.unlink()
    assert problems(root, capsys) == ["rows/000001.npy: missing"]
    shard.write_bytes(content)
    (root / "rows/000009.npy").write_bytes(content)
    assert problems(root, capsys) == ["rows/000009.npy: not in the manifest"]


def test_verify_finds_other_values_and_shards_with_the_same_rows(tmp_path, capsys):
    """Entered in the manifest, as by a script that wrote them."""
    root = made(tmp_path, TEXT)
    manifest = Manifest.load(root)
    first = np.load(root / "rows/000000.npy")
    entry = criteo.facts(first)
    assert (entry["rows"], entry["content"]) == (100, criteo.facts(first[::-1])["content"])
    np.save(root / "rows/000001.npy", first[::-1])
    manifest.add(root, "rows/000001.npy", **criteo.facts(first[::-1]))
    second = np.load(root / "rows/000002.npy")
    second["label"][3] = 2
    second["numbers"][4, 5] = 10**9
    np.save(root / "rows/000002.npy", second)
    manifest.add(root, "rows/000002.npy", **{k: v for k, v in manifest.files["rows/000002.npy"].items() if k in entry})
    manifest.save(root)
    found = problems(root, capsys)
    assert "rows/000001.npy: the same rows as in rows/000000.npy" in found
    assert "rows/000002.npy: must have labels of 0 or 1, got 2" in found
    assert any(line.startswith("rows/000002.npy: must have greatest [") for line in found)


def test_two_files_with_the_same_rows_are_found(tmp_path, capsys):
    for name in "ab":
        (tmp_path / name).write_bytes(TEXT)
    inputs = [tmp_path / "a", tmp_path / "b"]
    assert run("criteo", "--input", *inputs, "--output", tmp_path / "out", "--partial") == 1
    assert "error: rows/000001.npy: the same rows as in rows/000000.npy" in capsys.readouterr().err


PEAK = """
import re, sys
from pathlib import Path
from airank_fast.sources import criteo
criteo.BLOCK_BYTES = 2**18
criteo.prepare([Path(sys.argv[1])], Path(sys.argv[2]), shard_rows=8192, partial_set=True, skip_corrupt=False)
print(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_memory_does_not_grow_with_the_number_of_rows(tmp_path):
    peaks = []
    for number in (100, 600):  # 25,000 and 150,000 rows: 6 and 37 MB of text, 4 and 24 MB of rows
        path = tmp_path / f"{number}.txt"
        with open(path, "wb") as file:
            file.writelines([TEXT] * number)
        command = [sys.executable, "-c", PEAK, str(path), str(tmp_path / f"out{number}")]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / 1024)
    assert peaks[1] - peaks[0] < 8
    assert sum(entry["rows"] for entry in Manifest.load(tmp_path / "out600").files.values()) == 150_000


def test_a_line_that_the_parser_left_and_the_reference_takes_is_a_row(tmp_path):
    with mock.patch.object(criteo, "parse", lambda text, begin, rows, first: (0, begin)):
        root = made(tmp_path, TEXT)
    assert tree(root) == tree(made(tmp_path, TEXT, output="fast"))
