"""Pictures with boxes, classes and masks in the form of COCO 2017: folders of pictures, and a JSON file for each side.

    coco, left_out = read_coco(Path("coco"), "train")
    picture = coco.read(7)                       # uint8 [H, W, 3]
    coco.boxes[coco.objects_of(7)]               # float64 [n, 4], (x, y, width, height)

Pictures are numbered in the order of their ids in the file, classes in that of their category ids, of which COCO has 80
between 1 and 90. coco_file.py reads the JSON.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from airank_fast.data.images.image_folder import why_corrupt
from airank_fast.data.images.run_lengths import Polygons, RunLengths, draw_polygons, outlines, pack_counts, ragged_rows
from airank_fast.data.images.workers import Broken, decode

PICTURES = {"train": "train2017", "val": "val2017"}
ANNOTATIONS = {side: f"annotations/instances_{folder}.json" for side, folder in PICTURES.items()}
SMALLEST, LARGEST = 8, 6000  # sides of a picture, in pixels
MOST_OBJECTS = 5000  # of a picture


@dataclass(frozen=True, eq=False)
class Coco:
    """N pictures with n objects, in the order of the pictures. `folder`: of the pictures.

    picture_ids: int64 [N], ascending; names: [N] of files; sizes: int64 [N, 2], (height, width). offsets: int64
    [N + 1], picture i has objects offsets[i] ... offsets[i + 1] - 1. category_ids: int64 [K] of the classes;
    category_names: [K].

    annotation_ids: int64 [n]; labels: int64 [n], classes from 0 on; boxes: float64 [n, 4], (x, y, width, height);
    areas: float64 [n]; crowd: bool [n]. polygons, runs: masks in the order of the file; that of object i is number
    polygon_numbers[i] of polygons, or, where it is not -1, number run_numbers[i] of runs: int64 [n].
    """

    folder: Path
    picture_ids: np.ndarray
    names: np.ndarray
    sizes: np.ndarray
    offsets: np.ndarray
    category_ids: np.ndarray
    category_names: np.ndarray
    annotation_ids: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    polygons: Polygons
    polygon_numbers: np.ndarray
    runs: RunLengths
    run_numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.picture_ids)

    def path(self, number: int) -> str:
        """Of a picture's file."""
        return f"{self.folder}/{self.names[number]}"

    def objects_of(self, number: int) -> slice:
        """The objects of a picture."""
        return slice(*self.offsets[number : number + 2].tolist())

    @property
    def pictures(self) -> np.ndarray:
        """The picture of each object: int64 [n]."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    @property
    def has_mask(self) -> np.ndarray:
        """Which objects have a mask: bool [n]."""
        return (np.diff(self.polygons.object_offsets)[self.polygon_numbers] > 0) | (self.run_numbers >= 0)

    def read(self, number: int) -> np.ndarray | Broken:
        """The picture, uint8 [H, W, 3], or what is wrong with it."""
        path = self.path(number)
        try:
            pixels = np.asarray(decode(path))
        except Exception as error:  # Pillow: many kinds
            return Broken(path, why_corrupt(path) or f"{type(error).__name__}: {error}")
        if pixels.shape[:2] != tuple(self.sizes[number]):
            (height, width), (h, w) = self.sizes[number], pixels.shape[:2]
            return Broken(path, f"{w} x {h}", f"a picture of {width} x {height} pixels, as the annotations say")
        return pixels

    def outlines_of(self, number: int) -> list[list[np.ndarray]]:
        """The polygons, [k, 2], of each object of a picture; those of other masks cover the same pixels."""
        its = self.objects_of(number)
        found = []
        for each in range(its.start, its.stop):
            if (run := int(self.run_numbers[each])) >= 0:
                found.append(outlines(self.runs.of(run), int(self.runs.sizes[run, 0])))
            else:
                found.append(self.polygons.of(int(self.polygon_numbers[each])))
        return found

    def masks(self) -> RunLengths:
        """The masks of all objects, as pycocotools draws them."""
        drawn = draw_polygons(self.polygons.take(self.polygon_numbers), self.sizes[self.pictures])
        runs = self.run_numbers.tolist()
        counts = [drawn.of(number) if run < 0 else self.runs.of(run) for number, run in enumerate(runs)]
        return pack_counts(counts, drawn.sizes)

    def take(self, numbers: np.ndarray) -> Coco:
        """These pictures, ascending, with their objects."""
        rows, _ = ragged_rows(self.offsets, numbers)
        of_objects = np.repeat(np.arange(len(numbers)), np.diff(self.offsets)[numbers])
        columns = {name: getattr(self, name)[numbers] for name in ("picture_ids", "names", "sizes")}
        return replace(self, offsets=np.zeros(len(numbers) + 1, np.int64), **columns).take_objects(rows, of_objects)

    def take_objects(self, rows: np.ndarray, pictures: np.ndarray) -> Coco:
        """All pictures, with these objects, which are of pictures [len(rows)], ascending."""
        names = "annotation_ids", "labels", "boxes", "areas", "crowd", "polygon_numbers", "run_numbers"
        columns = {name: getattr(self, name)[rows] for name in names}
        return replace(self, offsets=np.searchsorted(pictures, np.arange(len(self) + 1)), **columns)

    def to_train_on(self) -> Coco:
        """The objects that are no crowds, and the pictures that have one."""
        rows = np.flatnonzero(~self.crowd)
        single = self.take_objects(rows, self.pictures[rows])
        return single.take(np.flatnonzero(np.diff(single.offsets)))

    def find_corrupt(self, num_threads: int) -> dict[int, Broken]:
        """What is wrong, by number, with pictures that cannot be read to their end."""
        with ThreadPoolExecutor(num_threads) as pool:  # Pillow decodes without the GIL
            found = pool.map(self.read, range(len(self)))
            return {number: each for number, each in enumerate(found) if isinstance(each, Broken)}

    def checksum(self) -> str:
        """sha256 of the names of the pictures and of their objects, in hex."""
        digest = hashlib.sha256()
        for array in arrays(self).values():
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def arrays(coco: Coco) -> dict[str, np.ndarray]:
    """All arrays of a data set by name, those of masks as polygons.points and so on."""
    found = {}
    for field in fields(coco):
        value = getattr(coco, field.name)
        if isinstance(value, np.ndarray):
            found[field.name] = value
        elif isinstance(value, (Polygons, RunLengths)):
            found |= {f"{field.name}.{name}": array for name, array in value._asdict().items()}
    return found


def from_arrays(folder: Path, found: dict[str, np.ndarray]) -> Coco:
    """The inverse of `arrays`."""
    plain = {name: array for name, array in found.items() if "." not in name}
    polygons, runs = (
        kind(*(found[f"{name}.{part}"] for part in kind._fields))
        for name, kind in (("polygons", Polygons), ("runs", RunLengths))
    )
    return Coco(folder, polygons=polygons, runs=runs, **plain)  # type: ignore[arg-type]
