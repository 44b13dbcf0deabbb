"""Training steps of the tasks on pictures, clips and lines of text against plain torch, on a batch in memory.

    python bench/picture_step.py [--tasks ocr ...] [--recipes digit_lines ...] [--precision fp32|bf16] [--rounds N]
                                 [--no-compile] [--save]

Peers, in turns: the network of torch's own modules, with logits of the picture's full size and torch's cross entropy
and optimizer (the task's --no-fused), in a plain loop, contiguous, in channels_last, and the faster of the two layouts
under torch.compile, network and loss together; in bf16 under autocast. airank_fast is the engine's step. Batches are
noise. Each task's first recipe is that of its embedded data; on a CPU the other's batches are smaller than its own, as
YOLOv3's is on a GPU.

On a CPU the seconds of torch's step in convolutions, products and LSTMs are measured too (`products_s`): airank_fast
has them from torch, so that a step can be no faster than they are, unless another layout makes them faster.
"""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import harness
import torch
from torch import nn

from airank_fast.engine.distributed import World
from airank_fast.engine.state import State
from airank_fast.job import Networks

ON_A_CPU: dict[str, dict[str, dict[str, Any]]] = {
    "ocr": {"digit_lines": {}, "lines": {"batch_size": 16}},
    "tsm": {"moving_digits": {}, "kinetics": {"batch_size": 2, "image_size": 112}},
    "deeplabv3plus": {"digit_objects": {}, "cityscapes": {"batch_size": 2, "crop_height": 128, "crop_width": 256}},
    "hrnet": {"digit_objects": {}, "cityscapes": {"batch_size": 2, "crop_height": 256, "crop_width": 512}},
    "yolov3": {"digit_scenes": {}, "coco": {"batch_size": 1, "train_sizes": (640,)}},
}
"""Tasks, their recipes, and what a step on a CPU has other than the recipe."""
ON_A_GPU: dict[str, dict[str, dict[str, Any]]] = {"yolov3": {"coco": {"batch_size": 16, "train_sizes": (416,)}}}
"""The same on a GPU. YOLOv3: AI-Rank's own result, of gluon-cv, has 38.55 images/s of 416 pixels on one V100."""
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ALONE = World(0, 1, 0, 1, DEVICE)
LAYOUTS = {"torch": torch.contiguous_format, "torch, channels_last": torch.channels_last}
RATE = 1e-4
PRODUCTS = re.compile("convolution|conv2d|mm|linear|rnn|lstm|gemm|matmul")


def job_of(task: str, recipe: str, *, fused: bool, precision: str = "fp32", **changes: Any) -> Any:
    """The task's job with its recipe, but for these changes."""
    module = importlib.import_module(f"airank_fast.recipes.{task}")
    chosen = replace(module.RECIPES[recipe], fused=fused, precision=precision, **changes)
    return module.Job(chosen, module.Options())


def our_step(job: Any, batch: Any) -> Callable[[], object]:
    """The engine's."""
    state = State(job, ALONE)
    for network in state.networks.values():
        network.train()
    batch = replace(batch, images=batch.images.to(state.dtype))
    return lambda: state.step([batch], learning_rate=RATE)


def torch_step(job: Any, batch: Any, layout: torch.memory_format, compiled: bool) -> Callable[[], object]:
    """A plain loop."""
    networks = {name: network.to(DEVICE, memory_format=layout).train() for name, network in job.build().items()}
    batch = replace(batch, images=batch.images.contiguous(memory_format=layout))
    updates = job.updates(networks, DEVICE)
    losses = [harness.compiled(update.loss) if compiled else update.loss for update in updates]
    for group in (group for update in updates for group in update.optimizer.param_groups):
        group["lr"] = RATE

    def step() -> None:
        for update, loss_of in zip(updates, losses, strict=True):
            with torch.autocast(DEVICE.type, torch.bfloat16, enabled=job.recipe.precision == "bf16"):
                loss = loss_of(batch)
            loss.backward()
            update.optimizer.step()
            update.optimizer.zero_grad(set_to_none=True)

    return step


def gradients(job: Any, networks: Networks, batch: Any) -> torch.Tensor:
    """All gradients of the step and its losses, in float32, in a row. Without dropout, which is random."""
    for module in (module for network in networks.values() for module in network.modules()):
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    with torch.autocast(DEVICE.type, torch.bfloat16, enabled=job.recipe.precision == "bf16"):
        losses = [update.loss(batch) for update in job.updates(networks, DEVICE)]
    torch.stack(losses).sum().backward()
    found = [p.grad.flatten() for network in networks.values() for p in network.parameters() if p.grad is not None]
    return torch.cat([torch.stack(losses).detach(), *found])


def check(job: Any, plain: Any, batch: Any) -> None:
    """From the same weights, ours and torch's modules must have the same loss and gradients."""
    both = [made.build() for made in (job, plain)]
    for name, network in both[1].items():
        network.load_state_dict(both[0][name].state_dict())
    ours, theirs = (
        gradients(
            made, {name: net.to(DEVICE, memory_format=torch.channels_last) for name, net in networks.items()}, batch
        )
        for made, networks in zip((job, plain), both, strict=True)
    )
    difference = ((ours - theirs).norm() / theirs.norm()).item()
    limit = 0.05 if job.recipe.precision == "fp32" else 0.3  # rounding moves numbers across ReLUs' thresholds
    assert difference <= limit, f"{job.task.name}: losses and gradients differ by {difference} of their norm"


def products_s(step: Callable[[], object], kinds: re.Pattern[str] = PRODUCTS) -> float:
    """Seconds of a step, on a CPU, in operators of some kinds, forward and backward: the least of three.

    By default in convolutions, products and LSTMs.
    """
    found = []
    for _ in range(3):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            step()
        ops = (op for op in profile.key_averages() if op.key.startswith("aten::") and kinds.search(op.key))
        found.append(sum(op.self_cpu_time_total for op in ops) / 1e6)
    return min(found)


def main() -> None:
    """Time, print; save on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=ON_A_CPU, default=list(ON_A_CPU))
    parser.add_argument("--recipes", nargs="+", help="default: all of each task")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16" if DEVICE.type == "cuda" else "fp32")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="takes minutes")
    parser.add_argument("--save", action="store_true", help="append to bench/results/picture_step.jsonl")
    arguments = parser.parse_args()
    if arguments.save and not harness.wait_until_idle(DEVICE.type):
        parser.exit(1, "the machine is busy: nothing was measured\n")
    for task in arguments.tasks:
        for recipe, changes in ON_A_CPU[task].items():
            if not arguments.recipes or recipe in arguments.recipes:
                changes = changes if DEVICE.type == "cpu" else ON_A_GPU.get(task, {}).get(recipe, {})
                time_steps(task, recipe, changes, arguments)


def time_steps(task: str, recipe: str, changes: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Check, time and print one case; save it on request."""
    job, plain = (
        job_of(task, recipe, fused=fused, precision=arguments.precision, **changes) for fused in (True, False)
    )
    torch.manual_seed(0)
    batch = job.warm_up_batch(ALONE, DEVICE, torch.float32)
    check(job, plain, batch)
    contestants = {"airank_fast": our_step(job, batch)}
    contestants |= {name: torch_step(plain, batch, layout, False) for name, layout in LAYOUTS.items()}
    time_rounds = harness.time_rounds
    if arguments.compile:
        loops = {name: contestants[name] for name in LAYOUTS}
        quick = time_rounds(loops, num_rounds=3, device=DEVICE.type, num_warm_up=1, ahead=False)
        faster = min(LAYOUTS, key=lambda name: min(quick[name]))
        contestants["torch.compile"] = torch_step(plain, batch, LAYOUTS[faster], True)
    times = time_rounds(contestants, num_rounds=arguments.rounds, device=DEVICE.type, num_warm_up=2, ahead=False)
    shape = " x ".join(map(str, batch.images.shape))
    case = f"{task} {recipe} training step, {shape}, {arguments.precision}, {DEVICE.type}"
    print(harness.as_text(case, times, "airank_fast"), flush=True)
    products = {who: products_s(contestants[who]) for who in LAYOUTS} if DEVICE.type == "cpu" else {}
    for who, seconds in products.items():
        print(f"  {who} is {1e3 * seconds:.1f} ms in convolutions, products and LSTMs")
    if arguments.save:
        rates = {who: batch.num_samples / harness.timing(values).median_s for who, values in times.items()}
        harness.save("picture_step", case, times, "airank_fast", samples_per_s=rates, products_s=products)


if __name__ == "__main__":
    main()
