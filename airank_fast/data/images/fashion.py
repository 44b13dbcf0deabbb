"""The pictures that come with the package for image translation: 4,400 photographs of garments, bags and shoes.

Source: H. Xiao, K. Rasul and R. Vollgraf, "Fashion-MNIST", https://github.com/zalandoresearch/fashion-mnist, as
Debian's package dataset-fashion-mnist 0.0~git20200523.55506a9-1 carries it. `fashion.npy.xz` holds the first 300
pictures of each class of the training set, of sneakers and ankle boots the first 1,000, class by class, uint8 [4400,
28, 14], two pixels a byte, at 16 of the 256 grey levels. `python -m airank_fast.sources.fashion_mnist` makes it. The
notice:

    The MIT License (MIT)

    Copyright (c) 2017 Zalando SE, https://tech.zalando.com

    Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
    documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
    rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to
    permit persons to whom the Software is furnished to do so, subject to the following conditions:

    The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
    Software.

    THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
    WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS
    OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
    OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.

Every fifth picture of a class is held out: it is in no training set below.
"""

from __future__ import annotations

import lzma
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from airank_fast.data.cache import made_once

NAME = "Fashion-MNIST (MIT)"
CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
KEPT = (300, 300, 300, 300, 300, 300, 300, 1000, 300, 1000)  # pictures of each class
SIDE = 28
PICTURE_SIZE = 32  # of the pictures below, to which they are enlarged: networks halve it five times
_FILE = Path(__file__).with_name("fashion.npy.xz")
_VERSION = 2  # a change of what is written needs another one
_OF_EACH = 300  # pictures of a class whose edges are taken
_HOLD_OUT = 5
_EDGE = 0.43  # of white: the least change over two pixels that is an edge


def load() -> tuple[np.ndarray, np.ndarray]:
    """The embedded pictures, uint8 [4400, 28, 28] of 0 ... 15, and labels, uint8 [4400], in order of the classes."""
    with lzma.open(_FILE) as file:
        packed = np.load(file)
    levels = np.stack([packed >> 4, packed & 15], -1).reshape(len(packed), SIDE, SIDE)
    return levels, np.repeat(np.arange(len(KEPT), dtype=np.uint8), KEPT)


def ranks(labels: np.ndarray) -> np.ndarray:
    """The place of each picture among those of its class, in the order of `load`: int64 [n]."""
    found = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        found[labels == label] = np.arange((labels == label).sum())
    return found


def held_out(labels: np.ndarray) -> np.ndarray:
    """Which of the pictures with these labels, in the order of `load`, are held out: bool [n]."""
    return ranks(labels) % _HOLD_OUT == _HOLD_OUT - 1


def photographs(levels: np.ndarray) -> np.ndarray:
    """Pictures of `load`, enlarged: uint8 [n, 32, 32] of 0 ... 255, on black."""
    shape = (PICTURE_SIZE, PICTURE_SIZE)
    enlarged = [Image.fromarray(each).resize(shape, Image.Resampling.BICUBIC) for each in levels * np.uint8(17)]
    return np.stack([np.asarray(each) for each in enlarged])


def edges(pictures: np.ndarray) -> np.ndarray:
    """White where the grey level changes most, on black: uint8 [n, H, W], 0 or 255, of pictures uint8 [n, H, W].

    An edge is a pixel between whose neighbours the level changes by more than 43 % of white, the root of both squares.
    """
    padded = np.pad(pictures, ((0, 0), (1, 1), (1, 1))).astype(np.float32) / 255
    across = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    down = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    return np.where(across**2 + down**2 > _EDGE**2, 255, 0).astype(np.uint8)


def pairs() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(edges, photographs) of all classes in turn, uint8 [n, 32, 32], by side: train 2,400, val 600."""
    levels, labels = load()
    order = np.argsort(ranks(labels), kind="stable")[: len(KEPT) * _OF_EACH]
    pictures, is_out = photographs(levels[order]), held_out(labels)[order]
    drawn = edges(pictures)
    return {"train": (drawn[~is_out], pictures[~is_out]), "val": (drawn[is_out], pictures[is_out])}


def shoes() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(sneakers, ankle boots), unpaired, uint8 [n, 32, 32], by side: train 800 each, val 200 each."""
    levels, labels = load()
    found: dict[str, list[np.ndarray]] = {"train": [], "val": []}
    for name in ("sneaker", "ankle boot"):
        its = labels == CLASSES.index(name)
        pictures, is_out = photographs(levels[its]), held_out(labels[its])
        found["train"].append(pictures[~is_out])
        found["val"].append(pictures[is_out])
    return {side: (a, b) for side, (a, b) in found.items()}


def unpaired_edges() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(edges, photographs) as of `pairs`, of different pictures in training: train 1,200 each; val 600 true pairs."""
    sides = pairs()
    drawn, pictures = sides["train"]
    is_second = np.arange(len(pictures)) // len(KEPT) % 2 == 1  # every other picture of each class
    return {"train": (drawn[~is_second], pictures[is_second]), "val": sides["val"]}


def materialise_pairs(cache_dir: str | os.PathLike | None = None) -> Path:
    """Write `pairs` once as pix2pix's data sets come, a file with edges | photograph a pair, and return the folder.

    cache_dir: default `~/.cache/airank_fast`. UserError: not writable.
    """

    def write(root: Path) -> None:
        for side, (a, b) in pairs().items():
            _write(root / side, np.concatenate([a, b], 2))

    return _made("fashion-pairs", write, cache_dir)


def materialise_shoes(cache_dir: str | os.PathLike | None = None) -> Path:
    """Write `shoes` once as CycleGAN's data sets come, trainA, trainB, valA, valB, and return the folder.

    cache_dir: default `~/.cache/airank_fast`. UserError: not writable.
    """
    return _made("fashion-shoes", lambda root: _write_domains(root, shoes()), cache_dir)


def materialise_unpaired_edges(cache_dir: str | os.PathLike | None = None) -> Path:
    """Write `unpaired_edges` once as `materialise_shoes` does; files of one name in valA and valB are partners."""
    return _made("fashion-unpaired-edges", lambda root: _write_domains(root, unpaired_edges()), cache_dir)


def _made(name: str, write, cache_dir: str | os.PathLike | None) -> Path:
    what = "--data with a folder of pictures"
    return made_once(f"{name}-v{_VERSION}", write, "embedded data set", what, cache_dir)


def _write_domains(root: Path, sides: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    for side, domains in sides.items():
        for name, pictures in zip("AB", domains, strict=True):
            _write(root / f"{side}{name}", pictures)


def _write(folder: Path, pictures: np.ndarray) -> None:
    folder.mkdir()
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{number:04d}.png", compress_level=1)
