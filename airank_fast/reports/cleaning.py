"""Makes text and numbers of any log fit to be shown: of bounded size, without control characters."""

from __future__ import annotations

import re

from airank_fast.numeric import is_number
from airank_fast.reports.curves import LARGEST

MAX_TEXT = 2000
MAX_ITEMS = 500
MAX_DEPTH = 8
_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufffe\uffff\ud800-\udfff]"
)


def clean(value, max_text: int = MAX_TEXT, depth: int = MAX_DEPTH):
    """Text of a log without control and direction characters and lone surrogates, of bounded size and depth."""
    if isinstance(value, str):
        text = _CONTROL.sub("\ufffd", value[: max_text + 1])
        return text if len(text) <= max_text else text[:max_text] + "…"
    if isinstance(value, (dict, list, tuple)) and not depth:
        return "…"
    if isinstance(value, dict):
        return {clean(str(key), 200): clean(item, depth=depth - 1) for key, item in list(value.items())[:MAX_ITEMS]}
    if isinstance(value, (list, tuple)):
        return [clean(item, depth=depth - 1) for item in value[:MAX_ITEMS]]
    return value


def number(value) -> float | None:
    """The value if it is a number that can be shown; else None."""
    return value if is_number(value, LARGEST) else None
