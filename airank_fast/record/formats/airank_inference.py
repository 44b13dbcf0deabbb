"""AI-Rank's inference logs, written (docs/software/inference_{cloud,mobile}.md of AI-Rank), 2020-12 and 2021-05.

    accuracy_check.log              sampleid:7, result=true               total_accuracy:0.7612
    offline_ips.log                 warmup_begin, warmup_samples:521      avg_ips:44.120images/sec
    online_ips.log                  target_qps:437.120
    latency.log                     latency_case7_latency:10.1200ms       90th_percentile_latency:10.4100ms
    max_qps_max_memory_use.log      samples_cnt_each_case:2               ..., max_memory_use:420.0M

The texts contradict their own samples. What is written here:

- Lines begin with AI-Rank-log, and the last one is test_end; the samples have both a dash before it and test_end, the
  text neither the dash nor that name.
- avg_ips is samples / the time from warmup_finish to the last answer, as in the published logs. test_begin has the time
  of warmup_begin, warmup_finish that of the first request.
- target_qps is "the greatest number of requests at a time, also ips". A number of requests at a time is no rate: the
  measured samples/s are written, the concurrency is in the events.
- total_accuracy of a line is that of the samples answered so far, and no line is without one. Where the events do not
  have the right answers of each request, the last line alone is written, with the accuracy of the whole set. At most
  1,000 such lines are written, of any number of requests.
- max_memory_use is the process's peak over the whole test, in MiB, in every line and in both profiles.
- latency_caseN has the latency in 2021-05, and the times of its begin and its end, to the microsecond, in 2020-12.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from airank_fast.record.events import Event, dictionary
from airank_fast.record.inference_metrics import ACCURACY, InferenceTally, LoadTest, headline_value
from airank_fast.record.metrics import percentile

PREFIX = "AI-Rank-log"
PROFILES = ("2020-12", "2021-05")
FILES = {
    "accuracy": "accuracy_check.log",
    "offline": "offline_ips.log",
    "online": "online_ips.log",
    "latency": "latency.log",
    "max-batch": "max_qps_max_memory_use.log",
}
MIB = 2**20
_MOST_LINES = 1000  # about the progress of a test


def airank_inference(events: Iterable[Event]) -> dict[str, list[str]]:
    """The lines of each log that the events of an AI-Rank run give, by file name; {} for a run of another profile."""
    tally = InferenceTally()
    for event in events:
        tally.feed(event)
    return logs(tally)


def logs(tally: InferenceTally) -> dict[str, list[str]]:
    """`airank_inference` of the events that a tally was fed."""
    profile = str(tally.config.get("profile")).removeprefix("airank-")
    if profile not in PROFILES:
        return {}
    found = {}
    if tally.accuracies:
        found[FILES["accuracy"]] = list(_accuracy_check(tally, profile))
    writers = {"offline": _offline, "online": _online, "latency": _latency, "max-batch": _max_batch}
    for scenario, write in writers.items():
        test = tally.performance(scenario)
        if test is not None:
            found[FILES[scenario]] = list(write(tally, test, profile))
    return found


def _line(t: float, text: str, digits: int = 3) -> str:
    return f"{PREFIX} {t:.{digits}f} {text}"


def _begin(tally: InferenceTally, t: float, profile: str, digits: int = 3) -> Iterator[str]:
    checksum = dictionary(tally.config.get("data")).get("checksum")
    if profile == "2021-05" and checksum:
        yield _line(t, f"load_data, checksum:{checksum}", digits)
    yield _line(t, "test_begin", digits)


def _accuracy_check(tally: InferenceTally, profile: str) -> Iterator[str]:
    event = next(iter(tally.accuracies.values()))
    starts = (test.start["t"] for test in tally.tests if test.mode == ACCURACY)
    end_t = event["t"]
    yield from _begin(tally, min(next(starts, end_t), end_t), profile)
    for index, is_right in enumerate(event.get("sample_results") or ()):
        yield _line(end_t, f"sampleid:{index}, result={'true' if is_right else 'false'}")
    value = headline_value(event, tally.metric)
    if value is not None:
        yield _line(end_t, f"total_accuracy:{value!r}")
    yield _line(end_t, "test_end")


def _offline(tally: InferenceTally, test: LoadTest, profile: str) -> Iterator[str]:
    start_t, times = test.start["t"], (test.warm_up or {}).get("times") or []
    begin_t = start_t - sum(seconds for _, seconds in times)
    yield from _begin(tally, begin_t, profile)
    yield _line(begin_t, f"warmup_begin, warmup_samples:{sum(size for size, _ in times)}")
    yield _line(start_t, "warmup_finish")
    yield from _progress(tally, test)
    end_t = start_t + test.stop["duration_s"]
    if test.stop["duration_s"] > 0:
        rate = test.stop["num_samples"] / test.stop["duration_s"]
        yield _line(end_t, f"avg_ips:{rate:.3f}{tally.samples_word}/sec")
    yield _line(end_t, "test_end")


def _online(tally: InferenceTally, test: LoadTest, profile: str) -> Iterator[str]:
    start_t, duration_s = test.start["t"], test.stop["duration_s"]
    yield from _begin(tally, start_t, profile)
    if duration_s > 0:
        yield _line(start_t, f"target_qps:{test.stop['num_samples'] / duration_s:.3f}")
    yield from _progress(tally, test, with_latency=True)
    yield _line(start_t + duration_s, "test_end")


def _latency(tally: InferenceTally, test: LoadTest, profile: str) -> Iterator[str]:
    start_t, has_times = test.start["t"], profile == "2020-12"
    digits = 6 if has_times else 3
    yield from _begin(tally, start_t, profile, digits)
    for number, (issued_s, took_s) in enumerate(zip(test.issued_s, test.latency_s, strict=False), 1):
        end_t = start_t + issued_s + took_s
        if has_times:
            yield _line(start_t + issued_s, f"latency_case{number}_begin", digits)
            yield _line(end_t, f"latency_case{number}_finish", digits)
        else:
            yield _line(end_t, f"latency_case{number}_latency:{_ms(took_s)}")
    end_t, ascending = start_t + test.stop["duration_s"], sorted(test.latency_s)
    if ascending:
        text = f"90th_percentile_latency:{_ms(percentile(ascending, 90))}"
        extremes = f", min_latency:{_ms(ascending[0])}, max_latency:{_ms(ascending[-1])}"
        yield _line(end_t, text if has_times else text + extremes, digits)
    yield _line(end_t, "test_end", digits)


def _max_batch(tally: InferenceTally, test: LoadTest, profile: str) -> Iterator[str]:
    start_t = test.start["t"]
    yield from _begin(tally, start_t, profile)
    size = dictionary(test.stop.get("metric")).get("batch") or max(test.batch, default=0)
    yield _line(start_t, f"samples_cnt_each_case:{size}")
    yield from _progress(tally, test, with_latency=True, with_memory=True)
    yield _line(start_t + test.stop["duration_s"], "test_end")


def _progress(
    tally: InferenceTally, test: LoadTest, with_latency: bool = False, with_memory: bool = False
) -> Iterator[str]:
    """A line for each of the answers in their order, the last one included, thinned to _MOST_LINES."""
    samples, done_s = test.samples(), test.done_s()
    if not samples:
        return
    order = sorted(range(len(samples)), key=done_s.__getitem__)
    correct = test.correct if len(test.correct) == len(samples) else None
    whole_set = headline_value(tally.accuracy_of(test.scenario), tally.metric)
    used = dictionary(test.stop.get("memory")).get("total_bytes")
    every = -(-len(order) // _MOST_LINES)
    num_samples = num_correct = 0
    longest_s = 0.0
    for position, index in enumerate(order, 1):
        num_samples += samples[index]
        num_correct += correct[index] if correct else 0
        longest_s = max(longest_s, test.latency_s[index])
        is_last = position == len(order)
        if not is_last and (position % every or (correct is None and whole_set is not None)):
            continue
        accuracy = num_correct / num_samples if correct else whole_set if is_last else None
        parts = [] if accuracy is None else [f"total_accuracy:{accuracy!r}"]
        parts += [f"max_latency:{_ms(longest_s)}"] if with_latency else []
        parts += [f"total_samples_cnt:{num_samples}"]
        parts += [f"max_memory_use:{used / MIB:.1f}M"] if with_memory and used is not None else []
        yield _line(test.start["t"] + done_s[index], ", ".join(parts))


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.4f}ms"
