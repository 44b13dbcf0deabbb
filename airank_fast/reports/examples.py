"""Pictures of predictions that a run has left; see airank_fast.engine.examples."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import NamedTuple

from airank_fast.record.events import Event
from airank_fast.reports.cleaning import clean

MOST, MOST_BYTES = 12, 1 << 20  # of pictures, and of one of them
_NAME = re.compile(r"examples/[0-9]{2}\.png")
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class Example(NamedTuple):
    """A picture, the content of a PNG file, with texts that are "" where it shows them itself."""

    content: bytes
    predicted: str
    truth: str

    @property
    def url(self) -> str:
        """The picture for a page without other files."""
        return f"data:image/png;base64,{base64.b64encode(self.content).decode()}"


def read_examples(path: Path, event: Event) -> list[Example]:
    """The pictures that an `examples` event names. Left out: what is no small PNG file in the run's own folder."""
    columns = [event.get(name) for name in ("files", "predicted", "truth")]
    if not path.is_dir() or not all(isinstance(column, list) for column in columns):
        return []
    found = []
    for name, *texts in list(zip(*columns, strict=False))[:MOST]:
        file = path / str(name)
        if not _NAME.fullmatch(str(name)) or file.is_symlink() or not file.is_file():
            continue
        with open(file, "rb") as opened:
            content = opened.read(MOST_BYTES + 1)
        if content.startswith(_SIGNATURE) and len(content) <= MOST_BYTES:
            found.append(Example(content, *(clean(str(text), 200) for text in texts)))
    return found
