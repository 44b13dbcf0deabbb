"""Training batches of pictures with label images and of clips, against loops over Pillow, OpenCV and PyAV.

    python bench/pixel_readers.py [--cases pairs videos frames] [--rounds N] [--save]

pairs: PNGs of 2048 x 1024 with label images of 19 classes, about as large as Cityscapes', to crops of 512 x 1024 at a
scale of 0.5 to 2, half of them mirrored. As mmsegmentation's pipeline, a loop scales the whole picture, then crops;
"crop first" scales only the window that is needed, as this project does. videos: H.264 of 340 x 256, 10 s at 30
frames/s, in x264's default settings; 8 frames of each, under one multi-scale crop, to 224 x 224. frames: the same
videos as folders of JPEGs.

The same random numbers for all. Times are CPU seconds of one core per picture or clip, so that they depend little on
the machine's load.
"""

from __future__ import annotations

import argparse
import importlib
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch
from data import measure
from PIL import Image
from sklearn.datasets import load_sample_images

from airank_fast.data.images.clip_reader import ClipReader, Window, multi_scale_window
from airank_fast.data.images.clips import ListedClips, read_clips, segment_frames
from airank_fast.data.images.geometry import ScaledCrop, scaled_crop
from airank_fast.data.images.label_images import Pairs, read_pairs
from airank_fast.data.images.place import Place
from airank_fast.data.images.segmentation_reader import Crops, SegmentationReader
from airank_fast.data.sampling import Crop, TrainStream, flip_draws, offset_draws, spare_draws

OURS = "airank_fast"
HEIGHT, WIDTH, CLASSES, NUM_PAIRS = 1024, 2048, 19, 8
CROPS = Crops(512, 1024, 0.5, 2.0, flip=True)
FRAME_SIZE, NUM_FRAMES, RATE, NUM_VIDEOS, SEGMENTS, SIDE = (256, 340), 300, 30, 8, 8, 224
BATCH = 4
PLACE = Place(BATCH, 0, 1, torch.device("cpu"), num_workers=0)


def stream(number: int) -> TrainStream:
    return TrainStream(number, 0, batch_size_local=BATCH, global_batch_size=BATCH, rank=0, world_size=1)


# -- pictures with label images ----------------------------------------------------------------------------------------


def write_pairs(root: Path) -> Path:
    """Parts of scikit-learn's photographs, enlarged, with a sensor's noise; labels by the lightness of large pixels."""
    photographs, rng, rows = load_sample_images().images, np.random.default_rng(0), []
    for number in range(NUM_PAIRS):
        top, left = 8 * number, 10 * number
        part = Image.fromarray(photographs[number % 2]).crop((left, top, left + 560, top + 280))
        enlarged = np.asarray(part.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.float32)
        noisy = (enlarged + rng.normal(0, 1.2, enlarged.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(root / f"{number}.png")
        lightness = np.asarray(part.convert("L").resize((32, 16), Image.Resampling.BOX))
        labels = Image.fromarray((lightness // 14).astype(np.uint8)).resize((WIDTH, HEIGHT), Image.Resampling.NEAREST)
        labels.save(root / f"{number}_labels.png")
        rows.append(f"{number}.png\t{number}_labels.png\n")
    (root / "list.txt").write_text("".join(rows))
    return root / "list.txt"


def crops_of(pairs: Pairs) -> Iterator[list[tuple[str, str, float, ScaledCrop]]]:
    """(picture, labels, scale, crop) of each batch, as SegmentationReader draws them."""
    for request in stream(len(pairs)).requests(0):
        scales = CROPS.min_scale + (CROPS.max_scale - CROPS.min_scale) * request.draws[:, 0]
        offsets, flips = offset_draws(request.draws), flip_draws(request.draws)
        yield [
            (
                pairs.pictures[number],
                pairs.labels[number],
                scales[row],
                scaled_crop((HEIGHT, WIDTH), (CROPS.height, CROPS.width), scales[row], offsets[row], bool(flips[row])),
            )
            for row, number in enumerate(request.indices)
        ]


def resize_by_pillow(image: Image.Image, height: int, width: int, *, smooth: bool) -> Image.Image:
    return image.resize((width, height), Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST)


def pairs_by_pillow(path: str, *, smooth: bool, scale: float, crop: ScaledCrop, crop_first: bool) -> np.ndarray:
    """A crop of the picture (smooth) or the label image."""
    with Image.open(path) as image:
        whole = image.convert("RGB") if smooth else image.copy()
    right, bottom = crop.left + crop.width, crop.top + crop.height
    if crop_first:
        window = whole.crop((crop.left, crop.top, right, bottom))
        cut = resize_by_pillow(window, crop.to_height, crop.to_width, smooth=smooth)
    else:
        scaled = resize_by_pillow(whole, round(HEIGHT * scale), round(WIDTH * scale), smooth=smooth)
        top, left = round(crop.top * scale), round(crop.left * scale)
        cut = scaled.crop((left, top, left + crop.to_width, top + crop.to_height))
    return np.asarray(cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if crop.mirrored else cut)


def pairs_by_opencv(path: str, *, smooth: bool, scale: float, crop: ScaledCrop, crop_first: bool) -> np.ndarray:
    """The same; OpenCV's pictures are BGR."""
    import cv2

    whole = cv2.imread(path, cv2.IMREAD_COLOR if smooth else cv2.IMREAD_GRAYSCALE)
    how = cv2.INTER_LINEAR if smooth else cv2.INTER_NEAREST
    if crop_first:
        window = whole[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
        cut = cv2.resize(window, (crop.to_width, crop.to_height), interpolation=how)
    else:
        scaled = cv2.resize(whole, (round(WIDTH * scale), round(HEIGHT * scale)), interpolation=how)
        top, left = round(crop.top * scale), round(crop.left * scale)
        cut = scaled[top : top + crop.to_height, left : left + crop.to_width]
    cut = cv2.flip(cut, 1) if crop.mirrored else cut
    return cv2.cvtColor(cut, cv2.COLOR_BGR2RGB) if smooth else cut


def pairs_loop(pairs: Pairs, read: Callable[..., np.ndarray], crop_first: bool) -> Iterator[list[np.ndarray]]:
    """[pictures uint8 [b, h, w, 3], labels uint8 [b, h, w]] of each batch."""
    for batch in crops_of(pairs):
        columns = []
        for column, padding in ((0, (124, 116, 104)), (1, 255)):
            rows = []
            for files in batch:
                cut = read(files[column], smooth=column == 0, scale=files[2], crop=files[3], crop_first=crop_first)
                out = np.full((CROPS.height, CROPS.width, *cut.shape[2:]), padding, np.uint8)
                out[: cut.shape[0], : cut.shape[1]] = cut[: CROPS.height, : CROPS.width]
                rows.append(out)
            columns.append(np.stack(rows))
        yield columns


def pairs_case(root: Path) -> tuple[str, dict[str, Iterator]]:
    """(case, batches by contestant)."""
    pairs, _ = read_pairs(write_pairs(root), "train", CLASSES)
    kilobytes = [
        np.mean([Path(path).stat().st_size / 1e3 for path in paths]) for paths in (pairs.pictures, pairs.labels)
    ]
    found = {OURS: SegmentationReader(pairs, pairs, stream(len(pairs)), PLACE, CROPS).train()}
    for name, read in (("Pillow", pairs_by_pillow), ("OpenCV", pairs_by_opencv)):
        if name == "Pillow" or harness.is_there("cv2"):
            found |= {f"{name} loop": pairs_loop(pairs, read, False)}
            found |= {f"{name} loop, crop first": pairs_loop(pairs, read, True)}
    sizes = f"PNGs of {WIDTH} x {HEIGHT}, {kilobytes[0]:.0f} kB, with labels, {kilobytes[1]:.0f} kB"
    return f"{sizes}, to {CROPS.height} x {CROPS.width}, per picture and core", found


# -- clips -------------------------------------------------------------------------------------------------------------


def pan(number: int) -> Iterator[np.ndarray]:
    """The frames of a video: a window that moves over a photograph and narrows, with a sensor's noise."""
    photograph, rng = Image.fromarray(load_sample_images().images[number % 2]), np.random.default_rng(number)
    height, width = FRAME_SIZE
    for index in range(NUM_FRAMES):
        part = index / NUM_FRAMES
        left, top, span = 60 * part + 8 * number, 20 + 20 * np.sin(6 * part + number), 420 - 60 * part
        box = (left, top, left + span, top + span * height / width)
        frame = np.asarray(photograph.resize((width, height), Image.Resampling.BILINEAR, box=box), np.float32)
        yield (frame + rng.normal(0, 2, frame.shape)).clip(0, 255).astype(np.uint8)


def write_videos(root: Path, *, as_frames: bool) -> Path:
    """Videos, or their frames in JPEGs, and the list of them."""
    import av

    rows = []
    for number in range(NUM_VIDEOS):
        if as_frames:
            folder = root / str(number)
            folder.mkdir()
            for index, frame in enumerate(pan(number), 1):
                Image.fromarray(frame).save(folder / f"img_{index:05d}.jpg", quality=90)
            rows.append(f"{number} {NUM_FRAMES} 0\n")
            continue
        with av.open(str(root / f"{number}.mp4"), "w") as container:
            video = container.add_stream("libx264", rate=RATE)
            video.height, video.width, video.pix_fmt = *FRAME_SIZE, "yuv420p"
            for frame in pan(number):
                container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(video.encode())
        rows.append(f"{number}.mp4 0\n")
    (root / "list.txt").write_text("".join(rows))
    return root / "list.txt"


def windows_of(clips: ListedClips) -> Iterator[list[tuple[str, list[int], Window, bool]]]:
    """(path, frames, window, mirrored) of each batch, as ClipReader draws them."""
    for request in stream(len(clips.labels)).requests(0):
        u, batch = request.draws, []
        for row, number in enumerate(request.indices):
            of_row = u[row : row + 1]
            window = multi_scale_window(*FRAME_SIZE, SIDE, spare_draws(of_row)[0], offset_draws(of_row)[0, 0])
            path = str(clips.path.parent / clips.names[number])
            batch.append((path, segment_frames(NUM_FRAMES, SEGMENTS, u[row]), window, bool(flip_draws(of_row)[0])))
        yield batch


def frames_by_pyav(path: str, numbers: list[int]) -> Iterator[np.ndarray]:
    """The frames of these numbers, by decoding up to the last."""
    import av

    with av.open(path) as container:
        container.streams.video[0].thread_count = 1
        for number, frame in enumerate(container.decode(video=0)):
            for _ in range(numbers.count(number)):
                yield frame.to_ndarray(format="rgb24")
            if number == numbers[-1]:
                return


def frames_by_opencv(path: str, numbers: list[int]) -> Iterator[np.ndarray]:
    """The same, by OpenCV, which converts only the frames that are taken."""
    import cv2

    video = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    for number in range(numbers[-1] + 1):
        video.grab()
        if number in numbers:
            _, frame = video.retrieve()
            for _ in range(numbers.count(number)):
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def frames_by_pillow(folder: str, numbers: list[int]) -> Iterator[np.ndarray]:
    """The frames of a folder."""
    for number in numbers:
        with Image.open(f"{folder}/img_{number + 1:05d}.jpg") as image:
            yield np.asarray(image.convert("RGB"))


def pictures_by_opencv(folder: str, numbers: list[int]) -> Iterator[np.ndarray]:
    """The same, by OpenCV."""
    import cv2

    for number in numbers:
        yield cv2.cvtColor(cv2.imread(f"{folder}/img_{number + 1:05d}.jpg"), cv2.COLOR_BGR2RGB)


def clips_loop(clips: ListedClips, frames_of: Callable[[str, list[int]], Iterator[np.ndarray]]) -> Iterator[list]:
    """[pictures uint8 [b * 8, 224, 224, 3]] of each batch; each frame resized by Pillow, as TSM's own code does."""
    for batch in windows_of(clips):
        pictures = []
        for path, numbers, (top, left, height, width), mirrored in batch:
            for frame in frames_of(path, numbers):
                window = Image.fromarray(frame[top : top + height, left : left + width])
                cut = window.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
                pictures.append(np.asarray(cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else cut))
        yield [np.stack(pictures)]


def clips_case(root: Path, *, as_frames: bool) -> tuple[str, dict[str, Iterator]]:
    """(case, batches by contestant)."""
    clips, _ = read_clips(write_videos(root, as_frames=as_frames), 1)
    crop = Crop(SIDE, "multi_scale", 256, 1.0, flip=True)
    reader = ClipReader(clips, clips, stream(len(clips.labels)), PLACE, num_segments=SEGMENTS, crop=crop)
    loops = {"PyAV": frames_by_pyav, "OpenCV": frames_by_opencv}
    if as_frames:
        loops = {"Pillow": frames_by_pillow, "OpenCV": pictures_by_opencv}
    found = {OURS: reader.train()}
    for name, frames_of in loops.items():
        if name != "OpenCV" or harness.is_there("cv2"):
            found[f"{name} loop"] = clips_loop(clips, frames_of)
    files = [path for path in root.rglob("*") if path.suffix in (".mp4", ".jpg")]
    kilobytes = np.mean([path.stat().st_size for path in files]) / 1e3
    height, width = FRAME_SIZE
    what = "JPEGs" if as_frames else f"H.264 of {NUM_FRAMES / RATE:.0f} s"
    return (
        f"{SEGMENTS} frames of {what}, {width} x {height}, {kilobytes:.0f} kB, to {SIDE} px, per clip and core",
        found,
    )


CASES: dict[str, Callable[[Path], tuple[str, dict[str, Iterator]]]] = {
    "pairs": pairs_case,
    "videos": partial(clips_case, as_frames=False),
    "frames": partial(clips_case, as_frames=True),
}


def check(contestants: dict[str, Callable[[], Any]]) -> None:
    """Every contestant's first batch must be ours, but for the filters' rounding and a pixel at a window's edge."""
    first = {name: [np.asarray(part).astype(int) for part in call()] for name, call in contestants.items()}
    pictures, *labels = first[OURS]
    for name, (theirs, *its_labels) in first.items():
        difference = np.abs(theirs - pictures).mean()
        assert difference < 6, f"{name}: other pictures, {difference} grey levels apart"
        if its_labels:
            assert (its_labels[0] == labels[0]).mean() > 0.97, f"{name}: other labels"


def main() -> None:
    """Check, time, print; save on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--save", action="store_true", help="append to bench/results/pixel_readers.jsonl")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if harness.is_there("cv2"):
        importlib.import_module("cv2").setNumThreads(1)
    for name in arguments.cases:
        with tempfile.TemporaryDirectory() as root:
            case, batches = CASES[name](Path(root))
            contestants = {who: partial(next, source) for who, source in batches.items()}
            check(contestants)
            times, _ = measure(contestants, BATCH, 2, arguments.rounds)
            print(harness.as_text(case, times, OURS), flush=True)
            if arguments.save:
                rates = {who: 1 / harness.timing(values).median_s for who, values in times.items()}
                harness.save("pixel_readers", case, times, OURS, unit="CPU seconds", samples_per_s=rates)


if __name__ == "__main__":
    main()
