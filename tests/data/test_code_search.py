"""Docstrings and functions of Python's library: what a pair is, and which side it is on."""

from __future__ import annotations

import ast

import pytest

from airank_fast.data.text import code_search, pydoc
from airank_fast.errors import UserError

MODULE = '''
"""A module."""
def plain(first, /, other, *rest, key=1, **more):
    """Return the plain thing.  More words
    follow here."""
    def inner():
        """Says what the
        inner function does

        And more."""
class Widget:
    """A class has no pair of its own."""
    async def drawNow(self, windowId):
        """Draw `windowId` at once! Then return."""
    @classmethod
    def short(cls):
        """Two words."""
    def none(self): ...
'''


def test_the_pairs_of_a_module():
    found = list(code_search.pairs_of(ast.parse(MODULE), "a.b"))
    assert [(each.sentence, each.query, each.document) for each in found] == [
        (0, "Return the plain thing.", "a.b plain first other rest key more"),
        (1, "More words follow here.", "a.b plain first other rest key more"),
        (0, "Says what the inner function does", "a.b plain.inner"),
        (0, "Draw `window Id` at once!", "a.b Widget.draw Now window Id"),
    ]
    assert {each.module for each in found} == {"a.b"}


def test_whole_modules_are_held_out(monkeypatch):
    train, held_out, source = code_search.load()
    assert source.startswith(code_search.NAME)
    assert len(train) > 4000
    assert 300 < len(held_out) < len(train) / 4
    assert {each.sentence for each in train} == {0, 1, 2}
    assert {each.sentence for each in held_out} == {0}
    assert not {each.module for each in train} & {each.module for each in held_out}
    queries = [each.query for each in train + held_out]
    assert len(queries) == len(set(queries))
    monkeypatch.setattr(code_search, "pairs", lambda: pytest.fail("gathered again"))
    assert code_search.load() == (train, held_out, source)


def test_a_python_without_sources_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pydoc, "library", lambda: tmp_path)
    (tmp_path / "module.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("def f(:")
    with pytest.raises(UserError, match=r"embedded text: must have the standard library's sources .* got 4 sentences"):
        code_search.load(tmp_path / "cache")
