"""The memory of an inference, apart for the runtime, the model and a run: peaks of this process that start anew.

On Linux the peak is VmHWM of /proc/self/status, which belongs to the program that runs: getrusage's ru_maxrss is
inherited from a large parent. Writing 5 to /proc/self/clear_refs makes the present resident set the peak (proc(5)).
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

from airank_fast.engine.memory import peak_memory

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_NVML_S = 10.0  # that nvidia-smi may take


def resident_bytes() -> int | None:
    """The resident set of this process; None where the operating system does not say."""
    return _field("VmRSS")


def peak_bytes() -> int:
    """The largest resident set of this process since it began, or since `reset_peak`."""
    return peak_memory(torch.device("cpu"))["used_bytes"]


def reset_peak() -> bool:
    """Make the present resident set the peak. False where the system refuses; the peak is then that of the whole past.

    Free memory of Python and of malloc goes back to the system first, as far as it does.
    """
    gc.collect()
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


class Stages:
    """Peaks of the stages of a process. Make it when the runtime is imported and the inputs are in memory.

        stages = Stages(device)
        engine = open_engine(...)
        stages.done("model")
        engine.run(batch)
        stages.done("run")
        facts = stages.facts()

    A stage that comes several times has its largest peak.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._peaks: dict[str, int] = {}
        self._reserved: dict[str, int] = {}
        self._largest = peak_bytes()
        self._begin()
        self._runtime = resident_bytes()

    def _begin(self) -> None:
        self._is_reset = reset_peak()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)

    def done(self, stage: str) -> None:
        """The stage `model` or `run` ends; what follows belongs to the next one."""
        peak = peak_bytes()
        self._largest = max(self._largest, peak)
        if self._is_reset:
            self._peaks[stage] = max(self._peaks.get(stage, 0), peak)
        if self._device.type == "cuda":
            reserved = torch.cuda.max_memory_reserved(self._device)
            self._reserved[stage] = max(self._reserved.get(stage, 0), reserved)
        self._begin()

    def facts(self) -> dict[str, Any]:
        """Bytes of the process.

        total_bytes: its largest resident set. runtime_bytes: the resident set at the beginning: Python, libraries and
        inputs. model_bytes, run_bytes: by how much the peak of each stage is above it; None where it cannot be
        measured. On CUDA `cuda` has the same of the allocator's reserved memory, and what NVML says of the process.
        """
        facts: dict[str, Any] = {"total_bytes": self._largest, "runtime_bytes": self._runtime}
        for stage in ("model", "run"):
            peak = self._peaks.get(stage)
            is_known = peak is not None and self._runtime is not None
            facts[f"{stage}_bytes"] = max(0, peak - self._runtime) if is_known else None  # type: ignore[operator]
        if self._device.type == "cuda":
            reserved = {f"{stage}_bytes": self._reserved.get(stage) for stage in ("model", "run")}
            facts["cuda"] = {**reserved, "nvml_bytes": _nvml_bytes()}
        return facts


def _field(name: str) -> int | None:
    with contextlib.suppress(OSError):
        if found := re.search(rf"^{name}:\s*(\d+) kB$", _STATUS.read_text(), re.MULTILINE):
            return int(found[1]) * 1024
    return None


def _nvml_bytes() -> int | None:
    """Memory of this process on all GPUs, by nvidia-smi; None without it, and where a container hides its number."""
    command = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_NVML_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    rows = (line.split(",") for line in done.stdout.splitlines())
    mine = [
        int(row[1]) for row in rows if len(row) == 2 and row[0].strip() == str(os.getpid()) and row[1].strip().isdigit()
    ]
    return sum(mine) * 2**20 if mine else None
