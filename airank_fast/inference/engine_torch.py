"""The back end torch: the job's own network, with batch norms folded.

On CUDA it has a graph for each size of batch, on a CPU weights of convolutions in oneDNN's layout.

It runs every task and device, and in float32 it is the reference of accuracy. Sequences stay packed, without padding.
"""

from __future__ import annotations

import copy
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from airank_fast import processor
from airank_fast.engine import weights
from airank_fast.engine.graph import capture_on_device
from airank_fast.engine.memory import keep_freed_memory
from airank_fast.engine.precision import DTYPES
from airank_fast.errors import UserError, require
from airank_fast.inference.folding import folded, noise_call
from airank_fast.inference.packing import PackedConv2d, packed
from airank_fast.job import Batch, Job, Networks

_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.float64: "fp64"}
_SEEN_BEFORE_CAPTURE = 2  # eager calls of a shape, which select its kernels


class TorchEngine:
    """See `engine.Engine`. The networks that it is given stay as they are; where it changes weights it has a copy.

    Raises:
        UserError: a precision that the device lacks, or that the task's network does.
    """

    def __init__(
        self, job: Job, networks: Networks, *, device: torch.device, precision: str, threads: int, max_batch: int
    ) -> None:
        check_precision(precision, device)
        begin = time.perf_counter()
        if device.type == "cpu":
            torch.set_num_threads(threads)
            keep_freed_memory()
        ((self._name, network),) = networks.items()
        made, num_folded = self._prepared(job, network, precision, device)
        file_bytes = sum(tensor.nbytes for tensor in made.state_dict().values())
        if device.type == "cpu":
            packed(made)
        self._job, self._device, self._dtype = job, device, DTYPES[precision]
        self._runs: nn.Module = _Graphs(made) if device.type == "cuda" and _is_of_pictures(made) else made
        self.batch_sizes = powers_of_two(max_batch) if isinstance(self._runs, _Graphs) else ()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self.facts: dict[str, Any] = {
            "name": "torch",
            "version": torch.__version__,
            "precision": precision_of(made),
            "device": str(device),
            "threads": torch.get_num_threads(),
            "file_bytes": file_bytes,
            "load_s": time.perf_counter() - begin,
            "export_s": 0.0,
            "folded": num_folded,
        }

    @staticmethod
    def _prepared(job: Job, network: nn.Module, precision: str, device: torch.device) -> tuple[nn.Module, int]:
        """(the network as it runs, how many batch norms are folded)."""
        made, number = network.eval(), 0
        if any(isinstance(module, nn.Conv2d) for module in network.modules()):
            on_host = network if next(network.parameters()).is_cpu else copy.deepcopy(network).cpu()
            made, number = folded(on_host, noise_call(job))
        elif precision != "fp32":
            made = copy.deepcopy(made)
        made = weights.place(made, precision, device)
        return (weights.narrow(made, precision) if precision != "fp32" else made), number

    @torch.inference_mode()
    def run(self, batch: Batch) -> Any:
        """See `engine.Engine`."""
        outputs = self._job.predict({self._name: self._runs}, _moved(batch, self._device, self._dtype))
        return on_host(outputs)


def check_precision(precision: str, device: torch.device) -> None:
    """UserError where torch does not compute in `precision` on the device; emulated arithmetic counts as none."""
    if precision == "int8":
        raise UserError("--precision: must be fp32, bf16 or fp16 with --backend torch, got int8")
    if device.type == "cuda":
        if precision == "bf16" and torch.cuda.get_device_capability(device) < (8, 0):
            raise UserError(f"--precision: must be fp32 or fp16 on {torch.cuda.get_device_name(device)}, got bf16")
        return
    instructions = processor.instruction_set()
    has_bf16 = instructions in processor.WITH_BF16
    what = f"{'fp32 or bf16' if has_bf16 else 'fp32'} on this processor ({instructions}) with --backend torch"
    require(precision == "fp32" or (precision == "bf16" and has_bf16), "--precision", what, precision)


def precision_of(network: nn.Module) -> str:
    """The precision in which convolutions and linear layers run: that of their weights."""
    kinds = (nn.Conv2d, PackedConv2d, nn.ConvTranspose2d, nn.Linear)
    found = {module.weight.dtype for module in network.modules() if isinstance(module, kinds)}
    return "+".join(sorted(_NAMES[dtype] for dtype in found or {torch.float32}))


def powers_of_two(largest: int) -> tuple[int, ...]:
    """1, 2, 4, ... and `largest` itself."""
    return tuple(sorted({2**power for power in range(largest.bit_length())} | {largest}))


def on_host(outputs: Any) -> Any:
    """Outputs on the CPU, 16-bit numbers as float32; tuples and lists stay such."""
    if isinstance(outputs, Tensor):
        wide = outputs.float() if outputs.dtype in (torch.bfloat16, torch.float16) else outputs
        return wide.cpu()
    if isinstance(outputs, tuple) and hasattr(outputs, "_fields"):
        return type(outputs)(*map(on_host, outputs))
    if isinstance(outputs, tuple | list):
        return type(outputs)(map(on_host, outputs))
    assert outputs is None or isinstance(outputs, np.ndarray | str | int | float), type(outputs)
    return outputs


def _moved(batch: Batch, device: torch.device, dtype: torch.dtype) -> Batch:
    """The batch on the device, its pictures in `dtype`; the given one stays as it is."""
    if device.type == "cpu" and dtype == torch.float32:
        return batch
    made = copy.copy(batch)
    for name, tensor in batch.tensors().items():
        if device.type == "cuda":
            tensor = tensor.pin_memory().to(device, non_blocking=True)
        if name == "images":
            tensor = tensor.to(dtype)
        setattr(made, name, tensor)
    return made


def _is_of_pictures(network: nn.Module) -> bool:
    """Whether a network's only argument is pictures, so that shapes alone select its kernels."""
    return any(isinstance(module, nn.Conv2d) for module in network.modules()) and not hasattr(network, "rpn")


class _Graphs(nn.Module):
    """A network of one tensor as CUDA graphs, one for each shape: captured when it comes for the third time.

    capture: see airank_fast.engine.graph.capture_on_device, which it is by default.
    A result is copied from the graph's memory, which the next call of the shape writes over.
    """

    def __init__(self, network: nn.Module, capture: Any = None) -> None:
        super().__init__()
        self.network = network
        self._seen: dict[tuple[int, ...], int] = {}
        self._graphs: dict[tuple[int, ...], tuple[Tensor, Any]] = {}
        self._capture = capture or capture_on_device()

    def forward(self, x: Tensor) -> Tensor:
        shape = tuple(x.shape)
        if shape not in self._graphs:
            self._seen[shape] = self._seen.get(shape, 0) + 1
            if self._seen[shape] <= _SEEN_BEFORE_CAPTURE:
                return self.network(x)
            place = x.clone()
            self._graphs[shape] = place, self._capture(lambda: self.network(place))
        place, replay = self._graphs[shape]
        place.copy_(x, non_blocking=True)
        return replay().clone()
