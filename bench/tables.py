"""Write the tables of docs/benchmarks.md from the result files; `--check` only compares.

    python bench/tables.py [--check]

Between `<!-- results: NAME -->` and `<!-- end -->` it writes the tables of bench/results/NAME.jsonl, one for each kind
of processor, from the last line of each case. NAME `ops` is the one table of all ops against torch's.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from airank_fast import tasks

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
OPS = (
    "sgd",
    "adam",
    "adagrad",
    "ftrl",
    "lamb",
    "sparse_table",
    "layer_norm",
    "dropout_add_layer_norm",
    "batch_norm_act",
    "instance_norm_act",
    "bias_gelu",
    "fm",
)
OPS += (
    "cross_entropy",
    "upsample_cross_entropy",
    "upsample_add_act",
    "nms",
    "match_boxes",
    "roi_align",
    "mask_targets",
)
MARKED = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def kind(result: dict) -> str:
    """The kind of processor of a result: AVX-512, AVX2, CUDA, or another name of its instructions."""
    device = result["machine"]["devices"][-1]
    if device.startswith("cuda"):
        return "CUDA"
    name = result.get("instructions") or device.rpartition(" ")[2]
    return "AVX-512" if name.startswith(("AVX512", "AMX")) else name


def latest(name: str) -> list[dict]:
    """The last result of each case of a benchmark on each kind of processor, in the order of their first results.

    None where it has not run yet.
    """
    path = RESULTS / f"{name}.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return list({(result["case"], kind(result)): result for result in map(json.loads, lines)}.values())


def tables(name: str) -> str:
    """A Markdown table for each kind of processor, each with a line on where it was measured; of convergence one."""
    if name == "convergence":
        return table(name, latest(name))
    by_kind: dict[str, list[dict]] = {}
    for result in latest(name):
        by_kind.setdefault(kind(result), []).append(result)
    if not by_kind:
        return "No result yet.\n"
    return "\n".join(table(name, results) for _, results in sorted(by_kind.items(), reverse=True))


def table(name: str, results: list[dict]) -> str:
    """A Markdown table with one row a case, and a line on where it was measured."""
    makers = {
        "baselines": baselines_rows,
        "convergence": convergence_rows,
        "convolution": convolution_rows,
        "load": load_rows,
        "measuring": measuring_rows,
        "picture_baselines": picture_baselines_rows,
        "real_pictures": real_pictures_rows,
    }
    rows = makers.get(name, speed_rows)(results)
    last = max(results, key=lambda result: result["time"])
    versions = last["versions"]
    what = ", ".join(f"{key} {versions[key]}" for key in ("torch", "nvidia-dali-cuda130", "pillow") if key in versions)
    where, commit = "; ".join(dict.fromkeys(r["machine"]["devices"][-1] for r in results)), last["commit"] or "unknown"
    if last.get("stand_in"):
        where += " (a later processor limited to these instructions)"
    load = max(result["machine"].get("load", 0) for result in results)
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", f"{where}; load up to {load:.1f}; {what}; `bench/{name}.py`, commit {commit}.", ""])


def convergence_rows(results: list[dict]) -> list[list[str]]:
    """A row a command: from what to what its seeds came, and on each kind of processor how many reached the target."""
    kinds = sorted({kind(result) for result in results})
    rows = [["airank_fast.train", "target", "accuracy", "epochs", *(f"{name}: seeds, time2train" for name in kinds)]]
    rows.append(["---"] * len(rows[0]))
    commands: dict[str, list[dict]] = {}
    for result in results:
        commands.setdefault(result["case"].partition(" --seed ")[0], []).append(result)
    for command, its in sorted(commands.items()):
        task = tasks.find(command.split()[0])
        show = (task.headline if task else tasks.headline({})).text
        target = its[-1]["target"]
        row = [f"`{command}`", target if isinstance(target, str) else show(target)]
        row.append(span([result["best_accuracy"] for result in its], show))
        row.append(span([result["epochs"] for result in its], str))
        rows.append(row + [seeds([result for result in its if kind(result) == name]) for name in kinds])
    return rows


def seeds(results: list[dict]) -> str:
    """How many runs reached the target, and in what time; "" for none."""
    reached = [result["time2train"] for result in results if result["status"] == "success"]
    times = f", {span(reached, '{:.1f} s'.format)}" if reached else ""
    return f"{len(reached)} of {len(results)}{times}" if results else ""


def span(values: list, show: Callable[[Any], str]) -> str:
    """The least and the greatest value."""
    return " to ".join(dict.fromkeys(show(end(values)) for end in (min, max))) if values else "none"


def load_rows(results: list[dict]) -> list[list[str]]:
    """A row a scenario: LoadGen's median latency, the engine's part of it, and the rest."""
    rows = [["case", "latency p50", "engine p50", "added", "share"], ["---"] * 5]
    for r in results:
        times = [f"{1e3 * r[name]:.2f} ms" for name in ("latency_s", "engine_s", "added_s")]
        rows.append([r["case"], *times, f"{r['share']:.2%}"])
    return rows


def baselines_rows(results: list[dict]) -> list[list[str]]:
    """A row a method: what it reaches where the tasks have their target."""
    rows = [["data set", "method", "reached", "target"], ["---"] * 4]
    for r in results:
        target = "" if r["target"] is None else f"{r['target']:.3f}"
        rows.append([r["data_set"], r["method"], f"{r['value']:.4f}", target])
    return rows


def picture_baselines_rows(results: list[dict]) -> list[list[str]]:
    """A row a method: its values of the metrics, and those that the recipe requires in one evaluation."""
    rows = [["data set", "method", "reached", "target"], ["---"] * 4]
    for result in results:
        texts = [
            ", ".join(f"{name} {value:.4f}" for name, value in result[key].items()) or "none"
            for key in ("values", "target")
        ]
        rows.append([result["data_set"], result["method"], *texts])
    return rows


def real_pictures_rows(results: list[dict]) -> list[list[str]]:
    """A row a data set: from what to what AP its seeds came. The commands are in docs/coco.md."""
    shown = {"box_ap": "box AP", "box_ap50": "box AP50", "mask_ap": "mask AP", "mask_ap50": "mask AP50"}
    rows = [["data set", "task", "seeds", *shown.values()], ["---"] * 7]
    by_set: dict[str, list[dict]] = {}
    for result in results:
        by_set.setdefault(result["data_set"], []).append(result)
    for name, its in by_set.items():
        values = [[each["quality"][key] for each in its if key in each["quality"]] for key in shown]
        columns = [span(each, "{:.3f}".format) if each else "" for each in values]
        rows.append([name, its[-1]["case"].split()[0], str(len(its)), *columns])
    return rows


def convolution_rows(results: list[dict]) -> list[list[str]]:
    """How many times as fast as torch's convolution the product is: a row for each kernel and number of channels."""
    pixels = sorted({result["pixels"] for result in results})
    rows = [["convolution", *(f"{number} pixels" for number in pixels)], ["---"] * (1 + len(pixels))]
    found: dict[str, dict[int, str]] = {}
    for result in results:
        kernel, (c_in, c_out) = result["kernel"], result["channels"]
        case = f"{kernel}x{kernel}, {c_in} to {c_out} channels, {result['dtype']}"
        found.setdefault(case, {})[result["pixels"]] = f"{result['speedup_over']['torch']:.2f}"
    return rows + [[case, *(by_pixels.get(number, "") for number in pixels)] for case, by_pixels in found.items()]


def measuring_rows(results: list[dict]) -> list[list[str]]:
    """The cost of the clock, by the median of paired times and by the clock itself."""
    rows = [["case", "clock off", "cost, by paired times", "cost, by the clock's own account"], ["---"] * 4]
    for result in results:
        without, cost = result["times"]["clock off"]["median_s"], result["speedup_over"]["clock on"] - 1
        own = result["cost_by_its_own_account"]
        rows.append([result["case"], f"{1e3 * without:.1f} ms", f"{cost:+.2%}", f"{own:.3%}"])
    return rows


BEHIND = 0.95
"""An op that is this many times as fast as torch's, or less, is not chosen; nearer to 1 is within the noise."""
PEERS = ("torch", "torch fused", "torch foreach")
DTYPES = {"fp32": "float32", "float32": "float32", "bf16": "bfloat16", "bfloat16": "bfloat16", "autocast": "autocast"}


def against_torch(ops: Sequence[str]) -> dict[tuple[str, str], dict[str, float]]:
    """(op, dtype) -> kind of processor -> torch's time over ours, forward and backward and all cases together."""
    found: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = {}
    for op in ops:
        for result in latest(op):
            peer = next((peer for peer in PEERS if peer in result["speedup_over"]), None)
            if peer is None or result["case"].startswith("linear"):  # a product with the op behind it
                continue
            dtype = next(DTYPES[word] for word in re.split(r"[ ,]+", result["case"]) if word in DTYPES)
            ours = result["times"][result["ours"]]["median_s"]
            pairs = found.setdefault((op, dtype), {}).setdefault(kind(result), [])
            pairs.append((ours, ours * result["speedup_over"][peer]))
    return {
        key: {name: sum(b for _, b in pairs) / sum(a for a, _ in pairs) for name, pairs in kinds.items()}
        for key, kinds in found.items()
    }


def ops_table() -> str:
    """Markdown: each op against torch's, by kind of processor."""
    ratios = against_torch(OPS)
    kinds = sorted({name for by_kind in ratios.values() for name in by_kind})
    rows = [["op", *kinds], ["---"] * (1 + len(kinds))]
    for (op, dtype), by_kind in ratios.items():
        rows.append([f"`{op}`, {dtype}", *(f"{by_kind[name]:.2f}" if name in by_kind else "" for name in kinds)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def speed_rows(results: list[dict]) -> list[list[str]]:
    """airank_fast's median time, how many times as fast as each peer it is, and its memory peak beside torch's."""
    peers = list(dict.fromkeys(peer for result in results for peer in result["speedup_over"]))
    has_peaks, has_limits = (any(of(result) for result in results) for of in (memory, at_most))
    header = ["case", "airank_fast", *(f"times as fast as {peer}" for peer in peers)]
    header += ["memory, of torch's"] * has_peaks + ["torch's products alone"] * has_limits
    rows = [header, ["---"] * len(header)]
    for result in results:
        ours = result["times"][result["ours"]]["median_s"]
        over = result["speedup_over"]
        row = [result["case"], amount(result, ours), *(f"{over[p]:.2f}" if p in over else "" for p in peers)]
        rows.append(row + [memory(result)] * has_peaks + [at_most(result)] * has_limits)
    return rows


def at_most(result: dict) -> str:
    """How many times as fast as torch's step its convolutions, products and LSTMs alone are; "" if not measured."""
    seconds = result.get("products_s", {}).get("torch")
    ours = result["times"][result["ours"]]["median_s"]
    return f"{ours * result['speedup_over']['torch'] / seconds:.2f}" if seconds else ""


def memory(result: dict) -> str:
    """The memory peaks beyond the inputs; "" where they were not measured."""
    peaks = result.get("memory_peak_bytes", {})
    if "torch" not in peaks:
        return ""
    return f"{peaks[result['ours']] / 2**20:.1f} of {peaks['torch'] / 2**20:.1f} MiB"


def amount(result: dict, seconds: float) -> str:
    """airank_fast's time, and its rate where the benchmark has one."""
    unit = next(
        (unit for unit in ("samples", "words", "target_tokens", "sentences") if f"{unit}_per_s" in result), "images"
    )
    rate = result.get(f"{unit}_per_s", {}).get(result["ours"])
    limit = f" of {of:.0f}" if (of := result.get("images_per_s_by_arithmetic")) else ""
    return f"{1e3 * seconds:.1f} ms" + (f", {rate:.0f}{limit} {unit.replace('_', ' ')}/s" if rate else "")


def main() -> int:
    old = PAGE.read_text()
    new = MARKED.sub(lambda found: found[1] + (ops_table() if found[2] == "ops" else tables(found[2])) + found[3], old)
    if "--check" in sys.argv:
        return int(old != new)
    PAGE.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
