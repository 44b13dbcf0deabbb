"""Turned crops with their texts, which stay together; whole pictures; the order and the draws of batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from data.scene_files import line, write_scene, write_strings
from PIL import Image

from airank_fast.data.images.geometry import turned_crop
from airank_fast.data.images.place import Place
from airank_fast.data.images.quadrilaterals import surroundings
from airank_fast.data.images.text_maps import COUNTED, TEXT, text_maps
from airank_fast.data.images.text_scene_reader import (
    TextCrops,
    TextSceneReader,
    prefetch_crops,
    prefetch_pictures,
)
from airank_fast.data.images.text_scenes import read_scenes
from airank_fast.data.sampling import TrainStream, draws

CPU = torch.device("cpu")
QUADS = np.array([[[20, 30], [70, 35], [68, 55], [18, 50]], [[120, 80], [180, 70], [183, 90], [123, 100]]], np.float32)
NONE = np.zeros(2, bool)


def with_quads() -> np.ndarray:
    """A dark picture [120, 200, 3] with QUADS filled white."""
    picture = np.zeros((120, 200, 3), np.uint8)
    for quad in QUADS:
        window, inside, _ = surroundings(quad, (120, 200))
        picture[window][inside] = 255
    return picture


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("scale", "degrees"), [(1.0, 0.0), (0.5, 0.0), (2.0, 0.0), (1.3, 30.0), (0.6, -75.0)])
def test_a_crop_draws_what_it_does_to_points(scale, degrees, mirrored):
    """The white quadrilaterals of the picture are where their corners go."""
    crop = turned_crop((120, 200), scale, degrees, mirrored)
    crop = crop.moved(np.array([-160.0, -150.0]))
    out = np.full((300, 320, 3), 7, np.uint8)
    crop.draw(with_quads(), out)
    expected = np.zeros((300, 320), bool)
    for quad in crop.points(QUADS):
        window, inside, _ = surroundings(quad, expected.shape)
        expected[window] |= inside
    drawn = out[:, :, 0] > 127
    assert (drawn & expected).sum() / (drawn | expected).sum() > 0.93
    corners = crop.points(np.array([[0, 0], [200, 0], [200, 120], [0, 120]], float))
    outside = np.ones((300, 320), bool)
    window, inside, distance = surroundings(corners, outside.shape, margin=1.5)
    outside[window] = ~inside & (distance > 1.5)
    assert (out[outside] == 7).all()


def test_a_picture_that_is_not_turned_or_scaled_is_copied():
    picture = np.random.default_rng(0).integers(0, 256, (120, 200, 3), np.uint8)
    for mirrored, expected in ((False, picture), (True, picture[:, ::-1])):
        out = np.zeros((40, 50, 3), np.uint8)
        turned_crop((120, 200), 1.0, 0.0, mirrored).moved(np.array([-80, -30])).draw(picture, out)
        assert np.array_equal(out, expected[30:70, 20:70])


def test_crops_keep_a_text_whole_and_cut_few():
    """In each crop one of the texts is whole; the draws alone decide, and reach scales, turns and both texts."""
    crops = TextCrops(96, 96, 0.5, 1.2, 10.0, True)
    scales, whole = [], set()
    for u in draws(seed=0, first_position=0, count=60):
        crop = crops.place((120, 200), QUADS, NONE, u, mirrored=bool(u[22] < 0.5))
        again = crops.place((120, 200), QUADS, NONE, u, mirrored=bool(u[22] < 0.5))
        assert np.array_equal(crop.shift, again.shift)
        texts = crop.points(QUADS)
        is_whole = (texts >= -1).all((1, 2)) & (texts <= 97).all((1, 2))
        assert is_whole.any()
        whole.add(tuple(is_whole))
        scales.append(crop.scale)
    assert whole == {(True, False), (False, True), (True, True)}
    assert 0.5 <= min(scales) < 0.6 < 1.1 < max(scales) <= 1.2


def test_only_texts_that_count_are_sought():
    u = draws(seed=1, first_position=0, count=40)
    crops = TextCrops(64, 96, 1.0, 1.0, 0.0, False)
    for each in u:
        texts = crops.place((120, 200), QUADS, np.array([True, False]), each, mirrored=False).points(QUADS)
        assert (texts[1] >= -0.5).all()
        assert (texts[1] <= (96.5, 64.5)).all()
    places = {tuple(crops.place((120, 200), QUADS, ~NONE, each, mirrored=False).shift) for each in u}
    assert len(places) > 30  # without one, anywhere


def reader_of(root, crops: TextCrops, rank=0, ranks=1, eval_size=(64, 96)) -> TextSceneReader:
    (train, _), (val, _) = (read_scenes(root, side) for side in ("train", "val"))
    stream = TrainStream(len(train), 5, batch_size_local=4 // ranks, global_batch_size=4, rank=rank, world_size=ranks)
    return TextSceneReader(train, val, stream, Place(2, rank, ranks, CPU, 0), crops, eval_size)


def test_whole_crops_are_the_pictures_with_their_maps(tmp_path):
    """Of the embedded recipe: neither scaled, turned nor mirrored."""
    write_strings(tmp_path, 4, 1)
    reader = reader_of(tmp_path, TextCrops(96, 128, 1.0, 1.0, 0.0, False))
    pictures, maps = next(reader.train(0))
    scenes, _ = read_scenes(tmp_path, "train")
    stream = TrainStream(4, 5, batch_size_local=4, global_batch_size=4, rank=0, world_size=1)
    order = next(iter(stream.requests(0))).indices
    for picture, its_maps, number in zip(pictures, maps, order, strict=True):
        original, quads, ignored = scenes.read(number)
        assert np.array_equal(picture, original)
        assert its_maps[TEXT].any() == (~ignored).any()
        for quad, is_ignored in zip(quads, ignored, strict=True):
            column, row = quad.mean(0).astype(int)
            assert (its_maps[TEXT, row, column], its_maps[COUNTED, row, column]) == (not is_ignored, not is_ignored)


def test_a_text_that_is_cut_is_ignored(tmp_path):
    """The second text is as wide as the picture, of which the crop has half: no pixel of it is text in any crop."""
    wide = [[0, 70], [200, 70], [200, 110], [0, 110]]
    picture, lines = np.zeros((120, 200, 3), np.uint8), [line(QUADS[0], "a"), line(wide, "b")]
    for number in range(8):
        write_scene(tmp_path, "train" if number else "val", number, picture, lines)
    reader = reader_of(tmp_path, TextCrops(96, 96, 1.0, 1.0, 0.0, False))
    maps = np.concatenate([part[1].numpy() for part in (next(reader.train(step)) for step in range(3))])
    whole = text_maps(QUADS[:1], NONE[:1], (120, 200))[TEXT].sum()
    found = {int(each[TEXT].sum()) for each in maps}
    assert whole - 60 < max(found) <= whole + 60  # the crop begins at a whole pixel
    assert (maps[:, COUNTED] == 0).any((1, 2)).sum() > 6
    assert not (maps[:, TEXT] & (1 - maps[:, COUNTED])).any()


def test_two_ranks_have_the_crops_of_one(tmp_path):
    write_strings(tmp_path, 6, 3)
    crops = TextCrops(64, 64, 0.5, 2.0, 10.0, True)
    alone = next(reader_of(tmp_path, crops).train(3))
    halves = [next(reader_of(tmp_path, crops, rank, 2).train(3)) for rank in range(2)]
    for whole, *parts in zip(alone, *halves, strict=True):
        assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(alone[0], next(reader_of(tmp_path, crops).train(4))[0])


def test_each_picture_is_evaluated_once_in_one_size_with_its_own_texts(tmp_path):
    write_strings(tmp_path, 4, 5)
    write_scene(tmp_path, "val", 6, np.zeros((50, 30, 3), np.uint8), [])
    scenes, _ = read_scenes(tmp_path, "val")
    seen = 0
    for rank in range(2):
        reader = reader_of(tmp_path, TextCrops(64, 64, 1.0, 1.0, 0.0, False), rank, 2)
        for batch in prefetch_pictures(reader.evaluate(), CPU, torch.float32):
            assert batch.images.shape[1:] == (3, 64, 96)
            assert batch.images.is_contiguous(memory_format=torch.channels_last)
            for quads, ignored, size in zip(*batch.truth, strict=True):
                picture, *texts = scenes.read(seen)
                assert size == picture.shape[:2]
                assert np.array_equal(quads, texts[0])
                assert np.array_equal(ignored, texts[1])
                seen += 1
    assert seen == 6


def test_images_are_normalised_as_for_a_backbone_of_imagenet(tmp_path):
    write_strings(tmp_path, 4, 1)
    Image.fromarray(np.full((64, 96, 3), (124, 116, 104), np.uint8)).save(tmp_path / "ch4_test_images" / "img_1.png")
    reader = reader_of(tmp_path, TextCrops(64, 64, 1.0, 1.0, 0.0, False))
    (batch,) = prefetch_pictures(reader.evaluate(), CPU, torch.float32)
    assert batch.images.abs().max() < 0.02
    crops = next(iter(prefetch_crops(reader.train(0), CPU, torch.bfloat16)))
    assert (crops.images.dtype, crops.maps.dtype, crops.num_samples) == (torch.bfloat16, torch.uint8, 4)
