"""A small ImageFolder tree of photographs, with the unusual files that ImageNet has."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from airank_fast.data.images import ImageFolder

NUM_TRAIN, NUM_VAL = 24, 11  # neither divides by the batch sizes of the tests


def photographs(num: int, seed: int) -> list[Image.Image]:
    """Crops of scikit-learn's two sample photographs, of sizes from 120 x 90 to 500 x 375 and upright ones."""
    from sklearn.datasets import load_sample_images  # which takes seconds, in each process of pytest

    rng = np.random.default_rng(seed)
    sources = [Image.fromarray(array) for array in load_sample_images().images]
    pictures = []
    for i in range(num):
        width = int(rng.integers(120, 501))
        size = (width, width * 3 // 4) if i % 3 else (width * 3 // 4, width)
        x, y = (
            (int(rng.integers(0, room - side + 1)) for room, side in zip((640, 427), size, strict=True))
            if size[1] <= 427
            else (0, 0)
        )
        pictures.append(sources[i % 2].crop((x, y, x + size[0], y + size[1])).resize(size))
    return pictures


@pytest.fixture(scope="session")
def photo_root(tmp_path_factory):
    """train/ and val/ with two classes: RGB, grey and CMYK JPEGs, a PNG called .JPEG, an upright EXIF mark."""
    root = tmp_path_factory.mktemp("photos")
    for side, num in (("train", NUM_TRAIN), ("val", NUM_VAL)):
        for i, picture in enumerate(photographs(num, seed=num)):
            path = root / side / ("cat" if i % 2 else "dog") / f"{i:03d}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            if i == 2:
                picture.save(path, format="PNG")
            elif i == 5:
                exif = Image.Exif()
                exif[0x112] = 6
                picture.save(path, quality=90, exif=exif)
            else:
                picture.convert({3: "L", 4: "CMYK"}.get(i, "RGB")).save(path, quality=90)
    return root


@pytest.fixture
def photos(photo_root):
    return ImageFolder(photo_root, 2)
