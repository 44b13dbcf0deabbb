"""Convolutions with packed weights: torch's numbers for every size, and each layer's own way otherwise."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from airank_fast.inference import packing
from airank_fast.inference.packing import PackedConv2d, packed

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="no oneDNN")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2, "padding": 1},
        {"padding": 2, "dilation": 2, "bias": False},
        {"groups": 4},
        {"padding": (0, 1), "stride": (1, 2)},
    ],
)
@torch.inference_mode()
def test_packed_weights_give_the_convolution_for_every_size(options):
    torch.manual_seed(0)
    plain = nn.Conv2d(8, 16, 3, **options)
    conv = PackedConv2d(plain)
    for shape in ((4, 8, 9, 9), (1, 8, 9, 9), (7, 8, 9, 9), (2, 8, 12, 7), (0, 8, 9, 9), (3, 8, 9, 9)):
        for layout in (torch.channels_last, torch.contiguous_format):
            x = torch.randn(shape).contiguous(memory_format=layout)
            expected = plain(x)
            torch.testing.assert_close(conv(x), expected, rtol=1e-5, atol=1e-5)
            assert conv(x).shape == expected.shape


@torch.inference_mode()
def test_weights_are_packed_once_and_kept_plain_only_for_another_size():
    plain = nn.Conv2d(3, 8, 3)
    conv = PackedConv2d(plain)
    conv(torch.randn(0, 3, 8, 8))
    assert not conv._packed, "nothing has come yet"
    conv(torch.randn(2, 3, 8, 8))
    (first,) = conv._packed.values()
    assert first.is_mkldnn
    assert conv._plain is None
    conv(torch.randn(3, 3, 8, 8))
    conv(torch.randn(2, 3, 6, 6))
    assert [id(each) for each in conv._packed.values()] == [id(first)]
    assert torch.equal(conv._plain, plain.weight)
    assert torch.equal(conv.weight, plain.weight)
    assert torch.equal(conv.bias, plain.bias)


@pytest.mark.parametrize(("new_s", "is_kept"), [(0.5, True), (0.9, False)])
@torch.inference_mode()
def test_another_number_of_pictures_gets_weights_of_its_own_where_they_are_clearly_faster(new_s, is_kept, monkeypatch):
    conv = PackedConv2d(nn.Conv2d(3, 8, 3))
    conv(torch.randn(1, 3, 8, 8))
    (first,) = conv._packed.values()
    monkeypatch.setattr(conv, "_seconds", lambda x, weight: 1.0 if weight is first else new_s)
    conv(torch.randn(2, 3, 8, 8))
    assert (conv._packed[2] is not first) == is_kept
    assert conv._plain is None


def network() -> nn.Module:
    class Own(nn.Conv2d):
        pass

    shared = nn.Conv2d(4, 4, 1)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.Sequential(shared, shared),
        Own(4, 4, 1),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 4, 1).double(),
    )


def test_plain_float32_convolutions_alone_are_packed_and_a_shared_one_once():
    made = network()
    assert packed(made) == 2
    kinds = [type(module).__name__ for module in made.modules()]
    assert kinds == ["Sequential", "PackedConv2d", "Sequential", "PackedConv2d", "Own", "Conv2d", "Conv2d", "Conv2d"]
    assert made[1][0] is made[1][1]


def test_without_onednn_nothing_is_packed(monkeypatch):
    monkeypatch.setattr(packing, "_reorder", None)
    assert packed(network()) == 0
