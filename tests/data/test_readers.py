"""The readers: the same pictures, the same order, the same errors."""

import io
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from airank_fast.data import images as data
from airank_fast.data.images import ImageFolder, digits, make_reader, workers
from airank_fast.data.sampling import permutation
from airank_fast.errors import UserError

PHOTOS = {"image_size": 96, "train_crop": "random_resized", "eval_resize": 110, "flip": True, "seed": 1}
needs_dali = pytest.mark.skipif(not data.has_dali(), reason="DALI is not installed")
FROM_FILES = [pytest.param("dali", marks=needs_dali), "torch"]
# Where both decode with libjpeg-turbo and share the resize the pictures are equal; the tolerance is for other
# versions of it, whose chroma upsampling at a window's edge may differ: grey levels, mean and largest.
MEAN_TOLERANCE, MAX_TOLERANCE = 0.5, 24


def reader(kind, folder, batch=8, **options):
    options = {"num_workers": 1, "batch_size_local": batch, "global_batch_size": batch, **PHOTOS, **options}
    return make_reader(kind, folder, **options)


def batches(kind, folder, num=4, first_step=0, **options):
    r = reader(kind, folder, **options)
    try:
        got = list(islice(r.train(first_step), num))
    finally:
        r.close()
    return torch.cat([pictures for pictures, _ in got]), torch.cat([labels for _, labels in got])


def evaluated(kind, folder, **options):
    r = reader(kind, folder, **options)
    try:
        return list(r.evaluate())
    finally:
        r.close()


def assert_same(a, b, mean=MEAN_TOLERANCE, largest=MAX_TOLERANCE):
    difference = (a.int() - b.int()).abs()
    assert difference.float().mean((1, 2, 3)).max() <= mean
    assert difference.max() <= largest


@needs_dali
@pytest.mark.parametrize(
    "options", [{}, {"train_crop": "shift"}, {"image_size": 224, "eval_resize": 256}, {"flip": False, "min_area": 0.9}]
)
def test_dali_and_torch_give_the_same_pictures(photos, options):
    ours, labels = batches("dali", photos, **options)
    theirs, other_labels = batches("torch", photos, **options)
    size = options.get("image_size", 96)
    assert ours.shape == (32, size, size, 3)
    assert ours.dtype == torch.uint8
    assert labels.dtype == torch.int64
    assert torch.equal(labels, other_labels)
    assert_same(ours, theirs)
    for (a, la), (b, lb) in zip(
        evaluated("dali", photos, **options), evaluated("torch", photos, **options), strict=True
    ):
        assert torch.equal(la, lb)
        assert_same(a, b)


@needs_dali
@pytest.mark.parametrize("size", [32, 64])
def test_the_digits_are_the_same_too(tmp_path_factory, size):
    folder = ImageFolder(digits.materialise(tmp_path_factory.mktemp("cache")), 10)
    options = {"image_size": size, "train_crop": "shift", "eval_resize": size * 5 // 4, "flip": False}
    assert_same(batches("dali", folder, **options)[0], batches("torch", folder, **options)[0], 0.01, 2)


@needs_dali
@pytest.mark.parametrize("train_crop", ["random_resized", "shift"])
def test_the_graph_that_a_gpu_resizes_with_gives_the_same_pictures(photos, monkeypatch, train_crop):
    """At a window's edge DALI clamps and torch averages the pixels inside: a few levels, there only."""
    from airank_fast.data.images.dali_reader import DaliReader

    expected, _ = batches("torch", photos, train_crop=train_crop)
    expected_val = torch.cat([pictures for pictures, _ in evaluated("torch", photos)])
    monkeypatch.setattr(DaliReader, "resize_in_graph", True)
    assert_same(batches("dali", photos, train_crop=train_crop)[0], expected)
    assert_same(torch.cat([pictures for pictures, _ in evaluated("dali", photos)]), expected_val)


@pytest.mark.gpu
@needs_dali
def test_a_gpu_gives_the_same_pictures(photos):
    """nvJPEG rounds and enlarges colours slightly differently from libjpeg-turbo."""
    ours, labels = batches("dali", photos, device="cuda")
    theirs, other_labels = batches("torch", photos)
    assert ours.is_cuda
    assert torch.equal(labels, other_labels)
    assert_same(ours.cpu(), theirs, mean=3, largest=255)


@pytest.mark.parametrize("kind", FROM_FILES)
def test_labels_follow_the_stream(photos, kind):
    _, labels = batches(kind, photos, num=3)
    assert labels.tolist() == photos.train.labels[permutation(24, 1, 0)].tolist()


@pytest.mark.parametrize("kind", FROM_FILES)
def test_the_evaluation_picture_is_the_centre(photos, kind):
    pictures, _ = evaluated(kind, photos, image_size=96, eval_resize=96)[0]
    with Image.open(photos.val.files[0]) as image:
        side = min(image.size)
        x, y = (image.width - side) // 2, (image.height - side) // 2
        expected = image.convert("RGB").crop((x, y, x + side, y + side)).resize((96, 96), Image.Resampling.BILINEAR)
    assert_same(pictures[:1], torch.from_numpy(np.array(expected))[None])


@pytest.mark.parametrize("kind", [*FROM_FILES, "synthetic"])
def test_two_ranks_read_the_global_batch_of_one(photos, kind):
    whole, labels = batches(kind, photos, num=3)
    parts = [
        batches(kind, photos, num=3, batch_size_local=4, global_batch_size=8, rank=rank, world_size=2)
        for rank in range(2)
    ]
    for what, together in ((0, whole), (1, labels)):
        halves = [part[what].split(4) for part in parts]
        assert torch.equal(torch.cat([torch.cat(pair) for pair in zip(*halves, strict=True)]), together)


@pytest.mark.parametrize("kind", [*FROM_FILES, "synthetic"])
@pytest.mark.parametrize("options", [{}, {"batch_size_local": 4, "global_batch_size": 8}])
def test_resuming_at_a_step_continues_the_stream(photos, kind, options):
    per_step = 8 // options.get("batch_size_local", 8)
    pictures, labels = batches(kind, photos, num=7 * per_step, **options)
    later, later_labels = batches(kind, photos, num=2 * per_step, first_step=5, **options)
    assert torch.equal(pictures[-16:], later)
    assert torch.equal(labels[-16:], later_labels)


@pytest.mark.parametrize("kind", FROM_FILES)
def test_training_can_be_started_again_on_the_same_reader(photos, kind):
    r = reader(kind, photos)
    first = [p.clone() for p, _ in islice(r.train(0), 3)]
    again = [p for p, _ in islice(r.train(1), 2)]
    r.close()
    assert all(torch.equal(a, b) for a, b in zip(first[1:], again, strict=True))


@pytest.mark.parametrize("kind", [*FROM_FILES, "synthetic"])
@pytest.mark.parametrize(("batch", "world_size"), [(4, 1), (11, 1), (20, 1), (3, 2), (2, 3), (1, 12)])
def test_evaluation_sees_each_picture_once(photos, kind, batch, world_size):
    options = {
        "num_classes": 2,
        "num_eval_samples": 11,
        "global_batch_size": 12,
        "batch_size_local": 1,
        "eval_batch_size": batch,
        "num_workers": 0,
    }
    got = [evaluated(kind, photos, rank=rank, world_size=world_size, **options) for rank in range(world_size)]
    assert all(len(labels) <= batch for rank in got for _, labels in rank)
    labels = [label for rank in got for _, labels in rank for label in labels.tolist()]
    assert len(labels) == 11
    if kind != "synthetic":
        assert labels == photos.val.labels.tolist()
        whole = torch.cat([pictures for pictures, _ in evaluated(kind, photos)])
        assert torch.equal(torch.cat([pictures for rank in got for pictures, _ in rank]), whole)


@pytest.mark.parametrize("kind", FROM_FILES)
def test_evaluations_repeat_between_training_steps(photos, kind):
    expected, _ = batches(kind, photos, num=6)
    r = reader(kind, photos)
    train, seen, evaluations = r.train(0), [], []
    for _ in range(3):
        seen += [next(train)[0] for _ in range(2)]
        evaluations.append(torch.cat([pictures for pictures, _ in r.evaluate()]))
    abandoned = r.evaluate()
    next(abandoned)
    evaluations.append(torch.cat([pictures for pictures, _ in r.evaluate()]))
    r.close()
    assert torch.equal(torch.cat(seen), expected)
    assert all(torch.equal(evaluations[0], e) for e in evaluations)


@pytest.mark.parametrize("kind", [*FROM_FILES, "synthetic"])
def test_batches_handed_out_are_not_written_again(photos, kind):
    r = reader(kind, photos, num_workers=2)
    held = [(pictures, pictures.clone()) for pictures, _ in islice(r.train(0), 10)]
    r.close()
    assert all(torch.equal(a, b) for a, b in held)


@needs_dali
def test_batches_of_the_graph_that_resizes_are_not_written_again(photos, monkeypatch):
    from airank_fast.data.images.dali_reader import DaliReader

    monkeypatch.setattr(DaliReader, "resize_in_graph", True)
    test_batches_handed_out_are_not_written_again(photos, "dali")


@pytest.mark.parametrize("kind", [*FROM_FILES, "synthetic"])
def test_reading_leaves_the_random_states_alone(photos, kind):
    torch.manual_seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    batches(kind, photos)
    evaluated(kind, photos)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


@pytest.mark.parametrize("kind", FROM_FILES)
def test_half_of_the_pictures_are_mirrored(photos, kind):
    options = {"train_crop": "shift", "image_size": 96, "eval_resize": 96, "num": 6}
    mirrored, _ = batches(kind, photos, **options)
    straight, _ = batches(kind, photos, flip=False, **options)
    is_straight = (mirrored == straight).flatten(1).all(1)
    assert torch.equal(mirrored[~is_straight], straight[~is_straight].flip(2))
    assert 12 <= is_straight.sum() <= 36  # of 48


def broken_files():
    buffer = io.BytesIO()
    Image.effect_noise((200, 150), 60).convert("RGB").save(buffer, "JPEG", quality=90)
    good, buffer = buffer.getvalue(), io.BytesIO()
    Image.new("RGB", (20, 20)).save(buffer, "GIF")
    return {
        "truncated": good[: len(good) // 2],
        "cut short": good[:-40],
        "header only": good[:200],
        "text": b"not a picture\n" * 50,
        "tiny": b"abc",
        "empty": b"",
        "gif": buffer.getvalue(),
    }


@pytest.mark.parametrize("what", broken_files())
@pytest.mark.parametrize("kind", FROM_FILES)
@pytest.mark.parametrize("side", ["train", "val"])
def test_a_broken_file_is_named(tmp_path, photos, kind, what, side):
    for name in ("train/a/1.JPEG", "train/a/3.JPEG", "val/a/1.JPEG", "val/a/3.JPEG"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(Path(photos.train.files[0]).read_bytes())
    (tmp_path / side / "a" / "2.JPEG").write_bytes(broken_files()[what])
    folder = ImageFolder(tmp_path, 1)
    r = reader(kind, folder, batch=2)
    with pytest.raises(UserError, match=r"2\.JPEG \(.*--skip-corrupt") as caught:
        list(islice(r.train(0), 4)) if side == "train" else list(r.evaluate())
    r.close()
    assert "\n" not in str(caught.value)
    folder.skip(path for path, _ in data.find_corrupt(folder.train.files + folder.val.files))
    assert len(evaluated(kind, folder, batch=2)[0][1]) == 2


@pytest.mark.parametrize("kind", FROM_FILES)
def test_a_picture_with_16_bits_of_grey(tmp_path, kind):
    """v / 257, rounded, in both readers."""
    grey = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16 + 7
    for side in ("train", "val"):
        (tmp_path / side / "a").mkdir(parents=True)
        Image.fromarray(grey).save(tmp_path / side / "a" / "1.png")
    ((pictures, _),) = evaluated(kind, ImageFolder(tmp_path, 1), batch=1, image_size=64, eval_resize=64)
    assert np.array_equal(pictures[0].numpy(), np.repeat(np.rint(grey / 257)[..., None], 3, 2))


@pytest.mark.parametrize("kind", FROM_FILES)
def test_a_picture_of_some_pixels(tmp_path, kind):
    """A picture smaller than the eighth that checks decode, and than the window."""
    for side in ("train", "val"):
        (tmp_path / side / "a").mkdir(parents=True)
        Image.new("RGB", (5, 3), "teal").save(tmp_path / side / "a" / "1.jpg")
    folder = ImageFolder(tmp_path, 1)
    for pictures in (evaluated(kind, folder, batch=1)[0][0], batches(kind, folder, 1, batch=1)[0]):
        assert (pictures.int() - torch.tensor([0, 128, 128])).abs().max() <= 3


@pytest.mark.parametrize("kind", FROM_FILES)
def test_names_of_any_bytes_under_any_locale(tmp_path, photos, kind):
    """A path in Chinese in the locale C, and a name that is not UTF-8."""
    root = tmp_path / "图像"
    for side in ("train", "val"):
        (root / side / "猫").mkdir(parents=True)
        for name in (b"\xe7\x8c\xab.jpg", b"\xff\xfe.jpg"):
            with open(os.fsencode(root / side / "猫") + b"/" + name, "wb") as file:
                file.write(Path(photos.train.files[0]).read_bytes())
    code = (
        f"import sys\nfrom airank_fast.data.images import ImageFolder, make_reader\n"
        f"folder = ImageFolder(sys.argv[1], 1)\n"
        f"r = make_reader({kind!r}, folder, batch_size_local=2, global_batch_size=2, num_workers=1, **{PHOTOS!r})\n"
        f"print(len(next(r.train(0))[0]), sum(len(p) for p, _ in r.evaluate()), folder.checksum())\nr.close()"
    )
    c_locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    outputs = set()
    for locale in ({"LC_ALL": "C.UTF-8"}, c_locale):
        done = subprocess.run(
            [sys.executable, "-c", code, os.fsencode(root)], capture_output=True, env=os.environ | locale, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        outputs.add(done.stdout)
    assert outputs == {f"2 2 {ImageFolder(root, 1).checksum()}\n".encode()}


@pytest.mark.parametrize("kind", FROM_FILES)
def test_bytes_after_the_end_are_no_fault(tmp_path, photos, kind):
    for side in ("train", "val"):
        (tmp_path / side / "a").mkdir(parents=True)
        whole = Path(photos.train.files[0]).read_bytes()
        (tmp_path / side / "a" / "1.JPEG").write_bytes(whole + b"\0" * 1000)
    assert len(evaluated(kind, ImageFolder(tmp_path, 1), batch=1)) == 1


def test_a_file_that_vanishes_is_named(tmp_path, photos):
    folder = ImageFolder(photos.root, 2)
    folder.val.files[3] = str(tmp_path / "gone.JPEG")
    for kind in ("dali", "torch") if data.has_dali() else ("torch",):
        with pytest.raises(UserError, match=r"gone\.JPEG \(the file is gone\)"):
            evaluated(kind, folder)


@pytest.mark.parametrize(("passing_s", "used"), [(0.0, [0, 1]), (1000.0, [0, 0])], ids=["processes", "one thread"])
def test_samples_by_number_are_those_of_the_evaluation_whoever_reads_them(photos, monkeypatch, passing_s, used):
    seen, loader = [], workers.DataLoader

    def observed(*args, num_workers, **options):
        seen.append(num_workers)
        return loader(*args, num_workers=num_workers, **options)

    monkeypatch.setattr(workers, "PASSING_S", passing_s)
    monkeypatch.setattr(workers, "DataLoader", observed)
    whole = torch.cat([pictures for pictures, _ in evaluated("torch", photos)])
    numbers = [*range(len(whole) - 1, -1, -1), 0]
    seen.clear()
    r = reader("torch", photos)
    got = torch.cat([pictures for pictures, _ in r.samples(numbers)])
    r.close()
    assert torch.equal(got, whole[numbers])
    assert seen == used
    assert len(list(r.samples(numbers[:2]))) == 2
    assert list(r.samples([])) == []


@pytest.mark.parametrize("kind", FROM_FILES)
def test_a_batch_larger_than_the_data_set_is_refused(photos, kind):
    with pytest.raises(UserError, match="at most the 24 training samples"):
        reader(kind, photos, batch=25)


def test_choosing_a_reader(photos, monkeypatch):
    with pytest.raises(UserError, match="one of dali, torch, synthetic"):
        reader("tfrecord", photos)
    monkeypatch.setattr(data, "has_dali", lambda: False)
    assert data.default_kind() == "torch"
    with pytest.raises(UserError, match="DALI"):
        reader("dali", photos)


@pytest.mark.parametrize("kind", FROM_FILES)
@pytest.mark.parametrize("ending", ["raise RuntimeError('ours')", "import os; os._exit(7)"])
def test_a_process_that_does_not_close_its_reader_still_ends(photo_root, kind, ending):
    code = (
        f"from airank_fast.data.images import ImageFolder, make_reader\n"
        f"r = make_reader({kind!r}, ImageFolder({str(photo_root)!r}, 2), batch_size_local=4, "
        f"global_batch_size=4, num_workers=2, **{PHOTOS!r})\n"
        f"it = r.train(0); next(it); ev = r.evaluate(); next(ev)\n{ending}\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == {"i": 7, "r": 1}[ending[0]], done.stderr
    assert "terminate" not in done.stderr


def test_a_worker_ends_though_its_parent_was_gone_before_it_was_ready():
    code = "from airank_fast.data.processes import end_with; import time; end_with(1 << 22); time.sleep(1000)"
    assert subprocess.run([sys.executable, "-c", code], timeout=300, check=False).returncode == 1


def test_a_worker_ends_by_its_parents_sigterm_alone(tmp_path):
    """Others, as those to a whole group, may come before it is ready."""
    (tmp_path / "parent.py").write_text("""
import os, signal, subprocess, time
from airank_fast.data.processes import end_with, signals_held

parent = os.getpid()
with signals_held():
    worker = os.fork()
    if worker == 0:
        time.sleep(0.3)
        end_with(parent)
        time.sleep(600)
for name in ("TERM", "INT", "HUP"):
    subprocess.run(["kill", f"-{name}", str(worker)], check=True)
time.sleep(0.6)
subprocess.run(["kill", "-TERM", str(worker)], check=True)
time.sleep(0.2)
assert os.waitpid(worker, os.WNOHANG) == (0, 0)
os.kill(worker, signal.SIGTERM)
assert os.waitpid(worker, 0) == (worker, 0)
""")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, tmp_path / "parent.py"], env=environment, timeout=300, check=True)
