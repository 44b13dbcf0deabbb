"""The embedded table, crosses of columns, and the reader of rows."""

from __future__ import annotations

import io
from datetime import date, timedelta
from itertools import islice

import numpy as np
import pytest
import torch

from airank_fast.data.sampling import TrainStream, permutation
from airank_fast.data.tables import RowReader, Rows, Table, adult, cross, flights, prefetch
from airank_fast.errors import UserError
from airank_fast.sources.adult import convert
from airank_fast.sources.flights import arrived
from airank_fast.sources.flights import convert as convert_flights

NUM_TRAIN, NUM_HELD_OUT = 40, 13


@pytest.fixture(scope="module")
def embedded():
    return adult.load()


def raw(module=adult) -> dict[str, np.ndarray]:
    """The arrays of the file."""
    with np.load(module.__file__.replace(".py", ".npz")) as archive:
        return dict(archive)


def test_the_file_is_ucis(embedded):
    """The counts that UCI's adult.names and other users state, and the first and the last row."""
    columns = raw()
    label = columns["label"]
    assert (len(label), int(label[: adult.NUM_TRAIN].sum()), int(label[adult.NUM_TRAIN :].sum())) == (
        48_842,
        7841,
        3846,
    )
    missing = {name: int((texts(columns, name)[: adult.NUM_TRAIN] == "?").sum()) for name in TEXTS}
    assert {name: count for name, count in missing.items() if count} == {
        "workclass": 1836,
        "occupation": 1843,
        "native_country": 583,
    }
    first = {name: texts(columns, name)[0] if name in TEXTS else int(columns[name][0]) for name in adult.SLOTS}
    assert first == {
        "workclass": "State-gov",
        "education": "Bachelors",
        "marital_status": "Never-married",
        "occupation": "Adm-clerical",
        "relationship": "Not-in-family",
        "race": "White",
        "sex": "Male",
        "native_country": "United-States",
        "age": 39,
        "education_num": 13,
        "capital_gain": 2174,
        "capital_loss": 0,
        "hours_per_week": 40,
    }
    assert set(columns) == {*adult.SLOTS, *(f"{name}_names" for name in TEXTS), "label"}


TEXTS = tuple(name for name in adult.SLOTS if name not in adult.NUMBERS)


def texts(columns, name):
    return columns[f"{name}_names"][columns[name]]


def test_its_slots_have_the_ids_of_training_rows(embedded):
    assert embedded.train.ids.shape == (32_561, 13)
    assert embedded.held_out.ids.shape == (16_281, 13)
    assert embedded.train.ids.min(0).tolist() == [1] * 13
    assert dict(zip(embedded.slots, (embedded.train.ids.max(0) + 1).tolist(), strict=True)) == adult.SLOTS
    unseen = {name for name, number in zip(adult.SLOTS, (embedded.held_out.ids == 0).sum(0), strict=True) if number}
    assert unseen == {"age", "capital_gain", "capital_loss", "hours_per_week"}


def test_equal_ids_are_equal_values(embedded):
    columns = raw()
    for place, name in enumerate(adult.SLOTS):
        pairs = np.stack([embedded.train.ids[:, place], columns[name][: adult.NUM_TRAIN]], 1)
        assert len(np.unique(pairs, axis=0)) == adult.SLOTS[name] - 1 == len(np.unique(pairs[:, 1]))


def test_its_numbers_are_scaled_over_training_rows(embedded):
    dense = embedded.train.dense.astype(np.float64)
    assert dense.shape == (32_561, 5)
    assert np.abs(dense.mean(0)).max() < 1e-6
    assert np.abs(dense.std(0) - 1).max() < 1e-6
    assert all(part.dense.dtype == np.float32 for part in (embedded.train, embedded.held_out))


def test_the_file_is_made_of_a_packages_table():
    """Held-out rows come first there; the weight is left out, names are UCI's, texts become codes."""
    columns = {
        "age": [40, 30, 20],
        "fnlwgt": [9, 9, 9],
        "educational-num": [1, 300, 2],
        "gender": ["Male", "Female", "Male"],
        "income": [">50K", "<=50K", ">50K"],
    }
    arrays = convert(columns, num_test=1)
    assert {name: array.tolist() for name, array in arrays.items()} == {
        "age": [30, 20, 40],
        "education_num": [300, 2, 1],
        "sex": [0, 1, 1],
        "sex_names": ["Female", "Male"],
        "label": [0, 1, 1],
    }
    assert [arrays[name].dtype for name in ("age", "education_num", "sex", "label")] == ["u1", "u2", "u1", "u1"]


FLIGHTS = """year,month,day,dep_time,arr_delay,carrier,flight,tailnum,origin,dest,hour,minute
2013,1,1,517,11,UA,1545,N14228,EWR,IAH,5,15
2013,1,1,,NA,UA,1,N14228,EWR,IAH,5,15
2013,12,31,1200,16,B6,7,N593JB,JFK,PSE,23,59
2013,3,2,1200,15.0,B6,7,N593JB,JFK,SJU,0,0
"""


def test_flights_are_made_of_a_packages_table():
    """Without those that did not arrive; 15 minutes are not late."""
    arrays = convert_flights(arrived(io.StringIO(FLIGHTS)))
    assert {name: array.tolist() for name, array in arrays.items()} == {
        "carrier": [1, 0, 0],
        "carrier_names": ["B6", "UA"],
        "origin": [0, 1, 1],
        "origin_names": ["EWR", "JFK"],
        "dest": [0, 1, 2],
        "dest_names": ["IAH", "PSE", "SJU"],
        "tailnum": [0, 1, 1],
        "tailnum_names": ["N14228", "N593JB"],
        "flight": [1545, 7, 7],
        "day_of_year": [1, 365, 61],
        "hour": [5, 23, 0],
        "quarter": [1, 3, 0],
        "label": [0, 1, 0],
    }


def test_the_file_of_flights():
    table, columns = flights.load(), raw(flights)
    assert [len(columns[f"{name}_names"]) for name in ("carrier", "origin", "dest", "tailnum")] == [16, 3, 104, 3823]
    assert [int(rows.labels.sum()) for rows in (table.train, table.held_out)] == [18_958, 4745]
    assert [len(rows.labels) for rows in (table.train, table.held_out)] == [80_000, 20_000]
    assert dict(zip(table.slots, (table.train.ids.max(0) + 1).tolist(), strict=True)) == flights.SLOTS
    unseen = {name for name, number in zip(table.slots, (table.held_out.ids == 0).sum(0), strict=True) if number}
    assert unseen == {"tailnum", "flight"}
    assert table.checksum() == "094c41169d70cc3002a0a22c931bd1eaf715786f95fd429d96d270ec3dc03198"


def test_a_flights_weekday_and_month_are_the_calendars():
    table, columns = flights.load(), raw(flights)
    places = {name: place for place, name in enumerate(table.slots)}
    for row in range(50):
        day = date(2013, 1, 1) + timedelta(days=int(columns["day_of_year"][row]) - 1)
        found = [int(table.train.ids[row, places[name]]) for name in ("weekday", "month")]
        assert found == [day.isoweekday(), day.month]


def mix(h: int) -> int:
    """A step of splitmix64 in whole numbers."""
    h = (h + 0x9E3779B97F4A7C15) % 2**64
    h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    h = (h ^ (h >> 27)) * 0x94D049BB133111EB % 2**64
    return h ^ (h >> 31)


def test_a_cross_is_splitmix64_over_the_ids():
    a, b, c = np.random.default_rng(0).integers(0, 1000, (3, 50), dtype=np.int32)
    assert cross([a, b], 97).tolist() == [mix(mix(x) + y) % 97 for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    assert cross([a, b, c], 1000)[7] == mix(mix(mix(int(a[7])) + int(b[7])) + int(c[7])) % 1000
    assert mix(0) == 0xE220A8397B1DCDAF  # the first word of splitmix64 from state 0, as published
    assert (cross([a, b], 1) == 0).all()
    assert (cross([a, b], 97) != cross([b, a], 97)).any()


def table() -> Table:
    """Rows whose ids tell their numbers."""
    sides = []
    for number in (NUM_TRAIN, NUM_HELD_OUT):
        rows = np.arange(number)
        ids = np.stack([rows, rows % 3], 1).astype(np.int32)
        sides.append(Rows(rows[:, None].astype(np.float32), ids, (rows % 2).astype(np.float32)))
    return Table({"row": NUM_TRAIN, "third": 3}, ("number",), *sides)


def test_crosses_are_further_slots():
    crossed = table().crossed([("third", "row"), ("row", "row")], 7)
    assert crossed.slots == {"row": NUM_TRAIN, "third": 3, "third_x_row": 7, "row_x_row": 7}
    for rows, before in ((crossed.train, table().train), (crossed.held_out, table().held_out)):
        assert np.array_equal(rows.ids[:, :2], before.ids)
        assert np.array_equal(rows.ids[:, 2], cross([before.ids[:, 1], before.ids[:, 0]], 7))
        assert rows.ids.dtype == np.int32


@pytest.mark.parametrize("side", ["train", "held_out"])
@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("ids", 3, r"third: must be an id in \[0, 3\), got 3"),
        ("ids", -1, r"third: must be an id in \[0, 3\), got -1"),
        ("labels", 2, r"label: must be 0 or 1, got 2.0"),
    ],
)
def test_values_out_of_range_are_refused(side, part, value, message):
    good = table()
    sides = {"train": good.train, "held_out": good.held_out}
    getattr(sides[side], part)[5, ...] = [0, value] if part == "ids" else value
    with pytest.raises(UserError, match=message):
        Table(good.slots, good.numbers, **sides)


def reader(*, rank=0, world_size=1, batch_size_local=8):
    global_batch_size = 8 if world_size < 3 else 24
    stream = TrainStream(
        NUM_TRAIN,
        3,
        batch_size_local=batch_size_local,
        global_batch_size=global_batch_size,
        rank=rank,
        world_size=world_size,
    )
    whole = table()
    return RowReader(whole.train, whole.held_out, stream, rank=rank, world_size=world_size, eval_batch_size=4)


def rows_of(batches):
    return [batch.samples.tolist() for batch in prefetch(batches, "cpu")]


def test_training_is_one_permutation_after_the_other():
    seen = [row for rows in rows_of(islice(reader().train(), 10)) for row in rows]
    assert seen == [*permutation(NUM_TRAIN, 3, 0), *permutation(NUM_TRAIN, 3, 1)]


def test_a_batch_has_the_parts_of_its_rows():
    (batch,) = prefetch(islice(reader().train(2), 1), "cpu")
    rows = batch.samples
    assert (batch.num_samples, batch.units, batch.weight) == (8, 8, 1.0)
    assert torch.equal(batch.dense, rows[:, None].float())
    assert torch.equal(batch.ids, torch.stack([rows, rows % 3], 1).int())
    assert torch.equal(batch.labels, (rows % 2).float())
    assert set(batch.tensors()) == {"dense", "ids", "labels", "samples"}


def test_a_resumed_stream_continues():
    assert rows_of(islice(reader().train(), 3, 7)) == rows_of(islice(reader().train(3), 4))


def test_ranks_and_micro_batches_share_the_global_batch():
    whole = rows_of(islice(reader().train(), 4))
    parts = [rows_of(islice(reader(rank=rank, world_size=2, batch_size_local=2).train(), 8)) for rank in (0, 1)]
    assert [
        a1 + a2 + b1 + b2 for a1, a2, b1, b2 in zip(*(p[i::2] for p in parts for i in (0, 1)), strict=True)
    ] == whole


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_each_held_out_row_is_evaluated_once(world_size):
    parts = [
        rows_of(reader(rank=rank, world_size=world_size, batch_size_local=4).evaluate()) for rank in range(world_size)
    ]
    assert [row for part in parts for rows in part for row in rows] == list(range(NUM_HELD_OUT))
    assert all(len(rows) <= 4 for part in parts for rows in part)
