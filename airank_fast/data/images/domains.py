"""Pictures of two domains, A and B, as data sets of image translation come: in pairs, or each domain for itself.

    pairs, corrupt, notes = read_pairs(Path("facades"), "train")               # train/1.jpg has A | B side by side
    domains, corrupt, notes = read_unpaired(Path("horse2zebra"), "train")      # trainA/, trainB/
    domains.a.picture(7)                                                       # uint8 [H, W, 3]

Pairs may also be in two folders, trainA/ and trainB/, in which partners have one name. Those to evaluate on are in val/
(valA/ and valB/) where there is such a folder, else in test/.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from airank_fast.data.images.image_folder import (
    FORMATS,
    SUFFIXES,
    corrupt_error,
    passed_over,
    pictures_in,
    why_corrupt,
)
from airank_fast.data.images.workers import Broken, decode
from airank_fast.errors import require

Side = Literal["train", "val"]
Direction = Literal["AtoB", "BtoA"]
_FOLDERS: dict[Side, tuple[str, ...]] = {"train": ("train",), "val": ("val", "test")}
_LEAST: dict[Side, int] = {"train": 2, "val": 1}  # pictures of a domain
_MODES = {1: "L", 3: "RGB"}  # Pillow's, by the number of channels


@dataclass(frozen=True, eq=False)
class Domain:
    """n pictures by path, read with 1 channel (grey) or 3. half: the one of its file that is a picture, 0 is left."""

    paths: list[str]
    channels: int
    half: int | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def picture(self, number: int) -> np.ndarray | Broken:
        """A picture, uint8 [H, W, channels]; or what is wrong with its file."""
        path = self.paths[number]
        try:
            pixels = _decoded(path, _MODES[self.channels])
        except Exception as error:  # Pillow: many kinds
            return Broken(path, why_corrupt(path) or f"{type(error).__name__}: {error}")
        if self.half is not None:
            width = pixels.shape[1] // 2
            pixels = pixels[:, self.half * width : (self.half + 1) * width]
        return pixels.reshape(*pixels.shape[:2], self.channels)

    def take(self, numbers: Sequence[int]) -> Domain:
        """These pictures alone."""
        return replace(self, paths=[self.paths[number] for number in numbers])


@lru_cache(maxsize=1)
def _decoded(path: str, mode: str) -> np.ndarray:
    """The pixels of a file; both halves of one are asked for one after the other."""
    return np.asarray(decode(path, mode))


@dataclass(frozen=True, eq=False)
class Domains:
    """The pictures of one side. Where they are `paired`, the partner of picture i of `a` is picture i of `b`.

    root: the folder to which their names are relative.
    """

    root: Path
    a: Domain
    b: Domain
    paired: bool

    def __len__(self) -> int:
        """Pairs; without pairs, the pictures of the larger domain."""
        return max(len(self.a), len(self.b))

    def checksum(self) -> str:
        """sha256 of the paths of all files, relative to the root, in hex."""
        names = (os.fsencode(os.path.relpath(path, self.root)) for path in (*self.a.paths, *self.b.paths))
        return hashlib.sha256(b"%d\n" % len(self.a) + b"\n".join(names)).hexdigest()


class Found(NamedTuple):
    """What is read; corrupt: (path, why) of each file that is left out. notes: lines for the user."""

    domains: Domains
    corrupt: list[tuple[str, str]]
    notes: list[str]


def read_pairs(
    root: Path,
    side: Side,
    *,
    direction: Direction = "AtoB",
    channels: tuple[int, int] = (3, 3),
    skip_corrupt: bool = False,
    num_threads: int = 1,
) -> Found:
    """The pairs of one side of a data set; see the top of this file.

    direction: with "BtoA" the domain B of the files is `a`. channels: of `a` and `b`. The headers of all files are
    read, with skip_corrupt the whole files, by num_threads threads.

    UserError for a file that is no picture, a pair of two sizes, a file of A | B of an odd width, and a picture without
    a partner, unless skip_corrupt leaves such pairs out; for a missing or empty folder, and a single pair to train on.
    """
    names = [name for name in _FOLDERS[side] if (root / name).is_dir() or (root / f"{name}A").is_dir()]
    what = " or ".join(f"{name}/ of pictures A | B, or {name}A/ and {name}B/" for name in _FOLDERS[side])
    _require_folder(names, root, what)
    reading = _Reading(skip_corrupt, num_threads)
    first, second = (0, 1) if direction == "AtoB" else (1, 0)
    if (root / names[0]).is_dir():
        paths = reading.listed(root / names[0])
        kept = reading.whole_pairs(paths)
        halves = [Domain(paths, number, half) for number, half in zip(channels, (first, second), strict=True)]
        a, b = (half.take(kept) for half in halves)
        reading.note(a.paths, max(channels), f"files in {names[0]}/")
        reading.note_shapes(a.paths, names[0])
    else:
        folders = root / f"{names[0]}A", root / f"{names[0]}B"
        sides = reading.partners(*folders)
        a, b = (Domain(sides[place], number) for place, number in zip((first, second), channels, strict=True))
        for domain, place in ((a, first), (b, second)):
            reading.note(domain.paths, domain.channels, f"pictures in {folders[place].name}/")
    what = f"a folder with {_LEAST[side]} pairs or more"
    require(len(a) >= _LEAST[side], str(root / names[0]), what, reading.left(len(a)))
    return Found(Domains(root, a, b, paired=True), reading.corrupt, reading.notes())


def read_unpaired(
    root: Path,
    side: Side,
    *,
    direction: Direction = "AtoB",
    channels: tuple[int, int] = (3, 3),
    skip_corrupt: bool = False,
    num_threads: int = 1,
) -> Found:
    """The pictures of one side of a data set of two folders; see `read_pairs` for the arguments.

    UserError for a file that is no picture, unless skip_corrupt leaves it out; for a missing or empty folder, and a
    single picture to train on.
    """
    names = [name for name in _FOLDERS[side] if (root / f"{name}A").is_dir() or (root / f"{name}B").is_dir()]
    _require_folder(names, root, " or ".join(f"{name}A/ and {name}B/" for name in _FOLDERS[side]))
    reading = _Reading(skip_corrupt, num_threads)
    domains = []
    for letter, number in zip("AB" if direction == "AtoB" else "BA", channels, strict=True):
        folder = root / f"{names[0]}{letter}"
        domain = Domain(reading.sound(reading.listed(folder)), number)
        what = f"a folder with {_LEAST[side]} pictures or more"
        require(len(domain) >= _LEAST[side], str(folder), what, reading.left(len(domain)))
        reading.note(domain.paths, number, f"pictures in {folder.name}/")
        domains.append(domain)
    a, b = domains
    return Found(Domains(root, a, b, paired=False), reading.corrupt, reading.notes())


def _require_folder(names: Sequence[str], root: Path, what: str) -> None:
    require(names, str(root), f"a folder with {what}", "none of them" if root.is_dir() else "no such folder")


class _Header(NamedTuple):
    size: tuple[int, int]  # (width, height), as Pillow has it
    is_grey: bool


class _Reading:
    """The files of one side: what their headers say, and what is left out."""

    def __init__(self, skip_corrupt: bool, num_threads: int) -> None:
        self._skip_corrupt, self._num_threads = skip_corrupt, num_threads
        self._headers: dict[str, _Header] = {}
        self._other_kinds: Counter[str] = Counter()
        self._notes: list[str] = []
        self.corrupt: list[tuple[str, str]] = []

    def listed(self, folder: Path) -> list[str]:
        """The pictures of a folder by name. UserError where there is none."""
        require(folder.is_dir(), str(folder), "a folder of pictures", "no such folder")
        found = pictures_in(str(folder), self._other_kinds)
        others = f", but {', '.join(sorted(self._other_kinds))}" if self._other_kinds else ""
        require(found, str(folder), f"a folder with pictures ({', '.join(SUFFIXES)})", f"none{others}")
        return found

    def sound(self, paths: Iterable[str]) -> list[str]:
        """Those of the files that are pictures."""
        found = []
        for path, broken in self._looked_at(paths):
            if broken is None:
                found.append(path)
            else:
                self._left_out(broken)
        return found

    def whole_pairs(self, paths: Sequence[str]) -> list[int]:
        """The numbers of those files whose picture has two equal halves."""
        numbers = {path: number for number, path in enumerate(paths)}
        kept = []
        for path in self.sound(paths):
            width, height = self._headers[path].size
            if width % 2:
                self._left_out(Broken(path, f"{width} x {height}", "A and B side by side, of an even width"))
            else:
                kept.append(numbers[path])
        return kept

    def partners(self, folder_a: Path, folder_b: Path) -> tuple[list[str], list[str]]:
        """The files of one name and size in both folders, sorted by name."""
        named = [self._by_name(self.sound(self.listed(folder)), folder) for folder in (folder_a, folder_b)]
        broken = {_name(path, folder) for path, _ in self.corrupt for folder in (folder_a, folder_b)}
        kept: tuple[list[str], list[str]] = [], []
        for name in sorted({*named[0], *named[1]}):
            its = named[0].get(name), named[1].get(name)
            if its[0] is None or its[1] is None:
                path, other = (its[0], folder_b) if its[0] else (its[1], folder_a)
                if name not in broken:
                    self._left_out(Broken(str(path), "none", f"a picture with a partner {name}.* in {other}"))
                continue
            (w, h), (width, height) = self._headers[its[1]].size, self._headers[its[0]].size
            if (w, h) != (width, height):
                self._left_out(Broken(its[1], f"{w} x {h}", f"of its partner's size, {width} x {height} ({its[0]})"))
                continue
            kept[0].append(its[0])
            kept[1].append(its[1])
        return kept

    def _by_name(self, paths: Iterable[str], folder: Path) -> dict[str, str]:
        found: dict[str, str] = {}
        for path in paths:
            name = _name(path, folder)
            if name in found:
                self._left_out(Broken(path, f"{found[name]} as well", f"the only picture {name}.* in its folder"))
            else:
                found[name] = path
        return found

    def _looked_at(self, paths: Iterable[str]) -> Iterator[tuple[str, Broken | None]]:
        paths = list(paths)
        with ThreadPoolExecutor(self._num_threads) as pool:  # Pillow decodes without the GIL
            for path, header in zip(paths, pool.map(self._header, paths), strict=True):
                if isinstance(header, _Header):
                    self._headers[path] = header
                    yield path, None
                else:
                    yield path, header

    def _header(self, path: str) -> _Header | Broken:
        why = why_corrupt(path) if self._skip_corrupt else None
        try:
            with Image.open(path, formats=FORMATS) as image:
                header = _Header(image.size, image.mode[0] in "1LIF")
        except Exception as error:
            return Broken(path, why or why_corrupt(path) or f"{type(error).__name__}: {error}")
        return Broken(path, why) if why else header

    def _left_out(self, broken: Broken) -> None:
        """UserError, unless broken files are left out."""
        if not self._skip_corrupt:
            raise corrupt_error(*broken)
        self.corrupt.append((broken.path, f"must be {broken.what}, got {broken.why}"))

    def left(self, number: int) -> str:
        """What is left of a folder, for a message."""
        return f"{number}; {len(self.corrupt)} are left out" if self.corrupt else f"{number}"

    def note(self, paths: Sequence[str], channels: int, what: str) -> None:
        """Note how many of the files have other channels than those that are read."""
        number = sum(self._headers[path].is_grey != (channels == 1) for path in paths)
        if number:
            conversion = "colour and are read as grey" if channels == 1 else "grey and are read as RGB"
            self._notes.append(f"data: {number} of {len(paths)} {what} are {conversion}")

    def note_shapes(self, paths: Sequence[str], name: str) -> None:
        """Note how many files of A | B have halves that are not square, as single pictures would have."""
        number = sum(width != 2 * height for width, height in (self._headers[path].size for path in paths))
        if number:
            what = f"{number} of {len(paths)} files in {name}/ are not twice as wide as high"
            self._notes.append(f"data: {what}; their left half is read as A, their right half as B")

    def notes(self) -> list[str]:
        """Lines for the user: what is converted, looks odd, or is passed over."""
        line = passed_over(self._other_kinds)
        return [*self._notes, line] if line else self._notes


def _name(path: str, folder: Path) -> str:
    """A file's path below its folder, without the suffix."""
    return os.path.splitext(os.path.relpath(path, folder))[0]
