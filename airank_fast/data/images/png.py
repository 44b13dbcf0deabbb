"""PNGs of 8-bit colours or greys down to a row, in half of Pillow's time: zlib, and csrc/host/png.h for the filters.

    png = parse(content)                        # None for any other form, which Pillow decodes
    pixels = png.rows(300)                      # uint8 [300, W, 3], or [300, W] of greys

Cityscapes' pictures and label images are of these forms, and a crop needs no rows below it.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

from airank_fast.data.host import host

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3}  # of PNG's colour types grey and RGB


@dataclass(frozen=True)
class Png:
    """A PNG of `channels` 8-bit channels, 1 or 3, without interlacing. compressed: its rows."""

    height: int
    width: int
    channels: int
    compressed: bytes

    def rows(self, number: int) -> np.ndarray | None:
        """The first rows: uint8 [number, width, 3], or [number, width] of greys; None where they are damaged."""
        size = number * (1 + self.width * self.channels)
        try:
            filtered = zlib.decompressobj().decompress(self.compressed, size)
        except zlib.error:
            return None
        return host.unfilter_png(filtered, number, self.width, self.channels) if len(filtered) == size else None


def parse(content: bytes) -> Png | None:
    """The PNG of a file's content; None for another form, a damaged file, and where csrc/host was not built."""
    if host is None or not content.startswith(_SIGNATURE):
        return None
    view, header, parts, at = memoryview(content), None, [], len(_SIGNATURE)
    while at + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        body, end = view[at + 8 : at + 8 + length], at + 8 + length
        if zlib.crc32(view[at + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            return None
        if kind == b"IHDR" and len(body) == 13:
            header = struct.unpack(">IIBBBBB", body)
        elif kind == b"IDAT":
            parts.append(body)
        at = end + 4
        if kind == b"IEND":
            break
    else:
        return None  # it breaks off
    if header is None:
        return None
    width, height, bits, colour, *others = header
    is_large = width * height > (Image.MAX_IMAGE_PIXELS or 0)  # which Pillow refuses, or is to allow
    if bits != 8 or colour not in _CHANNELS or any(others) or not width or not height or is_large:
        return None
    return Png(height, width, _CHANNELS[colour], b"".join(parts))
