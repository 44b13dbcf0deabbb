"""Exports a job's network to ONNX, and prepares the file that ONNX Runtime runs: fp32, or int8 with calibrated ranges.

A file is checked against torch on samples of the evaluation set before it has its name. Prepared files are kept in the
user's cache, so that the processes of a run share them, by all that they are made of: weights, recipe, the content of
the samples that are traced and calibrated on, versions and processor. Checksums of data sets are of names, mostly, and
would not do.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from airank_fast import processor
from airank_fast.data.cache import made_once
from airank_fast.errors import UserError, require
from airank_fast.inference import calibrate
from airank_fast.inference.calibrate import Calibration, Choice
from airank_fast.inference.folding import call_for
from airank_fast.inference.graphs import adapters_of, graph_of, inputs_of, require_graph
from airank_fast.inference.samples import open_data, read
from airank_fast.inference.sessions import arrays, node_types_as_run, open_session
from airank_fast.job import Job, Networks

TOLERANCE = 1e-3  # of the largest output of torch; agreement is about 1e-6 of it
PACKAGES = ("onnxruntime", "onnx", "onnxscript")
CHECKED = ((0,), (1, 2, 0))  # samples of the batches on which a file is checked
FORMAT = 2  # of the cache; another number where files are prepared otherwise
KEPT = 8  # prepared files of the cache
MODEL, FACTS = "model.onnx", "facts.json"
_KEY_DIGITS = 24


@dataclass(frozen=True)
class Prepared:
    """A file for ONNX Runtime. facts: export_s, folded, largest_error, file_bytes, nodes; with int8 quantize."""

    path: Path
    facts: dict[str, Any]


def require_packages() -> None:
    """UserError where a package of the extra `onnx` is missing."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        line = f"with {', '.join(PACKAGES)} installed (pip install 'airank-fast[onnx]')"
        raise UserError(f"--backend onnxruntime, --export: must be used {line}, got no {', '.join(missing)}")


def export(job: Job, networks: Networks, path: Path) -> dict[str, Any]:
    """Write the network as ONNX in float32, with batches of any size; returns the facts of `Prepared`.

    Raises:
        UserError: a network that is no graph of tensors; a directory that cannot be written; outputs that are not
            torch's within TOLERANCE. The path is then as it was before.
    """
    require(path.suffix == ".onnx", "--export", "a file whose name ends with .onnx", path)
    require(path.parent.is_dir(), "--export", "a file in a directory that exists", path)
    made = prepared(job, networks, "fp32")
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        os.close(descriptor)
        shutil.copyfile(made.path, temporary)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise UserError(f"--export {path}: must be writable, got: {error.strerror or error}") from None
    return made.facts


def prepared(job: Job, networks: Networks, precision: str, choice: Choice | None = None) -> Prepared:
    """The file for ONNX Runtime in fp32 or int8, from the cache or made now.

    Making it takes the memory of an export: a process whose memory is measured lets another one make it first. int8
    reads the chosen samples, unless the choice has their checksum.

    choice: of the samples for int8.

    Raises:
        UserError: as `export`; a precision other than these; int8 of which no node would run; samples that do not have
            the checksum any more.
    """
    require_packages()
    require_graph(job, networks)
    require(precision in ("fp32", "int8"), "--precision", "fp32 or int8 with --backend onnxruntime", precision)
    exact = _key(job, networks)
    if precision == "fp32":
        return _from_cache(exact, lambda folder: _make_fp32(job, networks, folder))
    choice = choice or Choice()
    read_here = None if choice.checksum else calibrate.choose(job, networks, choice)
    inputs = choice.checksum if read_here is None else read_here.checksum()
    stated = {"fp32": exact, "inputs": inputs, **calibrate.settings(choice)}
    key = hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()[:_KEY_DIGITS]
    return _from_cache(
        key, lambda folder: _make_int8(job, networks, folder, read_here or _chosen_again(job, networks, choice))
    )


def _from_cache(key: str, make: Callable[[Path], None]) -> Prepared:
    folder = made_once(f"onnx-{key}", make, "--backend onnxruntime", "--backend torch")
    _forget_old(folder)
    return Prepared(folder / MODEL, json.loads((folder / FACTS).read_text(encoding="utf-8")))


def _chosen_again(job: Job, networks: Networks, choice: Choice) -> Calibration:
    """The samples of a choice whose checksum is known, for a file that has left the cache."""
    found = calibrate.choose(job, networks, choice)
    what = f"the training samples that the run began with, of checksum {choice.checksum}"
    require(found.checksum() == choice.checksum, "--data", what, found.checksum())
    return found


def _make_fp32(job: Job, networks: Networks, folder: Path) -> None:
    _complete(folder, _write(job, networks, folder / MODEL))


def _make_int8(job: Job, networks: Networks, folder: Path, calibration: Calibration) -> None:
    exact = prepared(job, networks, "fp32")
    facts, begin = dict(exact.facts), time.perf_counter()
    _quantise(exact.path, folder / MODEL, calibration)
    facts |= {"export_s": facts["export_s"] + time.perf_counter() - begin, "quantize": calibration.facts()}
    facts["largest_error"] = _largest_error(job, networks, folder / MODEL)[0]
    _complete(folder, facts)


def _complete(folder: Path, facts: dict[str, Any]) -> None:
    """Write the facts of a file, with what ONNX Runtime runs of it and its size."""
    facts = {**facts, "nodes": node_types_as_run(folder / MODEL), "file_bytes": (folder / MODEL).stat().st_size}
    (folder / FACTS).write_text(json.dumps(facts), encoding="utf-8")


def _quantise(source: Path, target: Path, calibration: calibrate.Calibration) -> None:
    try:
        with _quiet():
            calibrate.quantize(source, target, calibration)
    except OSError:
        raise
    except Exception as error:  # pictures to train on of another size than the graph, for one
        why = f"{type(error).__name__}: {error}".strip().split("\n")[0][:200]
        raise UserError(f"--precision: must be fp32 for this network and data, got int8 ({why})") from None


def _write(job: Job, networks: Networks, path: Path) -> dict[str, Any]:
    """Export to a path and check it; returns facts."""
    begin = time.perf_counter()
    call = call_for(job, _checked(job)[-1])
    graph, num_folded = graph_of(job, networks, call)
    arguments, _ = adapters_of(next(iter(networks.values())))
    examples = arguments(call)
    try:
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                graph.network,
                examples,
                path,
                input_names=list(graph.inputs),
                dynamo=True,
                dynamic_shapes=graph.dynamic,
                external_data=False,
                verbose=False,
            )
    except OSError:
        raise
    except Exception as error:  # the exporter's are many
        why = str(error).strip().split("\n")[0][:200]
        raise UserError(f"--export: must be a network that torch exports, got {type(error).__name__}: {why}") from None
    seconds = time.perf_counter() - begin
    largest_error, scale = _largest_error(job, networks, path)
    what = f"torch's outputs within {TOLERANCE * scale:.3g}, {TOLERANCE} of the largest"
    require(largest_error <= TOLERANCE * scale, "--export", what, f"a difference of {largest_error:.3g}")
    return {
        "export_s": seconds,
        "folded": num_folded,
        "largest_error": largest_error,
        "file_bytes": path.stat().st_size,
    }


def _checked(job: Job) -> list[Any]:
    """The batches of CHECKED; each sample is read once."""
    if getattr(job, "reader", None) is None:
        open_data(job)
    numbers = sorted({number for group in CHECKED for number in group})
    try:
        samples = dict(zip(numbers, read(job, numbers), strict=True))
    except IndexError:
        few = f"fewer than {len(numbers)} evaluation samples, with which a file is checked"
        raise UserError(f"--backend: must be torch for a data set of {few}, got onnxruntime") from None
    return [type(samples[group[0]]).merged([samples[number] for number in group]) for group in CHECKED]


def _largest_error(job: Job, networks: Networks, path: Path) -> tuple[float, float]:
    """(the largest difference of a file's outputs from those of the network, the largest of the latter)."""
    ((_, network),) = networks.items()
    arguments, _ = adapters_of(network)
    session = open_session(path, threads=torch.get_num_threads())
    largest = scale = 0.0
    for batch in _checked(job):
        call = call_for(job, batch)
        names = inputs_of(job, network, call)
        got = session.run(None, dict(zip(names, arrays(arguments(call)), strict=True)))
        device = next(network.parameters()).device
        with torch.inference_mode():
            outputs = network(
                *(_on(device, each) for each in call.args),
                **{name: _on(device, each) for name, each in call.kwargs.items()},
            )
        for mine, theirs in zip(got, _tensors(outputs), strict=False):
            expected = theirs.float().cpu()
            require(mine.shape == tuple(expected.shape), "--export", f"outputs of {list(expected.shape)}", mine.shape)
            largest = max(largest, float((torch.from_numpy(mine) - expected).abs().max()))
            scale = max(scale, float(expected.abs().max()))
    return largest, scale


def _on(device: torch.device, value: Any) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


def _tensors(outputs: Any) -> list[Tensor]:
    """The tensors that a network returns, of BERT those of its masked language model."""
    if isinstance(outputs, Tensor):
        return [outputs]
    return [outputs.prediction_logits] if hasattr(outputs, "prediction_logits") else list(outputs)


def _key(job: Job, networks: Networks) -> str:
    """Of everything that a float32 file depends on."""
    recipe: Any = job.recipe
    stated = {
        "format": FORMAT,
        "benchmark": job.benchmark,
        "recipe": asdict(recipe),
        "inputs": _checksum_of_checked(job, networks),
        "versions": {name: _version(name) for name in ("torch", *PACKAGES)},
        "instructions": processor.instruction_set(),
    }
    digest = hashlib.sha256(json.dumps(stated, sort_keys=True, default=str).encode())
    for network in networks.values():
        for name, tensor in sorted(network.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:_KEY_DIGITS]


def _checksum_of_checked(job: Job, networks: Networks) -> str:
    """Of the graph's inputs for the samples that a file is traced and checked with."""
    ((_, network),) = networks.items()
    arguments, _ = adapters_of(network)
    calls = [call_for(job, batch) for batch in _checked(job)]
    named = (dict(zip(inputs_of(job, network, call), arrays(arguments(call)), strict=True)) for call in calls)
    return calibrate.checksum(named)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # under another name, as onnxruntime-gpu
        return str(getattr(importlib.import_module(name), "__version__", "unknown"))


def _forget_old(newest: Path) -> None:
    """Delete all but the files that were used last."""
    with contextlib.suppress(OSError):
        os.utime(newest)
        folders = sorted(newest.parent.glob("onnx-*"), key=lambda folder: folder.stat().st_mtime)
        for folder in folders[:-KEPT]:
            shutil.rmtree(folder, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the notes that exporter and quantiser write on every call."""
    loggers = [logging.getLogger(name) for name in ("", "torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            sys.stdout.flush()
