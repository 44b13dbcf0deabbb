"""BatchNormAct2d against torch's BatchNorm2d + ReLU (+ residual add), on ResNet-50's layers in channels_last.

    python bench/batch_norm_act.py [--device cpu|cuda] [--sizes 32 224] [--kinds batch leaky frozen] [--shapes]
                                   [--rounds N] [--save]

A case is the forward and backward passes of all 53 batch norms of the network at one picture size, each on tensors
of its own; with --shapes also each distinct layer by itself. It is there with statistics of the batch, with leaky ReLUs
for ReLUs ("leaky"), and with frozen statistics and parameters. Peers: torch eager, and of the first kind torch.compile
and apex's groupbn on a GPU where it can be imported. The floor counts the bytes that the op moves, the mask included.
torch.compile makes a graph for each of the 16 distinct layers, which takes nearly all the time of this bench: on a GPU
one size is the default.
"""

from __future__ import annotations

import argparse
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import harness
import torch
from torch import Tensor, nn

from airank_fast.models.resnet import EXPANSION
from airank_fast.nn import BatchNormAct2d, freeze_batch_norm

KINDS = {"batch": "", "leaky": " with leaky ReLUs", "frozen": ", frozen"}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CPU_BATCH_SIZES = {32: 64, 224: 8}
CUDA_BATCH_SIZE = 256


@dataclass(frozen=True)
class Layer:
    """One batch norm: its channels, the side of its pictures, and the operators that follow it."""

    channels: int
    side: int
    relu: bool = True
    residual: bool = False

    def __str__(self) -> str:
        return f"{self.channels} x {self.side} x {self.side}{' + add' * self.residual}{' + ReLU' * self.relu}"

    def activation(self, kind: str) -> str | None:
        """The activation of the layer in a network of that kind."""
        return None if not self.relu else "leaky_relu" if kind == "leaky" else "relu"


def layers(image_size: int) -> Iterator[Layer]:
    """ResNet-50's batch norms in order."""
    side = image_size // 2
    yield Layer(64, side)
    side //= 2
    for stage, num_blocks in enumerate((3, 4, 6, 3)):
        width = 64 * 2**stage
        for block in range(num_blocks):
            before, side = side, side // 2 if stage and not block else side
            yield Layer(width, before)
            yield Layer(width, side)
            if block == 0:
                yield Layer(width * EXPANSION, side, relu=False)
            yield Layer(width * EXPANSION, side, residual=True)


class Plain(nn.Module):
    """Torch's modules in a row."""

    def __init__(self, layer: Layer, kind: str) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(layer.channels)
        activations = {
            None: nn.Identity(),
            "relu": nn.ReLU(inplace=True),
            "leaky_relu": nn.LeakyReLU(0.1, inplace=True),
        }
        self.act = activations[layer.activation(kind)]
        if kind == "frozen":
            self.eval().requires_grad_(False)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        y = self.bn(x)
        return self.act(y if residual is None else y + residual)


class Apex(nn.Module):
    """apex's NHWC batch norm, which takes its tensors as contiguous [N, H, W, C]."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        from apex.contrib.groupbn import BatchNorm2d_NHWC

        self.bn = BatchNorm2d_NHWC(layer.channels, fuse_relu=layer.relu)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        z = None if residual is None else residual.permute(0, 2, 3, 1)
        return self.bn(x.permute(0, 2, 3, 1), z).permute(0, 3, 1, 2)


def builders(device: str, dtype: torch.dtype, kind: str) -> dict[str, Callable[[Layer], nn.Module]]:
    def fused(layer: Layer) -> nn.Module:
        norm = BatchNormAct2d(layer.channels, activation=layer.activation(kind), negative_slope=0.1)
        return freeze_batch_norm(norm) if kind == "frozen" else norm

    made = {"airank_fast": fused, "torch": lambda layer: Plain(layer, kind)}
    if kind == "batch":
        made["torch.compile"] = lambda layer: harness.compiled(Plain(layer, kind))
    if device == "cuda" and kind == "batch":
        if dtype != torch.float16:
            print("not a peer here: apex's groupbn, which is for float16 (--dtypes fp16)")
        elif harness.is_there("apex.contrib.groupbn"):
            made["apex groupbn"] = Apex
    return made


def case(layer: Layer, batch_size: int, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor | None, Tensor]:
    """x, residual and the gradient of the output, random."""

    def random() -> Tensor:
        made = torch.randn(batch_size, layer.channels, layer.side, layer.side, device=device)
        return made.to(dtype, memory_format=torch.channels_last)

    x, dy = random().requires_grad_(), random()
    return x, random().requires_grad_() if layer.residual else None, dy


def work(modules: list[nn.Module], tensors: list[tuple]) -> Callable[[], None]:
    """All forward passes, then all backward passes, from the last layer to the first, as in training."""
    leaves = [t for x, residual, _ in tensors for t in (x, residual) if t is not None]

    def run() -> None:
        outputs = [module(x, residual) for module, (x, residual, _) in zip(modules, tensors, strict=True)]
        while outputs:
            outputs.pop().backward(tensors[len(outputs)][2])
        for leaf in leaves:
            leaf.grad = None

    return run


def check(modules: dict[str, nn.Module], x: Tensor, residual: Tensor | None, dy: Tensor) -> None:
    """Every contestant must give the same output and gradient up to its dtype's rounding."""
    tolerance = {torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.01}[x.dtype]
    expected = None
    for module in modules.values():
        y = module(x, residual)
        y.backward(dy)
        got, x.grad = (y.detach(), x.grad), None
        expected = expected or got
        for a, b in zip(got, expected, strict=True):
            # An output near zero may pass one ReLU and not the other, which changes its channel's sums too.
            assert ((a - b).abs() > tolerance * (1 + b.abs())).float().mean() < 0.01


def bytes_moved(layer: Layer, batch_size: int, dtype: torch.dtype, kind: str) -> float:
    """Forward reads x twice and writes y; backward reads dy and x twice and writes dx; one bit for the activation.

    Frozen, x is read once, and not in the backward pass, which reads dy once.
    """
    passes, bits = (4, 2) if kind == "frozen" else (8, 3)
    per_element = (passes + 2 * layer.residual) * dtype.itemsize + bits / 8 * layer.relu
    return batch_size * layer.channels * layer.side**2 * per_element


def measure(
    name: str, chosen: list[Layer], batch_size: int, dtype: torch.dtype, kind: str, options, bandwidth: float
) -> None:
    torch._dynamo.reset()  # with fewer graphs the right one is found sooner
    tensors = [case(layer, batch_size, dtype, options.device) for layer in chosen]
    contestants = {}
    for who, build in builders(options.device, dtype, kind).items():
        contestants[who] = [build(layer).to(options.device) for layer in chosen]
    for index in {layer: index for index, layer in enumerate(chosen)}.values():
        check({who: modules[index] for who, modules in contestants.items()}, *tensors[index])
    runs = {who: work(modules, tensors) for who, modules in contestants.items()}
    num_bytes = sum(bytes_moved(layer, batch_size, dtype, kind) for layer in chosen)
    times = harness.time_rounds(runs, num_rounds=options.rounds, device=options.device, num_bytes=num_bytes)
    rate = num_bytes / harness.timing(times["airank_fast"]).median_s
    print(harness.as_text(name, times, "airank_fast"))
    print(f"  {rate / 1e9:.1f} GB/s of the floor's bytes, {rate / bandwidth:.0%} of the copy bandwidth")
    if options.save:
        facts = {"floor_s": num_bytes / bandwidth, "bytes_moved": num_bytes}
        harness.save("batch_norm_act", name, times, "airank_fast", share_of_copy=rate / bandwidth, **facts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--sizes", type=int, nargs="+", help="pixels; default: 32 224, on CUDA 224")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["fp32", "bf16"])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=[*KINDS])
    parser.add_argument("--shapes", action="store_true", help="also every distinct layer by itself")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--save", action="store_true", help="append to bench/results/batch_norm_act.jsonl")
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.save and not harness.wait_until_idle(options.device):
        parser.exit(1, "the machine is busy: nothing was measured\n")
    bandwidth = harness.bandwidth(options.device)
    for size in options.sizes or ([224] if options.device == "cuda" else [32, 224]):
        batch_size = CUDA_BATCH_SIZE if options.device == "cuda" else CPU_BATCH_SIZES.get(size, 8)
        for kind, dtype in itertools.product(options.kinds, options.dtypes):
            end = f"{dtype}, forward + backward, {options.device}"
            if options.shapes:
                for layer, count in Counter(layers(size)).items():
                    name = f"{batch_size} x {layer}{KINDS[kind]} ({count}), {end}"
                    measure(name, [layer], batch_size, DTYPES[dtype], kind, options, bandwidth)
            name = f"all 53 batch norms of ResNet-50{KINDS[kind]}, {size} px, batch {batch_size}, {end}"
            measure(name, list(layers(size)), batch_size, DTYPES[dtype], kind, options, bandwidth)


if __name__ == "__main__":
    main()
