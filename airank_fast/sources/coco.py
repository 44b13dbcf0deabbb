"""Unpacks COCO 2017's published zips into the folders that training reads, and its annotations into arrays.

train2017.zip, val2017.zip and annotations_trainval2017.zip, of which instances_train2017.json and
instances_val2017.json are unpacked, with their arrays (data/images/coco_file.py) in arrays/. A folder is complete or
absent; a file whose checksum in the zip differs ends the command. Of the published annotations a few have boxes of no
area, which train nothing: these are left out, and listed; any other flaw ends the command.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from pathlib import Path

import numpy as np

from airank_fast.data.images.coco import ANNOTATIONS, PICTURES, Coco
from airank_fast.data.images.coco_file import ARRAYS, NO_AREA, LeftOut, load, missing_pictures, read_file, save
from airank_fast.data.manifest import Manifest
from airank_fast.errors import UserError, require
from airank_fast.sources import folders, zips
from airank_fast.walk import entries

KIND = "coco"
NUM_PICTURES = {"train": 118_287, "val": 5_000}
NUM_CATEGORIES, LARGEST_CATEGORY = 80, 90
_MOST_NAMED = 5  # of the files in one line
_BEGINNING = 4096  # bytes of two pictures that are compared before the whole files are


def prepare(
    zipped: dict[str, Path], annotations: Path, root: Path, *, partial_set: bool, skip_corrupt: bool, num_workers: int
) -> Manifest:
    """Unpack what is not unpacked yet; returns the finished manifest.

    zipped: of the pictures, by side, train and val. partial_set: accept other numbers of pictures than COCO's.
    skip_corrupt: leave bad annotations out. UserError: a file that is no zip, is damaged, or lacks its files; a bad
    annotation.
    """
    parts = []
    for side, folder in PICTURES.items():
        option, path = f"--{side}", zipped[side]
        members = [name for name in zips.names(option, path) if re.fullmatch(rf"(?:.*/)?{folder}/[^/]+\.jpg", name)]
        require(members, option, f"a zip with {folder}/NUMBER.jpg", f"{path}, which has none")
        what = f"a zip of {NUM_PICTURES[side]:,} pictures (--partial accepts what is there)"
        require(partial_set or len(members) == NUM_PICTURES[side], option, what, f"{len(members):,}")
        parts.append(zips.Part(option, path, folder, members))
    there = set(zips.names("--annotations", annotations))
    for name in ANNOTATIONS.values():
        require(name in there, "--annotations", f"a zip with {name}", f"{annotations}, which has none")
    parts.append(zips.Part("--annotations", annotations, "annotations", list(ANNOTATIONS.values())))
    root.mkdir(parents=True, exist_ok=True)
    sizes = {part.option[2:]: part.path.stat().st_size for part in parts}
    options = {**sizes, "partial": partial_set, "skip_corrupt": skip_corrupt}
    manifest = Manifest.begin(root, KIND, options)
    manifest.require_options(root, options)
    zips.unpack_all(parts, manifest, root, num_workers, what="files", unit="folder")
    for side in PICTURES:
        _make_arrays(manifest, root, side, skip_corrupt)
    manifest.stages["pictures"] = {"done": True}
    manifest.save(root)
    return manifest


def _make_arrays(manifest: Manifest, root: Path, side: str, skip_corrupt: bool) -> None:
    path = root / ANNOTATIONS[side]
    name = f"{ARRAYS}/{path.stem}"
    if folders.has(manifest, root, name):
        return
    coco, left_out = read_file(path, root / PICTURES[side], skip_corrupt=True)
    for where, why in left_out:
        if not (skip_corrupt or NO_AREA in why):
            raise UserError(f"{where}: {why}; --skip-corrupt leaves it out")
    with folders.fresh(root / name) as partial:
        save(coco, left_out, path, partial)
        sums = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in partial.iterdir()}
        manifest.files[name] = folders.finish(partial, root / name, sums, "files")
    manifest.save(root)


def verify(manifest: Manifest, root: Path, num_workers: int) -> tuple[list[str], list[str]]:
    """(summary, problems) by line, after reading every file.

    The summary has what is no error: pictures without an object, boxes that reach out of their picture, copies.
    """
    names = [*PICTURES.values(), "annotations", *(f"{ARRAYS}/{Path(path).stem}" for path in ANNOTATIONS.values())]
    listed = [name for name in names if name in manifest.files]
    problems = manifest.unfinished("pictures") + folders.changed(manifest, root, listed, "files", num_workers)
    summary, categories = [], set()
    for side, folder in PICTURES.items():
        if not (root / folder).is_dir() or (found := load(root / ANNOTATIONS[side], root / folder)) is None:
            continue
        coco, left_out = found
        summary += _summary(side, coco, left_out)
        problems += _problems(side, coco, left_out, manifest.options["partial"])
        categories.add((*coco.category_ids.tolist(), *coco.category_names.tolist()))
        broken = coco.take(np.setdiff1d(np.arange(len(coco)), missing_pictures(coco))).find_corrupt(num_workers)
        problems += [f"{each.path}: must be {each.what}, got {each.why}" for each in broken.values()]
    if len(categories) > 1:
        problems.append("annotations: must have the same categories, by id and name, to train and to evaluate")
    return summary, problems


def _summary(side: str, coco: Coco, left_out: LeftOut) -> list[str]:
    numbers = np.diff(coco.offsets)
    most = numbers.max(initial=0)
    limits = coco.sizes[coco.pictures][:, ::-1]
    beyond = np.maximum(-coco.boxes[:, :2], coco.boxes[:, :2] + coco.boxes[:, 2:] - limits).max(1, initial=0)
    outside, farthest = int((beyond > 0).sum()), beyond.max(initial=0)
    ids = coco.category_ids
    lines = [
        f"{side:<6} {len(coco):>10,} pictures with {len(coco.labels):,} objects, {int(coco.crowd.sum()):,} of them "
        f"crowds, of {len(ids)} categories with ids {ids.min()} to {ids.max()}",
        f"{side:<6} {int((numbers == 0).sum()):>10,} pictures without an object; at most {most:,} objects",
        f"{side:<6} {outside:>10,} boxes reach out of their picture, by at most {farthest:.2f} pixels",
    ]
    rows = np.column_stack([coco.pictures, coco.labels, coco.boxes])
    copied = len(rows) - len(np.unique(rows, axis=0))
    lines.append(f"{side:<6} {copied:>10,} objects with the picture, category and box of another one")
    lines.append(f"{side:<6} " + _some(_copies(coco.folder), "pictures that are copies of another one"))
    lines += [f"{side:<6} left out: {where}: {why}" for where, why in left_out]
    return lines


def _problems(side: str, coco: Coco, left_out: LeftOut, is_partial: bool) -> list[str]:
    problems = []
    if coco.crowd.all():
        problems.append(f"{side}: must have an object that is no crowd, got none")
    missing = [coco.names[number] for number in missing_pictures(coco)]
    unnamed = sorted({entry.name for entry in entries(coco.folder)} - set(coco.names.tolist()))
    of_pictures = [where for where, _ in left_out if re.search(r", (?:picture|images, element) \d+$", where)]
    if len(unnamed) <= len(of_pictures):  # whose entries --skip-corrupt has left out
        unnamed = []
    for names, what in (
        (missing, "that the annotations name are missing"),
        (unnamed, "have no entry in the annotations"),
    ):
        if names:
            problems.append(f"{coco.folder}: " + _some(names, f"pictures {what}").lstrip())
    if is_partial:
        return problems
    if len(coco) != NUM_PICTURES[side]:
        problems.append(f"{side}: must have {NUM_PICTURES[side]:,} pictures, got {len(coco):,}")
    ids = coco.category_ids
    if len(ids) != NUM_CATEGORIES or ids.max() != LARGEST_CATEGORY or ids.min() != 1:
        what = f"{NUM_CATEGORIES} categories with ids 1 to {LARGEST_CATEGORY}"
        problems.append(f"{side}: must have {what}, got {len(ids)} with ids {ids.min()} to {ids.max()}")
    return problems


def _copies(folder: Path) -> list[str]:
    """The names of pictures whose content an earlier one has."""
    alike = defaultdict(list)
    for entry in entries(folder):
        if entry.is_file():
            with open(entry.path, "rb") as file:
                alike[entry.stat().st_size, file.read(_BEGINNING)].append(entry)
    seen: set[bytes] = set()
    found = []
    for candidates in alike.values():
        for entry in candidates if len(candidates) > 1 else ():
            digest = hashlib.sha256(Path(entry.path).read_bytes()).digest()
            if digest in seen:
                found.append(entry.name)
            seen.add(digest)
    return sorted(found)


def _some(names: list[str], what: str) -> str:
    shown = ", ".join(names[:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "")
    return f"{len(names):>10,} {what}" + (f": {shown}" if names else "")
