"""SQuAD 1.1: questions about paragraphs, whose answers are spans of them.

    texts = read_questions(path)    # train-v1.1.json or dev-v1.1.json, as published; answer_windows makes samples of it

Source: Rajpurkar et al., SQuAD: 100,000+ Questions for Machine Comprehension of Text (2016).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from airank_fast.errors import UserError, require

TRAIN, DEV, VOCABULARY = "train-v1.1.json", "dev-v1.1.json", "vocab.txt"


class Answer(NamedTuple):
    """A span of a paragraph: its text, and the place of its first character."""

    text: str
    start: int


class Question(NamedTuple):
    """A question about the paragraph with this number, and the answers that people gave, at least one."""

    name: str
    text: str
    paragraph: int
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Questions:
    """The content of a file, in its order."""

    paragraphs: list[str]
    questions: list[Question]


def read_questions(path: Path) -> Questions:
    """The paragraphs and questions of a file in SQuAD's form.

    UserError for a file that cannot be read, is no JSON or lacks a field; a question without an answer, as SQuAD 2.0
    has them; an answer that does not stand where the file says; two questions of one id; and a file without a question.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: must be a file of questions in SQuAD's form, got {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: must be JSON in UTF-8, got {error}") from None
    found, names = Questions([], []), set()
    for number, paragraph in enumerate(_paragraphs(content, path), 1):
        where = f"{path}, paragraph {number}"
        text = _field(paragraph, "context", str, where)
        require(text.strip(), f"{where}: context", "text", repr(text[:20]))
        found.paragraphs.append(text)
        for qa in _field(paragraph, "qas", list, where):
            question = _question(qa, text, len(found.paragraphs) - 1, where)
            require(question.name not in names, where, "questions of different ids", f"{question.name!r} twice")
            names.add(question.name)
            found.questions.append(question)
    require(found.questions, str(path), "a file with a question", "none")
    return found


def _paragraphs(content: Any, path: Path) -> Iterator[Mapping[str, Any]]:
    for number, article in enumerate(_field(content, "data", list, str(path)), 1):
        yield from _field(article, "paragraphs", list, f"{path}, article {number}")


def _question(qa: Any, context: str, paragraph: int, where: str) -> Question:
    name = _field(qa, "id", str, where)
    where = f"{where}, question {name!r}"
    text = _field(qa, "question", str, where)
    answers = []
    for each in _field(qa, "answers", list, where):
        answer = Answer(_field(each, "text", str, where), _field(each, "answer_start", int, where))
        stands = context[answer.start :][: len(answer.text)] if answer.start >= 0 else ""
        what = f"an answer that stands at answer_start {answer.start}, {stands[:40]!r}"
        require(answer.text.strip() and stands == answer.text, where, what, repr(answer.text[:40]))
        answers.append(answer)
    require(answers, where, "an answer, as in SQuAD 1.1", "none")
    return Question(name, text, paragraph, tuple(answers))


def _field(holder: Any, name: str, kind: type, where: str) -> Any:
    require(isinstance(holder, dict), where, f"an object with {name}", type(holder).__name__)
    value = holder.get(name)
    is_kind = isinstance(value, kind) and not isinstance(value, bool)
    require(is_kind, f"{where}: {name}", f"a {kind.__name__}", "none" if value is None else type(value).__name__)
    return value
