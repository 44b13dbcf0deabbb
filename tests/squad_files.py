"""A small directory in SQuAD's form: companies, when and where they were founded, and by whom."""

from __future__ import annotations

import json
import random
import tempfile
from functools import cache
from pathlib import Path

from airank_fast.data.text.wordpiece import SPECIAL_TOKENS

NAMES = ["Acme", "Borel", "Cantor", "Delta", "Euler", "Fermi", "Gauss", "Hertz"]
PLACES = ["Paris", "Rome", "New York", "São Paulo", "Kyoto", "Accra"]
PEOPLE = ["Ada", "Émile", "Grace", "Alan", "Sofia", "Niels"]
WORDS = ["the", "was", "founded", "in", "by", "company", "when", "where", "who", ",", ".", "?", "new", "york"]


def sentence(rng: random.Random) -> tuple[str, dict[str, str]]:
    """A sentence, and the answers to the questions about it."""
    facts = {
        "When was {} founded?": str(rng.randint(1900, 1999)),
        "Where was {} founded?": rng.choice(PLACES),
        "Who founded {}?": rng.choice(PEOPLE),
    }
    year, place, person = facts.values()
    name = rng.choice(NAMES)
    text = rng.choice(
        (
            f"{name} was founded in {year} in {place} by {person}.",
            f"In {year}, {person} founded the company {name} in {place}.",
        )
    )
    return text, {question.format(name): answer for question, answer in facts.items()}


def content(num_paragraphs: int, seed: int) -> dict:
    """The content of a file: paragraphs of a sentence, with three questions each."""
    rng, paragraphs = random.Random(seed), []
    for number in range(num_paragraphs):
        text, facts = sentence(rng)
        qas = [
            {
                "id": f"{seed}-{number}-{place}",
                "question": question,
                "answers": [{"text": answer, "answer_start": text.index(answer)}],
            }
            for place, (question, answer) in enumerate(facts.items())
        ]
        paragraphs.append({"context": text, "qas": qas})
    return {"version": "1.1", "data": [{"title": "Companies", "paragraphs": paragraphs}]}


def vocabulary() -> list[str]:
    """Words of the sentences, digits and letters; what is written with an accent is read without."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)] + [str(digit) for digit in range(10)]
    words = [*WORDS, *(name.lower() for name in (*NAMES, "Paris", "Rome", "Kyoto", "Accra", "Sao", "Paulo"))]
    words += ["ada", "emile", "grace", "alan", "sofia", "niels", "19"]
    return list(dict.fromkeys((*SPECIAL_TOKENS, *words, *letters, *(f"##{letter}" for letter in letters))))


def write(root: Path, *, num_train: int = 100, num_dev: int = 20) -> Path:
    """train-v1.1.json, dev-v1.1.json and vocab.txt in a directory, which is returned."""
    root.mkdir(parents=True, exist_ok=True)
    for name, number, seed in (("train", num_train, 1), ("dev", num_dev, 2)):
        text = json.dumps(content(number, seed), ensure_ascii=False)
        (root / f"{name}-v1.1.json").write_text(text, encoding="utf-8")
    (root / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary()), encoding="utf-8")
    return root


@cache
def folder() -> Path:
    """Such a directory, for all tests of a process."""
    return write(Path(tempfile.mkdtemp(prefix="squad-")))


def options(data: Path) -> list[str]:
    """The options that the files require of a command."""
    sizes = ["--sequence-length", "48", "--question-length", "12", "--stride", "16"]
    return ["--data", str(data), "--vocab-size", str(len(vocabulary())), *sizes]
