"""ONNX files: the same outputs as torch's for any batch, complete or absent; int8 from training samples alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commands.runs import narrow_resnet, write_tree
from inference.jobs import fresh, made, shorten, untrained
from PIL import Image

from airank_fast.errors import UserError
from airank_fast.inference import calibrate, export
from airank_fast.inference.engine import open_engine
from airank_fast.inference.loading import load_job
from airank_fast.inference.sessions import node_types

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

from airank_fast.inference.samples import CPU, open_data  # noqa: E402

SMALL = "deeplabv3plus"


def engine_of(task: str, backend: str, **options):
    job, networks, _ = made(task)
    return open_engine(backend, job, networks, device=CPU, threads=1, **options)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(path, facts) of the small task's file."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    job, networks, _ = made(SMALL)
    return path, export.export(job, networks, path)


def test_an_exported_file_is_complete_and_checked(exported):
    path, facts = exported
    assert [each.name for each in path.parent.iterdir()] == ["model.onnx"]
    assert facts["file_bytes"] == path.stat().st_size
    assert 0 < facts["largest_error"] < 1e-3
    graph = onnx.load(path).graph
    assert [each.name for each in graph.input] == ["input"]
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert not any(node.op_type == "BatchNormalization" for node in graph.node)
    counted = {}
    for node in graph.node:
        counted[node.op_type] = counted.get(node.op_type, 0) + 1
    assert node_types(path) == counted


def test_a_file_whose_outputs_differ_is_not_kept(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "TOLERANCE", 1e-12)
    monkeypatch.setattr(export, "FORMAT", -1)  # not from the cache
    monkeypatch.setattr(torch.onnx, "export", lambda *args, **_: args[2].write_bytes(exported[0].read_bytes()))
    job, networks, _ = made(SMALL)
    with pytest.raises(UserError, match=r"^--export: must be torch's outputs within .*, got a difference of "):
        export.export(job, networks, tmp_path / "model.onnx")
    assert not [*tmp_path.iterdir()]


def test_a_full_disk_leaves_the_file_that_was_there(exported, tmp_path, monkeypatch):
    def full(_source, target):
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export.shutil, "copyfile", full)
    (tmp_path / "model.onnx").write_text("older")
    job, networks, _ = made(SMALL)
    with pytest.raises(UserError, match="must be writable, got: No space left on device"):
        export.export(job, networks, tmp_path / "model.onnx")
    assert [each.read_text() for each in tmp_path.iterdir()] == ["older"]


def test_where_a_file_cannot_go(tmp_path):
    job, networks, _ = made(SMALL)
    for path, what in ((tmp_path / "model.pt", "ends with .onnx"), (tmp_path / "none/model.onnx", "that exists")):
        with pytest.raises(UserError, match=rf"^--export: must be .*{what}"):
            export.export(job, networks, path)


def test_onnxruntime_has_torchs_outputs_and_says_what_ran():
    _, _, samples = made(SMALL)
    engine = engine_of(SMALL, "onnxruntime")
    samples.load(range(5))
    for part in ([0], [1, 2, 3, 4]):
        got = engine.run(samples.batch(part))
        expected = engine_of(SMALL, "torch").run(samples.batch(part))
        assert got.shape == expected.shape
        assert (got == expected).float().mean() > 0.9995  # classes of pixels
    assert engine.facts["providers"] == ["CPUExecutionProvider"]
    assert engine.facts["precision"] == "fp32"
    assert sum(number for name, number in engine.facts["nodes"].items() if "Conv" in name) > 0
    again = engine_of(SMALL, "onnxruntime")  # from the cache
    assert again.facts["export_s"] == engine.facts["export_s"]


def test_int8_is_calibrated_on_training_samples_and_runs_in_int8(monkeypatch):
    job, networks, samples = made(SMALL)
    asked = []
    monkeypatch.setattr(type(job), "eval_batches", lambda self: asked.append("evaluation"))
    choice = calibrate.Choice(num_samples=16, seed=5)
    engine = engine_of(SMALL, "onnxruntime", precision="int8", calibration=choice)
    assert not asked
    facts = engine.facts
    assert facts["precision"] == "int8"
    assert any(name.startswith("QLinearConv") for name in facts["nodes"])
    quantize = facts["quantize"]
    assert (quantize["num_samples"], quantize["seed"], len(quantize["samples"])) == (16, 5, 16)
    assert len(set(quantize["samples"])) == 16
    assert json.loads(json.dumps(quantize)) == quantize
    made_again = calibrate.choose(job, networks, choice)
    assert made_again.facts() == quantize
    assert calibrate.choose(job, networks, replace(choice, seed=6)).checksum() != quantize["checksum"]
    samples.load(range(8))
    got = engine.run(samples.batch(range(8)))
    expected = engine_of(SMALL, "torch").run(samples.batch(range(8)))
    assert 0.9 < (got == expected).float().mean() < 1
    assert 1e-3 < facts["largest_error"] < 1  # of logits
    assert facts["file_bytes"] < 0.5 * engine_of(SMALL, "onnxruntime").facts["file_bytes"]


def replace_pictures(folder: Path, seed: int) -> None:
    """Other pictures under the same names and of the same size."""
    rng = np.random.default_rng(seed)
    for path in sorted(folder.rglob("*.JPEG")):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(path)


def test_a_prepared_file_is_of_the_data_that_lies_there_now(tmp_path, monkeypatch):
    """The checksum of a folder of pictures is of their names; what is made of them depends on their content."""

    def make(job, networks, folder, calibration=None):
        facts = {} if calibration is None else {"quantize": calibration.facts()}
        (folder / export.FACTS).write_text(json.dumps(facts))

    monkeypatch.setattr(export, "_make_fp32", make)
    monkeypatch.setattr(export, "_make_int8", make)
    tree = write_tree(tmp_path / "data", num_train=4, num_val=1)
    with narrow_resnet():
        options = ["--recipe", "digits", "--num-classes", "4", "--batch-size", "8", "--workers", "1"]
        job, networks = load_job(["resnet50", *options, "--data", str(tree)], None, CPU)
    choice = calibrate.Choice(num_samples=8, seed=5)

    def paths(choice=choice):
        return [export.prepared(job, networks, precision, choice).path for precision in ("fp32", "int8")]

    checksum = open_data(job)["checksum"]
    before = paths()
    assert paths() == before
    replace_pictures(tree / "train", 1)
    assert open_data(job)["checksum"] == checksum
    other_train = paths()
    assert [a == b for a, b in zip(before, other_train, strict=True)] == [True, False]
    quantize = export.prepared(job, networks, "int8", choice).facts["quantize"]
    assert quantize["checksum"] == calibrate.choose(job, networks, choice).checksum()
    replace_pictures(tree / "val", 2)
    other_val = paths()
    assert not {*other_val} & {*before, *other_train}

    # A worker is told the checksum, and does not read the training set.
    told = replace(choice, checksum=quantize["checksum"])
    with monkeypatch.context() as patch:
        patch.setattr(calibrate, "choose", lambda *_: pytest.fail("the training set is read"))
        assert paths(told) == other_val
    shutil.rmtree(other_val[1].parent)
    replace_pictures(tree / "train", 3)
    with pytest.raises(UserError, match=r"^--data: must be the training samples that the run began with, of checksum"):
        paths(told)
    job.close()


def test_padded_bert_has_the_logits_of_packed_sequences():
    samples = fresh("bert-tiny")
    samples.load(range(4))
    for index, tokens in zip(range(4), (11, 30, 17, 17), strict=True):
        shorten(samples, index, tokens)
    engine = engine_of("bert-tiny", "onnxruntime")
    for part in ([1], [0, 1, 2, 3]):
        got = engine.run(samples.batch(part))
        expected = engine_of("bert-tiny", "torch").run(samples.batch(part))
        assert got.shape == expected.shape
        assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_answers_of_onnx_runtime_are_torchs_with_questions_of_any_lengths():
    samples = made("bert-squad-tiny")[2]
    samples.load(range(4))
    engine = engine_of("bert-squad-tiny", "onnxruntime")
    for part in ([1], [0, 1, 2, 3]):
        got = engine.run(samples.batch(part))
        expected = engine_of("bert-squad-tiny", "torch").run(samples.batch(part))
        assert got.shape == expected.shape == (sum(samples.lengths()[index] for index in part), 2)
        assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("task", ["dssm", "mask_rcnn"])
def test_networks_that_are_no_graph_of_tensors_are_refused(task):
    job, networks = untrained(task)
    with pytest.raises(UserError, match=rf"^--backend: must be torch for {task}\S*, whose network is no graph"):
        open_engine("onnxruntime", job, networks, device=CPU)


def test_a_file_that_is_none_is_refused(tmp_path):
    from airank_fast.inference.sessions import open_session

    (tmp_path / "model.onnx").write_bytes(np.arange(100, dtype=np.uint8).tobytes())
    with pytest.raises(UserError, match="must be a file that ONNX Runtime opens"):
        open_session(tmp_path / "model.onnx", threads=1)
