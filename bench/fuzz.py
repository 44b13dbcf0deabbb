"""Coverage-guided fuzzing of everything that reads other people's files, with atheris.

python bench/fuzz.py [--runs 1000000] [--targets airank.read verify] [--save]

`--runs` inputs in all, in equal parts over the targets of bench/fuzz_targets.py, one process a target. Each starts
from real lines. An input that raises another error than UserError, or takes more than 25 s or 1 GB, is a crash: it is
kept in build/fuzz/ and the exit status is 1. `--save` appends the counts to bench/results/fuzz.jsonl.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "build" / "fuzz"
MAX_INPUT_BYTES = 4096


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1_000_000, help="inputs in all")
    parser.add_argument("--targets", nargs="*", help="some of the targets, by name")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations")
    parser.add_argument("--save", action="store_true", help="append the counts to bench/results/fuzz.jsonl")
    parser.add_argument(
        "--one", nargs="+", help=argparse.SUPPRESS
    )  # the process of one target: its name, libFuzzer's arguments
    options, more = parser.parse_known_args()
    if options.one:
        fuzz(options.one[0], more)
        return 0
    try:
        version = importlib.metadata.version("atheris")
    except importlib.metadata.PackageNotFoundError:
        print("fuzz: must have atheris, got none (pip install atheris: Linux, Python up to 3.13)", file=sys.stderr)
        return 2
    names = options.targets or target_names()
    results = [run_target(name, -(-options.runs // len(names)), options.seed) for name in names]
    crashes = sum(result["crashes"] for result in results)
    inputs, seconds = sum(result["inputs"] for result in results), sum(result["seconds"] for result in results)
    print(f"{inputs} inputs, {len(names)} targets, {seconds} s, {crashes} crashes")
    if options.save:
        import harness

        facts = {"inputs": inputs, "seconds": seconds, "crashes": crashes, "targets": results, "atheris": version}
        harness.append("fuzz", f"atheris, seed {options.seed}", **facts)
    return int(crashes > 0)


def target_names() -> list[str]:
    from fuzz_targets import TARGETS

    return list(TARGETS)


def run_target(name: str, runs: int, seed: int) -> dict:
    """Fuzz one target in a process of its own; returns its counts."""
    from fuzz_targets import SEEDS, clean_up

    corpus = KEPT / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    for index, content in enumerate(SEEDS):
        (corpus / f"seed-{index:02}").write_bytes(content)
    command = [
        sys.executable,
        __file__,
        "--one",
        name,
        f"-runs={runs}",
        f"-seed={seed + 1}",
        "-timeout=25",
        "-rss_limit_mb=1024",
        f"-max_len={MAX_INPUT_BYTES}",
        f"-artifact_prefix={KEPT}/{name}-",
        str(corpus),
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
    text = process.communicate()[1].decode(errors="replace")
    clean_up(process.pid)
    finished = re.search(r"Done (\d+) runs in (\d+) second", text)
    counted = [int(count) for count in re.findall(r"^#(\d+)", text, flags=re.MULTILINE)]
    covered = re.findall(r"cov: (\d+)", text)
    result = {
        "target": name,
        "inputs": int(finished[1]) if finished else max(counted, default=0),
        "seconds": int(finished[2]) if finished else None,
        "edges": int(covered[-1]) if covered else None,
        "crashes": int(process.returncode != 0 or finished is None),
    }
    print(" ".join(f"{key}={value}" for key, value in result.items()), flush=True)
    if result["crashes"]:
        print(text[-6000:], file=sys.stderr)
        result["seconds"] = result["seconds"] or 0
    return result


def fuzz(name: str, arguments: list[str]) -> None:
    """Fuzz one target in this process; never returns."""
    import atheris

    with atheris.instrument_imports(include=["airank_fast"]):
        from fuzz_targets import run
    atheris.Setup([sys.argv[0], *arguments], lambda content: run(name, content) and None)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
