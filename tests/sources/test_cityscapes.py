"""`prepare cityscapes` on tiny zips of the official shape, made here."""

from __future__ import annotations

import zipfile

import pytest
from data.label_files import write_tree

from airank_fast import prepare
from airank_fast.data.images.label_images import read_pairs
from airank_fast.data.manifest import Manifest
from airank_fast.errors import UserError
from airank_fast.sources import zips as zips_module


@pytest.fixture
def zips(tmp_path):
    """The two zips, with what the official ones have besides: other annotations, a test set, a licence."""
    tree = tmp_path / "tree"
    write_tree(tree, [("train", "aachen", 3), ("train", "ulm", 2), ("val", "ulm", 2), ("test", "bonn", 1)])
    paths = {}
    for kind, name in (("leftImg8bit", "leftImg8bit_trainvaltest.zip"), ("gtFine", "gtFine_trainvaltest.zip")):
        paths[kind] = tmp_path / name
        with zipfile.ZipFile(paths[kind], "w") as archive:
            archive.writestr("license.txt", "a licence")
            for file in sorted((tree / kind).rglob("*.png")):
                archive.write(file, file.relative_to(tree))
                if kind == "gtFine":
                    archive.writestr(str(file.relative_to(tree)).replace("labelIds.png", "polygons.json"), "{}")
    return paths["leftImg8bit"], paths["gtFine"], tree


def run(zips, output, *more: str) -> int:
    pictures, labels, _ = zips
    given = ["--pictures", str(pictures), "--labels", str(labels), "--output", str(output), "--workers", "1"]
    return prepare.parse(["cityscapes", *given, *more]).run()


def test_training_reads_what_is_unpacked_and_verify_finds_it_sound(zips, tmp_path, capsys):
    assert run(zips, tmp_path / "out", "--partial") == 0
    printed = capsys.readouterr().out.splitlines()
    assert " ".join(printed[0].split()) == "train 5 pictures of 2 cities, with label ids"
    assert " ".join(printed[1].split()) == "val 2 pictures of 1 cities, with label ids"
    assert printed[2].endswith("out: sound")
    for side, number in (("train", 5), ("val", 2)):
        ours, theirs = (read_pairs(root, side, 19)[0] for root in (tmp_path / "out", zips[2]))
        assert len(ours) == number
        assert ours.checksum() == theirs.checksum()
        for path, original in zip(ours.pictures + ours.labels, theirs.pictures + theirs.labels, strict=True):
            with open(path, "rb") as one, open(original, "rb") as other:
                assert one.read() == other.read()
    kinds = {path.name.split("_")[-1] for path in (tmp_path / "out").rglob("*.png")}
    assert kinds == {"leftImg8bit.png", "labelIds.png"}
    assert prepare.parse(["--verify", str(tmp_path / "out"), "--workers", "1"]).run() == 0


def test_the_same_command_goes_on_with_what_is_missing(zips, tmp_path, monkeypatch):
    output = tmp_path / "out"
    whole, calls = zips_module.unpack, []

    def fail_at_the_third(part, **options):
        calls.append(part.folder)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(part, **options)

    monkeypatch.setattr(zips_module, "unpack", fail_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        run(zips, output, "--partial")
    assert len(Manifest.load(output).files) == 2
    calls.clear()
    monkeypatch.setattr(zips_module, "unpack", lambda part, **more: calls.append(part.folder) or whole(part, **more))
    assert run(zips, output, "--partial") == 0
    assert len(calls) == 4
    assert run(zips, output, "--partial") == 0
    assert len(calls) == 4


SPOILS = {
    "gone": (lambda folder: [file.unlink() for file in folder.iterdir()][:0], "must have 2 pictures, got 0"),
    "a folder": (lambda folder: (folder / "more").mkdir(), "must have 2 pictures, got 3"),
    "a link to nothing": (lambda folder: (folder / "more.png").symlink_to("nowhere"), "must have 2 pictures, got 3"),
    "changed": (lambda folder: min(folder.iterdir()).write_bytes(b"other"), "a file was changed"),
}


@pytest.mark.parametrize("name", SPOILS)
def test_verify_finds_what_was_changed(name, zips, tmp_path, capsys):
    run(zips, tmp_path / "out", "--partial")
    spoil, message = SPOILS[name]
    spoil(tmp_path / "out/gtFine/train/ulm")
    (tmp_path / "out/leftImg8bit/val/paris").mkdir()
    capsys.readouterr()
    assert prepare.parse(["verify", str(tmp_path / "out"), "--workers", "1"]).run() == 1
    errors = capsys.readouterr().err.splitlines()
    assert errors[0].startswith("error: gtFine/train/ulm: ")
    assert message in errors[0]
    assert errors[1:] == ["error: leftImg8bit/val/paris: not in the manifest"]


def without(path, ending):
    """The zip without the first file of this ending."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    del files[next(name for name in files if name.endswith(ending) and "/test/" not in name)]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def damage(path, _):
    """The zip with another byte in its last file's content, stored as it is."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = archive.infolist()[-2]
    content[info.header_offset + 30 + len(info.filename) + 10] ^= 255
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("which", "spoil", "message"),
    [
        (0, without, "--pictures: must be the zip of the other one's pictures, got one without train/aachen/aachen_0"),
        (1, without, "--labels: must be the zip of the other one's pictures, got one without train/aachen/aachen_0"),
        (0, lambda path, _: path.unlink(), "--pictures: must be a zip file, got "),
        (1, lambda path, _: path.write_bytes(b"text"), "--labels: must be a whole zip file, got "),
        (1, lambda path, _: path.write_bytes(path.read_bytes()[:500]), "--labels: must be a whole zip file, got "),
    ],
)
def test_zips_that_do_not_fit_or_are_damaged(which, spoil, message, zips, tmp_path):
    spoil(zips[which], ".png")
    with pytest.raises(UserError) as error:
        run(zips, tmp_path / "out", "--partial")
    assert str(error.value).startswith(message)
    assert not (tmp_path / "out").exists()


def test_a_damaged_file_of_a_zip_is_named_and_its_folder_not_written(zips, tmp_path):
    damage(zips[0], "")
    with pytest.raises(UserError, match=r"--pictures: must be a whole zip file, .* is damaged in leftImg8bit/val/ulm/"):
        run(zips, tmp_path / "out", "--partial")
    assert not (tmp_path / "out/leftImg8bit/val/ulm").exists()
    assert not list((tmp_path / "out").rglob("*.partial"))


def test_other_numbers_than_cityscapes_need_partial(zips, tmp_path):
    with pytest.raises(UserError, match=r"--pictures: must be a zip of 2,975 pictures of train .*, got 5"):
        run(zips, tmp_path / "out")
    run(zips, tmp_path / "out", "--partial")
    without(zips[0], "license.txt")
    with pytest.raises(UserError, match="--output: must be a directory for pictures = "):
        run(zips, tmp_path / "out", "--partial")
