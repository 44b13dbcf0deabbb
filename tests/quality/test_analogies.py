"""Analogies by AI-Rank's rule and by the usual one: against both definitions, and against gensim where it is there."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from airank_fast.data.text import analogies, word_vectors
from airank_fast.engine.distributed import World
from airank_fast.errors import UserError
from airank_fast.quality.analogies import Analogies, answer

ALONE = World(0, 1, 0, 1, torch.device("cpu"))
NUM_PAIRS, DIM, RESTRICT = 30, 8, 100
WORDS = [f"Left{n}" for n in range(NUM_PAIRS)] + [f"right{n}" for n in range(NUM_PAIRS)]
WORDS += [f"LEFT{n}" for n in range(NUM_PAIRS)] + [f"other{n}" for n in range(NUM_PAIRS)]


def vectors() -> np.ndarray:
    """Words of a pair differ by nearly the same vector; a third of the words is a second spelling, elsewhere."""
    raw = np.random.Philox(7).random_raw(len(WORDS) * DIM).reshape(len(WORDS), DIM)
    noise = (raw >> np.uint64(11)) * 2.0**-52 - 1
    found = noise.copy()
    found[NUM_PAIRS : 2 * NUM_PAIRS] = found[:NUM_PAIRS] + np.arange(DIM) / 5 + noise[NUM_PAIRS : 2 * NUM_PAIRS] / 3
    found[2 * NUM_PAIRS : 3 * NUM_PAIRS] = found[:NUM_PAIRS] + 0.05
    return found.astype(np.float32)


def questions() -> str:
    """Two sections; words of other cases, words of rank above RESTRICT, and unknown ones are among them."""
    lines = [": family"]
    lines += [f"left{a} RIGHT{a} Left{b} right{b}" for a in range(8) for b in range(8, 14)]
    lines += [": others", "left1 right1 Oslo right2", "left1 right1 other25 right2", "left1 right1 left2 Norway"]
    lines += [f"right{a} left{a} right{b} left{b}" for a in range(5) for b in range(5, 20, 3)]
    return "\n".join(lines)


def measured(words=WORDS, table=None, batch_size=1000, text=None):
    """(values, by_section, counts) of the meter."""
    table = torch.from_numpy(vectors() if table is None else table)
    asked = analogies.parse((text or questions()).encode(), "questions")
    first = analogies.first_of_each(words)
    numbers = torch.from_numpy(analogies.numbers(asked, first))
    same = torch.tensor([first[word.lower()] for word in words])
    meter = Analogies(asked.sections)
    for begin in range(0, len(numbers), batch_size):
        part = slice(begin, begin + batch_size)
        found = answer(table, numbers[part], same, unknown=analogies.unknown_word(first), restrict=RESTRICT)
        meter.update(found, SimpleNamespace(section=torch.from_numpy(asked.section[part])))
    return meter.values(ALONE), meter.by_section, meter.counts


def by_definition(words, table, text):
    """{rule: {section: (right, counted)}}, question by question."""
    table = table.astype(np.float64)
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    lower = [word.lower() for word in words]
    found = {"airank": {}, "usual": {}}
    for line in text.splitlines():
        if line.startswith(":"):
            section = line[2:]
            found["airank"][section] = found["usual"][section] = (0, 0)
            continue
        asked = line.lower().split()
        ids = [lower.index(word) if word in lower else -1 for word in asked]
        right = {"airank": False, "usual": False}
        if min(ids) >= 0:
            order = np.argsort(-(unit @ (unit[ids[1]] - unit[ids[0]] + unit[ids[2]])))
            remaining = [number for number in order[:4] if number not in ids[:3]]
            right["airank"] = bool(remaining) and remaining[0] == ids[3]
            usual = next(lower[number] for number in order if number < RESTRICT and lower[number] not in asked[:3])
            right["usual"] = usual == asked[3]
        for rule in found:
            if rule == "airank" or 0 <= min(ids) <= max(ids) < RESTRICT:
                before = found[rule][section]
                found[rule][section] = before[0] + right[rule], before[1] + 1
    return found


def test_both_rules_are_their_definitions():
    values, by_section, counts = measured()
    assert by_section == by_definition(WORDS, vectors(), questions())
    assert by_section == {
        "airank": {"family": (25, 48), "others": (1, 28)},
        "usual": {"family": (46, 48), "others": (4, 25)},
    }
    assert counts == {"correct": 26, "counted": 76}
    assert values == {
        "analogy_accuracy": 26 / 76,
        "usual_accuracy": 50 / 73,
        "family_accuracy": 46 / 48,
        "usual_accuracy/family": 46 / 48,
        "usual_accuracy/others": 4 / 25,
    }


def test_the_usual_rule_is_gensim_s(tmp_path):
    keyed = pytest.importorskip("gensim.models").KeyedVectors
    word_vectors.write(tmp_path / "vectors.bin", WORDS, vectors())
    (tmp_path / "questions.txt").write_text(questions())
    theirs = keyed.load_word2vec_format(str(tmp_path / "vectors.bin"), binary=True)
    assert np.array_equal(theirs.vectors, vectors())
    _, sections = theirs.evaluate_word_analogies(str(tmp_path / "questions.txt"), restrict_vocab=RESTRICT)
    found = {
        each["section"]: (len(each["correct"]), len(each["correct"]) + len(each["incorrect"])) for each in sections
    }
    total = found.pop("Total accuracy")
    _, by_section, _ = measured()
    assert by_section["usual"] == found
    assert total == tuple(map(sum, zip(*found.values(), strict=True)))


@pytest.mark.parametrize("batch_size", [1, 7])
def test_any_batches_give_the_same(batch_size):
    assert measured(batch_size=batch_size) == measured()


def test_an_unknown_word_is_that_of_unk_for_airank_alone():
    """The question is answered by <UNK>'s vector, and no question with it counts for the usual rule."""
    table = vectors()
    table[NUM_PAIRS + 1] = table[1] + 3
    table = np.concatenate([table, table[NUM_PAIRS + 2 : NUM_PAIRS + 3] + 1e-3])
    text = ": a\nleft1 right1 left2 nowhere\nleft3 right3 left4 right4"
    _, without, _ = measured(table=table[:-1], text=text)
    _, by_section, counts = measured([*WORDS, "<UNK>"], table, text=text)
    assert without["airank"]["a"][1] == by_section["airank"]["a"][1] == counts["counted"] == 2
    assert by_section["usual"]["a"] == without["usual"]["a"]
    assert by_section["usual"]["a"][1] == 1
    gained = by_section["airank"]["a"][0] - without["airank"]["a"][0]
    nearest = answer(
        torch.from_numpy(table),
        torch.tensor([[1, NUM_PAIRS + 1, 2, -1]]),
        torch.arange(len(table)),
        unknown=len(table) - 1,
        restrict=RESTRICT,
    )
    assert gained == int(nearest.airank)


def test_without_a_section_family_there_is_no_value_of_it():
    values, _, _ = measured(text=": others\nleft1 right1 left2 right2")
    assert set(values) == {"analogy_accuracy", "usual_accuracy", "usual_accuracy/others"}


def test_questions_of_unknown_words_alone():
    with pytest.raises(UserError, match="analogy questions: must be with words of the vocabulary, got none"):
        measured(text=": a\nAthens Greece Oslo Norway")
