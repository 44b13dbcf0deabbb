"""Text for word vectors: its forms, its vocabulary, sub-sampling by its formula, batches by seed and position."""

from __future__ import annotations

import hashlib
import lzma
import math
from collections import Counter
from itertools import islice

import numpy as np
import pytest

from airank_fast.data.sampling import TrainStream
from airank_fast.data.text import analogies, wordnet, words
from airank_fast.data.text.words import SentenceReader, Text, Vocabulary, encode
from airank_fast.errors import UserError

LINES = [["the", "cat", "and", "the", "dog"], ["the", "cat"], ["naïve"], ["a", "dog"]]


def sentences(path, **options) -> list[list[str]]:
    return [line for line in Text(path, **options).sentences(lambda where: None) if line]


@pytest.mark.parametrize(
    "content",
    [
        "the cat and the dog\nthe cat\nnaïve\na dog\n",
        "the cat and the dog\nthe cat\nnaïve\na dog",
        "The cat and THE dog\r\nthe\tcat\r\n\r\nNAÏVE \r\n  a dog\r\n",
        "\ufeffthe cat and the dog\n\n\nthe cat\nnaïve\na\u3000dog\n",
    ],
    ids=["LF", "no newline at the end", "CRLF, capitals, empty lines", "byte order mark, wide space"],
)
def test_the_forms_of_a_file(content, tmp_path):
    (tmp_path / "text").write_bytes(content.encode())
    assert sentences(tmp_path / "text") == LINES


@pytest.mark.parametrize("block", [8, 11, 4096])
def test_a_directory_is_read_by_name_and_blocks_do_not_show(block, tmp_path, monkeypatch):
    monkeypatch.setattr(words, "BLOCK", block)
    (tmp_path / "b").write_text("the cat\nnaïve\na dog")
    (tmp_path / "a").write_text("the cat and the dog\n")
    (tmp_path / ".hidden").write_text("no\n")
    (tmp_path / "folder").mkdir()
    found = sentences(tmp_path)
    assert [word for line in found for word in line] == [word for line in LINES for word in line]
    assert block < 4096 or found == LINES  # a line that is longer than a block is more than one sentence


def test_a_long_line_is_cut_and_nothing_is_lost(tmp_path):
    text = [f"w{number}" for number in range(2 * words.LONGEST + 5)]
    (tmp_path / "text").write_text(" ".join(text))
    found = sentences(tmp_path / "text")
    assert [len(line) for line in found] == [words.LONGEST, words.LONGEST, 5]
    assert [word for line in found for word in line] == text


def test_a_line_of_a_megabyte_is_read(tmp_path):
    (tmp_path / "text").write_text("the cat\n" + "x" * 2**20 + "\nthe cat\n")
    corpus, corrupt = Text(tmp_path / "text").corpus(least=2, most=10)
    assert (corpus.vocabulary.words, corpus.num_sentences, corrupt) == (["cat", "the"], 2, [])


BAD = {
    "GBK": ("the cat\n怎么\n".encode("gbk"), r"text, line 2: must be UTF-8, got byte 0xD4 \(GBK can be converted by"),
    "UTF-16": ("the cat".encode("utf-16"), "text, line 1: must be UTF-8, got byte 0xFF"),
    "cut character": ("the cat\nna\u00ef".encode()[:-1], "text, line 2: must be UTF-8, got byte 0xC3"),
    "empty": (b"", "text: must be text with at least 2 words, got 0 in a text of 0 words"),
    "spaces": (b" \n\r\n\t", "text: must be text with at least 2 words, got 0 in a text of 0 words"),
    "one word": (b"the the\nthe", "text: must be text with at least 2 words, got 1 in a text of 3 words"),
    "endless word": (b"the cat\n" + b"x" * (9 << 20), "text, line 2: must be text, with words of less than 4,194,304"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_clear_line(name, tmp_path):
    content, message = BAD[name]
    (tmp_path / "text").write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        Text(tmp_path / "text").corpus(least=1, most=100)
    assert "\n" not in str(error.value)


def test_no_text():
    with pytest.raises(UserError, match="no-such: must be a text file, or a directory of them, got no such path"):
        Text(words.Path("no-such")).corpus(least=1, most=100)


def test_skip_corrupt_leaves_out_lines_and_reports_them(tmp_path):
    (tmp_path / "a").write_bytes(b"the cat\n" + "怎么\n".encode("gbk") + b"the dog\n\xff")
    (tmp_path / "b").write_bytes(b"the \xe4 cat\na dog\n")
    corpus, corrupt = Text(tmp_path, skip_corrupt=True).corpus(least=1, most=100)
    assert corpus.num_sentences == 3
    assert corpus.vocabulary.words == ["dog", "the", "a", "cat"]
    places = [where.removeprefix(f"{tmp_path}/") for where, _ in corrupt]
    assert places == ["a, line 2", "a, line 4", "b, line 1"]
    assert corrupt[0][1] == "must be UTF-8, got byte 0xD4"


def test_a_vocabulary_is_by_count_then_by_word():
    found = Vocabulary.of(LINES, least=1, most=100, name="text")
    assert found.words == ["the", "cat", "dog", "a", "and", "naïve"]
    assert found.counts.tolist() == [3, 2, 2, 1, 1, 1]
    assert Vocabulary.of(LINES, least=2, most=100, name="text").words == ["the", "cat", "dog"]
    assert Vocabulary.of(LINES, least=1, most=2, name="text").words == ["the", "cat"]


def test_other_words_are_left_out_and_sentences_without_any():
    corpus = encode(LINES, Vocabulary.of(LINES, least=2, most=100, name="text"))
    assert corpus.words.tolist() == [0, 1, 0, 2, 0, 1, 2]
    assert corpus.offsets.tolist() == [0, 4, 6, 7]


def reader(corpus, *, batch=4, rank=0, ranks=1, sample=1e-2, seed=3):
    stream = TrainStream(
        corpus.num_sentences,
        seed,
        batch_size_local=batch // ranks,
        global_batch_size=batch,
        rank=rank,
        world_size=ranks,
    )
    return SentenceReader(corpus, stream, sample=sample, seed=seed)


@pytest.fixture(scope="module")
def corpus():
    """1,000 sentences of up to 12 of 40 words, whose counts fall as Zipf's law has it."""
    rng = np.random.default_rng(0)
    shares = 1 / np.arange(1, 41)
    lines = [[f"w{n}" for n in rng.choice(40, size=rng.integers(1, 13), p=shares / shares.sum())] for _ in range(1000)]
    return encode(lines, Vocabulary.of(lines, least=1, most=100, name="text"))


def as_lists(batch) -> list[list[int]]:
    return [part.tolist() for part in np.split(np.asarray(batch.words), np.asarray(batch.offsets)[1:-1])]


def test_without_sub_sampling_batches_are_the_sentences_in_the_order_of_the_stream(corpus):
    made = reader(corpus, sample=0)
    batch = made.at(8)
    every = [part.tolist() for part in np.split(corpus.words, corpus.offsets[1:-1])]
    assert as_lists(batch) == [every[index] for index in made._stream.indices(8, 4)]
    assert batch.num_words == len(batch.words)


def test_sub_sampling_keeps_the_share_of_word2vec_s_formula(corpus):
    made = reader(corpus, batch=1000, sample=0.01)
    seen, kept = np.zeros(40), np.zeros(40)
    for epoch in range(20):
        batch = made.at(1000 * epoch)
        kept += np.bincount(batch.words, minlength=40)
        seen += corpus.vocabulary.counts
    total = corpus.vocabulary.counts.sum()
    for word, count in enumerate(corpus.vocabulary.counts):
        expected = min(1, (math.sqrt(count / (0.01 * total)) + 1) * (0.01 * total) / count)
        assert kept[word] / seen[word] == pytest.approx(expected, abs=5 / math.sqrt(seen[word]))
        assert (kept[word] == seen[word]) == (expected == 1)


def test_a_sentence_is_sub_sampled_by_seed_and_position_alone(corpus):
    alone = [as_lists(reader(corpus).at(position)) for position in (0, 4, 8)]
    halves = [
        as_lists(reader(corpus, rank=0, ranks=2).at(position))
        + as_lists(reader(corpus, rank=1, ranks=2).at(position + 2))
        for position in (0, 4, 8)
    ]
    assert alone == halves
    assert as_lists(reader(corpus, seed=4).at(0)) != alone[0]
    again = [reader(corpus).at(position) for position in (4, 4, 8, 1004)]
    assert again[0].seed == again[1].seed
    assert len({batch.seed for batch in again}) == 3


def test_training_can_start_at_any_step(corpus):
    whole = list(islice(reader(corpus).train("cpu"), 6))
    later = list(islice(reader(corpus).train("cpu", first_step=4), 2))
    for ours, theirs in zip(later, whole[4:], strict=True):
        assert as_lists(ours) == as_lists(theirs)
        assert (ours.seed, ours.units, ours.num_samples) == (theirs.seed, theirs.num_words, 4)


def test_words_before_a_position(corpus):
    made = reader(corpus, sample=0, batch=8)
    sizes = [made.at(8 * step).num_words for step in range(130)]  # over the end of the first epoch
    assert [made.words_before(8 * step) for step in range(131)] == [sum(sizes[:step]) for step in range(131)]
    assert made.words_before(1000) == made.num_words == len(corpus.words)
    assert made.words_before(24) == sum(sizes[:3])  # back, as after a resume


def test_the_embedded_text_is_whole_and_has_its_notice():
    content = lzma.decompress(wordnet.FILE.read_bytes())
    assert hashlib.sha256(content).hexdigest() == "d6f5ea9ad99a7e030cd1369ec451d61c515710032570a951a71fc6a86bd629b5"
    assert "WordNet 3.0 Copyright 2006 by Princeton University.  All rights reserved." in wordnet.notice()
    assert " ".join(wordnet.notice().split()) in " ".join(wordnet.__doc__.split())
    found = wordnet.sentences()
    assert (len(found), sum(map(len, found))) == (72_886, 827_883)
    assert found[0] == ["an", "entity", "that", "has", "physical", "existence"]
    counts = Counter(word for line in found for word in line)
    assert sum(count >= 5 for count in counts.values()) == 13_412


def test_the_embedded_questions_are_word2vec_s():
    content = lzma.decompress(analogies.FILE.read_bytes())
    assert hashlib.sha256(content).hexdigest() == "8c29b3332afc46f3fb8be04cb5297bf96f39aa7131272dff57869b4485b22a36"
    found = analogies.embedded()
    assert (len(found.words), len(found.sections), found.sections[4]) == (19_544, 14, "family")
    assert np.bincount(found.section)[4] == 506
    assert found.words[0] == ("athens", "greece", "baghdad", "iraq")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "q: must be a file of analogy questions, each a line of four words, got none"),
        (b": a\n\n: b\n", "q: must be a file of analogy questions, each a line of four words, got none"),
        (b": a\n1 2 3\n", r"q, line 2: must be a question of four words, or a section ': NAME', got 3 words"),
        (b"\n1 2 3 4\n", "q, line 2: must be in a section, which begins with a line ': NAME', got a question before"),
        ("\n: 怎\n".encode("gbk"), "q, line 2: must be UTF-8, got byte 0xD4"),
    ],
)
def test_questions_of_another_form(content, message):
    with pytest.raises(UserError, match=message):
        analogies.parse(content, "q")


def test_questions_with_crlf_and_a_section_in_two_parts():
    found = analogies.parse(b": a\r\nA b C d\r\n:b\r\n\r\n1 2 3 4\r\n: a\r\nx y z w", "q")
    assert found.sections == ("a", "b")
    assert found.section.tolist() == [0, 1, 0]
    assert found.words == [("a", "b", "c", "d"), ("1", "2", "3", "4"), ("x", "y", "z", "w")]
    first = analogies.first_of_each(["B", "a", "b", "C"])
    assert analogies.numbers(found, first)[0].tolist() == [1, 0, 3, -1]
    assert (analogies.unknown_word(first), analogies.unknown_word({"the": 0, "<unk>": 1})) == (-1, 1)
