"""Runs the benches of all operators and reports, by case, whether the project's goals were met in that run.

    python bench/compare.py [--device cpu|cuda] [--ops lamb layer_norm ...] [--saved]

Every result is appended to bench/results; --saved runs nothing and judges the last saved results. A goal is a ratio to
a peer of the same run, of times or of memory peaks, or a share of the floor: the time to move the necessary bytes at
the measured bandwidth. A goal is out of reach where the floor itself would miss it, or bare copies of as many bytes in
the same run; one whose peer is missing is not judged. The exit status is 1 if a bench failed; a missed goal is only
reported.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

import tables

OPS = tables.OPS
FLOOR = "floor"
COPY = "torch's copy of x (yardstick)"
COPIES = "torch's copies of as many bytes (yardstick)"
MEMORY = ", memory peak"
ADAPTIVE = [
    (name, "", peer, goal)
    for name in ("adam", "adagrad")
    for peer, goal in {"torch fused": 1.2, "torch foreach": 2.0}.items()
]
# Device -> (bench, pattern of the case's name, peer, how many times as fast). FLOOR: the least floor / time.
GOALS = {
    "cpu": [
        ("sgd", "", "torch fused", 1.0),
        *ADAPTIVE,
        ("ftrl", "", "torch foreach", 2.0),
        ("lamb", "BERT-large", "Python LAMB", 6.0),
        ("lamb", "BERT-large", FLOOR, 1 / 1.5),
        ("lamb", "^400 tensors", "torch fused AdamW (yardstick)", 1 / 1.5),
        ("sparse_table", "^(?!row-wise|ftrl)", "torch", 5.0),
        ("sparse_table", "", FLOOR, 0.7),
        ("layer_norm", "^forward .* bfloat16", "torch", 2.0),
        ("layer_norm", "^backward .* bfloat16", "torch", 1.5),
        ("layer_norm", "autocast", "torch", 2.0),
        ("dropout_add_layer_norm", "", "torch", 2.0),
        ("batch_norm_act", "fp32", "torch", 3.0),
        ("batch_norm_act", "bf16", "torch", 1.5),
        ("instance_norm_act", "", "torch", 2.0),
        ("instance_norm_act", "", "torch.compile", 1.2),
        ("cross_entropy", "30528|33708", "torch", 1.5),
        ("cross_entropy", " 1000 ", "torch", 1.0),
        ("bias_gelu", "^(?!linear)", "torch", 1.3),
        ("fm", "", "torch", 3.0),
        ("fm", "", "torch.compile", 1.0),
        ("upsample_cross_entropy", "backward", "torch", 4.0),
        ("upsample_cross_entropy", "backward", "torch" + MEMORY, 10.0),
        ("upsample_cross_entropy", "^counts", "torch", 1.3),
        ("upsample_cross_entropy", "", "torch.compile", 1.0),
        ("upsample_add_act", "", "torch", 1.3),
        ("upsample_add_act", "", "torch.compile", 1.0),
        ("nms", "", "torchvision", 5.0),
        ("match_boxes", "", "torchvision", 2.0),
        ("roi_align", "", "torchvision", 4.0),
        ("mask_targets", "", "pycocotools", 4.0),
    ],
    # Of the ops of boxes no figure on a GPU is published: nms and roi_align must not be slower.
    "cuda": [
        ("sgd", "", "torch fused", 1.0),
        *ADAPTIVE,
        ("ftrl", "", "torch foreach", 2.0),
        ("sparse_table", "^(?!row-wise|ftrl)", "torch", 2.0),
        ("lamb", "BERT-large", "apex", 1.6),
        ("lamb", "BERT-large", FLOOR, 0.75),
        ("layer_norm", "bfloat16", "torch", 1.3),
        ("layer_norm", "bfloat16", "torch.compile", 1.0),
        ("layer_norm", "autocast", "torch", 3.0),
        ("dropout_add_layer_norm", "", "torch", 3.0),
        ("dropout_add_layer_norm", "", "torch.compile", 1.0),
        ("batch_norm_act", "", "torch", 1.6),
        ("batch_norm_act", "", "torch.compile", 1.1),
        ("instance_norm_act", "", "torch", 2.0),
        ("instance_norm_act", "", "torch.compile", 1.2),
        ("cross_entropy", "30528|33708", "torch", 2.0),
        ("cross_entropy", "", "torch" + MEMORY, 2.0),
        ("bias_gelu", "^(?!linear)", "torch", 1.5),
        ("fm", "", "torch", 3.0),
        ("fm", "", "torch.compile", 1.0),
        ("upsample_cross_entropy", "", "torch", 2.0),
        ("upsample_add_act", "", "torch", 1.3),
        ("upsample_cross_entropy", "backward", "torch" + MEMORY, 10.0),
        ("nms", "", "torchvision", 1.0),
        ("match_boxes", "", "torchvision", 2.0),
        ("roi_align", "", "torchvision", 1.0),
    ],
}


def judged(result: dict, device: str) -> list[list[str]]:
    """A row for each peer of a result: how many times as fast, the floor's ratio, goal, whether it was met.

    For a memory peak: how many times as small.
    """
    ours = result["times"][result["ours"]]["median_s"]
    ratios = dict(result["speedup_over"])
    share = result["floor_s"] / ours if "floor_s" in result else None
    if share is not None:
        ratios[FLOOR] = share
    copy = ratios.get(COPY, ratios.get(COPIES))
    goals = {of: g for bench, c, of, g in GOALS[device] if bench == result["bench"] and re.search(c, result["case"])}
    rows = []
    for peer, ratio in ratios.items():
        at_floor = ratio / share if share is not None else None
        at_copy = ratio / copy if copy is not None else None
        out_of_reach = any(limit is not None and limit < goals.get(peer, 0) for limit in (at_floor, at_copy))
        verdict = judgement(ratio, goals.get(peer), out_of_reach)
        if peer in goals and peer in result.get("host_in_time", ()):
            verdict[1] += ", with the host in the peer's time"
        floor = "" if at_floor is None else f"{at_floor:.2f}"
        rows.append([result["bench"], result["case"], f"{1e3 * ours:.3f}", peer, f"{ratio:.2f}", floor, *verdict])
    peaks = result.get("memory_peak_bytes", {})
    for name, peak in peaks.items():
        peer, own = name + MEMORY, peaks[result["ours"]]
        if name != result["ours"]:
            ratio = peak / max(own, 1)
            verdict = judgement(ratio, goals.get(peer), False)
            rows.append([result["bench"], result["case"], f"{own / 2**20:.1f} MiB", peer, f"{ratio:.2f}", "", *verdict])
    there = {row[3] for row in rows}
    for peer in goals:
        if peer not in there:
            rows.append(
                [
                    result["bench"],
                    result["case"],
                    f"{1e3 * ours:.3f}",
                    peer,
                    "",
                    "",
                    f"{goals[peer]:.2f}",
                    "not judged: the peer is missing",
                ]
            )
    return rows


def judgement(ratio: float, goal: float | None, out_of_reach: bool) -> list[str]:
    """The goal and whether it was met."""
    if goal is None:
        return ["", ""]
    return [f"{goal:.2f}", "met" if ratio >= goal else "out of reach" if out_of_reach else "MISSED"]


def table(results: list[dict], device: str) -> str:
    """Every result's rows in Markdown."""
    rows = [["bench", "case", "ours, ms", "peer", "times as fast", "the floor would be", "goal", ""], ["---"] * 8]
    for result in results:
        rows += [[row[0], f"{row[1]}, {tables.kind(result)}", *row[2:]] for row in judged(result, device)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=list(GOALS))
    parser.add_argument("--ops", nargs="+", default=OPS, choices=OPS)
    parser.add_argument("--saved", action="store_true", help="judge what is in bench/results")
    arguments = parser.parse_args()
    failed = []
    for op in () if arguments.saved else arguments.ops:
        script = Path(__file__).with_name(f"{op}.py")
        command = [sys.executable, str(script), "--device", arguments.device, "--save"]
        if subprocess.run(command, check=False).returncode:
            failed.append(op)
    results = [result for op in arguments.ops for result in tables.latest(op)]
    print(table([r for r in results if re.search(rf"\b{arguments.device}$", r["case"])], arguments.device))
    if failed:
        print(f"failed: {', '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
