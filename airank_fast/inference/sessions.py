"""ONNX Runtime's sessions, and what they really run: the types of the nodes of the optimised graph."""

from __future__ import annotations

import mmap
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from airank_fast.errors import UserError

QUANTISED = ("QLinear", "MatMulInteger", "ConvInteger", "DynamicQuantizeMatMul", "QGemm", "QAttention")
"""Beginnings of the types of nodes that compute in 8 bits."""

_GRAPH, _NODE, _TYPE = 7, 1, 4  # fields of onnx.proto's ModelProto, GraphProto and NodeProto
_OPEN_S = 600.0  # that another process may take to open a file
_OTHER_PROCESS = (
    "import sys, onnxruntime as ort; o = ort.SessionOptions(); o.log_severity_level = 3; "
    "o.optimized_model_filepath = sys.argv[2]; ort.InferenceSession(sys.argv[1], o, providers=[sys.argv[3]])"
)


def open_session(path: Path, *, threads: int, providers: Iterable[str] = ("CPUExecutionProvider",)) -> Any:
    """A session with all optimisations of graphs, whose operators run one after the other on so many threads.

    UserError where ONNX Runtime refuses the file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3  # errors
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:  # its classes have no common one besides this
        why = str(error).strip().split("\n")[0][:200]
        raise UserError(f"{path}: must be a file that ONNX Runtime opens, got {type(error).__name__}: {why}") from None


def arrays(tensors: Iterable[Tensor]) -> list[np.ndarray]:
    """The tensors as a session takes them: on the host, contiguous.

    NumPy copies them, as the threads of torch's copy would spin on the cores that the session needs next.
    """
    return [np.ascontiguousarray(tensor.detach().cpu().numpy()) for tensor in tensors]


def node_types_as_run(path: Path, provider: str = "CPUExecutionProvider") -> dict[str, int]:
    """How many nodes of each type a session of a file runs, after its optimisations.

    Another process opens it and writes the optimised graph, which takes memory that is not to count here.
    """
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        command = [sys.executable, "-c", _OTHER_PROCESS, str(path), str(optimised), provider]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_OPEN_S, check=False)
        if done.returncode or not optimised.is_file():
            why = (done.stderr.strip() or "no message").split("\n")[-1][:200]
            raise UserError(f"{path}: must be a file that ONNX Runtime opens, got {why}")
        return node_types(optimised)


def node_types(path: Path) -> dict[str, int]:
    """How many nodes of each type the main graph of an ONNX file has; its weights are not read."""
    found: Counter[str] = Counter()
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for graph in _fields(content, 0, len(content), _GRAPH):
            for node in _fields(content, *graph, _NODE):
                for begin, end in _fields(content, *node, _TYPE):
                    found[content[begin:end].decode()] += 1
    return dict(sorted(found.items()))


def is_quantised(types: Iterable[str]) -> bool:
    """Whether a node of one of these types computes in 8 bits."""
    return any(name.startswith(QUANTISED) for name in types)


def _fields(content: mmap.mmap, place: int, end: int, number: int) -> Iterator[tuple[int, int]]:
    """Where the contents of a message's fields with this number begin and end, in the wire format of protobuf."""
    while place < end:
        key, place = _varint(content, place)
        kind = key & 7
        if kind == 0:
            _, place = _varint(content, place)
            continue
        size = 8 if kind == 1 else 4
        if kind == 2:
            size, place = _varint(content, place)
            if key >> 3 == number:
                yield place, place + size
        elif kind not in (1, 5):
            raise ValueError(f"onnx: must have fields of kinds 0, 1, 2 and 5, got {kind} at byte {place}")
        place += size


def _varint(content: mmap.mmap, place: int) -> tuple[int, int]:
    """(a number of seven bits a byte, the place behind it)."""
    value = shift = 0
    while True:
        byte = content[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
