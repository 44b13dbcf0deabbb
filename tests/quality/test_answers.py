"""Exact match and F1 of answers, and the choice of a span, against their definitions written out."""

from __future__ import annotations

import json

import numpy as np
import pytest
import squad_files
import torch

from airank_fast.data.text import answer_windows, squad
from airank_fast.data.text.answer_windows import Sizes, lay_out
from airank_fast.engine.distributed import World
from airank_fast.quality.answers import MOST_TOKENS, NUM_BEST, AnswerQuality, best_spans, exact_match, f1, normalised

ALONE = World(0, 1, 0, 1, torch.device("cpu"))
SIZES = Sizes(sequence=40, question=8, stride=7)


@pytest.mark.parametrize(
    ("predicted", "answers", "same", "overlap"),
    [
        ("the Eiffel Tower", ["Eiffel tower!"], 1, 1),
        ("Eiffel", ["the Eiffel Tower"], 0, 2 / 3),
        ("in Paris, in 1889", ["in in 1889"], 0, 2 * 3 / (4 + 3)),
        ("Tower Eiffel", ["Eiffel Tower"], 0, 1),
        ("1889", ["1887", "in 1889"], 0, 2 / 3),
        ("", ["Paris"], 0, 0),
        ("a", ["the"], 1, 0),  # no word is left, of which evaluate-v1.1.py makes 0
    ],
)
def test_an_answer_is_judged_by_its_words(predicted, answers, same, overlap):
    assert exact_match(predicted, answers) == same
    assert f1(predicted, answers) == pytest.approx(overlap)


def test_what_counts_as_a_word():
    assert normalised("An  apple, a day; “ham”—U.S.") == ["apple", "day", "“ham”—us"]
    assert normalised("theatre another") == ["theatre", "another"]


@pytest.fixture(scope="module")
def set_of_windows(tmp_path_factory):
    """(windows, questions) of one long paragraph of nine sentences, and of three short ones."""
    folder = squad_files.write(tmp_path_factory.mktemp("squad"), num_train=1, num_dev=12)
    content = json.loads((folder / squad.DEV).read_text(encoding="utf-8"))
    paragraphs = content["data"][0]["paragraphs"]
    text, qas = "", []
    for paragraph in paragraphs[3:]:
        for qa in paragraph["qas"]:
            qa["answers"][0]["answer_start"] += len(text)
            qas.append(qa)
        text += paragraph["context"] + " "
    content["data"][0]["paragraphs"] = [*paragraphs[:3], {"context": text, "qas": qas}]
    (folder / squad.DEV).write_text(json.dumps(content), encoding="utf-8")
    path = folder / squad.DEV
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        return answer_windows.cached_windows(path, folder / squad.VOCABULARY, SIZES), squad.read_questions(path)


def scores_of(windows, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(len(windows), SIZES.sequence, 2)).astype(np.float32)


def best_by_hand(scores, windows, window):
    """(score, begin, end) by trying all pairs of the best 20."""
    length, offset = windows.lengths[window], windows.offsets[window]
    tokens = range(windows.paragraph[window], length - 1)
    places = [sorted(range(length), key=lambda k: -scores[window, k, side])[:NUM_BEST] for side in (0, 1)]
    pairs = [
        (scores[window, i, 0] + scores[window, j, 1], windows.chars[offset + i, 0], windows.chars[offset + j, 1])
        for i in places[0]
        for j in places[1]
        if i in tokens and j in tokens and i <= j < i + MOST_TOKENS and windows.decides[offset + i]
    ]
    return max(pairs, default=(-np.inf, 0, 0))


def test_the_best_span_of_a_window(set_of_windows):
    windows, _ = set_of_windows
    scores, indices = scores_of(windows), np.arange(len(windows))
    found = best_spans(scores, windows, indices)
    expected = [best_by_hand(scores, windows, window) for window in indices]
    np.testing.assert_allclose(found.score, [each[0] for each in expected], rtol=1e-6)
    for window, (score, begin, end) in enumerate(expected):
        if score > -np.inf:
            assert (found.begin[window], found.end[window]) == (begin, end)


def test_the_question_and_an_end_before_the_beginning_are_no_span(set_of_windows):
    windows, _ = set_of_windows
    scores = scores_of(windows)
    last = windows.lengths[0] - 2
    scores[0, :, :] = -1
    scores[0, : windows.paragraph[0], :] = 5  # the question
    scores[0, last, 0], scores[0, windows.paragraph[0], 1] = 9, 9  # an end before the beginning
    narrow = best_spans(scores[:1, :], windows, np.array([0]))
    assert narrow.score[0] == best_by_hand(scores, windows, 0)[0]


def test_a_question_is_answered_by_its_best_window(set_of_windows):
    windows, texts = set_of_windows
    scores = scores_of(windows) / 10
    for window in range(len(windows)):
        if windows.first[window]:
            scores[window, windows.first[window], 0] += 9
            scores[window, windows.last[window], 1] += 9
    meter = AnswerQuality(windows, lambda: texts, SIZES.sequence)
    found = meter.answers(scores, np.arange(len(windows)))
    assert found == {number: question.answers[0].text for number, question in enumerate(texts.questions)}
    (own,) = np.nonzero(windows.question == windows.question.max())
    scores[own] *= -1
    values = meter.compute({"scores": scores, "sample": np.arange(len(windows))})
    assert values["exact_match"] == pytest.approx(1 - 1 / len(texts.questions))
    assert meter.results == [int(window not in own) for window in range(len(windows))]


@pytest.mark.parametrize("size", [1, 3, 64])
def test_the_values_are_the_same_in_any_batches(set_of_windows, size):
    windows, texts = set_of_windows
    scores, meter = scores_of(windows, 1), AnswerQuality(windows, lambda: texts, SIZES.sequence)
    for first in reversed(range(0, len(windows), size)):
        lengths, arrays = lay_out(windows, np.arange(first, min(first + size, len(windows))))
        outputs = np.concatenate([scores[k, :n] for k, n in zip(arrays["samples"], lengths, strict=True)])
        batch = type("Batch", (), {"lengths": lengths, "samples": torch.from_numpy(arrays["samples"])})
        meter.update(torch.from_numpy(outputs), batch)
    whole = AnswerQuality(windows, lambda: texts, SIZES.sequence)
    assert meter.values(ALONE) == whole.compute({"scores": scores, "sample": np.arange(len(windows))})
