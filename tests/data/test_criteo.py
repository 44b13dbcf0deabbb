"""Prepared click logs: the split, the order of rows, scaled numbers, rows of the table; other directories."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from sources import criteo_text

from airank_fast.data.manifest import Manifest
from airank_fast.data.sampling import ShardStream
from airank_fast.data.tables import prefetch
from airank_fast.data.tables.criteo import LEAST, MISSING, ROW, SPAN, Criteo, ShardReader, scaled, table_ids
from airank_fast.errors import UserError
from airank_fast.sources import criteo

NUMBER, SHARD = 250, 40


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """250 rows in 7 shards."""
    folder = tmp_path_factory.mktemp("criteo")
    (folder / "train.txt").write_bytes(criteo_text.text(NUMBER))
    criteo.prepare([folder / "train.txt"], folder / "data", shard_rows=SHARD, partial_set=True, skip_corrupt=False)
    return folder / "data"


@pytest.fixture(scope="module")
def rows(root) -> np.ndarray:
    return np.concatenate([np.load(path) for path in sorted(root.glob("rows/*"))])


def reader(root, *, held_out=0.1, rank=0, world_size=1, parts=1, batch=12) -> ShardReader:
    data = Criteo(root, held_out)
    place = {"rank": rank, "world_size": world_size}
    local = batch // world_size // parts
    stream = ShardStream(data.train_sizes, 5, batch_size_local=local, global_batch_size=batch, **place)
    return ShardReader(data, stream, table_rows=1000, scaling="min-max", eval_batch_size=8, **place)


def numbers_of(items) -> list[list[int]]:
    return [batch.samples.tolist() for batch in prefetch(items, "cpu")]


def test_the_last_rows_are_held_out(root, rows):
    data = Criteo(root, 0.1)
    assert (data.num_train, data.num_held_out) == (225, 25)
    assert data.train_sizes.tolist() == [40, 40, 40, 40, 40, 25]
    assert np.array_equal(data.rows(np.arange(NUMBER)[::-7]), rows[::-7])
    (batch, *others) = prefetch(reader(root).evaluate(), "cpu")
    assert torch.equal(batch.labels, torch.from_numpy(rows["label"][225:233]).float())
    assert [len(each.labels) for each in others] == [8, 8, 1]


def test_a_split_may_be_at_the_end_of_a_shard(root):
    data = Criteo(root, 90 / 250)
    assert data.train_sizes.tolist() == [40, 40, 40, 40]


def test_a_batch_has_scaled_numbers_and_rows_of_the_table(root, rows):
    (batch,) = prefetch(islice(reader(root).train(3), 1), "cpu")
    drawn = rows[batch.samples.numpy()]
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in batch.tensors().items()} == {
        "dense": ((12, 13), torch.float32),
        "ids": ((12, 26), torch.int32),
        "labels": ((12,), torch.float32),
        "samples": ((12,), torch.int64),
    }
    assert torch.equal(batch.labels, torch.from_numpy(drawn["label"]).float())
    expected = [[hashed * 1000 // 2**32 for hashed in row] for row in drawn["hashes"].tolist()]
    assert batch.ids.tolist() == expected
    assert np.array_equal(batch.dense.numpy(), scaled(drawn["numbers"], "min-max"))


def test_numbers_are_scaled_by_constants():
    numbers = np.array([[20, 600, 50] + [0] * 10, [-1, -4, MISSING] + [10] * 10], np.int32)
    assert scaled(numbers, "min-max")[0, :4].tolist() == pytest.approx([1, 1, 0.5, 0])
    assert scaled(numbers, "min-max")[1, :4].tolist() == pytest.approx([-0.05, -1 / 603, 0, 0.2])
    assert scaled(numbers, "log")[0, :4].tolist() == pytest.approx([np.log(21), np.log(604), np.log(51), 0])
    assert scaled(numbers, "log")[1, :3].tolist() == [0, 0, 0]
    assert scaled(numbers, "log").dtype == scaled(numbers, "min-max").dtype == np.float32
    assert len(LEAST) == len(SPAN) == 13


@pytest.mark.parametrize("table_rows", [1, 1000, 1_000_001, 2**31 - 1])
def test_every_hash_is_a_row_of_the_table(table_rows):
    hashes = np.array([[0, 1, 2**31, 2**32 - 1]], np.uint32)
    ids = table_ids(hashes, table_rows)
    assert ids.dtype == np.int32
    assert ids.tolist() == [[value * table_rows // 2**32 for value in hashes[0].tolist()]]
    assert (ids >= 0).all()
    assert ids.max() == table_rows - 1


def test_an_epoch_has_each_training_row_once_shard_by_shard(root):
    seen = [number for batch in numbers_of(islice(reader(root).train(), 57)) for number in batch]
    for epoch in range(3):
        assert sorted(seen[epoch * 225 : (epoch + 1) * 225]) == list(range(225))
    shards = [number // SHARD for number in seen[:225]]
    assert sum(a != b for a, b in pairwise(shards)) == 5
    assert seen[:225] != seen[225:450]
    assert seen[:225] != sorted(seen[:225])


def test_the_order_is_pinned():
    """A checkpoint of an older version must resume into the same stream."""
    stream = ShardStream(np.array([3, 4]), 1, batch_size_local=1, global_batch_size=1, rank=0, world_size=1)
    assert stream.indices(0, 14).tolist() == [3, 5, 6, 4, 2, 0, 1, 1, 0, 2, 4, 5, 3, 6]


def test_a_resumed_stream_continues(root):
    assert numbers_of(islice(reader(root).train(), 15, 40)) == numbers_of(islice(reader(root).train(15), 25))


@pytest.mark.parametrize(("world_size", "parts"), [(2, 1), (3, 2), (1, 4)])
def test_ranks_and_micro_batches_share_the_global_batches(root, world_size, parts):
    whole = numbers_of(islice(reader(root).train(), 20))
    shares = [
        numbers_of(islice(reader(root, rank=rank, world_size=world_size, parts=parts).train(), 20 * parts))
        for rank in range(world_size)
    ]
    joined = [
        [number for share in shares for part in share[step * parts : (step + 1) * parts] for number in part]
        for step in range(20)
    ]
    assert joined == whole


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_each_held_out_row_is_evaluated_once(root, world_size):
    parts = [numbers_of(reader(root, rank=rank, world_size=world_size).evaluate()) for rank in range(world_size)]
    assert [number for part in parts for batch in part for number in batch] == list(range(25))


def refusal(root: Path, held_out: float = 0.1) -> str:
    with pytest.raises(UserError) as error:
        Criteo(root, held_out)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_other_directories_are_refused(root, tmp_path):
    what = "--data: must be a directory that `python -m airank_fast.prepare criteo` made"
    assert refusal(tmp_path / "none") == f"{what}, got {tmp_path / 'none'}, which is missing"
    (tmp_path / "train.txt").write_bytes(criteo_text.text(2))
    assert refusal(tmp_path / "train.txt") == f"{what}, got {tmp_path / 'train.txt'}, a file"
    assert refusal(tmp_path) == f"{what}, got {tmp_path}, which has no manifest.json"
    Manifest("imagenet").save(tmp_path)
    assert refusal(tmp_path) == f"{what}, got {tmp_path}, which has imagenet"
    Manifest("criteo", {}, {"rows": {"done": False}}).save(tmp_path)
    assert refusal(tmp_path) == f"{what}, and finished, got {tmp_path}, where preparing was interrupted"
    assert refusal(root, 0.001) == "--held-out: must be a data set with rows on both sides, got 0.001 of 250 rows"


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (None, "no file"),
        (np.zeros(3, np.int64), "int64 of shape [3]"),
        (np.zeros(39, ROW), "rows of shape [39]"),
        (b"text", "another file ("),
    ],
)
def test_other_shards_are_refused(root, tmp_path, content, got):
    manifest = json.loads((root / "manifest.json").read_text())
    (tmp_path / "rows").mkdir()
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    for path in root.glob("rows/*"):
        (tmp_path / "rows" / path.name).write_bytes(path.read_bytes())
    shard = tmp_path / "rows/000003.npy"
    shard.unlink()
    if isinstance(content, bytes):
        shard.write_bytes(content)
    elif content is not None:
        np.save(shard, content)
    assert refusal(tmp_path).startswith(f"{shard}: must be a shard of 40 rows, got {got}")


PEAK = """
import re, sys
from itertools import islice
from pathlib import Path
import numpy as np
from airank_fast.data.sampling import ShardStream
from airank_fast.data.tables.criteo import Criteo, ShardReader
place = {"rank": 0, "world_size": 1}
data = Criteo(Path(sys.argv[1]), 0.1)
stream = ShardStream(data.train_sizes, 5, batch_size_local=500, global_batch_size=500, **place)
reader = ShardReader(data, stream, table_rows=1000, scaling="log", eval_batch_size=500, **place)
for _ in islice(reader.train(), data.num_train // 500): pass
for _ in reader.evaluate(): pass
print(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_memory_does_not_grow_with_the_number_of_rows(tmp_path):
    """A shard of 8,192 rows is 1.3 MB."""
    peaks = []
    for number in (4, 24):  # shards: 5 and 31 MB
        root = tmp_path / str(number)
        (root / "rows").mkdir(parents=True)
        manifest = Manifest("criteo", {}, {"rows": {"done": True, "corrupt": []}})
        for place in range(number):
            name = f"rows/{place:06d}.npy"
            np.save(root / name, np.full(8192, place, np.int32).repeat(40).view(ROW))
            manifest.add(root, name, rows=8192)
        manifest.save(root)
        done = subprocess.run([sys.executable, "-c", PEAK, str(root)], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] - peaks[0] < 8
