"""Translation's data: the embedded text, aligned files, subwords, and batches of equal tokens that resume."""

from __future__ import annotations

import hashlib
import lzma
from itertools import islice

import numpy as np
import pytest

pytest.importorskip("sentencepiece")

from airank_fast.data.sampling import StratifiedStream
from airank_fast.data.text import home_assistant
from airank_fast.data.text.translation_batch import Sentences, Side, TranslationReader
from airank_fast.data.text.translation_pairs import Pair, read_pairs
from airank_fast.data.text.translation_sets import TranslationSets
from airank_fast.data.text.translation_subwords import EOS, UNK, Subwords
from airank_fast.errors import UserError

WORDS = ["light", "door", "set", "the", "name", "of", "on", "off", "temperature"]
PAIRS = [
    Pair(" ".join(WORDS[(i * j) % 9] for j in range(1, 2 + i % 7)), " ".join(WORDS[i % 9] for _ in range(1 + i % 5)))
    for i in range(203)
]


@pytest.fixture(scope="module")
def subwords() -> Subwords:
    return Subwords.learn((text for pair in PAIRS for text in pair), 64)


def stream(lengths, size=32, *, parts=1, rank=0, ranks=1, seed=1) -> StratifiedStream:
    local = size // ranks // parts
    return StratifiedStream(lengths, seed, batch_size_local=local, global_batch_size=size, rank=rank, world_size=ranks)


def reader(sentences, *, rank=0, ranks=1, parts=1, max_tokens=10_000) -> TranslationReader:
    made = stream(sentences.lengths, parts=parts, rank=rank, ranks=ranks)
    held_out = sentences.take(np.arange(50))
    place = {"rank": rank, "world_size": ranks}
    return TranslationReader(sentences, held_out, made, max_tokens=max_tokens, eval_batch_size=8, **place)


# -- the embedded text ------------------------------------------------------------------------------------------------


def test_the_embedded_text_is_the_one_that_the_script_makes():
    content = lzma.decompress(home_assistant.FILE.read_bytes())
    assert hashlib.sha256(content).hexdigest() == "2fdea38ccf8200b49405ddcc4922bfce66ca493b056b3b7c1e69a9ff16165e05"
    notice = " ".join(line.strip() for line in content.decode().splitlines() if line.startswith(" "))
    assert "Licensed under the Apache License, Version 2.0" in notice
    assert home_assistant.FILE.stat().st_size < 220_000


@pytest.mark.parametrize("split", ["text", "component"])
def test_held_out_texts_are_not_in_training(split):
    train, held_out = home_assistant.load(split)
    assert len(train) + len(held_out) == 12_485
    assert 0.03 < len(held_out) / 12_485 < 0.07
    assert not {pair.source for pair in train} & {pair.source for pair in held_out}
    if split == "text":
        forms = {home_assistant.normal_form(pair.source) for pair in train}
        assert not forms & {home_assistant.normal_form(pair.source) for pair in held_out}
    assert home_assistant.normal_form("Turn ON {name}, 2!") == "turn on"


# -- files ------------------------------------------------------------------------------------------------------------


def write(folder, source: bytes, target: bytes):
    paths = folder / "a.en", folder / "a.es"
    for path, content in zip(paths, (source, target), strict=True):
        path.write_bytes(content)
    return paths


def test_files_are_read_line_by_line(tmp_path):
    paths = write(tmp_path, b"\xef\xbb\xbfone two\r\n  three\x0cfour \n", "uno\u2028dos\ntr\u00e9s".encode())
    assert read_pairs(*paths) == ([Pair("one two", "uno\u2028dos"), Pair("three\x0cfour", "tr\u00e9s")], [])


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (b"a\nb\nc\n", b"d\n", "a.es: must be as many lines as {0}, 3, got 1"),
        (b"a\n", b"d\ne\n", "a.es: must be as many lines as {0}, 1, got 2"),
        (b"a\nb\n", b"d\n \n", "a.es, line 2: must be a sentence, got an empty line"),
        (b"a\n\xfcb\n", b"d\ne\n", "a.en, line 2: must be UTF-8, got byte 0xFC at position 1"),
        (b"a\n" + b"b" * 70_000 + b"\n", b"d\ne\n", "a.en, line 2: must be a line of at most 65,536 bytes"),
        (b"", b"", "a.en: must be a text file with a sentence a line, got an empty file"),
    ],
)
def test_files_that_do_not_fit_are_named_in_one_line(source, target, message, tmp_path):
    paths = write(tmp_path, source, target)
    with pytest.raises(UserError) as error:
        read_pairs(*paths)
    assert message.format(paths[0]) in str(error.value)
    assert "\n" not in str(error.value)


def test_skip_corrupt_leaves_lines_out_of_both_files(tmp_path):
    paths = write(tmp_path, b"a\n\xfcb\nc\n\ne\n", b"1\n2\n3\n4\n5\n")
    pairs, corrupt = read_pairs(*paths, skip_corrupt=True)
    assert pairs == [Pair("a", "1"), Pair("c", "3"), Pair("e", "5")]
    assert [where for where, _ in corrupt] == [f"{paths[0]}, line 2", f"{paths[0]}, line 4"]


# -- subwords ---------------------------------------------------------------------------------------------------------


def test_subwords_give_the_text_back_and_are_the_same_each_time(subwords):
    texts = [pair.source for pair in PAIRS]
    encoded = subwords.encode(texts)
    assert subwords.decode(encoded) == texts
    assert min(min(each) for each in encoded) > UNK
    assert Subwords.learn((text for pair in PAIRS for text in pair), 64).model == subwords.model
    assert subwords.encode(["\u65e5\u672c", ""])[1] == []
    assert UNK in subwords.encode(["\u65e5\u672c"])[0]
    assert subwords.decode([[EOS, *encoded[0], 64, 70]]) == texts[:1]


def test_sizes_that_a_text_does_not_allow(tmp_path):
    with pytest.raises(UserError, match=r"--vocab-size: must be at most \d+, which the text has, got 5000"):
        Subwords.learn(["a b", "ab ab"], 5000)
    with pytest.raises(UserError, match=r"--vocab-size: must be at least 8, for the text's alphabet, got 6"):
        Subwords.learn(["a b c", "aa bb"], 6)
    path = tmp_path / "subwords.model"
    path.write_bytes(b"another file")
    with pytest.raises(UserError, match=r"subwords.model: must be a SentencePiece model with the special tokens"):
        Subwords.read(path)


# -- batches ----------------------------------------------------------------------------------------------------------


def test_a_batch_has_what_the_network_takes(subwords):
    sentences = Sentences.encode(PAIRS, subwords)
    batch = next(reader(sentences).train("cpu"))
    assert batch.num_samples == len(batch.ids) == 32
    assert batch.units == len(batch.target) == sum(batch.target_lengths)
    assert batch.weight == 1.0
    assert list(zip(batch.target_lengths, batch.source_lengths, strict=True)) == sorted(
        zip(batch.target_lengths, batch.source_lengths, strict=True)
    )
    for n, number in enumerate(batch.ids):
        source = batch.source[batch.source_offsets[n] : batch.source_offsets[n + 1]].tolist()
        begin, end = batch.target_offsets[n : n + 2].tolist()
        target, previous = batch.target[begin:end].tolist(), batch.previous[begin:end].tolist()
        assert (source[-1], target[-1], previous) == (EOS, EOS, [EOS, *target[:-1]])
        assert subwords.decode([source, target]) == list(PAIRS[number])


@pytest.mark.parametrize("size", [16, 203])
def test_every_pair_once_an_epoch_and_steps_of_equal_tokens(size):
    lengths = np.random.default_rng(0).geometric(0.05, 203) + 2
    made = stream(lengths, size)
    for epoch in range(3):
        assert sorted(made.indices(epoch * 203, 203)) == list(range(203))
    assert not np.array_equal(made.indices(0, 203), made.indices(203, 203))
    sums = [int(lengths[made.indices(step * size, size)].sum()) for step in range(30)]
    random = np.random.default_rng(1).permutation(lengths)[:192].reshape(12, 16).sum(1)
    if size == 16:  # several times more equal than random batches
        assert np.std(sums) < np.std(random) / 3


@pytest.mark.parametrize("parts", [1, 2])
def test_ranks_and_micro_batches_share_a_step(parts, subwords):
    """Together they have the pairs of one rank's batch; the weights add up to the number of parts."""
    sentences = Sentences.encode(PAIRS, subwords)
    alone = list(islice(reader(sentences).train("cpu"), 5))
    shared = [list(islice(reader(sentences, rank=r, ranks=2, parts=parts).train("cpu"), 5 * parts)) for r in range(2)]
    for step, whole in enumerate(alone):
        batches = [batch for rank in shared for batch in rank[step * parts : (step + 1) * parts]]
        assert sorted(number for batch in batches for number in batch.ids) == sorted(whole.ids)
        assert sum(batch.weight for batch in batches) == pytest.approx(2 * parts)
        assert all(batch.weight == pytest.approx(batch.units * 2 * parts / whole.units) for batch in batches)
        tokens = [batch.units + len(batch.source) for batch in batches]
        assert max(tokens) - min(tokens) <= sentences.lengths[list(whole.ids)].max()
    resumed = next(reader(sentences, rank=1, ranks=2, parts=parts).train("cpu", 3))
    assert resumed.ids == shared[1][3 * parts].ids


def test_each_held_out_pair_once_over_the_ranks(subwords):
    sentences = Sentences.encode(PAIRS, subwords)
    found = [batch for rank in range(4) for batch in reader(sentences, rank=rank, ranks=4).evaluate("cpu")]
    assert sorted(number for batch in found for number in batch.ids) == list(range(50))


def test_a_budget_that_is_too_small_names_a_batch_that_fits(subwords):
    sentences = Sentences.encode(PAIRS, subwords)
    largest = max(max(batch.units, len(batch.source)) for batch in islice(reader(sentences).train("cpu"), 6))
    with pytest.raises(UserError, match=r"--max-tokens: must be at least \d+, as the longest sentence has, got 3"):
        reader(sentences, max_tokens=3)
    with pytest.raises(
        UserError, match=rf"--batch-size: must be 31 pairs or fewer .* by --max-tokens {largest - 1}, got"
    ):
        reader(sentences, max_tokens=largest - 1)


def test_long_pairs_and_those_of_only_unknown_words_are_left_out_and_counted():
    rows = [[[5, 6], [7]], [[5] * 9, [7]], [[UNK, UNK], [7]], [[UNK, 5], [UNK]], [[UNK, 5], [8]]]
    sentences = Sentences(*(Side.of(column) for column in zip(*rows, strict=True)))
    kept, too_long, unknown = sentences.without(9)
    assert (len(kept), too_long, unknown) == (2, 1, 2)
    assert kept.target.tokens.tolist() == [7, EOS, 8, EOS]


# -- the sets of a run ------------------------------------------------------------------------------------------------


def text_folder(folder, pairs=PAIRS, test=PAIRS[:20]):
    folder.mkdir(exist_ok=True)
    for name, side in (("train", pairs), ("test", test)):
        for language, lines in zip(("en", "es"), zip(*side, strict=True), strict=True):
            (folder / f"{name}.{language}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder


def opened(folder, **more) -> TranslationSets:
    settings = {"vocab_size": 64, "max_length": 30, "skip_corrupt": False, **more}
    return TranslationSets.open(folder, "en", "es", **settings)


def test_a_folder_of_text_files(tmp_path):
    found = opened(text_folder(tmp_path / "data"))
    assert (len(found.train), len(found.held_out), len(found.subwords)) == (203, 20, 64)
    assert found.held_out_pairs == PAIRS[:20]
    assert found.corrupt == []


def test_what_is_left_out_is_said_and_nothing_of_the_evaluation_is(tmp_path):
    long, strange = Pair("light " * 10_000, "door"), Pair("\u65e5\u672c", "door")
    folder = text_folder(tmp_path / "data", [*PAIRS, long])
    found = opened(folder)
    assert len(found.train) == 203
    assert "left out 1 of 204 training pairs, which have more than 30 subwords (--max-length)" in found.notes
    text_folder(folder, PAIRS, [*PAIRS[:20], strange])
    found = opened(folder)
    assert len(found.held_out) == 21
    assert any(note.endswith("subwords of the held-out pairs are unknown") for note in found.notes)
    text_folder(folder, PAIRS, [PAIRS[0], long])
    with pytest.raises(UserError, match=r"test.en and test.es, sentence 2: must be at most --max-length 30 subwords"):
        opened(folder)
    with pytest.raises(UserError, match=r"train.de: must be a text file with a sentence a line, got no file"):
        TranslationSets.open(folder, "de", "en", vocab_size=64, max_length=30, skip_corrupt=False)
