"""ops.cross_entropy, forward and backward, against torch's: rows of the size of vocabularies and of ImageNet's classes.

    python bench/cross_entropy.py [--save] [--compile] [--rounds N] [--device cpu|cuda]

The vocabularies are BERT's and, with label smoothing, translation's. Peers: torch eager, the same after a conversion to
float32 (as under autocast), torch.compile, and on a GPU Liger-Kernel's and apex's where they are importable. There the
memory peak of a step, beyond its logits, is reported too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import harness
import torch
from torch import Tensor
from torch.nn import functional as F

from airank_fast.ops import cross_entropy

OURS = "cross_entropy"
SHAPES = {  # rows, classes, label smoothing
    "cpu": [(512, 30_528, 0.0), (256, 1000, 0.0), (512, 33_708, 0.1)],
    "cuda": [(4096, 30_528, 0.0), (16_384, 30_528, 0.0), (256, 1000, 0.0), (65_536, 1000, 0.0), (10_240, 33_708, 0.1)],
}
WRITES_OVER = (OURS + ", in place", "Liger-Kernel")  # the logits, with their gradient
DTYPES = (torch.float32, torch.bfloat16)


def losses(
    device: str, dtype: torch.dtype, smoothing: float, compiled: bool
) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Name -> loss of logits and target."""
    torchs = partial(F.cross_entropy, label_smoothing=smoothing)
    found = {
        OURS: partial(cross_entropy, label_smoothing=smoothing),
        OURS + ", in place": partial(cross_entropy, label_smoothing=smoothing, inplace_backward=True),
        "torch": torchs,
    }
    if dtype != torch.float32:
        found["torch, float32"] = lambda logits, target: torchs(logits.float(), target)
    if compiled:
        found["torch.compile"] = harness.compiled(torchs)
    if device == "cuda":
        found |= peers(smoothing)
    return found


def peers(smoothing: float) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Other fused kernels, where they are importable."""
    found = {}
    if harness.is_there("liger_kernel.transformers.functional"):
        from liger_kernel.transformers.functional import liger_cross_entropy

        found["Liger-Kernel"] = partial(liger_cross_entropy, label_smoothing=smoothing)
    if harness.is_there("apex.contrib.xentropy"):
        from apex.contrib.xentropy import SoftmaxCrossEntropyLoss

        found["apex"] = lambda logits, target: SoftmaxCrossEntropyLoss.apply(
            logits, target, smoothing, -100, True
        ).mean()
    return found


def step(loss: Callable, leaf: Tensor, target: Tensor) -> Callable[[], Tensor]:
    """Forward and backward; the logits are a view, since a leaf may not be written over.

    On a GPU logits that were written over are restored before each round, as small numbers take less power; a CPU's
    time does not depend on them.
    """

    def run() -> Tensor:
        leaf.grad = None
        value = loss(leaf.view_as(leaf), target)
        value.backward()
        return value

    return run


def check(steps: dict[str, Callable], leaves: dict[str, Tensor], target: Tensor, smoothing: float) -> None:
    """Losses and gradients must agree before anything is timed."""
    wide = leaves[OURS].detach().float().requires_grad_()
    want = F.cross_entropy(wide, target, label_smoothing=smoothing)
    want.backward()
    # torch rounds the loss and every log-probability to bfloat16.
    wide_dtype = leaves[OURS].dtype == torch.float32
    tolerance = {} if wide_dtype else {"rtol": 2e-2, "atol": 2e-2}
    of_gradient = {"rtol": 1e-4, "atol": 1e-5} if wide_dtype else {"rtol": 6e-2, "atol": 1e-4}
    for name, run in steps.items():
        torch.testing.assert_close(run().float(), want, **tolerance)
        largest = wide.grad.abs().max()
        torch.testing.assert_close(leaves[name].grad.float() / largest, wide.grad / largest, **of_gradient)


def memory_peaks(steps: dict[str, Callable], leaves: dict[str, Tensor]) -> dict[str, int]:
    """The memory peak of a step beyond the logits, in bytes."""
    peaks = {}
    for name, run in steps.items():
        leaves[name].grad = None
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        peaks[name] = torch.cuda.max_memory_allocated() - before
        leaves[name].grad = None
    return peaks


def main() -> None:
    """Check, time, print; save on request."""
    options = harness.op_options("cross_entropy", __doc__, rounds=31)
    bandwidth = harness.bandwidth(options.device)
    for rows, classes, smoothing in SHAPES[options.device]:
        for dtype in DTYPES:
            torch.manual_seed(0)
            logits = torch.randn(rows, classes, device=options.device).to(dtype)
            target = torch.randint(classes, (rows,), device=options.device)
            functions = losses(options.device, dtype, smoothing, options.compile)
            leaves = {name: logits.clone().requires_grad_() for name in functions}
            steps = {name: step(loss, leaves[name], target) for name, loss in functions.items()}
            check(steps, leaves, target, smoothing)
            facts = {"memory_peak_bytes": memory_peaks(steps, leaves)} if options.device == "cuda" else {}
            num_bytes = 3 * logits.numel() * logits.element_size()  # read, read again, gradient written
            refill = {name: partial(leaves[name].data.copy_, logits) for name in WRITES_OVER if name in leaves}
            times = harness.time_rounds(
                steps, num_rounds=options.rounds, device=options.device, num_bytes=num_bytes, refill=refill
            )
            case = f"{rows} x {classes} {str(dtype).removeprefix('torch.')}, forward + backward"
            case += f", label smoothing {smoothing}" * (smoothing > 0) + f", {options.device}"
            print(harness.as_text(case, times, OURS))
            floor_s = num_bytes / bandwidth
            share = floor_s / harness.timing(times[OURS]).median_s
            print(f"  {'floor by bandwidth':24} {1e3 * floor_s:9.3f} ms   {OURS} reaches {share:.0%} of it")
            for name, peak in facts.get("memory_peak_bytes", {}).items():
                print(f"  {name:24} {peak / 2**20:9.1f} MiB at most beyond the logits")
            if options.save:
                harness.save("cross_entropy", case, times, OURS, floor_s=floor_s, bytes_moved=num_bytes, **facts)


if __name__ == "__main__":
    main()
