"""Made-up run directories for the reports' tests and pictures: plausible curves by a clock of their own, the same bytes
for the same arguments. As a program it writes a set: runs on 1, 8 and 32 cards, a resumed and an aborted one.

python tests/reports/made_up.py DIR
"""

from __future__ import annotations

import json
import math
import random
import sys
from pathlib import Path

from airank_fast.record.events import to_line
from airank_fast.record.logs import write_logs

GIB = 1 << 30
EPOCH_SAMPLES, EPOCHS, EVAL_EVERY, TARGET = 64_000, 40, 4, 0.759
SYSTEM = {
    "submitter": "Example",
    "hardware_name": "example-8",
    "hardware_type": "onprem",
    "accelerators_per_node": 8,
    "accelerator_name": "Made-up GPU",
    "accelerator_memory_capacity": "40.0 GiB",
    "host_processor_name": "Made-up CPU",
    "host_processors_per_node": 2,
    "host_processor_core_count": 64,
    "host_memory_capacity": "512.0 GiB",
    "host_storage_type": "NVMe",
    "host_storage_capacity": "7000.0 GiB",
    "operating_system": "Example Linux 1",
    "software_stack": "python 3.11.7, torch 2.13.0",
    "versions": {"python": "3.11.7", "torch": "2.13.0"},
    "kernels": {"lamb_": {"cpu": "kernel", "cuda": "kernel"}},
}


class MadeUpRun:
    """Writes the events of a run; `rate` is samples/s on one card."""

    def __init__(self, cards: int = 1, seed: int = 0, precision: str = "bf16", rate: float = 1400.0, **config):
        self.random = random.Random(f"{cards} {seed} {precision}")
        self.t = 1_790_000_000.0 + 1000 * seed
        self.cards, self.seed, self.precision, self.config = cards, seed, precision, config
        self.batch = 256 * min(cards, 8)
        self.rate = rate * cards * (0.95 if cards == 8 else 0.85 if cards == 32 else 1.0) * self.random.gauss(1, 0.015)
        self.luck = self.random.gauss(0, 0.6)  # epochs earlier or later at the target
        self.events: list[dict] = []
        self.step = 0
        self.spent = dict.fromkeys(("core_s", "wait_s", "h2d_s", "measure_s"), 0.0)

    def emit(self, kind: str, **fields) -> None:
        self.events.append({"t": round(self.t, 6), "kind": kind, **fields})

    def begin(self) -> MadeUpRun:
        self.emit("process_start", pid=1)
        self.t += 4
        recipe = {
            "name": "made-up",
            "batch_size": self.batch,
            "epochs": EPOCHS,
            "learning_rate": self.batch / 1000,
            "seed": self.seed,
            "precision": self.precision,
            "target": TARGET,
        }
        self.emit(
            "run_config",
            **{
                "benchmark": "resnet50",
                "unit": "images",
                "recipe": recipe,
                "seed": self.seed,
                "target": TARGET,
                "precision": self.precision,
                "world_size": self.cards,
                "devices": ["Made-up GPU"] * self.cards,
                "global_batch_size": self.batch,
                "gradient_accumulation_steps": 1,
                "warmup_epochs_excluded": 0,
                "reported": {"opt_name": "sgd", "sgd_opt_base_learning_rate": self.batch / 1000},
                "command": ["/x/airank_fast/train.py", "resnet50", "--seed", str(self.seed), "--output", "runs/a b"],
                "submission": {"org": "Example", "platform": "example-8", "division": "closed", "status": "onprem"},
                **self.config,
            },
        )
        self.emit("system", **SYSTEM, number_of_nodes=max(1, self.cards // 8))
        self.emit("cache_clear", value=True)
        self.emit("init_start")
        self.t += 20
        self.emit("init_stop")
        self.emit("run_start")
        self.t += 2 + self.random.random()
        self.emit(
            "data",
            train_samples=EPOCH_SAMPLES,
            eval_samples=2000,
            classes=1000,
            source="made up",
            checksum="00",
            corrupt_files=[],
        )
        return self

    def train(self, epochs: int = EPOCHS, stop_at_target: bool = True) -> MadeUpRun:
        steps = EPOCH_SAMPLES // self.batch
        while self.step < epochs * steps:
            first = self.step // steps + 1
            samples = self.step * self.batch
            self.emit("block_start", first_epoch=first, epoch_count=EVAL_EVERY, step=self.step, samples=samples)
            for epoch in range(first, first + EVAL_EVERY):
                self._epoch(steps)
                self.emit("epoch_stop", epoch=epoch, step=self.step, samples=self.step * self.batch)
            ranks = {
                name: [round(value * self.random.uniform(0.98, 1), 6) for _ in range(self.cards)]
                for name, value in self.spent.items()
            }
            self.emit("block_stop", step=self.step, samples=self.step * self.batch, **ranks)
            if self._evaluate(first + EVAL_EVERY - 1) >= TARGET and stop_at_target:
                break
        return self

    def stop(self, status: str = "success", reason: str = "target", detail: str = "") -> MadeUpRun:
        used = (18.5 + self.random.random()) * GIB
        self.emit("memory", used_bytes=int(used), total_bytes=40 * GIB)
        self.emit("run_stop", status=status, reason=reason, detail=detail)
        self.t += 1
        self.emit("process_stop")
        return self

    def resume(self, step: int) -> MadeUpRun:
        """A new process that goes on from `step`."""
        self.t += 30
        self.emit("process_start", pid=2)
        self.step = step
        self.spent = dict.fromkeys(self.spent, 0.0)
        self.t += 10
        self.emit("resume", step=step, samples=step * self.batch)
        return self

    def write(self, directory: Path) -> Path:
        """As a run directory, with every log."""
        directory.mkdir(parents=True)
        (directory / "events.jsonl").write_text("".join(to_line(event) + "\n" for event in self.events))
        config = next((event for event in self.events if event["kind"] == "run_config"), {})
        (directory / "recipe.json").write_text(json.dumps(config.get("recipe"), indent=2) + "\n")
        write_logs(self.events, directory)
        return directory

    def _epoch(self, steps: int) -> None:
        for begin in range(0, steps, 25):
            count = min(25, steps - begin)
            columns = {name: [] for name in ("loss", "lr", "core_s", "wait_s", "h2d_s")}
            for _ in range(count):
                done = self.step / steps
                core = self.batch / self.rate * self.random.uniform(0.99, 1.02)
                wait = core * (0.35 * self.random.random() ** 6 + 0.01)
                self.step += 1
                self.t += core + wait + 0.02 * core
                columns["loss"].append(round(1.9 + 5.0 * math.exp(-done / 6) + self.random.gauss(0, 0.08), 4))
                columns["lr"].append(self._learning_rate(done))
                for name, value in (("core_s", core), ("wait_s", wait), ("h2d_s", 0.012 * core)):
                    columns[name].append(round(value, 7))
                    self.spent[name] += value
                self.spent["measure_s"] += 1e-5
            self.emit("steps", first_step=self.step - count + 1, num_steps=count, samples=count * self.batch, **columns)

    def _learning_rate(self, epochs_done: float) -> float:
        peak = self.batch / 1000
        return peak * epochs_done / 2 if epochs_done < 2 else peak * max(0.0, 1 - (epochs_done - 2) / (EPOCHS - 2)) ** 2

    def _evaluate(self, epoch: int) -> float:
        where = {"epoch": epoch, "step": self.step, "samples": self.step * self.batch}
        self.emit("eval_start", **where)
        self.t += 2000 / self.rate * 0.5 + 1
        accuracy = 0.775 - 0.62 * math.exp(-(epoch + self.luck) / 9.5) + self.random.gauss(0, 0.002)
        correct = round(accuracy * 2000)
        self.emit("eval_stop", **where, correct=correct, counted=2000, accuracy=correct / 2000)
        return correct / 2000


def write_set(directory: Path) -> list[Path]:
    """Runs on 1, 8 and 32 cards with their repetitions, AMP and FP32, an aborted and a resumed one."""
    found = [
        MadeUpRun(cards, seed).begin().train().stop().write(directory / f"gpux{cards}-seed{seed}")
        for cards, count in ((1, 3), (8, 5), (32, 3))
        for seed in range(1, count + 1)
    ]
    fp32 = MadeUpRun(1, 1, "fp32", rate=420.0).begin().train().stop()
    aborted = MadeUpRun(8, 9).begin().train(16).stop("aborted", "exception", "RuntimeError: made up")
    resumed = MadeUpRun(8, 8).begin().train(8).resume(8 * EPOCH_SAMPLES // 2048).train().stop()
    return [
        *found,
        fp32.write(directory / "gpux1-fp32"),
        aborted.write(directory / "gpux8-aborted"),
        resumed.write(directory / "gpux8-resumed"),
    ]


if __name__ == "__main__":
    for path in write_set(Path(sys.argv[1])):
        print(path)
