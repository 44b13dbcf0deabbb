"""Lines: any state of a file is read, in bounded memory, and its oddities are reported."""

import bz2
import gzip
import io
import lzma
import re
import tarfile
import tracemalloc
import zipfile

import pytest

from airank_fast.errors import UserError
from airank_fast.record.events import read_events
from airank_fast.record.foreign.detect import detect
from airank_fast.record.lines import BLOCK_BYTES, MAX_LINE_BYTES, Lines


def read(tmp_path, content: bytes):
    path = tmp_path / "log"
    path.write_bytes(content)
    lines = Lines(path)
    return list(lines), lines.oddities


@pytest.mark.parametrize(
    ("content", "lines", "oddities"),
    [
        (b"", [], {}),
        (b"a\nb\n", ["a", "b"], {}),
        (b"a\n\nb", ["a", "", "b"], {"cut_off": 3}),
        (b"a\r\nb\rc\r\n", ["a", "b\rc"], {"crlf": 1}),
        (b"\xef\xbb\xbfa\n", ["a"], {"bom": 1}),
        ("a\nä中\n".encode("utf-16"), ["a", "ä中"], {"utf16": 1}),
        (b"a\n\xff\n", ["a", "�"], {"not_utf8": 2}),
        (b"a\nb\0c\n", ["a", "b\0c"], {"nul": 2}),
        (b"\n", [""], {}),
    ],
)
def test_states_of_a_file(tmp_path, content, lines, oddities):
    assert read(tmp_path, content) == (lines, oddities)


@pytest.mark.parametrize("size", [BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1])
def test_a_line_that_ends_near_the_edge_of_a_block(tmp_path, size):
    lines, oddities = read(tmp_path, b"x" * (size - 1) + b"\nabc\n")
    assert [len(line) for line in lines] == [size - 1, 3]
    assert not oddities


def test_a_line_too_long_is_cut_and_the_next_is_whole(tmp_path):
    lines, oddities = read(tmp_path, b"a\n" + b"x" * (5 * MAX_LINE_BYTES) + b"\nabc\n" + b"y" * 3 * MAX_LINE_BYTES)
    assert [len(line) for line in lines] == [1, MAX_LINE_BYTES, 3, MAX_LINE_BYTES]
    assert oddities == {"long": 2, "cut_off": 4}


def test_memory_is_bounded(tmp_path):
    path = tmp_path / "log"
    with open(path, "wb") as file:
        for _ in range(64):
            file.write(b"0123456789abcdef\n" * 30000 + b"x" * 600000)
    tracemalloc.start()
    num_lines = sum(1 for _ in Lines(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert num_lines > 64 * 29000
    assert peak < 16 * BLOCK_BYTES


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match=r"a file that can be read, got No such file"):
        list(Lines(tmp_path / "none"))
    with pytest.raises(UserError, match=r"a file that can be read, got Is a directory"):
        list(Lines(tmp_path))


def zipped(*contents: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("logs/", b"")
        for number, content in enumerate(contents):
            archive.writestr(f"logs/{number}.log", content)
    return file.getvalue()


def tarred(content: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("a.log")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


EVENT = b'{"t": 1, "kind": "a"}\n'
PACKERS = [("a.gz", gzip.compress), ("a", gzip.compress), ("a.bz2", bz2.compress), ("a.xz", lzma.compress)]
PACKERS += [("a.zip", zipped)]


@pytest.mark.parametrize(("name", "pack"), PACKERS)
def test_packed_logs_are_read_like_others(tmp_path, name, pack):
    text = b'{"t": 1, "kind": "process_start"}\r\n' * 100_000 + '{"t": 2, "kind": "ä"}'.encode()
    path = tmp_path / name
    path.write_bytes(pack(text))
    lines = Lines(path)
    assert list(lines) == text.decode().split("\r\n")
    assert lines.oddities == {"crlf": 1, "cut_off": 100_001}
    assert detect(path) == ["events"]
    assert len(read_events(path)) == 100_000


@pytest.mark.parametrize(
    ("name", "content", "got"),
    [
        ("a.gz", gzip.compress(EVENT * 1000)[:-10], "got a damaged file"),
        ("a.gz", b"\x1f\x8b\x08 and no more", "got a damaged file"),
        ("a.bz2", b"BZh and no more", "got a damaged file"),
        ("a.bz2", bz2.compress(EVENT * 1000)[:-10], "got a damaged file"),
        ("a.xz", lzma.compress(EVENT * 1000)[:-10], "got a damaged file"),
        ("a.zip", zipped(EVENT)[:-10], "got a damaged file"),
        ("a.zip", zipped(b"a", b"b"), "must be a .zip of one file, got one of 2 files"),
        ("a.zst", b"\x28\xb5\x2f\xfd" + bytes(100), "got a Zstandard file"),
        ("a.7z", b"7z\xbc\xaf\x27\x1c", "got a 7z archive"),
        ("a.tar.gz", gzip.compress(tarred(EVENT)), "got a tar archive"),
        ("a.tar", tarred(EVENT), "got a tar archive"),
    ],
)
@pytest.mark.parametrize("read_it", [lambda path: list(Lines(path)), detect, read_events])
def test_what_cannot_be_unpacked_is_refused_by_name(tmp_path, name, content, got, read_it):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(got)) as error:
        read_it(path)
    assert str(error.value).startswith(f"{path}: must be a")


def test_other_files_that_are_zip_archives_are_no_logs(tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(zipped(b"a", b"b"))
    assert detect(path) == []
