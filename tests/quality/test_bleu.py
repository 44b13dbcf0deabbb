"""BLEU against sacrebleu on the same texts, in any batches and over ranks; MLPerf's words against their definition."""

from __future__ import annotations

import re
import unicodedata
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from airank_fast.engine.distributed import World
from airank_fast.errors import UserError
from airank_fast.quality import bleu

sacrebleu = pytest.importorskip("sacrebleu")

ALONE = World(0, 1, 0, 1, torch.device("cpu"))
WORDS = [
    "The",
    "the",
    "cat",
    "Cat.",
    "1.000,5",
    "3,",
    "don't",
    "(x)",
    "café",
    "ÀÉ",
    "猫",
    "½.",
    "€5",
    "&quot;",
    "-",
    "…",
    "I\u0307",
]
SENTENCES = st.lists(st.sampled_from(WORDS) | st.text(max_size=4), max_size=9).map(" ".join)


def measured(references, texts, batches=None) -> dict[str, float]:
    """The meter's values, of batches of these samples."""
    meter = bleu.Bleu(references)
    for ids in batches or [range(len(texts))]:
        meter.update([texts[sample] for sample in ids], SimpleNamespace(ids=tuple(ids)))
    return meter.values(ALONE)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(SENTENCES, SENTENCES), min_size=1, max_size=6))
def test_equals_sacrebleu_to_the_bit(pairs):
    texts, references = map(list, zip(*pairs, strict=True))
    values = measured(references, texts)
    assert values["bleu"] == sacrebleu.corpus_bleu(texts, [references]).score
    assert values["bleu_lowercase"] == sacrebleu.corpus_bleu(texts, [references], lowercase=True).score


def test_a_corpus_whose_readings_differ():
    texts = ["The cat sat on 1.5 mats.", "", "Yes", "“Hello”, said the Cat to 2 Dogs!"]
    references = ["The cat sat on 1.5 mats", "Nothing.", "yes", "“hello”, said the cat to 2 dogs!"]
    values = measured(references, texts)
    assert values["bleu"] == sacrebleu.corpus_bleu(texts, [references]).score
    assert values["bleu"] < values["bleu_lowercase"] < values["bleu_uncased"]  # 13a leaves “ and ” at their words


@pytest.mark.parametrize(
    ("texts", "expected"),
    [([""], 0.0), (["a"], 0.0), (["x y z w"], 0.0), (["a b c d"], 100.0), (["a b c x y"], None)],
)
def test_missing_words_and_n_grams(texts, expected):
    values = measured(["a b c d"], texts)
    required = sacrebleu.corpus_bleu(texts, [["a b c d"]]).score
    assert values["bleu"] == required
    assert required == pytest.approx(expected) if expected is not None else 0 < required < 50  # one without a 4-gram


class Rank:
    """The last of several ranks, of which the others have sent these values."""

    def __init__(self, *others):
        self.others = others

    def gather_objects(self, value):
        self.sent = value
        return [*self.others, value]


def test_ranks_and_duplicates_do_not_count():
    """A sample that comes again, here or on another rank, counts once; its first translation is kept."""
    references = ["the cat is on the mat", "there is a dog in the house", "it rains", "nobody knows that"]
    texts = ["the cat sat on the mat", "there is a dog in this house", "it rains", "nobody knew that"]
    assert measured(references, texts, [[3], [1, 2], [0, 1]]) == measured(references, texts)
    first, second = bleu.Bleu(references), bleu.Bleu(references)
    first.update(["it rains", "something else"], SimpleNamespace(ids=torch.tensor([2, 0])))
    second.update(texts, SimpleNamespace(ids=[0, 1, 2, 3]))
    first.values(rank := Rank())
    kept = ["something else", *texts[1:]]
    assert second.values(Rank(rank.sent)) == measured(references, kept)


def test_words_of_mlperf_follow_their_definition():
    """tensor2tensor's three expressions, over classes made of Unicode's categories by hand."""
    characters = [chr(code) for code in range(0x20, 0x2C00)]

    def of(category: str) -> str:
        return "".join(re.escape(each) for each in characters if unicodedata.category(each).startswith(category))

    text = "".join(characters[index] + "a9½."[index % 4] * (index % 3) for index in range(len(characters)))
    text = "".join(each for each in text if unicodedata.category(each) != "Cn").lower()
    expected = re.sub(f"([^\\d])([{of('P')}])", r"\1 \2 ", text)
    expected = re.sub(f"([{of('P')}])([^\\d])", r" \1 \2", expected)
    expected = re.sub(f"([{of('S')}])", r" \1 ", expected)
    assert bleu._t2t_line(text).split() == expected.split()
    assert bleu._t2t_line("In 1.5 h, A+B=½.").split() == ["in", "1.5", "h", ",", "a", "+", "b", "=", "½", "."]


def test_signatures():
    version = f"|version:{sacrebleu.__version__}"
    assert bleu.signatures() == {
        "bleu": "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp" + version,
        "bleu_lowercase": "nrefs:1|case:lc|eff:no|tok:13a|smooth:exp" + version,
        "bleu_uncased": "nrefs:1|case:lc|eff:no|tok:t2t|smooth:exp" + version,
    }


def test_an_empty_evaluation_set():
    with pytest.raises(UserError, match="evaluation set: must be one with a sample, got none"):
        bleu.Bleu([]).values(ALONE)
