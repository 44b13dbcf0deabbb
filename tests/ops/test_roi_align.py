"""airank_fast::roi_align against its definition in float64, torchvision's values and wrong arguments.

On the CPU and, with -m gpu, on CUDA. The definition here takes sample by sample and all four neighbours of each, as
torchvision's documentation describes it. The values of TORCHVISION are torchvision 0.29.1's; once, 600 random boxes on
four levels of 16 channels were compared with it too, forward and backward: within 5e-6.
"""

from __future__ import annotations

import functools
import math

import pytest
import torch
from ops.roi_align_wrong import GRAD, OPTIONS, ROIS, SCALES, WRONG, WRONG_BACKWARD, WRONG_FACE, X
from ops.threads import one_thread

from airank_fast.nn import multiscale_roi_align, roi_align
from airank_fast.ops.roi_align import roi_align_backward_reference, roi_align_reference

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
NAN, INF = float("nan"), float("inf")
OPS = torch.ops.airank_fast
# Pictures 0 and 1 of 13 x 17; columns: picture, x1, y1, x2, y2 at the scale 1/2.
BOXES = [
    [0, 3.1, 2.2, 20.4, 15.9],
    [1, -9.3, -7.1, 12.2, 9.7],  # over the corner
    [1, 20.3, 14.2, 51.7, 44.9],  # over the other corner
    [0, 100.0, 100.0, 130.0, 150.0],  # outside
    [0, 11.3, 9.2, 11.9, 9.4],  # less than a pixel
    [1, 0.0, 0.0, 34.0, 26.0],  # all of it
    [0, -80.3, 3.1, 90.7, 5.2],  # wider than the picture
    [1, 14.6, 12.3, 6.1, 5.4],  # corners exchanged
    [0, 8.0, 8.0, 8.0, 8.0],  # a point
    [1, 1.7, 3.3, 29.8, 24.1],
]
HOW = [(2, False), (3, True), (-1, False), (0, True)]  # sampling_ratio, aligned


@functools.cache
def weights(how, scale=0.5, size=(13, 17), bins=(3, 2), boxes=None):
    """[boxes, bins, pixels], float64: a bin is the mean of its samples, a sample lies between four pixels."""
    ratio, aligned = how
    boxes = BOXES if boxes is None else boxes
    result = torch.zeros(len(boxes), math.prod(bins), *size, dtype=torch.float64)
    for k, (_, x1, y1, x2, y2) in enumerate(boxes):
        starts = [c * scale - (0.5 if aligned else 0.0) for c in (y1, x1)]
        lengths = [(b - a) * scale for a, b in ((y1, y2), (x1, x2))]
        lengths = lengths if aligned else [max(length, 1.0) for length in lengths]
        each = [length / n for length, n in zip(lengths, bins, strict=True)]
        grid = [ratio if ratio > 0 else math.ceil(length) for length in each]
        for b in range(math.prod(bins)):
            for i in range(grid[0] * grid[1] if min(grid) > 0 else 0):
                places = zip(starts, divmod(b, bins[1]), each, divmod(i, grid[1]), grid, size, strict=True)
                at = [(start + p * step + (j + 0.5) * step / n, s) for start, p, step, j, n, s in places]
                if any(not -1 <= a <= s for a, s in at):
                    continue
                (y, h), (x, w) = at
                y, x = max(y, 0.0), max(x, 0.0)
                top, left = min(int(y), h - 1), min(int(x), w - 1)
                below, right = min(top + 1, h - 1), min(left + 1, w - 1)
                dy, dx = (y - top if below > top else 0.0), (x - left if right > left else 0.0)
                share = 1 / (grid[0] * grid[1])
                result[k, b, top, left] += share * (1 - dy) * (1 - dx)
                result[k, b, top, right] += share * (1 - dy) * dx
                result[k, b, below, left] += share * dy * (1 - dx)
                result[k, b, below, right] += share * dy * dx
    return result.flatten(2)


def plain(x, how, boxes=None, **where):
    """The definition, differentiable, in float64 on the CPU."""
    table = BOXES if boxes is None else boxes
    picture = torch.tensor([int(box[0]) for box in table])
    a = weights(how, boxes=boxes, **where)
    y = torch.einsum("kbp,kcp->kcb", a, x.double().cpu()[picture].flatten(2))
    return y.unflatten(2, where.get("bins", (3, 2)))


def made(channels=5, size=(13, 17), dtype=torch.float32, device="cpu", channels_last=False, bins=(3, 2)):
    """Pictures and the gradient of the result."""
    generator = torch.Generator().manual_seed(channels)
    x = torch.randn(2, channels, *size, generator=generator)
    grad = torch.randn(len(BOXES), channels, *bins, generator=generator)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return [t.to(device, dtype).contiguous(memory_format=memory_format) for t in (x, grad)]


def boxes_on(device, table=BOXES):
    return torch.tensor(table, device=device)


def both(function, x, grad):
    """Result and gradient."""
    leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = function(leaf)
    return y.detach(), torch.autograd.grad(y, leaf, grad)[0]


def ours(x, how, device="cpu", bins=(3, 2)):
    return roi_align(x, boxes_on(device), bins, 0.5, *how)


def check_close(got, want, dtype):
    """Positions in float32, and one rounding to the dtype."""
    tolerance = {torch.float32: 3e-5, torch.float64: 3e-5}.get(dtype, torch.finfo(dtype).eps)
    assert got.dtype == dtype
    torch.testing.assert_close(got.cpu().double(), want, rtol=tolerance, atol=3e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("how", HOW, ids=str)
def test_bins_and_gradients(device, dtype, channels_last, how):
    x, grad = made(dtype=dtype, device=device, channels_last=channels_last)
    got = both(lambda x: ours(x, how, device), x, grad)
    want = both(lambda x: plain(x, how), x.double().cpu(), grad.double().cpu())
    for tensor, expected in zip(got, want, strict=True):
        assert tensor.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        check_close(tensor, expected, dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels", [1, 97])
def test_channels_and_many_bins(device, channels):
    for channels_last in (False, True):
        x, grad = made(channels, device=device, channels_last=channels_last, bins=(9, 7))
        got = both(lambda x: ours(x, (2, True), device, (9, 7)), x, grad)
        want = both(lambda x: plain(x, (2, True), bins=(9, 7)), x.double().cpu(), grad.double().cpu())
        for tensor, expected in zip(got, want, strict=True):
            check_close(tensor, expected, torch.float32)


# roi_align(sin(arange(48)).view(2, 1, 4, 6), [[0, -1, 0.5, 3.2, 2.9], [1, 1.3, 1.1, 9.4, 3.6]], (2, 3), 0.7, *how)
TORCHVISION = {
    (2, False): "-0.19914 0.48424 0.90306 -0.41968 0.29077 0.87072 0.28523 0.62298 -0.18603 0.09639 0.72840 -0.06724",
    (2, True): "-0.07544 0.15868 0.82647 -0.30659 -0.05416 0.71763 0.02586 0.75320 -0.33664 -0.17822 0.79713 -0.11489",
    (-1, False): "-0.21515 0.48907 0.90306 -0.43628 0.29430 0.87072 0.28538 0.62325 -0.18612 0.09702 0.73234 -0.06767",
    (-1, True): "-0.07544 0.15868 0.82647 -0.30770 -0.05427 0.72058 0.02586 0.75320 -0.33664 -0.17822 0.79713 -0.11489",
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("how", TORCHVISION, ids=str)
def test_torchvisions_values(device, how):
    x = torch.arange(48.0).sin().view(2, 1, 4, 6).to(device)
    boxes = boxes_on(device, [[0, -1, 0.5, 3.2, 2.9], [1, 1.3, 1.1, 9.4, 3.6]])
    want = torch.tensor([float(value) for value in TORCHVISION[how].split()])
    torch.testing.assert_close(roi_align(x, boxes, (2, 3), 0.7, *how).flatten().cpu(), want, rtol=1e-5, atol=1e-5)
    last = x.repeat(1, 2, 1, 1).contiguous(memory_format=torch.channels_last)
    got = roi_align(last, boxes, (2, 3), 0.7, *how)[:, 1]
    torch.testing.assert_close(got.flatten().cpu(), want, rtol=1e-5, atol=1e-5)


def pyramid(device="cpu", dtype=torch.float32, channels_last=False, channels=3):
    generator = torch.Generator().manual_seed(1)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    levels = [torch.randn(2, channels, 48 // 2**i, 64 // 2**i, generator=generator) for i in range(4)]
    return [level.to(device, dtype).contiguous(memory_format=memory_format) for level in levels]


# Sides 20, 60, 112 (of the next level), 111.9, 180, 224, 447, 448, 900; and no height.
SIDES = [(20, 20), (30, 120), (112, 112), (111.9, 111.9), (180, 180), (224, 224), (447, 447), (448, 448), (900, 900)]
OF_PICTURES = [[(10 + 3 * i, 5 * i, 10 + 3 * i + w, 5 * i + h) for i, (w, h) in enumerate(SIDES)], [(5, 7, 80, 7)]]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_each_box_takes_its_level(device, channels_last):
    levels = [level.requires_grad_() for level in pyramid(device, channels_last=channels_last)]
    boxes = [boxes_on(device, table).float() for table in OF_PICTURES]
    y = multiscale_roi_align(levels, boxes, 7, SCALES, 2)
    rois = torch.cat([torch.cat([torch.full_like(of[:, :1], i), of], 1) for i, of in enumerate(boxes)])
    sides = ((rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])).sqrt()
    number = (4 + (sides / 224).log2() + 1e-6).floor().clamp(2, 5).long() - 2  # as torchvision writes it
    assert number.tolist() == [0, 0, 1, 0, 1, 2, 2, 3, 3, 0]
    grad = torch.randn(y.shape, device=device)
    got = torch.autograd.grad(y, levels, grad)
    for i, level in enumerate(levels):
        chosen = number == i
        of_level = roi_align(level, rois[chosen], 7, SCALES[i], 2)
        torch.testing.assert_close(y[chosen], of_level, rtol=0, atol=0)
        want = torch.autograd.grad(of_level, level, grad[chosen])[0]
        torch.testing.assert_close(got[i], want, rtol=0, atol=0)
        assert want.count_nonzero() > 0


@pytest.mark.parametrize("device", DEVICES)
def test_canonical_scale_and_level(device):
    levels, boxes = pyramid(device), [boxes_on(device, [(5, 5, 55, 55)]), boxes_on(device, [(9, 9, 69, 69)])]
    boxes = [of.float() for of in boxes]
    y = multiscale_roi_align(levels, boxes, 3, SCALES, 2, canonical_scale=60, canonical_level=3)
    for i, level in enumerate((0, 1)):
        of_level = roi_align(levels[level][i : i + 1], [boxes[i]], 3, SCALES[level], 2)
        torch.testing.assert_close(y[i : i + 1], of_level, rtol=0, atol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("ratio", [2, -1])
def test_boxes_that_are_not_finite(device, channels_last, ratio):
    x, _ = made(device=device, channels_last=channels_last)
    boxes = boxes_on(device).clone()
    boxes[1, 2], boxes[4, 3], boxes[6, 1] = NAN, INF, -INF
    boxes[7, 1:] = torch.tensor([0, 0, 1e30, 4.0])
    broken = torch.tensor([1, 4, 6, 7] if ratio < 0 else [1, 4, 6], device=device)
    leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = roi_align(leaf, boxes, 3, 0.5, ratio)
    assert y.isnan().flatten(1).all(1).nonzero().flatten().equal(broken)
    assert y.isnan().flatten(1).any(1).sum() == len(broken)
    gradient = torch.autograd.grad(y, leaf, torch.ones_like(y))[0]
    kept = [k for k in range(len(BOXES)) if k not in broken.tolist()]
    y = roi_align(leaf, boxes[kept], 3, 0.5, ratio)
    torch.testing.assert_close(gradient, torch.autograd.grad(y, leaf, torch.ones_like(y))[0], rtol=0, atol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_nan_and_inf_reach_their_bins_alone(device, channels_last):
    x, _ = made(device=device, channels_last=channels_last)
    x[0, 0, 4, 6], x[1, 2, 12, 16] = INF, NAN
    y = ours(x, (2, False), device).cpu()
    touched = (weights((2, False)).unflatten(2, (13, 17))[:, :, [4, 12], [6, 16]] > 0).unflatten(1, (3, 2))
    picture = torch.tensor([int(box[0]) for box in BOXES])[:, None, None]
    assert (y[:, 0] == INF).equal(touched[..., 0] & (picture == 0))
    assert y[:, 2].isnan().equal(touched[..., 1] & (picture == 1))
    assert y[:, [1, 3, 4]].isfinite().all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool])
def test_masks_are_bytes(device, dtype):
    masks = (torch.rand(2, 3, 13, 17, generator=torch.Generator().manual_seed(2)) < 0.5).to(device, dtype)
    got = ours(masks, (-1, False), device)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, ours(masks.float(), (-1, False), device), rtol=0, atol=1e-6)
    last = masks.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(ours(last, (-1, False), device), got, rtol=0, atol=0)


@pytest.mark.parametrize("device", DEVICES)
def test_boxes_as_a_list_and_of_other_dtypes_and_strides(device):
    x, _ = made(device=device)
    ordered = sorted(BOXES, key=lambda box: box[0])
    table = boxes_on(device, ordered)
    want = roi_align(x, table, (3, 2), 0.5)
    split = [table[table[:, 0] == i, 1:] for i in range(2)]
    for boxes in (split, tuple(split), table.double(), table.t().contiguous().t()):
        torch.testing.assert_close(roi_align(x, boxes, (3, 2), 0.5), want, rtol=0, atol=0)
    halves = roi_align(x, table.bfloat16(), (3, 2), 0.5)
    torch.testing.assert_close(halves, roi_align(x, table.bfloat16().float(), (3, 2), 0.5), rtol=0, atol=0)


@pytest.mark.parametrize("device", DEVICES)
def test_any_strides(device):
    x, grad = made(4, (6, 6), torch.bfloat16, device)
    wide = torch.stack([x, x], -1).flatten(-2)[..., ::2]
    odd = torch.cat([x.flatten()[:1], x.flatten()])[1:].view(x.shape)
    want = both(lambda x: ours(x, (2, False), device), x, grad)
    for strided in (x.mT.contiguous().mT, wide, odd):
        got = both(lambda x: ours(x, (2, False), device), strided, grad.mT.contiguous().mT)
        torch.testing.assert_close(got, want, rtol=0, atol=0)
    levels = [level.requires_grad_() for level in pyramid(device)]
    mixed = [levels[0], levels[1].contiguous(memory_format=torch.channels_last), *levels[2:]]
    boxes = [boxes_on(device, table).float() for table in OF_PICTURES]
    results = [multiscale_roi_align(of, boxes, 3, SCALES) for of in (levels, mixed)]
    torch.testing.assert_close(*results, rtol=0, atol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_no_box_and_no_picture(device, channels_last):
    x, grad = made(device=device, channels_last=channels_last)
    y, gradient = both(lambda x: roi_align(x, [torch.zeros(0, 4, device=device)] * 2, (3, 2)), x, grad[:0])
    assert y.shape == (0, 5, 3, 2)
    assert gradient.shape == x.shape
    assert gradient.count_nonzero() == 0
    y, gradient = both(lambda x: roi_align(x, [], (3, 2)), x[:0], grad[:0])
    assert (y.shape, gradient.shape) == ((0, 5, 3, 2), (0, 5, 13, 17))


@pytest.mark.not_emulated
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_result_does_not_depend_on_the_number_of_threads(channels_last, dtype):
    levels = [level.requires_grad_() for level in pyramid(dtype=dtype, channels_last=channels_last, channels=40)]
    boxes = [torch.tensor(table) for table in OF_PICTURES]

    def results():
        y = multiscale_roi_align(levels, boxes, 7, SCALES)
        return y.detach(), *torch.autograd.grad(y, levels, torch.ones_like(y))

    everything = results()
    with one_thread():
        torch.testing.assert_close(results(), everything, rtol=0, atol=0)


def test_the_kernels_are_loaded_where_the_extension_is_built():
    pytest.importorskip("airank_fast._C")
    for name in ("roi_align", "roi_align_backward"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"airank_fast::{name}", "CPU")


@pytest.mark.parametrize("function", [OPS.roi_align, roi_align_reference])
@pytest.mark.parametrize(("message", "arguments"), WRONG.items(), ids=range(len(WRONG)))
def test_wrong_arguments_are_named_in_one_line(function, message, arguments):
    x, a, rois, options = arguments
    with pytest.raises(RuntimeError) as caught:
        function(x, a, None, None, rois, *options)
    assert str(caught.value) == "roi_align: " + message


@pytest.mark.parametrize("function", [OPS.roi_align_backward, roi_align_backward_reference])
@pytest.mark.parametrize(("message", "arguments"), WRONG_BACKWARD.items(), ids=range(len(WRONG_BACKWARD)))
def test_wrong_arguments_of_the_backward(function, message, arguments):
    with pytest.raises(RuntimeError) as caught:
        function(*arguments, (1.0,), (), 2, False, False)
    assert str(caught.value) == "roi_align_backward: " + message


@pytest.mark.not_emulated
@pytest.mark.parametrize(("index", "got"), [(2, "2"), (-1, "-1")])
def test_wrong_pictures(index, got):
    rois = ROIS.clone()
    rois[1, 0] = index
    forward = (X, None, None, None, rois, *OPTIONS)
    backward = (GRAD, rois, 2, [4, 4], (1.0,), (), 2, False, False)
    for op, function, arguments in (
        ("roi_align", OPS.roi_align, forward),
        ("roi_align", roi_align_reference, forward),
        ("roi_align_backward", OPS.roi_align_backward, backward),
        ("roi_align_backward", roi_align_backward_reference, backward),
    ):
        with pytest.raises(RuntimeError) as caught:
            function(*arguments)
        assert str(caught.value) == f"{op}: rois[1, 0] must be in [0, 2), got {got}"


@pytest.mark.parametrize("message", WRONG_FACE)
def test_wrong_arguments_of_the_face(message):
    with pytest.raises(RuntimeError) as caught:
        WRONG_FACE[message]()
    assert str(caught.value) == "roi_align: " + message


@pytest.mark.parametrize("device", DEVICES)
def test_gradcheck(device):
    levels = [torch.randn(2, 1, 6 // 2**i, 8 // 2**i, dtype=torch.float64, device=device) for i in range(2)]
    rois = torch.tensor([[0, 1.2, 0.7, 5.3, 4.1], [1, -2, -1, 20, 21], [1, 3, 3, 5, 5.5]], device=device)
    assert torch.autograd.gradcheck(
        lambda *of: multiscale_roi_align(of, rois, (2, 3), [1.0, 0.5], canonical_scale=8, canonical_level=1),
        [level.requires_grad_() for level in levels],
        nondet_tol=0.0,
    )


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device):
    x, a = (level.requires_grad_() for level in pyramid(device, torch.bfloat16, True)[:2])
    rois = boxes_on(device)
    arguments = (x, a, None, None, rois, (0.25, 0.125), (500.0,), 2, 3, 2, True, True)
    # That both are compiled is tested below, in less time.
    some = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(OPS.roi_align.default, arguments, test_utils=some)
    grad = torch.randn(len(rois), 3, 2, 3, device=device)
    options = ((0.25, 0.125), (500.0,), 2, True, False)
    backward = (grad, rois, 2, [48, 64, 24, 32], *options)
    torch.library.opcheck(OPS.roi_align_backward.default, backward, test_utils=some[::2])


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_without_graph_breaks(device):
    boxes = boxes_on(device)

    def step(*levels):
        return multiscale_roi_align([level * 2 for level in levels], boxes, 3, SCALES[:2]) + 1

    levels = [level.requires_grad_() for level in pyramid(device)[:2]]
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    results = []
    for function in (compiled, step):
        y = function(*levels)
        results.append([y.detach(), *torch.autograd.grad(y.square().sum(), levels)])
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_adaptive_sampling_is_refused_where_the_arithmetic_must_be_visible():
    message = "roi_align: sampling_ratio must be above 0 in an export or a transform, got -1"
    with pytest.raises(RuntimeError) as caught:
        torch.func.vmap(lambda x: roi_align(x, ROIS, 2))(X[None])
    assert str(caught.value) == message


@pytest.mark.gpu
def test_a_picture_outside_on_a_gpu():
    rois = ROIS.cuda().repeat(2, 1)
    rois[2, 0], rois[3, 0] = 2, -1
    x = X.cuda().requires_grad_()
    y = roi_align(x, rois, 2)
    assert y.isnan().flatten(1).all(1).tolist() == [False, False, True, True]
    assert torch.autograd.grad(y, x, torch.ones_like(y))[0].sum() == 2 * 3 * 4


@pytest.mark.gpu
def test_captured_step_and_another_stream():
    levels = [level.requires_grad_() for level in pyramid("cuda", channels=32)]
    boxes = [boxes_on("cuda", table).float() for table in OF_PICTURES]
    grad = torch.randn(10, 32, 7, 7, device="cuda")

    def step():
        y = multiscale_roi_align(levels, boxes, 7, SCALES)
        return [y.detach(), *torch.autograd.grad(y, levels, grad)]

    side = torch.cuda.Stream()  # autograd needs a warm-up off the default stream
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        on_side = step()
    torch.cuda.current_stream().wait_stream(side)
    torch.testing.assert_close(on_side, step(), rtol=0, atol=0)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        for level in levels:
            level.copy_(torch.randn(level.shape))
    graph.replay()
    torch.testing.assert_close(captured, step(), rtol=0, atol=0)
