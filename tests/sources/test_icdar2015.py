"""`prepare icdar2015` on tiny zips of the published shape, made here."""

from __future__ import annotations

import zipfile

import pytest
from data.scene_files import line, write_scene, write_strings

from airank_fast import prepare
from airank_fast.data.images.text_scenes import FOLDERS, read_scenes
from airank_fast.errors import UserError
from airank_fast.sources import zips

OPTIONS = ("--training-images", "--training-gt", "--test-images", "--test-gt")
NAMES = [folder for side in ("train", "val") for folder in FOLDERS[side]]


@pytest.fixture
def tree(tmp_path):
    """The files that the zips are made of."""
    return write_strings(tmp_path / "tree", 4, 3)


def pack(tree):
    """The four zips, with what other programs leave in such."""
    for name in NAMES:
        with zipfile.ZipFile(tree / f"{name}.zip", "w") as archive:
            for file in sorted((tree / name).iterdir()):
                archive.write(file, file.name)
            archive.writestr("__MACOSX/._img_1.jpg", "x")
            archive.writestr("Thumbs.db", "x")
    return tree


def run(tree, output, *more: str) -> int:
    given = [text for option, name in zip(OPTIONS, NAMES, strict=True) for text in (option, str(tree / f"{name}.zip"))]
    return prepare.parse(["icdar2015", *given, "--output", str(output), "--workers", "1", *more]).run()


def problems(capsys) -> list[str]:
    return [line.removeprefix("error: ") for line in capsys.readouterr().err.splitlines() if line.startswith("error")]


def test_training_reads_what_is_unpacked_and_verify_finds_it_sound(tree, tmp_path, capsys):
    output = tmp_path / "out"
    assert run(pack(tree), output, "--partial") == 0
    printed = capsys.readouterr().out.splitlines()
    (train, _), (val, _) = (read_scenes(tree, side) for side in FOLDERS)
    for row, side, scenes in zip(printed, FOLDERS, (train, val), strict=False):
        texts = sum(len(each.ignored) for each in scenes.texts)
        ignored = sum(each.ignored.sum() for each in scenes.texts)
        expected = f"{side} {len(scenes)} pictures with {texts} texts, {ignored} of them ignored"
        assert " ".join(row.split()) == expected
        assert read_scenes(output, side)[0].checksum() == scenes.checksum()
    assert printed[2].endswith("out: sound")
    assert prepare.parse(["--verify", str(output), "--workers", "1"]).run() == 0


def test_other_numbers_than_icdars_need_partial(tree, tmp_path):
    with pytest.raises(UserError, match=r"--training-images: must be a zip of 1,000 pictures \(--partial .*, got 4"):
        run(pack(tree), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_same_command_goes_on_with_what_is_missing(tree, tmp_path, monkeypatch):
    whole, calls = zips.unpack, []

    def fail_at_the_third(part, **more):
        calls.append(part.folder)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(part, **more)

    monkeypatch.setattr(zips, "unpack", fail_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        run(pack(tree), tmp_path / "out", "--partial")
    assert run(tree, tmp_path / "out", "--partial") == 0
    assert calls == [*NAMES[:3], *NAMES[2:]]


def test_verify_names_all_that_is_wrong_in_lists_and_pictures(tree, tmp_path, capsys):
    write_scene(tree, "train", 2, read_scenes(tree, "train")[0].read(0)[0], [line([[900, 9]] * 4, "a"), "1,2,3"])
    (tree / FOLDERS["train"][1] / "gt_img_3.txt").unlink()
    (tree / FOLDERS["val"][0] / "img_1.png").write_bytes(b"no picture")
    quad = [[900, 9], [950, 9], [950, 20], [900, 20]]
    write_scene(tree, "val", 2, read_scenes(tree, "val")[0].read(1)[0], [line(quad, "a")])
    (tree / FOLDERS["val"][0] / "img_3.png").unlink()
    output = tmp_path / "out"
    assert run(pack(tree), output, "--partial") == 1
    found = [problem.removeprefix(f"{output}/") for problem in problems(capsys)]
    assert [each.split(": ")[0].rpartition("/")[2] for each in found] == [
        "gt_img_2.txt, line 1",
        "img_3.png",
        "gt_img_3.txt",
        "img_1.png",
        "gt_img_2.txt, line 1",
    ]
    for each, message in zip(
        found,
        [
            "must be a quadrilateral with an area",
            "must have a list of its texts",
            "must have a picture",
            "got not a JPEG or PNG file",
            "must be a quadrilateral in its picture",
        ],
        strict=True,
    ):
        assert message in each


def test_verify_finds_what_was_changed(tree, tmp_path, capsys):
    run(pack(tree), tmp_path / "out", "--partial")
    capsys.readouterr()
    (tmp_path / "out" / NAMES[1] / "gt_img_1.txt").write_text("1,1,20,1,20,9,1,9,ab\n")
    (tmp_path / "out" / NAMES[2] / "img_2.png").unlink()
    assert prepare.parse(["verify", str(tmp_path / "out"), "--workers", "1"]).run() == 1
    found = problems(capsys)
    assert found[0].startswith(f"{NAMES[1]}: must have sha256 ")
    assert found[1] == f"{NAMES[2]}: must have 3 files, got 2"
    assert "gt_img_2.txt: must have a picture" in found[2]


def test_zips_that_do_not_fit(tree, tmp_path):
    pack(tree)
    for name, spoil, message in (
        (NAMES[0], lambda path: path.write_bytes(b"text"), "--training-images: must be a whole zip file, got "),
        (NAMES[1], lambda path: path.unlink(), "--training-gt: must be a zip file, got "),
        (NAMES[2], lambda path: path.write_bytes((tree / f"{NAMES[3]}.zip").read_bytes()), "--test-images: must be "),
    ):
        path = tree / f"{name}.zip"
        content = path.read_bytes()
        spoil(path)
        with pytest.raises(UserError) as error:
            run(tree, tmp_path / "out", "--partial")
        assert str(error.value).startswith(message)
        path.write_bytes(content)
    with zipfile.ZipFile(tree / f"{NAMES[3]}.zip", "a") as archive:
        archive.writestr("again/gt_img_1.txt", "")
    with pytest.raises(UserError, match=r"--test-gt: must be a zip of files with different names, .* gt_img_1.txt 2 t"):
        run(tree, tmp_path / "out", "--partial")
