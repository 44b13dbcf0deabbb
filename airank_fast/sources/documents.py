"""First stage: from dumps and text files to text parts, one sentence a line and an empty line after each document.

The main process reads, workers clean, and their results are written in the order of the input, so that the parts do
not depend on the number of workers. Every `1 / eval_fraction`-th document is held out. A part is complete or absent:
after each the manifest has the position in the input, from which a later run goes on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from airank_fast.data.manifest import Manifest
from airank_fast.errors import UserError
from airank_fast.sources.mediawiki import Counted, Dump, Page
from airank_fast.sources.sentences import split_sentences
from airank_fast.sources.wikitext import paragraphs
from airank_fast.sources.workers import ordered_map
from airank_fast.walk import files

TEXT_FORMS = ("paragraphs", "sentences")
_CHUNK_CHARACTERS = 2**19  # of raw text that a worker gets at once
_EMPTY_LINE = re.compile(r"\n[^\S\n]*\r?\n")
_REASONS = ("redirects", "other_namespaces", "not_wikitext", "short")


class _Chunk(NamedTuple):
    """Consecutive items of one input."""

    source: int  # number of the input
    first_item: int
    items: list  # Page, or str: a document of a text file
    media: frozenset[str]
    min_characters: int
    text_form: str
    read_bytes: int  # of all inputs so far, for the progress bar
    size_bytes: int  # of this input so far
    sha256: str  # of this input, in its last chunk


def find_inputs(paths: list[Path]) -> list[Path]:
    """The input files of the arguments: a file itself, and all files of a directory at any depth.

    UserError: no such path, no files, an empty file.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = [file for file in files(path) if not file.name.startswith(".")]
            if not inside:
                raise UserError(f"--input: must be a directory with text files, {path} has none")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise UserError(f"--input: must be a file or a directory, got {path}, which is neither")
    if not found:
        raise UserError("--input: must be a MediaWiki dump or a directory of text files, got nothing")
    empty = [path for path in found if not path.stat().st_size]
    if empty:
        raise UserError(f"--input: must have files with content, {empty[0]} is empty")
    return found


def is_dump(path: Path) -> bool:
    """Whether the file is a MediaWiki export, by its name; else it is text."""
    return path.name.endswith((".xml", ".xml.bz2", ".xml.gz")) or ".xml-p" in path.name


def write_text(
    manifest: Manifest,
    root: Path,
    inputs: list[Path],
    *,
    min_characters: int,
    eval_fraction: float,
    text_form: str,
    part_bytes: int,
    num_workers: int,
) -> None:
    """Run the stage, or the rest of it. UserError: a corrupt input, fewer than 2 documents on one side."""
    stage = manifest.stages.setdefault(
        "documents",
        {
            "done": False,
            "parts": 0,
            "source": 0,
            "item": 0,
            "inputs": [],
            "read": 0,
            **dict.fromkeys(_REASONS, 0),
            "documents": 0,
            "eval_documents": 0,
            "sentences": 0,
            "characters": 0,
        },
    )
    if stage["done"]:
        return
    (root / "text").mkdir(parents=True, exist_ok=True)
    every = max(2, round(1 / eval_fraction))
    total = sum(path.stat().st_size for path in inputs)
    results = ordered_map(_clean, _chunks(inputs, stage, text_form, min_characters), num_workers)
    part, now = _Part(root, stage["parts"], every), dict(stage)
    try:
        with tqdm(total=total, unit="B", unit_scale=True, desc="text", disable=None) as bar:
            for chunk, documents in results:
                for item, (document, reason) in enumerate(documents, chunk.first_item):
                    now.update(source=chunk.source, item=item + 1)
                    _count(now, document, reason)
                    if document is not None:
                        now["eval_documents"] += part.add(now["documents"] - 1, document)
                    if part.num_bytes >= part_bytes:
                        _enter(manifest, root, part, stage, now)
                        part = _Part(root, stage["parts"], every)
                if chunk.sha256:
                    entry = {"name": inputs[chunk.source].name, "bytes": chunk.size_bytes, "sha256": chunk.sha256}
                    now.update(source=chunk.source + 1, item=0, inputs=[*now["inputs"], entry])
                bar.update(chunk.read_bytes - bar.n)
        if part.num_bytes:
            _enter(manifest, root, part, stage, now)
    finally:
        part.close()
        results.close()
    train = now["documents"] - now["eval_documents"]
    if train < 2 or now["eval_documents"] < 2:
        left_out = ", ".join(f"{now[reason]} {reason.replace('_', ' ')}" for reason in _REASONS)
        raise UserError(
            f"--input: must have at least 2 documents to train on and 2 held out, got {train} and "
            f"{now['eval_documents']} ({now['read']} read, of which left out: {left_out}); a larger "
            "--eval-fraction holds out more, a smaller --min-characters leaves out fewer"
        )
    stage.update(now, done=True)
    manifest.save(root)


def _count(now: dict, document: list[str] | None, reason: str) -> None:
    now["read"] += 1
    if document is None:
        now[reason] += 1
        return
    now["documents"] += 1
    now["sentences"] += len(document)
    now["characters"] += sum(map(len, document))


def _chunks(inputs: list[Path], stage: dict, text_form: str, min_characters: int) -> Iterator[_Chunk]:
    """The inputs in chunks, from the stage's position on; the last of each, maybe empty, has the checksum."""
    before = sum(path.stat().st_size for path in inputs[: stage["source"]])
    skip = stage["item"]
    for source, path in enumerate(inputs[stage["source"] :], stage["source"]):
        dump = Dump(path) if is_dump(path) else None
        file = dump.file if dump else Counted(path)
        items, size, first, number = [], 0, skip, 0

        def chunk(items, first, sha256="", source=source, dump=dump, file=file, before=before) -> _Chunk:
            media = frozenset(dump.media) if dump else frozenset()
            return _Chunk(source, first, items, media, min_characters, text_form, before + file.size, file.size, sha256)

        for number, item in enumerate(dump.pages() if dump else _documents(file, path, text_form), 1):
            if number <= skip:
                continue
            items.append(item)
            size += len(item.text if dump else item)
            if size >= _CHUNK_CHARACTERS:
                yield chunk(items, first)
                items, size, first = [], 0, number
        file.close()
        yield chunk(items, first, file.sha256())
        before += path.stat().st_size
        skip = 0


def _documents(file: Counted, path: Path, text_form: str) -> Iterator[str]:
    """Documents of a text file: the whole file, or, with a sentence a line, the lines between empty lines."""
    try:
        if text_form == "paragraphs":
            yield file.read().decode("utf-8-sig")
            return
        lines, rest = [], b""
        while block := file.read(2**20):
            *whole, rest = (rest + block).split(b"\n")
            for line in whole:
                if line.strip():
                    lines.append(line)
                elif lines:
                    yield b"\n".join(lines).decode("utf-8-sig")
                    lines = []
        lines += [rest] if rest.strip() else []
        if lines:
            yield b"\n".join(lines).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"--input: must be UTF-8 text, {path} is not ({error.reason} at byte {error.start}); a "
            "MediaWiki export is named *.xml, *.xml.bz2 or *.xml.gz"
        ) from None


def _clean(chunk: _Chunk) -> tuple[_Chunk, list[tuple[list[str] | None, str]]]:
    """In a worker: the chunk without its items, and for each item (sentences or None, the reason of None)."""
    return chunk._replace(items=[]), [_clean_one(item, chunk) for item in chunk.items]


def _clean_one(item: Page | str, chunk: _Chunk) -> tuple[list[str] | None, str]:
    if isinstance(item, Page):
        for reason, left_out in (
            ("redirects", item.is_redirect),
            ("other_namespaces", item.namespace != 0),
            ("not_wikitext", item.model != "wikitext"),
        ):
            if left_out:
                return None, reason
        lines = paragraphs(item.text, chunk.media)
    else:
        pieces = _EMPTY_LINE.split(item) if chunk.text_form == "paragraphs" else item.split("\n")
        lines = [line for line in (" ".join(piece.split()) for piece in pieces) if line]
    if isinstance(item, Page) or chunk.text_form == "paragraphs":
        lines = [sentence for line in lines for sentence in split_sentences(line)]
    return (lines, "") if sum(map(len, lines)) >= max(1, chunk.min_characters) else (None, "short")


class _Part:
    """The pair of text files that is being written: to train on, and held out; complete or absent."""

    def __init__(self, root: Path, number: int, every: int):
        self.names = [f"text/{split}-{number:05d}.txt" for split in ("train", "eval")]
        self.num_bytes, self.counts = 0, [[0, 0], [0, 0]]  # per file: documents, sentences
        self._every, self._paths = every, [root / name for name in self.names]
        self._files = [open(f"{path}.partial", "wb") for path in self._paths]  # noqa: SIM115  (closed below)

    def add(self, number: int, document: list[str]) -> bool:
        """Write a document; returns whether it was held out, by its number."""
        held_out = number % self._every == self._every - 1
        self.num_bytes += self._files[held_out].write(("\n".join(document) + "\n\n").encode())
        self.counts[held_out][0] += 1
        self.counts[held_out][1] += len(document)
        return held_out

    def finish(self) -> None:
        """Give both files their names."""
        for file, path in zip(self._files, self._paths, strict=True):
            file.flush()
            os.fsync(file.fileno())
            file.close()
            os.replace(file.name, path)

    def close(self) -> None:
        """Delete files that are not finished."""
        for file in self._files:
            with suppress(OSError):  # on a full disk closing writes the buffer, and fails again
                file.close()
            Path(file.name).unlink(missing_ok=True)


def _enter(manifest: Manifest, root: Path, part: _Part, stage: dict, now: dict) -> None:
    part.finish()
    for name, (documents, sentences) in zip(part.names, part.counts, strict=True):
        manifest.add(root, name, documents=documents, sentences=sentences)
    now["parts"] += 1
    stage.update(now)
    manifest.save(root)
