"""The back end onnxruntime: the job's network as an ONNX graph, fp32 or int8; predictions are made of it as by torch.

Of packed sequences it computes the padding too, which the back end torch does not.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from airank_fast.errors import UserError
from airank_fast.inference.calibrate import Choice
from airank_fast.inference.export import prepared, require_packages
from airank_fast.inference.folding import Call
from airank_fast.inference.graphs import adapters_of
from airank_fast.inference.sessions import arrays, is_quantised, open_session
from airank_fast.job import Batch, Job, Networks

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxRuntimeEngine:
    """See `engine.Engine`. The file is prepared by `export.prepared`.

    Raises:
        UserError: packages or a provider that are not installed; a task whose network is no graph of tensors; a
            precision other than fp32 and int8, or one in which nothing would run.
    """

    def __init__(
        self,
        job: Job,
        networks: Networks,
        *,
        device: torch.device,
        precision: str,
        threads: int,
        calibration: Choice | None = None,
    ) -> None:
        require_packages()
        import onnxruntime

        wanted = _PROVIDERS[device.type]
        if wanted not in onnxruntime.get_available_providers():
            raise UserError(
                f"--device: must be cpu with onnxruntime {onnxruntime.__version__}, "
                f"which lacks {wanted}, got {device.type}"
            )
        made = prepared(job, networks, precision, calibration)
        begin = time.perf_counter()
        session = open_session(made.path, threads=threads, providers=dict.fromkeys([wanted, _PROVIDERS["cpu"]]))
        load_s = time.perf_counter() - begin
        providers = session.get_providers()
        if providers[0] != wanted:
            raise UserError(f"--device: must be one that onnxruntime can open, got {device} ({', '.join(providers)})")
        runs = "int8" if is_quantised(made.facts["nodes"]) else "fp32"
        if runs != precision:
            raise UserError(f"--precision: must be one that onnxruntime runs, got {precision}, of which it ran {runs}")
        ((self._name, network),) = networks.items()
        self._job, self._session = job, _SessionNetwork(session, network)
        self.batch_sizes: tuple[int, ...] = ()
        self.facts: dict[str, Any] = {
            "name": "onnxruntime",
            "version": onnxruntime.__version__,
            "precision": runs,
            "device": str(device),
            "threads": threads,
            "providers": providers,
            **made.facts,
            "load_s": load_s,
        }

    @torch.inference_mode()
    def run(self, batch: Batch) -> Any:
        """See `engine.Engine`."""
        return self._job.predict({self._name: self._session}, batch)


class _SessionNetwork(nn.Module):
    """A session in the place of the network whose graph it runs."""

    def __init__(self, session: Any, network: nn.Module) -> None:
        super().__init__()
        self._arguments, self._result = adapters_of(network)
        self._session = session
        self._names = [each.name for each in session.get_inputs()]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        tensors = self._arguments(Call(args, kwargs))
        outputs = self._session.run(None, dict(zip(self._names, arrays(tensors), strict=True)))
        return self._result([torch.from_numpy(each) for each in outputs])
