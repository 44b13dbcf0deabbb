"""Lines: any state of a file is read, in bounded memory, and what was odd about it is said."""

import tracemalloc

import pytest

from airank_fast.errors import UserError
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
    with pytest.raises(UserError, match=r"a file that can be read is required, got No such file"):
        list(Lines(tmp_path / "none"))
    with pytest.raises(UserError, match=r"a file that can be read is required, got Is a directory"):
        list(Lines(tmp_path))
