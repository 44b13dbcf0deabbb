"""airank_fast::nms and nms_padded against the definition box by box, torchvision's results, and wrong arguments; on the
CPU and, with -m gpu, on CUDA."""

from __future__ import annotations

import math

import pytest
import torch

from airank_fast.engine import system
from airank_fast.nn import batched_nms, nms, nms_padded
from airank_fast.ops.nms import nms_padded_reference, nms_reference

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
NAN, INF = float("nan"), float("inf")
OPS = torch.ops.airank_fast


def made(number, kind="clusters", dtype=torch.float32, device="cpu"):
    """Boxes and scores, by exact operations. Clusters are of proposals around a few objects."""
    generator = torch.Generator().manual_seed(number)

    def rand(*shape):
        return torch.rand(*shape, generator=generator)

    if kind == "uniform":
        centres, sizes = rand(number, 2) * torch.tensor([1333.0, 800.0]), 4 + 60 * rand(number, 2)
    else:
        objects = torch.randint(max(1, number // 40), (number,), generator=generator)
        centres = (rand(number, 2) * 1000)[objects] + 20 * (rand(number, 2) - 0.5)
        sizes = (8 + 140 * rand(number, 2).square())[objects] * (0.8 + 0.4 * rand(number, 2))
    scores = (rand(number) * 100).round() / 100 if kind == "ties" else rand(number)
    boxes = torch.cat([centres - sizes / 2, centres + sizes / 2], 1)
    if kind == "whole numbers":  # equal boxes, and IoUs at thresholds
        boxes = (boxes / 8).round()
    return boxes.to(device, dtype), scores.to(device, dtype)


def slow_nms(boxes, scores, threshold, groups=None):
    """The definition, with numbers of float32 or float64 rounded by torch after each operation."""
    groups = [0] * len(boxes) if groups is None else groups.tolist()
    kept = []
    for i in scores.sort(stable=True, descending=True).indices.tolist():
        rivals = [k for k in kept if groups[k] == groups[i]]
        lower = torch.maximum(boxes[rivals, :2], boxes[i, :2])
        size = (torch.minimum(boxes[rivals, 2:], boxes[i, 2:]) - lower).clamp(min=0)
        inter = size[:, 0] * size[:, 1]
        mine, theirs = ((b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1]) for b in (boxes[i], boxes[rivals]))
        if not any(iou > threshold for iou in (inter / (theirs + mine - inter)).tolist()):
            kept.append(i)
    return torch.tensor(kept, dtype=torch.int64)


def test_a_kernel_is_loaded():
    pytest.importorskip("airank_fast._C", reason="the extension is not built", exc_type=ImportError)
    assert {system.kernels()[name]["cpu"] for name in ("nms", "nms_padded")} == {"kernel"}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["clusters", "uniform", "ties", "whole numbers"])
@pytest.mark.parametrize("number", [1, 63, 130])
def test_the_definition(number, kind, device):
    boxes, scores = made(number, kind, torch.float64 if number == 63 else torch.float32)
    for threshold in (0.0, 0.4, 0.7, 1.0):
        expected = slow_nms(boxes, scores, threshold)
        got = nms(boxes.to(device), scores.to(device), threshold)
        assert got.dtype == torch.int64
        assert torch.equal(got.cpu(), expected), threshold
        assert torch.equal(nms_reference(boxes, scores, None, threshold), expected)


@pytest.mark.not_emulated
@pytest.mark.parametrize("kind", ["clusters", "uniform", "whole numbers"])
@pytest.mark.parametrize("threshold", [0.02, 0.45, 0.7])
def test_boxes_in_the_cells_of_a_grid(kind, threshold):
    boxes, scores = made(600, kind)
    assert torch.equal(nms(boxes, scores, threshold), nms_reference(boxes, scores, None, threshold))
    # Far from the origin, in float64, where centres are rounded.
    far, scores = boxes.double() * 2.0**-30 + 2.0**20, scores.double()
    assert torch.equal(nms(far, scores, threshold), nms_reference(far, scores, None, threshold))


# The number of kept boxes and a sum over them, of torchvision 0.29.1 with torch 2.14.1, for made(5000, kind). Of groups
# i % 7 its batched_nms, sorted: among equal scores its order is not stable.
TORCHVISION = {
    ("uniform", 0.5): [(4452, 24681257793), (4902, 40046793662)],
    ("uniform", 0.7): [(4944, 30370933345), (4992, 41528427847)],
    ("ties", 0.5): [(689, 585967190), (2309, 8855462000)],
    ("ties", 0.7): [(1984, 4807823240), (3772, 23674331078)],
    ("whole numbers", 0.5): [(723, 640744854), (2365, 9314034559)],
    ("whole numbers", 0.7): [(1278, 2038859633), (3274, 17885372827)],
}


@pytest.mark.not_emulated
@pytest.mark.parametrize(("kind", "threshold"), TORCHVISION)
def test_torchvisions_results(kind, threshold):
    boxes, scores = made(5000, kind)
    groups = torch.arange(5000) % 7
    kept = nms(boxes, scores, threshold), batched_nms(boxes, scores, groups, threshold).sort().values
    sums = [(len(each), int((each * torch.arange(1, len(each) + 1)).sum())) for each in kept]
    assert sums == TORCHVISION[kind, threshold]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("threshold", [-0.5, 0.0, 0.5])
def test_boxes_that_are_none(threshold, device):
    """NaN, infinite, without area, and with their corners exchanged."""
    odd = [
        [0, 0, 10, 10],
        [NAN, 0, 10, 10],
        [0, 0, 10, NAN],
        [0, 0, INF, 10],
        [-INF, -INF, INF, INF],
        [INF, 0, INF, 10],
        [5, 5, 5, 9],
        [10, 10, 0, 0],
        [10, 0, 0, 10],
        [0, 0, 3e38, 3e38],
        [1, 1, 10, 10],
        [0, 0, 10, 10],
    ]
    boxes = torch.tensor(odd * 7)[torch.randperm(84, generator=torch.Generator().manual_seed(0))]
    scores = torch.rand(84, generator=torch.Generator().manual_seed(1))
    scores[::6] = torch.tensor([NAN, INF, -INF, 0.0, -0.0, -1.0, 1e-40]).repeat(2)
    expected = slow_nms(boxes, scores, threshold)
    assert torch.equal(nms(boxes.to(device), scores.to(device), threshold).cpu(), expected)
    assert torch.equal(nms_reference(boxes, scores, None, threshold), expected)
    if threshold >= 0:
        alone = boxes.isnan().any(1) | (boxes[:, 0] >= boxes[:, 2])
        assert set(alone.nonzero()[:, 0].tolist()) <= set(expected.tolist())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_groups(dtype, device):
    boxes, scores = made(150, "ties")
    groups = torch.randint(5, (150,), generator=torch.Generator().manual_seed(2)).to(dtype)
    expected = slow_nms(boxes, scores, 0.4, groups)
    assert len(expected) > len(nms(boxes, scores, 0.4))
    assert torch.equal(batched_nms(boxes.to(device), scores.to(device), groups.to(device), 0.4).cpu(), expected)
    assert torch.equal(nms_reference(boxes, scores, groups.long(), 0.4), expected)


@pytest.mark.parametrize("device", DEVICES)
def test_groups_of_any_number(device):
    boxes, scores = (tensor.to(device) for tensor in made(97))
    group = torch.arange(97, device=device) % 3
    expected = batched_nms(boxes, scores, group, 0.5)
    for numbers in ([-(2**63), 2**63 - 1, 0], [2**40, -(2**33), 2**40 + 1], [255, 7, -1]):
        named = torch.tensor(numbers, device=device)[group]
        assert torch.equal(batched_nms(boxes, scores, named, 0.5), expected)
    assert torch.equal(batched_nms(boxes, scores, torch.zeros_like(group), 0.5), nms(boxes, scores, 0.5))
    assert len(batched_nms(boxes, scores, torch.arange(97, device=device), 0.0)) == 97


@pytest.mark.parametrize("device", DEVICES)
def test_a_threshold_is_compared_in_float64(device):
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 7]], device=device)  # an IoU of float32(0.7) = 0.69999999
    scores = torch.tensor([2.0, 1.0], device=device)
    iou = float(torch.tensor(0.7))
    for threshold, kept in ((0.7, 2), (iou, 2), (math.nextafter(iou, 0), 1), (NAN, 2), (INF, 2), (-INF, 1)):
        assert len(nms(boxes, scores, threshold)) == kept


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_boxes_are_computed_in_float32(dtype, device):
    boxes, scores = made(97, dtype=dtype, device=device)
    assert torch.equal(nms(boxes, scores, 0.5), nms(boxes.float(), scores.float(), 0.5))


@pytest.mark.parametrize("device", DEVICES)
def test_padded(device):
    boxes, scores = made(97, device=device)
    group = torch.arange(97, device=device) % 3
    for groups, expected in ((None, nms(boxes, scores, 0.5)), (group, batched_nms(boxes, scores, group, 0.5))):
        kept, count = nms_padded(boxes, scores, 0.5, groups)
        assert kept.shape == (97,)
        assert int(count) == len(expected)
        assert torch.equal(kept[: len(expected)], expected)
        assert (kept[len(expected) :] == -1).all()
        reference = nms_padded_reference(boxes, scores, groups, 0.5)
        assert torch.equal(reference[0], kept)
        assert reference[1] == count


@pytest.mark.parametrize("device", DEVICES)
def test_empty(device):
    boxes, scores = torch.zeros(0, 4, device=device), torch.zeros(0, device=device)
    assert nms(boxes, scores, 0.5).shape == (0,)
    assert batched_nms(boxes, scores, torch.zeros(0, dtype=torch.int64, device=device), 0.5).shape == (0,)
    kept, count = nms_padded(boxes, scores, 0.5)
    assert kept.shape == (0,)
    assert count == 0


@pytest.mark.parametrize("device", DEVICES)
def test_any_strides(device):
    boxes, scores = made(97, device=device)
    expected = nms(boxes, scores, 0.5)
    boxes.requires_grad_()
    assert torch.equal(nms(boxes.T.contiguous().T, torch.stack([scores, scores], 1)[:, 1], 0.5), expected)


BOXES, SCORES = made(5)
IDXS = torch.zeros(5, dtype=torch.int64)
WRONG = {
    "boxes must have shape [n, 4], got [5, 5]": (torch.ones(5, 5), SCORES, None),
    "boxes must have shape [n, 4], got [4]": (torch.ones(4), SCORES, None),
    "boxes must be float32 or float64, got int64": (BOXES.long(), SCORES, None),
    "scores must be on cpu, got meta": (BOXES, SCORES.to("meta"), None),
    "scores must be float32, got float64": (BOXES, SCORES.double(), None),
    "scores must have shape [5], got [4]": (BOXES, SCORES[1:], None),
    "idxs must be on cpu, got meta": (BOXES, SCORES, IDXS.to("meta")),
    "idxs must be int64, got int32": (BOXES, SCORES, IDXS.int()),
    "idxs must have shape [5], got [5, 1]": (BOXES, SCORES, IDXS[:, None]),
}


@pytest.mark.parametrize("name", ["nms", "nms_padded"])
def test_wrong_arguments_are_named_in_one_line(name):
    references = {"nms": nms_reference, "nms_padded": nms_padded_reference}
    for function in (getattr(OPS, name), references[name]):
        for message, arguments in WRONG.items():
            with pytest.raises(RuntimeError) as caught:
                function(*arguments, 0.5)
            assert str(caught.value) == f"{name}: {message}"


def test_wrong_groups_are_named_in_one_line():
    with pytest.raises(RuntimeError, match=r"^nms: idxs must be of an integer dtype, got float32$"):
        batched_nms(BOXES, SCORES, SCORES, 0.5)


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device):
    boxes, scores = made(9, device=device)
    idxs = torch.arange(9, device=device) % 2
    for op in (OPS.nms.default, OPS.nms_padded.default):
        torch.library.opcheck(op, (boxes, scores, idxs, 0.5), test_utils=("test_schema", "test_faketensor"))


def test_compiles_without_graph_breaks():
    boxes, scores = made(30)

    def step(boxes, scores):
        kept, count = nms_padded(boxes * 2, scores, 0.5)
        return boxes[kept.clamp(min=0)], count, nms(boxes, scores, 0.5)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")(boxes, scores)
    for got, want in zip(compiled, step(boxes, scores), strict=True):
        assert torch.equal(got, want)


@pytest.mark.gpu
def test_captured_step_sees_new_inputs():
    boxes, scores = made(300, device="cuda")
    nms_padded(boxes, scores, 0.5)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept, count = nms_padded(boxes, scores, 0.5)
    scores.copy_(scores.flip(0))
    graph.replay()
    expected = nms(boxes, scores, 0.5)
    assert torch.equal(kept[: int(count)], expected)


@pytest.mark.gpu
def test_on_a_gpu_nms_waits_once():
    boxes, scores = made(300, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        nms_padded(boxes, scores, 0.5)
        kept = nms(boxes, scores, 0.5)  # its wait is not one of torch's
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(kept.cpu(), nms(boxes.cpu(), scores.cpu(), 0.5))
