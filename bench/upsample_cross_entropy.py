"""ops.upsample_cross_entropy and upsample_confusion against torch's interpolation and cross entropy, or argmax.

    python bench/upsample_cross_entropy.py [--save] [--no-compile] [--rounds N] [--device cpu|cuda]

Logits of DeepLabv3+ and HRNet for Cityscapes: 19 classes at a quarter of the height and width of 512 x 1024 labels; the
counts of one picture of 1024 x 2048. Peers: torch eager and torch.compile. The memory peak of a step is reported too;
on a CPU it is how far the resident memory of a process of its own grows.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import harness
import torch
from torch import Tensor
from torch.nn import functional as F

from airank_fast.ops import upsample_confusion, upsample_cross_entropy

OURS = "upsample_cross_entropy"
IGNORED = 255
CLASSES = 19
DTYPES = (torch.float32, torch.bfloat16)
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
TRAINED, EVALUATED = (2, (128, 256), (512, 1024)), (1, (256, 512), (1024, 2048))


def eager_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """As segmentation libraries have it."""
    x = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=False)
    return F.cross_entropy(x, labels, ignore_index=IGNORED)


def eager_counts(logits: Tensor, labels: Tensor) -> Tensor:
    """The same by a histogram, without a synchronisation for the number of pixels that count."""
    x = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=False)
    pairs = torch.where(labels == IGNORED, CLASSES**2, labels * CLASSES + x.argmax(1))
    return pairs.flatten().bincount(minlength=CLASSES**2 + 1)[:-1].view(CLASSES, CLASSES)


def made(shape: tuple, dtype: torch.dtype, memory_format: torch.memory_format, device: str) -> tuple[Tensor, Tensor]:
    """Logits, and labels of which a tenth is ignored."""
    torch.manual_seed(0)
    number, low, high = shape
    logits = torch.randn(number, CLASSES, *low, device=device).to(dtype).contiguous(memory_format=memory_format)
    labels = torch.randint(CLASSES, (number, *high), device=device)
    labels[torch.rand(labels.shape, device=device) < 0.1] = IGNORED
    return logits, labels


def step(function: Callable[[Tensor, Tensor], Tensor], logits: Tensor, labels: Tensor) -> Callable[[], list[Tensor]]:
    """Forward and backward; returns the loss and the gradient."""
    leaf = logits.clone(memory_format=torch.preserve_format).requires_grad_()

    def run() -> list[Tensor]:
        leaf.grad = None
        loss = function(leaf, labels)
        loss.backward()
        return [loss.detach(), leaf.grad]

    return run


def evaluation(function: Callable[[Tensor, Tensor], Tensor], logits: Tensor, labels: Tensor) -> Callable[[], Tensor]:
    """The counts of a picture."""
    return lambda: function(logits, labels)


def check_steps(steps: dict[str, Callable]) -> None:
    """Losses and gradients must agree before anything is timed."""
    results = [run() for run in steps.values()]
    for other in results[1:]:
        for got, want in zip(results[0], other, strict=True):
            largest = want.float().abs().max()
            tolerance = 1e-4 if want.dtype == torch.float32 else 2**-5
            torch.testing.assert_close(got.float() / largest, want.float() / largest, rtol=0, atol=tolerance)


def check_counts(evaluations: dict[str, Callable]) -> None:
    """All but nearly equal logits, which torch rounds to 16 bits, must agree."""
    counts = [run() for run in evaluations.values()]
    for other in counts[1:]:
        assert (counts[0] - other).abs().sum() <= 0.05 * other.sum()


def resident_bytes(what: str) -> int:
    """VmRSS or VmHWM, the resident memory of this process and its peak. Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(what))


def peak_growth(run: Callable[[], object]) -> int:
    """Bytes by which the resident memory of this process grows at most in a call."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is resident
    before = resident_bytes("VmRSS")
    run()
    return resident_bytes("VmHWM") - before


def resident_peak(name: str, dtype: torch.dtype, memory_format: torch.memory_format) -> int:
    """Bytes by which the process grows in a step; in a process that has done nothing but a small step before."""
    function = {OURS: upsample_cross_entropy, "torch": eager_loss}[name]
    step(function, *made((1, (2, 2), (4, 4)), dtype, memory_format, "cpu"))()
    return peak_growth(step(function, *made(TRAINED, dtype, memory_format, "cpu")))


def memory_peaks(
    steps: dict[str, Callable], dtype: torch.dtype, memory_format: torch.memory_format, device: str
) -> dict[str, int]:
    """The memory peak of a step beyond its inputs, in bytes; on a CPU of eager functions alone."""
    if device == "cpu":
        context = multiprocessing.get_context("spawn")
        with context.Pool(1, maxtasksperchild=1) as pool:
            names = [name for name in steps if name != "torch.compile"]
            return {name: pool.apply(resident_peak, (name, dtype, memory_format)) for name in names}
    peaks = {}
    for name, run in steps.items():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        peaks[name] = torch.cuda.max_memory_allocated() - before
    return peaks


def report(case: str, ours: str, steps: dict[str, Callable], options, **facts: object) -> None:
    """Time, print; save on request."""
    times = harness.time_rounds(steps, num_rounds=options.rounds, device=options.device)
    print(harness.as_text(case, times, ours))
    for name, peak in facts.get("memory_peak_bytes", {}).items():
        print(f"  {name:24} {peak / 2**20:9.1f} MiB at most beyond the inputs")
    if options.save:
        harness.save(OURS, case, times, ours, **facts)


def contestants(ours: str, function: Callable, eager: Callable, compiled: bool) -> dict[str, Callable]:
    """Ours and its peers by name."""
    found = {ours: function, "torch": eager}
    return found | ({"torch.compile": harness.compiled(eager)} if compiled else {})


def main() -> None:
    """Check, time, print; save on request."""
    options = harness.op_options(OURS, __doc__, rounds=11)
    for dtype in DTYPES:
        for name, memory_format in FORMATS.items():
            described = f"{name} {str(dtype).removeprefix('torch.')}"
            functions = contestants(OURS, upsample_cross_entropy, eager_loss, options.compile)
            inputs = made(TRAINED, dtype, memory_format, options.device)
            steps = {who: step(function, *inputs) for who, function in functions.items()}
            check_steps(steps)
            peaks = memory_peaks(steps, dtype, memory_format, options.device)
            case = f"2 x 19 x 128 x 256 to 512 x 1024 {described}, forward + backward, {options.device}"
            report(case, OURS, steps, options, memory_peak_bytes=peaks)

            ours = "upsample_confusion"
            functions = contestants(ours, upsample_confusion, eager_counts, options.compile)
            inputs = made(EVALUATED, dtype, memory_format, options.device)
            evaluations = {who: evaluation(function, *inputs) for who, function in functions.items()}
            check_counts(evaluations)
            report(f"counts of 256 x 512 to 1024 x 2048 {described}, {options.device}", ours, evaluations, options)


if __name__ == "__main__":
    main()
