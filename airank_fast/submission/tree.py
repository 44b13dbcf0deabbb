"""A tree of files to hand in: gathered first, checked, then written whole or not at all.

The same content gives the same bytes: files are written in the order of their names, with fixed permissions and no
date inside.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from airank_fast.errors import UserError
from airank_fast.record.events import name_floats
from airank_fast.rules.tree_files import MANIFEST, SUMS
from airank_fast.walk import make_folders, remove

_UNSAFE = re.compile(r"[^\w.+()\[\]-]+")


def component(what: str, text: str) -> str:
    """`text` as the name of one file or folder: other characters than letters, digits and .+-_()[] become "_"."""
    name = _UNSAFE.sub("_", text.strip()).strip("_")
    if name.strip(".") == "" or name.startswith("-"):
        raise UserError(f"{what}: must be a name that a folder can have, got {text!r}")
    return name


class Tree:
    """Files by their names relative to the root, with "/" between folders."""

    def __init__(self) -> None:
        self._files: dict[str, bytes | Path] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._files))

    def add(self, name: str, content: str | bytes) -> None:
        """Add a file with this content."""
        self._enter(name, content.encode() if isinstance(content, str) else content)

    def add_json(self, name: str, value: dict) -> None:
        """Add a JSON file, its keys in the order given, nan and inf as strings."""
        self.add(name, json.dumps(name_floats(value), indent=2, ensure_ascii=False) + "\n")

    def copy(self, name: str, source: Path, first_line: str | None = None) -> None:
        """Add a copy of a file, after `first_line` if given. UserError for a symbolic link."""
        if source.is_symlink() or not source.is_file():
            got = "a symbolic link" if source.is_symlink() else "none"
            raise UserError(f"{source}: must be a regular file, got {got}")
        if first_line is not None:
            self.add(name, first_line.encode() + b"\n" + source.read_bytes())
        else:
            self._enter(name, source)

    def _enter(self, name: str, content: bytes | Path) -> None:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or str(path) != name or "\n" in name or "\\" in name:
            raise UserError(f"{name!r}: must be a path inside the tree")
        if name in self._files:
            raise UserError(f"{name}: must be one file of that name, got two")
        self._files[name] = content

    def write(self, output: Path, manifest: dict) -> None:
        """Write the tree with its manifest and checksums as the directory `output`, which must be absent or empty.

        The files go to a temporary directory beside it, which takes its name when all are there.
        """
        self.add_json(MANIFEST, manifest)
        if output.is_symlink() or (output.exists() and (not output.is_dir() or any(output.iterdir()))):
            raise UserError(f"--output: must be a directory that is absent or empty, got {output}")
        partial = None
        try:
            make_folders(output.parent)
            partial = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".partial", dir=output.parent))
            sums = [f"{self._write_file(partial / name, name)}  {name}\n" for name in self]
            (partial / SUMS).write_text("".join(sums), encoding="utf-8")
            partial.chmod(0o755)
            os.replace(partial, output)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"--output: must be a directory that can be written, got {output} ({reason})") from None
        finally:
            if partial is not None and partial.is_dir():
                with suppress(OSError, UserError):
                    remove(partial)

    def _write_file(self, path: Path, name: str) -> str:
        """Write one file; returns its sha256 in hex."""
        make_folders(path.parent)
        content, digest = self._files[name], hashlib.sha256()
        with open(path, "xb") as target:
            if isinstance(content, bytes):
                digest.update(content)
                target.write(content)
            else:
                with open(content, "rb") as source:
                    while block := source.read(1 << 20):
                        digest.update(block)
                        target.write(block)
        path.chmod(0o755 if name.endswith(".sh") else 0o644)
        return digest.hexdigest()
