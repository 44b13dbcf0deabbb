"""Folders of paired and unpaired pictures: what is read, and every kind of bad input."""

from __future__ import annotations

import numpy as np
import pytest
from data.domain_files import PAIRS, UNPAIRED, picture, write, write_folders, write_joined

from airank_fast.data.images.domains import read_pairs, read_unpaired
from airank_fast.errors import UserError


def folders(root):
    return write_folders(root, PAIRS)


@pytest.mark.parametrize("make", [write_joined, folders])
@pytest.mark.parametrize(("side", "number"), [("train", 4), ("val", 2)])
def test_pairs_side_by_side_and_in_two_folders(make, side, number, tmp_path):
    pairs, corrupt, notes = read_pairs(make(tmp_path), side)
    assert (len(pairs), pairs.paired, corrupt, len(notes)) == (number, True, [], make is write_joined)
    for index in range(number):
        assert np.array_equal(pairs.a.picture(index), picture(index))
        assert np.array_equal(pairs.b.picture(index), 255 - picture(index))


@pytest.mark.parametrize("make", [write_joined, folders])
def test_the_other_direction(make, tmp_path):
    pairs = read_pairs(make(tmp_path), "train", direction="BtoA", channels=(3, 1)).domains
    assert np.array_equal(pairs.a.picture(2), 255 - picture(2))
    assert pairs.b.picture(2).shape == (24, 32, 1)


def test_partners_have_one_name_whatever_the_suffix_and_folder(tmp_path):
    write_folders(tmp_path, PAIRS)
    for index in range(4):
        (tmp_path / "trainA" / f"{index}.png").rename(tmp_path / "trainA" / f"{index}.PNG")
        target = tmp_path / "trainB" / "more" / f"{9 - index}.png"
        target.parent.mkdir(exist_ok=True)
        (tmp_path / "trainB" / f"{index}.png").rename(target)
        (tmp_path / "trainA" / "more").mkdir(exist_ok=True)
        (tmp_path / "trainA" / f"{index}.PNG").rename(tmp_path / "trainA" / "more" / f"{9 - index}.PNG")
    pairs = read_pairs(tmp_path, "train").domains
    assert [path[-10:] for path in pairs.a.paths] == ["more/6.PNG", "more/7.PNG", "more/8.PNG", "more/9.PNG"]
    assert [path[-10:] for path in pairs.b.paths] == ["more/6.png", "more/7.png", "more/8.png", "more/9.png"]


def test_two_domains(tmp_path):
    write_folders(tmp_path, UNPAIRED, negative=False)
    found = read_unpaired(tmp_path, "train")
    assert (len(found.domains), len(found.domains.a), len(found.domains.b)) == (5, 3, 5)
    assert not found.domains.paired
    assert np.array_equal(found.domains.b.picture(4), picture(104))
    other = read_unpaired(tmp_path, "train", direction="BtoA").domains
    assert (len(other.a), len(other.b)) == (5, 3)
    assert found.domains.checksum() != other.checksum()


def test_files_of_pairs_that_may_be_single_pictures_are_counted(tmp_path):
    """Halves of most data sets are square; a folder of photographs would be cut through the middle."""
    write_joined(tmp_path)
    write(tmp_path / "train" / "2.png", picture(2, height=24, width=48))
    (line,) = read_pairs(tmp_path, "train").notes
    assert line.startswith("data: 3 of 4 files in train/ are not twice as wide as high; their left half is read as A")


def test_val_is_taken_before_test(tmp_path):
    write_joined(tmp_path, {"train": 2, "val": 2, "test": 3})
    assert len(read_pairs(tmp_path, "val").domains) == 2


def test_grey_and_coloured_pictures_are_converted_and_counted(tmp_path):
    write_folders(tmp_path, UNPAIRED)
    write(tmp_path / "trainA" / "1.png", picture(1, channels=1))
    write(tmp_path / "trainA" / "x.gif", picture(1))
    found = read_unpaired(tmp_path, "train")
    assert found.notes == [
        "data: 1 of 3 pictures in trainA/ are grey and are read as RGB",
    ]
    assert np.array_equal(found.domains.a.picture(1), np.repeat(picture(1, channels=1), 3, 2))
    (tmp_path / "trainB" / "x.bmp").write_bytes(b"BM")
    assert read_unpaired(tmp_path, "train", channels=(1, 1)).notes == [
        "data: 2 of 3 pictures in trainA/ are colour and are read as grey",
        "data: 5 of 5 pictures in trainB/ are colour and are read as grey",
        "data: pictures that are neither JPEG nor PNG are passed over: 1 .bmp",
    ]


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


BROKEN_PAIRS = {  # (layout, file, what is done to it, what is required, what is found)
    "an odd width": (
        write_joined,
        "train/1.png",
        lambda path: write(path, picture(1, width=64)[:, :63]),
        "A and B side by side, of an even width",
        "63 x 24",
    ),
    "two sizes": (
        folders,
        "trainB/1.png",
        lambda path: write(path, picture(1, height=20)),
        "of its partner's size, 32 x 24 ({root}/trainA/1.png)",
        "32 x 20",
    ),
    "no partner": (
        folders,
        "trainA/1.png",
        lambda path: path.unlink(),
        "a picture with a partner 1.* in {root}/trainA",
        "none",
    ),
    "two of one name": (
        folders,
        "trainA/1.jpg",
        lambda path: write(path, picture(1)),
        "the only picture 1.* in its folder",
        "{root}/trainA/1.jpg as well",
    ),
    "text": (
        write_joined,
        "train/1.png",
        lambda path: path.write_text("hello"),
        "a whole JPEG or PNG picture",
        "not a JPEG or PNG file",
    ),
    "nothing": (
        folders,
        "trainB/1.png",
        lambda path: path.write_bytes(b""),
        "a whole JPEG or PNG picture",
        "the file is empty",
    ),
}
NAMED = {
    "no partner": "trainB/1.png",
    "two of one name": "trainA/1.png",
}  # where it is another file than the changed one


@pytest.mark.parametrize("name", BROKEN_PAIRS)
def test_a_broken_pair_is_named_or_left_out(name, tmp_path):
    make, file, spoil, required, got = BROKEN_PAIRS[name]
    make(tmp_path)
    spoil(tmp_path / file)
    path = tmp_path / NAMED.get(name, file)
    required, got = (text.format(root=tmp_path) for text in (required, got))
    with pytest.raises(UserError) as error:
        read_pairs(tmp_path, "train")
    assert str(error.value) == f"data: must be {required}, got {path} ({got}); --skip-corrupt leaves such files out"
    pairs, corrupt, _ = read_pairs(tmp_path, "train", skip_corrupt=True, num_threads=2)
    assert corrupt == [(str(path), f"must be {required}, got {got}")]
    number = 4 if name == "two of one name" else 3
    assert len(pairs.a) == len(pairs.b) == number
    for index, source in enumerate(sorted(range(4) if number == 4 else [0, 2, 3])):
        assert np.array_equal(pairs.b.picture(index), 255 - picture(source)), index


def test_a_picture_that_breaks_off_is_found_by_reading_it(tmp_path):
    write_folders(tmp_path, UNPAIRED)
    path = tmp_path / "trainB" / "2.png"
    cut(path)
    broken = read_unpaired(tmp_path, "train").domains.b.picture(2)
    assert broken.path == str(path)
    assert "\n" not in broken.why
    found = read_unpaired(tmp_path, "train", skip_corrupt=True)
    assert len(found.domains.b) == 4
    assert found.corrupt == [(str(path), f"must be a whole JPEG or PNG picture, got {broken.why}")]


def one_left(root):
    for number in (1, 2, 3):
        (root / "trainB" / f"{number}.png").unlink()
    (root / "trainB" / "4.png").write_text("")


BAD_FOLDERS = {
    "one picture": (
        lambda root: [(root / f"trainA/{n}.png").unlink() for n in (1, 2)],
        "trainA: must be a folder with 2",
        "1",
    ),
    "one is left": (one_left, "trainB: must be a folder with 2 pictures or more", "1; 1 are left out"),
    "no picture": (
        lambda root: [path.unlink() for path in (root / "trainB").iterdir()],
        "trainB: must be a folder with",
        "none",
    ),
    "other files": (
        lambda root: [path.rename(path.with_suffix(".tif")) for path in (root / "trainB").iterdir()],
        "trainB: must be a folder with pictures (.jpeg, .jpg, .png)",
        "none, but .tif",
    ),
    "one folder": (lambda root: (root / "trainB").rename(root / "b"), "trainB: must be a folder of", "no such folder"),
    "none": (
        lambda root: [(root / f"train{name}").rename(root / name) for name in "AB"],
        ": must be a folder with trainA/ and trainB/",
        "none of them",
    ),
    "no root": (lambda root: root.rename(root.parent / "moved"), ": must be a folder with", "no such folder"),
}


@pytest.mark.parametrize("name", BAD_FOLDERS)
def test_a_bad_folder_of_a_domain(name, tmp_path):
    spoil, required, got = BAD_FOLDERS[name]
    root = write_folders(tmp_path / "data", UNPAIRED)
    spoil(root)
    with pytest.raises(UserError) as error:
        read_unpaired(root, "train", skip_corrupt=True)
    assert f"{root}{'/' * (required[0] != ':')}{required}" in str(error.value)
    assert str(error.value).endswith(f", got {got}")


def test_a_bad_folder_of_pairs(tmp_path):
    with pytest.raises(UserError) as error:
        read_pairs(tmp_path, "val")
    what = "a folder with val/ of pictures A | B, or valA/ and valB/ or test/ of pictures A | B, or testA/ and testB/"
    assert str(error.value) == f"{tmp_path}: must be {what}, got none of them"
    write_joined(tmp_path, {"train": 1})
    with pytest.raises(UserError, match=r"train: must be a folder with 2 pairs or more, got 1$"):
        read_pairs(tmp_path, "train")
