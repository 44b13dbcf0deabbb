"""Initial weights from files: wrapped, sharded, quantised, TensorFlow's, damaged."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from airank_fast.errors import UserError
from airank_fast.recipes.checkpoints import load_into


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    return {name: torch.randn_like(t) if t.is_floating_point() else t + 3 for name, t in network().state_dict().items()}


def assert_loads(path, weights):
    model = network()
    load_into(model, path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


def message_for(path) -> str:
    with pytest.raises(UserError) as caught:
        load_into(network(), path)
    message = str(caught.value)
    assert message.startswith(f"--init-checkpoint {path}")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_left_out(tmp_path, weights, prefix):
    torch.save({"model": {prefix + name: t for name, t in weights.items()}, "epoch": 3}, tmp_path / "all.pt")
    assert_loads(tmp_path / "all.pt", weights)


def test_a_compiled_layer_inside_is_unwrapped(tmp_path, weights):
    torch.save({name.replace("0.", "0._orig_mod.", 1): t for name, t in weights.items()}, tmp_path / "all.pt")
    assert_loads(tmp_path / "all.pt", weights)


def in_shards(folder, weights, kind):
    """Hugging Face's two layouts; returns the index."""
    names = list(weights)
    suffix = "safetensors" if kind == "model" else "bin"
    parts = {f"{kind}-0000{i + 1}-of-00002.{suffix}": names[i::2] for i in range(2)}
    for file, inside in parts.items():
        (save_file if kind == "model" else torch.save)({name: weights[name] for name in inside}, folder / file)
    index = folder / f"{kind}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {n: f for f, inside in parts.items() for n in inside}}))
    return index


@pytest.mark.parametrize("kind", ["model", "pytorch_model"])
def test_shards_are_read_by_their_index_and_by_their_directory(tmp_path, weights, kind):
    index = in_shards(tmp_path, weights, kind)
    assert_loads(index, weights)
    assert_loads(tmp_path, weights)


def test_a_missing_shard_and_a_wrong_index_are_named(tmp_path, weights):
    index = in_shards(tmp_path, weights, "model")
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors: must be a readable file of weights" in message_for(tmp_path)
    for content, expected in (
        ("[]", "weight_map must be names and files, got NoneType"),
        ('{"weight_map": {"a": 3}}', "weight_map must be names and files, got dict"),
        ('{"weight_map": {"a": "../a.safetensors"}}', "shards must be beside the index, got '../a.safetensors'"),
        ('{"weight_map"', "a readable file of weights, got JSONDecodeError"),
    ):
        index.write_text(content)
        assert expected in message_for(index)


@pytest.mark.parametrize(
    ("file", "path"),
    [
        ("tf_model.h5", "."),
        ("tf_model.h5", "tf_model.h5"),
        ("bert_model.ckpt.index", "bert_model.ckpt"),
        ("model.ckpt-28252.data-00000-of-00001", "model.ckpt-28252"),
        ("model.ckpt-28252.meta", "."),
        ("flax_model.msgpack", "."),
    ],
)
def test_weights_of_tensorflow_and_flax_are_refused_with_the_way_to_convert_them(tmp_path, file, path):
    (tmp_path / file).write_bytes(b"\x89HDF")
    message = message_for(tmp_path / path)
    assert f"must be PyTorch's weights, got TensorFlow's or Flax's ({file})" in message
    assert "from_pretrained(..., from_tf=True)" in message


def test_weights_of_pytorch_beside_others_are_taken(tmp_path, weights):
    (tmp_path / "tf_model.h5").write_bytes(b"\x89HDF")
    torch.save(weights, tmp_path / "pytorch_model.bin")
    assert_loads(tmp_path, weights)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_quantised_weights_are_refused(tmp_path, weights, dtype):
    name = str(dtype).removeprefix("torch.")
    torch.save(weights | {"0.weight": weights["0.weight"].to(dtype)}, tmp_path / "all.pt")
    expected = f"0.weight must be float32, float64, bfloat16 or float16, not quantised, got {name}"
    assert expected in message_for(tmp_path / "all.pt")


def test_16_bit_weights_are_widened(tmp_path, weights):
    halves = {name: t.bfloat16() if t.is_floating_point() else t for name, t in weights.items()}
    save_file(halves, tmp_path / "model.safetensors")
    assert_loads(tmp_path, {name: t.float() if t.is_floating_point() else t for name, t in halves.items()})


def test_what_does_not_fit_or_is_not_there_is_named(tmp_path, weights):
    torch.save({name: t for name, t in weights.items() if name != "0.bias"}, tmp_path / "less.pt")
    assert "0.bias is missing" in message_for(tmp_path / "less.pt")
    torch.save(weights | {"2.num_batches_tracked": torch.tensor(3)}, tmp_path / "more.pt")
    assert "2.num_batches_tracked is not one of its tensors" in message_for(tmp_path / "more.pt")
    torch.save(weights | {"0.bias": torch.ones(5)}, tmp_path / "other.pt")
    assert "0.bias must have shape [4], got [5]" in message_for(tmp_path / "other.pt")
    assert "a readable file of weights, got FileNotFoundError" in message_for(tmp_path / "nowhere.bin")
    assert "a readable file of weights, got FileNotFoundError" in message_for(tmp_path / "nowhere")
