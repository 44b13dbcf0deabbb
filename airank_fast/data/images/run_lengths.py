"""Masks as COCO's run lengths (RLE): from polygons, from a network's probabilities, and back to polygons.

    runs = draw_polygons(polygons, sizes)             # as pycocotools draws them
    runs = paste_masks(probabilities, boxes, (480, 640))   # as torchvision pastes them
    decode(runs, 0)                                   # bool [480, 640]

A mask's counts are of zeros, ones, zeros, ... down the columns of its picture. csrc/host/masks.h does both without a
picture of the masks; the Python beside it does the same where that was not built.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import interpolate, pad

from airank_fast.data.host import host

_BITS, _MORE, _SIGN = 0x1F, 0x20, 0x10  # of a character of compressed counts
_FIRST = 48  # the character of zero


class RunLengths(NamedTuple):
    """n masks. counts: uint32, those of mask i are counts[offsets[i] : offsets[i + 1]]; offsets: int64 [n + 1].

    sizes: int64 [n, 2], (height, width) of the picture of each.
    """

    counts: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray

    def of(self, number: int) -> np.ndarray:
        """The counts of a mask."""
        return self.counts[self.offsets[number] : self.offsets[number + 1]]


class Polygons(NamedTuple):
    """n masks, each a union of polygons. points: float64 [p, 2], (x, y), where (0, 0) is a picture's corner.

    polygon_offsets: int64 [q + 1], into points. object_offsets: int64 [n + 1], into polygons.
    """

    points: np.ndarray
    polygon_offsets: np.ndarray
    object_offsets: np.ndarray

    def of(self, number: int) -> list[np.ndarray]:
        """The polygons of a mask, [k, 2] each."""
        first, last = self.object_offsets[number : number + 2]
        ends = self.polygon_offsets[first : last + 1]
        return [self.points[begin:end] for begin, end in pairwise(ends)]

    def take(self, numbers: np.ndarray) -> Polygons:
        """These masks."""
        polygons, object_offsets = ragged_rows(self.object_offsets, numbers)
        points, polygon_offsets = ragged_rows(self.polygon_offsets, polygons)
        return Polygons(self.points[points], polygon_offsets, object_offsets)


def offsets_of(lengths: Iterable[int]) -> np.ndarray:
    """Where parts of these lengths begin, and the end of the last: int64 [n + 1]."""
    return np.cumsum([0, *lengths], dtype=np.int64)


def ragged_rows(offsets: np.ndarray, parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows of these parts, end to end, and where each part then begins and ends: int64 [r], [len(parts) + 1]."""
    lengths = np.diff(offsets)[parts]
    ends = np.concatenate([np.zeros(1, np.int64), lengths.cumsum()])
    return np.repeat(offsets[:-1][parts] - ends[:-1], lengths) + np.arange(ends[-1]), ends


def pack_polygons(objects: Sequence[Sequence[np.ndarray]]) -> Polygons:
    """Of each object its polygons, [k, 2] each."""
    polygons = [polygon for each in objects for polygon in each]
    points = np.concatenate([np.empty((0, 2)), *polygons])
    return Polygons(points, offsets_of(map(len, polygons)), offsets_of(map(len, objects)))


def pack_counts(counts: Sequence[np.ndarray], sizes: np.ndarray) -> RunLengths:
    """Masks of these counts, in pictures of these sizes [n, 2]."""
    joined = np.concatenate([np.empty(0, np.uint32), *counts]).astype(np.uint32, copy=False)
    return RunLengths(joined, offsets_of(map(len, counts)), np.asarray(sizes, np.int64).reshape(-1, 2))


def concatenate(parts: Sequence[RunLengths]) -> RunLengths:
    """The masks of all parts."""
    counts, _, sizes = (np.concatenate(column) for column in zip(*parts, strict=True))
    return RunLengths(counts, offsets_of(np.concatenate([np.diff(part.offsets) for part in parts])), sizes)


def encode(masks: np.ndarray) -> RunLengths:
    """Masks, bool [n, H, W], as run lengths."""
    num, *size = masks.shape
    counts = []
    for mask in masks:
        ends = np.flatnonzero(np.diff(mask.ravel("F"), prepend=False))
        counts.append(np.diff(ends, prepend=0, append=mask.size).astype(np.uint32))
    return pack_counts(counts, np.tile(size, (num, 1)))


def decode(runs: RunLengths, number: int) -> np.ndarray:
    """A mask, bool [H, W]."""
    counts = runs.of(number)
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(runs.sizes[number], order="F")


def areas(runs: RunLengths) -> np.ndarray:
    """Pixels of each mask: int64 [n]."""
    ones = runs.counts.astype(np.int64)
    first = np.repeat(runs.offsets[:-1], np.diff(runs.offsets))
    ones[(np.arange(len(ones)) - first) % 2 == 0] = 0
    return np.diff(np.concatenate([[0], ones.cumsum()])[runs.offsets])


def parse_counts(text: str) -> np.ndarray | None:
    """COCO's compressed counts, uint32; None where the text is of another form.

    A count is of characters with 5 bits each, low ones first; from the fourth on it is a difference to the one before
    the last.
    """
    codes = np.frombuffer(text.encode("latin-1", "replace"), np.uint8).astype(np.int64) - _FIRST
    if len(codes) == 0 or (codes < 0).any() or (codes > (_BITS | _MORE)).any() or codes[-1] & _MORE:
        return None
    last = np.flatnonzero(codes & _MORE == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(len(codes)) - np.repeat(first, last - first + 1)
    if place.max() > 6:  # 35 bits: more than any count has
        return None
    values = np.add.reduceat((codes & _BITS) << (5 * place), first)
    values -= (codes[last] & _SIGN != 0) * (np.int64(1) << (5 * (last - first + 1)))
    for start in (1, 2):
        values[start::2] = values[start::2].cumsum()
    return values.astype(np.uint32) if (values >= 0).all() and (values < 2**32).all() else None


def draw_polygons(polygons: Polygons, sizes: np.ndarray) -> RunLengths:
    """The masks of polygons in pictures of these sizes, int64 [n, 2], by the rule of pycocotools' frPyObjects."""
    points, sizes = np.ascontiguousarray(polygons.points, np.float64), np.ascontiguousarray(sizes, np.int64)
    if host is not None:
        offsets = polygons.polygon_offsets, polygons.object_offsets
        counts, ends = host.draw_polygons(points, *map(np.ascontiguousarray, offsets), sizes)
        return RunLengths(counts, ends, sizes)
    masks = []
    for number, (height, width) in enumerate(sizes.tolist()):
        mask = np.zeros(height * width, bool)
        for corners in polygons.of(number):
            toggles = np.zeros(mask.size + 1, np.int64)
            np.add.at(toggles, _crossings(corners, height, width), 1)
            mask |= toggles.cumsum()[:-1] % 2 == 1
        masks.append(encode(mask.reshape(1, height, width, order="F")).counts)
    return pack_counts(masks, sizes)


def _crossings(corners: np.ndarray, height: int, width: int) -> np.ndarray:
    """Where a polygon's outline passes the middle of a column, as the pixel below: see csrc/host/masks.h."""
    fifths = (5 * corners + 0.5).astype(np.int64)
    drawn = [fifths[:1]]
    for start, stop in zip(fifths, np.roll(fifths, -1, 0), strict=True):
        steps = int(abs(stop - start).max())
        if steps == 0:
            continue
        axis = int(abs(stop - start)[0] < steps)  # the longer one
        low, high = (start, stop) if start[axis] < stop[axis] else (stop, start)
        along = np.arange(steps + 1)
        line = np.empty((steps + 1, 2), np.int64)
        line[:, axis] = low[axis] + along
        slope = (high[1 - axis] - low[1 - axis]) / steps
        line[:, 1 - axis] = (low[1 - axis] + slope * along + 0.5).astype(np.int64)
        drawn.append(line if low is start else line[::-1])
    points = np.concatenate(drawn)
    before, after = points[:-1], points[1:]
    at = np.where(after[:, 0] < before[:, 0], after[:, 0], after[:, 0] - 1)
    column = at // 5
    passes = (after[:, 0] != before[:, 0]) & (at >= 0) & (at % 5 == 2) & (column < width)
    rows = np.ceil(((np.minimum(before[:, 1], after[:, 1]) + 0.5) / 5 - 0.5).clip(0, height)).astype(np.int64)
    return (column * height + rows)[passes]


def paste_masks(masks: np.ndarray, boxes: np.ndarray, size: tuple[int, int]) -> RunLengths:
    """Where masks, stretched over their boxes, are above one half in a picture of this size (height, width).

    masks: float32 [n, S, S], probabilities; boxes: float32 [n, 4], (x1, y1, x2, y2). As torchvision's
    paste_masks_in_image with a padding of 1.
    """
    masks, boxes = (np.ascontiguousarray(each, np.float32) for each in (masks, boxes))
    if host is not None:
        counts, ends = host.paste_masks(masks, boxes, *size)
        return RunLengths(counts, ends, np.tile(np.array(size, np.int64), (len(masks), 1)))
    pasted = np.zeros((len(masks), *size), bool)
    side = masks.shape[-1]
    padded = pad(torch.from_numpy(masks), (1, 1, 1, 1))
    for mask, box, into in zip(padded, torch.from_numpy(boxes), pasted, strict=True):
        half, middle = (box[2:] - box[:2]) * 0.5 * ((side + 2) / side), (box[2:] + box[:2]) * 0.5
        left, top, right, bottom = torch.cat([middle - half, middle + half]).to(torch.int64).tolist()
        shape = max(bottom - top + 1, 1), max(right - left + 1, 1)
        window = slice(max(top, 0), max(bottom + 1, 0)), slice(max(left, 0), max(right + 1, 0))
        target = into[window]
        stretched = interpolate(mask[None, None], shape, mode="bilinear")[0, 0, max(-top, 0) :, max(-left, 0) :]
        target[:] = stretched[: target.shape[0], : target.shape[1]] > 0.5
    return encode(pasted)


def outlines(counts: np.ndarray, height: int) -> list[np.ndarray]:
    """Polygons without holes or overlaps that cover a mask's pixels, float64 [k, 2] each.

    A polygon goes on from column to column where one run of pixels touches one other; where runs part, meet or end,
    others begin.
    """
    finished: list[_Strip] = []
    growing: list[_Strip] = []
    for column, runs in _columns(counts, height):
        touching = [[strip for strip in growing if strip.touches(column, run)] for run in runs]
        shared = [strip for each in touching for strip in each]
        after = []
        for run, candidates in zip(runs, touching, strict=True):
            if len(candidates) == 1 and shared.count(candidates[0]) == 1:
                strip = candidates[0]
                strip.runs.append(run)
            else:
                strip = _Strip(column, [run])
                finished.append(strip)
            after.append(strip)
        growing = after
    return [strip.outline() for strip in finished]


class _Strip:
    """Runs (top, bottom) of neighbouring columns from `left` on."""

    def __init__(self, left: int, runs: list[tuple[int, int]]) -> None:
        self.left, self.runs = left, runs

    def touches(self, column: int, run: tuple[int, int]) -> bool:
        top, bottom = self.runs[-1]
        return self.left + len(self.runs) == column and top < run[1] and run[0] < bottom

    def outline(self) -> np.ndarray:
        """Along the tops, and back along the bottoms."""
        sides = []
        for levels in np.array(self.runs).T:
            steps = np.concatenate([[0], np.flatnonzero(np.diff(levels)) + 1, [len(levels)]])
            x = self.left + np.stack([steps[:-1], steps[1:]], 1).ravel()
            sides.append(np.stack([x, np.repeat(levels[steps[:-1]], 2)], 1))
        return np.concatenate([sides[0], sides[1][::-1]]).astype(np.float64)


def _columns(counts: np.ndarray, height: int) -> Iterable[tuple[int, list[tuple[int, int]]]]:
    """(column, its runs of ones as (top, bottom)), from left to right."""
    found: dict[int, list[tuple[int, int]]] = {}
    ends = np.asarray(counts, np.int64).cumsum().tolist()
    for begin, end in zip(ends[::2], ends[1::2], strict=False):
        while begin < end:
            column, top = divmod(begin, height)
            bottom = min(height, top + end - begin)
            found.setdefault(column, []).append((top, bottom))
            begin += bottom - top
    return found.items()
