"""ResNet-50 on the pictures that come with the package, and the official checker on its log."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from unittest import mock

from commands.runs import arguments, here, threads, write_tree
from inference.jobs import by_training

from airank_fast import train as command
from airank_fast.inference import export
from airank_fast.inference.engine import open_engine
from airank_fast.inference.samples import CPU, Samples, load_job
from airank_fast.recipes import resnet50
from airank_fast.record.events import read_events
from airank_fast.record.metrics import summarize

IMAGENET = {
    "global_batch_size": 1632,
    "train_samples": 1_281_167,
    "eval_samples": 50_000,
    "sgd_opt_base_learning_rate": 1.632,
    "sgd_opt_learning_rate_decay_steps": 29830,
    "opt_learning_rate_warmup_epochs": 2,
    "model_bn_span": 204,
}


def checker_passes(log, cwd) -> bool:
    """The verdict of the official compliance checker; it writes a log of its own into ``cwd``."""
    options = ["--usage", "training", "--ruleset", "4.0.0"]
    done = subprocess.run(
        [sys.executable, "-m", "mlperf_logging.compliance_checker", *options, str(log)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    output = done.stdout + done.stderr
    assert "SUCCESS" in output or "FAILED" in output, output
    return "SUCCESS" in output and done.returncode == 0


def test_the_main_job_reaches_a_lower_target_and_its_log_passes_the_checker(tmp_path, capsys):
    """A real run, with the sizes and rates of ImageNet in the log instead of its own, as in a rehearsal.

    bench/convergence.py, and `make train`, train to the recipe's target, 0.97.
    """
    output, options = tmp_path / "out", ("resnet50", "--amp", "--seed", "5", "--target", "0.8")
    own = resnet50.Job.reported
    with (
        threads(1),  # others use the processors meanwhile
        mock.patch.object(resnet50.Job, "reported", lambda self, plan: own(self, plan) | IMAGENET),
        mock.patch.object(sys, "argv", ["train", *options, "--output", str(output)]),
    ):
        status = command.main()
    printed = capsys.readouterr()
    assert status == 0, printed.err
    events = read_events(output / "events.jsonl")
    summary = summarize(events)
    assert (summary["status"], summary["reason"]) == ("success", "target")
    assert summary["best_accuracy"] >= summary["target"] == 0.8
    assert printed.err.count("UCI optical digits") == 1
    data = next(e for e in events if e["kind"] == "data")
    assert (data["train_samples"], data["eval_samples"]) == (1442, 355)
    assert f'"value": {IMAGENET["train_samples"]}' in (output / "mlperf.log").read_text()
    assert checker_passes(output / "mlperf.log", tmp_path)
    compare_engines(output)


def compare_engines(run) -> None:
    """Both engines of inference have training's evaluation to the picture, int8 within 1 % of it."""
    job, networks = load_job(["resnet50"], run, CPU)
    _, evaluation = by_training(job, networks, 64)
    samples = Samples(job)
    whole = range(len(samples))
    samples.load(whole)
    right = {}
    for name, backend, precision in (
        ("torch", "torch", "fp32"),
        *((each, "onnxruntime", each) for each in ("fp32", "int8") if has_onnxruntime()),
    ):
        engine = open_engine(backend, job, networks, device=CPU, precision=precision, threads=1, max_batch=64)
        assert engine.facts["precision"] == precision
        outputs = {}
        for first in whole[::64]:
            indices = whole[first : first + 64]
            outputs |= zip(indices, samples.split(engine.run(samples.batch(indices)), indices), strict=True)
        _, counts = samples.score(outputs)
        assert counts["counted"] == evaluation["counted"] == 355
        right[name] = counts["correct"]
    assert right["torch"] == evaluation["correct"]
    assert right.get("fp32", right["torch"]) == evaluation["correct"]
    assert right.get("int8", right["torch"]) >= 0.99 * evaluation["correct"]


def has_onnxruntime() -> bool:
    return all(importlib.util.find_spec(name) for name in export.PACKAGES)


def test_a_run_that_misses_its_target_fails_the_checker(tmp_path):
    tree = write_tree(tmp_path / "pictures")
    output = tmp_path / "out"
    assert here(arguments(tree, output, "--amp", "--epochs", "1", "--learning-rate", "0")) == 1
    assert summarize(read_events(output / "events.jsonl"))["status"] == "aborted"
    assert not checker_passes(output / "mlperf.log", tmp_path)
