"""Wrong arguments of airank_fast::roi_align, of its backward and of its two functions, with their messages."""

from __future__ import annotations

import torch

from airank_fast.nn import multiscale_roi_align, roi_align

SCALES = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
X = torch.ones(2, 3, 4, 4)
LAST = X.contiguous(memory_format=torch.channels_last)
ROIS = torch.tensor([[0.0, 0, 0, 2, 2], [1, 1, 1, 3, 3]])
SHAPE = "must have shape [N, C, H, W] with at least one channel and one pixel, got "
OPTIONS = ((1.0,), (), 2, 3, 2, False, False)
TWO = ((1.0, 0.5), (9.0,), 2, 3, 2, False, False)


def changed(options, **changes):
    names = ("scales", "areas", "height", "width", "ratio", "aligned", "last")
    return tuple(changes.get(name, value) for name, value in zip(names, options, strict=True))


WRONG = {
    f"x {SHAPE}[2, 3, 4]": (X[..., 0], None, ROIS, OPTIONS),
    f"x {SHAPE}[2, 3, 0, 4]": (X[:, :, :0], None, ROIS, OPTIONS),
    "x must be float32, float64, bfloat16, float16, uint8 or bool, got int64": (X.long(), None, ROIS, OPTIONS),
    "channels_last must be False for uint8 and bool, got True": (LAST.byte(), None, ROIS, changed(OPTIONS, last=True)),
    "x must be contiguous, got strides [48, 1, 12, 3]": (LAST, None, ROIS, OPTIONS),
    "a must be on cpu, got meta": (X, X.to("meta"), ROIS, TWO),
    "a must be float32, got bfloat16": (X, X.bfloat16(), ROIS, TWO),
    f"a {SHAPE}[2, 3, 4]": (X, X[..., 0], ROIS, TWO),
    "a must have shape [2, 3, h, w], got [1, 3, 4, 4]": (X, X[:1], ROIS, TWO),
    "a must be contiguous, got strides [48, 1, 12, 3]": (X, LAST, ROIS, TWO),
    "rois must be on cpu, got meta": (X, None, ROIS.to("meta"), OPTIONS),
    "rois must be float32, got float64": (X, None, ROIS.double(), OPTIONS),
    "rois must have shape [K, 5], got [2, 4]": (X, None, ROIS[:, 1:], OPTIONS),
    "rois must have shape [K, 5], got [5]": (X, None, ROIS[0], OPTIONS),
    "scales must have 2 numbers, got 1": (X, X, ROIS, changed(TWO, scales=(1.0,))),
    "areas must have 1 numbers, got 0": (X, X, ROIS, changed(TWO, areas=())),
    "output_size must be in [1, 256], got [0, 3]": (X, None, ROIS, changed(OPTIONS, height=0)),
    "output_size must be in [1, 256], got [2, 257]": (X, None, ROIS, changed(OPTIONS, width=257)),
    "sampling_ratio must be at most 1048576, got 1048577": (X, None, ROIS, changed(OPTIONS, ratio=1048577)),
}
GRAD = torch.ones(2, 3, 2, 3)
WRONG_BACKWARD = {
    f"grad {SHAPE}[2, 3, 2]": (GRAD[..., 0], ROIS, 2, [4, 4]),
    "grad must be float32, float64, bfloat16 or float16, got uint8": (GRAD.byte(), ROIS, 2, [4, 4]),
    "grad must be contiguous, got strides [18, 6, 1, 2]": (GRAD.mT.contiguous().mT, ROIS, 2, [4, 4]),
    "pictures must be at least 0, got -1": (GRAD, ROIS, -1, [4, 4]),
    "sizes must be one to four pairs of at least 1, got [4]": (GRAD, ROIS, 2, [4]),
    "sizes must be one to four pairs of at least 1, got [4, 0]": (GRAD, ROIS, 2, [4, 0]),
    "rois must be float32, got float64": (GRAD, ROIS.double(), 2, [4, 4]),
    "rois must have shape [2, 5], got [1, 5]": (GRAD, ROIS[:1], 2, [4, 4]),
}

WRONG_FACE = {
    "boxes must be 2 tensors, one for each picture, got 1": lambda: roi_align(X, [ROIS[:, 1:]], 2),
    "boxes[1] must have shape [k, 4], got [2, 5]": lambda: roi_align(X, [ROIS[:, 1:], ROIS], 2),
    "features must be 1 to 4 tensors, got 5": lambda: multiscale_roi_align([X] * 5, ROIS, 2, SCALES),
    "scales must be 2 numbers, got 4": lambda: multiscale_roi_align([X] * 2, ROIS, 2, SCALES),
    "scales must be positive and each half of the one before, got [0.5, 0.5]": lambda: multiscale_roi_align(
        [X] * 2, ROIS, 2, [0.5, 0.5]
    ),
}
