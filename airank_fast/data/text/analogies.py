"""Analogy questions, "Athens is to Greece as Oslo is to ...", in the form of word2vec's questions-words.txt.

`: SECTION` begins a section; a question is a line of four words, the last of which is the answer. The file that comes
with the package, `questions-words.txt.xz`, is word2vec's own: 19,544 questions in 14 sections (T. Mikolov et al.,
"Efficient Estimation of Word Representations in Vector Space", 2013). It has no notice of its own; the source files
beside it in word2vec, such as compute-accuracy.c, which reads it, are "Copyright 2013 Google Inc.", Apache License 2.0.
`python -m airank_fast.sources.questions_words` makes it.
"""

from __future__ import annotations

import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from airank_fast.errors import UserError, require

FILE = Path(__file__).with_name("questions-words.txt.xz")
UNKNOWN = ("<unk>", "unk")
"""Spellings, in lower case, of the word that stands for those which the vocabulary lacks."""


class Questions(NamedTuple):
    """sections: their names. section: int64 [q], of each question. words: its four words, in lower case."""

    sections: tuple[str, ...]
    section: np.ndarray
    words: list[tuple[str, ...]]


def embedded() -> Questions:
    """word2vec's own questions."""
    return parse(lzma.decompress(FILE.read_bytes()), "questions-words.txt")


def read(path: Path) -> Questions:
    """The questions of a file; UserError for one that is missing or not of this form."""
    require(path.is_file(), str(path), "a file of analogy questions", "a directory" if path.is_dir() else "no file")
    return parse(path.read_bytes(), str(path))


def parse(content: bytes, name: str) -> Questions:
    """The questions of the bytes of a file, in UTF-8 with LF or CRLF; empty lines count for nothing.

    UserError under `name`, with the number of the line, for a line of other than four words, a question before the
    first section, and bytes that are not UTF-8; and for a file without a question.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{name}, line {number}: must be UTF-8, got byte 0x{content[error.start]:02X}") from None
    sections: dict[str, int] = {}
    section, words, last = [], [], -1
    for number, line in enumerate(text.split("\n"), 1):
        parts = line.lower().split()
        if parts and parts[0].startswith(":"):
            last = sections.setdefault(line.strip().removeprefix(":").strip(), len(sections))
        elif parts:
            where = f"{name}, line {number}"
            require(len(parts) == 4, where, "a question of four words, or a section ': NAME'", f"{len(parts)} words")
            require(last >= 0, where, "in a section, which begins with a line ': NAME'", "a question before the first")
            section.append(last)
            words.append(tuple(parts))
    require(words, name, "a file of analogy questions, each a line of four words", "none")
    return Questions(tuple(sections), np.array(section, np.int64), words)


def first_of_each(words: Sequence[str]) -> dict[str, int]:
    """For each word of a vocabulary, in lower case, the number of its first spelling, which is the most frequent."""
    found: dict[str, int] = {}
    for number, word in enumerate(words):
        found.setdefault(word.lower(), number)
    return found


def numbers(questions: Questions, first: dict[str, int]) -> np.ndarray:
    """The words of the questions by their numbers in a vocabulary: int64 [q, 4], -1 for one that it lacks."""
    found = [[first.get(word, -1) for word in words] for words in questions.words]
    return np.array(found, np.int64).reshape(-1, 4)


def unknown_word(first: dict[str, int]) -> int:
    """The number of the word that stands for unknown ones, <UNK>; -1 where the vocabulary has none."""
    return next((first[word] for word in UNKNOWN if word in first), -1)
