"""Code search in Python's own library: a docstring's first sentence is the query, its function the document.

Every CPython has these 6,000 pairs; `ast` finds them in the library's files. A document is the function's module, its
qualified name and the names of its arguments, in words: `getOptionalRelease` is `get Optional Release`. Whole modules
are held out, about one in eight, so that the names of a module are all on one side.
"""

from __future__ import annotations

import ast
import json
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from airank_fast.data import sampling
from airank_fast.data.cache import made_once
from airank_fast.data.text import pydoc
from airank_fast.errors import UserError

NAME = "docstrings and functions of Python's library"
_FILE, _FORMAT = "pairs.json", 1  # a change of the pairs needs another number
_FEWEST, _MOST = 3, 40  # words of a query
_LEAST_PAIRS = 1000
_SENTENCES = 3  # of a docstring
_HOLD_OUT = 8  # one module in eight
_SENTENCE_END = re.compile(r"(?<=[.!?])\s|\n\s*\n")
_CAMEL_CASE = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class Pair(NamedTuple):
    """A sentence of a docstring, 0 for its first one, and its function, which is in a module."""

    module: str
    sentence: int
    query: str
    document: str


def load(cache_dir: str | os.PathLike | None = None) -> tuple[list[Pair], list[Pair], str]:
    """(train, held out, source) of this Python, gathered at the first call (airank_fast.data.cache).

    Held out are first sentences only; the others would ask for the same functions again. UserError: a cache that cannot
    be written, or a Python without its sources.
    """
    name = f"docstrings-v{_FORMAT}-python{platform.python_version()}"
    folder = made_once(name, _write, "embedded text", "--data with a file of pairs", cache_dir)
    found = [Pair(*each) for each in json.loads((folder / _FILE).read_text(encoding="utf-8"))]
    train = [pair for pair in found if not is_held_out(pair.module)]
    held_out = [pair for pair in found if is_held_out(pair.module) and not pair.sentence]
    return train, held_out, f"{NAME}, {platform.python_version()}"


def _write(folder: Path) -> None:
    found = pairs()
    if len(found) < _LEAST_PAIRS or not any(is_held_out(pair.module) and not pair.sentence for pair in found):
        raise UserError(
            f"embedded text: must have the standard library's sources in {pydoc.library()}, "
            f"got {len(found)} sentences of docstrings; or pass --data with a file of pairs"
        )
    (folder / _FILE).write_text(json.dumps(found), encoding="utf-8")


def is_held_out(module: str) -> bool:
    """Whether a module is held out, by a hash of its name, so that no other module changes sides with it."""
    return sampling.is_held_out(module.encode(), _HOLD_OUT)


def pairs() -> list[Pair]:
    """The pairs of the library, first sentences first, else in the order of its files; of equal queries the first."""
    root = pydoc.library()
    found: dict[str, Pair] = {}
    every: list[Pair] = []
    for path in pydoc.library_files():
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        every += pairs_of(pydoc.syntax_tree(path) or ast.Module([], []), module)
    for pair in sorted(every, key=lambda pair: pair.sentence):
        found.setdefault(pair.query, pair)
    return list(found.values())


def pairs_of(tree: ast.AST, module: str, scope: tuple[str, ...] = ()) -> Iterator[Pair]:
    """The pairs of the functions below a node: of the first sentences of a docstring those of 3 to 40 words."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.expr):  # it holds no function with a docstring, and most nodes are in one
            continue
        inner = scope
        if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
            inner = (*scope, node.name)
        if isinstance(node, _FUNCTIONS):
            document = _CAMEL_CASE.sub(" ", " ".join([module, ".".join(inner), *_arguments(node.args)]))
            for number, sentence in enumerate(sentences(ast.get_docstring(node) or "")[:_SENTENCES]):
                if _FEWEST <= len(sentence.split()) <= _MOST:
                    yield Pair(module, number, _CAMEL_CASE.sub(" ", sentence), document)
        yield from pairs_of(node, module, inner)


def sentences(docstring: str) -> list[str]:
    """The parts between full stops and empty lines, in single spaces."""
    return [" ".join(part.split()) for part in _SENTENCE_END.split(docstring.strip())]


def _arguments(arguments: ast.arguments) -> list[str]:
    listed = [*arguments.posonlyargs, *arguments.args, arguments.vararg, *arguments.kwonlyargs, arguments.kwarg]
    return [each.arg for each in listed if each is not None and each.arg not in ("self", "cls")]
