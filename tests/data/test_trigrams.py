"""Bags of trigrams: the hash is fixed, counts and weights are those of the definitions."""

from __future__ import annotations

import numpy as np
import pytest

from airank_fast.data.text.trigrams import Bags, bucket, rarity, trigrams

TEXTS = ["Return the cat", "the THE cat; cat", "", "¿?!", "查询 余额"]


def test_trigrams_of_words():
    assert trigrams("cat") == ["#ca", "cat", "at#"]
    assert trigrams("A_b 12") == ["#a#", "#b#", "#12", "12#"]
    assert trigrams("查询 X") == ["#查询", "查询#", "#x#"]
    assert trigrams("") == trigrams("-- _ ?") == []


def test_the_hash_is_crc_32_in_every_process():
    assert [bucket(each, 2**32) for each in ("cat", "#ca", "#查询")] == [0x9E5E43A8, 0xB12F4801, 0x3C71BEEC]
    assert bucket("cat", 20_000) == 0x9E5E43A8 % 20_000
    assert 0 <= bucket("\ud800ab", 7) < 7


def test_bags_hold_counts_of_distinct_buckets():
    bags = Bags.of(TEXTS, 2**31)
    assert bags.num_texts == 5
    assert np.diff(bags.offsets)[2:].tolist() == [0, 0, 4]
    for number, text in enumerate(TEXTS):
        part = slice(*bags.offsets[number : number + 2])
        expected: dict[int, int] = {}
        for each in trigrams(text):
            expected[bucket(each, 2**31)] = expected.get(bucket(each, 2**31), 0) + 1
        assert dict(zip(bags.ids[part].tolist(), bags.weights[part].tolist(), strict=True)) == expected
        assert bags.ids[part].tolist() == sorted(expected)


@pytest.mark.parametrize("order", [[], [4], [2, 0, 0, 3, 1]])
def test_texts_are_taken_in_any_order(order):
    bags = Bags.of(TEXTS, 1000)
    taken, expected = bags.take(np.array(order, np.int64)), Bags.of([TEXTS[number] for number in order], 1000)
    assert all(np.array_equal(got, want) for got, want in zip(taken, expected, strict=True))


def test_weights_are_scikit_learns_tf_idf():
    texts, num_buckets = TEXTS[:2] + TEXTS[4:], 2**20
    from sklearn.feature_extraction.text import TfidfVectorizer

    oracle = TfidfVectorizer(analyzer=lambda text: [bucket(each, num_buckets) for each in trigrams(text)])
    expected = oracle.fit_transform(texts)
    bags = Bags.of(texts, num_buckets)
    bags = bags.weighted(rarity([bags], num_buckets))
    for number in range(len(texts)):
        part = slice(*bags.offsets[number : number + 2])
        columns = [oracle.vocabulary_[each] for each in bags.ids[part]]
        assert bags.weights[part] == pytest.approx(expected[number].toarray()[0, columns], rel=1e-5)
    assert np.isfinite(Bags.of(TEXTS, 9).weighted(np.ones(9, np.float32)).weights).all()
