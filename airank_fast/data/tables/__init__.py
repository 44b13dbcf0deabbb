"""Tables for training and evaluation: rows of numbers, categorical ids and a label of 0 or 1.

    table = adult.load()
    reader = RowReader(table.train, table.held_out, stream, rank=0, world_size=1, eval_batch_size=4096)
    for batch in prefetch(reader.train(first_step=0), device): ...

A slot is a categorical column; its ids are 0 ... size - 1.
"""

from airank_fast.data.tables import adult, criteo, flights
from airank_fast.data.tables.rows import RowBatch, RowReader, Rows, Table, cross, prefetch

__all__ = ["RowBatch", "RowReader", "Rows", "Table", "adult", "criteo", "cross", "flights", "prefetch"]
