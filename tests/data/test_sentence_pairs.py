"""Samples for BERT: the C++ equals the reference, and samples follow the specification."""

import dataclasses

import numpy as np
import pytest

from airank_fast.data.host import host
from airank_fast.data.text import samples as samples_module
from airank_fast.data.text.samples import Samples
from airank_fast.data.text.sentence_pairs import Documents, PairOptions, Random, build_samples, build_samples_reference
from airank_fast.errors import UserError

CLS, SEP, MASK, VOCAB_SIZE = 2, 3, 4, 30522
needs_host = pytest.mark.skipif(host is None, reason="airank_fast._host is not built")


def documents(num=20, num_sentences=30, sentence_length=40, seed=0) -> Documents:
    """Tokens count up from 1000 through all documents, so that every token shows its position."""
    rng = np.random.default_rng(seed)
    token = iter(range(1000, VOCAB_SIZE))
    return Documents.of(
        [
            [
                [next(token) for _ in range(rng.integers(1, sentence_length))]
                for _ in range(rng.integers(1, num_sentences))
            ]
            for _ in range(num)
        ]
    )


def options(**changes) -> PairOptions:
    return PairOptions(
        **{
            "max_seq_length": 128,
            "max_predictions": 20,
            "vocab_size": VOCAB_SIZE,
            "cls_id": CLS,
            "sep_id": SEP,
            "mask_id": MASK,
            **changes,
        }
    )


def assert_equal(a: Samples, b: Samples) -> None:
    for field in dataclasses.fields(Samples):
        ours, theirs = getattr(a, field.name), getattr(b, field.name)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs, err_msg=field.name)


def originals(sample: dict) -> list[int]:
    """The tokens as they were before masking."""
    ids = sample["input_ids"].copy()
    ids[sample["masked_lm_positions"]] = sample["masked_lm_ids"]
    return ids.tolist()


@needs_host
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"max_seq_length": 512, "max_predictions": 76, "num_duplicates": 2},
        {"max_seq_length": 8, "max_predictions": 7},
        {"short_seq_prob": 1.0, "masked_lm_prob": 1.0},
        {"short_seq_prob": 0.0, "seed": 2**64 - 1},
        {"max_seq_length": 129, "max_predictions": 128, "masked_lm_prob": 0.5},
    ],
    ids=str,
)
def test_the_kernel_equals_the_reference(changes):
    several = [documents(), documents(num=1), documents(num=2, num_sentences=2), documents(40, 5, 200)]
    for seed, texts in enumerate(several):
        chosen = options(seed=seed) if "seed" not in changes else options()
        chosen = dataclasses.replace(chosen, **changes)
        for block in (0, 2**63):
            assert_equal(build_samples(texts, chosen, block), build_samples_reference(texts, chosen, block))


def test_the_random_numbers_are_splitmix64():
    random = Random(0)  # the published first outputs of seed 0
    assert [random.next() for _ in range(3)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert Random(1, 2, 3).next() != Random(1, 3, 2).next()


def test_samples_never_change():
    """Existing data sets must stay reproducible: this number changes only with the specification."""
    texts = Documents.of([[[5 + (i * j * k) % 1000 for k in range(j * 7 % 40)] for j in range(30)] for i in range(9)])
    built = build_samples(texts, options(seed=5, num_duplicates=2), block=7)
    assert f"{sum(built.digests()) % 2**128:x}" == "1fc54d665a537c1aebb804deaa9247f5"


def test_each_sample_is_two_parts_of_documents():
    texts, chosen = documents(), options(seed=1, num_duplicates=20)
    built = build_samples(texts, chosen)
    document_of = np.repeat(np.arange(len(texts)), np.diff(texts.sentence_offsets[texts.document_offsets]))
    next_of_same = 0
    for sample in (built[i] for i in range(len(built))):
        tokens, segments = originals(sample), sample["segment_ids"]
        assert len(tokens) <= 128
        assert tokens[0] == CLS
        assert [i for i, token in enumerate(tokens) if token == SEP] == [(segments == 0).sum() - 1, len(tokens) - 1]
        assert (np.diff(segments) >= 0).all()
        parts = [np.array(tokens[1 : (segments == 0).sum() - 1]), np.array(tokens[(segments == 0).sum() : -1])]
        for part in parts:
            assert len(part)
            assert (np.diff(part) == 1).all()  # consecutive tokens of the text
        a, b = (document_of[part[0] - 1000] for part in parts)
        assert sample["next_sentence_label"] == (a != b)
        next_of_same += a == b and parts[1][0] >= parts[0][-1]
    labels = built.next_sentence_labels
    assert next_of_same == (labels == 0).sum()
    assert 0.4 < labels.mean() < 0.75  # documents of one sentence have no next one
    every = np.unique(np.concatenate([built.input_ids, built.masked_lm_ids]))
    assert np.isin(np.arange(1000, 1000 + len(texts.tokens)), every).mean() > 0.99


def test_masking_is_15_percent_of_which_80_10_10():
    chosen = options(seed=3, num_duplicates=20, max_predictions=127)
    built = build_samples(documents(), chosen)
    np.testing.assert_array_equal(built.num_masked, np.floor(built.lengths * 0.15 + 0.5).clip(1))
    first = np.repeat(built.token_offsets[:-1], built.num_masked)
    now = built.input_ids[first + built.masked_lm_positions]
    assert not np.isin(built.masked_lm_ids, [CLS, SEP, MASK]).any()
    rates = (now == MASK).mean(), (now == built.masked_lm_ids).mean()
    np.testing.assert_allclose(rates, [0.8, 0.1], atol=4 * np.sqrt(0.16 / len(now)))
    elsewhere = now[(now != MASK) & (now != built.masked_lm_ids)]
    assert elsewhere.min() < 300  # from the whole vocabulary
    assert elsewhere.max() > VOCAB_SIZE - 300
    few = build_samples(documents(), options(max_predictions=2))
    assert few.num_masked.max() == 2


def test_a_sample_depends_on_seed_block_duplicate_and_document_alone():
    texts = documents()
    base = build_samples(texts, options(num_duplicates=2))
    assert_equal(base, build_samples(texts, options(num_duplicates=2)))
    once = build_samples(texts, options())
    assert_equal(once, base.take(range(len(once))))
    digests = set(base.digests())
    assert len(digests) == len(base)
    assert not digests & set(build_samples(texts, options(num_duplicates=2), block=1).digests())
    assert not digests & set(build_samples(texts, options(num_duplicates=2, seed=1)).digests())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_seq_length": 7}, "--max-seq-length: must be 8 ... 32767, got 7"),
        ({"max_predictions": 0}, "--max-predictions: must be 1 ... 127, got 0"),
        ({"max_predictions": 128}, "--max-predictions: must be 1 ... 127, got 128"),
        ({"masked_lm_prob": 0.0}, "--masked-lm-prob: must be above 0, at most 1, got 0.0"),
        ({"short_seq_prob": 1.5}, "--short-seq-prob: must be 0 ... 1, got 1.5"),
        ({"num_duplicates": 0}, "--duplicates: must be at least 1, got 0"),
        ({"seed": -1}, "--seed: must be 0 ... 2^64 - 1, got -1"),
    ],
)
def test_options_that_cannot_be(changes, message):
    with pytest.raises(UserError) as error:
        options(**changes)
    assert str(error.value) == message


def test_empty_documents_and_sentences_are_left_out():
    texts = Documents.of([[[5, 6], []], [], [[]], [[7]]])
    assert texts.tokens.tolist() == [5, 6, 7]
    assert texts.sentence_offsets.tolist() == [0, 2, 3]
    assert texts.document_offsets.tolist() == [0, 1, 2]


@pytest.mark.parametrize("kernel", [pytest.param(True, marks=needs_host), False])
def test_take_pad_and_concatenate(kernel, monkeypatch):
    if not kernel:
        monkeypatch.setattr(samples_module, "host", None)
    built = build_samples(documents(), options())
    some = built.take([3, 0, 3])
    assert len(some) == 3
    for mine, index in enumerate([3, 0, 3]):
        for name, values in built[index].items():
            np.testing.assert_array_equal(some[mine][name], values)
    assert len(built.take([])) == 0
    assert_equal(Samples.concatenate([built.take(range(4)), built.take(range(4, len(built)))]), built)
    assert len(Samples.concatenate([])) == 0

    padded = built.padded(130, 25)
    assert {name: values.dtype.name for name, values in padded.items()} == {
        "input_ids": "int32",
        "input_mask": "int8",
        "segment_ids": "int8",
        "masked_lm_positions": "int32",
        "masked_lm_ids": "int32",
        "next_sentence_labels": "int8",
    }
    np.testing.assert_array_equal(padded["input_mask"].sum(1), built.lengths)
    for i, length in enumerate(built.lengths):
        np.testing.assert_array_equal(padded["input_ids"][i, :length], built[i]["input_ids"])
        assert not padded["input_ids"][i, length:].any()
    np.testing.assert_array_equal((padded["masked_lm_positions"] > 0).sum(1), built.num_masked)
    assert built[-1]["next_sentence_label"] == built.next_sentence_labels[-1]
    with pytest.raises(IndexError):
        built[len(built)]
    assert all(tensor.dtype.is_signed and tensor.element_size() == 8 for tensor in built.tensors().values())
