"""The table that comes with the package: 48,842 people of the United States' census of 1994, by their income.

Source: B. Becker and R. Kohavi, "Adult", UCI Machine Learning Repository, 1996, https://doi.org/10.24432/C5XW20,
licence CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/). `adult.npz` holds UCI's two files one after the other,
adult.data (training, 32,561 rows) and adult.test (16,281 rows), without the sampling weight `fnlwgt`: a number column
as unsigned integers, a text column as uint8 codes and its texts as NAME_names, `label` 1 for an income above 50,000 $ a
year (24.1 % and 23.6 % of the rows). `python -m airank_fast.sources.adult` makes it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from airank_fast.data.tables.rows import Table

NAME = "UCI Adult (CC BY 4.0)"
NUM_TRAIN = 32_561
NUMBERS = ("age", "education_num", "capital_gain", "capital_loss", "hours_per_week")
SLOTS = {
    "workclass": 10,
    "education": 17,
    "marital_status": 8,
    "occupation": 16,
    "relationship": 7,
    "race": 6,
    "sex": 3,
    "native_country": 43,
    "age": 74,
    "education_num": 17,
    "capital_gain": 120,
    "capital_loss": 93,
    "hours_per_week": 95,
}
"""Every column as categories: the number of different values in training rows, and one more for any other value."""
CROSSES = (
    ("education", "occupation"),
    ("native_country", "occupation"),
    ("age", "education"),
    ("marital_status", "hours_per_week"),
)
"""Columns whose combinations a linear model needs."""
_MONEY = ("capital_gain", "capital_loss")  # mostly 0, and up to 99,999


def load() -> Table:
    """The table. A number column is in it twice: as a number, and by its value as a category.

    Numbers have mean 0 and variance 1 over the training rows, amounts of money by their log(1 + x). Id 0 of a slot is a
    value that no training row has; the others are in the order of the values.
    """
    with np.load(Path(__file__).with_name("adult.npz")) as archive:
        columns = {name: archive[name] for name in (*SLOTS, "label")}
    numbers = {name: np.log1p(columns[name]) if name in _MONEY else columns[name] for name in NUMBERS}
    return Table.from_columns(SLOTS, numbers, columns, columns["label"], NUM_TRAIN)
