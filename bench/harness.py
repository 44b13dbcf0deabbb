"""What the benchmarks share: interleaved timing, ratios from one run, and a JSON line per result.

Contestants take turns within a round, in changing order, so that whatever else the machine is doing meets all
of them alike. A ratio is the median over rounds of the quotient of two times of the same round; it is far
steadier than the quotient of two medians. Check first, then time: callers compare results before they call.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import random
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

import torch

from airank_fast.engine import system
from airank_fast.engine.memory import keep_freed_memory

RESULTS = Path(__file__).parent / "results"
_FLUSH_BYTES = 256 * 2**20  # larger than a GPU's L2 and what a CPU's cores share
_CACHE_BYTES = 32 * 2**20  # where the system does not say


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: median, 20th and 80th percentile over the rounds."""

    median_s: float
    p20_s: float
    p80_s: float


def time_rounds(
    contestants: dict[str, Callable[[], object]],
    *,
    num_rounds: int = 31,
    device: str = "cpu",
    num_warm_up: int = 3,
    num_bytes: int | None = None,
) -> dict[str, list[float]]:
    """Seconds of each call, per contestant, one per round. On CUDA by events, with L2 flushed before each call.

    On a CPU `num_bytes`, what a call touches at least, says how its caches are before each call: where they can hold
    that, as the same contestant leaves them, by a call that is not timed; else full of other data. Otherwise a
    contestant pays for writing back what another has written, or finds what it has left. There malloc keeps what is
    freed, for all contestants, as in a training run: else a large result is fresh from the system at every call.
    """
    if torch.device(device).type == "cpu":
        keep_freed_memory()
    for function in contestants.values():
        for _ in range(num_warm_up):
            function()
    timer = _cuda_seconds if torch.device(device).type == "cuda" else _cpu_seconds
    if timer is _cpu_seconds and num_bytes is not None:
        timer = _cold_seconds if num_bytes > _cache_bytes() else _warm_seconds
    names, order = list(contestants), random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(num_rounds):
        order.shuffle(names)
        for name in names:
            times[name].append(timer(contestants[name]))
    return times


def wait_until_idle(limit_s: float = 600.0) -> bool:
    """Wait until the machine's processors were 95 % idle for two seconds; False if they never were. Linux."""

    def jiffies() -> tuple[int, int]:
        with open("/proc/stat") as file:
            fields = [int(field) for field in file.readline().split()[1:]]
        return fields[3] + fields[4], sum(fields)  # idle and waiting for disks, all

    stop = time.monotonic() + limit_s
    while time.monotonic() < stop:
        idle_before, all_before = jiffies()
        time.sleep(2)
        idle, everything = jiffies()
        if idle - idle_before >= 0.95 * (everything - all_before):
            return True
    return False


def timing(times: list[float]) -> Timing:
    """Median and percentiles of the times of one contestant."""
    cuts = statistics.quantiles(times, n=10, method="inclusive")
    return Timing(statistics.median(times), cuts[1], cuts[7])


def ratio(times: dict[str, list[float]], ours: str, theirs: str) -> float:
    """How many times faster `ours` is than `theirs`: median over rounds."""
    return statistics.median(b / a for a, b in zip(times[ours], times[theirs], strict=True))


def bandwidth(device: str = "cpu", num_bytes: int = 2**28) -> float:
    """Bytes per second that memory gives, for the floor: the better of a copy and an in-place addition.

    On a CPU a copy reads its target's cache lines before it writes them, which this count does not see.
    """
    source = torch.ones(num_bytes // 4, device=device)
    target = torch.zeros_like(source)
    operations = {"copy": lambda: target.copy_(source), "add": lambda: target.add_(source)}
    times = time_rounds(operations, num_rounds=11, device=device)
    moved = {"copy": 2 * num_bytes, "add": 3 * num_bytes}
    return max(moved[name] / statistics.median(times[name]) for name in moved)


def save(bench: str, case: str, times: dict[str, list[float]], ours: str, **facts: object) -> dict:
    """Append one line to bench/results/<bench>.jsonl (the last line of a case is the valid one) and return it."""
    return append(
        bench,
        case,
        ours=ours,
        times={name: asdict(timing(values)) for name, values in times.items()},
        speedup_over={name: ratio(times, ours, name) for name in times if name != ours},
        **facts,
        num_rounds=len(times[ours]),
    )


def append(bench: str, case: str, **facts: object) -> dict:
    """Append ``facts``, with machine, commit and versions, to bench/results/<bench>.jsonl and return the line."""
    line = {"bench": bench, "case": case, **facts, **_surroundings()}
    RESULTS.mkdir(exist_ok=True)
    with open(RESULTS / f"{bench}.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")
    return line


def as_text(case: str, times: dict[str, list[float]], ours: str) -> str:
    """The result for a person: milliseconds, spread, and how much faster ours is."""
    lines = [case]
    for name, values in times.items():
        t = timing(values)
        against = "" if name == ours else f"   {ours} is {ratio(times, ours, name):.2f}x as fast"
        lines.append(
            f"  {name:24} {1e3 * t.median_s:9.3f} ms  ({1e3 * t.p20_s:.3f} .. {1e3 * t.p80_s:.3f}){against}"
        )
    return "\n".join(lines)


@functools.cache
def _flush_buffer() -> torch.Tensor:
    return torch.ones(_FLUSH_BYTES // 8, dtype=torch.float64)


@functools.cache
def _cache_bytes() -> int:
    """Size of the last level of the caches."""
    try:
        size = Path("/sys/devices/system/cpu/cpu0/cache/index3/size").read_text()
        return int(size.strip().removesuffix("K")) * 1024
    except (OSError, ValueError):
        return _CACHE_BYTES


def _cold_seconds(function: Callable[[], object]) -> float:
    _flush_buffer().sum()  # only read, so that nothing is left to be written back
    return _cpu_seconds(function)


def _warm_seconds(function: Callable[[], object]) -> float:
    function()
    return _cpu_seconds(function)


def _cpu_seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _cuda_seconds(function: Callable[[], object]) -> float:
    torch.empty(_FLUSH_BYTES, dtype=torch.int8, device="cuda").zero_()
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    function()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) / 1e3


def _surroundings() -> dict:
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {"devices": system.devices(), "system": platform.platform(), "load": os.getloadavg()[0]},
        "commit": _git("rev-parse", "--short", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no", "--", "csrc", "airank_fast")),
        "versions": system.versions(),
    }


def _git(*arguments: str) -> str | None:
    done = subprocess.run(
        ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else None
