"""Makes small data sets of BERT samples for tests."""

from pathlib import Path

import numpy as np

from airank_fast.data.text.samples import Samples
from airank_fast.data.text.sentence_pairs import Documents, PairOptions, build_samples
from airank_fast.data.text.shards import write_shard

VOCAB_SIZE, MAX_SEQ_LENGTH, MAX_PREDICTIONS = 500, 64, 10


def make_samples(num: int, seed: int = 0) -> Samples:
    """`num` different samples of random tokens."""
    rng = np.random.default_rng(seed)
    texts = Documents.of(
        [[rng.integers(5, VOCAB_SIZE, rng.integers(3, 30)).tolist() for _ in range(8)] for _ in range(max(2, num // 2))]
    )
    options = PairOptions(MAX_SEQ_LENGTH, MAX_PREDICTIONS, VOCAB_SIZE, cls_id=2, sep_id=3, mask_id=4, seed=seed)
    return build_samples(texts, options).take(range(num))


def write(path: Path, samples: Samples, form: str = "variable", vocab_size: int = VOCAB_SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_shard(
        path, samples, form=form, max_seq_length=MAX_SEQ_LENGTH, max_predictions=MAX_PREDICTIONS, vocab_size=vocab_size
    )
    return path


def make_corpus(root: Path, sizes=(40, 25, 33), num_eval: int = 17, form: str = "variable") -> list[Samples]:
    """train/ with shards of these sizes and eval/ with one, without a manifest; returns the training shards."""
    shards = [make_samples(num, seed) for seed, num in enumerate(sizes)]
    for number, samples in enumerate(shards):
        write(root / f"train/part-{number:05d}.hdf5", samples, form)
    write(root / "eval/part-00000.hdf5", make_samples(num_eval, seed=99), form)
    return shards
