"""Evaluation of a picture of 2048 x 1024: network, class of each pixel, and counts for the mean IoU.

    python bench/pixel_evaluation.py [--tasks deeplabv3plus hrnet] [--rounds N] [--save]

DeepLabv3+ and HRNet of the cityscapes recipes. Peers, in turns: the network of torch's own modules, logits of the full
size, argmax and a histogram, contiguous and in channels_last. airank_fast is the job's `predict` and meter, as the
engine calls them. The memory peak is reported too: on a CPU it is how far the resident memory of a process of its own
grows.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable

import harness
import torch
from picture_step import ALONE, DEVICE, LAYOUTS, job_of
from torch import Tensor
from upsample_cross_entropy import eager_counts, peak_growth

from airank_fast.data.images.segmentation_reader import SegmentationBatch

TASKS = ("deeplabv3plus", "hrnet")
HEIGHT, WIDTH = 1024, 2048
OURS = "airank_fast"


def made(height: int = HEIGHT, width: int = WIDTH) -> SegmentationBatch:
    """A picture of noise with labels."""
    torch.manual_seed(0)
    images = torch.randn(1, 3, height, width, device=DEVICE).contiguous(memory_format=torch.channels_last)
    return SegmentationBatch(images, torch.randint(19, (1, height, width), dtype=torch.uint8, device=DEVICE))


def evaluation(task: str, who: str, batch: SegmentationBatch) -> Callable[[], Tensor]:
    """The counts of a picture, int64 [19, 19]: a row for each label."""
    job = job_of(task, "cityscapes", fused=who == OURS)
    layout = LAYOUTS.get(who, torch.channels_last)
    torch.manual_seed(0)
    networks = {name: net.to(DEVICE, memory_format=layout).eval() for name, net in job.build().items()}
    images, labels = batch.images.contiguous(memory_format=layout), batch.labels.long()

    @torch.inference_mode()
    def ours() -> Tensor:
        meter = job.meter()
        meter.update(job.predict(networks, batch), batch)
        meter.values(ALONE)
        return meter.matrix

    @torch.inference_mode()
    def torchs() -> Tensor:
        return eager_counts(networks["model"](images), labels)

    return ours if who == OURS else torchs


def resident_peak(task: str, who: str) -> int:
    """Bytes by which the process grows in an evaluation, after a small one."""
    evaluation(task, who, made(64, 64))()
    return peak_growth(evaluation(task, who, made()))


def memory_peaks(task: str, functions: dict[str, Callable]) -> dict[str, int]:
    """The memory peak of an evaluation beyond network and picture, in bytes."""
    if DEVICE.type == "cpu":
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            return {who: pool.apply(resident_peak, (task, who)) for who in functions}
    peaks = {}
    for who, function in functions.items():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        peaks[who] = torch.cuda.max_memory_allocated() - before
    return peaks


def check(functions: dict[str, Callable[[], Tensor]]) -> None:
    """All but nearly equal logits must agree."""
    counts = [function() for function in functions.values()]
    for other in counts[1:]:
        assert (counts[0] - other).abs().sum() <= 0.01 * other.sum()


def main() -> None:
    """Check, time, print; save on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="append to bench/results/pixel_evaluation.jsonl")
    arguments = parser.parse_args()
    if arguments.save and not harness.wait_until_idle(DEVICE.type):
        parser.exit(1, "the machine is busy: nothing was measured\n")
    for task in arguments.tasks:
        functions = {who: evaluation(task, who, made()) for who in (OURS, *LAYOUTS)}
        check(functions)
        peaks = memory_peaks(task, functions)
        time_rounds = harness.time_rounds
        times = time_rounds(functions, num_rounds=arguments.rounds, device=DEVICE.type, num_warm_up=1, ahead=False)
        case = f"{task} cityscapes evaluation of {WIDTH} x {HEIGHT}, fp32, {DEVICE.type}"
        print(harness.as_text(case, times, OURS), flush=True)
        for who, peak in peaks.items():
            print(f"  {who:24} {peak / 2**20:9.1f} MiB at most beyond network and picture")
        if arguments.save:
            harness.save("pixel_evaluation", case, times, OURS, memory_peak_bytes=peaks)


if __name__ == "__main__":
    main()
