"""The manifest of a prepared data set: its files, how much is in them, and their checksums.

manifest.json lies beside the data and is replaced as a whole after every file, so that every entry is of a complete
file; a file without an entry is left from an interruption.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from airank_fast.data.text.shards import whole_file
from airank_fast.errors import UserError, require

NAME = "manifest.json"
VERSION = 1


@dataclass
class Manifest:
    """The content of manifest.json."""

    kind: str  # wikicorpus, imagenet, cityscapes, icdar2015, coco, kinetics, criteo, text lines, words, translation
    options: dict = field(default_factory=dict)  # all that the data depends on
    stages: dict = field(default_factory=dict)  # stage -> its counts; "done" in those that are finished
    files: dict[str, dict] = field(default_factory=dict)  # name, relative to the manifest -> counts, bytes, sha256
    version: int = VERSION

    @staticmethod
    def load(root: Path) -> Manifest | None:
        """The manifest in `root`, or None where there is none. UserError where it is of another version or kind."""
        path = root / NAME
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise UserError(f"data: must be a readable manifest, got {path} ({error})") from None
        if not isinstance(values, dict) or values.get("version") != VERSION or "kind" not in values:
            raise UserError(f"data: must be a manifest of version {VERSION}, got {path}, which is not one")
        return Manifest(**values)

    @staticmethod
    def begin(root: Path, kind: str, options: dict, stages: dict | None = None) -> Manifest:
        """The manifest in `root`, or a new one. UserError where it is of another kind."""
        manifest = Manifest.load(root)
        if manifest is None:
            manifest = Manifest(kind, options, stages or {})
            manifest.save(root)
        require(manifest.kind == kind, "--output", "a directory of its own", f"{root}, which holds {manifest.kind}")
        return manifest

    def require_options(self, root: Path, options: Mapping) -> None:
        """UserError where preparing began with other options."""
        for name, value in options.items():
            before = self.options.get(name)
            what = f"a directory for {name} = {value}"
            require(before == value, "--output", what, f"{root}, where preparing began with {before}")

    def save(self, root: Path) -> None:
        """Replace the manifest in `root`."""
        with whole_file(root / NAME) as partial:
            partial.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    def add(self, root: Path, name: str, **counts) -> None:
        """Enter a complete file, with its size and checksum."""
        self.files[name] = entry(root, name, **counts)

    def has(self, root: Path, name: str) -> bool:
        """Whether the file is entered, and there with the size entered."""
        path = root / name
        return name in self.files and path.is_file() and path.stat().st_size == self.files[name]["bytes"]

    def names(self, folder: str) -> list[str]:
        """The entries below a folder, sorted."""
        return sorted(name for name in self.files if name.startswith(folder + "/"))

    # What verification finds: lists of problems, one line each.

    def unfinished(self, *stages: str) -> list[str]:
        """Of these stages those that are not done."""
        return [
            f"{stage}: not finished (the same prepare command goes on with it)"
            for stage in stages
            if not self.stages.get(stage, {}).get("done")
        ]

    def changed(self, root: Path, name: str) -> list[str]:
        """A file that is missing, or has another size or checksum than entered; it is read."""
        path, entered = root / name, self.files[name]
        if not path.is_file():
            return [f"{name}: missing"]
        if path.stat().st_size != entered["bytes"]:
            return [f"{name}: must have {entered['bytes']} bytes, got {path.stat().st_size}"]
        if checksum(path) != entered["sha256"]:
            return [f"{name}: must have sha256 {entered['sha256']}, got another: the file was changed"]
        return []

    def unlisted(self, root: Path, *folders: str) -> list[str]:
        """What is in these folders without an entry."""
        there = sorted(str(path.relative_to(root)) for folder in folders for path in (root / folder).glob("*"))
        return [f"{name}: not in the manifest" for name in there if name not in self.files]

    def copies(self, names: Iterable[str], key: str, what: str) -> list[str]:
        """Of these entries those with the same value of `key` as an earlier one."""
        first: dict[str, str] = {}
        earlier = ((name, first.setdefault(self.files[name][key], name)) for name in names)
        return [f"{name}: the same {what} as in {other}" for name, other in earlier if other != name]


def entry(root: Path, name: str, **counts) -> dict:
    """The entry of a complete file: its counts, size and checksum."""
    return {**counts, "bytes": (root / name).stat().st_size, "sha256": checksum(root / name)}


def checksum(path: Path) -> str:
    """sha256 of a file, in hex."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
