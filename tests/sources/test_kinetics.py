"""`prepare kinetics` on tiny tars of CVDF's shape, made here."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import pytest

from airank_fast import prepare
from airank_fast.data.images.clips import read_clips
from airank_fast.data.manifest import Manifest
from airank_fast.errors import UserError

LABELS = ["yoga", "abseiling", "air drumming"]  # not in the order of their numbers


def name_of(number: int) -> str:
    """A youtube_id of 11 characters, which may begin with a dash."""
    return f"-id_{number:07d}"


def video(number: int) -> bytes:
    return b"video %d" % number


def tar_of(path: Path, numbers, *, folder: str = "", content=video) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for number in numbers:
            member = tarfile.TarInfo(f"./{folder}{name_of(number)}_000010_000020.mp4")
            member.size = len(content(number))
            tar.addfile(member, io.BytesIO(content(number)))
    return path


def write_csv(path: Path, numbers) -> None:
    rows = [f"{LABELS[number % 3]},{name_of(number)},10,20,{path.stem},0\n" for number in numbers]
    path.parent.mkdir(exist_ok=True)
    head = "label,youtube_id,time_start,time_end,split,is_cc\n"
    path.write_text(head + "".join(rows), encoding="utf-8-sig")  # as spreadsheets save it; the published have no mark


@pytest.fixture
def published(tmp_path):
    """Videos 0 to 7 in two tars and 10 to 12 in one; 8 and 9 are in the csv alone, and 13 in a tar alone."""
    tar_of(tmp_path / "train" / "part_0.tar.gz", range(5))
    tar_of(tmp_path / "train" / "part_1.tar.gz", [5, 6, 7, 13])
    tar_of(tmp_path / "val" / "part_0.tar.gz", range(10, 13))
    tar_of(tmp_path / "replacement.tgz", [6, 99], folder="replacement_for_corrupted_k400/", content=lambda n: b"whole")
    write_csv(tmp_path / "annotations" / "train.csv", range(10))
    write_csv(tmp_path / "annotations" / "val.csv", range(10, 13))
    return tmp_path


def arguments(published: Path, *more: str) -> list[str]:
    given = [part for name in ("train", "val", "annotations") for part in (f"--{name}", str(published / name))]
    return ["kinetics", *given, "--output", str(published / "out"), "--partial", "--workers", "1", *more]


def run(published: Path, *more: str) -> int:
    return prepare.parse(arguments(published, *more)).run()


def rows(published: Path, name: str) -> list[list[str]]:
    return [row.split(" ") for row in (published / "out" / name).read_text().splitlines()]


def test_videos_are_unpacked_and_listed_with_their_classes(published, capsys):
    assert run(published, "--replacement", str(published / "replacement.tgz")) == 0
    printed = capsys.readouterr().out
    assert "train           8 videos in 2 folders (2 of train.csv are missing, 1 are not in it)" in printed
    assert "val             3 videos in 1 folders (0 of val.csv are missing, 0 are not in it)" in printed
    classes = (published / "out" / "classes.txt").read_text().splitlines()
    assert classes == sorted(LABELS)
    train = rows(published, "train.txt")
    assert [classes[int(label)] for _, label in train] == [LABELS[number % 3] for number in range(8)]
    contents = [(published / "out" / path).read_bytes() for path, _ in train]
    assert contents == [b"whole" if number == 6 else video(number) for number in range(8)]
    clips, corrupt = read_clips(published / "out" / "val.txt", 3)
    assert (len(clips.names), corrupt) == (3, [])
    assert clips.names[0] == f"val/part_0/{name_of(10)}_000010_000020.mp4"


def test_a_second_run_unpacks_what_is_missing_alone(published):
    assert run(published) == 0
    kept = published / "out" / "train" / "part_0" / f"{name_of(0)}_000010_000020.mp4"
    before, listed = kept.stat().st_mtime_ns, rows(published, "train.txt")
    manifest = Manifest.load(published / "out")
    del manifest.files["train/part_1"]
    manifest.stages = {}
    manifest.save(published / "out")
    assert run(published) == 0
    assert kept.stat().st_mtime_ns == before
    assert rows(published, "train.txt") == listed
    tar_of(published / "train" / "part_1.tar.gz", range(5, 9))
    with pytest.raises(UserError, match="--output: must be a directory for parts = "):
        run(published)


def test_an_empty_video_is_kept_for_training_to_report(published):
    tar_of(published / "val" / "part_0.tar.gz", range(10, 13), content=lambda n: b"" if n == 11 else video(n))
    assert run(published) == 0
    assert [(published / "out" / path).stat().st_size for path, _ in rows(published, "val.txt")] == [8, 0, 8]


def damage_video(root: Path) -> None:
    (root / "train" / "part_0" / f"{name_of(1)}_000010_000020.mp4").write_bytes(b"video X")


def remove_video(root: Path) -> None:
    (root / "train" / "part_0" / f"{name_of(1)}_000010_000020.mp4").unlink()


def change_list(root: Path) -> None:
    path = root / "val.txt"
    path.write_text(path.read_text().replace("0\n", "1\n", 1))


def add_folder(root: Path) -> None:
    (root / "val" / "more").mkdir()


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (damage_video, "train/part_0: must have sha256"),
        (remove_video, "train/part_0: must have 5 videos, got 4"),
        (change_list, "val.txt: must have sha256"),
        (add_folder, "val/more: not in the manifest"),
    ],
)
def test_verify_finds(damage, problem, published, capsys):
    assert run(published) == 0
    damage(published / "out")
    assert prepare.parse(["--verify", str(published / "out"), "--workers", "1"]).run() == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert problem in errors[0]


def test_bad_input(published):
    whole = [part for part in arguments(published) if part != "--partial"]
    with pytest.raises(UserError, match=r"train.csv: must have 400 classes, got 3"):
        prepare.parse(whole).run()
    path = published / "val" / "part_0.tar.gz"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(UserError, match=r"must be a whole tar file, .*part_0.tar.gz is truncated"):
        run(published)
    shutil.rmtree(published / "out")
    path.write_bytes(b"no tar")
    with pytest.raises(UserError, match="--val: must be a tar file, got"):
        run(published)
    path.unlink()
    with pytest.raises(UserError, match="--val: must be a tar or a directory of tars"):
        run(published)


def test_bad_annotations(published):
    path = published / "annotations" / "val.csv"
    path.write_text("label,youtube_id\njuggling,abcdefghijk\n")
    with pytest.raises(UserError, match=r"val.csv: must be of the classes of train.csv, got 'juggling'"):
        run(published)
    path.write_text("label,youtube_id\nyoga,short\n")
    with pytest.raises(UserError, match="rows of a label and a youtube_id of 11 characters, got 'short'"):
        run(published)
    path.write_text("name\n")
    with pytest.raises(UserError, match="must be a csv with the columns label and youtube_id, got name"):
        run(published)
    path.unlink()
    with pytest.raises(UserError, match=r"--annotations: must be a directory of train.csv and val.csv, there is no"):
        run(published)
