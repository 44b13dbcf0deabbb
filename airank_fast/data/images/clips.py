"""Clips with their classes: lists of videos or of folders of frames, as of Kinetics-400, and embedded moving digits.

    clips, corrupt = read_clips(Path("train.txt"), num_classes=400)
    clip = clips.open(7)
    clip.pictures(segment_frames(len(clip), 8))          # 8 pictures, each uint8 [h, w, 3]

A row of a list is `PATH LABEL` for a video, `PATH FRAMES LABEL` for a folder of its frames (mit-han-lab's lists);
paths are relative to the list's folder and may have spaces.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from airank_fast.data.images import digit_scenes
from airank_fast.data.images.image_folder import why_corrupt
from airank_fast.data.images.videos import Video, require_library
from airank_fast.data.images.workers import decode
from airank_fast.errors import UserError, require

FRAME_NAME = "img_{:05d}.jpg"  # mit-han-lab's; the first frame is number 1
_ROW = "a row PATH LABEL of a video or PATH FRAMES LABEL of a folder of frames"


class Clip(Protocol):
    """The frames of a clip, numbered from 0 on."""

    def __len__(self) -> int: ...
    def pictures(self, numbers: Sequence[int]) -> list[np.ndarray]:
        """The frames of these numbers, which do not decrease: each uint8 [h, w, 3], C-contiguous, writable."""

    def why_corrupt(self) -> str | None:
        """Why a frame cannot be read, or None; reads all of them."""


class Clips(Protocol):
    """n clips. labels: int64 [n]."""

    @property
    def labels(self) -> np.ndarray: ...
    def __len__(self) -> int: ...
    def where(self, clip: int) -> str:
        """The clip's place, for a message."""

    def open(self, clip: int) -> Clip:
        """The frames of a clip; ValueError for a video that cannot be read."""

    def checksum(self) -> str:
        """SHA-256 of what and how many the clips are, in hex."""


@dataclass(frozen=True)
class FrameFolder:
    """The frames of a clip as pictures in a folder. name: of a frame, with a place for its number, from 1 on."""

    folder: str
    num_frames: int
    name: str

    def __len__(self) -> int:
        return self.num_frames

    def path(self, number: int) -> str:
        """Of the frame's picture."""
        return os.path.join(self.folder, self.name.format(number + 1))

    def pictures(self, numbers: Sequence[int]) -> list[np.ndarray]:
        """See Clip; ValueError names a picture that cannot be decoded."""
        return [self._decoded(self.path(number)) for number in numbers]

    def why_corrupt(self) -> str | None:
        """See Clip."""
        reasons = ((self.path(number), why_corrupt(self.path(number))) for number in range(self.num_frames))
        return next((f"{os.path.basename(path)}: {why}" for path, why in reasons if why), None)

    def _decoded(self, path: str) -> np.ndarray:
        try:
            return np.array(decode(path))
        except Exception as error:
            raise ValueError(f"{os.path.basename(path)}: {why_corrupt(path) or error}") from None


@dataclass(frozen=True, eq=False)
class ListedClips:
    """The rows of a list. numbers: of the rows in the file, from 0 on; frames: int64 [n], 0 for a video."""

    path: Path
    frame_name: str
    names: list[str]
    numbers: np.ndarray
    frames: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, clip: int) -> str:
        """The row's number and path."""
        return f"{self.path}, line {self.numbers[clip] + 1}, {self.names[clip]}"

    def open(self, clip: int) -> Clip:
        """See Clips."""
        path, num_frames = os.path.join(self.path.parent, self.names[clip]), int(self.frames[clip])
        return FrameFolder(path, num_frames, self.frame_name) if num_frames else Video(path)

    def checksum(self) -> str:
        """See Clips: of the rows in use."""
        digest = hashlib.sha256()
        for row in zip(self.names, self.frames, self.labels, strict=True):
            digest.update(os.fsencode("{} {} {}\n".format(*row)))
        return digest.hexdigest()

    def take(self, clips: np.ndarray) -> ListedClips:
        """These clips alone, by number."""
        columns = (column[clips] for column in (self.numbers, self.frames, self.labels))
        return ListedClips(self.path, self.frame_name, [self.names[clip] for clip in clips], *columns)

    def find_corrupt(self, num_threads: int) -> dict[int, str]:
        """Why, by clip, of those of which a frame cannot be read."""

        def why(clip: int) -> str | None:
            try:
                return self.open(clip).why_corrupt()
            except ValueError as error:
                return str(error)

        with ThreadPoolExecutor(num_threads) as pool:  # decoders do not hold the GIL
            return {clip: reason for clip, reason in enumerate(pool.map(why, range(len(self.labels)))) if reason}


def read_clips(
    path: Path,
    num_classes: int,
    *,
    frame_name: str = FRAME_NAME,
    skip_corrupt: bool = False,
    num_threads: int = 1,
) -> tuple[ListedClips, list[tuple[str, str]]]:
    """The clips of a list, and [(where, why)] of those that skip_corrupt leaves out.

    Without skip_corrupt a UserError names the first row of another form, with a label out of range, without frames, or
    with a file that is missing; files are not opened. With it every frame is decoded, and num_threads threads do so.
    UserError where no clip is left.
    """
    require(path.is_file(), str(path), f"a list, each line {_ROW}", "no file")
    corrupt: list[tuple[str, str]] = []
    names, numbers, frames, labels = [], [], [], []
    with path.open("rb") as file:
        for number, line in enumerate(file):
            where = f"{path}, line {number + 1}"
            line = line if number else line.removeprefix(b"\xef\xbb\xbf")
            try:
                name, num_frames, label = _row(line, where, num_classes)
                _require_files(os.path.join(path.parent, name), num_frames, frame_name, where)
            except UserError as error:
                if not skip_corrupt:
                    raise
                corrupt.append((where, str(error).removeprefix(f"{where}: ")))
                continue
            names.append(name)
            numbers.append(number)
            frames.append(num_frames)
            labels.append(label)
    clips = ListedClips(path, frame_name, names, *(np.array(each, np.int64) for each in (numbers, frames, labels)))
    if not clips.frames.all():
        require_library(str(path))
    if skip_corrupt:
        reasons = clips.find_corrupt(num_threads)
        corrupt += [(clips.where(clip), why) for clip, why in reasons.items()]
        clips = clips.take(np.setdiff1d(np.arange(len(clips.labels)), [*reasons]))
    require(len(clips.labels), str(path), "with a clip that can be read", f"none of {len(corrupt)}")
    return clips, corrupt


def _row(line: bytes, where: str, num_classes: int) -> tuple[str, int, int]:
    """(path, number of frames or 0 for a video, label) of a row."""
    text = os.fsdecode(line).strip()
    name, label = _last_column(text)
    if label is None:
        raise UserError(f"{where}: must be {_ROW}, got {text[:80]!r}")
    require(label < num_classes, where, f"a row with a label below {num_classes}", label)
    folder, count = _last_column(name)
    require(count != 0, where, "a row of a clip with frames", count)
    return folder, count or 0, label


def _last_column(text: str) -> tuple[str, int | None]:
    """(what comes before it, the number in the last column); the whole text and None where there is no number."""
    columns = text.rsplit(maxsplit=1)
    return (columns[0], int(columns[1])) if len(columns) == 2 and columns[1].isdecimal() else (text, None)


def _require_files(path: str, num_frames: int, frame_name: str, where: str) -> None:
    """Of a folder, the last frame tells whether the others are there."""
    if num_frames:
        path = FrameFolder(path, num_frames, frame_name).path(num_frames - 1)
    require(os.path.isfile(path), where, "a row of files that exist", f"{path}, which is no file")


@dataclass(frozen=True, eq=False)
class _Drawn:
    """A clip in memory. frames: uint8 [T, h, w]."""

    frames: np.ndarray

    def __len__(self) -> int:
        return len(self.frames)

    def pictures(self, numbers: Sequence[int]) -> list[np.ndarray]:
        """See Clip."""
        return [np.repeat(self.frames[number][:, :, None], 3, axis=2) for number in numbers]

    def why_corrupt(self) -> str | None:
        """None."""
        return None


class DigitClips:
    """The first `number` clips of moving digits of one half, drawn when they are opened, in less than a millisecond."""

    def __init__(self, number: int, *, held_out: bool) -> None:
        self._held_out = held_out
        self.labels = np.array([digit_scenes.motion(index) for index in range(number)], np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, clip: int) -> str:
        """The clip's number."""
        return f"moving digits, clip {clip}"

    def open(self, clip: int) -> Clip:
        """See Clips."""
        return _Drawn(digit_scenes.clip(0, clip, held_out=self._held_out).frames)

    def checksum(self) -> str:
        """See Clips: of the first and the last eight clips."""
        ends = [*range(8), *range(len(self.labels) - 8, len(self.labels))]
        content = b"".join(self.open(clip).pictures(range(8))[0].tobytes() for clip in ends)
        return hashlib.sha256(b"%d" % len(self.labels) + content).hexdigest()


def segment_frames(num_frames: int, num_segments: int, draws: np.ndarray | None = None) -> list[int]:
    """One frame of each of `num_segments` equal parts of a clip: numbers that do not decrease.

    draws: where in its part each frame is, float64 [num_segments] in [0, 1); None: the middle, as in evaluation.
    """
    places = np.arange(num_segments) + (0.5 if draws is None else draws[:num_segments])
    return [min(int(place * num_frames / num_segments), num_frames - 1) for place in places]
