"""Whether the tests of this folder have passed with the sources as they are: they take minutes, and find the same.

`make kernels` runs them and saves the checksum of all that goes into them with the result, in
bench/results/suite.jsonl. `make test` skips them while the checksum is the same; --kernels runs them all the same.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench/results/suite.jsonl"
SOURCES = (
    "CMakeLists.txt",
    "csrc/**/*",
    "tests/cpp/*",
    "tests/cuda_on_cpu/*",
    "tests/ops/*.py",
    "tests/conftest.py",
    "airank_fast/ops/*.py",
)


def checksum() -> str:
    """SHA-256 of the sources' names and contents."""
    digest = hashlib.sha256()
    for pattern in SOURCES:
        for path in sorted(path for path in ROOT.glob(pattern) if path.is_file()):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(ROOT).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def result() -> dict | None:
    """The last saved result with these sources, if all tests passed and none was skipped."""
    now = checksum()
    lines = map(json.loads, RESULTS.read_text().splitlines()) if RESULTS.exists() else ()
    found = [line for line in lines if line.get("checksum") == now and not line["failed"] and not line["skipped"]]
    return found[-1] if found else None
