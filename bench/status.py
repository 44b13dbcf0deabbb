"""Write docs/status.md, the devices and runs with results: `python bench/status.py`; `--check` only compares.

Every line of that page comes from lines of bench/results; a run without a result there is not claimed. `python
bench/suite.py --save` adds the test suite's line.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator

import tables

PAGE = tables.ROOT / "docs" / "status.md"
TOP = """# Status

`python bench/status.py` writes this page from `bench/results`. A run without a line here has not been made: a recipe
without a line under "Training to a target" has never been trained to its target, a device without a line under
"Devices" has never run this code.

"""
NO_GPU = """**No result comes from a GPU: no CUDA path of this project has run on one yet,** neither a kernel, nor
`--cuda-graphs`, nor the training loop, nor an engine of `airank_fast.infer`. The tests compile the kernels for sm_70
and sm_80, without a spilled register, and run them on the CPU by an emulator, plain and under sanitizers
([tests/cuda_on_cpu](../tests/cuda_on_cpu/README.md)). `make gpu RESULTS=DIR` runs tests, benchmarks and sanitizers on a
machine with a GPU, a CUDA build of torch and nvcc, without a network; `bench/gpu.py` describes its parts.
"""


def results() -> Iterator[dict]:
    """Every line of every result file, oldest first within a file."""
    for path in sorted(tables.RESULTS.glob("*.jsonl")):
        yield from map(json.loads, path.read_text().splitlines())


def page(lines: list[dict]) -> str:
    """The whole page for these results."""
    parts = [TOP, "## Devices\n\n", *devices(lines)]
    if not any(device.startswith("cuda") for line in lines for device in line["machine"]["devices"]):
        parts.append(NO_GPU)
    parts += ["\n## The test suite\n\n", *suites(lines), "\n## Training to a target\n\n", *jobs(lines)]
    return "".join(parts)


def devices(lines: list[dict]) -> Iterator[str]:
    """One row a device: the benchmarks that ran there, and the date of the last."""
    found: dict[str, list[dict]] = {}
    for line in lines:
        for device in line["machine"]["devices"]:
            found.setdefault(re.sub(r", \d+ threads", "", device), []).append(line)
    yield from rows("device", "benchmarks", "last", "torch")
    for device, its in sorted(found.items()):
        last = max(its, key=lambda line: line["time"])
        benches = ", ".join(sorted({line["bench"] for line in its}))
        torches = ", ".join(sorted({line["versions"]["torch"] for line in its}))
        yield row(device, benches, last["time"][:10], torches)
    yield "\n"


def suites(lines: list[dict]) -> Iterator[str]:
    """One row a Python, torch and processor: the last whole run of the tests."""
    last = {
        (line["versions"]["python"], line["versions"]["torch"], line["case"], line["machine"]["devices"][-1]): line
        for line in lines
        if line["bench"] == "suite"
    }
    if not last:
        yield "No result yet.\n"
        return
    yield from rows("tests", "Python", "torch", "device", "passed", "failed", "skipped", "minutes", "commit")
    for (python, torch, case, device), line in sorted(last.items()):
        counts = (str(line[name]) for name in ("passed", "failed", "skipped"))
        yield row(case, python, torch, device, *counts, f"{line['seconds'] / 60:.1f}", line["commit"] or "unknown")


def jobs(lines: list[dict]) -> Iterator[str]:
    """One row a command and kind of processor: how many of its seeds reached the target, and the slowest time to it."""
    found: dict[tuple[str, str], dict[str, dict]] = {}
    for line in lines:
        if line["bench"] == "convergence":
            command, _, seed = line["case"].partition(" --seed ")
            found.setdefault((command, tables.kind(line)), {})[seed] = line
    yield from rows("airank_fast.train", "device", "target", "reached", "slowest time2train", "commit")
    for (command, _), by_seed in sorted(found.items()):
        its = list(by_seed.values())
        device = its[-1]["machine"]["devices"][-1]
        reached = [line for line in its if line["status"] == "success"]
        slowest = f"{max(line['time2train'] for line in reached):.1f} s" if reached else "none"
        count = f"{len(reached)} of {len(its)} seeds"
        yield row(f"`{command}`", device, str(its[-1]["target"]), count, slowest, its[-1]["commit"] or "unknown")


def row(*cells: str) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |\n"


def rows(*header: str) -> Iterator[str]:
    """The head of a Markdown table."""
    yield row(*header)
    yield row(*["---"] * len(header))


def main() -> int:
    new = page(list(results()))
    if "--check" in sys.argv:
        return int(not PAGE.exists() or PAGE.read_text() != new)
    PAGE.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
