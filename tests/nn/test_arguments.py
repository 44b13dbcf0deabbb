"""Arguments, names and layouts of the classes that the modules replace: torch.nn's and apex's."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

from airank_fast.errors import UserError
from airank_fast.nn import (
    BatchNormAct2d,
    CrossEntropyLoss,
    FusedLayerNorm,
    InstanceNormAct2d,
    LayerNorm,
    LinearGELU,
    PatchConv2d,
    PointwiseConv2d,
    SparseTable,
    SparseTableBag,
)

PAIRS = {
    LayerNorm: nn.LayerNorm,
    BatchNormAct2d: nn.BatchNorm2d,
    InstanceNormAct2d: nn.InstanceNorm2d,
    LinearGELU: nn.Linear,
    PointwiseConv2d: nn.Conv2d,
    PatchConv2d: nn.Conv2d,
    CrossEntropyLoss: nn.CrossEntropyLoss,
    SparseTable: nn.Embedding,
    SparseTableBag: nn.EmbeddingBag,
}


@pytest.mark.parametrize(("ours", "torchs"), PAIRS.items(), ids=lambda c: c.__name__)
def test_forward_has_torchs_names(ours, torchs):
    names = list(inspect.signature(torchs.forward).parameters)
    assert list(inspect.signature(ours.forward).parameters)[: len(names)] == names


@pytest.mark.parametrize("ours", [LayerNorm, BatchNormAct2d, LinearGELU, PointwiseConv2d, SparseTable, SparseTableBag])
def test_device_and_dtype(ours):
    arguments = (3,) if ours in (LayerNorm, BatchNormAct2d) else (3, 4)
    module = ours(*arguments, device="meta", dtype=torch.bfloat16)
    assert {(str(p.device), p.dtype) for p in module.parameters()} == {("meta", torch.bfloat16)}


def test_every_argument_of_torchs_batch_norm():
    torchs = inspect.signature(nn.BatchNorm2d.__init__).parameters
    own = {"bias", "relu", "activation", "negative_slope", "group"}
    assert {*torchs, *own} == {*inspect.signature(BatchNormAct2d.__init__).parameters}
    assert list(inspect.signature(BatchNormAct2d.__init__).parameters)[:8] == list(torchs)[:8]


@pytest.mark.parametrize("ours", [SparseTable, SparseTableBag])
def test_every_argument_of_torchs_embeddings(ours):
    torchs = inspect.signature(PAIRS[ours].__init__).parameters
    made = inspect.signature(ours.__init__).parameters
    assert list(made)[: len(torchs)] == list(torchs)
    assert {name for name, argument in torchs.items() if made[name].default != argument.default} == {"sparse"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batch_norm_without_bias(dtype):
    ours, torchs = BatchNormAct2d(3, bias=False).to(dtype), nn.BatchNorm2d(3).to(dtype)
    assert list(ours.state_dict()) == [name for name in torchs.state_dict() if name != "bias"]
    x = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0)).to(dtype)
    tolerance = {"rtol": 2 * torch.finfo(dtype).eps, "atol": 4 * torch.finfo(dtype).eps}
    torch.testing.assert_close(ours(input=x), torchs(x), **tolerance)
    removed = BatchNormAct2d(3).to(dtype)
    removed.bias = None
    torch.testing.assert_close(removed(x), torchs(x), **tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pointwise_convolution_of_one_picture(dtype):
    module = PointwiseConv2d(3, 4, 2, dtype=dtype)
    pictures = torch.randn(2, 3, 5, 6, dtype=dtype)
    torch.testing.assert_close(module(pictures[0]), module(pictures)[0])
    assert module(input=pictures[0]).shape == (4, 3, 3)


def test_apexs_layer_norm_has_no_bias_argument():
    """Its fourth argument is memory_efficient, where torch's is bias."""
    module = FusedLayerNorm(8, 1e-3, True, False)
    assert module.bias is not None
    assert module.eps == 1e-3
    x = torch.randn(4, 8)
    torch.testing.assert_close(module(x), nn.functional.layer_norm(x, (8,), eps=1e-3))
    with pytest.raises(UserError, match="LayerNorm: memory_efficient must be False, got True"):
        FusedLayerNorm(8, 1e-3, True, True)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_gives_gradients_in_the_inputs_layout(layout, training):
    x, residual = (torch.randn(4, 3, 5, 2).contiguous(memory_format=layout).requires_grad_() for _ in range(2))
    module = BatchNormAct2d(3, relu=True).train(training)
    y = module(x, residual)
    for tensor in (y, *torch.autograd.grad(y.square().sum(), (x, residual))):
        assert tensor.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_counts_in_any_dtype(dtype, momentum):
    """A state dict that was cast as a whole has a count of another dtype, which load_state_dict(assign=True) keeps."""
    results = []
    for cls in (BatchNormAct2d, nn.BatchNorm2d):
        torch.manual_seed(0)
        module = cls(3, momentum=momentum)
        state = {name: t.to(dtype) if t.dim() == 0 else t for name, t in module.state_dict().items()}
        module.load_state_dict(state, assign=True)
        for _ in range(2):
            module(torch.randn(4, 3, 2, 2))
        results.append(dict(module.named_buffers()))
    assert results[0]["num_batches_tracked"].dtype == dtype
    torch.testing.assert_close(*results)


def test_batch_norms_eps():
    x = torch.randn(4, 3, 2, 2)
    with pytest.raises(ValueError, match=r"batch_norm_act: eps must be positive in training, got 0\.0"):
        BatchNormAct2d(3, eps=0.0)(x)
    with pytest.raises(ValueError, match=r"batch_norm_act: eps must be at least 0, got -1\.0"):
        BatchNormAct2d(3, eps=-1.0).eval()(x)
    torch.testing.assert_close(BatchNormAct2d(3, eps=0.0).eval()(x), x)
