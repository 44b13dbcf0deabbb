"""Questions in SQuAD's form, and their windows: what BERT reads, where the answer is, which window decides."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
import squad_files
import torch

from airank_fast.data.sampling import TrainStream
from airank_fast.data.text import answer_windows, squad
from airank_fast.data.text.answer_windows import Sizes, WindowBatch, WindowReader
from airank_fast.data.text.wordpiece import Tokenizer
from airank_fast.errors import UserError

SIZES = Sizes(sequence=24, question=8, stride=5)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def long_file(path, num_sentences=9):
    """One paragraph of several sentences; each answer stands in it once more or less."""
    content = squad_files.content(num_sentences, seed=3)
    paragraphs = content["data"][0]["paragraphs"]
    text, qas = "", []
    for paragraph in paragraphs:
        for qa in paragraph["qas"]:
            (answer,) = qa["answers"]
            moved = {"text": answer["text"], "answer_start": answer["answer_start"] + len(text)}
            qas.append({**qa, "answers": [moved]})
        text += paragraph["context"] + " "
    content["data"][0]["paragraphs"] = [{"context": text, "qas": qas}]
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path):
    return squad_files.write(tmp_path / "squad", num_train=10, num_dev=5)


def windows_of(folder, path=None, sizes=SIZES):
    return answer_windows.cached_windows(path or folder / squad.DEV, folder / squad.VOCABULARY, sizes)


def test_a_window_is_the_question_and_a_part_of_the_paragraph(folder):
    path = long_file(folder / "long.json")
    texts, windows = squad.read_questions(path), windows_of(folder, path)
    tokens = squad_files.vocabulary()
    tokenizer = Tokenizer(tokens, lowercase=True)
    paragraph = next(tokenizer.encode(texts.paragraphs))
    asked = [ids[: SIZES.question] for ids in tokenizer.encode([question.text for question in texts.questions])]
    assert windows.lengths.max() == SIZES.sequence
    assert len(windows) > 3 * len(texts.questions)
    for number, ids in enumerate(asked):
        (own,) = np.nonzero(windows.question == number)
        parts = []
        for window in own:
            begin, end = windows.offsets[window : window + 2]
            row, start = windows.input_ids[begin:end].tolist(), windows.paragraph[window]
            assert row[:start] == [tokenizer.cls, *ids, tokenizer.sep]
            assert row[-1] == tokenizer.sep
            assert not windows.chars[begin : begin + start].any()
            parts.append(row[start:-1])
        room = SIZES.sequence - len(ids) - 3
        begins = range(0, len(own) * SIZES.stride, SIZES.stride)
        assert parts == [paragraph[begin : begin + room] for begin in begins]
        assert begins[-2] + room < len(paragraph) <= begins[-1] + room


def test_every_token_of_a_paragraph_is_decided_by_one_window_the_one_with_most_around_it(folder):
    windows = windows_of(folder, long_file(folder / "long.json"))
    for number in range(windows.question.max() + 1):
        found: dict[tuple[int, int], list[tuple[int, bool]]] = {}
        for window in np.flatnonzero(windows.question == number):
            begin, end = windows.offsets[window : window + 2]
            first = begin + windows.paragraph[window]
            assert not windows.decides[begin:first].any()
            assert not windows.decides[end - 1]
            for place in range(first, end - 1):
                around = min(place - first, end - 2 - place)
                found.setdefault(tuple(windows.chars[place]), []).append((around, bool(windows.decides[place])))
        for seen in found.values():
            assert [decides for _, decides in seen].count(True) == 1
            assert next(around for around, decides in seen if decides) == max(around for around, _ in seen)


def test_the_answer_is_between_its_first_and_last_token_or_the_window_does_not_have_it_whole(folder):
    path = long_file(folder / "long.json")
    texts, windows, whole = squad.read_questions(path), windows_of(folder, path), 0
    for window, (begin, end) in enumerate(pairwise(windows.offsets)):
        (answer,) = texts.questions[windows.question[window]].answers
        first, last = windows.first[window], windows.last[window]
        chars = windows.chars[begin:end]
        if first:
            assert texts.paragraphs[0][chars[first, 0] : chars[last, 1]] == answer.text
            whole += 1
        else:
            assert last == 0
            seen = chars[windows.paragraph[window] : -1]
            assert answer.start < seen[0, 0] or seen[-1, 1] < answer.start + len(answer.text)
    assert whole >= len(texts.questions)


def test_a_part_of_a_word_is_answered_by_the_word(tmp_path, folder):
    content = {"id": "a", "question": "Who?", "answers": [{"text": "cme", "answer_start": 1}]}
    path = tmp_path / "part.json"
    path.write_text(json.dumps({"data": [{"paragraphs": [{"context": "Acme in Rome", "qas": [content]}]}]}))
    windows = windows_of(folder, path)
    assert windows.chars[windows.first[0]].tolist() == [0, 4]


def test_windows_are_kept_and_follow_what_they_are_made_of(folder, monkeypatch):
    first = windows_of(folder)
    with monkeypatch.context() as patch:
        patch.setattr(answer_windows, "read_questions", None)
        again = windows_of(folder)
        assert isinstance(again.input_ids, np.memmap)
        assert all(np.array_equal(getattr(again, name), getattr(first, name)) for name in vars(first))
        with pytest.raises(TypeError):
            windows_of(folder, sizes=Sizes(24, 8, 6))
    vocabulary = folder / squad.VOCABULARY
    vocabulary.write_text(vocabulary.read_text().replace("\ncompany\n", "\nfirm\n"))
    assert len(windows_of(folder).input_ids) != len(first.input_ids)


def test_batches_have_short_windows_first_and_merge(folder):
    windows = windows_of(folder)
    stream = TrainStream(len(windows), 1, batch_size_local=4, global_batch_size=4, rank=0, world_size=1)
    reader = WindowReader(windows, windows, stream, eval_batch_size=4, rank=0, world_size=1)
    batches = list(reader.evaluate("cpu"))
    assert sorted(torch.cat([batch.samples for batch in batches]).tolist()) == list(range(len(windows)))
    for batch in batches:
        assert batch.lengths == sorted(batch.lengths) == windows.lengths[batch.samples].tolist()
        ends = np.cumsum(batch.lengths)
        assert batch.offsets.tolist() == [0, *ends]
        assert batch.position_ids[batch.offsets[:-1]].eq(0).all()
    singles = list(reader.samples(batches[0].samples.tolist(), "cpu"))
    merged, whole = WindowBatch.merged(singles), batches[0]
    assert merged.lengths == whole.lengths
    for name, tensor in whole.tensors().items():
        assert torch.equal(getattr(merged, name), tensor), name
    first = next(reader.train("cpu", 3))
    later = reader.train("cpu")
    assert torch.equal([next(later) for _ in range(4)][-1].samples, first.samples)


def damaged(change):
    content = squad_files.content(2, seed=4)
    change(content)
    return json.dumps(content)


def in_first(name, value, place=("data", 0, "paragraphs", 0)):
    def change(content):
        holder = content
        for step in place:
            holder = holder[step]
        holder[name] = value

    return damaged(change)


FIRST = ("data", 0, "paragraphs", 0, "qas", 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "must be JSON in UTF-8, got Expecting"),
        ("[]", "must be an object with data, got list"),
        ("{}", "data: must be a list, got none"),
        ('{"data": []}', "must be a file with a question, got none"),
        ('{"data": [{}]}', "article 1: paragraphs: must be a list, got none"),
        (in_first("context", " "), "paragraph 1: context: must be text, got ' '"),
        (in_first("context", None), "paragraph 1: context: must be a str, got none"),
        (in_first("qas", {}), "paragraph 1: qas: must be a list, got dict"),
        (in_first("question", 5, FIRST), "question '4-0-0': question: must be a str, got int"),
        (in_first("id", "4-1-0", FIRST), "paragraph 2: must be questions of different ids, got '4-1-0' twice"),
        (in_first("answers", [], FIRST), "must be an answer, as in SQuAD 1.1, got none"),
        (in_first("text", "Oslo", (*FIRST, "answers", 0)), "must be an answer that stands at answer_start"),
        (in_first("answer_start", -1, (*FIRST, "answers", 0)), "at answer_start -1, '', got"),
        (in_first("answer_start", True, (*FIRST, "answers", 0)), "answer_start: must be a int, got bool"),
        (in_first("text", "", (*FIRST, "answers", 0)), "must be an answer that stands at"),
    ],
)
def test_a_bad_file_is_named_in_one_line(tmp_path, text, message):
    path = tmp_path / "bad.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        squad.read_questions(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path, folder):
    (tmp_path / "latin.json").write_bytes('{"data": "é"}'.encode("latin-1"))
    with pytest.raises(UserError, match="must be JSON in UTF-8"):
        squad.read_questions(tmp_path / "latin.json")
    with pytest.raises(UserError, match=r"none\.json: must be a file, got no such file"):
        windows_of(folder, tmp_path / "none.json")
    (folder / squad.VOCABULARY).write_text("[PAD]\n[UNK]\n")
    with pytest.raises(UserError, match=r"WordPiece vocabulary with .*\[MASK\]"):
        windows_of(folder)


def test_an_answer_without_a_token_is_named(tmp_path, folder):
    content = {"id": "a", "question": "Who?", "answers": [{"text": "\u200b", "answer_start": 4}]}
    path = tmp_path / "blank.json"
    path.write_text(json.dumps({"data": [{"paragraphs": [{"context": "Acme\u200b in Rome", "qas": [content]}]}]}))
    with pytest.raises(UserError, match="question 'a': must be an answer with a token"):
        windows_of(folder, path)
