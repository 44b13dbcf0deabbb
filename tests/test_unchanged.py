"""The tests of CUDA kernels are skipped only with the very sources with which all of them have passed."""

import json

import pytest
from cuda_on_cpu import unchanged


@pytest.fixture
def root(tmp_path, monkeypatch):
    for name in ("csrc/cuda/sgd.cu", "csrc/sgd_math.h", "tests/ops/test_sgd.py", "csrc/cpu/sgd.cpp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(unchanged, "ROOT", tmp_path)
    monkeypatch.setattr(unchanged, "RESULTS", tmp_path / "suite.jsonl")
    return tmp_path


def save(**facts) -> None:
    line = {"checksum": unchanged.checksum(), "passed": 9, "failed": 0, "skipped": 0} | facts
    with open(unchanged.RESULTS, "a") as file:
        file.write(json.dumps(line) + "\n")


@pytest.mark.parametrize(
    "name", ["csrc/cuda/sgd.cu", "csrc/sgd_math.h", "tests/ops/test_sgd.py", "csrc/cpu/sgd.cpp", "csrc/cuda/new.cuh"]
)
def test_a_change_of_a_source_is_another_checksum(root, name):
    save()
    assert unchanged.result()["passed"] == 9
    (root / name).write_text("changed")
    assert unchanged.result() is None


def test_what_is_no_source_is_none_of_them(root):
    save()
    (root / "tests/nn").mkdir()
    (root / "tests/nn/test_sgd.py").write_text("changed")
    assert unchanged.result()


@pytest.mark.parametrize("facts", [{"failed": 1}, {"skipped": 1}, {"checksum": "0" * 64}])
def test_only_a_run_in_which_all_passed_counts(root, facts):
    assert unchanged.result() is None
    save(**facts)
    assert unchanged.result() is None
