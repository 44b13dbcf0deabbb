"""Small data sets in the form of ICDAR 2015: scenes of digit strings, and pictures with given lists."""

from __future__ import annotations

import numpy as np
from PIL import Image

from airank_fast.data.images import digit_strings
from airank_fast.data.images.text_scenes import FOLDERS


def line(quad, text: str) -> str:
    """A line of a list."""
    return ",".join(f"{value:g}" for value in np.asarray(quad).ravel()) + f",{text}"


def write_scene(root, side: str, number: int, picture: np.ndarray, lines: list[str]) -> None:
    """A picture img_NUMBER.png and its list, with a byte order mark and CRLF as ICDAR's."""
    pictures, lists = (root / name for name in FOLDERS[side])
    for folder in (pictures, lists):
        folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(pictures / f"img_{number}.png")
    content = "".join(f"{text}\r\n" for text in lines)
    (lists / f"gt_img_{number}.txt").write_bytes(content.encode("utf-8-sig"))


def write_strings(root, num_train: int = 16, num_val: int = 6):
    """Scenes of strings of digits, the evaluation's of held-out ones; returns the folder."""
    for side, count in (("train", num_train), ("val", num_val)):
        for index in range(count):
            scene = digit_strings.scene(3, index, held_out=side == "val")
            lines = [line(string.quad.round(), string.text) for string in scene.strings]
            write_scene(root, side, index + 1, scene.picture, lines)
    return root
