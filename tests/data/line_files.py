"""Small data sets of text lines, as a list and as an LMDB."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

TEXTS = ["aab", "c", "cabab", "bb", "a", "abc", "cc", "cba"]


def png(number: int) -> bytes:
    """A grey picture of its own size and content."""
    pixels = np.random.default_rng(number).integers(0, 256, (20 + number, 50 + 7 * number), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_list(folder, texts=TEXTS):
    """A folder of pictures with a list."""
    (folder / "pictures").mkdir(parents=True)
    for number in range(len(texts)):
        (folder / "pictures" / f"{number}.png").write_bytes(png(number))
    path = folder / "gt.txt"
    path.write_text("".join(f"pictures/{number}.png\t{text}\n" for number, text in enumerate(texts)), encoding="utf-8")
    return path


def write_lmdb(folder, texts=TEXTS, **changes: bytes | None):
    """An LMDB of the same lines, in which keys are changed or, with None, left out."""
    lmdb = pytest.importorskip("lmdb")
    content = {"num-samples": str(len(texts)).encode()}
    for number, text in enumerate(texts):
        content |= {f"image-{number + 1:09d}": png(number), f"label-{number + 1:09d}": text.encode()}
    content |= {name.replace("_", "-"): value for name, value in changes.items()}
    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        for key, value in content.items():
            if value is not None:
                transaction.put(key.encode(), value)
    return folder
