"""`prepare imagenet` on tiny tars of the official shape, made here."""

import errno
import io
import os
import shutil
import tarfile
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("scipy")

import numpy as np

from airank_fast import prepare
from airank_fast.data.images import ImageFolder
from airank_fast.data.manifest import Manifest
from airank_fast.errors import UserError
from airank_fast.sources import imagenet

CLASSES = {1: "n02119789", 2: "n02100735", 3: "n01440764"}  # the order of the devkit is not that of the names
TRUTH = [3, 1, 2, 2]


def picture(value: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (16, 12), (value, 255 - value, 0)).save(out, "JPEG")
    return out.getvalue()


def tar_of(path: Path | None, files: dict[str, bytes], mode: str = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    if path:
        path.write_bytes(out.getvalue())
    return out.getvalue()


def devkit(path: Path, truth=TRUTH, classes=CLASSES) -> None:
    record = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    rows = [(number, wnid, "a thing", 0) for number, wnid in classes.items()] + [(4, "n00001740", "entity", 2)]
    meta = io.BytesIO()
    import scipy.io

    scipy.io.savemat(meta, {"synsets": np.array(rows, dtype=record)})
    tar_of(
        path,
        {
            "ILSVRC2012_devkit_t12/data/meta.mat": meta.getvalue(),
            "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": "".join(
                f"{label}\n" for label in truth
            ).encode(),
        },
        "w:gz",
    )


@pytest.fixture
def tars(tmp_path) -> Path:
    inner = {
        f"{wnid}.tar": tar_of(None, {f"{wnid}_{i}.JPEG": picture(50 * n + i) for i in range(n + 1)})
        for n, wnid in CLASSES.items()
    }
    tar_of(tmp_path / "train.tar", inner)
    tar_of(tmp_path / "val.tar", {f"ILSVRC2012_val_{i:08d}.JPEG": picture(200 + i) for i in range(1, 5)})
    devkit(tmp_path / "devkit.tar.gz")
    return tmp_path


def run(tars: Path, *more: str) -> int:
    names = {"--train": "train.tar", "--val": "val.tar", "--devkit": "devkit.tar.gz", "--output": "out"}
    arguments = [part for option, name in names.items() for part in (option, str(tars / name))]
    return prepare.parse(["imagenet", *arguments, "--workers", "1", *more]).run()


def refusal(*arguments) -> str:
    with pytest.raises(UserError) as error:
        run(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_tars_to_folders(tars, workers, capsys):
    assert run(tars, "--partial", "--workers", workers) == 0
    assert "train           9 pictures in 3 classes" in capsys.readouterr().out
    out = tars / "out"
    names = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert names == sorted(
        [
            "manifest.json",
            *(f"train/{wnid}/{wnid}_{i}.JPEG" for n, wnid in CLASSES.items() for i in range(n + 1)),
            "val/n01440764/ILSVRC2012_val_00000001.JPEG",
            "val/n02119789/ILSVRC2012_val_00000002.JPEG",
            "val/n02100735/ILSVRC2012_val_00000003.JPEG",
            "val/n02100735/ILSVRC2012_val_00000004.JPEG",
        ]
    )
    assert (out / "val/n02119789/ILSVRC2012_val_00000002.JPEG").read_bytes() == picture(202)
    folder = ImageFolder(out, 3)
    assert (len(folder.train), len(folder.val)) == (9, 4)
    before = (out / "manifest.json").read_bytes()
    assert run(tars, "--partial") == 0  # nothing left to do
    assert (out / "manifest.json").read_bytes() == before


def test_names_that_are_not_utf8_and_a_disk_that_is_full(tars, monkeypatch):
    """The name is bytes in the tar, on the disk and in the checksum; an unfinished folder leaves no trace."""
    odd = os.fsdecode(b"n01440764_\xff.JPEG")
    inner = {
        f"{wnid}.tar": tar_of(None, {odd: picture(n), f"{n}.JPEG": picture(99 + n)}) for n, wnid in CLASSES.items()
    }
    tar_of(tars / "train.tar", inner)

    def full(self, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space left"):
            run(tars, "--partial")
    assert not list((tars / "out").rglob("*.partial"))
    assert run(tars, "--partial") == 0
    assert (tars / "out/train/n01440764" / odd).read_bytes() == picture(3)


def test_it_goes_on_where_it_was(tars, monkeypatch):
    extract, calls = imagenet._extract, iter(range(1))

    def stop(inner, root):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return extract(inner, root)

    monkeypatch.setattr(imagenet, "_extract", stop)
    with pytest.raises(KeyboardInterrupt):
        run(tars, "--partial")
    assert prepare.parse(["--verify", str(tars / "out")]).run() == 1  # unfinished
    done = tars / "out/train/n01440764"
    stamp = done.stat().st_mtime_ns
    monkeypatch.setattr(imagenet, "_extract", extract)
    assert run(tars, "--partial") == 0
    assert done.stat().st_mtime_ns == stamp


def test_verify_finds_what_was_changed(tars, capsys):
    run(tars, "--partial")
    out = tars / "out"

    def problems() -> list[str]:
        capsys.readouterr()
        assert prepare.parse(["--verify", str(out), "--workers", "1"]).run() == 1
        return capsys.readouterr().err.splitlines()

    one = out / "train/n02119789/n02119789_0.JPEG"
    content = one.read_bytes()
    one.write_bytes(content + b"x")
    assert problems()[0].startswith("error: train/n02119789: must have sha256 ")
    one.unlink()
    assert problems() == ["error: train/n02119789: must have 2 pictures, got 1"]
    one.write_bytes(content)
    (out / "val/n99999999").mkdir()
    assert problems() == ["error: val/n99999999: not in the manifest"]
    (out / "val/n99999999").rmdir()
    shutil.rmtree(out / "train/n01440764")
    assert problems() == ["error: train/n01440764: missing"]
    manifest = Manifest.load(out)
    manifest.options["partial"] = False
    manifest.save(out)
    assert problems()[-2:] == [
        "error: train: must have 1,281,167 pictures, got 9",
        "error: val: must have 50,000 pictures, got 4",
    ]


def test_input_that_cannot_be_used(tars):
    assert refusal(tars) == "--train: must have 1,000 classes, got 3 (--partial accepts what is there)"
    original = {path.name: path.read_bytes() for path in tars.iterdir() if path.is_file()}

    def with_(name: str, content: bytes | None) -> str:
        shutil.rmtree(tars / "out", ignore_errors=True)
        for other, its in original.items():
            (tars / other).write_bytes(its)
        if content is None:
            (tars / name).unlink()
        else:
            (tars / name).write_bytes(content)
        return refusal(tars, "--partial")

    train, val = original["train.tar"], original["val.tar"]
    assert "is truncated" in with_("train.tar", train[: len(train) // 2])
    assert "is truncated in ILSVRC2012_val_00000001.JPEG" in with_("val.tar", val[:700])
    assert "a tar file" in with_("train.tar", b"nothing of the kind")
    assert "does not exist" in with_("val.tar", None)
    assert "has no ILSVRC2012_validation_ground_truth.txt" in with_("devkit.tar.gz", tar_of(None, {"a": b"b"}, "w:gz"))
    assert "with one tar per class" in with_("train.tar", val)
    few = {f"ILSVRC2012_val_{i:08d}.JPEG": picture(i) for i in range(1, 4)}
    assert "4 pictures, as the devkit has labels, got 3" in with_("val.tar", tar_of(None, few))
    assert "to 00000004, got ILSVRC2012_val_00000009" in with_(
        "val.tar", tar_of(None, {"ILSVRC2012_val_00000009.JPEG": picture(1)})
    )
    assert "has 0 bytes" in with_("val.tar", tar_of(None, {"ILSVRC2012_val_00000001.JPEG": b""}))
    broken = tar_of(None, {f"{wnid}.tar": b"no tar" * 200 for wnid in CLASSES.values()})
    assert "a whole tar of pictures, n01440764.tar" in with_("train.tar", broken)
    devkit(tars / "other", classes={**CLASSES, 3: "n00000001"})
    assert "the classes of the training pictures" in with_("devkit.tar.gz", (tars / "other").read_bytes())
    devkit(tars / "other", truth=[1, 2, 3, 4])
    assert "labels of 3 classes, got 4" in with_("devkit.tar.gz", (tars / "other").read_bytes())


def test_a_name_with_folders_stays_inside(tars):
    evil = {
        f"{wnid}.tar": tar_of(None, {f"../../{wnid}.JPEG": picture(1), f"/tmp/{wnid}_2.JPEG": picture(n)})
        for n, wnid in CLASSES.items()
    }
    tar_of(tars / "train.tar", evil)
    assert run(tars, "--partial") == 0
    assert sorted(path.name for path in (tars / "out/train/n01440764").iterdir()) == [
        "n01440764.JPEG",
        "n01440764_2.JPEG",
    ]
