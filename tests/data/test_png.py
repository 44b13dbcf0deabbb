"""PNGs decoded without Pillow: every filter, a part of the rows, and what is left to Pillow."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from airank_fast.data.host import host
from airank_fast.data.images import png

pytestmark = pytest.mark.skipif(host is None, reason="needs airank_fast._host")
FILTERS = range(5)


def pixels_of(shape: tuple[int, ...]) -> np.ndarray:
    """Slopes with noise, so that every filter's predictions are near and far."""
    rng = np.random.default_rng(0)
    slopes = sum(np.ix_(*(10 * np.arange(side) for side in shape)))
    return (slopes + rng.integers(0, 40, shape) * (rng.random(shape) < 0.5)).astype(np.uint8)


def predicted(kind: int, left: np.ndarray, up: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """The predictions of a filter, by section 9 of the specification."""
    if kind < 4:
        return [np.zeros_like(left), left, up, (left + up) // 2][kind]
    distances = np.abs([up - corner, left - corner, left + up - 2 * corner])
    return np.choose(distances.argmin(0), [left, up, corner])


def file_of(width: int, height: int, channels: int, rows: bytes, interlace: int = 0) -> bytes:
    """A PNG of these filtered rows, in two pieces."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, interlace)
    data = zlib.compress(rows)
    half = len(data) // 2
    chunks = [(b"IHDR", header), (b"tEXt", b"a\0b"), (b"IDAT", data[:half]), (b"IDAT", data[half:]), (b"IEND", b"")]
    parts = (struct.pack(">I", len(c)) + kind + c + struct.pack(">I", zlib.crc32(kind + c)) for kind, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def write(pixels: np.ndarray, kinds: list[int]) -> bytes:
    """A PNG of greys or colours whose rows have these filters, in turns."""
    height, width = pixels.shape[:2]
    channels = pixels[0, 0].size
    rows, above = b"", np.zeros(width * channels + channels, int)
    for number in range(height):
        row = np.concatenate([np.zeros(channels, int), pixels[number].ravel().astype(int)])
        kind = kinds[number % len(kinds)]
        guess = predicted(kind, row[:-channels], above[channels:], above[:-channels])
        rows += bytes([kind]) + ((row[channels:] - guess) % 256).astype(np.uint8).tobytes()
        above = row
    return file_of(width, height, channels, rows)


@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 3), (7, 1, 3), (1, 9), (13, 31), (13, 31, 3), (70, 50, 3)], ids=str)
@pytest.mark.parametrize("kinds", [*([kind] for kind in FILTERS), [4, 2, 0, 3, 1]], ids=str)
def test_every_filter_is_undone(shape, kinds):
    pixels = pixels_of(shape)
    content = write(pixels, kinds)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), pixels)  # what is written is a PNG
    found = png.parse(content)
    assert (found.height, found.width, found.channels) == (*shape[:2], 3 if len(shape) == 3 else 1)
    for number in {1, (shape[0] + 1) // 2, shape[0]}:
        rows = found.rows(number)
        assert rows.dtype == np.uint8
        assert np.array_equal(rows, pixels[:number])


@pytest.mark.parametrize("size", [(37, 21), (64, 48)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pillow_s_files_are_read_as_by_pillow(mode, size):
    image = Image.effect_noise(size, 60).convert(mode)
    file = io.BytesIO()
    image.save(file, "PNG")
    assert np.array_equal(png.parse(file.getvalue()).rows(size[1]), np.asarray(image))


def saved(mode: str, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (8, 8)).save(file, kind)
    return file.getvalue()


OTHERS = {
    "nothing": b"",
    "a JPEG": saved("RGB", "JPEG"),
    "a palette": saved("P"),
    "alpha": saved("RGBA"),
    "16 bits": saved("I;16"),
    "1 bit": saved("1"),
    "interlaced": file_of(1, 1, 1, bytes(2), interlace=1),
    "too many pixels": file_of(1 << 20, 1 << 20, 1, bytes(2)),
    "no pixels": file_of(0, 1, 1, bytes(2)),
    "a signature": saved("L")[:8],
    "half a header": saved("L")[:20],
    "no header": saved("L")[:8] + saved("L")[33:],
    "a damaged header": saved("L").replace(struct.pack(">II", 8, 8), struct.pack(">II", 8, 4)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_forms_are_left_to_pillow(name):
    assert png.parse(OTHERS[name]) is None


def test_what_is_damaged_is_left_to_pillow_too():
    content = write(pixels_of((70, 50, 3)), [4])
    start = content.index(b"IDAT")
    second = content.index(b"IDAT", start + 4) - 4
    for at in range(start, len(content) - 12, 97):
        assert png.parse(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]) is None
    for end in (len(content) // 2, second, len(content) - 12):
        assert png.parse(content[:end]) is None
    assert png.parse(file_of(50, 70, 3, b"\5" + bytes(70 * 151 - 1))).rows(70) is None  # no filter
    assert png.parse(file_of(50, 70, 3, bytes(69 * 151))).rows(70) is None  # a row too few


def test_without_the_extension_pillow_reads_all(monkeypatch):
    monkeypatch.setattr(png, "host", None)
    assert png.parse(write(pixels_of((4, 4)), [0])) is None
