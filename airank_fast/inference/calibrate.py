"""int8 for ONNX Runtime: the ranges of activations, from samples of the training set alone, and the quantised file.

MLPerf and AI-Rank allow no sample of the evaluation set here. Which ones were taken is a pure function of the seed, and
is recorded. They are preprocessed as in training, with its random windows.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from airank_fast.errors import require
from airank_fast.inference.folding import call_for
from airank_fast.inference.graphs import adapters_of, inputs_of
from airank_fast.inference.samples import open_data
from airank_fast.inference.sessions import arrays
from airank_fast.job import Job, Networks
from airank_fast.models.bert import BertNetwork

BATCH_SIZE = 8
METHOD = "static QDQ, ranges from least to largest"
_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Choice:
    """Which samples to take: the first `num_samples` of the training stream of a seed, or as many as there are.

    checksum: of the inputs that another process has read for them (`Calibration.checksum`); None: they are read here.
    """

    num_samples: int = 128
    seed: int = 2026
    checksum: str | None = None


@dataclass(frozen=True, eq=False)
class Calibration:
    """Inputs of a graph, for its ranges. indices: of the samples in the training set; [] where its reader has none."""

    inputs: list[dict[str, np.ndarray]]
    num_samples: int
    seed: int
    indices: list[int]
    constant_only: bool = False

    def checksum(self) -> str:
        """SHA-256 of the inputs."""
        return checksum(self.inputs)

    def facts(self) -> dict[str, Any]:
        """The fields of a `quantize` event."""
        return {
            "method": METHOD,
            "per_channel": True,
            "reduce_range": not has_int8_products(),
            "num_samples": self.num_samples,
            "seed": self.seed,
            "samples": self.indices,
            "checksum": self.checksum(),
        }


def checksum(inputs: Iterable[Mapping[str, np.ndarray]]) -> str:
    """SHA-256 of the inputs of several batches: names, types, shapes and numbers."""
    digest = hashlib.sha256()
    for each in inputs:
        for name, array in sorted(each.items()):
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode() + array.tobytes())
    return digest.hexdigest()


def settings(choice: Choice) -> dict[str, Any]:
    """What a quantised file and its facts depend on besides the network and the inputs of its calibration."""
    stated = {"num_samples": choice.num_samples, "seed": choice.seed, "batch_size": BATCH_SIZE}
    return {**stated, "method": METHOD, "reduce_range": not has_int8_products()}


def choose(job: Job, networks: Networks, choice: Choice) -> Calibration:
    """The inputs of the chosen samples.

    UserError for a network that is no graph of tensors.
    """
    require(choice.num_samples >= 1, "calibration", "of at least 1 sample", choice.num_samples)
    ((_, network),) = networks.items()
    recipe: Any = job.recipe
    kind: Any = type(job)
    own = kind(replace(recipe, seed=choice.seed, batch_size=BATCH_SIZE, gradient_accumulation_steps=1), job.options)  # type: ignore[attr-defined]
    with contextlib.redirect_stderr(io.StringIO()):  # its line on the source has been written
        facts = open_data(own)
    number = max(1, min(choice.num_samples, facts["train_samples"]) // BATCH_SIZE) * BATCH_SIZE
    try:
        inputs = list(islice(_inputs(own, network), number // BATCH_SIZE))
        stream = getattr(own.reader, "stream", None)
        indices = [] if stream is None else stream.indices(0, number).tolist()
    finally:
        own.close()
    return Calibration(inputs, number, choice.seed, indices, isinstance(network, BertNetwork))


def _inputs(job: Any, network: torch.nn.Module) -> Iterator[dict[str, np.ndarray]]:
    """The graph's inputs for each batch to train on."""
    arguments, _ = adapters_of(network)
    with contextlib.closing(job.train_batches(0)) as batches:
        for batch in batches:
            call = call_for(job, batch)
            yield dict(zip(inputs_of(job, network, call), arrays(arguments(call)), strict=True))


def quantize(source: Path, target: Path, calibration: Calibration) -> None:
    """Write `target`, an int8 graph in the form QDQ, from the float32 graph `source`.

    Weights are signed, by channel, of 7 bits on x86 processors without VNNI, where sums of products of 8 bits saturate;
    activations are unsigned. Of a network of attention the products with weights alone are quantised.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    options: dict[str, Any] = {}
    if calibration.constant_only:
        options = {"op_types_to_quantize": ["MatMul", "Gemm"], "extra_options": {"MatMulConstBOnly": True}}
    quantize_static(
        str(source),
        str(target),
        _reader(calibration.inputs),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=not has_int8_products(),
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        **options,
    )


def _reader(inputs: list[dict[str, np.ndarray]]) -> Any:
    """The inputs as ONNX Runtime's quantiser reads them."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._left = iter(inputs)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._left, None)

    return Reader()


def has_int8_products() -> bool:
    """Whether the processor sums products of 8 bits without saturation: VNNI on x86; other processors do."""
    if platform.machine().lower() not in ("x86_64", "amd64", "i686"):
        return True
    with contextlib.suppress(OSError):
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
        flags = next((line for line in text.splitlines() if line.startswith("flags")), "").split()
        return "avx512_vnni" in flags or "avx_vnni" in flags
    return False
