"""A training step of Mask R-CNN, ResNet-50 and FPN, on a picture of 640 x 640 against torchvision's.

    python bench/mask_rcnn_step.py [--save] [--rounds N] [--steps N] [--no-late]

airank_fast is the engine's step of the coco recipe; torchvision's is a plain loop of its MaskRCNN with torch's fused
SGD, contiguous and in channels_last, in a Python of its own (other_python.py). All have the same weights and the same
noise with eight squares. Proposals get better in training, and cost more: so steps are timed with random weights and
again after --steps steps on the picture.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import harness
import other_python
import torch
from picture_step import ALONE, DEVICE, RATE, job_of
from torch import Tensor

from airank_fast.engine.state import State
from airank_fast.nn import FrozenBatchNormAct2d

SIDE = 640
OURS = "airank_fast"
PEER = """
import torch
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

made = {}

def call(weights, image, target, rate, channels_last):
    if not made:
        side, as_it_is = len(image[0]), {"image_mean": (0, 0, 0), "image_std": (1, 1, 1)}
        backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=3)
        model = MaskRCNN(backbone, 81, min_size=side, max_size=side, **as_it_is)
        model.load_state_dict(weights)
        if channels_last:
            model.to(memory_format=torch.channels_last)
        trained = [p for p in model.parameters() if p.requires_grad]
        made["model"] = model.train()
        made["optimizer"] = torch.optim.SGD(trained, lr=rate, momentum=0.9, weight_decay=1e-4, fused=True)
    losses = made["model"]([image], [target])
    sum(losses.values()).backward()
    made["optimizer"].step()
    made["optimizer"].zero_grad(set_to_none=True)
    return [torch.stack([loss.detach() for loss in losses.values()]).sum()]
"""


def started(rate: float, steps: int) -> tuple[State, Any, dict[str, Tensor]]:
    """Our state after these steps, the batch, and the weights under torchvision's names."""
    torch.manual_seed(0)
    job = job_of("mask_rcnn", "coco", fused=True, batch_size=1, min_size=SIDE, max_size=SIDE)
    batch = job.warm_up_batch(ALONE, DEVICE, torch.float32)
    state = State(job, ALONE)
    (network,) = state.networks.values()
    for name, module in network.named_modules():
        if isinstance(module, FrozenBatchNormAct2d) and name.endswith("bn3"):
            module.weight.fill_(0.2)  # without statistics to divide by, sixteen sums of branches would overflow
    network.train()
    for _ in range(steps):
        state.step([batch], learning_rate=rate)
    weights = {name: tensor.detach().clone().contiguous() for name, tensor in network.state_dict().items()}
    return state, batch, weights


def target_of(batch: Any) -> dict[str, Tensor]:
    """The objects in torchvision's form; a mask is its box."""
    masks = torch.zeros(len(batch.boxes), SIDE, SIDE, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, batch.boxes.round().long().tolist(), strict=True):
        mask[top:bottom, left:right] = 1
    return {"boxes": batch.boxes, "labels": batch.labels + 1, "masks": masks}


def contestants(steps: int) -> dict[str, Callable]:
    """Steps with the same weights, which hardly change in them."""
    state, batch, weights = started(RATE * 20, steps)
    functions: dict[str, Callable] = {OURS: lambda: state.step([batch], learning_rate=RATE)}
    if (peer := other_python.with_torchvision()) is not None:
        arguments = weights, batch.images[0].contiguous(), target_of(batch), RATE
        for name, channels_last in (("torchvision", False), ("torchvision, channels_last", True)):
            functions[name] = peer.contestant(PEER, *arguments, channels_last)
    return functions


def main() -> None:
    """Time, print; save on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40, help="of training before the late steps")
    parser.add_argument("--late", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--save", action="store_true", help="append to bench/results/mask_rcnn_step.jsonl")
    arguments = parser.parse_args()
    if arguments.save and not harness.wait_until_idle(DEVICE.type):
        parser.exit(1, "the machine is busy: nothing was measured\n")
    for steps in (0, *[arguments.steps] * arguments.late):
        functions = contestants(steps)
        time_rounds = harness.time_rounds
        times = time_rounds(functions, num_rounds=arguments.rounds, device=DEVICE.type, num_warm_up=1, ahead=False)
        when = f"after {steps} steps" if steps else "at the beginning"
        case = f"mask_rcnn coco training step, 1 x 3 x {SIDE} x {SIDE}, {when}, fp32, {DEVICE.type}"
        print(harness.as_text(case, times, OURS), flush=True)
        elsewhere = {name: each.versions for name, each in functions.items() if hasattr(each, "versions")}
        if arguments.save:
            harness.save("mask_rcnn_step", case, times, OURS, versions_elsewhere=elsewhere)


if __name__ == "__main__":
    main()
