"""Extracts prose from wiki markup: paragraphs of plain text, without templates, tables, references, files and headings.

mwparserfromhell parses; this module renders each kind of node. Items of lists stay where they are sentences: a line is
prose if it has a sentence's end of any script, or 80 characters.
"""

from __future__ import annotations

import re
import unicodedata

from airank_fast.errors import UserError
from airank_fast.sources.sentences import ENDS

# Tags whose content is not prose.
_DROPPED = {
    "ref",
    "references",
    "gallery",
    "math",
    "chem",
    "ce",
    "timeline",
    "table",
    "score",
    "syntaxhighlight",
    "source",
    "pre",
    "style",
    "script",
    "templatestyles",
    "imagemap",
    "graph",
    "mapframe",
    "maplink",
    "indicator",
    "hiero",
    "section",
    "categorytree",
    "inputbox",
    "noinclude",
    "includeonly",
    "hr",
}
# Templates that are words of a sentence: the argument with the words (-1: the last without a name).
_WORDS = {
    "lang": -1,
    "transl": -1,
    "transliteration": -1,
    "nowrap": 1,
    "nobr": 1,
    "small": 1,
    "abbr": 1,
    "em": 1,
    "convert": 1,
    "cvt": 1,
}
_LANGUAGE = re.compile(r"(?:[a-z]{2,3}(?:-[a-z]+)*|simple)")
_LANG = re.compile(r"lang-[a-z-]+")
_VARIANT = re.compile(r"-\{(?:[^{}]*?[:|])?([^{}:;|]*?)(?:;[^{}]*)?\}-")  # -{zh-cn:A; zh-tw:B}- is A
_LEFT_OVER = re.compile(
    r"'{2,}|__[^\W\d_]+__|\{\{|\}\}|\[\[|\]\]"
    r"|</?(?:ref|br|div|span|small|big|sub|sup|nowiki|center|[biusp]|table|t[rdh]|li|[uod]l|font|gallery|math"
    r"|code|blockquote|includeonly|noinclude|onlyinclude)\b[^<>]*>",
    re.IGNORECASE,
)
_EMPTY_BRACKETS = re.compile(r"\s*(?:\(\s*(?:[,;:/،、]\s*)*\)|（\s*(?:[,;:/、，；]\s*)*）|\[\s*\])")
_AFTER_BRACKET = re.compile(r"([(（])\s*(?:[,;:،、，；]\s*)+")
_BEFORE_BRACKET = re.compile(r"\s*[,;:،、，；]\s*([)）])")
_BEFORE_STOP = re.compile(r"[ ]+([,.;:!?)])")
_CLOSING = "\"'»”’)]）」』"
_LONG = 80  # characters of a line that is prose without a sentence's end, which some scripts do not mark


def import_parser():
    """mwparserfromhell, which is optional. UserError where it is not installed."""
    try:
        import mwparserfromhell
    except ImportError:
        raise UserError(
            "input: must have mwparserfromhell to read wiki markup, got none (pip install 'airank-fast[wikicorpus]')"
        ) from None
    return mwparserfromhell


def paragraphs(markup: str, media: frozenset[str] | set[str]) -> list[str]:
    """The prose of a page, a paragraph per item, spaces normalised.

    media: names, in lower case, of namespaces whose links are dropped (file, category, and the wiki's own names).
    """
    mwparserfromhell = import_parser()
    try:
        text = _Renderer(mwparserfromhell.nodes, media).render(mwparserfromhell.parse(markup))
    except (mwparserfromhell.parser.ParserError, RecursionError):  # a page nested hundreds of times is left out
        return []
    return [line for line in map(_line, text.split("\n")) if line]


class _Renderer:
    """Renders nodes as text, recursively."""

    def __init__(self, nodes, media: frozenset[str] | set[str]):
        self._media = media
        self._kinds = {
            nodes.Text: lambda node: node.value,
            nodes.Wikilink: self._wikilink,
            nodes.ExternalLink: self._external,
            nodes.Tag: self._tag,
            nodes.Template: self._template,
            nodes.HTMLEntity: self._entity,
            nodes.Heading: lambda node: "\n",
            nodes.Argument: lambda node: self.render(node.default),
        }

    def render(self, code) -> str:
        """code: Wikicode or None."""
        if code is None:
            return ""
        nothing = lambda node: ""  # noqa: E731  (comments, and kinds of a later version)
        return "".join(self._kinds.get(type(node), nothing)(node) for node in code.nodes)

    def _wikilink(self, node) -> str:
        title = self.render(node.title).strip()
        prefix, colon, _ = title.partition(":")
        if colon and prefix.strip().lower().replace("_", " ") in self._media:
            return ""
        if node.text is None:
            if colon and _LANGUAGE.fullmatch(prefix):  # the same page in another language
                return ""
            return title.removeprefix(":").replace("_", " ") if not title.startswith("#") else title[1:]
        words = self.render(node.text)
        if not words.strip():  # [[Paris (Texas)|]] shows Paris
            return re.sub(r"\s*\(.*\)$", "", title.rpartition(":")[2])
        return words

    def _external(self, node) -> str:
        return self.render(node.title) if node.title is not None else ""

    def _tag(self, node) -> str:
        name = str(node.tag).strip().lower()
        if name in _DROPPED:
            return ""
        if name in ("br", "p", "div", "blockquote", "poem", "center"):
            return "\n" + self.render(node.contents) + "\n" if name != "br" else " "
        if node.wiki_markup in ("*", "#", ":", ";") or node.self_closing:
            return ""
        return self.render(node.contents)

    def _template(self, node) -> str:
        name = self.render(node.name).strip().lower().replace("_", " ")
        which = 1 if _LANG.fullmatch(name) else _WORDS.get(name)
        unnamed = [param for param in node.params if not param.showkey]
        if which is None or not unnamed:
            return ""
        words = self.render(unnamed[which if which < 0 else which - 1].value).strip()
        if name in ("convert", "cvt") and len(unnamed) > 1:
            words += " " + self.render(unnamed[1].value).strip()
        return words

    @staticmethod
    def _entity(node) -> str:
        try:
            return node.normalize()
        except (ValueError, OverflowError):  # &#xFFFFFFFF;
            return ""


def _line(line: str) -> str:
    """A line of rendered text as prose, or ""."""
    line = line.strip()
    if not line or line[0] in "|!{" or line.startswith(("<", "}")):  # a row of a table that is not closed
        return ""
    line = _VARIANT.sub(r"\1", line)
    line = _LEFT_OVER.sub("", line)
    line = "".join(
        c if c.isprintable() or c.isspace() else ""
        for c in line
        if unicodedata.category(c) != "Cf" or c in "\u200c\u200d"  # joiners have a meaning in Indic scripts
    )
    line = _AFTER_BRACKET.sub(r"\1", _BEFORE_BRACKET.sub(r"\1", _EMPTY_BRACKETS.sub("", line)))
    line = _BEFORE_STOP.sub(r"\1", " ".join(line.split())).lstrip("*#:; ")
    if not any(c.isalpha() for c in line):
        return ""
    return line if line.rstrip(_CLOSING)[-1:] in ENDS or len(line) >= _LONG else ""
