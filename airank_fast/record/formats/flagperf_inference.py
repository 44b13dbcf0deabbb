"""FlagPerf's figures of an inference run, written and read: a dictionary (flagperf_inference.json) and a table's row.

| 推理工具 | precision | bs | e2e_time | p_val_whole | *p_val_core | p_infer_whole | *p_infer_core | *MFU | acc | mem |
| onnxruntime | fp32 | 256 | 1230.1 | 20.0 | 24.0 | 44.1 | 44.9 | 33.2% | 76.1/76.1 | 0.4/64.0 |

"val" is eager PyTorch on the same weights, "infer" the engine. FlagPerf's MFU takes the operations of its own
configuration, which counts a multiply-add once for ResNet-50 and twice for BERT; `mfu` counts two everywhere. Both are
of p_infer_core and of the device's rate in `peak_flops`, and absent where the run does not state one.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator
from functools import partial

from airank_fast import tasks
from airank_fast.errors import UserError
from airank_fast.record.entries import BROKEN, Entry, Trouble, quote, strict
from airank_fast.record.events import Event, dictionary
from airank_fast.record.formats import flagperf
from airank_fast.record.inference_metrics import InferenceTally, headline_value
from airank_fast.record.metrics import GIB

SCENARIO = "flagperf"
NAMES = (
    "推理工具",
    "precision",
    "bs",
    "e2e_time",
    "p_val_whole",
    "*p_val_core",
    "p_infer_whole",
    "*p_infer_core",
    "*MFU",
    "acc(推理/验证)",
    "mem",
)
_ESCAPED = [name.replace("*", "\\*") for name in NAMES]
HEADER = f"| {' | '.join(_ESCAPED)} |\n| {' | '.join(['---'] * len(NAMES))} |"
# Operations of a sample by FlagPerf's configurations.yaml: 4.12e9 multiply-adds, and 2 x 512 tokens x 0.33e9 weights.
FLAGPERF_FLOPS = {"resnet50": 4.12e9, "bert_large": 2 * 512 * 0.33e9}
_RATES = {
    "p_validation_whole(qps)": "p_val_whole",
    "p_validation_core(qps)": "p_val_core",
    "p_inference_whole(qps)": "p_infer_whole",
    "*p_inference_core(qps)": "p_infer_core",
}


def flagperf_inference(events: Iterable[Event]) -> dict | None:
    """FlagPerf's `Finish Info` of a run with the scenario flagperf, unrounded, None where the events give none.

    FlagPerf's names: vendor, compiler, precision, batchsize, flops, e2e_time(second), p_validation_whole(qps),
    p_validation_core(qps), p_inference_whole(qps), *p_inference_core(qps), val_average_acc, infer_average_acc,
    vendor_usage(GiB), vendor_max_mem(GiB), *MFU. Ours beside them: case, samples, flops_per_sample (2 a multiply-add),
    mfu, status, comparable.
    """
    tally = InferenceTally()
    for event in events:
        tally.feed(event)
    return columns(tally)


def columns(tally: InferenceTally) -> dict | None:
    """`flagperf_inference` of the events that a tally was fed."""
    test = tally.performance(SCENARIO)
    if test is None:
        return None
    summary = tally.summary()
    metric = dictionary(test.stop.get("metric"))
    used = dictionary(test.stop.get("memory")).get("total_bytes")
    theirs, ours = _their_flops(tally), tally.model.get("flops_per_sample")
    core, peak = metric.get("p_infer_core"), tally.config.get("peak_flops")
    return {
        "case": tally.config.get("benchmark"),
        "vendor": tally.system.get("accelerator_name") or tally.system.get("host_processor_name"),
        "compiler": dictionary(tally.model.get("engine")).get("name"),
        "precision": summary["precision"],
        "batchsize": max(test.batch, default=None),
        "samples": test.stop["num_samples"],
        "flops": theirs,
        "e2e_time(second)": summary["e2e_time"],
        **{name: metric.get(ours) for name, ours in _RATES.items()},
        "val_average_acc": headline_value(tally.reference, tally.metric),
        "infer_average_acc": headline_value(tally.accuracy_of(SCENARIO), tally.metric),
        "vendor_usage(GiB)": None if used is None else used / GIB,
        "vendor_max_mem(GiB)": _capacity(tally.system),
        "*MFU": core * theirs / peak if core and theirs and peak else None,
        "flops_per_sample": ours,
        "mfu": core * ours / peak if core and ours and peak else None,
        "status": summary["status"],
        "comparable": summary["comparable"],
    }


def _their_flops(tally: InferenceTally) -> float | None:
    """FlagPerf's operations of a sample; None of a benchmark, or of pictures of a size, that its cases do not have."""
    theirs, ours = FLAGPERF_FLOPS.get(str(tally.config.get("benchmark"))), tally.model.get("flops_per_sample")
    is_of_case = theirs is not None and (not ours or theirs / 1.1 < ours < 2.2 * theirs)  # one or two a multiply-add
    return theirs if is_of_case else None


def _capacity(system: Event) -> float | None:
    """The memory of the device, GiB; of a CPU that of the host. None where the system states none."""
    for name in ("accelerator_memory_capacity", "host_memory_capacity"):
        match = re.match(r"(\d{1,9}(?:\.\d{1,9})?) *Gi?B", str(system.get(name)))
        if match and float(match[1]):  # a system without an accelerator has 0 GiB of its memory
            return float(match[1])
    return None


def row(run: dict) -> str:
    """The row of FlagPerf's table of the dictionary that `flagperf_inference` gives; a figure that is None is blank."""
    metric = tasks.headline({"benchmark": run.get("case")})
    accuracies = [run["infer_average_acc"], run["val_average_acc"]]
    accuracy = "/".join("" if value is None else _accuracy(value, metric) for value in accuracies)
    used, total = run["vendor_usage(GiB)"], run["vendor_max_mem(GiB)"]
    memory = "" if used is None else f"{used:.1f}/{'' if total is None else f'{total:.1f}'}"
    rates = [_figure(run[name]) for name in ("e2e_time(second)", *_RATES)]
    share = "" if run["*MFU"] is None else f"{run['*MFU']:.1%}"
    batch = "" if run["batchsize"] is None else str(run["batchsize"])
    cells = [run["compiler"] or "", run["precision"] or "", batch, *rates, share, accuracy.strip("/"), memory]
    return f"| {' | '.join(' '.join(str(cell).replace('|', '/').split()) for cell in cells)} |"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _accuracy(value: float, metric: tasks.Metric) -> str:
    return f"{value * 100:.1f}" if metric.scale == 100 else format(value, metric.format)


# Reading

_cell = partial(flagperf.cell_number, blank=(*flagperf.BLANK, "None"))
_SHARE = re.compile(r"(\d{1,15}(?:\.\d{0,15})?) *[%％]", re.ASCII)
_PAIR = re.compile(r"(\d{1,15}(?:\.\d{0,15})?) */ *(\d{1,15}(?:\.\d{0,15})?)(?: *Gi?B)?", re.ASCII)
_OWN_NAMES = {"e2e_time": "e2e_time(second)", **{ours: name for name, ours in _RATES.items()}}


def read_table(lines: Iterable[str]) -> Iterator[Entry]:
    """The rows of every Markdown table with FlagPerf's columns of inference; other lines are skipped.

    An entry's event is the run of a row, with FlagPerf's names, as kind "flagperf_inference" at t 0; a blank cell is
    None. Accuracies stay as printed: 76.2 of per cent, 0.638 of a fraction. Kinds of trouble beside BROKEN: columns,
    cell (not in its column's form; its value is None).
    """
    at: dict[str, int] | None = None
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text.startswith("|"):
            at = None
            continue
        cells = [cell.strip() for cell in text.strip("|").split("|")] if len(text) < 10_000 else []
        names = [_column(cell) for cell in cells]
        if {"p_infer_whole", "p_infer_core"} <= set(names):
            at = {name: names.index(name) for name in names if name}
            missing = [name for name in ("tool", "precision", "bs", "e2e_time", "acc", "mem") if name not in at]
            if missing:
                trouble = Trouble("columns", f"no column {', '.join(missing)}", "each of FlagPerf's columns")
                yield Entry(number, None, (trouble,))
        elif at is not None and not re.fullmatch(r"[|\s:-]+", text):
            yield _row(number, text, cells, at)


def _column(cell: str) -> str:
    """The plain name of a column; "" of one that is not FlagPerf's."""
    name = re.sub(r"[\\*\s]", "", cell)
    if name.startswith("acc"):
        return "acc"
    return {"推理工具": "tool", "MFU": "mfu"}.get(name) or (
        name if name in (*_OWN_NAMES, "precision", "bs", "mem") else ""
    )


def _row(number: int, text: str, cells: list[str], at: dict[str, int]) -> Entry:
    if len(cells) <= max(at.values()):
        found = f"{len(cells)} cells in {quote(text)}"
        return Entry(number, None, (Trouble(BROKEN, found, "a cell for each column"),), text)
    cell = {name: cells[index] for name, index in at.items()}
    troubles: list[Trouble] = []
    run: dict = {"t": 0.0, "kind": "flagperf_inference"}
    run |= {"compiler": cell.get("tool") or None, "precision": cell.get("precision") or None}
    run["batchsize"] = _cell(flagperf.DECIMAL, "bs", cell, troubles, "a whole number")
    for name, theirs in _OWN_NAMES.items():
        run[theirs] = _cell(flagperf.DECIMAL, name, cell, troubles, "a number")
    share = _cell(_SHARE, "mfu", cell, troubles, "per cent, like 16.8%")
    run["*MFU"] = None if share is None else round(share / 100, 12)
    accuracies = _cell(_PAIR, "acc", cell, troubles, "inference/validation, like 76.2/76.2")
    memory = _cell(_PAIR, "mem", cell, troubles, "used/total in GiB, like 19.7/40.0")
    run |= dict(zip(("infer_average_acc", "val_average_acc"), accuracies or (None, None), strict=True))
    run |= dict(zip(("vendor_usage(GiB)", "vendor_max_mem(GiB)"), memory or (None, None), strict=True))
    return Entry(number, run, tuple(troubles), text)


def parse_table(lines: Iterable[str]) -> Iterator[Event]:
    """The runs of the rows. A row that lacks cells: UserError with its number."""
    return strict(read_table(lines))


def parse_json(lines: Iterable[str]) -> dict:
    """The dictionary of flagperf_inference.json, or of a `Finish Info {...}` line of FlagPerf's container.out.log.

    UserError if there is none.
    """
    text = "\n".join(_head(lines))
    _, found, info = text.partition("Finish Info")
    body = info.strip().split("\n")[0] if found else text
    try:
        run = ast.literal_eval(body) if found else json.loads(body)  # FlagPerf prints a dictionary of Python
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise UserError(f"must be a JSON object with FlagPerf's figures, got {quote(body)} ({error})") from None
    if not isinstance(run, dict):
        raise UserError(f"must be a JSON object with FlagPerf's figures, got {quote(body)}")
    return run


def _head(lines: Iterable[str]) -> Iterator[str]:
    size = 0
    for number, line in enumerate(lines, 1):
        size += len(line) + 1
        if number > 10_000 or size > 1 << 20:
            raise UserError(f"line {number}: must have FlagPerf's figures in 10,000 lines and 1 MiB, got more")
        yield line
