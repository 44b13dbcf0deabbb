"""An engine: what computes the outputs of batches, by one back end, in one precision, on one device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch

from airank_fast.errors import UserError, require
from airank_fast.job import Batch, Job, Networks

if TYPE_CHECKING:
    from airank_fast.inference.calibrate import Choice

BACKENDS = ("torch", "onnxruntime")
PRECISIONS = ("fp32", "bf16", "fp16", "int8")


class Engine(Protocol):
    """Computes the outputs of `Job.predict` for batches of `Samples`.

    facts: what was prepared, read back from the engine: name, version, precision (the one that runs), device, threads,
    file_bytes (of the weights as they are shipped), load_s, export_s (what the file took when it was made; 0 without
    one); of torch `folded`, the batch norms that are inside convolutions; of onnxruntime `providers`, `nodes` (how many
    of each type), and with int8 `quantize`, the fields of a `quantize` event.
    batch_sizes: those that it was prepared for; () where any is as good.
    """

    facts: dict[str, Any]
    batch_sizes: tuple[int, ...]

    def run(self, batch: Batch) -> Any:
        """The outputs for a batch, on the CPU and finished."""


def open_engine(
    backend: str,
    job: Job,
    networks: Networks,
    *,
    device: torch.device,
    precision: str = "fp32",
    threads: int = 1,
    max_batch: int = 1,
    calibration: Choice | None = None,
) -> Engine:
    """The engine of a back end, ready to run; `networks` stay as they are.

    threads: of the CPU. max_batch: samples of the largest batch. calibration: for int8, which samples of the
    training set.

    Raises:
        UserError: a back end that is not installed, a precision that it or the device lacks, a task it cannot run.
    """
    require(backend in BACKENDS, "--backend", " or ".join(BACKENDS), backend)
    require(precision in PRECISIONS, "--precision", ", ".join(PRECISIONS), precision)
    require(threads >= 1, "--threads", "at least 1", threads)
    require(max_batch >= 1, "--max-batch", "at least 1", max_batch)
    if len(networks) != 1:
        raise UserError(f"infer: must be a task of one network, got {job.benchmark}, which has {len(networks)}")
    if backend == "torch":
        from airank_fast.inference.engine_torch import TorchEngine

        return TorchEngine(job, networks, device=device, precision=precision, threads=threads, max_batch=max_batch)
    from airank_fast.inference.engine_onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(
        job, networks, device=device, precision=precision, threads=threads, calibration=calibration
    )
