"""Turns Criteo's published click logs into shards of fixed-width rows: see airank_fast/data/tables/criteo.py.

The input is train.txt, plain, as gzip, or inside the published dac.tar.gz. It is read in blocks and in order, once; the
memory needed is that of a block and a shard, whatever the number of rows. A shard is complete or absent, and the
manifest states where its last line ends, from where the same command goes on. An interruption changes no byte.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm

from airank_fast.data.manifest import Manifest
from airank_fast.data.tables.criteo import KIND, MISSING, NUM_NUMBERS, NUM_ROWS, ROW, open_shard
from airank_fast.data.text.shards import whole_file
from airank_fast.errors import UserError, require
from airank_fast.sources.criteo_lines import MOST_BYTES, parse, parse_line

SHARD_ROWS, MOST_SHARD_ROWS = 2**18, 2**24
MOST_CORRUPT = 10_000  # lines that are left out
BLOCK_BYTES = 2**22
_MEMBER = "train.txt"
_BROKEN = (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError)


def prepare(inputs: list[Path], root: Path, *, shard_rows: int, partial_set: bool, skip_corrupt: bool) -> Manifest:
    """Write the shards that are not written yet; returns the finished manifest.

    shard_rows: of all shards but the last one of each input. partial_set: accept another number of rows than that of
    Kaggle's set. skip_corrupt: leave out bad lines, at most MOST_CORRUPT, and list them in the manifest.
    UserError: a bad line, by file and number; an input that is missing, empty, given twice or truncated; a directory
    with a data set of other inputs or options.
    """
    for path in inputs:
        require(path.is_file(), "--input", "files", f"{path}, {'a directory' if path.is_dir() else 'which is missing'}")
        require(path.stat().st_size, str(path), "a file with lines", "an empty file")
    twice = len({path.resolve() for path in inputs}) < len(inputs)
    require(not twice, "--input", "files that differ", "one of them twice")
    (root / "rows").mkdir(parents=True, exist_ok=True)
    options = {
        "inputs": [f"{path.name}, {path.stat().st_size} bytes" for path in inputs],
        "shard_rows": shard_rows,
        "skip_corrupt": skip_corrupt,
    }
    nothing = {"done": False, "rows": 0, "clicks": 0, "corrupt": [], "input": 0, "byte": 0, "line": 0}
    manifest = Manifest.begin(root, KIND, options, {"rows": nothing})
    manifest.require_options(root, options)
    stage = manifest.stages["rows"]
    sizes = [path.stat().st_size for path in inputs]
    with tqdm(total=sum(sizes), unit="B", unit_scale=True, disable=None) as bar:
        for number in range(stage["input"], len(inputs)):
            bar.update(sum(sizes[:number]) - bar.n)
            _Writer(manifest, root, inputs[number], bar).write()
            stage.update(input=number + 1, byte=0, line=0)
            manifest.save(root)
    if not partial_set:
        what = f"{NUM_ROWS:,} rows in all, as Kaggle's set (--partial accepts what is there)"
        require(stage["rows"] == NUM_ROWS, "--input", what, f"{stage['rows']:,}")
    manifest.options["partial"] = partial_set
    stage["done"] = True
    manifest.save(root)
    return manifest


class _Writer:
    """Writes the shards of one input, from where the manifest's stage is."""

    def __init__(self, manifest: Manifest, root: Path, path: Path, bar: tqdm) -> None:
        self.manifest, self.root, self.path, self.bar = manifest, root, path, bar
        self.stage = manifest.stages["rows"]
        self.line, self.byte = self.stage["line"], self.stage["byte"]
        self.corrupt: list[list[str]] = []
        self.rows = np.empty(manifest.options["shard_rows"], ROW)
        self.filled, self.before = 0, bar.n

    def write(self) -> None:
        """All shards that are left, and the manifest after each."""
        with _reading(self.path, self) as file:
            if self.byte:
                file.seek(self.byte)
            for text, dropped in _whole_lines(file):
                self.byte += dropped
                self._take(text)
                self.bar.update(max(0, self.before + min(_position(file), self.path.stat().st_size) - self.bar.n))
        if not self.line:
            raise UserError(f"{self.path}: must be a file with lines, got an empty file")
        if self.filled or self.corrupt:
            self._save()

    def _take(self, text: bytes) -> None:
        begin = 0
        while begin < len(text):
            rows, end = parse(text, begin, self.rows, self.filled)
            self.filled += rows
            self.line += rows
            self.byte += end - begin
            begin = end
            if self.filled < len(self.rows) and begin < len(text):
                stop = text.index(b"\n", begin) + 1
                self._bad_line(text[begin:stop])
                self.byte += stop - begin
                begin = stop
            if self.filled == len(self.rows):
                self._save()

    def _bad_line(self, line: bytes) -> None:
        """Of a line at which the parser stopped: leave it out, or raise its UserError."""
        self.line += 1
        where = f"{self.path}, line {self.line}"
        try:
            self.rows[self.filled] = parse_line(line, where).view(ROW)[0]
            self.filled += 1
        except UserError as error:
            if not self.manifest.options["skip_corrupt"]:
                raise
            self.corrupt.append([where, str(error).removeprefix(f"{where}: ")])
            number = len(self.corrupt) + len(self.stage["corrupt"])
            require(number <= MOST_CORRUPT, str(self.path), f"a file of at most {MOST_CORRUPT:,} bad lines", "more")

    def _save(self) -> None:
        stage, rows = self.stage, self.rows[: self.filled]
        if self.filled:
            name = f"rows/{len(self.manifest.files):06d}.npy"
            with whole_file(self.root / name) as partial, open(partial, "wb") as file:
                np.save(file, rows)
            self.manifest.add(self.root, name, **facts(rows))
        stage.update(line=self.line, byte=self.byte, rows=stage["rows"] + len(rows))
        stage["clicks"] += int(rows["label"].sum())
        stage["corrupt"] += self.corrupt
        self.manifest.save(self.root)
        self.filled, self.corrupt = 0, []


@contextlib.contextmanager
def _reading(path: Path, writer: _Writer) -> Iterator[BinaryIO]:
    """The text of an input: the file itself, what is compressed in it, or train.txt in a tar."""
    try:
        with contextlib.ExitStack() as stack:
            yield _text(path, stack)
    except _BROKEN as error:
        reason = " ".join(str(error).split())
        got = f"one that is truncated or damaged behind line {writer.line:,} ({reason})"
        raise UserError(f"{path}: must be a whole file, got {got}") from None


def _text(path: Path, stack: contextlib.ExitStack) -> BinaryIO:
    if {".tar", ".tgz"} & set(path.suffixes):
        tar = stack.enter_context(tarfile.open(path))  # noqa: SIM115
        for member in tar:
            if member.isfile() and PurePosixPath(member.name).name == _MEMBER:
                found = tar.extractfile(member)
                assert found is not None, "a file has content"
                return found  # type: ignore[return-value]
        raise UserError(f"{path}: must be Criteo's archive with {_MEMBER}, got one without")
    file = stack.enter_context(open(path, "rb"))  # noqa: SIM115
    if file.read(2) == b"\x1f\x8b":
        file.seek(0)
        return stack.enter_context(gzip.GzipFile(fileobj=file))  # type: ignore[return-value]
    file.seek(0)
    return file


def _position(file: Any) -> int:
    """About how many bytes of the input have been read."""
    inner = getattr(file, "fileobj", file)
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return int(inner.tell())
    return 0


def _whole_lines(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """(text, dropped): the text in blocks of whole lines, each with a line feed, which the last line may lack.

    Of a last line that is longer than allowed only the beginning is kept; `dropped` is the number of its other bytes.
    """
    rest = b""
    while block := file.read(BLOCK_BYTES):
        whole, feed, rest = (rest + block).rpartition(b"\n")
        if feed:
            yield whole + feed, 0
        if len(rest) > MOST_BYTES + 1:
            kept, dropped, rest = rest[: MOST_BYTES + 1], len(rest) - MOST_BYTES - 1, b""
            while block := file.read(BLOCK_BYTES):
                end, feed, rest = block.partition(b"\n")
                dropped += len(end)
                if feed:
                    break
            yield kept + b"\n", dropped
    if rest:
        yield rest.removesuffix(b"\n") + b"\n", 0


def facts(rows: np.ndarray) -> dict[str, Any]:
    """Of a shard: counts, the range of each number, and a digest of its rows in any order."""
    numbers = rows["numbers"]
    there = numbers != MISSING
    words = np.ascontiguousarray(rows).view(np.uint64).reshape(len(rows), -1)
    with np.errstate(over="ignore"):
        h = words @ _FACTORS
        h = (h ^ (h >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
        content = (h ^ (h >> np.uint64(32))).sum(dtype=np.uint64)
    return {
        "rows": len(rows),
        "clicks": int(rows["label"].sum()),
        "missing": int(there.size - there.sum()),
        "least": np.where(there, numbers, 2**31 - 1).min(0).tolist(),
        "greatest": np.where(there, numbers, MISSING).max(0).tolist(),
        "content": f"{int(content):016x}",
    }


_FACTORS = np.array(
    [int.from_bytes(hashlib.sha256(bytes([i])).digest()[:8], "little") | 1 for i in range(ROW.itemsize // 8)],
    np.uint64,
)


def verify(manifest: Manifest, root: Path) -> tuple[list[str], list[str]]:
    """(summary, problems) by line, after reading every shard."""
    stage, names = manifest.stages.get("rows", {}), manifest.names("rows")
    problems = manifest.unfinished("rows")
    for name in tqdm(names, unit="file", desc="verify", disable=None):
        problems += manifest.changed(root, name) or _check_shard(name, root, manifest.files[name])
    problems += manifest.copies(names, "content", "rows") + manifest.unlisted(root, "rows")
    rows, clicks = (sum(manifest.files[name][key] for name in names) for key in ("rows", "clicks"))
    if not manifest.options.get("partial") and rows != NUM_ROWS:
        problems.append(f"rows: must have {NUM_ROWS:,} rows, got {rows:,}")
    lines = [f"rows       {rows:>13,} in {len(names):,} shards, {clicks / max(1, rows):.2%} clicks"]
    if names:
        least, greatest = (np.array([manifest.files[name][key] for name in names]) for key in ("least", "greatest"))
        ranges = zip(least.min(0).tolist(), greatest.max(0).tolist(), strict=True)
        lines.append("numbers    " + ", ".join(f"{a} to {b}" for a, b in ranges))
        missing = sum(manifest.files[name]["missing"] for name in names)
        lines.append(f"missing    {missing:>13,} numbers, {missing / (NUM_NUMBERS * max(1, rows)):.2%}")
    lines += [f"left out   {where}: {why}" for where, why in stage.get("corrupt", [])]
    return lines, problems


def _check_shard(name: str, root: Path, entry: dict) -> list[str]:
    try:
        rows = open_shard(root / name, entry["rows"])
    except UserError as error:
        return [str(error)]
    labels = np.unique(rows["label"])
    wrong = [f"{name}: must have labels of 0 or 1, got {value}" for value in labels if value not in (0, 1)]
    found = facts(rows)
    return wrong + [
        f"{name}: must have {key} {entry[key]}, got {value}" for key, value in found.items() if entry[key] != value
    ]
