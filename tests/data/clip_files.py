"""Small clips whose pictures name their frames: folders of pictures, and videos."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from PIL import Image

LEVELS = 4  # grey levels between two frames
HEIGHT, WIDTH = 40, 52


def write_frames(folder, number: int):
    """A folder of frames, each the same picture with its number added."""
    folder.mkdir(parents=True)
    places = np.random.default_rng(0).integers(0, 200, (HEIGHT, WIDTH, 3), np.uint8)
    for index in range(number):
        # PNG, whatever the name says: exact values
        Image.fromarray(places + np.uint8(index)).save(folder / f"img_{index + 1:05d}.jpg", "PNG")
    return folder


def write_video(path, codec: str, *, number: int = 60, durations=(40,), **options: str) -> str:
    """A video of 64 x 48 pixels; durations: milliseconds of its frames, in turns."""
    import av

    with av.open(path, "w", options=options) as container:
        stream = container.add_stream(codec, rate=25)
        stream.bit_rate = 2_000_000
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", 12
        stream.codec_context.max_b_frames = 2
        variable = len(durations) > 1
        if variable:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        time = 0
        for index in range(number):
            pixels = np.full((48, 64, 3), LEVELS * index, np.uint8)
            pixels[:, :32] = 255 - LEVELS * index
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = time if variable else index
            time += durations[index % len(durations)]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return str(path)
