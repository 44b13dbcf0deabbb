"""Makes data/text/questions-words.txt.xz, word2vec's analogy questions, from the wheel of gensim 4.4.0.

pip download --no-deps gensim==4.4.0
python -m airank_fast.sources.questions_words gensim-4.4.0-*.whl questions-words.txt.xz
"""

from __future__ import annotations

import argparse
import hashlib
import lzma
import sys
import zipfile
from pathlib import Path

from airank_fast.errors import require

INSIDE = "gensim/test/test_data/questions-words.txt"
SHA256 = "8c29b3332afc46f3fb8be04cb5297bf96f39aa7131272dff57869b4485b22a36"  # of that file


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    with zipfile.ZipFile(arguments.wheel) as archive:
        text = archive.read(INSIDE)
    found = hashlib.sha256(text).hexdigest()
    require(found == SHA256, arguments.wheel.name, f"a wheel with {INSIDE} of SHA-256 {SHA256}", found)
    arguments.target.write_bytes(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))
    return 0


if __name__ == "__main__":
    sys.exit(main())
