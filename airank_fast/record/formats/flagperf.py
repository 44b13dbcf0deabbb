"""FlagPerf's figures of a run, written and read: a dictionary (flagperf.json) and the row of its result table.

| 配置 | precision | fix_hp | e2e_time | p_whole | p_train | p_core | acc | mem |
| A100单机8卡（1x8） | amp | bs=256,lr=0.8 | 28661 | 4475 | 4586 | 4659 | 75.0% | 5.8/40.0 |
"""

import json
import re
from collections.abc import Iterable, Iterator

from airank_fast import tasks
from airank_fast.errors import UserError
from airank_fast.record.entries import BROKEN, Entry, Trouble, quote, strict
from airank_fast.record.events import Event
from airank_fast.record.metrics import Tally

HEADER = (
    "| 配置 | precision | fix_hp | e2e_time | p_whole | p_train | p_core | acc | mem |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)
_NUMERALS = {1: "单", 2: "两", 4: "四", 8: "八"}
_FIGURES = ("e2e_time", "p_whole", "p_train", "p_core")
COLUMNS = ("precision", "fix_hp", *_FIGURES, "acc", "mem")


def flagperf(events: Iterable[Event]) -> dict:
    """The table's columns by their names, unrounded: times in s, rates per s, acc in its metric's unit, mem in GiB.

    None where the events do not give one, the number of devices included.

    `precision` is FlagPerf's word (fp32, amp, fp16), `acc` the last evaluation's, `config` nodes x devices, `fix_hp`
    the batch size and learning rate. Also device, status, reason, comparable and target.
    """
    tally = Tally()
    for event in events:
        tally.feed(event)
    return columns(tally)


def columns(tally: Tally) -> dict:
    """`flagperf` of the events that a tally was fed."""
    summary, config, system = tally.summary(), tally.config, tally.system
    world_size = config.get("world_size")
    nodes, devices = _nodes(system, world_size, tally.is_ours), None
    if nodes is not None and world_size is not None:
        nodes = min(nodes, world_size)
        devices = world_size // nodes
    return {
        "case": config.get("benchmark"),
        "device": _device(system, config),
        "nnodes": nodes,
        "nproc": devices,
        "config": None if devices is None else f"{nodes}x{devices}",
        "precision": "amp" if config.get("precision") in ("bf16", "fp16") else config.get("precision"),
        "fix_hp": _fix_hp(config, tally.data, world_size),
        **{name: summary[name] for name in _FIGURES},
        "acc": summary["final_accuracy"],
        "mem_used": summary["mem_used_gib"],
        "mem_total": summary["mem_total_gib"],
        **{name: summary[name] for name in ("target", "status", "reason", "comparable")},
    }


def table_row(events: Iterable[Event]) -> str:
    """The row of FlagPerf's table; a cell without a figure stays blank, as in FlagPerf's."""
    return row(flagperf(events))


def row(run: dict) -> str:
    """`table_row` of the dictionary that `flagperf` gives."""
    nodes, devices = run["nnodes"], run["nproc"]
    name = " ".join(str(run["device"]).split())
    if devices is not None:  # else the log does not state them
        devices_name = f"{devices}卡" if devices > 1 else "单卡"
        name += f"{_NUMERALS.get(nodes, nodes)}机{devices_name}（{run['config']}）"
    memory = "" if run["mem_used"] is None else f"{run['mem_used']:.1f}/{run['mem_total']:.1f}"
    metric = tasks.headline({"benchmark": run.get("case")})
    accuracy = "" if run["acc"] is None else format(run["acc"], ".1%" if metric.scale == 100 else metric.format)
    figures = [_figure(run[key]) for key in _FIGURES]
    cells = [name, run["precision"] or "", run["fix_hp"], *figures, accuracy, memory]
    return f"| {' | '.join(' '.join(cell.replace('|', '/').split()) for cell in cells)} |"


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}"


def _nodes(system: Event, world_size: int | None, is_ours: bool) -> int | None:
    """The number of nodes; None where it is not stated and does not follow from a single device."""
    try:
        return max(1, int(system.get("number_of_nodes")))
    except (TypeError, ValueError, OverflowError):
        return 1 if world_size == 1 or is_ours else None


def _device(system: Event, config: Event) -> str:
    devices = config.get("devices") or [""]
    return system.get("accelerator_name") or system.get("host_processor_name") or str(devices[0])


def _fix_hp(config: Event, data: Event, world_size: int | None) -> str:
    """Batch size a device and base learning rate, in FlagPerf's words; / where the run states neither.

    A rate that depends on the data set is reported in the data event.
    """
    reported = [found for found in (config.get("reported"), data.get("reported")) if isinstance(found, dict)]
    rates = [value for found in reported for key, value in found.items() if key.endswith("opt_base_learning_rate")]
    rate = next((value for value in rates if isinstance(value, (int, float))), None)
    batch = config.get("global_batch_size")
    parts = [f"bs={batch // world_size}"] if batch and world_size else []
    parts += [f"lr={rate:g}"] if rate is not None else []
    return ",".join(parts) or "/"


# Reading. A run becomes the dictionary that `flagperf` gives, with the fields that the text has.

MAX_JSON_LINES = 10_000
BLANK = ("", "/", "-", "\\", "N/A")
_DIGIT_OF = {"单": 1, "一": 1, "两": 2, "二": 2, "三": 3, "四": 4, "八": 8}
_CONFIG = re.compile(
    r"^(.*?)(?:([单一两二三四八]|\d{1,6})机)?(?:([单一两二三四八]|\d{1,6})卡)? *"
    r"[（(] *(\d{1,6}) *[xX×] *(\d{1,6}) *[）)]$",
    re.ASCII,
)
DECIMAL = re.compile(r"\d{1,15}(?:\.\d{0,15})?", re.ASCII)
_PER_CENT = re.compile(r"(\d{1,15}(?:\.\d{0,15})?) *[%％]", re.ASCII)
_OF_TARGET = re.compile(r"(\d{1,15}(?:\.\d{0,15})?) */ *(\d{1,15}(?:\.\d{0,15})?)", re.ASCII)
_MEMORY = re.compile(r"(\d{1,15}(?:\.\d{0,15})?) */ *(\d{1,15}(?:\.\d{0,15})?)(?: *(?:GiB|GB|G))?", re.ASCII)


def read_table(lines: Iterable[str], maximum: float = 1.0) -> Iterator[Entry]:
    """The rows of every Markdown table that has FlagPerf's columns, in any order; other lines are skipped.

    An entry's event is the run of a row, as kind "flagperf" at t 0; a blank cell is None. `nodes_named` and
    `devices_named` are the counts in words of the configuration's name (两机8卡: 2 and 8). An accuracy may be
    actual/target in fractions (0.657/0.655), as FlagPerf's BERT has it, which gives `target`. maximum: of the metric;
    with another one than 1, as of BLEU, an accuracy is a number without a per cent sign. Kinds of trouble
    beside BROKEN: columns, config, cell (not in its column's form; its value is None), fraction (accuracy is not
    in per cent).
    """
    columns_at: dict[str, int] | None = None
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text.startswith("|"):
            columns_at = None
            continue
        cells = [cell.strip() for cell in text.strip("|").split("|")] if len(text) < 10_000 else []
        if {"p_whole", "p_train", "p_core"} <= set(cells):
            columns_at = {name: cells.index(name) for name in COLUMNS if name in cells}
            columns_at["config"] = 0
            missing = [name for name in COLUMNS if name not in cells]
            if missing:
                trouble = Trouble("columns", f"no column {', '.join(missing)}", "each of FlagPerf's columns")
                yield Entry(number, None, (trouble,))
        elif columns_at is not None and not re.fullmatch(r"[|\s:-]+", text):
            yield _row(number, text, cells, columns_at, maximum)


def _row(number: int, text: str, cells: list[str], columns_at: dict[str, int], maximum: float) -> Entry:
    if len(cells) <= max(columns_at.values()):
        found = f"{len(cells)} cells in {quote(text)}"
        return Entry(number, None, (Trouble(BROKEN, found, "a cell for each column"),), text)
    cell = {name: cells[at] for name, at in columns_at.items()}
    troubles: list[Trouble] = []
    run: dict = {"t": 0.0, "kind": "flagperf"}
    named = _CONFIG.match(cell["config"]) if len(cell["config"]) < 200 else None
    if named is None:
        troubles.append(Trouble("config", f"configuration {quote(cell['config'])}", "<device>单机8卡（1x8）"))
        run |= dict.fromkeys(("device", "config", "nnodes", "nproc"))
    else:
        device, nodes_word, devices_word = named[1].strip(), named[2], named[3]
        nodes, devices = int(named[4]), int(named[5])
        if nodes_word and nodes_word.isdecimal() and nodes_word.endswith(named[4]):  # A10016机: 16 of A100
            device += nodes_word.removesuffix(named[4])
            nodes_word = named[4]
        named_counts = [_DIGIT_OF.get(word) or int(word) if word else None for word in (nodes_word, devices_word)]
        run |= {"device": device, "nnodes": nodes, "nproc": devices, "config": f"{nodes}x{devices}"}
        run |= dict(zip(("nodes_named", "devices_named"), named_counts, strict=True))
    run |= {name: cell.get(name) or None for name in ("precision", "fix_hp")}
    run |= {name: cell_number(DECIMAL, name, cell, troubles, "a number") for name in _FIGURES}
    is_fraction = maximum == 1
    run["acc"] = (
        _accuracy(cell, run, troubles) if is_fraction else cell_number(DECIMAL, "acc", cell, troubles, "a number")
    )
    memory = cell_number(_MEMORY, "mem", cell, troubles, "used/total in GiB, like 5.8/40.0")
    run |= dict(zip(("mem_used", "mem_total"), memory or (None, None), strict=True))
    return Entry(number, run, tuple(troubles), text)


def _accuracy(cell: dict[str, str], run: dict, troubles: list[Trouble]) -> float | None:
    """The fraction in the cell, in per cent or of a target, which goes into the run."""
    of_target = _OF_TARGET.fullmatch(cell.get("acc", ""))
    if of_target and max(float(number) for number in of_target.groups()) <= 1:  # 实际/目标, fractions
        cell["acc"] = f"{float(of_target[1]) * 100:.10f}%"
        run["target"] = float(of_target[2])
    elif DECIMAL.fullmatch(cell.get("acc", "")) and float(cell["acc"]) <= 1:
        troubles.append(Trouble("fraction", f"acc {cell['acc']}", "per cent, like 75.0%,"))
        cell["acc"] = f"{float(cell['acc']) * 100:.10f}%"
    per_cent = cell_number(_PER_CENT, "acc", cell, troubles, "per cent, like 75.0%,")
    return None if per_cent is None else round(per_cent / 100, 12)


def cell_number(
    pattern: re.Pattern,
    name: str,
    cell: dict[str, str],
    troubles: list[Trouble],
    required: str,
    blank: tuple[str, ...] = BLANK,
):
    """The number in a cell, a pair if the pattern has two; None if it is blank or, a trouble, of another form."""
    text = cell.get(name, "")
    if text in blank:
        return None
    match = pattern.fullmatch(text)
    if match is None:
        troubles.append(Trouble("cell", f"{name} {quote(text)}", required))
        return None
    if pattern.groups == 2:
        return float(match[1]), float(match[2])
    return float(match[pattern.groups])


def parse_table(lines: Iterable[str]) -> Iterator[Event]:
    """The runs of the rows. A row that lacks cells: UserError with its number."""
    return strict(read_table(lines))


def parse_json(lines: Iterable[str]) -> dict:
    """The dictionary of flagperf.json; UserError if it is not one."""
    text = ""
    for number, line in enumerate(lines, 1):
        text += line + "\n"
        if number > MAX_JSON_LINES or len(text) > 1 << 20:
            limit = f"FlagPerf's figures in {MAX_JSON_LINES} lines and 1 MiB"
            raise UserError(f"line {number}: must have {limit}, got more")
    try:
        run = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"must be a JSON object with FlagPerf's figures, got {quote(text)} ({error})") from None
    if not isinstance(run, dict):
        raise UserError(f"must be a JSON object with FlagPerf's figures, got {quote(text)}")
    return run
