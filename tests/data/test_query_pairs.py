"""Lines of pairs: every bad one is named, and samples are pure functions of seed and position."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

from airank_fast.data.sampling import TrainStream
from airank_fast.data.text.query_pairs import MOST_BYTES, Line, PairReader, Pairs, read_lines, split
from airank_fast.errors import UserError

GOOD = "怎么查余额\t如何查询余额\t1\n怎么查余额\t怎么还款\t0\n"


def write(tmp_path, content: str | bytes):
    path = tmp_path / "pairs.tsv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


LINES = [Line("怎么查余额", "如何查询余额", 1), Line("怎么查余额", "怎么还款", 0)]


@pytest.mark.parametrize(
    "content",
    [GOOD, GOOD.removesuffix("\n"), GOOD.replace("\n", "\r\n"), "\ufeff" + GOOD],
    ids=["LF", "no newline at the end", "CRLF", "byte order mark"],
)
def test_the_forms_of_a_file(content, tmp_path):
    assert read_lines(write(tmp_path, content)) == (LINES, [])


BAD = {
    "short row": ("q\td\n", "a line QUERY TAB DOCUMENT TAB LABEL, got 2 columns"),
    "long row": ("q\td\t1\t1\n", "a line QUERY TAB DOCUMENT TAB LABEL, got 4 columns"),
    "empty row": ("\n", "a line QUERY TAB DOCUMENT TAB LABEL, got 1 columns"),
    "label of 2": ("q\td\t2\n", "a line with a label of 0 or 1, got '2'"),
    "a header": ("text_a\ttext_b\tlabel\n", "a line with a label of 0 or 1, got 'label'"),
    "empty document": ("q\t \t1\n", "a line with a query and a document, got an empty one"),
    "GBK": ("怎么\t还款\t1\n".encode("gbk"), "UTF-8, got byte 0xD4 at position 1 (GBK can be converted by iconv)"),
    "1 MB": (b"q" * 2**20 + b"\td\t1\n", f"a line of at most {MOST_BYTES:,} bytes, got a longer one"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_is_named_or_left_out(name, tmp_path):
    content, trouble = BAD[name]
    content = content.encode() if isinstance(content, str) else content
    path = write(tmp_path, GOOD.encode() + content + GOOD.encode())
    with pytest.raises(UserError) as error:
        read_lines(path)
    assert str(error.value) == f"{path}, line 3: must be {trouble}"
    lines, corrupt = read_lines(path, skip_corrupt=True)
    assert lines == LINES * 2
    assert corrupt == [(f"{path}, line 3", f"must be {trouble}")]


def test_a_file_without_a_line(tmp_path):
    path = write(tmp_path, "")
    with pytest.raises(UserError, match=r"pairs.tsv: must be a file of lines QUERY .* got an empty file"):
        read_lines(path)
    with pytest.raises(UserError, match=r"pairs.tsv: must be a file of lines QUERY .* got none"):
        read_lines(write(tmp_path, "q\td\n"), skip_corrupt=True)
    with pytest.raises(UserError, match=r"nowhere: must be a file of lines QUERY .* got no file"):
        read_lines(tmp_path / "nowhere")


def test_all_lines_of_a_query_are_on_one_side():
    lines = [Line(f"query {number % 200}", f"document {number}", number % 2) for number in range(1000)]
    train, held_out = split(lines)
    assert len(train) + len(held_out) == 1000
    assert 25 < len(held_out) < 200
    assert not {line.query for line in train} & {line.query for line in held_out}
    assert split(lines[500:])[1] == [line for line in lines[500:] if line in held_out]


def made_up() -> list[Line]:
    """Query n matches document n; query 0 has two that do not match, the others have none."""
    lines = [Line(f"query {n}", f"document {n}", 1) for n in range(12)]
    return [*lines, Line("query 0", "other a", 0), Line("query 0", "other b", 0), Line("query 0", "document 1", 1)]


def reader(*, negatives: int = 3, rank: int = 0, world_size: int = 1, parts: int = 1) -> PairReader:
    pairs = Pairs.of(made_up(), 1000)
    shard = {"batch_size_local": 12 // world_size // parts, "global_batch_size": 12, "rank": rank}
    stream = TrainStream(len(pairs.matching), 5, world_size=world_size, **shard)
    return PairReader(pairs, pairs, stream, negatives=negatives, eval_batch_size=4, rank=rank, world_size=world_size)


def batches(made: PairReader, number: int, first_step: int = 0):
    training = made.train("cpu", first_step)
    taken = list(islice(training, number))
    training.close()
    return taken


def test_equal_texts_have_one_number():
    pairs = Pairs.of(made_up(), 1000)
    assert (len(pairs), pairs.queries.num_texts, pairs.documents.num_texts) == (15, 12, 14)
    assert pairs.matching.tolist() == [*range(12), 14]
    assert pairs.document[-1] == pairs.document[1] == 1
    assert pairs.can_be_ordered()
    assert not Pairs.of(made_up()[:12], 1000).can_be_ordered()


def test_negatives_do_not_match():
    seen = set()
    for batch in batches(reader(), 60):
        documents = batch.document.view(12, 4)
        assert batch.labels.tolist() == [1] * 12
        for query, (own, *negatives) in zip(batch.query.tolist(), documents.tolist(), strict=True):
            assert own == query or (query, own) == (0, 1)
            assert not {own, query} & set(negatives)
            seen |= {(query, negative) for negative in negatives}
    assert {negative for query, negative in seen if query == 0} == {12, 13}
    assert {negative for query, negative in seen if query == 7} == set(range(14)) - {7}


def test_a_batch_holds_its_texts():
    (batch,) = batches(reader(negatives=1), 1)
    pairs = Pairs.of(made_up(), 1000)
    queries, documents = pairs.queries.take(batch.query.numpy()), pairs.documents.take(batch.document.numpy())
    found = (batch.query_ids, batch.query_weights, batch.query_offsets)
    assert all(np.array_equal(got, want) for got, want in zip(found, queries, strict=True))
    found = (batch.document_ids, batch.document_weights, batch.document_offsets)
    assert all(np.array_equal(got, want) for got, want in zip(found, documents, strict=True))
    assert batch.num_samples == 12


def test_ranks_and_micro_batches_share_the_same_samples():
    whole = batches(reader(), 3)
    again = batches(reader(), 1, first_step=2)
    assert torch.equal(again[0].document, whole[2].document)
    shared = [batches(reader(rank=rank, world_size=2, parts=2), 6) for rank in range(2)]
    for step in range(3):
        joined = torch.cat([batch.document for of_rank in shared for batch in of_rank[2 * step : 2 * step + 2]])
        assert torch.equal(joined, whole[step].document)


def test_every_held_out_pair_comes_once():
    for world_size in (1, 2):
        parts = [reader(rank=rank, world_size=world_size).evaluate("cpu") for rank in range(world_size)]
        found = [number for part in parts for batch in part for number in batch.samples.tolist()]
        assert found == list(range(15))


def test_a_query_that_matches_every_document_is_refused():
    pairs = Pairs.of([Line("q", "a", 1), Line("q", "b", 1)], 10)
    shard = {"batch_size_local": 1, "global_batch_size": 1, "rank": 0, "world_size": 1}
    made = {"eval_batch_size": 1, "rank": 0, "world_size": 1}
    with pytest.raises(UserError, match="training pairs: must be 3 or more documents, as a query matches 2, got 2"):
        PairReader(pairs, pairs, TrainStream(2, 1, **shard), negatives=1, **made)
    PairReader(pairs, pairs, TrainStream(2, 1, **shard), negatives=0, **made)
