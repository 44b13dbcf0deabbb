"""Checkpoints are complete or absent, and a mismatch is named."""

from __future__ import annotations

import errno

import pytest
import torch

from airank_fast.engine import checkpoint
from airank_fast.errors import UserError


def weights(**more: torch.Tensor) -> checkpoint.Weights:
    return {"model": {"a.weight": torch.randn(3, 4), "a.steps": torch.tensor(7), **more}}


@pytest.mark.parametrize("names", [("model",), ("generator", "discriminator")])
def test_round_trip_is_exact(tmp_path, names):
    saved, state = {name: weights()["model"] for name in names}, {"progress": {"step": 5}, "rng": torch.get_rng_state()}
    path = checkpoint.save(tmp_path / "checkpoints", 5, saved, state)
    loaded, loaded_state = checkpoint.load(path, saved)
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[name][key], saved[name][key]) for name in names for key in saved[name])
    assert loaded_state["progress"] == {"step": 5}
    assert checkpoint.step_of(path) == 5


def test_only_the_newest_are_kept(tmp_path):
    for step in (1, 2, 10, 11):
        checkpoint.save(tmp_path, step, weights(), {})
    assert [checkpoint.step_of(path) for path in checkpoint.find(tmp_path)] == [10, 11]


def test_what_a_killed_process_left_is_not_found_and_does_not_disturb(tmp_path):
    (tmp_path / ".step-00000003.tmp").mkdir()
    (tmp_path / ".step-00000003.tmp" / "model.safetensors").write_bytes(b"half")
    assert checkpoint.find(tmp_path) == []
    checkpoint.save(tmp_path, 3, weights(), {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]


def test_a_failed_write_leaves_the_old_checkpoint_and_no_trace(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, weights(), {})

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left") as failure:
        checkpoint.save(tmp_path, 2, weights(), {})
    assert failure.value.errno == errno.ENOSPC
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_another_model_is_refused_by_name_and_shape(tmp_path):
    path = checkpoint.save(tmp_path, 1, weights(), {})
    with pytest.raises(UserError, match=r"a.weight must have shape \[5, 4\], got \[3, 4\]"):
        checkpoint.load(path, {"model": {"a.weight": torch.zeros(5, 4), "a.steps": torch.tensor(0)}})
    with pytest.raises(UserError, match=r"this model: b\.bias must have shape"):
        checkpoint.load(path, weights(**{"b.bias": torch.zeros(1)}))


@pytest.mark.parametrize("name", ["model.safetensors", "state.pt"])
@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_a_damaged_checkpoint_is_refused(name, damage, tmp_path):
    file = checkpoint.save(tmp_path, 1, weights(), {"x": torch.zeros(100)}) / name
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(UserError, match="a readable checkpoint"):
        checkpoint.load(file.parent, weights())


def test_code_in_a_state_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (print, ("run",))

    path = checkpoint.save(tmp_path, 1, weights(), {})
    torch.save({"trap": Trap()}, path / "state.pt")
    with pytest.raises(UserError, match="a readable checkpoint"):
        checkpoint.load(path, weights())
