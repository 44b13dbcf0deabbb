"""Decoded and augmented 224 px pictures: the DALI reader and the torch reader against a plain Pillow loop.

    python bench/data.py [--save] [--rounds N] [--batch-size N] [--quality N]

The same JPEGs (500 x 375, cut from scikit-learn's two sample photographs), the same random windows, uint8 RGB
batches out. Times are CPU seconds per picture, of all threads of the process, so that a rate is per busy core and does
not depend on the machine's load; each contestant decodes with one thread. A reader works ahead: its time is taken from
one moment of full queues to the next. All contestants must decode the entropy-coded rows down to the window's last, so
that they are closer for larger files.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import harness
import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from airank_fast.data.images import ImageFolder, make_reader
from airank_fast.data.sampling import TrainStream, crop_factors, flip_draws, offset_draws, random_resized_window

SIZE, MIN_AREA, NUM_FILES = 224, 0.08, 200
IDLE_S = 0.25  # after it a reader's queues are full


def make_photographs(root: Path, quality: int) -> float:
    """NUM_FILES JPEGs of 500 x 375 in train/ and the same in val/; returns their mean size in bytes."""
    rng = np.random.default_rng(0)
    sources = [Image.fromarray(array) for array in load_sample_images().images]
    for i in range(NUM_FILES):
        width = int(rng.integers(500, 570))
        height = width * 3 // 4
        x, y = int(rng.integers(0, 641 - width)), int(rng.integers(0, 428 - height))
        picture = sources[i % 2].crop((x, y, x + width, y + height)).resize((500, 375), Image.Resampling.BICUBIC)
        for side in ("train", "val"):
            path = root / side / str(i % 2) / f"{i:03d}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path, quality=quality)
    return statistics.mean(path.stat().st_size for path in root.glob("train/*/*"))


def pillow(folder: ImageFolder, batch_size: int) -> Iterator[np.ndarray]:
    """A straightforward loop: open, resize the window, mirror, to NumPy."""
    stream = TrainStream(
        len(folder.train), 0, batch_size_local=batch_size, global_batch_size=batch_size, rank=0, world_size=1
    )
    for indices, u, *_ in stream.requests(0):
        factors, offsets, flips = crop_factors(u, MIN_AREA), offset_draws(u), flip_draws(u)
        pictures = []
        for i, index in enumerate(indices):
            with Image.open(folder.train.files[index]) as image:
                rgb = image.convert("RGB")
            y, x, h, w = random_resized_window(rgb.height, rgb.width, factors[i], offsets[i])
            cut = rgb.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=(x, y, x + w, y + h))
            pictures.append(np.asarray(cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flips[i] else cut))
        yield np.stack(pictures)


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def check(contestants: dict[str, Callable[[], object]]) -> None:
    """Every contestant's first batch must be the Pillow loop's, within the rounding of its filter at window edges."""
    first = {name: np.asarray(call()).astype(int) for name, call in contestants.items()}
    for name, batch in first.items():
        difference = np.abs(batch - first["Pillow loop"])
        assert difference.mean() < 0.5, f"{name}: other pictures, {difference.mean()} grey levels apart"


def measure(
    contestants: dict[str, Callable[[], object]], batch_size: int, num_batches: int, num_rounds: int
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """CPU seconds per picture, per round; and pictures per second of wall time."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    wall_s: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(num_rounds):
        for name in sorted(contestants, reverse=bool(number % 2)):
            time.sleep(IDLE_S)
            used, start = cpu_s(), time.perf_counter()
            for _ in range(num_batches):
                contestants[name]()
            wall_s[name].append(time.perf_counter() - start)
            time.sleep(IDLE_S)
            times[name].append((cpu_s() - used) / (num_batches * batch_size))
    return times, {name: num_batches * batch_size / statistics.median(values) for name, values in wall_s.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save", action="store_true", help="append the result to bench/results/data.jsonl")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--quality", type=int, default=94, help="of the JPEGs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    batch_size = options.batch_size
    with tempfile.TemporaryDirectory() as root:
        file_bytes = make_photographs(Path(root), options.quality)
        folder = ImageFolder(root, 2)
        readers = {
            name: make_reader(
                kind,
                folder,
                image_size=SIZE,
                train_crop="random_resized",
                eval_resize=256,
                batch_size_local=batch_size,
                global_batch_size=batch_size,
                min_area=MIN_AREA,
                num_workers=num_workers,
            )
            for name, kind, num_workers in (("DALI reader", "dali", 1), ("torch reader", "torch", 0))
        }
        sources = {name: reader.train(0) for name, reader in readers.items()}
        loop = pillow(folder, batch_size)
        contestants = {name: lambda source=source: next(source)[0] for name, source in sources.items()}
        contestants["Pillow loop"] = lambda: next(loop)
        check(contestants)
        times, wall = measure(contestants, batch_size, max(2, 768 // batch_size), options.rounds)
        for reader in readers.values():
            reader.close()
    case = f"224 px from {file_bytes / 1e3:.0f} kB JPEGs, per picture and core"
    print(harness.as_text(case, times, "DALI reader"))
    if options.save:
        harness.save(
            "data",
            case,
            times,
            "DALI reader",
            unit="CPU seconds per picture",
            images_per_s={name: 1 / statistics.median(values) for name, values in times.items()},
            wall_images_per_s=wall,
            decode_threads=1,
            batch_size=batch_size,
            file_bytes=round(file_bytes),
            jpeg_quality=options.quality,
            picture_size=[500, 375],
        )


if __name__ == "__main__":
    main()
