"""The manifest of a prepared data set: its files, how much is in them, and their checksums.

manifest.json lies beside the data and is replaced as a whole after every file, so that every entry is of a complete
file; a file without an entry is left from an interruption.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from airank_fast.data.text.shards import whole_file
from airank_fast.errors import UserError

NAME = "manifest.json"
VERSION = 1


@dataclass
class Manifest:
    """The content of manifest.json."""

    kind: str  # "wikicorpus", "imagenet" or "criteo"
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

    def save(self, root: Path) -> None:
        """Replace the manifest in `root`."""
        with whole_file(root / NAME) as partial:
            partial.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    def add(self, root: Path, name: str, **counts) -> None:
        """Enter a complete file, with its size and checksum."""
        self.files[name] = {**counts, "bytes": (root / name).stat().st_size, "sha256": checksum(root / name)}

    def has(self, root: Path, name: str) -> bool:
        """Whether the file is entered, and there with the size entered."""
        path = root / name
        return name in self.files and path.is_file() and path.stat().st_size == self.files[name]["bytes"]

    def names(self, folder: str) -> list[str]:
        """The entries below a folder, sorted."""
        return sorted(name for name in self.files if name.startswith(folder + "/"))


def checksum(path: Path) -> str:
    """sha256 of a file, in hex."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
