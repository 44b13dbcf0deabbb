"""FlagPerf's figures of a run: a dictionary, and the row of its result table.

| 配置 | precision | fix_hp | e2e_time | p_whole | p_train | p_core | acc | mem |
| A100单机8卡（1x8） | amp | bs=256,lr=0.8 | 28661 | 4475 | 4586 | 4659 | 75.0% | 5.8/40.0 |
"""

from collections.abc import Iterable

from airank_fast.record.events import Event
from airank_fast.record.metrics import Tally

HEADER = (
    "| 配置 | precision | fix_hp | e2e_time | p_whole | p_train | p_core | acc | mem |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)
_NUMERALS = {1: "单", 2: "两", 4: "四", 8: "八"}
_FIGURES = ("e2e_time", "p_whole", "p_train", "p_core")


def flagperf(events: Iterable[Event]) -> dict:
    """The table's columns by their names, unrounded: times in s, rates per s, acc a fraction, mem in GiB.

    `precision` is FlagPerf's word (fp32, amp, fp16), `acc` the last evaluation's; `device`, `config` (nodes x
    devices) and `fix_hp` say on what and with which batch size and learning rate. Also status, reason,
    comparable and target.
    """
    tally = Tally()
    for event in events:
        tally.feed(event)
    return columns(tally)


def columns(tally: Tally) -> dict:
    """`flagperf` of the events that a tally was fed."""
    summary, config, system = tally.summary(), tally.config, tally.system
    world_size = config.get("world_size") or 1
    num_nodes = min(_count(system.get("number_of_nodes")), world_size)
    return {
        "case": config.get("benchmark"),
        "device": _device(system, config),
        "nnodes": num_nodes,
        "nproc": world_size // num_nodes,
        "config": f"{num_nodes}x{world_size // num_nodes}",
        "precision": "amp" if config.get("precision") in ("bf16", "fp16") else config.get("precision"),
        "fix_hp": _fix_hp(config, world_size),
        **{name: summary[name] for name in _FIGURES},
        "acc": summary["final_accuracy"],
        "mem_used": summary["mem_used_gib"],
        "mem_total": summary["mem_total_gib"],
        **{name: summary[name] for name in ("target", "status", "reason", "comparable")},
    }


def table_row(events: Iterable[Event]) -> str:
    """The row of FlagPerf's table; a cell that the run gives no figure for stays blank, as there."""
    return row(flagperf(events))


def row(run: dict) -> str:
    """`table_row` of the dictionary that `flagperf` gives."""
    nodes, devices = run["nnodes"], run["nproc"]
    devices_name = f"{devices}卡" if devices > 1 else "单卡"
    name = f"{run['device']}{_NUMERALS.get(nodes, nodes)}机{devices_name}（{run['config']}）"
    memory = "" if run["mem_used"] is None else f"{run['mem_used']:.1f}/{run['mem_total']:.1f}"
    accuracy = "" if run["acc"] is None else f"{run['acc']:.1%}"
    figures = [_figure(run[key]) for key in _FIGURES]
    return f"| {' | '.join([name, run['precision'] or '', run['fix_hp'], *figures, accuracy, memory])} |"


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}"


def _count(value) -> int:
    try:
        return max(1, int(value))
    except (TypeError, ValueError):
        return 1


def _device(system: Event, config: Event) -> str:
    devices = config.get("devices") or [""]
    return system.get("accelerator_name") or system.get("host_processor_name") or str(devices[0])


def _fix_hp(config: Event, world_size: int) -> str:
    """Batch size a device and base learning rate, in FlagPerf's words; / where the run does not say."""
    reported = config.get("reported") or {}
    rate = next((value for key, value in reported.items() if key.endswith("opt_base_learning_rate")), None)
    batch = config.get("global_batch_size")
    parts = [f"bs={batch // world_size}"] if batch else []
    parts += [f"lr={rate:g}"] if rate is not None else []
    return ",".join(parts) or "/"
