"""Unpacks ImageNet's published tars into the folders train/<class>/*.JPEG and val/<class>/*.JPEG.

ILSVRC2012_img_train.tar holds a tar per class, ILSVRC2012_img_val.tar the pictures alone. Their classes are in the
user's own ILSVRC2012_devkit_t12.tar.gz: a class number per picture, and the numbers' classes in meta.mat. The inner
tars are read in place and never written. A class's folder is complete or absent.
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tqdm import tqdm

from airank_fast.data.manifest import Manifest
from airank_fast.errors import UserError
from airank_fast.sources import folders, tars
from airank_fast.sources.workers import ordered_map

NUM_CLASSES, NUM_TRAIN, NUM_VAL = 1000, 1_281_167, 50_000
_TRUTH, _META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"


class _Inner(NamedTuple):
    """A class's tar inside the training tar."""

    wnid: str
    path: Path  # the outer tar
    offset: int
    size: int


def prepare(train: Path, val: Path, devkit: Path, root: Path, *, partial_set: bool, num_workers: int) -> Manifest:
    """Unpack what is not unpacked yet; returns the finished manifest.

    partial_set: accept other numbers of classes and pictures than ImageNet's.
    UserError: a file that is no tar, is truncated, or does not fit the others.
    """
    for option, path in (("--train", train), ("--val", val), ("--devkit", devkit)):
        if not path.is_file():
            raise UserError(f"{option}: must be a tar file, {path} does not exist")
    classes, truth = read_devkit(devkit)
    inner = _class_tars(train)
    if not partial_set:
        _require("--train", "classes", NUM_CLASSES, len(inner))
        _require("--devkit", "labels", NUM_VAL, len(truth))
    unmatched = {part.wnid for part in inner} ^ set(classes.values())
    if unmatched:
        raise UserError(f"--devkit: must have the classes of the training pictures, {min(unmatched)} is in one only")
    root.mkdir(parents=True, exist_ok=True)
    manifest = _open(root, {"train": train.stat().st_size, "val": val.stat().st_size, "partial": partial_set})
    left = [part for part in inner if not folders.has(manifest, root, f"train/{part.wnid}")]
    with tqdm(total=len(left) + 1, unit="class", desc="pictures", disable=None) as bar:
        for part, entry in zip(left, ordered_map(partial(_extract, root=root), left, num_workers), strict=True):
            manifest.files[f"train/{part.wnid}"] = entry
            manifest.save(root)
            bar.update()
        if any(not folders.has(manifest, root, f"val/{wnid}") for wnid in classes.values()):
            for wnid, entry in _extract_val(val, root, [classes[number] for number in truth]).items():
                manifest.files[f"val/{wnid}"] = entry
        bar.update()
    counts = _counts(manifest)
    manifest.stages["pictures"] = {"done": True, "classes": len(classes), **counts}
    manifest.save(root)
    if not partial_set:
        _require("--train", "pictures", NUM_TRAIN, counts["train"])
    return manifest


def _require(option: str, what: str, required: int, got: int) -> None:
    if required != got:
        raise UserError(f"{option}: must have {required:,} {what}, got {got:,} (--partial accepts what is there)")


def _counts(manifest: Manifest) -> dict[str, int]:
    return {side: sum(manifest.files[name]["pictures"] for name in manifest.names(side)) for side in ("train", "val")}


def _open(root: Path, options: dict) -> Manifest:
    manifest = Manifest.load(root)
    if manifest is None:
        manifest = Manifest("imagenet", options)
        manifest.save(root)
    if manifest.kind != "imagenet" or manifest.options != options:
        raise UserError(
            f"--output: must be a directory for these tars, got {root}, which holds {manifest.kind} "
            f"made with {manifest.options}"
        )
    return manifest


def read_devkit(path: Path) -> tuple[dict[int, str], list[int]]:
    """(number -> WordNet id of each class; number of the class of each validation picture, in their order)."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise UserError(
            "--devkit: must have scipy to read meta.mat, got none (pip install 'airank-fast[imagenet]')"
        ) from None
    found: dict[str, bytes] = {}
    with tars.open_tar(path, "--devkit") as tar:
        for member in tars.members(tar, path, "--devkit"):
            name = PurePosixPath(member.name).name
            if member.isfile() and name in (_TRUTH, _META):
                found[name] = tar.extractfile(member).read()
    for name in (_TRUTH, _META):
        if name not in found:
            raise UserError(f"--devkit: must be ILSVRC2012_devkit_t12.tar.gz, {path} has no {name}")
    try:
        synsets = loadmat(io.BytesIO(found[_META]), squeeze_me=True, struct_as_record=False)["synsets"]
        # The classes are the synsets without children; the others are their parents in WordNet.
        classes = {int(one.ILSVRC2012_ID): str(one.WNID) for one in synsets if int(one.num_children) == 0}
        truth = [int(line) for line in found[_TRUTH].split()]
    except Exception as error:  # loadmat: many kinds
        raise UserError(f"--devkit: must be readable data, got {path} ({type(error).__name__}: {error})") from None
    outside = set(truth) - set(classes)
    if outside:
        raise UserError(f"--devkit: must have labels of {len(classes)} classes, got {min(outside)} in {path}")
    return classes, truth


def _class_tars(path: Path) -> list[_Inner]:
    size, inner = path.stat().st_size, []
    with tars.open_tar(path, "--train") as tar:
        for member in tars.members(tar, path, "--train"):
            name = PurePosixPath(member.name).name
            if member.isfile() and name.endswith(".tar"):
                if member.offset_data + member.size > size:
                    raise UserError(f"--train: must be a whole tar file, {path} is truncated in {member.name}")
                inner.append(_Inner(name.removesuffix(".tar"), path, member.offset_data, member.size))
    if not inner:
        raise UserError(f"--train: must be a tar with one tar per class, {path} has none in it")
    return sorted(inner)


class _Section(io.RawIOBase):
    """A section of a file, readable as a file of its own."""

    def __init__(self, path: Path, offset: int, size: int):
        self._file, self._offset, self._size, self._at = open(path, "rb"), offset, size, 0  # noqa: SIM115

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def readinto(self, buffer) -> int:
        self._file.seek(self._offset + self._at)
        num = self._file.readinto(memoryview(buffer)[: max(0, self._size - self._at)])
        self._at += num
        return num

    def close(self) -> None:
        self._file.close()
        super().close()


def _extract(inner: _Inner, root: Path) -> dict:
    """In a worker: write a class's pictures to its folder; returns its entry in the manifest."""
    folder = root / "train" / inner.wnid
    pictures: dict[str, str] = {}
    section = io.BufferedReader(_Section(inner.path, inner.offset, inner.size), 2**20)
    with folders.fresh(folder) as partial_folder, section:
        try:
            with tarfile.open(fileobj=section) as tar:
                for member in tar:
                    if member.isfile():
                        tars.write(tar, member, partial_folder, pictures, inner.path)
        except tarfile.TarError as error:
            which = f"{inner.wnid}.tar in {inner.path}"
            raise UserError(
                f"--train: must be a whole tar of pictures, {which} is not ({tars.reason(error)})"
            ) from None
        if not pictures:
            raise UserError(f"--train: must have pictures in every class, {inner.wnid}.tar has none")
        return folders.finish(partial_folder, folder, pictures, "pictures")


def _extract_val(path: Path, root: Path, wnids: list[str]) -> dict[str, dict]:
    """Write all validation pictures to their classes' folders; returns the entries by class.

    A picture's number, which selects its class, is in its name.
    """
    folder = root / "val"
    with folders.fresh(folder) as partial_folder:
        pictures = _pictures_of_val(path, partial_folder, wnids)
        entries = {wnid: folders.entry(partial_folder / wnid, names, "pictures") for wnid, names in pictures.items()}
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(partial_folder, folder)
    return entries


def _pictures_of_val(path: Path, partial_folder: Path, wnids: list[str]) -> dict[str, dict[str, str]]:
    pictures: dict[str, dict[str, str]] = {wnid: {} for wnid in wnids}
    with tars.open_tar(path, "--val") as tar:
        for member in tars.members(tar, path, "--val"):
            if not member.isfile():
                continue
            stem = PurePosixPath(member.name).stem
            number = int(stem.rpartition("_")[2]) if stem.rpartition("_")[2].isdigit() else 0
            if not 1 <= number <= len(wnids):
                raise UserError(
                    f"--val: must have pictures ILSVRC2012_val_00000001 to {len(wnids):08d}, got {member.name}"
                )
            wnid = wnids[number - 1]
            (partial_folder / wnid).mkdir(exist_ok=True)
            tars.write(tar, member, partial_folder / wnid, pictures[wnid], path)
    num = sum(map(len, pictures.values()))
    if num != len(wnids):
        raise UserError(f"--val: must have {len(wnids):,} pictures, as the devkit has labels, got {num:,} in {path}")
    return pictures


def verify(manifest: Manifest, root: Path, num_workers: int) -> tuple[list[str], list[str]]:
    """(summary, problems) by line, after reading every picture of every class."""
    names = [*manifest.names("train"), *manifest.names("val")]
    problems = manifest.unfinished("pictures") + folders.changed(manifest, root, names, "pictures", num_workers)
    problems += manifest.copies(names, "sha256", "pictures") + manifest.unlisted(root, "train", "val")
    counts = _counts(manifest)
    if not manifest.options["partial"]:
        for side, required in (("train", NUM_TRAIN), ("val", NUM_VAL)):
            if counts[side] != required:
                problems.append(f"{side}: must have {required:,} pictures, got {counts[side]:,}")
    lines = [f"{side:<6} {counts[side]:>10,} pictures in {len(manifest.names(side)):,} classes" for side in counts]
    return lines, problems
