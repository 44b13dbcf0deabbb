"""word2vec's formats: what is written is read, by gensim too; a broken file is one clear line."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from airank_fast.data.text.word_vectors import read, write
from airank_fast.errors import UserError

WORDS = ["the", "naïve", "</s>", "\udcff\udcfe"]  # the last one is not UTF-8
VECTORS = np.array([[1, -2.5, 3e-9], [0.1, 1e20, -0.0], [1 / 3, 2, 3], [4, 5, 6]], np.float32)
BINARY = b"".join(
    b"%s %s\n" % (word.encode(errors="surrogateescape"), row.tobytes())
    for word, row in zip(WORDS, VECTORS, strict=True)
)


@pytest.mark.parametrize("name", ["vectors.bin", "vectors.txt", "vectors.vec", "vectors.bin.gz", "vectors.txt.gz"])
def test_what_is_written_is_read_bit_for_bit(name, tmp_path):
    write(tmp_path / name, WORDS, VECTORS)
    words, vectors = read(tmp_path / name)
    assert words == WORDS
    assert vectors.tobytes() == VECTORS.tobytes()
    assert (gzip.open if name.endswith(".gz") else open)(tmp_path / name, "rb").readline() == b"4 3\n"


@pytest.mark.parametrize("binary", [True, False])
def test_gensim_reads_ours_and_we_read_gensim_s(binary, tmp_path):
    keyed = pytest.importorskip("gensim.models").KeyedVectors
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    write(ours, WORDS[:3], VECTORS[:3], binary=binary)
    loaded = keyed.load_word2vec_format(str(ours), binary=binary)
    assert loaded.index_to_key == WORDS[:3]
    assert np.array_equal(loaded.vectors, VECTORS[:3])
    loaded.save_word2vec_format(str(theirs), binary=binary)
    words, vectors = read(theirs, binary=binary)
    assert words == WORDS[:3]
    assert np.array_equal(vectors, VECTORS[:3])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.bin", b"4 3\n" + BINARY.removesuffix(b"\n")),
        (
            "a.bin",
            b"4 3\n"
            + b"".join(
                b"%s %s" % (word.encode(errors="surrogateescape"), row.tobytes())
                for word, row in zip(WORDS, VECTORS, strict=True)
            ),
        ),
        ("a.txt", b"4 3\r\nthe 1 -2.5 3e-9\r\nna\xc3\xafve 0.1 1e20 -0.0 \r\n</s> 0.33333334 2 3\n\xff\xfe 4 5 6"),
    ],
    ids=["no newline at the end", "no newline behind vectors", "CRLF, trailing spaces, no newline at the end"],
)
def test_the_forms_of_other_programs(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    words, vectors = read(tmp_path / name)
    assert words == WORDS
    assert np.array_equal(vectors, VECTORS)


def test_a_word_of_several_words_in_text(tmp_path):
    (tmp_path / "a.txt").write_text("1 2\nNew York 1 2\n")
    assert read(tmp_path / "a.txt")[0] == ["New York"]
    with pytest.raises(UserError, match="word: must be without space and newline, got 'New York'"):
        write(tmp_path / "b.txt", ["New York"], VECTORS[:1])


BAD = {
    "empty": ("a.bin", b"", "a.bin, line 1: must be a file of word vectors, whose first line is WORDS DIM, got ''"),
    "no header": ("a.txt", b"the 1 2 3\n", "a.txt, line 1: must be a file of word vectors"),
    "zero": ("a.txt", b"0 3\n", "a.txt, line 1: must be a file of word vectors"),
    "truncated": ("a.bin", b"4 3\n" + BINARY[:-4], r"a.bin: must be 4 vectors of 3 numbers, got an end in vector 4"),
    "huge": (
        "a.bin",
        b"99999999999 300\n" + BINARY,
        r"a.bin: must be 99999999999 vectors of 300 numbers, got \d+ bytes",
    ),
    "short": ("a.txt", b"2 3\nthe 1 2 3\n", "a.txt: must be 2 vectors of 3 numbers, got"),
    "short line": ("a.txt", b"1 3\nthe 1 2          \n", "a.txt, line 2: must be a word and 3 numbers, got 3 columns"),
    "text": ("a.txt", b"1 3\nthe 1 2 x\n", r"a.txt, line 2: must be a word and 3 numbers, got could not convert"),
    "more": ("a.txt", b"1 3\nthe 1 2 3\na 1 2 3\n", "a.txt, line 3: must be the end, after 1 vectors, got more"),
    "more binary": ("a.bin", b"3 3\n" + BINARY, "a.bin: must be 3 vectors of 3 numbers, got more behind the last one"),
    "not gzip": ("a.txt.gz", b"1 3\nthe 1 2 3\n", "a.txt.gz: must be readable, got: Not a gzipped file"),
    "no space": ("a.bin", b"1 3\n" + b"x" * 2_200_000, "a.bin, vector 1: must be a word, got no space"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_broken_file_is_one_clear_line(name, tmp_path):
    file, content, message = BAD[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path / file)
    assert "\n" not in str(error.value)


def test_paths_that_are_no_files(tmp_path):
    with pytest.raises(UserError, match=r"must be a file of word vectors.*got no file"):
        read(tmp_path / "none")
    with pytest.raises(UserError, match=r"must be a file of word vectors.*got a directory"):
        read(tmp_path)
    with pytest.raises(UserError, match="must be a file that can be written, got: Is a directory"):
        write(tmp_path, WORDS, VECTORS)
