"""Pictures with quadrilaterals around their texts, in the form of ICDAR 2015's incidental scene text (task 4.1).

    scenes, corrupt = read_scenes(Path("icdar2015"), "train")
    picture, quads, ignored = scenes.read(7)     # uint8 [H, W, 3]; float32 [n, 4, 2]; bool [n]

A picture img_7.jpg, or .png, has a list gt_img_7.txt in UTF-8 of lines X1,Y1,X2,Y2,X3,Y3,X4,Y4,TEXT. A text may have
commas; ### is a text that cannot be read, which neither counts nor trains.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from airank_fast.data.images.image_folder import why_corrupt
from airank_fast.data.images.quadrilaterals import areas
from airank_fast.data.images.workers import Broken, decode
from airank_fast.errors import UserError, require
from airank_fast.walk import entries

FOLDERS = {
    "train": ("ch4_training_images", "ch4_training_localization_transcription_gt"),
    "val": ("ch4_test_images", "Challenge4_Test_Task1_GT"),
}
"""Of the pictures and of the lists, called as the zips that ICDAR publishes."""
IGNORED = "###"
SUFFIXES = (".jpg", ".png")
_LINE = "a line X1,Y1,X2,Y2,X3,Y3,X4,Y4,TEXT"


class Texts(NamedTuple):
    """The texts of a picture. quads: float32 [n, 4, 2]; ignored: bool [n]; rows: of each, its line in the list."""

    quads: np.ndarray
    ignored: np.ndarray
    rows: Sequence[int]


@dataclass(frozen=True, eq=False)
class Scenes:
    """n pictures, by path, with their texts. `lists`: the paths of the lists, which are of the folder `root`."""

    root: Path
    pictures: list[str]
    lists: list[str]
    texts: list[Texts]

    def __len__(self) -> int:
        return len(self.pictures)

    def read(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray] | Broken:
        """The picture, uint8 [H, W, 3], its quadrilaterals and which are ignored; or what is wrong with it."""
        path, texts = self.pictures[number], self.texts[number]
        try:
            pixels = np.asarray(decode(path))
        except Exception as error:  # Pillow: many kinds
            return Broken(path, why_corrupt(path) or f"{type(error).__name__}: {error}")
        height, width = pixels.shape[:2]
        clipped = texts.quads.clip(0, (width, height))
        outside = np.flatnonzero(areas(clipped) <= 0)
        if len(outside):
            where = f"{self.lists[number]}, line {texts.rows[outside[0]]}"
            corners = ",".join(f"{value:g}" for value in texts.quads[outside[0]].ravel())
            return Broken(where, corners, f"a quadrilateral in its picture of {width} x {height} pixels")
        return pixels, texts.quads, texts.ignored

    def find_corrupt(self, num_threads: int) -> dict[int, Broken]:
        """What is wrong, by picture, with those that cannot be read to their end."""
        with ThreadPoolExecutor(num_threads) as pool:  # Pillow decodes without the GIL
            found = pool.map(self.read, range(len(self)))
            return {number: each for number, each in enumerate(found) if isinstance(each, Broken)}

    def checksum(self) -> str:
        """sha256 of the names of the pictures and of all texts, in hex."""
        digest = hashlib.sha256()
        for path, texts in zip(self.pictures, self.texts, strict=True):
            digest.update(os.fsencode(os.path.relpath(path, self.root)) + b"\n")
            digest.update(texts.quads.tobytes() + texts.ignored.tobytes())
        return digest.hexdigest()


def read_scenes(
    root: Path, side: str, *, skip_corrupt: bool = False, num_threads: int = 1
) -> tuple[Scenes, list[tuple[str, str]]]:
    """The pictures of one side, train or val, and [(where, why)] of those left out.

    Without skip_corrupt a UserError names the first picture without a list, list without a picture, or bad line;
    pictures are not opened. With it every picture is read, by num_threads threads, and what is wrong is left out with
    its picture. UserError where no picture is left.
    """
    corrupt: list[tuple[str, str]] = []
    pictures, lists, texts = [], [], []
    for picture, its_list, found in scan(root, side):
        if isinstance(found, Texts):
            pictures.append(picture)
            lists.append(its_list)
            texts.append(found)
            continue
        if not skip_corrupt:
            raise UserError(f"{found[0]}: {found[1]}; --skip-corrupt leaves such pictures out")
        corrupt.append(found)
    scenes = Scenes(root, pictures, lists, texts)
    if skip_corrupt:
        broken = scenes.find_corrupt(num_threads)
        corrupt += [(each.path, f"must be {each.what}, got {each.why}") for each in broken.values()]
        left = [number for number in range(len(scenes)) if number not in broken]
        scenes = Scenes(root, [pictures[n] for n in left], [lists[n] for n in left], [texts[n] for n in left])
    got = f"none of {len(corrupt)}" if corrupt else f"none for {side}"
    require(len(scenes), str(root), "with a picture and a list that can be read", got)
    return scenes, corrupt


def scan(root: Path, side: str) -> Iterator[tuple[str, str, Texts | tuple[str, str]]]:
    """(picture, list, its texts, or where what is wrong) of each picture or list of a side, in the order of names.

    Of a list with several bad lines the first is named. UserError where a folder is missing.
    """
    pictures, lists = (root / name for name in FOLDERS[side])
    for folder in (pictures, lists):
        got = f"{folder}, which is no folder" if root.is_dir() else "no such path"
        what = f"ICDAR 2015's folders {', '.join(FOLDERS[side])}"
        require(folder.is_dir(), str(root), f"a folder with {what}", got)
    there = {name.rpartition(".")[0]: name for name in _names(pictures) if name.endswith(SUFFIXES)}
    listed = {name[3:-4]: name for name in _names(lists) if name.startswith("gt_") and name.endswith(".txt")}
    for stem in sorted(there.keys() | listed.keys(), key=_in_order):
        picture = f"{pictures}/{there.get(stem, stem + SUFFIXES[0])}"
        its_list = f"{lists}/{listed.get(stem, f'gt_{stem}.txt')}"
        if stem not in listed:
            yield picture, its_list, (picture, f"must have a list of its texts, got none at {its_list}")
        elif stem not in there:
            yield picture, its_list, (its_list, f"must have a picture, got none at {picture}")
        else:
            try:
                yield picture, its_list, read_texts(its_list)
            except UserError as error:
                where, must, why = str(error).partition(": must be ")
                yield picture, its_list, (where, must[2:] + why)


def read_texts(path: str) -> Texts:
    """The texts of a list. UserError names the first line of another form or of a quadrilateral without an area."""
    quads, ignored, rows = [], [], []
    for row, line in enumerate(Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {row}"
        try:
            *corners, text = line.decode("utf-8").rstrip("\r").split(",", 8)
        except UnicodeDecodeError as error:
            raise UserError(f"{where}: must be UTF-8, got byte 0x{line[error.start]:02X}") from None
        require(len(corners) == 8, where, _LINE, f"{len(corners) + 1} columns")
        quad = np.array([_number(corner, where) for corner in corners]).reshape(4, 2)
        area = float(areas(quad))
        require(area >= 1, where, "a quadrilateral with an area", f"{','.join(corners)}, of {area:g} pixels")
        quads.append(quad)
        ignored.append(text.strip() == IGNORED)
        rows.append(row)
    return Texts(np.array(quads, np.float32).reshape(-1, 4, 2), np.array(ignored, bool), rows)


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    require(math.isfinite(value), where, f"{_LINE} with numbers", repr(text))
    return value


def _names(folder: Path) -> list[str]:
    return [entry.name for entry in entries(folder)]


def _in_order(stem: str) -> tuple[int, str]:
    """img_2 comes before img_10."""
    return len(stem), stem
