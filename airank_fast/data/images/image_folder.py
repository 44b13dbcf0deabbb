"""Indexes and checks an ImageFolder tree (`train/<class>/**/*.JPEG`, `val/<class>/**/*.JPEG`); finds corrupt files."""

from __future__ import annotations

import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from airank_fast.errors import UserError
from airank_fast.walk import entries

SUFFIXES = (".jpeg", ".jpg", ".png")  # of the names; ImageNet has a PNG that is called .JPEG
OTHER_SUFFIXES = (".bmp", ".pgm", ".ppm", ".tif", ".tiff", ".webp")  # torchvision's ImageFolder reads these too
FORMATS = ("JPEG", "PNG")  # of the contents
PICTURE = "a whole JPEG or PNG picture"
_MOST_NAMED = 20  # of the files that are left out


@dataclass(frozen=True)
class Split:
    """One half of the tree."""

    files: list[str]  # absolute paths, sorted by class, then by folder and name
    labels: np.ndarray  # int64 [len(files)]
    classes: tuple[str, ...]  # folder names, sorted; a label is a position in it

    def __len__(self) -> int:
        return len(self.files)

    def without(self, files: Iterable[str], name: str) -> Split:
        """The split without `files`. UserError if a class loses its last picture."""
        dropped = set(files)
        keep = np.array([f not in dropped for f in self.files], dtype=bool)
        left = np.bincount(self.labels[keep], minlength=len(self.classes))
        if not left.all():
            raise UserError(
                f"{name}: must have a readable picture in every class, class "
                f"'{self.classes[int(left.argmin())]}' has none"
            )
        return Split([f for f, k in zip(self.files, keep, strict=True) if k], self.labels[keep], self.classes)


class ImageFolder:
    """The index of a tree. Reads names only; with `num_classes` None any number of classes is accepted.

    UserError: no such directory, no `train` or `val`, a class on one side only, an empty class, a number of classes
    other than `num_classes`.
    """

    def __init__(self, root: str | os.PathLike, num_classes: int | None = None):
        self.root = os.path.abspath(os.path.expanduser(os.fspath(root)))
        if not os.path.isdir(self.root):
            raise UserError(
                f"data: must be a directory with train/ and val/, got {self.root}, which is not a directory"
            )
        classes = {side: self._classes(side) for side in ("train", "val")}
        for here, there in (("train", "val"), ("val", "train")):
            missing = sorted(set(classes[here]) - set(classes[there]))
            if missing:
                raise UserError(
                    f"data: must have the same classes in train/ and val/, "
                    f"{_some(missing)} missing in {os.path.join(self.root, there)}"
                )
        self.classes = classes["train"]
        if num_classes is not None and len(self.classes) != num_classes:
            raise UserError(
                f"data: must have {num_classes} classes, got {len(self.classes)} in "
                f"{self.root} (pass --num-classes {len(self.classes)} to train on these)"
            )
        self._other_kinds: Counter[str] = Counter()
        self.train, self.val = self._split("train"), self._split("val")

    def passed_over(self) -> str | None:
        """The line with the number of pictures that no reader takes, by suffix; None if there are none."""
        return passed_over(self._other_kinds)

    def checksum(self) -> str:
        """sha256 of the paths of all pictures in use, relative to the root, in hex."""
        digest = hashlib.sha256()
        for path in (*self.train.files, *self.val.files):
            digest.update(os.fsencode(os.path.relpath(path, self.root)) + b"\n")
        return digest.hexdigest()

    def skip(self, files: Iterable[str]) -> None:
        """Take `files` (of `find_corrupt`) out of both splits."""
        files = set(files)
        self.train, self.val = self.train.without(files, "train"), self.val.without(files, "val")

    def _classes(self, side: str) -> tuple[str, ...]:
        path = os.path.join(self.root, side)
        if not os.path.isdir(path):
            raise UserError(f"data: must have train/ and val/ in {self.root}, there is no {side}/")
        names = [entry.name for entry in entries(path) if entry.is_dir() and not entry.name.startswith(".")]
        if not names:
            raise UserError(f"data: must have one folder per class in {path}, there is none")
        return tuple(names)

    def _split(self, side: str) -> Split:
        files, counts = [], []
        for name in self.classes:
            path = os.path.join(self.root, side, name)
            pictures = pictures_in(path, self._other_kinds)
            if not pictures:
                raise UserError(f"data: must have pictures ({', '.join(SUFFIXES)}) in every class, {path} has none")
            files += pictures
            counts.append(len(pictures))
        return Split(files, np.repeat(np.arange(len(counts), dtype=np.int64), counts), self.classes)


def passed_over(other_kinds: Counter[str]) -> str | None:
    """The line with the number of pictures that no reader takes, by suffix; None if there are none."""
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(other_kinds.items()))
    return f"data: pictures that are neither JPEG nor PNG are passed over: {kinds}" if kinds else None


def pictures_in(folder: str, other_kinds: Counter[str]) -> list[str]:
    """The paths of a folder's pictures at any depth, in torchvision's order: by folder, then by name.

    Hidden files and folders are left out, pictures of other kinds counted. Links are followed, except to a folder
    above."""
    found: dict[str, list[str]] = {}
    waiting = [(folder, frozenset([_identity(folder)]))]
    while waiting:
        folder, above = waiting.pop()
        names = found[folder] = []
        for entry in entries(folder):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                identity = _identity(entry.path)
                if identity not in above:
                    waiting.append((entry.path, above | {identity}))
            elif entry.name.lower().endswith(SUFFIXES):
                names.append(entry.path)
            elif (suffix := os.path.splitext(entry.name)[1].lower()) in OTHER_SUFFIXES:
                other_kinds[suffix] += 1
    return [path for folder in sorted(found) for path in found[folder]]


def _identity(folder: str) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _some(names: Sequence[str]) -> str:
    quoted = ", ".join(f"'{n}'" for n in names[:3])
    return quoted if len(names) <= 3 else f"{quoted} and {len(names) - 3} more"


def why_corrupt(picture: str | os.PathLike | bytes) -> str | None:
    """Why a picture, a path or the content of a file, cannot be decoded to its end, or None.

    Decodes at an eighth of the size, which is faster.
    """
    try:
        if not (len(picture) if isinstance(picture, bytes) else os.path.getsize(picture)):
            return "the file is empty"
        with Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture, formats=FORMATS) as image:
            image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
            image.load()
    except FileNotFoundError:
        return "the file is gone"
    except Image.UnidentifiedImageError:
        return "not a JPEG or PNG file"
    except Exception as error:  # Pillow: OSError, SyntaxError, ValueError, struct.error, ...
        return " ".join(str(error).split()) or type(error).__name__
    return None


def corrupt_error(path: str | os.PathLike, why: str, what: str = PICTURE) -> UserError:
    """The UserError for a file that cannot be read; `what` it must be."""
    return UserError(f"data: must be {what}, got {Path(path)} ({why}); --skip-corrupt leaves such files out")


def find_corrupt(files: Iterable[str], num_threads: int | None = None) -> list[tuple[str, str]]:
    """(path, why) of every file that cannot be decoded to its end, in the order given."""
    files = list(files)
    with ThreadPoolExecutor(num_threads or os.cpu_count()) as pool:  # Pillow decodes without the GIL
        return [(f, why) for f, why in zip(files, pool.map(why_corrupt, files), strict=True) if why]


def left_out(corrupt: Sequence[tuple[str, str]], num_files: int | None, what: str = "pictures") -> list[str]:
    """Lines that name the corrupt files left out of `num_files`, the first 20 at most, each with the reason.

    num_files: None for what is no file.
    """
    of_all = f"{what} are" if num_files is None else f"of {num_files} {what} cannot be read and are"
    lines = [f"data: {len(corrupt)} {of_all} left out"]
    lines += [" ".join(f"data: left out {path} ({why})".splitlines()) for path, why in corrupt[:_MOST_NAMED]]
    more = len(corrupt) - _MOST_NAMED
    return [*lines, f"data: and {more} more, all of them in the log's data event"] if more > 0 else lines
