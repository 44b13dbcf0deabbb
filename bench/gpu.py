"""Everything that needs a GPU, in one go: build, tests, sanitizers, benchmarks. No network, no environment of its own.

    python bench/gpu.py RESULTS [--parts build tests]        (or: make gpu RESULTS=DIR [ARGS=...])

Needs a torch with CUDA and a CUDA toolkit in the running Python. Where something that the build or the package requires
is missing or too old, the part `dependencies` names it; tests and benchmarks that import it fail beside those that run.
Each part writes to RESULTS/<part>.log. The lines that the benchmarks added to bench/results go to
RESULTS/<bench>.jsonl, and a table of everything to RESULTS/summary.md, brought up to date after each part. A part that
fails does not stop the others; the exit status is 1 then.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from compare import OPS

ROOT = Path(__file__).resolve().parents[1]
SAVED = ROOT / "bench" / "results"
PART_LIMIT_S = 180
DEPENDENCIES = """
import importlib.metadata, pathlib, sys, tomllib
from packaging.requirements import Requirement
project = tomllib.loads(pathlib.Path("pyproject.toml").read_text())
missing = []
for requirement in map(Requirement, project["build-system"]["requires"] + project["project"]["dependencies"]):
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        version = "none"
    if version == "none" or version not in requirement.specifier:
        missing.append(f"{requirement}, got {version}")
sys.exit("required: " + "; ".join(missing) if missing else print("all there"))
"""
LIMIT_S = 530  # of all parts together; what comes after it is left out and said to be


def parts() -> dict[str, list[str]]:
    """Name -> command of each part, in order."""
    python = sys.executable
    tests = [python, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    found = {
        # First, because without a device the tests would be skipped, and that would look like success.
        "device": [python, "-c", "import torch; torch.ones(1, device='cuda'); print(torch.cuda.get_device_name())"],
        "dependencies": [python, "-c", DEPENDENCIES],
        "build": [python, "setup.py", "build_ext", "--inplace"],
        "info": [python, "-m", "airank_fast.info", "--json"],
        "tests": tests,
    }
    found["sanitizers"] = [python, "tests/cuda_on_cpu/on_device.py"]
    for op in OPS:
        found[f"bench-{op}"] = [python, f"bench/{op}.py", "--device", "cuda", "--save"]
    for name in ("step", "bert", "data", "measuring"):
        found[f"bench-{name}"] = [python, f"bench/{name}.py", "--save"]
    return found


def run(name: str, command: list[str], log: Path, limit_s: float) -> dict:
    """Run one part with its output in `log`: {"part", "result", "duration_s", "last_line"}."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "AIRANK_FAST_CUDA": "1"}
    start = time.monotonic()
    with log.open("w") as output:
        print("$", *command, file=output, flush=True)
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status = process.wait(limit_s)
            result = "ok" if status == 0 else f"failed, exit status {status}"
        except BaseException as error:  # with the children that it has started
            os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            result = f"failed, over {limit_s:.0f} s"
    last_line = log.read_text(errors="replace").rstrip().split("\n")[-1][:100]
    duration_s = round(time.monotonic() - start, 1)
    return {"part": name, "result": result, "duration_s": duration_s, "last_line": last_line}


def write_results(folder: Path, outcomes: list[dict], sizes_before: dict[str, int]) -> None:
    """The parts as JSON lines, what the benchmarks added, and both as Markdown tables."""
    lines = ["| part | result | seconds | last line |", "|---|---|---|---|"]
    lines += ["| {part} | {result} | {duration_s} | {last_line} |".format_map(outcome) for outcome in outcomes]
    lines += ["", "| bench | case | ours, ms | times as fast as |", "|---|---|---|---|"]
    for path in sorted(SAVED.glob("*.jsonl")):
        added = path.read_bytes()[sizes_before.get(path.name, 0) :]
        if not added:
            continue
        (folder / path.name).write_bytes(added)
        for line in map(json.loads, added.decode().splitlines()):
            ours_ms = 1e3 * line["times"][line["ours"]]["median_s"]
            peers = ", ".join(f"{name} {ratio:.2f}" for name, ratio in line["speedup_over"].items())
            lines.append(f"| {line['bench']} | {line['case']} | {ours_ms:.3f} | {peers} |")
    (folder / "summary.md").write_text("\n".join(lines) + "\n")
    (folder / "parts.jsonl").write_text("".join(json.dumps(outcome) + "\n" for outcome in outcomes))


def main() -> int:
    """Run the parts; 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", help="directory for logs, JSON lines and the summary")
    parser.add_argument("--parts", nargs="+", choices=[*parts()], default=[*parts()], metavar="PART", help="only these")
    arguments = parser.parse_args()
    if not arguments.results:
        parser.error("RESULTS: a directory is required, got none")
    folder = Path(arguments.results)
    folder.mkdir(parents=True, exist_ok=True)
    sizes_before = {path.name: path.stat().st_size for path in SAVED.glob("*.jsonl")}
    outcomes = []
    begin = time.monotonic()
    for name, command in parts().items():
        if name in arguments.parts:
            limit_s = min(PART_LIMIT_S, begin + LIMIT_S - time.monotonic())
            if limit_s > 0:
                outcomes.append(run(name, command, folder / f"{name}.log", limit_s))
            else:
                outcomes.append({"part": name, "result": "left out", "duration_s": 0, "last_line": "no time was left"})
            print("{part:16} {result}, {duration_s} s: {last_line}".format_map(outcomes[-1]), flush=True)
            write_results(folder, outcomes, sizes_before)
    failed = [outcome["part"] for outcome in outcomes if outcome["result"] != "ok"]
    print(f"failed: {', '.join(failed)}" if failed else "all parts passed", f"(see {folder}/summary.md)")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
