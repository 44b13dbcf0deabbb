"""Reads the pages of a MediaWiki XML export (pages-articles.xml, .bz2 or .gz), one at a time, in constant memory."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from airank_fast.errors import UserError

_FILE, _CATEGORY = 6, 14  # numbers of namespaces
_BROKEN = (EOFError, OSError, zlib.error, ElementTree.ParseError)


class Page(NamedTuple):
    """A page with its newest text."""

    title: str
    namespace: int  # 0: articles
    is_redirect: bool
    model: str  # "wikitext"; others for scripts and styles
    text: str


class Counted:
    """A file that counts and hashes the bytes read from it; for decompressors, which read in order."""

    def __init__(self, path: Path):
        self._file = open(path, "rb")  # noqa: SIM115  (closed by `close`)
        self.size, self._digest = 0, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """Bytes from here on."""
        data = self._file.read(size)
        self.size += len(data)
        self._digest.update(data)
        return data

    def sha256(self) -> str:
        """Of all bytes so far, in hex."""
        return self._digest.hexdigest()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Dump:
    """A file of the export. `media` has the names of its file and category namespaces from the first page on."""

    def __init__(self, path: Path):
        self.path, self.file = Path(path), Counted(path)
        self.media = {"file", "image", "category"}
        self.num_pages = 0

    def pages(self) -> Iterator[Page]:
        """Every page. UserError where the file is no export, or is truncated."""
        try:
            yield from self._pages(self._decompressed())
            while self.file.read(2**20):  # the rest of the file, for the checksum
                pass
        except _BROKEN as error:
            if isinstance(error, OSError) and error.errno:  # an error of the disk, not of the content
                raise
            what = "" if self.num_pages else ", before the first"
            raise UserError(
                f"input: must be a whole MediaWiki export, {self.path} is truncated after "
                f"{self.num_pages} pages{what} ({' '.join(str(error).split())})"
            ) from None
        finally:
            self.file.close()

    def _decompressed(self):
        with open(self.path, "rb") as file:
            magic = file.read(3)
        if magic == b"BZh":
            return bz2.open(self.file)
        return gzip.open(self.file) if magic[:2] == b"\x1f\x8b" else self.file

    def _pages(self, stream) -> Iterator[Page]:
        root = None
        for event, element in ElementTree.iterparse(stream, events=("start", "end")):
            tag = element.tag.rpartition("}")[2]  # without {http://www.mediawiki.org/xml/export-0.11/}
            if root is None:
                root = element
                if tag != "mediawiki":
                    raise UserError(f"input: must be a MediaWiki export, got {self.path}, which is <{tag}>")
            elif event == "end" and tag == "namespace" and int(element.get("key", 0)) in (_FILE, _CATEGORY):
                self.media.add((element.text or "").strip().lower())
            elif event == "end" and tag == "page":
                self.num_pages += 1
                yield _page(element)
                root.clear()  # else every page stays in memory


def _page(element: ElementTree.Element) -> Page:
    values = {"title": "", "ns": "0", "model": "wikitext", "text": ""}
    is_redirect = False
    for child in element.iter():
        tag = child.tag.rpartition("}")[2]
        is_redirect |= tag == "redirect"
        if tag in values:
            values[tag] = child.text or ""  # the last of several revisions
    namespace = int(values["ns"]) if values["ns"].lstrip("-").isdigit() else 0
    return Page(values["title"], namespace, is_redirect, values["model"], values["text"])
