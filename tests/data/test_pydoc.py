"""The text that comes with Python: gathered, split, tokenised and cached."""

from __future__ import annotations

import numpy as np
import pytest

from airank_fast.data.text import pydoc
from airank_fast.errors import UserError


@pytest.fixture(scope="module")
def topics():
    from pydoc_data.topics import topics

    return list(topics.values())


def test_docstrings_of_a_file(tmp_path):
    path = tmp_path / "module.py"
    long = "What this does, in a sentence that is long enough."
    path.write_text(f'"""{long}"""\ndef f():\n    """short"""\nclass A:\n    """Another {long}"""\n')
    assert pydoc._docstrings(path) == [long, f"Another {long}"]
    path.write_text("def f(:\n")
    assert pydoc._docstrings(path) == []


def test_documents_are_many_and_distinct():
    texts = pydoc.documents()
    assert len(texts) > 300
    assert sum(map(len, texts)) > 1_500_000
    lines = [line for text in texts for line in text.split("\n")]
    assert len(lines) == len(set(lines))
    train, held_out = pydoc.split(texts)
    assert 0.02 < len(held_out) / len(texts) < 0.1
    assert not set(train) & set(held_out)
    assert pydoc.split(texts[5:])[1] == [text for text in held_out if text in texts[5:]]


def test_the_text_is_tokenised_once_and_read_again(tmp_path, topics, monkeypatch):
    monkeypatch.setattr(pydoc, "documents", lambda: topics)
    text = pydoc.load(tmp_path)
    assert text.vocab[:5] == pydoc.SPECIAL_TOKENS
    assert len(text.vocab) == pydoc.VOCAB_SIZE
    assert len(text.train) > 10 * len(text.held_out) > 1000
    assert (text.train == 3).sum() + (text.held_out == 3).sum() == len(topics)
    assert max(text.train.max(), text.held_out.max()) < pydoc.VOCAB_SIZE
    monkeypatch.setattr(pydoc, "documents", lambda: pytest.fail("gathered again"))
    again = pydoc.load(tmp_path)
    assert np.array_equal(again.train, text.train)
    assert again.checksum() == text.checksum()
    assert [path.name for path in tmp_path.iterdir()] == [next(tmp_path.iterdir()).name]


def test_a_cache_that_cannot_be_written(tmp_path, topics, monkeypatch):
    monkeypatch.setattr(pydoc, "documents", lambda: topics[:50])
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UserError, match=r"embedded text: must have a writable .*file.*"):
        pydoc.load(blocked)
