"""Unpacks Cityscapes' published zips into the tree that training reads: see airank_fast/data/images/label_images.py.

leftImg8bit_trainvaltest.zip has the pictures, gtFine_trainvaltest.zip several annotations of each, of which the label
ids are written. The test set has none and is left out. A city's folder is complete or absent; a file whose checksum in
the zip differs ends the command.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from airank_fast.data.images.label_images import LABEL_SUFFIX, PICTURE_SUFFIX
from airank_fast.data.manifest import Manifest
from airank_fast.errors import require
from airank_fast.sources import folders, zips

KIND = "cityscapes"
NUM_PICTURES = {"train": 2_975, "val": 500}
_KINDS = {"leftImg8bit": ("--pictures", PICTURE_SUFFIX), "gtFine": ("--labels", LABEL_SUFFIX)}


def prepare(pictures: Path, labels: Path, root: Path, *, partial_set: bool, num_workers: int) -> Manifest:
    """Unpack what is not unpacked yet; returns the finished manifest.

    partial_set: accept other numbers of pictures than Cityscapes'.
    UserError: a file that is no zip, or is damaged; a picture without labels, or labels without a picture.
    """
    parts = [*_parts("leftImg8bit", pictures), *_parts("gtFine", labels)]
    names = [
        {
            f"{part.folder.partition('/')[2]}/{member.rpartition('/')[2].removesuffix(suffix)}"
            for part in parts
            if part.option == option
            for member in part.members
        }
        for option, suffix in _KINDS.values()
    ]
    for (option, _), there, other in zip(_KINDS.values(), names, names[::-1], strict=True):
        missing = min(other - there, default=None)
        require(missing is None, option, "the zip of the other one's pictures", f"one without {missing}")
    if not partial_set:
        for side, number in NUM_PICTURES.items():
            found = sum(name.startswith(f"{side}/") for name in names[0])
            what = f"a zip of {number:,} pictures of {side} (--partial accepts what is there)"
            require(found == number, "--pictures", what, f"{found:,}")
    root.mkdir(parents=True, exist_ok=True)
    options = {"pictures": pictures.stat().st_size, "labels": labels.stat().st_size, "partial": partial_set}
    manifest = Manifest.begin(root, KIND, options)
    manifest.require_options(root, options)
    zips.unpack_all(parts, manifest, root, num_workers, what="pictures", unit="city")
    manifest.stages["pictures"] = {"done": True, **_counts(manifest)}
    manifest.save(root)
    return manifest


def _counts(manifest: Manifest) -> dict[str, int]:
    return {
        side: sum(manifest.files[name]["pictures"] for name in manifest.names(f"leftImg8bit/{side}"))
        for side in NUM_PICTURES
    }


def _parts(kind: str, path: Path) -> list[zips.Part]:
    """The zip's files by city; their folder is gtFine/train/ulm."""
    option, suffix = _KINDS[kind]
    pattern = re.compile(rf"(?:.*/)?({kind}/(?:train|val)/\w+)/[\w-]+{re.escape(suffix)}")
    members: dict[str, list[str]] = defaultdict(list)
    for name in zips.names(option, path):
        if match := pattern.fullmatch(name):
            members[match[1]].append(name)
    require(members, option, f"a zip with {kind}/train/CITY/NAME{suffix}", f"{path}, which has none")
    return [zips.Part(option, path, folder, sorted(members[folder])) for folder in sorted(members)]


def verify(manifest: Manifest, root: Path, num_workers: int) -> tuple[list[str], list[str]]:
    """(summary, problems) by line, after reading every file of every city."""
    names = [name for kind in _KINDS for name in manifest.names(kind)]
    problems = manifest.unfinished("pictures") + folders.changed(manifest, root, names, "pictures", num_workers)
    problems += manifest.copies(names, "sha256", "pictures")
    problems += manifest.unlisted(root, *(f"{kind}/{side}" for kind in _KINDS for side in NUM_PICTURES))
    counts = _counts(manifest)
    if not manifest.options["partial"]:
        for side, required in NUM_PICTURES.items():
            if counts[side] != required:
                problems.append(f"{side}: must have {required:,} pictures, got {counts[side]:,}")
    cities = {side: len(manifest.names(f"leftImg8bit/{side}")) for side in NUM_PICTURES}
    lines = [f"{side:<6} {counts[side]:>10,} pictures of {cities[side]:,} cities, with label ids" for side in counts]
    return lines, problems
