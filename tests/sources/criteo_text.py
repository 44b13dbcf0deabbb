"""Click logs in the published form, made up: what the tests of reading, preparing and training share."""

from __future__ import annotations

import random


def columns(rng: random.Random) -> list[str]:
    """A row's columns: a label, 13 integers, 26 categories of eight hexadecimal digits, with some missing.

    The label depends on the first number and the first category, so that there is something to learn.
    """
    numbers = ["" if rng.random() < 0.2 else str(min(int(rng.paretovariate(1.5)), 10**6) - 1) for _ in range(13)]
    categories = ["" if rng.random() < 0.1 else f"{rng.randrange(40) * 0x1D0F3A7 + slot:08x}" for slot in range(26)]
    score = 3 * (categories[0][:1] == "0") + (int(numbers[0] or 0) > 2) - 2
    return [str(int(rng.random() < 1 / (1 + 2.718281828**-score))), *numbers, *categories]


def lines(number: int, seed: int = 0) -> list[bytes]:
    """Lines with their line feeds."""
    rng = random.Random(seed)
    return ["\t".join(columns(rng)).encode() + b"\n" for _ in range(number)]


def text(number: int, seed: int = 0) -> bytes:
    """The lines, as in train.txt."""
    return b"".join(lines(number, seed))
