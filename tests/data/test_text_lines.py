"""Lists and LMDBs of text lines: both give the same samples, and every bad line is named or left out."""

from __future__ import annotations

import io
import sys
from itertools import islice

import numpy as np
import pytest
import torch
from data.line_files import TEXTS, png, write_list, write_lmdb
from PIL import Image

from airank_fast.data.images.line_reader import LineReader, prefetch
from airank_fast.data.images.place import Place
from airank_fast.data.images.text_lines import read_lines
from airank_fast.data.sampling import TrainStream
from airank_fast.data.text.alphabet import Alphabet, read_alphabet
from airank_fast.errors import UserError

ABC = Alphabet("abc")


def texts_of(lines) -> list[str]:
    return [ABC.text(lines.targets(np.array([line]))[0]) for line in range(len(lines))]


# -- alphabets ---------------------------------------------------------------------------------------------------------


def test_classes_begin_behind_the_blank_and_capitals_are_read_as_small_letters():
    assert ABC.classes("aBc", "here") == [1, 2, 3]
    assert ABC.text([3, 1]) == "ca"
    assert Alphabet("aA").classes("Aa", "here") == [2, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("abd", r"here: must be a text of the alphabet's 3 characters, got 'd' \(U\+0064\) in 'abd'"),
        ("a c", r"got ' ' \(U\+0020\) in 'a c'"),
        ("", "here: must be a line with a text, got an empty one"),
        ("\u0130", "must be a text of the alphabet's 3 characters"),  # two characters in lower case
    ],
)
def test_texts_that_are_not_of_the_alphabet(text, message):
    with pytest.raises(UserError, match=message):
        ABC.classes(text, "here")


@pytest.mark.parametrize("content", ["abc", "abc\n", "a\nb\nc\n", "\ufeffa\r\nbc\r\n"])
def test_the_forms_of_an_alphabet_file(content, tmp_path):
    path = tmp_path / "abc.txt"
    path.write_bytes(content.encode())
    assert read_alphabet(path) == "abc"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ab\nca", r"abc.txt: must be of different characters, got 'a' as characters 1 and 4"),
        ("\n", "abc.txt: must be of one character or more, got none"),
        (b"a\xff", "abc.txt: must be UTF-8, got byte 0xFF at position 2"),
    ],
)
def test_bad_alphabet_files(content, message, tmp_path):
    path = tmp_path / "abc.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        read_alphabet(path)
    with pytest.raises(UserError, match="must be a file of characters, got no file"):
        read_alphabet(tmp_path / "nowhere")


# -- data sets ---------------------------------------------------------------------------------------------------------


def test_a_list_and_an_lmdb_give_the_same_lines(tmp_path):
    listed = read_lines(write_list(tmp_path / "list"), ABC)[0]
    folder = read_lines(tmp_path / "list", ABC)[0]
    stored = read_lines(write_lmdb(tmp_path / "lmdb"), ABC)[0]
    for lines in (listed, folder, stored):
        assert texts_of(lines) == TEXTS
        assert lines.checksum() == listed.checksum()
    for line in range(len(TEXTS)):
        with open(listed.picture(line), "rb") as file:
            assert file.read() == stored.picture(line) == png(line)
    assert listed.where(2) == f"{tmp_path}/list/gt.txt, line 3"
    assert stored.where(2) == f"{tmp_path}/lmdb, image-000000003"


def test_a_folder_of_lmdbs_is_all_of_them(tmp_path):
    write_lmdb(tmp_path / "set" / "b" / "deep", ["b"])
    write_lmdb(tmp_path / "set" / "a", ["a", "aa"])
    assert texts_of(read_lines(tmp_path / "set", ABC)[0]) == ["a", "aa", "b"]


@pytest.mark.parametrize("content", ["\ufeff0.png\ta\r\n1.png\tb\r\n", "0.png\ta\n1.png\tb"])
def test_the_forms_of_a_list(content, tmp_path):
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    (tmp_path / "list.txt").write_bytes(content.encode())
    assert texts_of(read_lines(tmp_path / "list.txt", ABC)[0]) == ["a", "b"]


BAD_LINES = {
    "one column": (b"pictures/1.png", "must be a line PATH TAB TEXT, got 1 columns"),
    "three columns": (b"pictures/1.png\ta\tb", "must be a line PATH TAB TEXT, got 3 columns"),
    "an empty text": (b"pictures/1.png\t", "must be a line with a text, got an empty one"),
    "another character": (b"pictures/1.png\ta-b", "must be a text of the alphabet's 3 characters, got '-'"),
    "other bytes": (b"pictures/1.png\t\xe9", "must be UTF-8, got byte 0xE9 at position 16"),
    "a missing file": (b"pictures/99.png\ta", "must be a line with the path of a picture, got "),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_of_a_list_is_named_or_left_out(name, tmp_path):
    content, message = BAD_LINES[name]
    path = write_list(tmp_path)
    rows = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([*rows[:2], content, *rows[2:]]))
    with pytest.raises(UserError) as error:
        read_lines(path, ABC)
    assert str(error.value).startswith(f"{path}, line 3: {message}")
    assert "\n" not in str(error.value)
    lines, corrupt = read_lines(path, ABC, skip_corrupt=True)
    assert texts_of(lines) == TEXTS
    assert [where for where, _ in corrupt] == [f"{path}, line 3"]
    assert corrupt[0][1].startswith(message)


def test_skip_corrupt_decodes_every_picture(tmp_path):
    path = write_list(tmp_path / "list")
    (tmp_path / "list" / "pictures" / "1.png").write_bytes(png(1)[:60])
    (tmp_path / "list" / "pictures" / "4.png").write_bytes(b"")
    stored = write_lmdb(tmp_path / "lmdb", image_000000002=png(1)[:60], image_000000005=b"")
    for source, name in ((path, "gt.txt, line {}"), (stored, "lmdb, image-{:09d}")):
        assert len(read_lines(source, ABC)[0]) == len(TEXTS)
        lines, corrupt = read_lines(source, ABC, skip_corrupt=True, num_threads=2)
        assert texts_of(lines) == [text for number, text in enumerate(TEXTS) if number not in (1, 4)]
        assert [where.endswith(name.format(n)) for (where, _), n in zip(corrupt, (2, 5), strict=True)] == [True, True]
        assert corrupt[1][1] == "the file is empty"


def test_an_lmdb_of_another_schema(tmp_path):
    cases = {
        "other keys": ({"num_samples": None}, "000000001, ..., got image-000000001, image-000000002, image-000000003"),
        "no number": ({"num_samples": b"many"}, "must be an LMDB with lines, got num-samples b'many'"),
        "no lines": ({"num_samples": b"0"}, "must be an LMDB with lines, got num-samples b'0'"),
        "absurd": ({"num_samples": b"9" * 19}, "must be an LMDB with lines, got num-samples b'9{19}' and 17 keys"),
        "too few": ({"num_samples": b"9"}, r"image-000000009: must be an LMDB with the keys .* got no label-000000009"),
        "no picture": ({"image_000000003": None}, "image-000000003: must be .* got no such key"),
        "other bytes": ({"label_000000003": b"\xe9"}, "image-000000003: must be UTF-8, got byte 0xE9 in its label"),
    }
    for name, (changes, message) in cases.items():
        with pytest.raises(UserError, match=message):
            read_lines(write_lmdb(tmp_path / name, **changes), ABC)
    (tmp_path / "garbage").mkdir()
    (tmp_path / "garbage" / "data.mdb").write_bytes(b"garbage" * 2000)
    with pytest.raises(UserError, match=r"garbage: must be an LMDB with the keys .*, got .*MDB_INVALID"):
        read_lines(tmp_path / "garbage", ABC)
    (tmp_path / "part").mkdir()
    content = (tmp_path / "too few" / "data.mdb").read_bytes()
    (tmp_path / "part" / "data.mdb").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=rf"part: must have a whole data.mdb, of {len(content)} bytes, got "):
        read_lines(tmp_path / "part", ABC)
    lines, corrupt = read_lines(tmp_path / "too few", ABC, skip_corrupt=True)
    assert (len(lines), len(corrupt)) == (8, 1)


def test_without_the_package_lmdb(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    (tmp_path / "data.mdb").write_bytes(b"")
    with pytest.raises(UserError, match=r"must have the package lmdb, got none \(pip install lmdb\)"):
        read_lines(tmp_path, ABC)


def test_paths_that_are_no_data_set(tmp_path):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "bad.txt").write_text("nothing\n")
    for path, message in (
        (tmp_path / "nowhere", "got no file and no folder"),
        (tmp_path / "folder", "a folder of LMDBs, got neither"),
        (tmp_path, "got a folder with bad.txt, empty.txt: name the list"),
        (tmp_path / "empty.txt", "must be a list of lines PATH TAB TEXT, got an empty file"),
    ):
        with pytest.raises(UserError, match=message):
            read_lines(path, ABC)
    with pytest.raises(UserError, match=r"bad\.txt: must be with a line that can be read, got none of 1"):
        read_lines(tmp_path / "bad.txt", ABC, skip_corrupt=True)


def test_steps_are_a_blank_more_between_equal_characters(tmp_path):
    lines, _ = read_lines(write_list(tmp_path), ABC)
    assert lines.steps.tolist() == [4, 1, 5, 3, 1, 3, 3, 3]


def test_one_line_in_ten_is_held_out_and_none_is_lost(tmp_path):
    texts = ["a" * (1 + number % 9) for number in range(300)]
    (tmp_path / "p.png").write_bytes(png(0))
    (tmp_path / "gt.txt").write_text("".join(f"p.png\t{text}\n" for text in texts))
    train, held_out = read_lines(tmp_path, ABC)[0].split()
    assert 15 <= len(held_out) <= 45
    assert sorted([*train.number, *held_out.number]) == list(range(300))
    for side in (train, held_out):
        assert texts_of(side) == [texts[number] for number in side.number]


# -- batches -----------------------------------------------------------------------------------------------------------


def reader(lines, *, num_workers=0, rank=0, world_size=1):
    stream = TrainStream(
        len(lines), 1, batch_size_local=4 // world_size, global_batch_size=4, rank=rank, world_size=world_size
    )
    place = Place(3, rank, world_size, torch.device("cpu"), num_workers)
    return LineReader(lines, lines, stream, place, height=32, width=40)


def batches(lines, number=3, first_step=0, **options):
    made = reader(lines, **options)
    try:
        return list(islice(prefetch(made.train(first_step), "cpu", torch.float32), number))
    finally:
        made.close()


def test_a_batch_has_stretched_grey_pictures_and_int32_texts_on_the_host(tmp_path):
    lines, _ = read_lines(write_list(tmp_path), ABC)
    for batch in batches(lines):
        assert batch.images.shape == (4, 1, 32, 40)
        assert batch.targets.classes.dtype == torch.int32
        assert batch.targets.each() == [tuple(ABC.classes(TEXTS[n], "")) for n in batch.samples.tolist()]
        assert "targets" not in batch.tensors()
        for picture, number in zip(batch.images, batch.samples.tolist(), strict=True):
            expected = np.asarray(
                Image.open(io.BytesIO(png(number))).resize((40, 32), Image.Resampling.BILINEAR), np.float32
            )
            assert np.abs((picture[0].numpy() + 1) * 127.5 - expected).max() <= 1.01


def test_workers_read_an_lmdb_and_later_steps_continue_the_stream(tmp_path):
    lines, _ = read_lines(write_lmdb(tmp_path / "lmdb"), ABC)
    whole = batches(lines, 4, num_workers=2)
    later = batches(lines, 2, first_step=2)
    for ours, theirs in zip(whole[2:], later, strict=True):
        assert torch.equal(ours.images, theirs.images)
        assert ours.targets.each() == theirs.targets.each()


def test_two_ranks_read_the_global_batch_of_one_and_each_line_once(tmp_path):
    lines, _ = read_lines(write_list(tmp_path), ABC)
    parts = [batches(lines, rank=rank, world_size=2) for rank in range(2)]
    for whole, *halves in zip(batches(lines), *parts, strict=True):
        assert torch.equal(whole.images, torch.cat([half.images for half in halves]))
        assert whole.targets.each() == [text for half in halves for text in half.targets.each()]
    seen = []
    for rank in range(2):
        made = reader(lines, rank=rank, world_size=2)
        seen += [n for batch in prefetch(made.evaluate(), "cpu", torch.float32) for n in batch.samples.tolist()]
    assert seen == list(range(8))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_picture_that_cannot_be_read_is_named(num_workers, tmp_path):
    lines, _ = read_lines(write_list(tmp_path), ABC)
    (tmp_path / "pictures" / "5.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"got .*gt.txt, line 6 \(not a JPEG or PNG file\); --skip-corrupt"):
        batches(lines, 2, num_workers=num_workers)
