"""Unpacks Kinetics-400's tars of videos and lists them with their classes, as airank_fast.train tsm reads them.

CVDF (github.com/cvdfoundation/kinetics-dataset) publishes the videos in train/part_0.tar.gz and so on, and their
classes in train.csv and val.csv: label, youtube_id, time_start, time_end, split. A video's name begins with its
youtube_id, of 11 characters. Some videos of the files are no longer on the web; some were corrupt, and a tar of its own
replaces most of them. A tar's folder is complete or absent.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from airank_fast.data.manifest import Manifest
from airank_fast.data.text.shards import whole_file
from airank_fast.errors import UserError, require
from airank_fast.sources import folders, tars
from airank_fast.sources.workers import ordered_map

KIND = "kinetics"
NUM_CLASSES = 400
LEAST = {"train": 200_000, "val": 19_000}  # CVDF has 240,258 and 19,881
CLASSES = "classes.txt"
_SUFFIXES = (".tar.gz", ".tgz", ".tar")
_VIDEO = ".mp4"
_ID = 11  # characters


class _Part(NamedTuple):
    """A tar, and the name of the folder that it becomes: train/part_0."""

    name: str
    path: Path
    option: str


def prepare(
    archives: Mapping[str, Path | None], annotations: Path, root: Path, *, partial_set: bool, num_workers: int
) -> Manifest:
    """Unpack what is not unpacked yet, and write train.txt, val.txt and classes.txt; returns the finished manifest.

    archives: train, val and replacement: a tar, a directory of tars, or for the last None. partial_set: accept other
    numbers of classes and videos than Kinetics-400's. UserError: a file that is no tar, is truncated, or a csv that
    does not fit the videos.
    """
    labels = {side: read_annotations(annotations / f"{side}.csv") for side in ("train", "val")}
    classes = sorted({*labels["train"].values()})
    unknown = sorted({*labels["val"].values()} - {*classes})
    what = "of the classes of train.csv"
    require(not unknown, str(annotations / "val.csv"), what, f"'{unknown[0]}'" if unknown else "")
    if not partial_set and len(classes) != NUM_CLASSES:
        raise _other_number(str(annotations / "train.csv"), f"{NUM_CLASSES} classes", len(classes))
    parts = [part for side, path in archives.items() if path is not None for part in _parts(side, path)]
    root.mkdir(parents=True, exist_ok=True)
    options = {"parts": {part.name: part.path.stat().st_size for part in parts}, "partial": partial_set}
    manifest = Manifest.begin(root, KIND, options)
    manifest.require_options(root, options)
    left = [part for part in parts if not folders.has(manifest, root, part.name)]
    unpacked = ordered_map(partial(_unpack, root=root), left, num_workers)
    for part, entry in zip(left, tqdm(unpacked, total=len(left), unit="tar", disable=None), strict=True):
        manifest.files[part.name] = entry
        manifest.save(root)
    counts = _write_lists(manifest, root, classes, labels)
    for side, least in LEAST.items():
        if not partial_set and counts[side] < least:
            raise _other_number(f"--{side}", f"at least {least:,} videos of {side}.csv", counts[side])
    manifest.stages["lists"] = {"done": True, "classes": len(classes), **counts}
    manifest.save(root)
    return manifest


def read_annotations(path: Path) -> dict[str, str]:
    """youtube_id -> class, in the order of a csv with the columns label and youtube_id; UserError for another file."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            columns = rows.fieldnames or []
            what = "a csv with the columns label and youtube_id"
            require({"label", "youtube_id"} <= {*columns}, str(path), what, f"{', '.join(columns) or 'nothing'}")
            found = {row["youtube_id"]: row["label"] for row in rows}
    except FileNotFoundError:
        raise UserError(f"--annotations: must be a directory of train.csv and val.csv, there is no {path}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: must be a readable csv, got {error}") from None
    bad = next((name for name, label in found.items() if len(name or "") != _ID or not label), None)
    require(bad is None, str(path), f"rows of a label and a youtube_id of {_ID} characters", repr(bad))
    require(len(found), str(path), "rows of videos", "none")
    return found


def _parts(side: str, path: Path) -> Iterator[_Part]:
    """The tars of an option, in the order of their numbers."""
    option = f"--{side}"
    files = [path] if path.is_file() else []
    if path.is_dir():
        files = [each for each in sorted(path.iterdir()) if each.name.endswith(_SUFFIXES) and each.is_file()]
    require(len(files), option, f"a tar or a directory of tars ({', '.join(_SUFFIXES)})", path)
    for file in files:
        stem = next((file.name.removesuffix(each) for each in _SUFFIXES if file.name.endswith(each)), file.name)
        yield _Part(f"{side}/{stem}", file, option)


def _unpack(part: _Part, root: Path) -> dict:
    """In a worker: write a tar's videos to its folder; returns its entry in the manifest."""
    folder = root / part.name
    sums: dict[str, str] = {}
    with folders.fresh(folder) as partial_folder, tars.open_tar(part.path, part.option) as tar:
        for member in tars.members(tar, part.path, part.option):
            if member.isfile() and member.name.endswith(_VIDEO):
                tars.write(tar, member, partial_folder, sums, part.path, may_be_empty=True)
        require(len(sums), part.option, f"tars of videos ({_VIDEO})", f"{part.path}, which has none")
        return folders.finish(partial_folder, folder, sums, "videos")


def _write_lists(manifest: Manifest, root: Path, classes: list[str], labels: dict[str, dict[str, str]]) -> dict:
    """Write the lists; returns how many videos each has, and how many of the csv are missing."""
    numbers = {name: number for number, name in enumerate(classes)}
    replacing = dict(_videos(manifest, root, "replacement"))
    counts = {}
    for side, classes_of in labels.items():
        there = dict(_videos(manifest, root, side))
        there |= {name: replacing[name] for name in there.keys() & replacing.keys()}
        rows = [f"{there[name]} {numbers[label]}\n" for name, label in classes_of.items() if name in there]
        _write(manifest, root, f"{side}.txt", "".join(rows))
        counts |= {side: len(rows), f"{side}_missing": len(classes_of) - len(rows)}
        counts[f"{side}_unlisted"] = len(there) - len(rows)
    _write(manifest, root, CLASSES, "".join(f"{name}\n" for name in classes))
    return counts


def _videos(manifest: Manifest, root: Path, side: str) -> Iterator[tuple[str, str]]:
    """(youtube_id, path relative to the root) of the videos of all folders of a side."""
    for folder in manifest.names(side):
        for path in sorted((root / folder).iterdir()):
            yield path.name[:_ID], f"{folder}/{path.name}"


def _write(manifest: Manifest, root: Path, name: str, text: str) -> None:
    with whole_file(root / name) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    manifest.add(root, name)


def _other_number(what: str, required: str, got: int) -> UserError:
    return UserError(f"{what}: must have {required}, got {got:,} (--partial accepts what is there)")


def verify(manifest: Manifest, root: Path, num_workers: int) -> tuple[list[str], list[str]]:
    """(summary, problems) by line, after reading every video of every folder, and the lists."""
    names = [name for side in ("train", "val", "replacement") for name in manifest.names(side)]
    problems = manifest.unfinished("lists") + folders.changed(manifest, root, names, "videos", num_workers)
    for name in ("train.txt", "val.txt", CLASSES):
        problems += manifest.changed(root, name) if name in manifest.files else [f"{name}: missing"]
    problems += manifest.copies(names, "sha256", "videos") + manifest.unlisted(root, "train", "val", "replacement")
    lists = manifest.stages.get("lists", {})
    lines = []
    for side in ("train", "val"):
        missing, unlisted = lists.get(f"{side}_missing", 0), lists.get(f"{side}_unlisted", 0)
        other = f"({missing:,} of {side}.csv are missing, {unlisted:,} are not in it)"
        lines.append(f"{side:<6} {lists.get(side, 0):>10,} videos in {len(manifest.names(side)):,} folders {other}")
    return lines, problems
