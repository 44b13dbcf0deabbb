"""Write the tables of README.md and docs/benchmarks.md from the result files; `--check` only compares.

    python bench/tables.py [--check]

Between `<!-- results: NAME -->` and `<!-- end -->` stands the table of bench/results/NAME.jsonl, from the last line
of each case.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
PAGES = (ROOT / "README.md", ROOT / "docs" / "benchmarks.md")
MARKED = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def latest(name: str) -> list[dict]:
    """The last result of each case of a benchmark, in the order in which the cases first came."""
    lines = (RESULTS / f"{name}.jsonl").read_text().splitlines()
    return list({result["case"]: result for result in map(json.loads, lines)}.values())


def table(name: str) -> str:
    """A Markdown table with one row a case, and under it where it was measured."""
    results = latest(name)
    rows = {"convergence": convergence_rows, "measuring": measuring_rows}.get(name, speed_rows)(results)
    versions = results[-1]["versions"]
    what = ", ".join(f"{key} {versions[key]}" for key in ("torch", "nvidia-dali-cuda130", "pillow") if key in versions)
    where, commit = results[-1]["machine"]["devices"][-1], results[-1]["commit"] or "unknown"
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", f"{where}; {what}; `bench/{name}.py`, commit {commit}.", ""])


def convergence_rows(results: list[dict]) -> list[list[str]]:
    """The command, the accuracy that it reached, and after how long."""
    rows = [["airank_fast.train", "accuracy", "epochs", "time2train"], ["---"] * 4]
    for result in results:
        time = f"{result['time2train']:.1f} s" if result["status"] == "success" else "target missed"
        rows.append([f"`{result['case']}`", f"{result['best_accuracy']:.2%}", str(result["epochs"]), time])
    return rows


def measuring_rows(results: list[dict]) -> list[list[str]]:
    """What the clock costs, by the median of paired times and by its own account of the time that it takes."""
    rows = [["case", "clock off", "cost, by paired times", "cost, by the clock's own account"], ["---"] * 4]
    for result in results:
        without, cost = result["times"]["clock off"]["median_s"], result["speedup_over"]["clock on"] - 1
        own = result["cost_by_its_own_account"]
        rows.append([result["case"], f"{1e3 * without:.1f} ms", f"{cost:+.2%}", f"{own:.3%}"])
    return rows


def speed_rows(results: list[dict]) -> list[list[str]]:
    """Our median time and how many times faster we are than each peer."""
    peers = list(dict.fromkeys(peer for result in results for peer in result["speedup_over"]))
    rows = [["case", "airank_fast", *(f"times as fast as {peer}" for peer in peers)], ["---"] * (2 + len(peers))]
    for result in results:
        ours = result["times"][result["ours"]]["median_s"]
        over = result["speedup_over"]
        rows.append([result["case"], amount(result, ours), *(f"{over[p]:.2f}" if p in over else "" for p in peers)])
    return rows


def amount(result: dict, seconds: float) -> str:
    """Our time, and the rate where the benchmark gives one."""
    rate = result.get("images_per_s", {}).get(result["ours"])
    return f"{1e3 * seconds:.1f} ms" + (f", {rate:.0f} images/s" if rate else "")


def main() -> int:
    stale = 0
    for page in PAGES:
        old = page.read_text()
        new = MARKED.sub(lambda found: found[1] + table(found[2]) + found[3], old)
        stale += old != new
        if "--check" not in sys.argv:
            page.write_text(new)
    return int("--check" in sys.argv and stale > 0)


if __name__ == "__main__":
    sys.exit(main())
