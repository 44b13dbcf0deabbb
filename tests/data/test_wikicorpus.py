"""The reader of shards: the same order for any number of ranks and any first step."""

from itertools import islice

import numpy as np
import pytest

pytest.importorskip("h5py")

from data.corpora import MAX_SEQ_LENGTH, VOCAB_SIZE, make_corpus, make_samples, write

from airank_fast.data.manifest import Manifest
from airank_fast.data.sampling import permutation
from airank_fast.data.text.wikicorpus import WikiCorpus, WikiCorpusReader
from airank_fast.errors import UserError

SIZES = (40, 25, 33)
NUM = sum(SIZES)


@pytest.fixture(scope="module", params=["variable", "padded"])
def root(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param)
    make_corpus(path, SIZES, form=request.param)
    return path


@pytest.fixture(scope="module")
def number_of():
    """Digest of a sample -> its number through all training shards."""
    every = [digest for seed, num in enumerate(SIZES) for digest in make_samples(num, seed).digests()]
    assert len(set(every)) == NUM
    return {digest: number for number, digest in enumerate(every)}


def open_corpus(root) -> WikiCorpus:
    return WikiCorpus(root, vocab_size=VOCAB_SIZE, max_seq_length=MAX_SEQ_LENGTH)


def reader(root, **options) -> WikiCorpusReader:
    """Batches of 8, each in the order of the stream."""
    shape = {"batch_size_local": 8, "global_batch_size": 8, "seed": 5, "balance": False}
    return WikiCorpusReader(open_corpus(root), **{**shape, **options})


def stream(number_of, one: WikiCorpusReader, num_batches: int, first_step: int = 0) -> list[list[int]]:
    batches = [
        [number_of[digest] for digest in samples.digests()] for samples, _ in islice(one.train(first_step), num_batches)
    ]
    one.close()
    return batches


def test_where_everything_fits_the_order_is_the_projects_permutation(root, number_of):
    numbers = np.concatenate(stream(number_of, reader(root), 2 * NUM // 8))
    expected = np.concatenate([permutation(NUM, 5, 0), permutation(NUM, 5, 1)])
    np.testing.assert_array_equal(numbers, expected[: len(numbers)])


@pytest.mark.parametrize("pool_samples", [1, 66, 10**6])
def test_each_sample_once_an_epoch_and_shuffled_across_shards(root, number_of, pool_samples):
    numbers = np.concatenate(
        stream(
            number_of, reader(root, batch_size_local=7, global_batch_size=7, pool_samples=pool_samples), 3 * NUM // 7
        )
    )
    epochs = [numbers[i * NUM : (i + 1) * NUM] for i in range(3)]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(NUM))
    assert not np.array_equal(epochs[0], epochs[1])
    other = stream(number_of, reader(root, seed=6, pool_samples=pool_samples), 3)
    assert np.concatenate(other).tolist() != numbers[:24].tolist()
    shard_of = np.repeat(np.arange(3), SIZES)[epochs[0]]
    changes = (np.diff(shard_of) != 0).sum()
    assert changes == 2 if pool_samples == 1 else changes > 10


@pytest.mark.parametrize("pool_samples", [50, 10**6])
def test_ranks_share_the_stream_and_a_run_goes_on_where_it_was(root, number_of, pool_samples):
    alone = stream(number_of, reader(root, batch_size_local=12, global_batch_size=12, pool_samples=pool_samples), 30)
    for world_size, local in ((2, 6), (3, 2)):  # the second accumulates two batches
        parts = [
            reader(
                root,
                batch_size_local=local,
                global_batch_size=12,
                rank=rank,
                world_size=world_size,
                pool_samples=pool_samples,
            )
            for rank in range(world_size)
        ]
        for first_step in (0, 7, 23):
            num = 12 // world_size // local
            per_rank = [stream(number_of, part, 5 * num, first_step) for part in parts]
            for step in range(5):
                together = [
                    n for batches in per_rank for batch in batches[step * num : (step + 1) * num] for n in batch
                ]
                assert together == alone[first_step + step]


@pytest.mark.parametrize("pool_samples", [1, 50, 10**6])
def test_a_step_has_the_same_samples_however_it_is_dealt(root, number_of, pool_samples):
    """Balanced over ranks and micro-batches, across the bounds of pools, from any step on."""
    shape = {"batch_size_local": 3, "global_batch_size": 12, "world_size": 2, "pool_samples": pool_samples}
    ranks = [reader(root, **shape, rank=rank, balance=True) for rank in range(2)]
    alone = reader(root, batch_size_local=12, global_batch_size=12, pool_samples=pool_samples)
    expected = list(islice(alone.train(), 30))
    for first_step in (0, 7):
        dealt = [list(islice(one.train(first_step), 2 * 20)) for one in ranks]
        for step in range(20):
            samples, num_masked = expected[first_step + step]
            parts = [part for batches in dealt for part in batches[2 * step : 2 * step + 2]]
            assert sorted(d for part, _ in parts for d in part.digests()) == sorted(samples.digests())
            assert {mean for _, mean in parts} == {num_masked / 4} == {samples.num_masked.sum() / 4}
            tokens = [len(part.input_ids) for part, _ in parts]
            assert max(tokens) - min(tokens) <= samples.lengths.max()
    for one in (*ranks, alone):
        one.close()


def test_evaluation_is_every_sample_once_over_the_ranks(root):
    expected = make_samples(17, seed=99).digests()
    for world_size in (1, 2, 3):
        found = [
            digest
            for rank in range(world_size)
            for batch in reader(
                root, rank=rank, world_size=world_size, batch_size_local=1, global_batch_size=6, eval_batch_size=4
            ).evaluate()
            for digest in batch.digests()
        ]
        assert found == expected
    few = list(reader(root, num_eval_samples=5).evaluate())
    assert [digest for batch in few for digest in batch.digests()] == expected[:5]
    with pytest.raises(UserError, match="18 evaluation samples, got 17"):
        reader(root, num_eval_samples=18)


def test_evaluation_crosses_shards(tmp_path):
    make_corpus(tmp_path, num_eval=5)
    write(tmp_path / "eval/part-00001.hdf5", make_samples(6, seed=98))
    expected = make_samples(5, seed=99).digests() + make_samples(6, seed=98).digests()
    batches = list(reader(tmp_path, eval_batch_size=4).evaluate())
    assert [digest for batch in batches for digest in batch.digests()] == expected
    assert [len(batch) for batch in batches] == [4, 4, 3]


def refusal(root, **options) -> str:
    with pytest.raises(UserError) as error:
        reader(root, **options)
    return str(error.value)


def test_what_is_no_data_set(tmp_path):
    assert "a directory with train/ and eval/" in refusal(tmp_path / "none")
    assert refusal(tmp_path) == f"data: must have train/ with HDF5 shards in {tmp_path}, there is none"
    make_corpus(tmp_path, sizes=(5,))
    (tmp_path / "eval/part-00000.hdf5").unlink()
    assert "HDF5 shards with samples" in refusal(tmp_path)
    write(tmp_path / "eval/part-00000.hdf5", make_samples(3))
    assert refusal(tmp_path).startswith("batch size: must be at most the 5 training samples")
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n")
    assert "a vocabulary of 500 tokens, got 2" in refusal(tmp_path)


def test_a_shard_that_breaks_off_is_named_when_it_is_read(tmp_path):
    make_corpus(tmp_path, sizes=(40, 40))
    import h5py

    with h5py.File(tmp_path / "train/part-00001.hdf5", "a") as file:
        file["input_ids"][3] = np.full(len(file["input_ids"][3]), 9999, np.int16)
    with pytest.raises(UserError, match=r"got 9999 in row 3 of .*part-00001"):
        list(islice(reader(tmp_path).train(), 50))


def test_manifest_and_shards_must_agree(tmp_path):
    make_corpus(tmp_path, sizes=(20, 20))
    manifest = Manifest("wikicorpus", {"max_seq_length": 64}, {"samples": {"done": True}})
    for name in ("train/part-00000.hdf5", "train/part-00001.hdf5", "eval/part-00000.hdf5"):
        manifest.add(tmp_path, name, samples=20)
    manifest.save(tmp_path)
    assert open_corpus(tmp_path).num_train == 40
    extra = write(tmp_path / "train/part-00002.hdf5", make_samples(3))
    assert "train/part-00002.hdf5 is not in the manifest" in refusal(tmp_path)
    extra.unlink()
    (tmp_path / "train/part-00000.hdf5").unlink()
    assert "train/part-00000.hdf5 is missing" in refusal(tmp_path)
    with pytest.raises(UserError, match="samples of at most 32 tokens, got 64"):
        WikiCorpus(tmp_path, vocab_size=VOCAB_SIZE, max_seq_length=32)
    manifest.stages["samples"]["done"] = False
    manifest.save(tmp_path)
    assert "was interrupted" in refusal(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    assert "a readable manifest" in refusal(tmp_path)
    (tmp_path / "manifest.json").write_text("[]")
    assert "a manifest of version 1" in refusal(tmp_path)
