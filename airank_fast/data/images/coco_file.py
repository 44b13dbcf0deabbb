"""Reads and checks COCO's JSON files, of which the largest has 860,001 annotations and 450 MB.

It is read element by element into arrays, in about as much memory as they take. `airank_fast.prepare coco` keeps the
arrays beside the file (`save`), so that a run has not to read it again.
"""

from __future__ import annotations

import json
import math
import os
from array import array
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from airank_fast.data.images.coco import (
    ANNOTATIONS,
    LARGEST,
    MOST_OBJECTS,
    PICTURES,
    SMALLEST,
    Coco,
    arrays,
    from_arrays,
)
from airank_fast.data.images.run_lengths import Polygons, RunLengths, offsets_of, parse_counts
from airank_fast.data.json_arrays import json_arrays
from airank_fast.errors import UserError, require
from airank_fast.walk import entries

LeftOut = list[tuple[str, str]]
"""(where, why) of each object and picture that is left out."""
ARRAYS = "arrays"  # the folder with the arrays of JSON files, each in a folder called as the file
NO_AREA = "a box (x, y, width, height) with an area"
_VERSION = 1
_BOX = "a box (x, y, width, height) of four finite numbers"
_POLYGON = "with polygons of three or more points, as finite numbers x, y, x, y, ..."
_RLE = 'with an RLE {"size": [height, width], "counts": ...} whose counts add up to its pixels'
_MAPPED = 1 << 20  # bytes of an array that is mapped into memory, not read
SKIP = "--skip-corrupt leaves it out"


def read_coco(root: Path, side: str, *, skip_corrupt: bool = False, num_threads: int = 1) -> tuple[Coco, LeftOut]:
    """The pictures of one side, train or val, of a folder in the form of COCO 2017, and what is left out.

    Without skip_corrupt a UserError names the first bad annotation or missing picture; pictures are not opened. With it
    every picture is read, by num_threads threads; a bad annotation is left out, as is a picture that cannot be read,
    with its objects. UserError where no picture is left.
    """
    path, folder = root / ANNOTATIONS[side], root / PICTURES[side]
    what = f"a folder with {PICTURES[side]}/ and {ANNOTATIONS[side]}"
    require(folder.is_dir(), str(root), what, f"{folder}, which is no folder" if root.is_dir() else "no such path")
    found = load(path, folder)
    if found is None:
        require(path.is_file(), str(root), what, f"{path}, which is no file")
        found = read_file(path, folder, skip_corrupt=skip_corrupt)
    coco, left_out = found
    missing = missing_pictures(coco)
    if missing and not skip_corrupt:
        raise UserError(f"{coco.path(missing[0])}: must be a picture that {path} names, got no such file; {SKIP}")
    left_out += [(coco.path(number), f"must be a picture that {path} names, got no such file") for number in missing]
    if missing:
        coco = coco.take(np.setdiff1d(np.arange(len(coco)), missing))
    if skip_corrupt:
        broken = coco.find_corrupt(num_threads)
        left_out += [(each.path, f"must be {each.what}, got {each.why}") for each in broken.values()]
        if broken:
            coco = coco.take(np.setdiff1d(np.arange(len(coco)), list(broken)))
    got = f"none of {len(left_out)}" if left_out else "none"
    require(len(coco), str(root), f"with a picture of {side} that can be read", got)
    return coco, left_out


def missing_pictures(coco: Coco) -> list[int]:
    """Numbers of the pictures whose files are not there."""
    there = {entry.name for entry in entries(coco.folder)}
    return [
        number
        for number, name in enumerate(coco.names.tolist())
        if name not in there and not os.path.isfile(coco.path(number))
    ]


def read_file(path: Path, folder: Path, *, skip_corrupt: bool) -> tuple[Coco, LeftOut]:
    """The content of a JSON file, whose pictures are in `folder`, and what is left out.

    UserError names the place at which the file is no JSON, or, without skip_corrupt, the first bad annotation.
    """
    content = _Content(path, skip_corrupt)
    readers = {"images": content.picture, "annotations": content.annotation, "categories": content.category}
    numbers = dict.fromkeys(readers, 0)
    for name, element in json_arrays(path, readers):
        content.read(readers[name], element, f"{path}, {name}, element {numbers[name]}")
        numbers[name] += 1
    require(numbers["categories"], str(path), "a file with a category", "none")
    return content.checked(folder), content.left_out


class _Content:
    """The arrays of a file as it is read."""

    def __init__(self, path: Path, skip_corrupt: bool) -> None:
        self.path, self.skip_corrupt = path, skip_corrupt
        self.left_out: LeftOut = []
        self.picture_ids, self.sizes = array("q"), array("q")
        self.names: list[str] = []
        self.categories_by_id: dict[int, str] = {}
        self.ids, self.pictures, self.categories = array("q"), array("q"), array("q")
        self.boxes, self.areas, self.crowd = array("d"), array("d"), array("b")
        self.points, self.polygon_lengths, self.num_polygons = array("d"), array("q"), array("q")
        self.reach = array("d")  # of an object's polygons, from 0
        self.run_numbers, self.run_sizes = array("q"), array("q")
        self.counts: list[np.ndarray] = []

    def read(self, reader: Callable[[Any, str], None], element: Any, where: str) -> None:
        """Take an element, or leave it out."""
        try:
            if not isinstance(element, dict):
                raise _error(where, "a JSON object", element)
            reader(element, where)
        except UserError as error:
            place, must, why = str(error).partition(": must ")
            self.leave_out(place, must[2:] + why)

    def leave_out(self, where: str, why: str) -> None:
        """UserError where nothing may be left out."""
        if not self.skip_corrupt:
            raise UserError(f"{where}: {why}; {SKIP}")
        self.left_out.append((where, why))

    def leave_out_all(
        self, keep: np.ndarray, name: str, ids: np.ndarray, bad: np.ndarray, what: str, got: Callable[[int], object]
    ) -> None:
        """Take what is bad, bool [n], out of what is kept, with a line for each."""
        for number in np.flatnonzero(bad & keep).tolist():
            self.leave_out(f"{self.path}, {name} {ids[number]}", f"must be {what}, got {got(number)}")
        keep[bad] = False

    def picture(self, element: dict, where: str) -> None:
        """An element of "images"."""
        name = element.get("file_name")
        require(isinstance(name, str) and name, where, "a picture with a file_name", f"{name!r:.40}")
        number, *size = (_integer(element, key, where) for key in ("id", "height", "width"))
        self.picture_ids.append(number)
        self.names.append(str(name))
        self.sizes.extend(size)

    def category(self, element: dict, where: str) -> None:
        """An element of "categories"."""
        number = _integer(element, "id", where)
        require(number not in self.categories_by_id, where, "the only category with its id", f"another with {number}")
        self.categories_by_id[number] = str(element.get("name", number))

    def annotation(self, element: dict, where: str) -> None:
        """An element of "annotations"."""
        number = _integer(element, "id", where)
        where = f"{self.path}, annotation {number}"
        picture, category = (_integer(element, name, where) for name in ("image_id", "category_id"))
        box: Any = element.get("bbox")
        if not (_are_finite(box) and len(box) == 4):
            raise _error(where, _BOX, box)
        area, crowd = element.get("area", abs(box[2] * box[3])), element.get("iscrowd", 0)
        if not (_are_finite([area]) and area >= 0):
            raise _error(where, "with a finite area of at least 0", area)
        if crowd not in (0, 1):
            raise _error(where, "with iscrowd 0 or 1", crowd)
        polygons, counts, size = _segmentation(element.get("segmentation"), where)
        self.ids.append(number)
        self.pictures.append(picture)
        self.categories.append(category)
        self.boxes.extend(box)
        self.areas.append(area)
        self.crowd.append(int(crowd))  # programs write 0.0 and false too
        self.reach.append(max((max(max(polygon), -min(polygon)) for polygon in polygons), default=0))
        self.num_polygons.append(len(polygons))
        for polygon in polygons:
            self.points.extend(polygon)
            self.polygon_lengths.append(len(polygon) // 2)
        self.run_numbers.append(-1 if counts is None else len(self.counts))
        if counts is not None:
            self.counts.append(counts)
            self.run_sizes.extend(size)

    def checked(self, folder: Path) -> Coco:
        """What is sound of it, by picture."""
        picture_ids, sizes = np.array(self.picture_ids, np.int64), np.array(self.sizes, np.int64).reshape(-1, 2)
        order = np.argsort(picture_ids, kind="stable")
        picture_ids, sizes = picture_ids[order], sizes[order]
        names = np.array(self.names, np.str_)[order] if self.names else np.empty(0, np.str_)
        pictures = np.searchsorted(picture_ids, np.array(self.pictures, np.int64))
        by_id = sorted(self.categories_by_id.items())
        category_ids = np.array([number for number, _ in by_id], np.int64)
        whole = Coco(
            folder,
            picture_ids,
            names,
            sizes,
            np.zeros(len(order) + 1, np.int64),
            category_ids,
            np.array([name for _, name in by_id], np.str_),
            annotation_ids=np.array(self.ids, np.int64),
            labels=np.searchsorted(category_ids, np.array(self.categories, np.int64)),
            boxes=np.array(self.boxes, np.float64).reshape(-1, 4),
            areas=np.array(self.areas, np.float64),
            crowd=np.array(self.crowd, bool),
            polygons=Polygons(
                np.frombuffer(self.points, np.float64).reshape(-1, 2),
                offsets_of(self.polygon_lengths),
                offsets_of(self.num_polygons),
            ),
            polygon_numbers=np.arange(len(self.ids)),
            runs=RunLengths(
                np.concatenate([np.empty(0, np.uint32), *self.counts]),
                offsets_of(map(len, self.counts)),
                np.array(self.run_sizes, np.int64).reshape(-1, 2),
            ),
            run_numbers=np.array(self.run_numbers, np.int64),
        )
        what = "a file with boxes (x, y, width, height) in pixels"
        in_pixels = not len(whole.boxes) or whole.boxes.max() > 1
        require(in_pixels, str(self.path), what, "none with a number above 1")
        keep = self._sound_annotations(whole, pictures)
        sound = self._sound_pictures(whole, np.bincount(pictures[keep], minlength=len(order)))
        rows = np.flatnonzero(keep)
        rows = rows[np.argsort(pictures[rows], kind="stable")]
        return whole.take_objects(rows, pictures[rows]).take(np.flatnonzero(sound))

    def _sound_annotations(self, whole: Coco, pictures: np.ndarray) -> np.ndarray:
        """Which annotations are sound: bool [n]. pictures: of each, where its id would be among theirs."""
        keep = np.ones(len(pictures), bool)
        leave_out = partial(self.leave_out_all, keep, "annotation", whole.annotation_ids)

        def box(number: int) -> str:
            return str([round(value, 2) for value in whole.boxes[number].tolist()])

        _, first = np.unique(whole.annotation_ids, return_index=True)
        repeated = ~np.isin(np.arange(len(pictures)), first)
        leave_out(repeated, "the only annotation with its id", lambda _: "another one before it")
        annotated, categories = np.array(self.pictures, np.int64), np.array(self.categories, np.int64)
        unknown = ~np.isin(annotated, whole.picture_ids)
        leave_out(unknown, "of a picture that the file has", lambda number: f"image_id {annotated[number]}")
        what = f"of one of the file's {len(whole.category_ids)} categories"
        unknown = ~np.isin(categories, whole.category_ids)
        leave_out(unknown, what, lambda number: f"category_id {categories[number]}")
        leave_out(np.any(whole.boxes[:, 2:] <= 0, axis=1), NO_AREA, box)
        pictures = np.minimum(pictures, max(0, len(whole) - 1))
        sizes = np.append(whole.sizes, [[0, 0]], 0)[pictures]
        room = 1 + 0.01 * sizes[:, ::-1]
        low, high = whole.boxes[:, :2], whole.boxes[:, :2] + whole.boxes[:, 2:]
        outside = ((low < -room) | (high > sizes[:, ::-1] + room)).any(1)
        what = "a box (x, y, width, height) in its picture"

        def place(number: int) -> str:
            height, width = sizes[number]
            corners = whole.boxes[number]
            fits = (corners[2:] > corners[:2]).all() and (corners[2:] <= [width, height]).all()
            hint = ", which would be in it as (x1, y1, x2, y2)" if fits else ""
            return f"{box(number)} in {width} x {height} pixels{hint}"

        leave_out(outside, what, place)
        far = np.array(self.reach) > 2 * sizes.max(1)
        leave_out(far, "with polygons in its picture", lambda number: f"a coordinate of {self.reach[number]:g}")
        runs = whole.run_numbers
        run_sizes = np.append(whole.runs.sizes, [[0, 0]], 0)[runs]
        another = (runs >= 0) & (run_sizes != sizes).any(1)
        what = "with an RLE of its picture's size [height, width]"
        leave_out(another, what, lambda number: f"{run_sizes[number].tolist()}, not {sizes[number].tolist()}")
        return keep

    def _sound_pictures(self, whole: Coco, numbers: np.ndarray) -> np.ndarray:
        """Which pictures are sound: bool [N]. numbers: of their objects."""
        keep = np.ones(len(whole), bool)
        leave_out = partial(self.leave_out_all, keep, "picture", whole.picture_ids)
        _, first = np.unique(whole.picture_ids, return_index=True)
        repeated = ~np.isin(np.arange(len(whole)), first)
        leave_out(repeated, "the only picture with its id", lambda _: "another one before it")
        bad = np.any((whole.sizes < SMALLEST) | (whole.sizes > LARGEST), axis=1)
        what = f"a picture with sides of {SMALLEST} to {LARGEST:,} pixels"
        leave_out(bad, what, lambda number: "{1} x {0}".format(*whole.sizes[number].tolist()))
        what = f"a picture of at most {MOST_OBJECTS:,} objects"
        leave_out(numbers > MOST_OBJECTS, what, lambda number: f"{numbers[number]:,}")
        return keep


def _segmentation(value: Any, where: str) -> tuple[list[list[float]], np.ndarray | None, list[int]]:
    """(polygons, counts of an RLE or None, its size)."""
    if not value:
        return [], None, []
    if isinstance(value, list):
        for polygon in value:
            if not (_are_finite(polygon) and len(polygon) >= 6 and len(polygon) % 2 == 0):
                raise _error(where, _POLYGON, polygon)
        return value, None, []
    size, counts = (value.get(name) if isinstance(value, dict) else None for name in ("size", "counts"))
    parsed = None
    if isinstance(counts, str):
        parsed = parse_counts(counts)
    elif isinstance(counts, list) and all(type(count) is int and 0 <= count < 2**32 for count in counts):
        parsed = np.array(counts, np.uint32)
    sound = isinstance(size, list) and len(size) == 2 and all(type(side) is int for side in size)
    if parsed is None or not sound:
        raise _error(where, _RLE, value)
    assert isinstance(size, list)
    if (pixels := int(parsed.sum(dtype=np.int64))) != size[0] * size[1]:
        raise _error(where, _RLE, f"size {size} and {pixels} pixels")
    if not parsed[1::2].any():
        raise _error(where, "with an RLE that has a pixel of the object", "none")
    return [], parsed, size


def _integer(element: dict, name: str, where: str) -> int:
    value = element.get(name)
    if type(value) is not int or not -(2**63) <= value < 2**63:
        raise _error(where, f"with an integer {name}", value)
    return value


def _are_finite(values: Any) -> TypeGuard[list[float]]:
    """Whether this is a list of finite numbers."""
    try:
        return isinstance(values, list) and math.isfinite(sum(values))
    except (TypeError, OverflowError):
        return False


def _error(where: str, what: str, got: object) -> UserError:
    text = got if isinstance(got, str) else json.dumps(got)
    return UserError(f"{where}: must be {what}, got {text if len(text) <= 80 else text[:77] + '...'}")


def save(coco: Coco, left_out: LeftOut, path: Path, into: Path) -> None:
    """Write the arrays of a JSON file into a folder."""
    for name, values in arrays(coco).items():
        np.save(into / f"{name}.npy", values)
    about = {"version": _VERSION, "bytes": path.stat().st_size, "left_out": left_out}
    (into / "about.json").write_text(json.dumps(about) + "\n", encoding="utf-8")


def load(path: Path, folder: Path) -> tuple[Coco, LeftOut] | None:
    """What `save` wrote of a JSON file; None where it did not, or for a file of another size."""
    packed = path.parent.parent / ARRAYS / path.stem
    try:
        about = json.loads((packed / "about.json").read_text(encoding="utf-8"))
        if about["version"] != _VERSION or (path.is_file() and about["bytes"] != path.stat().st_size):
            return None
        found = {}
        for each in packed.glob("*.npy"):
            found[each.stem] = np.load(each, mmap_mode="r" if each.stat().st_size > _MAPPED else None)
        return from_arrays(folder, found), [(where, why) for where, why in about["left_out"]]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{packed}: must be what airank_fast.prepare wrote, got {error!r:.80}") from None
