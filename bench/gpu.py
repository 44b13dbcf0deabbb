"""Everything that needs a GPU, in one go: build, tests, sanitizers, benchmarks. No network, no environment of its own.

    python bench/gpu.py RESULTS        (or: make gpu RESULTS=DIR)

Needs a torch with CUDA, a CUDA toolkit and the package's dependencies in the running Python. Each part's output goes to
RESULTS/<part>.log, the lines that the benchmarks added to bench/results to RESULTS/<bench>.jsonl, and a table of both
to RESULTS/summary.md. A part that fails does not stop the others; the exit status is 1 then.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PART_LIMIT_S = 900
SANITIZED = ["-m", "pytest", "-m", "gpu", "-q", "-x", "-p", "no:cacheprovider", "tests/ops"]


def parts() -> dict[str, list[str]]:
    """Name -> command of each part, in order."""
    python = sys.executable
    found = {
        "build": [python, "setup.py", "build_ext", "--inplace"],
        "info": [python, "-m", "airank_fast.info"],
        "tests": [python, "-m", "pytest", "-m", "gpu"],
    }
    sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if os.path.exists(sanitizer):
        options = ["--error-exitcode", "9", "--report-api-errors", "no"]
        for tool in ("memcheck", "racecheck"):
            found[tool] = [sanitizer, "--tool", tool, *options[: 4 if tool == "memcheck" else 2], python, *SANITIZED]
    found["bench-sgd"] = [python, "bench/sgd.py", "--device", "cuda", "--compile", "--save"]
    found["bench-step"] = [python, "bench/step.py", "--save"]
    found["bench-data"] = [python, "bench/data.py", "--save"]
    found["bench-measuring"] = [python, "bench/measuring.py", "--save"]
    return found


def run(name: str, command: list[str], log: Path) -> dict:
    """Run one part with its output in `log`: {"part", "result", "duration_s"}."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "AIRANK_FAST_CUDA": "1"}
    if "compute-sanitizer" in command[0]:
        environment["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"  # else an overrun stays inside torch's own block, unseen
    start = time.monotonic()
    with log.open("w") as output:
        print("$", *command, file=output, flush=True)
        try:
            status = subprocess.run(
                command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, timeout=PART_LIMIT_S
            ).returncode
            result = "ok" if status == 0 else f"failed, exit status {status}"
        except subprocess.TimeoutExpired:
            result = f"failed, over {PART_LIMIT_S} s"
        except OSError as error:
            result = f"failed, {error}"
    return {"part": name, "result": result, "duration_s": round(time.monotonic() - start, 1)}


def summary(outcomes: list[dict], results: list[dict]) -> str:
    """Both tables, as Markdown."""
    lines = ["| part | result | seconds |", "|---|---|---|"]
    lines += [f"| {o['part']} | {o['result']} | {o['duration_s']} |" for o in outcomes]
    lines += ["", "| bench | case | ours, ms | times as fast as |", "|---|---|---|---|"]
    for line in results:
        ours_ms = line.get("times", {}).get(line.get("ours"), {}).get("median_s", float("nan")) * 1e3
        peers = ", ".join(f"{name} {ratio:.2f}" for name, ratio in line.get("speedup_over", {}).items())
        lines.append(f"| {line.get('bench')} | {line.get('case')} | {ours_ms:.3f} | {peers} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", help="directory for logs, JSON lines and the summary")
    folder = parser.parse_args().results
    if not folder:
        parser.error("RESULTS: a directory is required, got none")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    saved = ROOT / "bench" / "results"
    before = {path.name: path.stat().st_size for path in saved.glob("*.jsonl")}
    outcomes = []
    for name, command in parts().items():
        outcomes.append(run(name, command, folder / f"{name}.log"))
        print(f"{name:16} {outcomes[-1]['result']}, {outcomes[-1]['duration_s']} s", flush=True)
    results = []
    for path in sorted(saved.glob("*.jsonl")):
        added = path.read_bytes()[before.get(path.name, 0) :]
        if added:
            (folder / path.name).write_bytes(added)
            results += map(json.loads, added.decode().splitlines())
    (folder / "parts.jsonl").write_text("".join(json.dumps(outcome) + "\n" for outcome in outcomes))
    (folder / "summary.md").write_text(summary(outcomes, results))
    failed = [outcome["part"] for outcome in outcomes if outcome["result"] != "ok"]
    print(f"failed: {', '.join(failed)}" if failed else "all parts passed", f"(see {folder}/summary.md)")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
