"""Makes data/images/fashion.npy.xz, 4,400 pictures of Fashion-MNIST, from the published files of its training set.

apt-get download dataset-fashion-mnist && dpkg-deb -x dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb fashion
python -m airank_fast.sources.fashion_mnist fashion/usr/share/datasets/fashion-mnist fashion.npy.xz

The first pictures of each class are kept, in the order of the files, class by class, at 16 grey levels.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import lzma
import sys
from pathlib import Path

import numpy as np

from airank_fast.data.images.fashion import KEPT, SIDE
from airank_fast.errors import require

IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
SHA256 = {
    IMAGES: "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    LABELS: "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
}
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 4, "pb": 0}]


def read_idx(content: bytes, name: str) -> np.ndarray:
    """The bytes of an IDX file, in its shape. UserError for another type, and for a file of another length."""
    what = "an IDX file of bytes"
    require(len(content) >= 4 and content[:3] == b"\0\0\x08", name, what, f"a beginning {content[:4].hex()}")
    first = 4 + 4 * content[3]
    shape = np.frombuffer(content[4:first], ">u4").astype(np.int64)
    values = np.frombuffer(content[first:], np.uint8)
    require(len(shape) == content[3] and values.size == shape.prod(), name, f"{what}, whole", f"{values.size} values")
    return values.reshape(shape)


def convert(images: np.ndarray, labels: np.ndarray, kept: tuple[int, ...] = KEPT) -> np.ndarray:
    """The array of fashion.npy.xz: of each class the first pictures, two pixels a byte, the left one in the upper half.

    images: uint8 [n, 28, 28]; labels: uint8 [n]. Returns uint8 [sum of kept, 28, 14].
    """
    chosen = np.concatenate([np.flatnonzero(labels == label)[:number] for label, number in enumerate(kept)])
    require(len(chosen) == sum(kept), "labels", f"{sum(kept)} of {len(kept)} classes", len(chosen))
    levels = ((images[chosen].astype(np.uint16) * 15 + 127) // 255).astype(np.uint8)
    return levels[:, :, ::2] << 4 | levels[:, :, 1::2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    arrays = []
    for name, expected in SHA256.items():
        content = (arguments.folder / name).read_bytes()
        found = hashlib.sha256(content).hexdigest()
        require(found == expected, name, f"Fashion-MNIST's file, of SHA-256 {expected}", found)
        arrays.append(read_idx(gzip.decompress(content), name))
    images, labels = arrays
    require(images.shape[1:] == (SIDE, SIDE), IMAGES, f"pictures of {SIDE} x {SIDE}", images.shape)
    array = io.BytesIO()
    np.save(array, convert(images, labels))
    arguments.target.write_bytes(lzma.compress(array.getvalue(), filters=_FILTERS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
