"""AI-Rank's and FlagPerf's clients on a system of known speed in virtual time: no test here waits."""

import numpy as np
import pytest

from airank_fast.inference import clients
from airank_fast.inference.clients import Clock


class VirtualSystem:
    """A batch of n takes `base_s + n * sample_s`; `load_s` a sample that is read. `stalls` {number of a batch: s}."""

    def __init__(self, base_s=0.004, sample_s=0.001, num_samples=100, max_batch=8, load_s=1.0, stalls=None):
        self.t = 0.0
        self.base_s, self.sample_s, self.load_s = base_s, sample_s, load_s
        self.num_samples, self.max_batch = num_samples, max_batch
        self.stalls = stalls or {}
        self.loaded = set()
        self.sizes = []
        self.seen = []

    def read(self):
        return self.t

    def load(self, indices):
        self.t += self.load_s * len(set(indices) - self.loaded)
        self.loaded = set(indices)

    def infer(self, indices):
        assert self.loaded.issuperset(indices)
        assert 1 <= len(indices) <= max(self.max_batch, 1024)
        self.t += self.base_s + self.sample_s * len(indices) + self.stalls.get(len(self.sizes), 0.0)
        self.sizes.append(len(indices))
        self.seen += indices
        return [index * 10 for index in indices]


def clock_of(system):
    return Clock(system.read)


def test_a_pause_does_not_count():
    system = VirtualSystem()
    clock = clock_of(system)
    before = clock.now()
    with clock.paused():
        system.t += 7
    system.t += 0.25
    assert clock.now() - before == pytest.approx(0.25)


@pytest.mark.parametrize(("concurrency", "latency_s"), [(1, 0.005), (4, 0.008), (8, 0.012), (16, 0.024)])
def test_clients_in_a_closed_loop_have_one_request_each(concurrency, latency_s):
    """C clients are one batch of C; of 16 with batches of 8, every request waits for one other batch."""
    system = VirtualSystem()
    found = clients.online_at(concurrency, system, clock_of(system), 96)
    assert len(found.latency_s) == 96
    assert found.latency_s[-1] == pytest.approx(latency_s)
    assert found.longest_s == pytest.approx(latency_s)
    assert set(system.sizes) == {min(concurrency, 8)}
    assert found.num_samples / found.duration_s == pytest.approx(min(concurrency, 8) / min(latency_s, 0.012))
    in_flight = np.array(found.issued_s)[:, None] <= np.array(found.issued_s)[None, :] + 1e-12
    done = np.array(found.issued_s) + np.array(found.latency_s)
    in_flight &= done[:, None] > np.array(found.issued_s)[None, :] + 1e-12
    assert in_flight.sum(0).max() == concurrency


def test_every_sample_is_asked_for_once_in_turn_and_a_queue_is_a_part_of_the_latency():
    system = VirtualSystem(num_samples=50)
    found = clients.online_at(10, system, clock_of(system), 50)
    assert sorted(system.seen) == list(range(50))
    assert [index for batch in found.indices for index in batch] == system.seen
    assert found.outputs[0] == [index * 10 for index in found.indices[0]]
    assert all(0 <= waited <= took for waited, took in zip(found.queue_s, found.latency_s, strict=True))
    assert max(found.queue_s) > 0


def test_a_larger_set_than_memory_holds_is_read_outside_the_clock(monkeypatch):
    monkeypatch.setattr(clients, "NUM_LOADED", 16)
    system = VirtualSystem(num_samples=70, load_s=100.0)
    found = clients.online_at(4, system, clock_of(system), 140)
    assert len(system.loaded) <= 16 + 8
    assert found.longest_s == pytest.approx(0.008)
    assert sorted(system.seen) == sorted([*range(70)] * 2)


def judged(bound_s, system=None, **kwargs):
    system = system or VirtualSystem(**kwargs)
    probes = []
    number, found = clients.online(system, clock_of(system), bound_s, probes.append)
    return number, found, probes


@pytest.mark.parametrize(("bound_s", "number"), [(0.005, 1), (0.0119, 7), (0.012, 8), (0.0239, 8), (0.024, 16)])
def test_the_greatest_number_of_clients_within_the_bound_is_found(bound_s, number):
    found_number, found, probes = judged(bound_s + 1e-9)
    assert found_number == number
    assert found.longest_s <= bound_s + 1e-9
    assert len(found.latency_s) == 100, "what counts is measured over the whole set"
    assert {probe.number for probe in probes if not probe.num_over}.issuperset({number})
    assert any(probe.number == number + 1 and probe.num_over for probe in probes), "the next number was refused"


def test_where_one_client_is_too_slow_its_measurement_says_so():
    number, found, _ = judged(0.004)
    assert number == 1
    assert found.longest_s > 0.004


def test_a_single_interruption_is_no_verdict():
    """The first batch of 4 clients' probe takes 2 s more; the second try passes."""
    quiet = VirtualSystem(num_samples=400)
    assert judged(0.0121, quiet)[0] == 8
    at = next(number for number, size in enumerate(quiet.sizes) if size == 4)
    stalled = VirtualSystem(num_samples=400, stalls={at: 2.0})
    number, _, probes = judged(0.0121, stalled)
    assert number == 8
    assert [probe.num_over > 0 for probe in probes if probe.number == 4] == [True, False]


def test_a_stall_in_the_last_measurement_lowers_the_number_and_is_never_hidden():
    quiet = VirtualSystem(num_samples=400)
    judged(0.0121, quiet)
    at = len(quiet.sizes) - 10
    number, found, _ = judged(0.0121, VirtualSystem(num_samples=400, stalls={at: 2.0}))
    assert number == 7
    assert found.longest_s <= 0.0121


def test_every_request_must_be_in_time_and_not_only_most_of_them():
    """One request in a thousand late at every number of clients: none is valid."""
    stalls = dict.fromkeys(range(0, 100_000, 40), 1.0)
    number, found, _ = judged(0.0121, num_samples=400, stalls=stalls)
    assert number == 1
    assert found.longest_s > 1


def test_single_samples_have_numpys_percentile():
    stalls = {number: 0.001 * (number % 97) for number in range(1000)}
    system = VirtualSystem(max_batch=1, stalls=stalls)
    found = clients.in_batches(1, system, clock_of(system), clients.NUM_SINGLE)
    assert len(found.latency_s) == 1000
    figures = clients.figures("latency", 1, found)
    assert figures == {"latency_p90_s": pytest.approx(float(np.percentile(found.latency_s, 90)), rel=1e-12)}


def test_the_whole_set_in_batches_has_a_smaller_last_one():
    system = VirtualSystem(num_samples=21)
    found = clients.in_batches(8, system, clock_of(system), 21)
    assert found.batch == [8, 8, 5]
    assert system.seen == list(range(21))
    assert found.duration_s == pytest.approx(2 * 0.012 + 0.009)
    assert clients.figures("offline", 8, found) == {"samples_per_s": pytest.approx(21 / 0.033)}


@pytest.mark.parametrize(("bound_s", "size"), [(0.0049, 0), (0.005, 1), (0.0295, 25), (0.068, 64)])
def test_the_greatest_batch_within_the_bound_is_found(bound_s, size):
    system = VirtualSystem(max_batch=1)
    probes = []
    assert clients.max_batch(system, clock_of(system), bound_s + 1e-9, probes.append, most=64) == size
    assert all((probe.num_over == 0) == (probe.number <= size) for probe in probes)


def test_a_batch_that_stalls_over_as_many_as_count_gives_way_to_a_smaller_one():
    # Seven sizes take four batches each; of the fifteen that follow one is interrupted.
    system = VirtualSystem(max_batch=1, num_samples=1000, stalls={35: 1.0})
    probes = []
    found = clients.max_batch(system, clock_of(system), 0.068 + 1e-9, probes.append, most=64)
    late = [probe for probe in probes if probe.num_over]
    assert [probe.number for probe in late] == [64]
    assert (late[0].num_requests, found) == (15, 57)
    assert (probes[-1].number, probes[-1].num_requests, probes[-1].num_over) == (57, 17, 0)


def test_flagperfs_whole_pass_reads_the_data_under_the_clock():
    system = VirtualSystem(num_samples=20, max_batch=8, load_s=0.01)
    found = clients.flagperf_pass(system, clock_of(system))
    core_s = 3 * 0.004 + 20 * 0.001
    assert clients.figures("flagperf", 8, found) == {
        "p_infer_whole": pytest.approx(20 / (core_s + 0.2)),
        "p_infer_core": pytest.approx(20 / core_s),
    }


@pytest.mark.parametrize("most", [1, 2, 3, 7, 8, 100])
def test_greatest_finds_the_edge_and_asks_for_no_number_above_the_most(most):
    for edge in range(most + 1):
        asked = []

        def holds(number, edge=edge, asked=asked):
            asked.append(number)
            return number <= edge

        assert clients.greatest(holds, most) == edge
        assert max(asked) <= most
        assert len(asked) == len(set(asked))


def test_a_last_measurement_tries_smaller_numbers():
    assert clients.final_numbers(20) == [20, 18, 15, 10]
    assert clients.final_numbers(1) == clients.final_numbers(0) == [1]


@pytest.mark.parametrize(("num_late", "num_tries"), [(0, 1), (3, 2), (4, 2), (5, 1)])
def test_a_number_that_fails_is_tried_again_unless_a_quarter_of_its_requests_are_late(num_late, num_tries):
    queries = clients.Queries()
    for number in range(16):
        queries.add(0.0, 0.0, 2.0 if number < num_late else 0.5, 1)
    tried = []
    holds = clients.holds_at(4, lambda: tried.append(1) or queries, 1.0, lambda probe: None)
    assert holds == (num_late == 0)
    assert len(tried) == num_tries
