"""Runs all that needs a GPU: build, tests, benchmarks, sanitizers. Uses no network and the present environment.

    python bench/gpu.py RESULTS [--parts tests] [--limit S]        (or: make gpu RESULTS=DIR [ARGS=...])

Needs a torch with CUDA and a CUDA toolkit in the running Python. The part `dependencies` names requirements of the
build or the package that are missing or too old; tests and benchmarks that import them fail, the others run.

Each part writes to RESULTS/<part>.log. The lines that the benchmarks added to bench/results go to
RESULTS/<bench>.jsonl, and tables of them, with the goals that were met, to RESULTS/summary.md. RESULTS.tar.gz has all
of it in one file. Both are updated after each part, so that they exist even if the command is killed. A part that fails
does not stop the others.

The command ends within a limit of 530 s, which is too short for all parts: those that do not fit are left out, last the
sanitizers, and are named. The exit status is 1 where a part failed or was left out. Three calls, each within the limit,
run everything; each group begins with the parts that it needs, and an existing build is not repeated:

    make gpu RESULTS=gpu-tests ARGS="--parts tests"
    make gpu RESULTS=gpu-benches ARGS="--parts benches"
    make gpu RESULTS=gpu-steps ARGS="--parts steps sanitizers"
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

import compare

ROOT = Path(__file__).resolve().parents[1]
SAVED = ROOT / "bench" / "results"
LIMIT_S = 530  # of all parts
LEAST_S = 15  # that must be left for a part to begin
GROUPS = ("tests", "benches", "steps", "sanitizers")
DEVICE = "import torch; torch.ones(1, device='cuda'); print(torch.cuda.get_device_properties(0))"
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


@dataclass(frozen=True)
class Part:
    """One process: its command after `python`, the groups that it belongs to, and how long it may take.

    Neighbours that are marked `together` run at the same time.
    """

    name: str
    command: tuple[str, ...]
    groups: tuple[str, ...]
    limit_s: float
    together: bool = False


def parts() -> list[Part]:
    """All parts, in order: those with the most information about a new machine first."""
    built = ("tests", "benches", "steps")
    found = [
        # First, because without a device the tests are skipped, which would look like success.
        Part("device", ("-c", DEVICE), GROUPS, 60),
        Part("dependencies", ("-c", DEPENDENCIES), built, 60),
        # Always linked again: an extension without CUDA may be newer than the sources. ninja compiles what changed.
        Part("build", ("setup.py", "build_ext", "--inplace", "--force"), built, 300),
        Part("info", ("-m", "airank_fast.info", "--json"), built, 60),
        *tests(),
    ]
    # The compiler's graphs take most of the time; batch_norm_act has by far the most of them.
    limits_s = {"layer_norm": 150, "batch_norm_act": 240}
    for op in sorted(compare.OPS, key=lambda op: limits_s.get(op, 0)):
        command = (f"bench/{op}.py", "--device", "cuda", "--save")
        found.append(Part(f"bench-{op}", command, ("benches",), limits_s.get(op, 100)))
    of_steps = {"step": 200, "gan_step": 200, "bert": 120, "transformer_step": 200, "beam_search": 200}
    of_steps |= {"mask_rcnn_step": 150, "picture_step": 200, "measuring": 60, "data": 60, "word2vec": 100}
    more = {"picture_step": ("--tasks", "yolov3", "--recipes", "coco")}
    for name, limit_s in of_steps.items():
        command = (f"bench/{name}.py", "--save", *more.get(name, ()))
        found.append(Part(f"bench-{name}", command, ("steps",), limit_s))
    return [*found, Part("sanitizers", ("tests/cuda_on_cpu/on_device.py",), ("sanitizers",), 450)]


def tests() -> list[Part]:
    """A process for each op: after an access out of bounds a process cannot use the device any more."""
    pytest = ["-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    kernels = sorted(path.stem for path in (ROOT / "csrc/cuda").glob("*.cu"))
    of_ops = {f"tests-{kernel}": [f"tests/ops/test_{kernel}.py"] for kernel in kernels}
    rest = ["tests", *(f"--ignore={file}" for files in of_ops.values() for file in files)]
    named = of_ops | {"tests-rest": rest}
    return [Part(name, (*pytest, *where), ("tests",), 300, together=True) for name, where in named.items()]


def chosen(names: list[str]) -> list[list[Part]]:
    """The parts of these names or groups, in order; those in one list run at the same time."""
    stages: list[list[Part]] = []
    for part in parts():
        if names and part.name not in names and not set(part.groups) & set(names):
            continue
        if stages and part.together and stages[-1][0].together:
            stages[-1].append(part)
        else:
            stages.append([part])
    return stages


def start(part: Part, folder: Path) -> subprocess.Popen:
    """A part's process, in a process group of its own, with its output in a log."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, *part.command]
    with (folder / f"{part.name}.log").open("w") as output:
        print("$", *command, file=output, flush=True)
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": path, "AIRANK_FAST_CUDA": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def run(stage: list[Part], folder: Path, left_s: float) -> list[dict]:
    """Run parts at the same time; returns {"part", "result", "duration_s", "last_line"} of each, as they end."""
    if left_s < LEAST_S:
        return [outcome(part, "left out", 0, "no time was left") for part in stage]
    begin, done = time.monotonic(), []
    running = {part: start(part, folder) for part in stage}
    try:
        while running:
            time.sleep(0.05)
            for part, process in list(running.items()):
                duration_s, status = time.monotonic() - begin, process.poll()
                if status is not None:
                    result = "ok" if status == 0 else f"failed, exit status {status}"
                elif duration_s > left_s:
                    result = "left out, stopped at the limit"
                elif duration_s > part.limit_s:
                    result = f"failed, over {part.limit_s} s"
                else:
                    continue
                if status is None:
                    end(process)
                del running[part]
                log = (folder / f"{part.name}.log").read_text(errors="replace")
                done.append(outcome(part, result, round(duration_s, 1), log.rstrip().split("\n")[-1][:100]))
    finally:
        for process in running.values():
            end(process)
    return done


def end(process: subprocess.Popen) -> None:
    """End a process with the children that it has started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def outcome(part: Part, result: str, duration_s: float, last_line: str) -> dict:
    """A line of parts.jsonl; printed too."""
    print(f"{part.name:28} {result}, {duration_s} s: {last_line}", flush=True)
    return {"part": part.name, "result": result, "duration_s": duration_s, "last_line": last_line}


def write_results(folder: Path, archive: Path, outcomes: list[dict], sizes_before: dict[str, int]) -> None:
    """Write the parts as JSON lines, the benchmarks' new lines, both as Markdown tables, and the archive of all."""
    lines = ["| part | result | seconds | last line |", "|---|---|---|---|"]
    lines += ["| {part} | {result} | {duration_s} | {last_line} |".format_map(outcome) for outcome in outcomes]
    lines += ["", "| bench | case | ours, ms | ours on the host, ms | times as fast as |", "|---|---|---|---|---|"]
    of_ops = []
    for path in sorted(SAVED.glob("*.jsonl")):
        added = path.read_bytes()[sizes_before.get(path.name, 0) :]
        if not added:
            continue
        (folder / path.name).write_bytes(added)
        for line in map(json.loads, added.decode().splitlines()):
            ours_ms = 1e3 * line["times"][line["ours"]]["median_s"]
            host = f"{1e3 * line['host_s'][line['ours']]:.3f}" if "host_s" in line else ""
            host += ", in the time" * (line["ours"] in line.get("host_in_time", ()))
            peers = ", ".join(f"{name} {ratio:.2f}" for name, ratio in line["speedup_over"].items())
            lines.append(f"| {line['bench']} | {line['case']} | {ours_ms:.3f} | {host} | {peers} |")
            of_ops += [line] * (line["bench"] in compare.OPS)
    lines += ["", compare.table(of_ops, "cuda")]
    (folder / "summary.md").write_text("\n".join(lines) + "\n")
    (folder / "parts.jsonl").write_text("".join(json.dumps(outcome) + "\n" for outcome in outcomes))
    unfinished = archive.with_name(archive.name + ".unfinished")
    with tarfile.open(unfinished, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)
    unfinished.replace(archive)


def main() -> int:
    """Run the parts; 1 if one failed or was left out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", help="directory for logs, JSON lines and the summary")
    names = [*GROUPS, *(part.name for part in parts())]
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=names,
        default=[],
        metavar="PART",
        help=f"only these, or the groups {', '.join(GROUPS)}",
    )
    parser.add_argument("--limit", type=float, default=LIMIT_S, metavar="S", help=f"seconds in all, or {LIMIT_S}")
    parser.add_argument("--archive", type=Path, help="where the results are packed (default: RESULTS.tar.gz)")
    arguments = parser.parse_args()
    if not arguments.results:
        parser.error("RESULTS: must be a directory, got none")
    folder = Path(arguments.results).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    archive = arguments.archive or folder.with_name(folder.name + ".tar.gz")
    sizes_before = {path.name: path.stat().st_size for path in SAVED.glob("*.jsonl")}
    outcomes: list[dict] = []
    stop = time.monotonic() + arguments.limit
    for stage in chosen(arguments.parts):
        outcomes += run(stage, folder, stop - time.monotonic())
        write_results(folder, archive, outcomes, sizes_before)
    for what in ("failed", "left out"):
        if which := [outcome["part"] for outcome in outcomes if outcome["result"].startswith(what)]:
            print(f"{what}: {', '.join(which)}")
    print(f"see {folder}/summary.md, or {archive}")
    return int(any(outcome["result"] != "ok" for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
