"""Makes data/text/wordnet.txt.xz, glosses of WordNet 3.0, from Debian's package wordnet-base 1:3.0-37.

apt-get download wordnet-base
python -m airank_fast.sources.wordnet wordnet-base_1%3a3.0-37_all.deb wordnet.txt.xz

A gloss is a line of lower-case words in letters. Kept are the glosses of which every word is in all glosses together at
least LEAST times. The lines of WordNet's notice, which begin with two spaces in its own files, come first.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import lzma
import re
import sys
import tarfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from airank_fast.errors import require

SHA256 = "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752"  # of the package
FILES = tuple(f"usr/share/wordnet/data.{part}" for part in ("noun", "verb", "adj", "adv"))
LEAST = 5
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)*")
_MAGIC, _HEADER = b"!<arch>\n", 60  # of an ar archive, of a member


def members(archive: bytes) -> dict[str, bytes]:
    """The files of an ar archive, as a Debian package is one."""
    require(archive.startswith(_MAGIC), "package", "a Debian package", "another file")
    found, position = {}, len(_MAGIC)
    while position < len(archive):
        header = archive[position : position + _HEADER]
        size = int(header[48:58])
        position += _HEADER
        found[header[:16].decode().strip(" /")] = archive[position : position + size]
        position += size + size % 2
    return found


def data_files(package: bytes) -> list[list[str]]:
    """The lines of each of FILES in the package."""
    (data,) = [content for name, content in members(package).items() if name.startswith("data.tar")]
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return [archive.extractfile(f"./{name}").read().decode("ascii").splitlines() for name in FILES]


def notice(lines: Iterable[str]) -> list[str]:
    """The lines of the notice at the beginning of a data file, as they are there, without their numbers."""
    return [re.sub(r"^  (\d+)(.*?) *$", r" \2", line) for line in lines if line.startswith("  ")]


def glosses(lines: Iterable[str]) -> list[list[str]]:
    """The words of the gloss of each synset: what is behind the bar."""
    return [_WORD.findall(line.partition("|")[2].lower()) for line in lines if not line.startswith("  ")]


def of_frequent_words(sentences: list[list[str]], least: int) -> list[list[str]]:
    """The sentences of which every word is in all sentences together at least `least` times."""
    counts = Counter(word for sentence in sentences for word in sentence)
    return [sentence for sentence in sentences if all(counts[word] >= least for word in sentence)]


def convert(files: list[list[str]], least: int = LEAST) -> str:
    """The text of wordnet.txt.xz from the lines of the data files."""
    kept = of_frequent_words([gloss for lines in files for gloss in glosses(lines)], least)
    return "".join(f"{line}\n" for line in (*notice(files[0]), *map(" ".join, filter(None, kept))))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    package = arguments.package.read_bytes()
    found = hashlib.sha256(package).hexdigest()
    require(found == SHA256, arguments.package.name, f"wordnet-base 1:3.0-37, of SHA-256 {SHA256}", found)
    text = convert(data_files(package)).encode("ascii")
    arguments.target.write_bytes(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))
    return 0


if __name__ == "__main__":
    sys.exit(main())
