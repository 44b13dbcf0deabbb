"""An inference run from beginning to end: weights, reference, the tests, and always a closed log.

The parent process has the log, the float32 reference and the last word; every test runs in a process of its own.
"""

from __future__ import annotations

import errno
import importlib
import importlib.metadata
import json
import os
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from airank_fast.engine import distributed, system
from airank_fast.engine.distributed import World
from airank_fast.engine.shutdown import Shutdown, Terminated
from airank_fast.errors import UserError, require
from airank_fast.inference import weights
from airank_fast.inference.accuracy import torch_reference
from airank_fast.inference.console import Console, final_table
from airank_fast.inference.engine_torch import check_precision
from airank_fast.inference.peak import matmul_rate
from airank_fast.inference.request import BOUND_FACTOR, Request, check_bound, check_output, default_output
from airank_fast.inference.samples import Samples, load_job
from airank_fast.inference.scenarios import BOUNDED, NotAccurate, Scenarios, WorkerFailed
from airank_fast.inference.weights import Weights
from airank_fast.job import Job, Networks, Sampled
from airank_fast.record.events import EventLog, process_start_time
from airank_fast.record.inference_logs import InferenceLogs

EXIT_VALID, EXIT_NOT_VALID = 0, 1
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
COUNTED = ("resnet50", "tsm")  # tasks whose products are all of convolutions and linear layers


def run(request: Request) -> int:
    """Run the tests of a request; returns the exit status: 0 valid and accurate, 1 not.

    UserError for bad input, which is mostly found before the log is begun.
    """
    require_sampled(request)
    found = weights.find(request)
    if request.data is None and found.data is not None:
        request = replace(request, data=found.data)
        check_bound(request)
    request.check_weights(found.sha256)
    world = distributed.join(request.options.device)
    require(world.size == 1, "infer", "a single process", f"{world.size} ranks")
    if request.options.backend == "torch":
        check_precision(request.options.precision, world.device)
    job, networks = load_job(request.arguments, found.path, world.device)
    samples = Samples(job)
    directory = request.options.output or default_output(job.benchmark, time.strftime("%Y%m%d-%H%M%S"))
    check_output(directory)
    log, logs = open_log(request, directory, found, samples, world)
    session = Session(request, found, job, networks, samples, log, directory, world)
    try:
        return session.execute()
    finally:
        log.emit("process_stop")
        log.close()
        with suppress(OSError):  # a closed output must not change the exit status
            print(f"{final_table(logs.summary())}\nlogs and figures: {directory}", flush=True)


def require_sampled(request: Request) -> None:
    """UserError for a task that cannot be measured, before a network of it is trained."""
    what = "a task whose prediction is one pass of one network"
    require(issubclass(importlib.import_module(request.command.job).Job, Sampled), "infer", what, request.name)


def open_log(
    request: Request, directory: Path, found: Weights, samples: Samples, world: World
) -> tuple[EventLog, InferenceLogs]:
    """The event log with all that subscribes to it, and its first events. UserError where it cannot be written."""
    path = directory / "events.jsonl"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        log = EventLog(path)
    except OSError as error:
        what = "a directory that can be written"
        raise UserError(f"--output: must be {what}, got {directory} ({error.strerror})") from None
    try:
        return log, begin_log(log, request, directory, found, samples, world)
    except OSError as error:
        log.close()
        raise UserError(f"{error.filename or path}: must be writable, got: {error.strerror}") from None


def begin_log(
    log: EventLog, request: Request, directory: Path, found: Weights, samples: Samples, world: World
) -> InferenceLogs:
    """Subscribe formats and console, and write the events of what is run, and where."""
    logs = InferenceLogs(directory, request.options.profile)
    log.subscribe(logs)
    log.subscribe(Console(sys.stderr))
    log.emit("process_start", t=process_start_time(), pid=os.getpid())
    log.emit("infer_config", **infer_config(request, found, samples, world.device))
    information = system.information(request.options.submission, world)
    information["hardware_type"] = request.hardware_type
    more = libraries(request)
    information["versions"] |= more
    stack = (f"{name} {version}" for name, version in more.items())
    information["software_stack"] = ", ".join([information["software_stack"], *stack])
    (directory / "system_information.json").write_text(json.dumps(information, indent=2) + "\n", encoding="utf-8")
    log.emit("system", **information)
    log.emit("cache_clear", value=False)
    if request.is_embedded and request.options.target_latency is None and set(request.scenarios) & set(BOUNDED):
        log.emit(
            "warning",
            message=f"with embedded data the latency bound is {BOUND_FACTOR} single inferences, if that is longer than "
            "the profile's; --target-latency MS states another one",
        )
    return logs


def libraries(request: Request) -> dict[str, str]:
    """{distribution: version} of the load generator and of ONNX Runtime, as far as the request has them run."""
    has_loadgen = any(request.is_by_loadgen(scenario) for scenario in request.scenarios)
    used = {"mlcommons-loadgen": has_loadgen, "onnxruntime": request.options.backend == "onnxruntime"}
    found = {}
    for name in (name for name, is_used in used.items() if is_used):
        with suppress(importlib.metadata.PackageNotFoundError):  # a build under another name, as onnxruntime-gpu
            found[name] = importlib.metadata.version(name)
    return found


def infer_config(request: Request, found: Weights, samples: Samples, device: torch.device) -> dict[str, Any]:
    """The fields of the `infer_config` event."""
    options, job = request.options, samples.job
    return {
        "benchmark": job.benchmark,
        "task": job.task.facts({}),
        "unit": job.task.unit,
        "profile": options.profile,
        "scenarios": list(request.scenarios),
        "backend": options.backend,
        "precision": options.precision,
        "device": device.type,
        "devices": [system.device_name(device)],
        "threads": request.threads,
        "max_batch": options.max_batch,
        "duration_s": request.shortest_s,
        "target_latency_s": request.bound_s,
        "is_quick": options.quick,
        "is_rehearsal": request.is_rehearsal,
        "data": {name: samples.facts.get(name) for name in ("source", "checksum", "eval_samples", "classes")},
        "checkpoint": found.facts(),
        "division": options.submission.division,
        "submission": asdict(options.submission),
        "seed": options.seed,
        "command": sys.argv,
        "peak_flops": matmul_rate(device, options.precision, request.threads),
    }


@dataclass
class Session:
    """The stages of a run, and its end."""

    request: Request
    weights: Weights
    job: Job
    networks: Networks
    samples: Samples
    log: EventLog
    directory: Path
    world: World
    _ended: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.shutdown = Shutdown(self.close_log)

    def execute(self) -> int:
        """All stages and the closing events, however the run ends; returns the exit status of the process.

        UserError for bad input and for a disk without room; a defect raises its own exception.
        """
        with self.shutdown:
            try:
                return self._go()
            except NotAccurate as error:
                self.finish("aborted", "accuracy", str(error))
                return _report(error, *error.lines)
            except WorkerFailed as error:
                self.finish("aborted", error.reason, str(error))
                return _report(error)
            except Terminated:
                self.finish("aborted", self.shutdown.reason, "a signal has ended the run")
                return self.shutdown.exit_status
            except BaseException as error:
                reason, raised = _explain(error, self.directory)
                self.finish("aborted", reason, " ".join(str(raised).split()))
                if raised is error:
                    raise
                raise raised from None
            finally:
                self.samples.close()

    def _go(self) -> int:
        self._export()
        calibrated_on = self._prepare()
        reference = torch_reference(self.job, self.networks, self.samples, self.world.device, self._leave_if_requested)
        if self._has_stated_reference():
            reference.stated = self.request.bound
        tests = Scenarios(
            self.request,
            self.weights,
            self.samples,
            reference,
            self.log,
            self.directory,
            self.world.device,
            lambda: self.shutdown.requested,
            self._model_facts(),
            calibrated_on,
        )
        tests.run()
        if tests.not_valid:
            self.finish("aborted", "not_valid", " | ".join(tests.not_valid))
            return EXIT_NOT_VALID
        self.finish("success", "valid")
        return EXIT_VALID

    def _has_stated_reference(self) -> bool:
        """Whether the accuracy to reach is a number of the profile: of weights from elsewhere, on data of one's own."""
        bound, is_own = self.request.bound, self.weights.run is not None
        is_same_metric = bound is not None and bound.metric == self.job.task.headline.name
        return is_same_metric and not is_own and not self.request.is_embedded

    def _export(self) -> None:
        """Write the network as ONNX, if that is requested."""
        if self.request.options.export is None:
            return
        from airank_fast.inference.export import export

        export(self.job, self.networks, self.request.options.export)

    def _prepare(self) -> str | None:
        """Make ONNX Runtime's file now, in this process: a worker's memory is measured, and an export takes much.

        Returns the checksum of what int8 is calibrated on, by which workers find the file without reading it again.
        """
        options = self.request.options
        if options.backend != "onnxruntime":
            return None
        from airank_fast.inference.calibrate import Choice
        from airank_fast.inference.export import prepared

        choice = Choice(options.calibration_samples, options.seed) if options.precision == "int8" else None
        made = prepared(self.job, self.networks, options.precision, choice)
        return made.facts["quantize"]["checksum"] if choice else None

    def _model_facts(self) -> dict[str, Any]:
        """The fields of the `model` event that follow from the networks."""
        flops = count_flops(self.job, self.networks, self.samples) if self.job.task.name in COUNTED else None
        parameters = sum(each.numel() for network in self.networks.values() for each in network.parameters())
        return {"parameters": parameters, "flops_per_sample": flops}

    def _leave_if_requested(self) -> None:
        if self.shutdown.requested:
            raise Terminated

    def finish(self, status: str, reason: str, detail: str = "") -> None:
        """Write run_stop, once."""
        if self._ended:
            return
        self._ended = True
        self.log.emit("run_stop", status=status, reason=reason, detail=detail)

    def close_log(self) -> None:
        """Close the log of a run that hangs."""
        self.finish("aborted", self.shutdown.reason, "left without waiting for the end")
        self.log.emit("process_stop")
        self.log.close()


def _report(error: Exception, *lines: str) -> int:
    print(*lines, f"error: {error}", sep="\n", file=sys.stderr)
    return EXIT_NOT_VALID


def _explain(error: BaseException, directory: Path) -> tuple[str, BaseException]:
    """What ended the run: (reason of run_stop, the exception to raise)."""
    if isinstance(error, UserError):
        return "bad_data", error
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        name = error.filename or directory
        return "disk_full", UserError(f"{name}: must have room, got: {error.strerror}")
    return "exception", error


def count_flops(job: Job, networks: Networks, samples: Samples) -> int:
    """Operations of the convolutions and linear layers for one sample; a multiply-add counts as two."""
    counted: list[int] = []

    def count(module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        counted.append(2 * output.numel() * weight[0].numel())

    layers = [m for each in networks.values() for m in each.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    samples.load([0])
    try:
        with torch.inference_mode():
            job.predict(networks, samples.batch([0]))
    finally:
        samples.unload([0])
        for hook in hooks:
            hook.remove()
    return sum(counted)
