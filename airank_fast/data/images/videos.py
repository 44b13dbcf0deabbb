"""Frames of video files by their number, with PyAV, whose wheels bring FFmpeg.

PyAV decodes on any machine. torchcodec's wheel (0.17) loads beside a CUDA build of torch alone and brings no FFmpeg;
DALI (2.4) decodes H.264 on a GPU alone.

    Video("abseiling/x.mp4").pictures([3, 40, 41])       # each uint8 [h, w, 3]

Frames are numbered in the order in which they are shown, whatever their durations. With a variable frame rate too,
frame n is the n-th of those that `ffmpeg -fps_mode passthrough` writes. The packets' time stamps, which are read
without decoding, say how many frames there are and when each is shown.
"""

from __future__ import annotations

import bisect
import importlib.util
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from airank_fast.errors import UserError

_TOLERANCE_S = 1.0  # between the last packet and the end that a header states


def require_library(where: str) -> None:
    """UserError where PyAV is not installed."""
    if importlib.util.find_spec("av") is None:
        raise UserError(f"{where}: must have the package av for videos, got none (pip install av)")


class Video:
    """A video file; ValueError where it cannot be read to its end, or has no frames."""

    def __init__(self, path: str) -> None:
        import av

        if not os.path.isfile(path):
            raise ValueError("the file is gone")
        self._path = path
        self._error: type[Exception] = av.FFmpegError
        try:
            self._container, self._stream = self._opened()
            # Other containers have no index: what they have of time stamps cannot be sought exactly.
            self._counts = not {"mp4", "matroska"} & {*self._container.format.name.split(",")}
            self._times, self._keys = self._time_stamps()
        except av.FFmpegError as error:
            raise ValueError(_words(error)) from None

    def __len__(self) -> int:
        return len(self._times)

    def pictures(self, numbers: Sequence[int]) -> list[np.ndarray]:
        """The frames of these numbers, which do not decrease; ValueError for one that cannot be decoded."""
        taken = sorted({*numbers})
        try:
            frames = list(self._frames(taken, skipping=True))
        except ValueError:  # a decoder that cannot do without what it is told to skip
            frames = list(self._frames(taken))
        found = {number: frame.to_ndarray(format="rgb24") for number, frame in frames}
        return [found[number] for number in numbers]

    def why_corrupt(self) -> str | None:
        """Why a frame cannot be decoded, or None; decodes all of them."""
        try:
            for _ in self._frames(range(len(self))):
                pass
        except ValueError as error:
            return str(error)
        return None

    def _opened(self) -> tuple[Any, Any]:
        """(container, its video); ValueError where there is none."""
        import av

        container = av.open(self._path)
        stream: Any = container.streams.best("video")
        if stream is None:
            raise ValueError("no video in the file")
        stream.thread_count = 1  # there is a process for every core
        return container, stream

    def _time_stamps(self) -> tuple[list[int], list[int]]:
        """Of all frames, and of those from which decoding can begin; both increase."""
        container, stream = self._container, self._stream
        times, keys, num_packets = [], [], 0
        ends: dict[int, int] = {}  # of each stream, in its own time base
        for packet in container.demux():
            if not packet.size:
                continue
            time, index = packet.pts, packet.stream_index
            if time is not None:
                ends[index] = max(ends.get(index, 0), time + (packet.duration or 0))
            if index != stream.index:
                continue
            num_packets += 1
            if time is None:
                self._counts = True
            elif not packet.is_discard:
                times.append(time)
                if packet.is_keyframe:
                    keys.append(time)
        if not num_packets:
            raise ValueError("no frames in the file")
        # The header of an MP4 lists its packets; those of other files state at most a duration.
        if "mp4" in container.format.name and num_packets < stream.frames:
            raise ValueError(f"it breaks off after {num_packets} of {stream.frames} frames")
        stated = ((container.start_time or 0) + (container.duration or 0)) / 1e6
        if container.format.name == "avi" and stream.average_rate:  # FFmpeg's duration is that of what is there
            stated = max(stated, float(stream.frames / stream.average_rate))
        end = max((float(last * container.streams[index].time_base) for index, last in ends.items()), default=0.0)
        if end < stated - _TOLERANCE_S:
            raise ValueError(f"it breaks off after {end:.1f} of {stated:.1f} s")
        if self._counts:
            return [number for number, _ in self._decoded(0, None)], [0]
        return sorted({*times}), sorted({*keys}) or [min(times)]

    def _decoded(self, time: int, taken: set[int] | None) -> Iterator[tuple[int, Any]]:
        """(time stamp, frame) of the frames that are shown from a key frame on; their numbers where there are none.

        taken: time stamps of frames; others are left out where no frame is decoded from them, as half of H.264's
        B-frames are, which saves a quarter of the time.
        """
        if self._counts:
            container, stream = self._opened()
            yield from enumerate(container.decode(stream))
            return
        self._container.seek(time, stream=self._stream)
        for packet in self._container.demux(self._stream):
            is_needed = taken is None or packet.pts in taken
            self._stream.codec_context.skip_frame = "DEFAULT" if is_needed else "NONREF"
            yield from ((frame.pts, frame) for frame in packet.decode() if frame.pts is not None)

    def _frames(self, numbers: Sequence[int], *, skipping: bool = False) -> Iterator[tuple[int, Any]]:
        """(number, frame) of increasing numbers; seeks where a key frame lies between two of them."""
        times, keys = self._times, self._keys
        taken = {times[number] for number in numbers} if skipping else None
        frames: Iterator[tuple[int, Any]] = iter(())
        shown = keys[0] - 1
        for number in numbers:
            key = keys[max(0, bisect.bisect_right(keys, times[number]) - 1)]
            try:
                if key > shown:
                    frames = self._decoded(key, taken)
                shown, frame = next(each for each in frames if each[0] >= times[number])
            except (StopIteration, self._error) as error:
                why = f": {_words(error)}" if isinstance(error, self._error) else ""
                raise ValueError(f"frame {number + 1} of {len(times)} cannot be decoded{why}") from None
            if shown != times[number]:
                raise ValueError(f"frame {number + 1} of {len(times)} cannot be decoded")
            yield number, frame


def _words(error: Exception) -> str:
    """FFmpeg's message, without the number and the file that PyAV adds."""
    return getattr(error, "strerror", None) or str(error)
