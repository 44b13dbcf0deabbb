"""airank_fast::global_norm against float64, its reference and wrong arguments; on the CPU and, with -m gpu, on CUDA."""

from __future__ import annotations

import pytest
import torch
from ops.threads import one_thread

from airank_fast.ops import global_norm
from airank_fast.ops.global_norm import global_norm_reference

SIZES = [1, 97, 1023, 1025, 0, 40_000, 300_001]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def made(*dtypes, device="cpu", sizes=SIZES):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, generator=generator).to(device, dtypes[i % len(dtypes)]) for i, size in enumerate(sizes)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "dtypes",
    [
        (torch.float32,),
        (torch.float64,),
        (torch.bfloat16,),
        (torch.float16,),
        (torch.float16, torch.float32, torch.bfloat16, torch.float64, torch.float32),
    ],
    ids=["float32", "float64", "bfloat16", "float16", "mixed"],
)
def test_equals_the_norm_in_float64(device, dtypes):
    tensors = made(*dtypes, device=device)
    norm = global_norm(tensors)
    assert norm.dtype == torch.float64
    assert norm.shape == ()
    exact = torch.linalg.vector_norm(torch.cat([t.double() for t in tensors]))
    torch.testing.assert_close(norm, exact, rtol=1e-13 if dtypes == (torch.float64,) else 1e-6, atol=0)
    torch.testing.assert_close(norm, global_norm_reference(tensors), rtol=1e-5, atol=0)


@pytest.mark.parametrize("device", DEVICES)
def test_strides_holes_and_views_that_are_not_aligned(device):
    whole = torch.randn(64, 32, 5, 4, device=device)
    for tensor in (whole.permute(3, 1, 0, 2), whole[..., ::2], whole.flatten()[1:], whole.new_ones(()).expand(7, 3)):
        exact = torch.linalg.vector_norm(tensor.double())
        torch.testing.assert_close(
            global_norm([whole[0], tensor]).square() - global_norm([whole[0]]).square(),
            exact.square(),
            rtol=1e-5,
            atol=0,
        )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("norm", [global_norm, global_norm_reference])
def test_special_values_and_empty_tensors(device, norm):
    x = torch.ones(1000, device=device)
    assert norm([torch.empty(0, 3, device=device)]).item() == 0
    for special in (float("inf"), float("nan")):
        x[700] = special
        assert norm([x[:5], x]).item() == pytest.approx(special, nan_ok=True)


@pytest.mark.parametrize("device", DEVICES)
def test_more_tensors_than_one_launch_holds(device):
    tensors = made(torch.float32, torch.bfloat16, device=device, sizes=[i % 7 for i in range(5000)])
    torch.testing.assert_close(global_norm(tensors), global_norm_reference(tensors), rtol=1e-5, atol=0)


def test_result_does_not_depend_on_the_number_of_threads():
    tensors = made(torch.float32)
    all_threads = global_norm(tensors)
    with one_thread():
        assert torch.equal(global_norm(tensors), all_threads)


ONES = torch.ones(4, 3)
WRONG = {
    "tensors must hold at least one tensor, got none": [],
    "tensors[1] must be float32, float64, bfloat16 or float16, got int64": [ONES, ONES.long()],
    "tensors[1] must be dense, got a sparse tensor": [ONES, ONES.to_sparse()],
    "tensors[1] must be on cpu, got meta": [ONES, ONES.to("meta")],
}


@pytest.mark.parametrize("norm", [global_norm, global_norm_reference])
@pytest.mark.parametrize(("message", "tensors"), WRONG.items(), ids=range(len(WRONG)))
def test_wrong_arguments_are_named_in_one_line(norm, message, tensors):
    if not tensors and norm is global_norm:
        pytest.skip("without a tensor the dispatcher has no device to select a kernel")
    with pytest.raises(RuntimeError) as caught:
        norm(tensors)
    assert str(caught.value) == "global_norm: " + message


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device):
    tensors = made(torch.float32, device=device, sizes=[5, 3])
    torch.library.opcheck(torch.ops.airank_fast.global_norm.default, (tensors,))
