"""Lists of text lines as published -> LMDBs as the field's programs read them; see `airank_fast.prepare ocr`.

DIR/manifest.json        options, counts and checksums
DIR/train/00001/data.mdb 10,000 lines of the list: num-samples, image-000000001, label-000000001, ...
DIR/val/00001/data.mdb
DIR/characters.txt       every character of the texts, for --alphabet-file

An interrupted preparation goes on with the first LMDB that is not whole. Texts are as the list has them, and pictures
are copied byte by byte once they have been decoded.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from tqdm import tqdm

from airank_fast.data.images.image_folder import why_corrupt
from airank_fast.data.images.text_lines import DATABASE, Database
from airank_fast.data.manifest import Manifest, entry
from airank_fast.data.text.shards import whole_file
from airank_fast.errors import UserError, require
from airank_fast.sources.workers import ordered_map

KIND = "text lines"
CHARACTERS = "characters.txt"
PART_LINES = 10_000
SIDES = ("train", "val")
Form = Literal["tab", "icdar", "mjsynth"]


@dataclass(frozen=True)
class Side:
    """A list and the folder to which its paths are relative."""

    file: Path
    folder: Path


@dataclass(frozen=True)
class Part:
    """Lines of a list: `first` is the number of the first of them, from 1 on."""

    name: str
    first: int
    lines: list[bytes]


def prepare(
    sides: dict[str, Side], root: Path, *, form: Form, skip_corrupt: bool, num_workers: int, part_lines: int
) -> Manifest:
    """Make what is not there yet; returns the finished manifest.

    sides: of "train", and "val" if there is one. skip_corrupt: leave out lines that have no text or no picture that can
    be decoded, and enter them in the manifest; without it the first one raises a UserError.
    """
    _lmdb(root)
    for side in sides.values():
        require(side.file.is_file(), str(side.file), "a list of pictures of lines with their texts", "no file")
    lists = {name: side.file.stat().st_size for name, side in sides.items()}
    options = {"form": form, "skip_corrupt": skip_corrupt, "part_lines": part_lines, "lists": lists}
    root.mkdir(parents=True, exist_ok=True)
    manifest = Manifest.begin(root, KIND, options)
    manifest.require_options(root, options)
    for name, side in sides.items():
        make = partial(_make, root=root, side=side, form=form, skip_corrupt=skip_corrupt)
        left = (part for part in _parts(name, side.file, part_lines) if not manifest.has(root, _file(part.name)))
        for made, found in tqdm(ordered_map(make, left, num_workers), name, unit="LMDB", disable=None):
            manifest.files[made] = found
            manifest.save(root)
    characters = sorted({character for listed in manifest.files.values() for character in listed.get("characters", "")})
    with whole_file(root / CHARACTERS) as path:
        path.write_text("".join(f"{character}\n" for character in characters), encoding="utf-8")
    manifest.add(root, CHARACTERS)
    manifest.stages["lines"] = {"done": True, "characters": len(characters)}
    manifest.save(root)
    return manifest


def _lmdb(root: Path) -> Any:
    try:
        import lmdb
    except ImportError:
        raise UserError(f"{root}: must have the package lmdb, got none (pip install lmdb)") from None
    return lmdb


def _file(part: str) -> str:
    return f"{part}/{DATABASE}"


def _parts(side: str, path: Path, part_lines: int) -> Iterator[Part]:
    with open(path, "rb") as file:
        number = 0
        while lines := list(islice(file, part_lines)):
            yield Part(f"{side}/{number + 1:05d}", number * part_lines + 1, lines)
            number += 1
    require(number, str(path), "a list of pictures of lines with their texts", "an empty file")


def _make(part: Part, root: Path, side: Side, form: Form, skip_corrupt: bool) -> tuple[str, dict]:
    """Write an LMDB whole or not at all; returns its file's name and its entry."""
    pairs, left_out = [], []
    for number, line in enumerate(part.lines, part.first):
        where = f"{side.file}, line {number}"
        try:
            pairs.append(_read(line.removesuffix(b"\n").removesuffix(b"\r"), number, where, side.folder, form))
        except UserError as error:
            if not skip_corrupt:
                raise UserError(f"{error}; --skip-corrupt leaves such lines out") from None
            left_out.append(str(error))
    got = "; ".join(left_out[:1])
    require(pairs, str(side.file), f"with a line that can be read among {part.name}'s {len(part.lines)}", got)
    content = hashlib.sha256()
    folder, unfinished = root / part.name, root / f"{part.name}.partial"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    size = sum(len(picture) + len(text) for picture, text in pairs)
    room = 4 * size + 8192 * len(pairs) + (1 << 20)  # B-tree pages are never more than half empty
    opened = _lmdb(root).open(str(unfinished), map_size=room, lock=False)
    with opened, opened.begin(write=True) as transaction:
        transaction.put(b"num-samples", b"%d" % len(pairs))
        for number, (picture, text) in enumerate(pairs, 1):
            transaction.put(b"image-%09d" % number, picture)
            transaction.put(b"label-%09d" % number, text.encode())
            content.update(hashlib.sha256(picture).digest() + text.encode() + b"\n")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(unfinished, folder)
    facts: dict[str, Any] = {"lines": len(pairs), "left_out": left_out, "content": content.hexdigest()}
    facts["characters"] = "".join(sorted({character for _, text in pairs for character in text}))
    return _file(part.name), entry(root, _file(part.name), **facts)


def _read(line: bytes, number: int, where: str, folder: Path, form: Form) -> tuple[bytes, str]:
    """(content of the picture, text) of a line; UserError for one that lacks either."""
    line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
    try:
        decoded = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: must be UTF-8, got byte 0x{line[error.start]:02X}") from None
    found = _READERS[form](decoded)
    require(found is not None, where, f"a line {_FORMS[form]}", repr(decoded[:60]))
    name, text = found or ("", "")
    require(text, where, "a line with a text", "an empty one")
    path = folder / name
    try:
        picture = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        why = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{where}: must have a picture that can be read, got {path} ({why})") from None
    why = why_corrupt(picture)
    require(why is None, where, "a whole JPEG or PNG picture", f"{path} ({why})")
    return picture, text


def _read_tab(line: str) -> tuple[str, str] | None:
    name, separator, text = line.partition("\t")
    return (name, text) if separator and "\t" not in text else None


def _read_icdar(line: str) -> tuple[str, str] | None:
    found = re.fullmatch(r'([^,]+),\s*"(.*)"\s*', line)
    return (found[1].strip(), re.sub(r"\\(.)", r"\1", found[2])) if found else None


def _read_mjsynth(line: str) -> tuple[str, str] | None:
    name = line.split(" ")[0]
    words = PurePosixPath(name).stem.split("_")
    return (name, words[1]) if len(words) == 3 else None


_FORMS: dict[str, str] = {
    "tab": "PATH TAB TEXT",
    "icdar": 'PATH, "TEXT"',
    "mjsynth": "FOLDER/NUMBER_TEXT_NUMBER.jpg NUMBER",
}
_READERS: dict[str, Callable[[str], tuple[str, str] | None]] = {
    "tab": _read_tab,
    "icdar": _read_icdar,
    "mjsynth": _read_mjsynth,
}


def verify(manifest: Manifest, root: Path, num_workers: int) -> tuple[list[str], list[str]]:
    """(a summary, problems): checksums of all files, lines by count, LMDBs of the same lines, files not entered."""
    problems = manifest.unfinished("lines")
    check = partial(_check, root=root, manifest=manifest)
    names = list(manifest.files)
    for found in tqdm(ordered_map(check, names, num_workers), "verify", len(names), unit="file", disable=None):
        problems += found
    there = {str(path.relative_to(root)) for side in SIDES for path in (root / side).rglob("*") if path.is_file()}
    problems += [f"{name}: not in the manifest" for name in sorted(there - manifest.files.keys())]
    problems += manifest.copies((name for side in SIDES for name in manifest.names(side)), "content", "lines")
    summary = []
    for side in SIDES:
        entries = [manifest.files[name] for name in manifest.names(side)]
        lines, left_out = sum(each["lines"] for each in entries), sum(len(each["left_out"]) for each in entries)
        summary.append(f"{side:<6} {lines:>12,} lines in {len(entries):,} LMDBs, {left_out:,} left out")
    characters = manifest.stages.get("lines", {}).get("characters", 0)
    return [*summary, f"texts  {characters:>12,} different characters ({CHARACTERS})"], problems


def _check(name: str, root: Path, manifest: Manifest) -> list[str]:
    problems = manifest.changed(root, name)
    if problems or name == CHARACTERS:
        return problems
    database, lines = Database((root / name).parent), manifest.files[name]["lines"]
    try:
        number = len(database)
        for line in range(number):
            database.text(line)
    except UserError as error:
        return [f"{name}: {error}"]
    finally:
        database.close()
    return [] if number == lines else [f"{name}: must have {lines} lines, got {number}"]
