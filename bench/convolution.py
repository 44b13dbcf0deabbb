"""Convolutions as matrix products (nn.PointwiseConv2d, nn.PatchConv2d) against torch's, forward and backward, on a CPU.

    python bench/convolution.py [--save] [--choose] [--rounds N] [--dtype float32 bfloat16]

Which is faster depends on the number of output pixels. --choose writes airank_fast/nn/choices.json, which the modules
read, from the saved results: by instruction set, dtype and kernel the pixels up to which the product was faster, by the
geometric mean over the channels, at every size measured. AVX-512's choices are fixed (FIXED), so that earlier runs can
be repeated bit for bit.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from unittest import mock

import harness
import tables
import torch
from torch import Tensor, nn

from airank_fast import processor
from airank_fast.nn import PatchConv2d, PointwiseConv2d, choices, patch_conv, pointwise_conv

BATCH = 32
CHANNELS = {1: [(256, 64), (128, 512), (1024, 256), (512, 2048)], 3: [(64, 64), (256, 256), (512, 512)]}
SIDES = (1, 2, 4, 8)
FASTER = 1.05  # a smaller ratio is within the noise
FIXED = {"AVX512_BF16": {"bfloat16": {"1": None}}}


def step(conv: nn.Module, x: Tensor, grad: Tensor) -> Callable[[], list[Tensor]]:
    """Forward and backward; returns the result and the gradients."""

    def run() -> list[Tensor]:
        x.grad = conv.weight.grad = None
        y = conv(x)
        y.backward(grad)
        return [y.detach(), x.grad, conv.weight.grad]

    return run


def as_product(run: Callable) -> Callable:
    """The same call, with every convolution that can be a product computed as one."""

    def product() -> list[Tensor]:
        with (
            mock.patch.object(patch_conv, "product_is_faster", return_value=True),
            mock.patch.object(pointwise_conv, "product_is_faster", return_value=True),
        ):
            return run()

    return product


def check(steps: dict[str, Callable]) -> None:
    """Results and gradients must agree before anything is timed."""
    for got, want in zip(*(run() for run in steps.values()), strict=True):
        tolerance = 2**-6 if got.dtype != torch.float32 else 1e-4
        largest = want.float().abs().max()
        torch.testing.assert_close(got.float() / largest, want.float() / largest, rtol=0, atol=tolerance)


def cases(dtypes: list[str]) -> Iterator[tuple[dict, dict[str, Callable]]]:
    """(shape and dtype as facts, contestants) of each case."""
    for dtype in dtypes:
        for kernel, channels in CHANNELS.items():
            for side in SIDES:
                for c_in, c_out in channels:
                    torch.manual_seed(0)
                    made = PointwiseConv2d if kernel == 1 else PatchConv2d
                    options = {} if kernel == 1 else {"kernel_size": 3, "padding": 1, "bias": False}
                    ours = made(c_in, c_out, **options)
                    torchs = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=False)
                    torchs.load_state_dict(ours.state_dict())
                    shapes = [(BATCH, channels, side, side) for channels in (c_in, c_out)]
                    place = {"dtype": getattr(torch, dtype), "memory_format": torch.channels_last}
                    x, grad = (torch.randn(shape).to(**place) for shape in shapes)
                    ours, torchs = (conv.to(**place) for conv in (ours, torchs))
                    steps = {
                        "product": as_product(step(ours, x.requires_grad_(), grad)),
                        "torch": step(torchs, x, grad),
                    }
                    facts = {"dtype": dtype, "kernel": kernel, "pixels": BATCH * side**2, "channels": [c_in, c_out]}
                    yield facts, steps


def choose(results: list[dict]) -> dict:
    """The content of choices.json: {instruction set: {dtype: {kernel: pixels, or null for any number}}}."""
    found: dict[tuple[str, str, int], dict[int, list[float]]] = {}
    for line in results:
        key = line["instructions"], line["dtype"], line["kernel"]
        found.setdefault(key, {}).setdefault(line["pixels"], []).append(line["speedup_over"]["torch"])
    table: dict[str, dict] = dict(FIXED)
    for key, by_pixels in sorted(found.items()):
        limit = 0
        for pixels, ratios in sorted(by_pixels.items()):
            if statistics.geometric_mean(ratios) < FASTER:
                break
            limit = pixels
        instructions, dtype, kernel = key
        if limit and instructions not in FIXED:
            of_dtype = table.setdefault(instructions, {}).setdefault(dtype, {})
            of_dtype[str(kernel)] = None if limit == max(by_pixels) else limit
    return dict(sorted(table.items()))


def main() -> None:
    """Check, time, print; save on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--dtype", nargs="*", default=["float32", "bfloat16"])
    parser.add_argument("--save", action="store_true", help="append to bench/results")
    parser.add_argument("--choose", action="store_true", help="write choices.json from the saved results")
    arguments = parser.parse_args()
    for facts, steps in cases(arguments.dtype):
        check(steps)
        times = harness.time_rounds(steps, num_rounds=arguments.rounds)
        kernel, pixels = facts["kernel"], facts["pixels"]
        c_in, c_out = facts["channels"]
        instructions = processor.instruction_set()
        case = f"{kernel}x{kernel}, {c_in} to {c_out} channels, {pixels} pixels, {facts['dtype']}, {instructions}, cpu"
        print(harness.as_text(case, times, "product"), flush=True)
        if arguments.save:
            harness.save("convolution", case, times, "product", **facts)
    if arguments.choose:
        table = choose(tables.latest("convolution"))
        choices.FILE.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
        print(f"{choices.FILE}: {table}")


if __name__ == "__main__":
    main()
