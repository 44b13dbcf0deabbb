"""Splits paragraphs of any script into sentences, by rules; a full stop after an abbreviation or initial ends none."""

from __future__ import annotations

import re

_SPACED = ".!?…؟۔।॥։።፧។៕။"  # they end a sentence where white space follows
_UNSPACED = "。！？｡．"  # they end a sentence anywhere
ENDS = frozenset(_SPACED + _UNSPACED)
_CLOSING = r"[\"'»”’)\]）」』〉》】]*"
_BOUNDARY = re.compile(rf"[{_UNSPACED}]+{_CLOSING}\s*|[{re.escape(_SPACED)}]+{_CLOSING}\s+")
_OPENING = "\"'«“‘([（「『¿¡"
# Words, in lower case, whose full stop never ends a sentence.
_ABBREVIATIONS = """
    adm al approx arch art ave bros ca capt cf ch chap co col comdr corp dept dr ed eds e.g eq esp est etc fig figs fl
    fr gen gov hon i.e inc jr lit lt ltd maj messrs mr mrs ms mt no nos op orig p pl pp prof pt pub rep rev sen sec ser
    sgt sr st trans univ v vol vols vs viz a.k.a d.h z.b bzw vgl usw geb gest nr св г гг др им т.е т.к т.д
"""
_ABBREVIATIONS = frozenset(_ABBREVIATIONS.split())


def split_sentences(paragraph: str) -> list[str]:
    """The sentences of a paragraph, in order; joined they are the paragraph, except for white space between them."""
    sentences, start = [], 0
    for match in _BOUNDARY.finditer(paragraph):
        end = match.end()
        if end < len(paragraph) and _ends_here(
            paragraph[start : match.start()], match.group(), paragraph[end : end + 8]
        ):
            sentences.append(paragraph[start:end].strip())
            start = end
    sentences.append(paragraph[start:].strip())
    return [sentence for sentence in sentences if sentence]


def _ends_here(before: str, mark: str, after: str) -> bool:
    first = after.lstrip(_OPENING)[:1]
    if first.islower():  # Latin, Greek, Cyrillic ... begin a sentence with a capital
        return mark[0] in _UNSPACED
    if mark[0] != "." or mark.startswith(".."):
        return True
    word = before.rsplit(None, 1)[-1].lstrip(_OPENING) if before.strip() else ""
    if word.lower() in _ABBREVIATIONS:
        return False
    is_initial = (len(word) == 1 and word.isalpha()) or re.fullmatch(r"(?:\w\.)+\w", word) is not None
    return not (is_initial and word[-1:].isupper())  # J. R. R. Tolkien, the U.S. Army
