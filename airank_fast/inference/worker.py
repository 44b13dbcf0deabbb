"""The process of one test: makes engine and samples, warms up, and runs it.

    python -m airank_fast.inference.worker REQUEST.json

The request is a supervise.WorkerRequest; files are left beside it. On standard output is one JSON object a line:

    phase       name: load (with pid), warm_up, test or score
    model       engine (its facts), load_s, export_s, first_inference_s
    warm_up     times [[batch size, seconds], ...], of those that were timed
    probe       the fields of the event
    test_start  scenario, mode, settings
    progress    issued, answered (samples), oldest (index of the sample that has been open for longest)
    test_stop   the fields of the event
    done        facts: see `measuring.loadgen_test`; the last line
    error       reason, message: one line; the last line

What else is printed goes to standard error. Another worker is a module whose main function is `serve` with what it
runs.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import stat
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from airank_fast.errors import UserError
from airank_fast.inference.context import Context, Report
from airank_fast.inference.measuring import TestFailed, loadgen_test
from airank_fast.inference.supervise import NO_ROOM, WorkerRequest
from airank_fast.inference.sut import infer, one_line


def serve(work: Callable[[Context], dict[str, Any]], arguments: Sequence[str] | None = None) -> NoReturn:
    """A worker's main function: runs `work` with what the request makes, and writes its facts as the last line.

    Ends the process: with 0, with 2 for a UserError, else with 1; and at once when its parent ends.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    report = Report()
    _end_with_parent()
    try:
        path = Path((sys.argv[1:] if arguments is None else arguments)[0])
        request = WorkerRequest.from_json(json.loads(path.read_text(encoding="utf-8")))
        context = _load(request, path.parent, report)
        facts = work(context)
        report("done", facts={**context.facts, **facts})
        status = 0
    except BaseException as error:
        reason = _reason(error)
        if reason == "exception":
            traceback.print_exc()
        report("error", reason=reason, message=str(error) if isinstance(error, TestFailed) else one_line(error))
        status = 2 if reason == "bad_data" else 1
    sys.stderr.flush()
    os._exit(status)  # a thread of the engine must not keep the process


def _reason(error: BaseException) -> str:
    cause = error.__context__ if isinstance(error, UserError) else error
    if getattr(error, "is_disk_full", False) or (isinstance(cause, OSError) and cause.errno in NO_ROOM):
        return "disk_full"
    return "bad_data" if isinstance(error, UserError) else "exception"


def _end_with_parent() -> None:
    """End this process when standard input ends, which the parent holds open."""

    def wait() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        os._exit(1)

    if stat.S_ISFIFO(os.fstat(0).st_mode):  # else no run_worker holds it
        threading.Thread(target=wait, name="parent", daemon=True).start()


def _load(request: WorkerRequest, directory: Path, report: Report) -> Context:
    report("phase", name="load", pid=os.getpid())
    begin = time.perf_counter()
    engine, samples, *measured = _function(request.system)(request)
    memory = measured[0] if measured else None
    load_s = time.perf_counter() - begin
    context = Context(request, directory, engine, samples, report, memory)
    report("phase", name="warm_up")
    with context.loaded(1) as indices:
        begin = time.perf_counter()
        infer(engine, samples, indices)
        first_s = time.perf_counter() - begin
    facts = dict(getattr(engine, "facts", {}))
    context.facts = {
        "engine": facts,
        "load_s": facts.get("load_s", load_s),
        "export_s": facts.get("export_s"),
        "first_inference_s": first_s,
    }
    report("model", **context.facts)
    return context


def _function(name: str) -> Callable[[WorkerRequest], tuple[Any, ...]]:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def real_system(request: WorkerRequest) -> tuple[Any, ...]:
    """The engine of a request, with the task's network and its weights, its evaluation set, and the memory's stages."""
    import torch

    from airank_fast.inference.calibrate import Choice
    from airank_fast.inference.engine import open_engine
    from airank_fast.inference.memory import Stages
    from airank_fast.inference.samples import Samples, load_job

    device = torch.device(request.device)
    stages = Stages(device)
    checkpoint = None if request.checkpoint is None else Path(request.checkpoint)
    job, networks = load_job(request.arguments, checkpoint, device)
    samples = Samples(job)
    engine = open_engine(
        request.backend,
        job,
        networks,
        device=device,
        precision=request.precision,
        threads=request.threads,
        max_batch=request.max_batch,
        calibration=None if request.calibration is None else Choice(**request.calibration),
    )
    if request.backend != "torch":
        torch.set_num_threads(1)  # it only joins and splits; its threads would spin on the engine's cores
    stages.done("model")
    return engine, samples, stages


if __name__ == "__main__":
    serve(loadgen_test)
