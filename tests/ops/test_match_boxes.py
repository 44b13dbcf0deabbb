"""airank_fast::match_boxes against torchvision's way, by the matrix of all IoUs, and against wrong arguments; on the
CPU and, with -m gpu, on CUDA."""

from __future__ import annotations

import itertools

import pytest
import torch
from ops.threads import one_thread

from airank_fast.engine import system
from airank_fast.nn import match_boxes
from airank_fast.ops.match_boxes import match_boxes_reference

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
NAN, INF = float("nan"), float("inf")
OFFSETS = (0, 3, 3, 10, 11)  # a picture without truths
BOX_OFFSETS = (0, 40, 41, 41, 130)  # and one without boxes, which has seven


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def made(number, spread=200.0, seed=0):
    """Boxes, some alike."""
    corners, sizes = rand(number, 2, seed=seed) * spread, 5 + 60 * rand(number, 2, seed=seed + 1)
    boxes = torch.cat([corners, corners + sizes], 1)
    boxes[number // 2 :: 3] = boxes[0] if number else boxes
    return boxes


def anchors(rows=8, columns=11, stride=16):
    """A grid's, three at each place, as a detector has them: neighbours in memory are neighbours in the picture."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    places = torch.stack([x, y, x, y], -1).reshape(-1, 1, 4) * stride
    sizes = torch.tensor([[-22, -11, 22, 11], [-16, -16, 16, 16], [-11, -22, 11, 22]])
    return (places + sizes).reshape(-1, 4).float()


def expected(boxes, truths, high, low, low_quality):
    """As torchvision: the matrix, its largest by columns, thresholds, then the largest by rows."""
    if len(truths) == 0 or len(boxes) == 0:
        return torch.full((len(boxes),), -1), torch.zeros(len(boxes), dtype=boxes.dtype)
    area = [(b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (truths, boxes)]
    lower = torch.max(truths[:, None, :2], boxes[:, :2])
    size = (torch.min(truths[:, None, 2:], boxes[:, 2:]) - lower).clamp(min=0)
    inter = size[:, :, 0] * size[:, :, 1]
    matrix = inter / (area[0][:, None] + area[1] - inter)
    values, matches = matrix.max(dim=0)
    every = matches.clone()
    matches[values < low] = -1
    matches[(values >= low) & (values < high)] = -2
    if low_quality:
        again = torch.where(matrix == matrix.max(dim=1)[0][:, None])[1]
        matches[again] = every[again]
    return matches, values


def check(boxes, truths, offsets, options, device="cpu", box_offsets=None):
    """Of the op and of its reference, against the loop over pictures."""
    pictures = list(itertools.pairwise(offsets))
    if box_offsets is not None:
        parts = [boxes[first:last] for first, last in itertools.pairwise(box_offsets)]
    else:
        parts = list(boxes) if boxes.dim() == 3 else [boxes] * len(pictures)
    each = [expected(part, truths[i:j], *options) for part, (i, j) in zip(parts, pictures, strict=True)]
    joined = torch.cat if box_offsets is not None else torch.stack
    want = [joined(list(values)) for values in zip(*each, strict=True)]
    given = None if box_offsets is None else torch.tensor(box_offsets, device=device)
    got = match_boxes(boxes.to(device), truths.to(device), offsets, *options, box_offsets=given)
    of_reference = match_boxes_reference(
        boxes, None if given is None else given.cpu(), truths, torch.tensor(offsets), *options
    )
    for a, b, c in zip(got, of_reference, want, strict=True):
        torch.testing.assert_close(a.cpu(), c, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(b, c, rtol=0, atol=0, equal_nan=True)
    return got


def test_a_kernel_is_loaded():
    pytest.importorskip("airank_fast._C", reason="the extension is not built", exc_type=ImportError)
    assert system.kernels()["match_boxes"]["cpu"] == "kernel"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", [(0.7, 0.3, True), (0.5, 0.5, False), (0.5, 0.0, True)], ids=str)
def test_torchvisions_matcher(options, dtype, device):
    truths = made(11, seed=5).to(dtype)
    truths[::4] = (anchors()[[7, 40, 100]] + 2).to(dtype)
    matches, _ = check(anchors().to(dtype), truths, OFFSETS, options, device)
    assert matches.max() > 0
    assert (matches == -1).any()
    check(made(4 * 97).view(4, 97, 4).to(dtype), truths, OFFSETS, options, device)
    check(made(130).to(dtype), truths, OFFSETS, options, device, BOX_OFFSETS)
    check(made(130)[:, [2, 3, 0, 1]].to(dtype), truths, OFFSETS, options, device, BOX_OFFSETS)


@pytest.mark.parametrize("device", DEVICES)
def test_ties_go_to_the_first_truth(device):
    truths = torch.tensor([[0.0, 0, 8, 8], [0, 0, 8, 8], [4, 0, 12, 8]])
    boxes = torch.tensor([[0.0, 0, 8, 8], [2, 0, 10, 8], [4, 0, 12, 8], [100, 0, 108, 8], [2, 0, 10, 8]])
    matches, ious = check(boxes, truths, (0, 3), (0.7, 0.3, False), device)
    assert matches.tolist() == [[0, -2, 2, -1, -2]]
    assert ious[0, 1] == torch.tensor(0.6)


@pytest.mark.parametrize("device", DEVICES)
def test_low_quality_matches(device):
    """All boxes of a truth's largest IoU; those of a truth that overlaps none are all boxes."""
    truths = torch.tensor([[0.0, 0, 8, 8], [500, 500, 508, 508]])
    boxes = torch.cat([torch.tensor([[4.0, 0, 12, 8], [4, 0, 12, 8], [7, 0, 15, 8]]), made(70, seed=9) + 600])
    for number, of_first in ((1, [0, 0, -1]), (2, [0, 0, 0])):
        matches, _ = check(boxes, truths[:number], (0, number), (0.7, 0.3, True), device)
        assert matches[0, :3].tolist() == of_first
        assert (matches[0, 3:] == (-1 if number == 1 else 0)).all()


@pytest.mark.parametrize("device", DEVICES)
def test_boxes_that_are_none(device):
    """NaN, infinite, without area, and with their corners exchanged, among boxes and among truths."""
    odd = torch.tensor(
        [
            [NAN, 0, 9, 9],
            [0, 0, INF, 9],
            [-INF, -INF, INF, INF],
            [5, 5, 5, 9],
            [9, 0, 0, 9],
            [9, 9, 0, 0],
            [0, 0, 3e38, 3e38],
            [9, 0, 0, 27],
        ]
    )
    good = made(70, spread=20.0)
    for options in ((0.7, 0.3, True), (0.5, 0.5, False)):
        check(torch.cat([good, odd]), good[:5], (0, 5), options, device)
        for one in odd:
            check(torch.cat([good, odd[3:]]), torch.cat([good[:3], one[None], good[3:5]]), (0, 6), options, device)
            check(good, torch.cat([one[None], good[:3]]), (0, 1, 4), options, device)


@pytest.mark.not_emulated
def test_result_does_not_depend_on_the_number_of_threads():
    arguments = anchors(60, 80), made(40, spread=1000.0, seed=3), (0, 10, 40), 0.7, 0.3, True
    several = match_boxes(*arguments)
    with one_thread():
        alone = match_boxes(*arguments)
    check(*arguments[:3], arguments[3:])
    assert all(torch.equal(a, b) for a, b in zip(several, alone, strict=True))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sizes", [(0, 3), (5, 0), (0, 0)], ids=str)
def test_empty(sizes, device):
    boxes, truths = made(sizes[0]), made(sizes[1])
    check(boxes, truths, (0, len(truths)), (0.7, 0.3, True), device)
    check(boxes, truths, (0, len(truths)), (0.7, 0.3, True), device, (0, len(boxes)))
    matches, ious = match_boxes(boxes.to(device), truths[:0].to(device), [0], 0.5, 0.5)
    assert matches.shape == ious.shape == (0, len(boxes))


@pytest.mark.parametrize("device", DEVICES)
def test_16_bits_and_strides(device):
    boxes, truths = made(97).bfloat16(), made(11, seed=5).bfloat16()
    got = match_boxes(
        boxes.to(device).T.contiguous().T, truths.to(device), torch.tensor(OFFSETS, device=device), 0.6, 0.4
    )
    want = match_boxes_reference(boxes.float(), None, truths.float(), torch.tensor(OFFSETS), 0.6, 0.4, False)
    assert all(torch.equal(a.cpu(), b) for a, b in zip(got, want, strict=True))


BOXES, TRUTHS = made(6), made(3)
ENDS = torch.tensor([0, 1, 3])
GOOD = {"boxes": BOXES, "box_offsets": None, "truths": TRUTHS, "truth_offsets": ENDS, "high": 0.7, "low": 0.3}
WRONG = {
    "boxes must be float32 or float64, got int64": {"boxes": BOXES.long()},
    "truths must be on cpu, got meta": {"truths": TRUTHS.to("meta")},
    "truths must be float32, got float64": {"truths": TRUTHS.double()},
    "truths must have shape [t, 4], got [3, 3]": {"truths": TRUTHS[:, 1:]},
    "truth_offsets must be on cpu, got meta": {"truth_offsets": ENDS.to("meta")},
    "truth_offsets must be int64, got int32": {"truth_offsets": ENDS.int()},
    "truth_offsets must have shape [pictures + 1], got [0]": {"truth_offsets": ENDS[:0]},
    "truth_offsets[0] must be 0, got 1": {"truth_offsets": ENDS[1:]},
    "truth_offsets[2] must be in [2, 3], got 1": {"truth_offsets": torch.tensor([0, 2, 1])},
    "truth_offsets[1] must be in [0, 3], got 4": {"truth_offsets": torch.tensor([0, 4])},
    "truth_offsets[1] must be 3, got 2": {"truth_offsets": torch.tensor([0, 2])},
    "boxes must have shape [b, 4] or [2, b, 4], got [6, 3]": {"boxes": BOXES[:, 1:]},
    "boxes must have shape [b, 4] or [2, b, 4], got [3, 2, 4]": {"boxes": BOXES.view(3, 2, 4)},
    "boxes must have shape [b, 4], got [2, 3, 4]": {"boxes": BOXES.view(2, 3, 4), "box_offsets": ENDS},
    "box_offsets must be int64, got int32": {"box_offsets": ENDS.int()},
    "box_offsets must have shape [3], got [2]": {"box_offsets": ENDS[1:]},
    "box_offsets[2] must be 6, got 3": {"box_offsets": ENDS},
    "low_threshold must be at most 0.7, the high_threshold, got 0.8": {"low": 0.8},
    "low_threshold must be at most 0.7, the high_threshold, got nan": {"low": NAN},
}


@pytest.mark.parametrize("function", [torch.ops.airank_fast.match_boxes, match_boxes_reference])
def test_wrong_arguments_are_named_in_one_line(function):
    for message, wrong in WRONG.items():
        with pytest.raises(RuntimeError) as caught:
            function(*(GOOD | wrong).values(), True)
        assert str(caught.value) == "match_boxes: " + message


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device):
    tensors = [BOXES.to(device), None, TRUTHS.to(device), ENDS.to(device)]
    op, tests = torch.ops.airank_fast.match_boxes.default, ("test_schema", "test_faketensor")
    torch.library.opcheck(op, (*tensors, 0.7, 0.3, True), test_utils=tests)
    tensors[1] = torch.tensor([0, 2, 6], device=device)
    torch.library.opcheck(op, (*tensors, 0.7, 0.3, True), test_utils=tests)


def test_compiles_without_graph_breaks():
    def step(boxes, truths, offsets):
        matches, ious = match_boxes(boxes * 2, truths, offsets, 0.5, 0.5)
        return truths[matches.clamp(min=0)], ious

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")(BOXES, TRUTHS, ENDS)
    for got, want in zip(compiled, step(BOXES, TRUTHS, ENDS), strict=True):
        assert torch.equal(got, want)


@pytest.mark.gpu
def test_captured_step_sees_new_inputs():
    boxes, truths, offsets = anchors().cuda(), made(11, seed=5).cuda(), torch.tensor(OFFSETS).cuda()
    match_boxes(boxes, truths, offsets, 0.7, 0.3, True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = match_boxes(boxes, truths, offsets, 0.7, 0.3, True)
    truths.copy_(made(11, seed=6))
    graph.replay()
    want = match_boxes_reference(boxes.cpu(), None, truths.cpu(), offsets.cpu(), 0.7, 0.3, True)
    assert all(torch.equal(a.cpu(), b) for a, b in zip(captured, want, strict=True))
