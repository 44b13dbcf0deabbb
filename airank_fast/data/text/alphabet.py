"""The characters of a recogniser: a text as classes 1 to n; class 0 is CTC's blank. Imports no numpy."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from airank_fast.errors import UserError, require

BLANK = 0


class Alphabet:
    """The characters of the classes from 1 on, in their order. UserError for none, and for one that comes twice.

    An alphabet without capital letters reads texts in lower case, as crnn.pytorch's does.
    """

    def __init__(self, characters: str, where: str = "--alphabet") -> None:
        require(characters, where, "of one character or more", "none")
        self._classes: dict[str, int] = {}
        for number, character in enumerate(characters, 1):
            earlier = self._classes.setdefault(character, number)
            places = f"{character!r} as characters {earlier} and {number}"
            require(earlier == number, where, "of different characters", places)
        self.characters = characters
        self._lower = characters == characters.lower()

    def __len__(self) -> int:
        return len(self.characters)

    def classes(self, text: str, where: str) -> list[int]:
        """The classes of a text; UserError under the name `where` for an empty one and for another character."""
        require(text, where, "a line with a text", "an empty one")
        text = text.lower() if self._lower else text
        found = [self._classes.get(character, BLANK) for character in text]
        if BLANK in found:
            outside = text[found.index(BLANK)]
            got = f"{outside!r} (U+{ord(outside):04X}) in {text[:40]!r}"
            raise UserError(f"{where}: must be a text of the alphabet's {len(self)} characters, got {got}")
        return found

    def text(self, classes: Iterable[int]) -> str:
        """The inverse of `classes`."""
        return "".join(self.characters[number - 1] for number in classes)


def read_alphabet(path: Path) -> str:
    """The characters of a UTF-8 file: of all its lines, of which each has one character or many.

    UserError for a file that cannot be read, is empty, or has a character twice.
    """
    require(path.is_file(), str(path), "a file of characters", "a directory" if path.is_dir() else "no file")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        got = f"byte 0x{error.object[error.start]:02X} at position {error.start + 1}"
        raise UserError(f"{path}: must be UTF-8, got {got}") from None
    return Alphabet("".join(text.split("\n")), str(path)).characters
