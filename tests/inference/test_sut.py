"""The system under test by itself: each sample is answered once, whatever fails; the ledger names what was not."""

from __future__ import annotations

import struct
import threading

import pytest
from inference.loadgen_fakes import AnswersTwice, Engine, Loses, Samples

from airank_fast.errors import UserError
from airank_fast.inference.sut import Ledger, OfflineSut, Records, ServerSut, StreamSut, one_line


class Answers:
    """What LoadGen would get, and a wait for a number of answers."""

    def __init__(self) -> None:
        self.given: list[tuple[int, bytes]] = []
        self.changed = threading.Condition()

    def __call__(self, ids, responses):
        with self.changed:
            self.given += zip(ids, responses, strict=True)
            self.changed.notify_all()

    def wait_for(self, number: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.given) >= number, timeout=60)


def connected(make, *, engine=None, samples=None, **options):
    """(a system with all samples loaded, its answers)."""
    samples = samples or Samples()
    samples.load(range(len(samples)))
    sut = make(engine or Engine(), samples, **{"max_batch": 4, **options})
    answers = Answers()
    sut.connect(answers)
    if isinstance(sut, ServerSut):  # whose thread goes on until its test ends
        sut.is_over = threading.Event()
        sut.thread = threading.Thread(target=sut.run, args=(sut.is_over.wait,))
        sut.thread.start()
    return sut, answers


def end(sut) -> None:
    if isinstance(sut, ServerSut):
        sut.is_over.set()
        sut.thread.join(60)
        assert not sut.thread.is_alive()
    sut.close()


def response(index: int) -> bytes:
    return struct.pack("<f", 3 * index)


def test_a_stream_answers_each_query_in_its_callback():
    sut, answers = connected(StreamSut, keeps_outputs=True)
    sut.issue([100], [7])
    sut.issue([101, 102, 103, 104, 105, 106], [0, 1, 2, 3, 4, 7])
    sut.flush()
    end(sut)
    assert answers.given == [(100, response(7)), *((101 + n, response(i)) for n, i in enumerate([0, 1, 2, 3, 4, 7]))]
    assert sut.failure is None
    assert sut.outputs == {index: 3 * index for index in (0, 1, 2, 3, 4, 7)}
    assert sut.records.rows()[:, 3].tolist() == [1, 4]
    assert sut.samples.num_batches == 3  # 1, then 4 and 2


def test_offline_has_the_longest_first_and_a_row_for_each_batch():
    lengths = [index % 5 for index in range(40)]
    samples = Samples(lengths=lengths)
    sut, answers = connected(OfflineSut, samples=samples, max_batch=16)
    sut.issue(list(range(500, 540)), list(range(40)))
    end(sut)
    assert sorted(answers.given) == [(500 + index, response(index)) for index in range(40)]
    assert [lengths[sample_id - 500] for sample_id, _ in answers.given] == sorted(lengths, reverse=True)
    rows = sut.records.rows()
    assert rows[:, 3].tolist() == [16, 16, 8]
    assert (rows[:, 0] == 0).all()  # all of them were issued at once
    assert (rows[1:, 2] >= rows[:-1, 1]).all()  # a batch waits for those before it


def test_an_error_of_the_test_is_the_systems():
    def test():
        raise UserError("--output: must be writable")

    for make in (StreamSut, ServerSut):
        options = {"times": {1: 1.0}, "bound_s": 1.0} if make is ServerSut else {}
        with pytest.raises(UserError, match="--output: must be writable"):
            make(Engine(), Samples(), max_batch=4, **options).run(test)


def test_server_serves_in_the_thread_that_runs_it_and_ends():
    sut, answers = connected(ServerSut, times={1: 0.001, 4: 0.002}, bound_s=1.0)
    for number in range(40):
        sut.issue([number], [number])
    sut.flush()
    answers.wait_for(40)
    for number in range(40, 50):  # LoadGen has several sets of samples in an accuracy run
        sut.issue([number], [number - 40])
    sut.flush()
    end(sut)
    assert [sample_id for sample_id, _ in answers.given] == list(range(50))
    assert sut.failure is None
    rows = sut.records.rows()
    assert len(rows) == 50
    assert (rows[:, 1] >= rows[:, 2]).all()
    assert rows[:, 3].max() <= 4


@pytest.mark.parametrize(
    ("fault", "failure"),
    [
        ("raise", "ValueError: the engine broke"),
        ("exit", "SystemExit: the engine leaves"),
        ("short", "RuntimeError: outputs: must be 4, for samples 4, 5, 6, 7, got 3"),
    ],
)
@pytest.mark.parametrize("make", [StreamSut, OfflineSut, ServerSut])
def test_a_failure_is_kept_and_every_sample_is_answered(make, fault, failure):
    options = {"times": {1: 1.0, 4: 0.001}, "bound_s": 10.0} if make is ServerSut else {}
    sut, answers = connected(make, engine=Engine(fault=fault, after=1), **options)
    sut.issue(list(range(20)), list(range(20)))
    answers.wait_for(20)
    sut.issue([50], [5])
    answers.wait_for(21)
    sut.flush()
    end(sut)
    given = dict(answers.given)
    assert len(answers.given) == len(given) == 21  # none twice
    assert given[50] == b""
    if make is not ServerSut:  # whose first batch may be of one sample
        assert sut.failure == failure
        assert [given[number] for number in range(20)] == [*map(response, range(4)), *[b""] * 16]
    assert sut.failure.split(":")[0] == failure.split(":")[0]
    assert sut.has_failed.is_set()


def test_a_lost_sample_is_named_and_answered_empty():
    sut, answers = connected(Loses)
    for number in range(4):
        sut.issue([number], [number + 10])
    assert sut.failure is None
    sut.issue([4], [14])
    assert sut.failure == "RuntimeError: sample 14 was issued and never answered"
    assert dict(answers.given)[4] == b""


class ServerLoses(ServerSut):
    def _serve(self, ids, indices):
        kept = [at for at, index in enumerate(indices) if index not in (3, 7)]
        super()._serve([ids[at] for at in kept], [indices[at] for at in kept])


def test_server_finds_lost_samples_after_the_last_query():
    sut, answers = connected(ServerLoses, times={1: 0.001, 4: 0.002}, bound_s=1.0)
    for number in range(10):
        sut.issue([number], [number])
    answers.wait_for(8)
    assert sut.failure is None
    sut.flush()
    answers.wait_for(10)
    assert sut.failure == "RuntimeError: samples 3, 7 were issued and never answered"
    end(sut)


def test_a_sample_that_is_answered_twice_is_named():
    sut, answers = connected(AnswersTwice)
    for number in range(8):
        sut.issue([number], [number + 10])
    assert sut.failure == "RuntimeError: sample 14 was answered twice"
    assert [sample_id for sample_id, _ in answers.given] == list(range(8))


def test_the_ledger():
    ledger = Ledger()
    ledger.issue([1, 2, 3], [10, 20, 10])
    assert ledger.oldest() == 10
    assert ledger.answer([2, 1, 1, 9]) == [0, 1]
    assert ledger.open_indices() == [10]
    ledger.issue([1], [30])  # LoadGen may use an id again
    assert ledger.answer([1]) == [0]
    assert ledger.answer_all() == [3]
    assert (ledger.issued, ledger.answered, ledger.oldest()) == (4, 4, None)


def test_records_grow():
    records = Records(capacity=2)
    for number in range(5):
        records.add(number, 0.5, 0.25, 3)
    assert records.rows().tolist() == [[number, 0.5, 0.25, 3] for number in range(5)]


def test_an_exception_as_one_line():
    assert one_line(UserError("--x: must be 1, got 2")) == "--x: must be 1, got 2"
    assert one_line(KeyError("a\nb")) == r"KeyError: 'a\nb'"
    assert one_line(MemoryError()) == "MemoryError"
