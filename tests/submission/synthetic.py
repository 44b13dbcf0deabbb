"""Synthetic runs that satisfy MLPerf's and AI-Rank's rules: made-up events, no training; their names say so."""

from __future__ import annotations

import math
from pathlib import Path

from airank_fast.record.events import to_line
from airank_fast.record.logs import write_logs

ORG, PLATFORM = "Synthetic Submitter", "synthetic 1x8"
HOME = "/" + "home"  # in pieces: no file of the project names a machine's folders
T0 = 1_700_000_000
RESNET = {
    "opt_name": "sgd",
    "sgd_opt_base_learning_rate": 1.632,
    "sgd_opt_end_learning_rate": 1e-4,
    "sgd_opt_learning_rate_decay_poly_power": 2,
    "sgd_opt_learning_rate_decay_steps": 29832,
    "sgd_opt_weight_decay": 5e-5,
    "sgd_opt_momentum": 0.9,
    "model_bn_span": 204,
    "opt_learning_rate_warmup_epochs": 2,
}
BERT = {
    "opt_base_learning_rate": 4.25e-4,
    "opt_lamb_epsilon": 1e-6,
    "opt_epsilon": 1e-6,
    "opt_learning_rate_training_steps": 6700,
    "opt_learning_rate_warmup_steps": 0,
    "num_warmup_steps": 0,
    "start_warmup_step": 0,
    "opt_lamb_beta_1": 0.9,
    "opt_lamb_beta_2": 0.999,
    "opt_lamb_weight_decay_rate": 0.01,
}
SYSTEM = {
    "submitter": ORG,
    "hardware_name": PLATFORM,
    "hardware_type": "onprem",
    "number_of_nodes": 1,
    "accelerators_per_node": 8,
    "accelerator_name": "Synthetic GPU",
    "accelerator_memory_capacity": "40.0 GiB",
    "host_processor_name": "Synthetic CPU @ 2.25GHz",
    "host_processors_per_node": 2,
    "host_processor_core_count": 64,
    "host_memory_capacity": "1007.0 GiB",
    "host_storage_type": "NVMe",
    "host_storage_capacity": "14000.0 GiB",
    "operating_system": "Synthetic Linux 1",
    "software_stack": "python 3.11.7, torch 2.13.0+cu130, cuda 13.0",
    "versions": {"python": "3.11.7", "torch": "2.13.0+cu130", "cuda": "13.0", "airank-fast": "0.1.0"},
    "kernels": {},
    "machine": {
        "host_processor_model_name": "Synthetic CPU @ 2.25GHz",
        "host_processors_per_node": 2,
        "host_processor_core_count": 64,
        "host_processor_vcpu_count": 256,
        "host_processor_frequency": "2.25GHz",
        "host_processor_caches": "L1d 32K, L1i 32K, L2 512K, L3 16384K",
        "host_memory_capacity": "1007.0 GiB",
        "accelerator_frequency": "1410 MHz (maximum)",
        "accelerator_host_interconnect": "PCIe Gen4 x16",
        "accelerators_per_node": 8,
        "accelerator_model_name": "Synthetic GPU",
        "container": "Docker",
        "operating_system": "Synthetic Linux 1",
    },
}
# What no operating system tells.
ANSWERS = {
    "host_processor_interconnect": "synthetic",
    "host_memory_configuration": "16 x 64 GB synthetic",
    "accelerator_on-chip_memories": "L2: 40 MB synthetic",
    "accelerator_memory_configuration": "synthetic HBM2",
    "accelerator_interconnect": "synthetic NVLink",
    "accelerator_interconnect_topology": "synthetic all to all",
    "cooling": "air",
}


def settings() -> list[str]:
    """The --set options for what a run cannot know."""
    return [part for name, value in ANSWERS.items() for part in ("--set", f"{name}={value}")]


def write_run(directory: Path, events: list[dict]) -> Path:
    """A run directory as training leaves it, from events."""
    directory.mkdir(parents=True)
    (directory / "events.jsonl").write_text("".join(to_line(event) + "\n" for event in events))
    write_logs(events, directory)
    return directory


def resnet(
    directory: Path, number: int = 0, *, minutes: float = 28.0, epochs: int = 36, reached: bool = True, **config
) -> Path:
    """A run of ResNet-50, evaluated every 4 epochs, which reaches its target with the last evaluation."""
    config = {
        "benchmark": "resnet50",
        "unit": "images",
        "target": 0.759,
        "global_batch_size": 1632,
        "reported": RESNET,
        "recipe": {"name": "imagenet-8gpu", "epochs": epochs},
        **config,
    }
    data = {"train_samples": 1_281_167, "eval_samples": 50_000, "classes": 1000, "checksum": "5" * 64}
    marks = []
    batch = config["global_batch_size"]
    for epoch in range(4, epochs + 1, 4):
        step = math.ceil(epoch * 1_281_167 / batch)
        accuracy = 0.7 - 0.5 / epoch if epoch < epochs or not reached else 0.7601
        marks.append((epoch, step, step * batch, accuracy, {"first_epoch": epoch - 3, "epoch_count": 4}))
    return write_run(directory, _story(config, data, marks, number, minutes * 60, 50_000))


def bert(
    directory: Path, number: int = 0, *, minutes: float = 17.0, evaluations: int = 17, reached: bool = True, **config
) -> Path:
    """A run of BERT-large at global batch 448, evaluated every 150,000 samples."""
    config = {
        "benchmark": "bert_large",
        "unit": "samples",
        "target": 0.72,
        "global_batch_size": 448,
        "reported": BERT,
        "recipe": {"name": "mlperf", "steps": 6700},
        **config,
    }
    data = {"train_samples": 156_725_653, "eval_samples": 10_000, "checksum": "b" * 64}
    marks = []
    for index in range(1, evaluations + 1):
        step = math.ceil(index * 150_000 / 448)
        accuracy = 0.7 - 0.3 / index if index < evaluations or not reached else 0.7203
        marks.append((0, step, step * 448, accuracy, {}))
    return write_run(directory, _story(config, data, marks, number, minutes * 60, 10_000))


def _story(config: dict, data: dict, marks: list, number: int, total_s: float, counted: int) -> list[dict]:
    """The events of one run: blocks that end in `marks` (epoch, step, samples, accuracy, fields of the block)."""
    t = T0 + number * 10_000.0
    events = []

    def emit(kind: str, **fields) -> None:
        events.append({"t": round(t, 6), "kind": kind, **fields})

    emit("process_start", pid=number + 1)
    arguments = [
        "airank_fast/train.py",
        config["benchmark"],
        "--amp",
        "--seed",
        str(1000 + number),
        "--data",
        f"{HOME}/somebody/data",
    ]
    emit(
        "run_config",
        **{
            "seed": 1000 + number,
            "precision": "bf16",
            "world_size": 8,
            "devices": ["Synthetic GPU"] * 8,
            "gradient_accumulation_steps": 1,
            "warmup_epochs_excluded": 0,
            "command": arguments,
            "submission": {"org": ORG, "platform": PLATFORM, "division": "closed", "status": "onprem"},
            **config,
        },
    )
    emit("system", **SYSTEM)
    emit("cache_clear", value=True)
    emit("init_start")
    t += 30
    emit("init_stop")
    emit("run_start")
    start = t
    emit("data", source="synthetic", corrupt_files=[], **data)
    step_before = samples_before = 0
    for index, (epoch, step, samples, accuracy, block) in enumerate(marks, 1):
        emit("block_start", step=step_before, samples=samples_before, **block)
        t = start + total_s * index / len(marks) - 3
        clocks = {"core_s": t - start - 3 * index, "wait_s": 1.0, "h2d_s": 0.1, "measure_s": 0.0}
        ranks, count = config.get("world_size", 8), step - step_before
        for ended in range(epoch - 3, epoch + 1) if epoch else ():
            at = math.ceil(ended * data["train_samples"] / config["global_batch_size"])
            emit("epoch_stop", epoch=ended, step=at, samples=at * config["global_batch_size"])
        each = {name: [1] * count for name in ("loss", "lr", "core_s", "wait_s", "h2d_s")}
        emit("steps", first_step=step_before + 1, num_steps=count, samples=samples - samples_before, **each)
        emit("block_stop", step=step, samples=samples, **{name: [value] * ranks for name, value in clocks.items()})
        emit("eval_start", epoch=epoch, step=step, samples=samples)
        t += 2
        emit(
            "eval_stop",
            epoch=epoch,
            step=step,
            samples=samples,
            correct=round(accuracy * counted),
            counted=counted,
            accuracy=round(accuracy * counted) / counted,
        )
        step_before, samples_before = step, samples
        t += 0.5
    t = start + total_s
    reached = events[-1]["accuracy"] >= config["target"]
    emit("memory", used_bytes=30 << 30, total_bytes=40 << 30, per_rank=[30 << 30] * 8)
    emit("run_stop", status="success" if reached else "aborted", reason="target" if reached else "epochs", detail="")
    t += 2
    emit("process_stop")
    return events


def full_set(root: Path) -> list[Path]:
    """Five runs of ResNet-50 and ten of BERT, with times and seeds of their own."""
    runs = [resnet(root / f"resnet-{n}", n, minutes=28 + n * 0.1, epochs=36 + 4 * (n == 4)) for n in range(5)]
    return runs + [bert(root / f"bert-{n}", 20 + n, minutes=16.5 + n * 0.1, evaluations=17 + n % 2) for n in range(10)]
