"""Images/s of the ResNet-50 training step against plain torch, on pictures that are already in memory.

    python bench/step.py [--sizes 32 64 224] [--precisions fp32 bf16] [--rounds N] [--no-compile]
                         [--save]

Peers, in the same run and in turns: a plain loop (channels_last, autocast for bf16, torch's fused SGD) and the same
under torch.compile; and airank_fast with --no-fused, that is, with torch's batch norm, ReLU, convolutions and loss.
airank_fast is the engine's TrainingStep with the recipe's model and optimizer. Without --precisions: fp32, and bf16
where --amp chooses it; on a GPU bf16 alone.

A large matrix product is timed too. `images_per_s_by_arithmetic` is the rate of a step whose arithmetic alone ran at
the product's FLOP/s; the difference is due to memory, launches and layouts.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial

import harness
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from airank_fast.data.images import ImageBatch
from airank_fast.engine import weights
from airank_fast.engine.precision import DTYPES, amp_choice
from airank_fast.engine.step import TrainingStep
from airank_fast.models.resnet import resnet50
from airank_fast.recipes import resnet50 as recipes

NUM_CLASSES = 1000
BATCH_SIZES = {32: 64, 64: 32, 224: 8}
CUDA_BATCH_SIZE = 256
SIDE = {"cpu": 1024, "cuda": 8192}  # of the large product


def plain_step(device: torch.device, compiled: bool, precision: str):
    model = resnet50(NUM_CLASSES, fused=False).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-5, fused=True)
    forward = harness.compiled(model) if compiled else model

    def step(images, labels) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = F.cross_entropy(forward(images), labels, label_smoothing=0.1)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def our_step(device: torch.device, precision: str, fused: bool = True):
    recipe = replace(recipes.RECIPES["imagenet-1gpu"], fused=fused, precision=precision)
    job = recipes.Job(recipe, recipes.Options())
    networks = {name: weights.apply(network, precision, device) for name, network in job.build().items()}
    scaler = torch.amp.GradScaler(device.type, enabled=False)
    training_step = TrainingStep(job.updates(networks, device), networks, scaler)

    def step(images, labels) -> None:
        training_step([ImageBatch(images.to(DTYPES[precision]), labels)], learning_rate=0.01)

    return step


def check(device: torch.device) -> None:
    """From the same weights, loss and gradient must have at most twice the error of autocast's against float32.

    Autocast's loss, a single number, may be exact by chance: an error of bfloat16's rounding is allowed.
    """
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = False  # as engine/weights.py sets it
    plain = resnet50(NUM_CLASSES, fused=False).to(device, memory_format=torch.channels_last)
    images, labels = made_up(64, 16, device)
    results = {}
    for who in ("float32", "autocast", "ours"):
        model = plain
        with torch.autocast(device.type, torch.bfloat16, enabled=who == "autocast"):
            if who == "ours":
                job = recipes.Job(recipes.RECIPES["imagenet-1gpu"], recipes.Options())
                model = resnet50(NUM_CLASSES)
                model.load_state_dict(plain.state_dict())
                model = weights.apply(model, "bf16", device)
                loss = job.loss(model, ImageBatch(images.bfloat16(), labels))
            else:
                loss = F.cross_entropy(plain(images), labels, label_smoothing=0.1)
        loss.backward()
        results[who] = loss.item(), model.fc.weight.grad.float()
        plain.zero_grad(set_to_none=True)

    def error(who: str) -> tuple[float, float]:
        (loss, gradient), (exact_loss, exact_gradient) = results[who], results["float32"]
        return abs(loss - exact_loss), (gradient - exact_gradient).norm().item()

    chance = (2**-8 * abs(results["float32"][0]), 0.0)
    for ours, autocast, may_be in zip(error("ours"), error("autocast"), chance, strict=True):
        assert ours <= 2 * autocast + may_be, f"error {ours}, of autocast {autocast}"


def made_up(size: int, batch_size: int, device: torch.device):
    images = torch.randn(batch_size, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    return images, torch.randint(NUM_CLASSES, (batch_size,), device=device)


def flops_of(step, *arguments) -> int:
    """Floating-point operations of a step's products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        step(*arguments)
    return counter.get_total_flops()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", help="pixels; default: 32 64 224, on CUDA 224")
    parser.add_argument("--precisions", nargs="+", choices=["fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="takes minutes")
    parser.add_argument("--save", action="store_true", help="append to bench/results")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    native = amp_choice(device).precision == "bf16"
    usual = ["bf16"] if device.type == "cuda" else ["fp32", "bf16"] if native else ["fp32"]
    precisions = arguments.precisions or usual
    if "bf16" in precisions:
        check(device)
    for size in arguments.sizes or ([224] if device.type == "cuda" else list(BATCH_SIZES)):
        for precision in precisions:
            time_steps(device, size, precision, arguments)


def time_steps(device: torch.device, size: int, precision: str, arguments: argparse.Namespace) -> None:
    """Time all contestants for one size of pictures in one precision, print and save."""
    batch_size = CUDA_BATCH_SIZE if device.type == "cuda" else BATCH_SIZES[size]
    images, labels = made_up(size, batch_size, device)
    steps = {
        "airank_fast": our_step(device, precision),
        "airank_fast --no-fused": our_step(device, precision, fused=False),
        "torch": plain_step(device, False, precision),
    }
    if arguments.compile:
        steps["torch.compile"] = plain_step(device, True, precision)
    flops = flops_of(steps["torch"], images, labels)
    side = SIDE[device.type]
    factor = torch.randn(side, side, device=device).to(DTYPES[precision])
    contestants = {name: partial(step, images, labels) for name, step in steps.items()}
    contestants["product"] = partial(torch.mm, factor, factor)
    times = harness.time_rounds(contestants, num_rounds=arguments.rounds, device=device.type, ahead=False)
    product_s = harness.timing(times.pop("product")).median_s
    rates = {name: batch_size / harness.timing(values).median_s for name, values in times.items()}
    product_rate = 2 * side**3 / product_s
    facts = {
        "images_per_s": rates,
        "product_flop_per_s": product_rate,
        "images_per_s_by_arithmetic": product_rate / (flops / batch_size),
    }
    case = f"ResNet-50 training step, {size} px, batch {batch_size}, {precision}, {device.type}"
    if arguments.save:
        harness.save("step", case, times, "airank_fast", **facts)
    print(harness.as_text(case, times, "airank_fast"))
    print("  images/s: " + ", ".join(f"{name} {rate:.1f}" for name, rate in rates.items()))
    print(
        f"  a product runs at {product_rate / 1e9:.0f} GFLOP/s, at which arithmetic alone allows "
        f"{facts['images_per_s_by_arithmetic']:.0f} images/s"
    )


if __name__ == "__main__":
    main()
