"""Reading Criteo's click logs, on one core: csrc/host against pandas' and pyarrow's CSV readers, to the same arrays.

    python bench/criteo.py [--save] [--rounds N] [--rows N]

Text in memory in the published form, with the file's proportions: 40 columns, a quarter of the numbers and a ninth of
the categories missing, 8 hexadecimal digits a category. The arrays are labels, numbers as int32 with a value for a
missing one, and the hashes of the categories, which the peers compute in NumPy over whole columns. All must agree,
which is checked first. The second case is `prepare criteo` whole, from a file to shards with checksums.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
from pathlib import Path

import harness
import numpy as np
import torch

from airank_fast.data.host import host
from airank_fast.data.tables.criteo import MISSING, NUM_CATEGORIES, NUM_COLUMNS, NUM_NUMBERS, ROW
from airank_fast.sources import criteo
from airank_fast.sources.criteo_lines import parse

NUM_ROWS = 100_000
OURS = "airank_fast"


def made_up_text(num_rows: int) -> bytes:
    """Lines in the published form."""
    rng = np.random.default_rng(0)
    numbers = rng.pareto(0.7, (num_rows, NUM_NUMBERS)).clip(max=10**6).astype(np.int64).astype(str)
    numbers[rng.random(numbers.shape) < 0.25] = ""
    digits = np.char.mod("%08x", rng.zipf(1.1, (num_rows, NUM_CATEGORIES)) * 2654435761 % 2**32)
    digits[rng.random(digits.shape) < 0.11] = ""
    labels = (rng.random((num_rows, 1)) < 0.256).astype(np.int64).astype(str)
    return "".join("\t".join((*a, *b, *c)) + "\n" for a, b, c in zip(labels, numbers, digits, strict=True)).encode()


def by_parser(text: bytes) -> np.ndarray:
    """This project's: `ROW` [n]."""
    rows = np.empty(text.count(b"\n"), ROW)
    parse(text, 0, rows, 0)
    return rows


def mixed(h: np.ndarray) -> np.ndarray:
    """A step of splitmix64 on each element, in place."""
    h += np.uint64(0x9E3779B97F4A7C15)
    h ^= h >> np.uint64(30)
    h *= np.uint64(0xBF58476D1CE4E5B9)
    h ^= h >> np.uint64(27)
    h *= np.uint64(0x94D049BB133111EB)
    h ^= h >> np.uint64(31)
    return h


def hashes(words: np.ndarray, is_missing: np.ndarray, slot: int) -> np.ndarray:
    """Of categories of 8 bytes, as one word each."""
    start = mixed(np.array([slot], np.uint64))
    h = mixed(words + start)
    h[is_missing] = start
    return (h >> np.uint64(32)).astype(np.uint32)


def by_pandas(text: bytes) -> np.ndarray:
    """Pandas' C parser; whole columns."""
    import pandas

    kinds = {column: np.float64 if column <= NUM_NUMBERS else str for column in range(1, NUM_COLUMNS)}
    file = io.BytesIO(text)
    frame = pandas.read_csv(file, sep="\t", header=None, dtype={0: np.int32, **kinds}, engine="c", na_filter=True)
    rows = np.empty(len(frame), ROW)
    rows["label"] = frame[0]
    for i in range(NUM_NUMBERS):
        rows["numbers"][:, i] = frame[1 + i].fillna(MISSING)
    for i in range(NUM_CATEGORIES):
        column = frame[1 + NUM_NUMBERS + i]
        words = column.fillna("").to_numpy(object).astype("S8").view(np.uint64)
        rows["hashes"][:, i] = hashes(words, words == 0, i + 1)
    return rows


def by_pyarrow(text: bytes) -> np.ndarray:
    """Pyarrow's CSV reader with one thread; categories are read from its buffers without a Python object each."""
    import pyarrow
    from pyarrow import csv

    names = [str(column) for column in range(NUM_COLUMNS)]
    kinds = {name: pyarrow.int32() if int(name) <= NUM_NUMBERS else pyarrow.binary() for name in names}
    table = csv.read_csv(
        pyarrow.BufferReader(text),
        csv.ReadOptions(use_threads=False, column_names=names, block_size=len(text)),
        csv.ParseOptions(delimiter="\t", quote_char=False),
        csv.ConvertOptions(column_types=kinds, strings_can_be_null=False),
    )
    rows = np.empty(len(table), ROW)
    rows["label"] = table["0"].to_numpy()
    for i in range(NUM_NUMBERS):
        rows["numbers"][:, i] = table[names[1 + i]].fill_null(MISSING).to_numpy()
    for i in range(NUM_CATEGORIES):
        column = table[names[1 + NUM_NUMBERS + i]].combine_chunks()
        _, offsets, data = column.buffers()
        begin = np.frombuffer(offsets, np.int32, len(column) + 1)
        content = np.frombuffer(bytes(data) + bytes(8), np.uint8)
        every = np.lib.stride_tricks.as_strided(content[:8].view(np.uint64), (len(content) - 7,), (1,))
        rows["hashes"][:, i] = hashes(every[begin[:-1]], np.diff(begin) == 0, i + 1)
    return rows


def main() -> None:
    """Check, time, print; save on request."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save", action="store_true", help="append the results to bench/results/criteo.jsonl")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--rows", type=int, default=NUM_ROWS)
    arguments = parser.parse_args()
    if host is None:
        raise SystemExit("airank_fast._host: must be built, got none (python setup.py build_ext --inplace)")
    if arguments.save and not harness.wait_until_idle():
        parser.exit(1, "the machine is busy: nothing was measured\n")
    torch.set_num_threads(1)
    text = made_up_text(arguments.rows)
    expected = by_parser(text)
    contestants = {OURS: lambda: by_parser(text)}
    for name, function in (("pandas", by_pandas), ("pyarrow", by_pyarrow)):
        if harness.is_there(name):
            np.testing.assert_array_equal(function(text), expected)
            contestants[name] = lambda function=function: function(text)
    facts = {"num_rows": arguments.rows, "num_bytes": len(text), "threads": 1}
    report(arguments, "text to rows", contestants, facts)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.txt"
        path.write_bytes(text)
        count = iter(range(10**6))

        def prepare() -> None:
            root = Path(folder) / str(next(count))
            criteo.prepare([path], root, shard_rows=criteo.SHARD_ROWS, partial_set=True, skip_corrupt=False)

        report(arguments, "prepare criteo", {OURS: prepare}, facts)


def report(arguments, case: str, contestants: dict, facts: dict) -> None:
    """Time and print one case; save it on request."""
    times = harness.time_rounds(contestants, num_rounds=arguments.rounds)
    rates = {name: round(arguments.rows / statistics.median(values)) for name, values in times.items()}
    print(harness.as_text(case, times, OURS))
    print("  rows/s and core: " + ", ".join(f"{name} {rate:,}" for name, rate in rates.items()))
    if arguments.save:
        harness.save("criteo", case, times, OURS, rows_per_s=rates, **facts)


if __name__ == "__main__":
    main()
