"""Unpacks ICDAR 2015's incidental scene text (challenge 4, task 1) from the zips of the competition.

The folders are those that training reads, called as the zips: see airank_fast/data/images/text_scenes.py. A folder is
complete or absent; a file whose checksum in the zip differs ends the command. `verify` reads every picture and list.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from airank_fast.data.images.text_scenes import FOLDERS, Scenes, Texts, scan
from airank_fast.data.manifest import Manifest
from airank_fast.errors import require
from airank_fast.sources import folders, zips

KIND = "icdar2015"
NUM_PICTURES = {"train": 1000, "val": 500}
_OPTIONS = {
    "train": ("--training-images", "--training-gt"),
    "val": ("--test-images", "--test-gt"),
}
_PATTERNS = re.compile(r"(?:.*/)?img_\d+\.(?:jpg|png)"), re.compile(r"(?:.*/)?gt_img_\d+\.txt")
_NAMES = "img_N.jpg", "gt_img_N.txt"


def prepare(paths: dict[str, tuple[Path, Path]], root: Path, *, partial_set: bool, num_workers: int) -> Manifest:
    """Unpack what is not unpacked yet; returns the finished manifest.

    paths: of the zips of pictures and of lists, by side, train and val. partial_set: accept other numbers of pictures
    than ICDAR's. UserError: a file that is no zip, is damaged, has other files, or one of them twice.
    """
    parts = [
        _part(option, path, folder, kind)
        for side in FOLDERS
        for kind, (option, path, folder) in enumerate(zip(_OPTIONS[side], paths[side], FOLDERS[side], strict=True))
    ]
    for part, side in zip(parts[::2], FOLDERS, strict=True):
        required = NUM_PICTURES[side]
        what = f"a zip of {required:,} pictures (--partial accepts what is there)"
        require(partial_set or len(part.members) == required, part.option, what, f"{len(part.members):,}")
    root.mkdir(parents=True, exist_ok=True)
    sizes = {part.option[2:]: part.path.stat().st_size for part in parts}
    options = {**sizes, "partial": partial_set}
    manifest = Manifest.begin(root, KIND, options)
    manifest.require_options(root, options)
    zips.unpack_all(parts, manifest, root, num_workers, what="files", unit="folder")
    manifest.stages["pictures"] = {"done": True}
    manifest.save(root)
    return manifest


def _part(option: str, path: Path, folder: str, kind: int) -> zips.Part:
    members = [name for name in zips.names(option, path) if _PATTERNS[kind].fullmatch(name)]
    require(members, option, f"a zip with files {_NAMES[kind]}", f"{path}, which has none")
    name, number = Counter(member.rpartition("/")[2] for member in members).most_common(1)[0]
    require(number == 1, option, "a zip of files with different names", f"{path}, which has {name} {number} times")
    return zips.Part(option, path, folder, sorted(members))


def verify(manifest: Manifest, root: Path, num_workers: int) -> tuple[list[str], list[str]]:
    """(summary, problems) by line, after reading every file: changed files, bad lines, pictures or lists alone."""
    names = [name for of_side in FOLDERS.values() for name in of_side]
    listed = [name for name in names if name in manifest.files]
    problems = manifest.unfinished("pictures") + folders.changed(manifest, root, listed, "files", num_workers)
    summary = []
    for side, of_side in FOLDERS.items():
        if not all((root / name).is_dir() for name in of_side):
            continue
        sound: list[tuple[str, str, Texts]] = []
        for picture, its_list, found in scan(root, side):
            if isinstance(found, Texts):
                sound.append((picture, its_list, found))
            else:
                problems.append(": ".join(found))
        scenes = Scenes(root, *([each[column] for each in sound] for column in range(3)))
        broken = scenes.find_corrupt(num_workers).values()
        problems += [f"{each.path}: must be {each.what}, got {each.why}" for each in broken]
        pictures = len(list((root / of_side[0]).iterdir()))
        if not manifest.options["partial"] and pictures != NUM_PICTURES[side]:
            problems.append(f"{side}: must have {NUM_PICTURES[side]:,} pictures, got {pictures:,}")
        texts = sum(len(each.ignored) for each in scenes.texts)
        ignored = sum(int(each.ignored.sum()) for each in scenes.texts)
        summary.append(f"{side:<6} {pictures:>10,} pictures with {texts:,} texts, {ignored:,} of them ignored")
    return summary, problems
