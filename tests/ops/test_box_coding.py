"""encode_boxes and decode_boxes against the formula column by column, as torchvision's BoxCoder has it."""

from __future__ import annotations

import math

import pytest
import torch

from airank_fast.nn import decode_boxes, encode_boxes

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
WEIGHTS = [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0), (10.0, 9.0, 5.0, 4.0)]


def made(number, dtype=torch.float32, device="cpu"):
    """Boxes, references and codes."""
    generator = torch.Generator().manual_seed(0)
    corners, sizes = (torch.rand(2, number, 2, generator=generator) * 300 for _ in range(2))
    boxes, references = torch.cat([corners, corners + sizes + 0.5], -1).to(device, dtype)
    return boxes, references, torch.randn(number, 4, generator=generator).to(device, dtype)


def columns(boxes):
    """x, y, width and height."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    width, height = x2 - x1, y2 - y1
    return x1 + 0.5 * width, y1 + 0.5 * height, width, height


def encoded(boxes, references, weights):
    (x, y, w, h), (rx, ry, rw, rh) = columns(boxes), columns(references)
    a, b, c, d = weights
    return torch.stack([a * (x - rx) / rw, b * (y - ry) / rh, c * torch.log(w / rw), d * torch.log(h / rh)], -1)


def decoded(codes, references, weights, clip=4.135166556742356):  # log(1000 / 16)
    rx, ry, rw, rh = columns(references)
    dx, dy, dw, dh = (code / weight for code, weight in zip(codes.unbind(-1), weights, strict=True))
    x, y = dx * rw + rx, dy * rh + ry
    w, h = torch.exp(dw.clamp(max=clip)) * rw, torch.exp(dh.clamp(max=clip)) * rh
    return torch.stack([x - 0.5 * w, y - 0.5 * h, x + 0.5 * w, y + 0.5 * h], -1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
@pytest.mark.parametrize("number", [0, 1, 97])
def test_the_formula(number, weights, device):
    boxes, references, codes = made(number, device=device)
    torch.testing.assert_close(encode_boxes(boxes, references, weights), encoded(boxes, references, weights))
    torch.testing.assert_close(decode_boxes(codes, references, weights), decoded(codes, references, weights))
    wide = decode_boxes(9 * codes, references, weights, clip=2.0)
    torch.testing.assert_close(wide, decoded(9 * codes, references, weights, 2.0))


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_codes_are_decoded_to_their_boxes(weights):
    boxes, references, _ = made(97, torch.float64)
    codes = encode_boxes(boxes, references, weights)
    torch.testing.assert_close(decode_boxes(codes, references, weights, clip=math.inf), boxes)
    assert (encode_boxes(references, references, weights) == 0).all()


def test_boxes_of_several_classes():
    _, references, _ = made(7)
    codes = torch.randn(7, 3, 4, generator=torch.Generator().manual_seed(1))
    got = decode_boxes(codes, references, WEIGHTS[1], image_size=(100, 200))
    for k in range(3):
        assert torch.equal(got[:, k], decode_boxes(codes[:, k], references, WEIGHTS[1], image_size=(100, 200)))


def test_boxes_are_cut_to_their_pictures():
    _, references, codes = made(60)
    whole = decode_boxes(codes, references)
    sizes = torch.tensor([[100, 200], [300, 50]]).repeat(30, 1)
    got = decode_boxes(codes, references, image_size=sizes)
    for box, cut, (height, width) in zip(whole.tolist(), got.tolist(), sizes.tolist(), strict=True):
        limits = width, height, width, height
        assert cut == [min(max(number, 0.0), float(limit)) for number, limit in zip(box, limits, strict=True)]
    same = decode_boxes(codes, references, image_size=(100, 200))
    assert torch.equal(same[0::2], got[0::2])
    assert not torch.equal(same, whole)


def test_codes_have_gradients():
    _, references, codes = made(5, torch.float64)
    assert torch.autograd.gradcheck(lambda c: decode_boxes(c, references, WEIGHTS[2]), codes.requires_grad_())


BOXES, REFERENCES, CODES = made(5)
WRONG = [
    (lambda: encode_boxes(BOXES.long(), REFERENCES), "encode_boxes: boxes must be of a floating dtype, got int64"),
    (lambda: encode_boxes(BOXES, REFERENCES[:, 1:]), "encode_boxes: references must have shape [..., 4], got [5, 3]"),
    (lambda: encode_boxes(BOXES, REFERENCES, [1, 1]), "encode_boxes: weights must be 4 numbers, got [1, 1]"),
    (lambda: decode_boxes(CODES[0], REFERENCES), "decode_boxes: codes must have shape [..., 4], got [4]"),
    (lambda: decode_boxes(CODES, BOXES[None]), "decode_boxes: references must have shape [n, 4], got [1, 5, 4]"),
    (lambda: decode_boxes(CODES[1:], BOXES), "decode_boxes: codes must have shape [5, 4] or [5, k, 4], got [4, 4]"),
    (lambda: decode_boxes(CODES, BOXES, [1] * 3), "decode_boxes: weights must be 4 numbers, got [1, 1, 1]"),
    (
        lambda: decode_boxes(CODES, BOXES, image_size=torch.ones(2)),
        "decode_boxes: image_size must have shape [5, 2], got [2]",
    ),
]


@pytest.mark.parametrize(("call", "message"), WRONG, ids=range(len(WRONG)))
def test_wrong_arguments_are_named_in_one_line(call, message):
    with pytest.raises(RuntimeError) as caught:
        call()
    assert str(caught.value) == message
