"""Shared by the benchmarks: interleaved timing, ratios from one run, and a JSON line per result.

Contestants take turns within a round, in changing order, so that the machine's other load affects all of them alike. A
ratio is the median over rounds of the quotient of two times of the same round, which varies much less than the quotient
of two medians. Callers check that results agree before they time them.

On CUDA a time is the device's. A kernel that only spins holds the device until the host has enqueued the whole call,
else the gaps in which it waits for Python would count. The host's time is reported too, `host_s`: where it is larger,
as for small tensors, a caller waits for it. Some calls cannot be enqueued ahead: those that wait for the device
themselves, and those of more launches than the driver queues (about a thousand). Their times include the host, and they
are named: `host_in_time`.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import json
import os
import platform
import random
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

import torch

from airank_fast import processor
from airank_fast.engine import system
from airank_fast.engine.memory import keep_freed_memory

RESULTS = Path(__file__).parent / "results"
_FLUSH_BYTES = 256 * 2**20  # larger than a GPU's L2 and a CPU's last-level cache
_CACHE_BYTES = 32 * 2**20  # where the system does not state it
_CLOCK_HZ = 2e9  # about the highest of a GPU; a slower one is only held for longer
_HOLD_LIMIT_S = 0.1
_PEERS = (
    "pytorch_optimizer",
    "transformers",
    "liger-kernel",
    "triton",
    "pandas",
    "pyarrow",
    "gensim",
    "opencv-python-headless",
    "av",
    "pycocotools",
    "faster-coco-eval",
    "ctranslate2",
)  # besides those of system.versions()


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: median, 20th and 80th percentile over the rounds."""

    median_s: float
    p20_s: float
    p80_s: float


class Times(dict[str, list[float]]):
    """Seconds of each call, per contestant, one per round; on CUDA also the host's."""

    host_s: dict[str, list[float]]
    host_in_time: list[str]

    def __init__(self, names: list[str]) -> None:
        super().__init__((name, []) for name in names)
        self.host_s, self.host_in_time = {}, []


def time_rounds(
    contestants: dict[str, Callable[[], object]],
    *,
    num_rounds: int = 31,
    device: str = "cpu",
    num_warm_up: int = 3,
    num_bytes: int | None = None,
    refill: Mapping[str, Callable[[], object]] | None = None,
    ahead: bool = True,
) -> Times:
    """Seconds of each call, per contestant, one per round. On CUDA by events, with L2 flushed before each call.

    refill: on CUDA, called before a contestant's call, outside its time, to restore an input that it writes over.
    ahead: on CUDA, hold the device until the host has enqueued the call. Not for whole training steps: their rate is
    that of the slower of the two.

    On a CPU `num_bytes`, the least number of bytes that a call reads and writes, selects the state of the caches before
    each call. Where they can hold so many, a call that is not timed leaves them as the same contestant does; else they
    are full of other data. Otherwise a contestant pays for writing back another's data, or finds it cached. malloc
    keeps freed memory, for all contestants, as in a training run: else every call gets new pages for a large result.
    """
    if torch.device(device).type == "cpu":
        keep_freed_memory()
    refill = refill or {}
    for function in contestants.values():
        for _ in range(num_warm_up):
            function()
    if torch.device(device).type == "cuda":
        timers = {name: _CudaTimer(contestants[name], refill.get(name, _nothing), ahead) for name in contestants}
    else:
        timer = _cpu_seconds
        if num_bytes is not None:
            timer = _cold_seconds if num_bytes > _cache_bytes() else _warm_seconds
        timers = {name: functools.partial(timer, function) for name, function in contestants.items()}
        for name, function in contestants.items():  # one in another process, see other_python.py
            timers[name] = getattr(function, "own_seconds", timers[name])
    names, order = list(contestants), random.Random(0)
    times = Times(names)
    for _ in range(num_rounds):
        order.shuffle(names)
        for name in names:
            times[name].append(timers[name]())
    for name, timer in timers.items():
        if isinstance(timer, _CudaTimer):
            times.host_s[name] = timer.host_s[-num_rounds:]
            if 2 * timer.num_ahead < num_rounds:
                times.host_in_time.append(name)
    return times


def compiled(function: Callable, dynamic: bool | None = False) -> Callable:
    """The function under torch.compile, as a peer at its best: for fixed shapes, and never a silent return to eager."""
    torch._dynamo.config.recompile_limit = 256
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    return torch.compile(function, dynamic=dynamic)


@functools.cache
def is_there(module: str) -> bool:
    """Whether a peer can be imported; prints a line, once, where it cannot."""
    try:
        importlib.import_module(module)
    except ImportError as error:
        print(f"not a peer here: {module} ({error})")
        return False
    return True


def wait_until_idle(device: str = "cpu") -> bool:
    """Wait until the machine's processors were 95 % idle for two seconds; False if they never were. Linux.

    Ten minutes at most; one minute before timing a GPU, which other processes affect less.
    """

    def jiffies() -> tuple[int, int]:
        with open("/proc/stat") as file:
            fields = [int(field) for field in file.readline().split()[1:]]
        return fields[3] + fields[4], sum(fields)  # idle and waiting for disks, all

    stop = time.monotonic() + (600 if device == "cpu" else 60)
    while time.monotonic() < stop:
        idle_before, all_before = jiffies()
        time.sleep(2)
        idle, everything = jiffies()
        if idle - idle_before >= 0.95 * (everything - all_before):
            return True
    return False


def op_options(bench: str, description: str, rounds: int) -> argparse.Namespace:
    """device, rounds, compile and save, as the command line of an op's benchmark has them.

    With --save it waits until the machine is idle, and ends where it stays busy.
    """
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="takes a minute")
    parser.add_argument("--save", action="store_true", help=f"append the results to bench/results/{bench}.jsonl")
    options = parser.parse_args()
    if options.save and not wait_until_idle(options.device):
        parser.exit(1, "the machine is busy: nothing was measured\n")
    return options


def run_cases(
    bench: str,
    options: argparse.Namespace,
    cases: Iterable[tuple[str, str, dict[str, Callable], int | None]],
    check: Callable[[dict[str, Callable]], None],
) -> None:
    """Check, time and print each (case, our name, functions by name, bytes that must move); save on request."""
    of_device = bandwidth(options.device)
    for case, ours, functions, num_bytes in cases:
        check(functions)
        times = time_rounds(functions, num_rounds=options.rounds, device=options.device, num_bytes=num_bytes)
        print(as_text(case, times, ours))
        facts = {"floor_s": num_bytes / of_device, "bytes_moved": num_bytes} if num_bytes else {}
        if facts:
            share = facts["floor_s"] / timing(times[ours]).median_s
            print(f"  {'floor by bandwidth':24} {1e3 * facts['floor_s']:9.3f} ms   {ours} reaches {share:.0%} of it")
        elsewhere = {name: function.versions for name, function in functions.items() if hasattr(function, "versions")}
        if elsewhere:
            facts["versions_elsewhere"] = elsewhere
        if options.save:
            save(bench, case, times, ours, **facts)


def timing(times: list[float]) -> Timing:
    """Median and percentiles of the times of one contestant."""
    cuts = statistics.quantiles(times, n=10, method="inclusive")
    return Timing(statistics.median(times), cuts[1], cuts[7])


def ratio(times: dict[str, list[float]], ours: str, theirs: str) -> float:
    """How many times faster `ours` is than `theirs`: median over rounds."""
    return statistics.median(b / a for a, b in zip(times[ours], times[theirs], strict=True))


def bandwidth(device: str = "cpu") -> float:
    """Bytes per second of the memory, for the floor: the better of a copy and an in-place addition.

    On a CPU a copy reads its target's cache lines before it writes them, which is not counted. A GPU reaches its full
    rate on gigabytes only.
    """
    num_bytes = 2**28 if torch.device(device).type == "cpu" else min(2**32, torch.cuda.mem_get_info()[0] // 4)
    source = torch.rand(num_bytes // 4, device=device)
    target = torch.rand_like(source)
    operations = {"copy": lambda: target.copy_(source), "add": lambda: target.add_(source)}
    times = time_rounds(operations, num_rounds=11, device=device)
    moved = {"copy": 2 * num_bytes, "add": 3 * num_bytes}
    return max(moved[name] / statistics.median(times[name]) for name in moved)


def save(bench: str, case: str, times: dict[str, list[float]], ours: str, **facts: object) -> dict:
    """Append one line to bench/results/<bench>.jsonl (the last line of a case is the valid one) and return it."""
    if getattr(times, "host_s", None):
        facts["host_s"] = {name: statistics.median(values) for name, values in times.host_s.items()}
        facts["host_in_time"] = times.host_in_time
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
    """The result as text: milliseconds, spread, and how many times as fast `ours` is."""
    lines = [case]
    host_s, host_in_time = getattr(times, "host_s", {}), getattr(times, "host_in_time", ())
    for name, values in times.items():
        t = timing(values)
        against = "" if name == ours else f"   {ours} is {ratio(times, ours, name):.2f}x as fast"
        host = f"   host {1e3 * statistics.median(host_s[name]):.3f} ms" if name in host_s else ""
        host += ", in the time" * (name in host_in_time)
        lines.append(
            f"  {name:24} {1e3 * t.median_s:9.3f} ms  ({1e3 * t.p20_s:.3f} .. {1e3 * t.p80_s:.3f}){host}{against}"
        )
    return "\n".join(lines)


def _nothing() -> None:
    pass


@functools.cache
def _flush_buffers(device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """A buffer to read, and a scalar for its sum."""
    buffer = torch.ones(_FLUSH_BYTES // 8, dtype=torch.float64, device=device)
    return buffer, torch.empty((), dtype=torch.float64, device=device)


def _flush(device: str = "cpu") -> None:
    """Fill the caches with other data that is only read, so that no line must be written back."""
    buffer, result = _flush_buffers(device)
    torch.sum(buffer, dim=0, out=result)


@functools.cache
def _cache_bytes() -> int:
    """Size of the last level of the caches."""
    try:
        size = Path("/sys/devices/system/cpu/cpu0/cache/index3/size").read_text()
        return int(size.strip().removesuffix("K")) * 1024
    except (OSError, ValueError):
        return _CACHE_BYTES


def _cold_seconds(function: Callable[[], object]) -> float:
    _flush()
    return _cpu_seconds(function)


def _warm_seconds(function: Callable[[], object]) -> float:
    function()
    return _cpu_seconds(function)


def _cpu_seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


class _CudaTimer:
    """Measures the device's seconds for a call, and keeps the host's."""

    def __init__(self, function: Callable[[], object], refill: Callable[[], object], ahead: bool) -> None:
        self.function, self.refill = function, refill
        self.host_s: list[float] = []
        self.num_ahead, self.hold_s = 0, 0.0
        self()
        # The first hold is 1.5 times the host's time; the second, for a host that was interrupted, 6 times. Where the
        # device ends that too before the host has returned, no hold is long enough.
        for factor in (1.5, 6.0) if ahead else ():
            self.hold_s = min(factor * self.host_s[0] + 1e-4, _HOLD_LIMIT_S)
            self()
            if self.num_ahead:
                break
        else:
            self.hold_s = 0.0
        self.num_ahead = 0

    def __call__(self) -> float:
        self.refill()
        _flush("cuda")
        torch.cuda.synchronize()
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        if self.hold_s:
            torch.cuda._sleep(int(self.hold_s * _CLOCK_HZ))
        start.record()
        begin = time.perf_counter()
        self.function()
        self.host_s.append(time.perf_counter() - begin)
        stop.record()
        self.num_ahead += self.hold_s > 0 and not start.query()
        stop.synchronize()
        return start.elapsed_time(stop) / 1e3


def _surroundings() -> dict:
    changes = _git("status", "--porcelain", "--untracked-files=no", "--", "csrc", "airank_fast")
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {"devices": system.devices(), "system": platform.platform(), "load": os.getloadavg()[0]},
        "instructions": processor.instruction_set(),
        "stand_in": processor.is_limited(),
        "commit": _git("rev-parse", "--short", "HEAD"),
        "uncommitted_changes": None if changes is None else bool(changes),
        "versions": system.versions() | _versions_of_peers(),
    }


def _versions_of_peers() -> dict[str, str]:
    found = {}
    for name in _PEERS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _git(*arguments: str) -> str | None:
    """The output of git; None without git, or where this is no checkout."""
    command = ["git", *arguments]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
