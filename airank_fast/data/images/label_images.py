"""Pictures with their label images, as the field's data sets come: Cityscapes' tree, or a list of files.

    pairs, corrupt = read_pairs(Path("cityscapes"), "train", num_classes=19)
    pictures, labels = pairs.read(7)                    # uint8 [H, W, 3]; uint8 [H, W]

A label image is an 8-bit grey PNG whose levels are classes, or 255, which is ignored. One that is called *_labelIds.png
has Cityscapes' ids, of which 19 are classes and the others ignored.
"""

from __future__ import annotations

import colorsys
import hashlib
import io
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from pathlib import Path

import numpy as np
from PIL import Image

from airank_fast.data.images import png
from airank_fast.data.images.geometry import ScaledCrop
from airank_fast.data.images.image_folder import why_corrupt
from airank_fast.data.images.workers import Broken, decode
from airank_fast.errors import UserError, require
from airank_fast.walk import entries

IGNORED = 255
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Of the classes road, sidewalk, building, ... bicycle, in Cityscapes' order: its label ids 0 to 33 (labels.py)."""
PICTURE_SUFFIX, LABEL_SUFFIX = "_leftImg8bit.png", "_gtFine_labelIds.png"
_LABEL_IDS = "_labelIds.png"
_ANOTHER = 254  # an id that is no class and not ignored
_COLOURS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}  # PNG's types
_WHAT = "Cityscapes' tree with leftImg8bit/ and gtFine/, or a list of lines PICTURE TAB LABELS"


Rows = Callable[[tuple[int, int]], int]
"""Of a picture's (height, width), the number of rows that are needed from its top."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """n pictures and their label images, by path. `root`: the folder to which their names are relative."""

    root: Path
    pictures: list[str]
    labels: list[str]
    num_classes: int

    def __len__(self) -> int:
        return len(self.pictures)

    def read(self, number: int) -> tuple[np.ndarray, np.ndarray] | Broken:
        """The picture, uint8 [H, W, 3], and the class of each pixel, uint8 [H, W]; or what is wrong with a file."""
        found = self._read(number, itemgetter(0))
        return found if isinstance(found, Broken) else found[:2]

    def read_crop(
        self, number: int, crop_of: Callable[[tuple[int, int]], ScaledCrop]
    ) -> tuple[np.ndarray, np.ndarray, ScaledCrop] | Broken:
        """(picture, classes, the crop of their size) to draw the crop from; rows below it may be absent.

        What is wrong with absent rows is not noticed.
        """
        found = self._read(number, lambda size: crop_of(size).bottom)
        return found if isinstance(found, Broken) else (*found[:2], crop_of(found[2]))

    def _read(self, number: int, rows: Rows) -> tuple[np.ndarray, np.ndarray, tuple[int, int]] | Broken:
        """(picture and classes, of so many rows or more; their whole size)."""
        picture, labels = self.pictures[number], self.labels[number]
        try:
            pixels, size = _read_rows(Path(picture).read_bytes(), 3, rows) or _whole(decode(picture))
        except Exception as error:  # Pillow: many kinds
            return Broken(picture, why_corrupt(picture) or f"{type(error).__name__}: {error}")
        found = self._read_labels(labels, rows)
        if isinstance(found, Broken):
            return found
        classes, its_size = found
        if its_size != size:
            (h, w), (height, width) = its_size, size
            return Broken(labels, f"{w} x {h}", f"a label image of its picture's size, {width} x {height}")
        return pixels, classes, size

    def _read_labels(self, path: str, rows: Rows) -> tuple[np.ndarray, tuple[int, int]] | Broken:
        """(classes of so many rows or more, size of the whole label image)."""
        form = "an 8-bit grey PNG of labels"
        try:
            content = Path(path).read_bytes()
            found = _read_rows(content, 1, rows)
            if found is None:
                with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
                    bits, colour = content[24:26]  # of the header; Pillow spreads levels of fewer bits over 0 ... 255
                    if (bits, colour) != (8, 0):
                        return Broken(path, f"{bits}-bit {_COLOURS.get(colour, 'unknown')}", form)
                    found = _whole(image)
        except Exception as error:
            another = isinstance(error, Image.UnidentifiedImageError)
            why = why_corrupt(path) or ("no PNG file" if another else f"{type(error).__name__}: {error}")
            return Broken(path, why, form)
        ids, size = found
        table = self._of_ids if path.endswith(_LABEL_IDS) else self._of_classes
        classes = table.take(ids)
        if (is_another := classes == _ANOTHER).any():
            row, column = np.argwhere(is_another)[0]
            largest = np.flatnonzero(table[:IGNORED] != _ANOTHER)[-1]
            return Broken(
                path,
                f"{ids[row, column]} in row {row}, column {column}",
                f"a label image of ids 0 to {largest} or {IGNORED}",
            )
        return classes, size

    @cached_property
    def _of_classes(self) -> np.ndarray:
        """The class of each level of a label image: uint8 [256]."""
        table = np.full(256, _ANOTHER, np.uint8)
        table[: self.num_classes] = np.arange(self.num_classes)
        table[IGNORED] = IGNORED
        return table

    @cached_property
    def _of_ids(self) -> np.ndarray:
        """The class of each of Cityscapes' ids: uint8 [256]."""
        table = np.full(256, _ANOTHER, np.uint8)
        table[: CITYSCAPES_IDS[-1] + 1] = IGNORED
        table[list(CITYSCAPES_IDS)] = np.arange(len(CITYSCAPES_IDS))
        table[IGNORED] = IGNORED
        return table

    def find_corrupt(self, num_threads: int) -> dict[int, Broken]:
        """What is wrong, by pair, with those that cannot be read to their end."""
        with ThreadPoolExecutor(num_threads) as pool:  # Pillow decodes without the GIL
            found = pool.map(self.read, range(len(self)))
            return {number: each for number, each in enumerate(found) if isinstance(each, Broken)}

    def checksum(self) -> str:
        """sha256 of the paths of all files, relative to the root, in hex."""
        paths = (path for pair in zip(self.pictures, self.labels, strict=True) for path in pair)
        names = b"".join(os.fsencode(os.path.relpath(path, self.root)) + b"\n" for path in paths)
        return hashlib.sha256(names).hexdigest()


def _read_rows(content: bytes, channels: int, rows: Rows) -> tuple[np.ndarray, tuple[int, int]] | None:
    """(the rows of a PNG of so many channels, its size); None for another file, which Pillow may read."""
    found = png.parse(content)
    if found is None or found.channels != channels:
        return None
    size = found.height, found.width
    pixels = found.rows(rows(size))
    return None if pixels is None else (pixels, size)


def _whole(image: Image.Image) -> tuple[np.ndarray, tuple[int, int]]:
    pixels = np.asarray(image)
    return pixels, pixels.shape[:2]


def read_pairs(
    path: Path, side: str, num_classes: int, *, skip_corrupt: bool = False, num_threads: int = 1
) -> tuple[Pairs, list[tuple[str, str]]]:
    """The pairs of a list, or of one side (train or val) of Cityscapes' tree, and [(where, why)] of those left out.

    Without skip_corrupt a UserError names the first picture that has no label image, or is missing; files are not
    opened. With it every file is read, by num_threads threads. UserError where no pair is left.
    """
    corrupt: list[tuple[str, str]] = []
    pictures, labels = [], []
    for where, picture, its_labels, trouble in _list(path) if path.is_file() else _tree(path, side):
        if trouble is None:
            pictures.append(picture)
            labels.append(its_labels)
        elif skip_corrupt:
            corrupt.append((where, trouble))
        else:
            raise UserError(f"{where}: {trouble}")
    has_ids = any(label.endswith(_LABEL_IDS) for label in labels)
    what = f"at least {len(CITYSCAPES_IDS)} for Cityscapes' label ids"
    require(not has_ids or num_classes >= len(CITYSCAPES_IDS), "--num-classes", what, num_classes)
    pairs = Pairs(path.parent if path.is_file() else path, pictures, labels, num_classes)
    if skip_corrupt:
        broken = pairs.find_corrupt(num_threads)
        corrupt += [(each.path, f"must be {each.what}, got {each.why}") for each in broken.values()]
        left = [number for number in range(len(pairs)) if number not in broken]
        pairs = Pairs(pairs.root, [pictures[n] for n in left], [labels[n] for n in left], num_classes)
    what = "with a picture and label image that can be read"
    require(len(pairs), str(path), what, f"none of {len(corrupt)}" if corrupt else f"none for {side}")
    return pairs, corrupt


Found = Iterator[tuple[str, str, str, str | None]]
"""(where, picture, label image, what is wrong or None) of each pair."""


def _list(path: Path) -> Found:
    """The lines PICTURE TAB LABELS, or with one space, of a file; paths are relative to its folder."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: must be UTF-8, got byte 0x{error.object[error.start]:02X}") from None
    require(lines, str(path), "a list of lines PICTURE TAB LABELS", "an empty file")
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}"
        columns = line.split("\t" if "\t" in line else " ")
        if len(columns) != 2 or not all(columns):
            yield where, "", "", f"must be a line PICTURE TAB LABELS, got {len(columns)} columns"
            continue
        files = [os.path.join(path.parent, column) for column in columns]
        missing = next((file for file in files if not os.path.isfile(file)), None)
        trouble = f"must be a line with the paths of two files, got {missing}, which is no file" if missing else None
        yield where, files[0], files[1], trouble


def _tree(root: Path, side: str) -> Found:
    """Cityscapes' leftImg8bit/SIDE/CITY/NAME_leftImg8bit.png and gtFine/SIDE/CITY/NAME_gtFine_labelIds.png."""
    pictures, labels = root / "leftImg8bit" / side, root / "gtFine" / side
    for folder in (pictures, labels):
        require(folder.is_dir(), str(root), _WHAT, f"{folder}, which is no folder" if root.is_dir() else "no such path")
    there = _names(pictures, PICTURE_SUFFIX), _names(labels, LABEL_SUFFIX)
    for name in sorted(there[0] | there[1]):
        picture, its_labels = f"{pictures}/{name}{PICTURE_SUFFIX}", f"{labels}/{name}{LABEL_SUFFIX}"
        trouble = None
        if name not in there[1]:
            trouble = f"must have a label image, got none at {its_labels}"
        elif name not in there[0]:
            trouble = f"must have a picture, got none at {picture}"
        yield picture if name in there[0] else its_labels, picture, its_labels, trouble


def _names(folder: Path, suffix: str) -> set[str]:
    """CITY/NAME of the files CITY/NAME + suffix."""
    return {
        f"{city.name}/{entry.name.removesuffix(suffix)}"
        for city in entries(folder)
        if city.is_dir()
        for entry in entries(city.path)
        if entry.name.endswith(suffix)
    }


def label_colours(num_classes: int) -> np.ndarray:
    """A colour for each value of a label image, to look at it: uint8 [256, 3]. Class 0 is dark, IGNORED white."""
    colours = np.full((256, 3), 255, np.uint8)
    for label in range(num_classes):
        hue, value = 0.618034 * label % 1, 0.15 if label == 0 else 1 - 0.3 * (label % 3) / 2  # neighbours differ
        colours[label] = [round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.75 if label else 0.0, value)]
    return colours
