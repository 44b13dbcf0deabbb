"""Lists of videos and of folders of frames, the frames that segments take, and the window of all of them."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from data.clip_files import LEVELS, write_frames, write_video
from PIL import Image

from airank_fast.data.images.clip_reader import SCALES, ClipReader, multi_scale_window
from airank_fast.data.images.clips import DigitClips, FrameFolder, read_clips, segment_frames
from airank_fast.data.images.place import Place
from airank_fast.data.images.videos import Video
from airank_fast.data.sampling import Crop, TrainStream
from airank_fast.errors import UserError

needs_av = pytest.mark.skipif(importlib.util.find_spec("av") is None, reason="needs the package av")


def levels(pictures) -> list[int]:
    """The grey level of each picture's right half, which names its frame in written clips."""
    return [round(float(picture[:, picture.shape[1] // 2 + 4 :].mean()) / LEVELS) for picture in pictures]


@pytest.mark.parametrize(("num_frames", "expected"), [(8, [*range(8)]), (24, [*range(1, 24, 3)]), (1, [0] * 8)])
def test_evaluation_takes_the_middle_of_each_segment(num_frames, expected):
    assert segment_frames(num_frames, 8) == expected


def test_fewer_frames_than_segments_are_repeated_in_their_order():
    assert segment_frames(3, 8) == [0, 0, 0, 1, 1, 2, 2, 2]


def test_training_takes_any_frame_of_each_segment():
    draws = np.random.default_rng(0).random((400, 8))
    taken = np.array([segment_frames(24, 8, each) for each in draws])
    assert (np.diff(taken) >= 0).all()
    for segment in range(8):
        assert {*taken[:, segment]} == {3 * segment, 3 * segment + 1, 3 * segment + 2}
    assert segment_frames(10, 8, np.full(8, 1 - 2**-53))[-1] == 9


def test_multi_scale_windows_are_those_of_tsn():
    """10 sizes and 13 places of a picture of 256 x 340, by their description."""
    found = {multi_scale_window(256, 340, 224, u, v) for u in np.arange(0, 1, 1 / 40) for v in np.arange(0, 1, 1 / 52)}
    sides = [224 if abs(int(256 * scale) - 224) < 3 else int(256 * scale) for scale in SCALES]
    assert sides == [256, 224, 192, 168]
    sizes = {(h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1}
    assert {(window.height, window.width) for window in found} == sizes
    assert len(sizes) == 10
    down, across = (256 - 192) // 4, (340 - 168) // 4
    corners_and_centre = {(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)}
    sides_and_between = {(0, 2), (2, 0), (2, 4), (4, 2), (1, 1), (1, 3), (3, 1), (3, 3)}
    places = {(window.top, window.left) for window in found if (window.height, window.width) == (192, 168)}
    assert places == {(i * down, j * across) for i, j in corners_and_centre | sides_and_between}
    for window in (multi_scale_window(40, 39, 40, u, 0.99) for u in np.arange(0, 1, 0.1)):
        assert window.top + window.height <= 40
        assert window.left + window.width <= 39


def test_a_list_may_begin_with_a_byte_order_mark(tmp_path):
    write_frames(tmp_path / "b", 3)
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfb 3 1\r\n")
    assert read_clips(tmp_path / "list.txt", 2)[0].names == ["b"]


def read_one(clips, crop: Crop, *, seed: int = 0):
    """The first training batch of one clip, and the evaluation batches."""
    stream = TrainStream(len(clips.labels), seed, batch_size_local=1, global_batch_size=1, rank=0, world_size=1)
    place = Place(2, 0, 1, torch.device("cpu"), num_workers=0)
    reader = ClipReader(clips, clips, stream, place, num_segments=8, crop=crop)
    train = reader.train()
    first = next(train)
    reader.close()
    return first, list(reader.evaluate())


@pytest.fixture
def frames(tmp_path):
    """A list of two folders of frames, one with a space in its name."""
    write_frames(tmp_path / "a clip", 24)
    write_frames(tmp_path / "b", 3)
    (tmp_path / "list.txt").write_bytes(b"a clip 24 1\nb\t3\t0\r\n")
    return tmp_path / "list.txt"


def test_all_frames_of_a_clip_have_one_window_and_one_flip(frames):
    clips, _ = read_clips(frames, 2)
    crop = Crop(32, "multi_scale", 32, 1.0, flip=True)
    seen = set()
    for seed in range(12):
        (pictures, labels), _ = read_one(clips, crop, seed=seed)
        assert (pictures.shape, pictures.dtype, labels.shape) == ((8, 32, 32, 3), torch.uint8, (1,))
        # A frame is the picture of places with its own number added, so that differences have one value everywhere.
        differences = pictures.float() - pictures[:1].float()
        assert (differences.amax((1, 2, 3)) - differences.amin((1, 2, 3))).max() <= 1
        seen.add((pictures[0, :, :, 1].float() - pictures[0, 0, 0, 1].float()).numpy().tobytes())
    assert len(seen) > 6


def test_evaluation_reads_the_centre_of_middle_frames(frames):
    clips, _ = read_clips(frames, 2)
    _, batches = read_one(clips, Crop(32, "multi_scale", 40, 1.0, flip=True))
    ((pictures, labels),) = batches
    assert labels.tolist() == [1, 0]
    pictures = pictures.view(2, 8, 32, 32, 3)
    for clip, numbers in enumerate((segment_frames(24, 8), segment_frames(3, 8))):
        for row, number in enumerate(numbers):
            with Image.open(clips.open(clip).path(number)) as image:
                centre = np.array(image.convert("RGB").crop((10, 4, 42, 36)))
            assert np.array_equal(pictures[clip, row].numpy(), centre)


def test_moving_digits_are_read_as_they_are_drawn():
    clips = DigitClips(24, held_out=False)
    _, batches = read_one(clips, Crop(32, "shift", 32, 1.0, flip=False))
    pictures = torch.cat([pictures for pictures, _ in batches]).view(24, 8, 32, 32, 3)
    assert torch.cat([labels for _, labels in batches]).tolist() == 3 * [*range(8)]
    drawn = np.stack([clips.open(clip).frames for clip in range(24)])
    assert np.array_equal(pictures[..., 0].numpy(), drawn)
    assert clips.checksum() == DigitClips(24, held_out=False).checksum() != DigitClips(24, held_out=True).checksum()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a clip", "must be a row PATH LABEL of a video or PATH FRAMES LABEL of a folder of frames, got 'a clip'"),
        ("", "got ''"),
        ("7", "got '7'"),
        ("b 3 -1", "got 'b 3 -1'"),
        ("b 3 2", "must be a row with a label below 2, got 2"),
        ("b 0 1", "must be a row of a clip with frames, got 0"),
        ("b 4 1", "img_00004.jpg, which is no file"),
        ("gone 3 1", "must be a row of files that exist, got"),
        ("gone.mp4 1", "gone.mp4, which is no file"),
        ("b 1", "b, which is no file"),
    ],
)
def test_a_bad_row_is_named_or_left_out(row, message, frames):
    with frames.open("a") as file:
        file.write(f"{row}\n")
    with pytest.raises(UserError, match=r"list.txt, line 3: ") as error:
        read_clips(frames, 2)
    assert message in str(error.value)
    clips, corrupt = read_clips(frames, 2, skip_corrupt=True)
    assert [*clips.labels] == [1, 0]
    ((where, why),) = corrupt
    assert where.endswith("line 3")
    assert message in why


def test_broken_frames_are_named_or_left_out(frames):
    (frames.parent / "b" / "img_00002.jpg").write_bytes(b"no picture")
    clips, _ = read_clips(frames, 2)
    with pytest.raises(UserError, match=r"must be a whole video or folder of frames, got .*line 2, b \(img_00002.jpg"):
        read_one(clips, Crop(32, "shift", 32, 1.0, flip=False))
    clips, corrupt = read_clips(frames, 2, skip_corrupt=True, num_threads=2)
    assert (clips.names, len(corrupt)) == (["a clip"], 1)
    assert corrupt[0][1] == "img_00002.jpg: not a JPEG or PNG file"
    for number in range(1, 25):
        (frames.parent / "a clip" / f"img_{number:05d}.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="must be with a clip that can be read, got none of 2"):
        read_clips(frames, 2, skip_corrupt=True)


def test_frames_of_different_sizes_are_named(frames):
    Image.new("RGB", (10, 10)).save(frames.parent / "b" / "img_00003.jpg")
    clips, _ = read_clips(frames, 2)
    with pytest.raises(UserError, match=r"line 2, b \(its frames are of different sizes\)"):
        read_one(clips, Crop(32, "shift", 32, 1.0, flip=False))


def test_lists_that_are_missing_or_without_rows(tmp_path):
    with pytest.raises(UserError, match=r"nowhere: must be a list, .*got no file"):
        read_clips(tmp_path / "nowhere", 2)
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(UserError, match=r"empty.txt: must be with a clip that can be read, got none of 0"):
        read_clips(tmp_path / "empty.txt", 2)


def test_frames_are_numbered_from_one_under_any_name():
    assert FrameFolder("x", 3, "frame{:06d}.png").path(2).endswith("frame000003.png")


KINDS = [("mp4", "libx264"), ("mp4", "mpeg4"), ("mkv", "libx264"), ("webm", "libvpx-vp9")]
KINDS += [("avi", "mpeg4"), ("ts", "libx264")]  # without an index of time stamps


@needs_av
@pytest.mark.parametrize("durations", [(40,), (20, 100, 7, 333)], ids=["constant rate", "variable rate"])
@pytest.mark.parametrize(("kind", "codec"), KINDS, ids=lambda value: str(value))
def test_a_video_s_frames_by_number(kind, codec, durations, tmp_path):
    """With B-frames, and key frames every twelve frames; frames before, between and behind those."""
    if kind == "avi" and len(durations) > 1:
        pytest.skip("an AVI has one rate")
    path = write_video(tmp_path / f"clip.{kind}", codec, durations=durations)
    assert len(Video(path)) == 60
    for numbers in ([*range(60)], [3, 3, 30, 59], [12], [11, 23, 24, 25], segment_frames(60, 8)):
        pictures = Video(path).pictures(numbers)
        assert levels(pictures) == numbers
        assert {picture.shape for picture in pictures} == {(48, 64, 3)}
    assert Video(path).why_corrupt() is None


@needs_av
@pytest.mark.parametrize(("kind", "codec"), [("mp4", "libx264"), ("avi", "mpeg4"), ("mkv", "libx264")])
@pytest.mark.parametrize("part", [0.2, 0.5])
def test_a_video_that_breaks_off(kind, codec, part, tmp_path):
    path = write_video(tmp_path / f"clip.{kind}", codec)
    content = (tmp_path / f"clip.{kind}").read_bytes()
    (tmp_path / f"clip.{kind}").write_bytes(content[: int(len(content) * part)])
    with pytest.raises(ValueError, match=r"it breaks off after|Invalid data|no frames|no video|End of file"):
        Video(path)


@needs_av
def test_an_mp4_whose_index_comes_first_and_frames_are_gone(tmp_path):
    path = write_video(tmp_path / "clip.mp4", "libx264", movflags="faststart")
    content = (tmp_path / "clip.mp4").read_bytes()
    (tmp_path / "clip.mp4").write_bytes(content[: len(content) * 4 // 5])
    with pytest.raises(ValueError, match=r"it breaks off after \d+ of 60 frames"):
        Video(path)


@needs_av
def test_damaged_frames_are_found(tmp_path):
    path = write_video(tmp_path / "clip.mp4", "libx264")
    content = bytearray((tmp_path / "clip.mp4").read_bytes())
    start, stop = content.index(b"mdat"), content.index(b"moov")
    third = (stop - start) // 3
    content[start + third : stop - third] = bytes(stop - start - 2 * third)
    (tmp_path / "clip.mp4").write_bytes(content)
    assert "cannot be decoded" in Video(path).why_corrupt()


@needs_av
@pytest.mark.parametrize("content", [b"", b"no video" * 20], ids=["empty", "other"])
def test_bad_videos_in_a_list(content, tmp_path):
    write_video(tmp_path / "good.mp4", "libx264")
    (tmp_path / "bad.mp4").write_bytes(content)
    path = tmp_path / "list.txt"
    path.write_text("bad.mp4 0\ngood.mp4 1\n")
    clips, _ = read_clips(path, 2)
    with pytest.raises(UserError, match=r"line 1, bad.mp4 \(Invalid data found when processing input\)"):
        read_one(clips, Crop(32, "shift", 32, 1.0, flip=False))
    clips, corrupt = read_clips(path, 2, skip_corrupt=True)
    assert (clips.names, len(corrupt)) == (["good.mp4"], 1)
    (pictures, labels), _ = read_one(clips, Crop(32, "shift", 40, 1.0, flip=False))
    assert (pictures.shape, labels.tolist()) == ((8, 32, 32, 3), [1])


@needs_av
def test_a_file_without_a_video_stream(tmp_path):
    import av

    with av.open(tmp_path / "sound.mp4", "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        container.mux([*stream.encode(sound), *stream.encode()])
    with pytest.raises(ValueError, match="no video in the file"):
        Video(str(tmp_path / "sound.mp4"))


def test_videos_without_pyav(tmp_path, monkeypatch):
    (tmp_path / "clip.mp4").write_bytes(b"")
    (tmp_path / "list.txt").write_text("clip.mp4 0\n")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"list.txt: must have the package av for videos, got none \(pip install av\)"):
        read_clips(tmp_path / "list.txt", 2)
