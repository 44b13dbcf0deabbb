"""Resizes every picture that is cropped on the CPU: triangle filter, antialiased, 8 bits in and out.

torch's kernel for it (the vectorised form of Pillow's, and equal to it within one grey level) is several times
faster than Pillow's and DALI's on the CPU; bench/data.py has the figures.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import interpolate


def resize_into(out: np.ndarray, window: np.ndarray, mirrored: bool) -> None:
    """out: uint8 [H, W, c], written. window: uint8 [h, w, c], C-contiguous, writable (torch requires it)."""
    picture = torch.from_numpy(window)[None].permute(0, 3, 1, 2)  # [1, c, h, w], channels_last
    if window.shape != out.shape:
        picture = interpolate(picture, out.shape[:2], mode="bilinear", antialias=True)
    if mirrored:
        picture = picture.flip(3)
    out[:] = picture[0].permute(1, 2, 0).numpy()
