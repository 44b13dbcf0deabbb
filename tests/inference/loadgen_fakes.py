"""Systems for tests of the load, without torch: outputs are known, latencies chosen, and faults can be planted.

python -m inference.loadgen_fakes FAULT DIRECTORY      # a system under test that loses a sample, or answers twice
"""

from __future__ import annotations

import os
import struct
import sys
import time
from pathlib import Path

from airank_fast.inference.loadgen import run_test
from airank_fast.inference.settings import TestSettings
from airank_fast.inference.supervise import WorkerRequest
from airank_fast.inference.sut import StreamSut

SYSTEM = "inference.loadgen_fakes:system"


class Samples:
    """`count` samples, of which each is its index; the right output is three times the index."""

    def __init__(self, count: int = 40, lengths: list[int] | None = None, fault: str = "") -> None:
        self.count, self.known_lengths, self.fault = count, lengths, fault
        self.loaded: set[int] = set()
        self.num_batches = 0

    def __len__(self) -> int:
        return self.count

    def load(self, indices):
        if self.fault == "raise in load" and len(indices) > 1:
            raise ValueError("the picture cannot be read")
        self.loaded |= set(indices)

    def unload(self, indices):
        self.loaded -= set(indices)

    def batch(self, indices):
        missing = set(indices) - self.loaded
        assert not missing, f"{missing} are not loaded"
        self.num_batches += 1
        return list(indices)

    def lengths(self):
        return self.known_lengths

    def split(self, outputs, indices):
        return outputs

    def response(self, output) -> bytes:
        return struct.pack("<f", output)

    def results(self, outputs):
        return [int(outputs[index] == 3 * index) for index in range(self.count)]

    def score(self, outputs):
        right = sum(self.results(outputs))
        return {"top1": right / self.count}, {"correct": right, "counted": self.count}


class Engine:
    """Takes `latency_s` a batch; its fault comes with the batch number `after`, of those that hold a sample `at`."""

    def __init__(self, latency_s: float = 0.0, fault: str = "", after: int = 12) -> None:
        self.facts = {"name": "fake", "load_s": 0.0, "export_s": 0.0}
        self.batch_sizes = ()
        self.latency_s, self.fault, self.after = latency_s, fault, after
        self.num_runs = 0

    def run(self, batch):
        self.num_runs += 1
        if self.latency_s:
            time.sleep(self.latency_s)
        outputs = [3 * index for index in batch]
        if self.num_runs > self.after:
            if self.fault == "raise":
                raise ValueError("the engine\nbroke")
            if self.fault == "exit":
                sys.exit("the engine leaves")
            if self.fault == "short":
                outputs.pop()
            if self.fault == "hang":
                time.sleep(3600)
            if self.fault == "die":
                os._exit(3)
        return outputs


def system(request: WorkerRequest):
    """The fakes of a request, whose `extra` has their arguments."""
    extra = request.extra
    print("a library prints to standard output")
    fault = extra.get("fault", "")
    samples = Samples(extra.get("count", 40), extra.get("lengths"), fault)
    return Engine(extra.get("latency_s", 0.0), fault, extra.get("after", 12)), samples


def settings(scenario: str, mode: str = "performance", **fields) -> TestSettings:
    """A LoadGen test of a fifth of a second."""
    changes = {
        "profile": "v6.1",
        "min_duration_s": 0.2,
        "min_queries": {"singlestream": 64, "multistream": 662, "server": 459, "offline": 200}[scenario],
        "performance_count": 30,
        "samples_per_query": 8 if scenario == "multistream" else 1,
        "target_latency_s": 0.5 if scenario == "server" else None,
        "target_qps": 2500.0 if scenario == "server" else None,
    }
    return TestSettings(scenario, mode, **{**changes, **fields})


def endless(scenario: str = "singlestream", **extra) -> WorkerRequest:
    """A test that goes on for twenty seconds if nothing ends it."""
    test = settings(scenario, min_duration_s=20.0)
    extra = {"latency_s": 0.002, **extra}
    return WorkerRequest(max_batch=4, settings=test, system=SYSTEM, extra=extra)


class Loses(StreamSut):
    """Never answers the fifth query."""

    def _serve(self, ids, indices):
        if self.ledger.issued != 5:
            super()._serve(ids, indices)


class AnswersTwice(StreamSut):
    """Answers the fifth query twice."""

    def _serve(self, ids, indices):
        super()._serve(ids, indices)
        if self.ledger.issued == 5:
            super()._serve(ids, indices)


FAULTY = {"lost": Loses, "twice": AnswersTwice}


def main() -> None:
    """Run a test with a faulty system, print its failure, and what a second test is told."""
    fault, directory = sys.argv[1:]
    samples = Samples()
    sut = FAULTY[fault](Engine(), samples, max_batch=8)
    outcome = run_test(settings("singlestream"), sut, samples, Path(directory))
    print(outcome.failure)
    try:
        run_test(settings("singlestream"), sut, samples, Path(directory))
    except ValueError as error:
        print(error)


if __name__ == "__main__":
    main()
