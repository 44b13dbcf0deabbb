"""A training step of Mask R-CNN, ResNet-50 and FPN, against torchvision's, early and late in a run.

    python bench/mask_rcnn_step.py [--save] [--rounds N] [--steps N] [--no-late]

On a CPU one picture of 640 x 640 in fp32; on a GPU, in bf16, 16 of 1,024 x 1,024, about the pixels of 800 x 1,333, as
of which FlagPerf states 25.2 images/s on one A100, NVIDIA's DeepLearningExamples 24 in mixed precision, and detectron2
61 on eight V100.

airank_fast is the engine's step of the coco recipe; torchvision's is a plain loop of its MaskRCNN with torch's fused
SGD, contiguous and in channels_last, on a CPU in a Python of its own (other_python.py), in bf16 under autocast. All
have the same weights and the same noise with eight squares. Proposals get better in training, and cost more: steps are
timed with random weights, and again after --steps steps on the picture. Each result has the number of regions that the
mask head saw, of at most 128 a picture.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import harness
import other_python
import torch
from picture_step import ALONE, DEVICE, RATE, job_of
from torch import Tensor

from airank_fast.engine.state import State
from airank_fast.nn import FrozenBatchNormAct2d

ON_GPU = DEVICE.type == "cuda"
SIDE, BATCH, PRECISION = (1024, 16, "bf16") if ON_GPU else (640, 1, "fp32")
OURS = "airank_fast"
PEER = """
import torch
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

made = {}

def call(weights, images, targets, rate, precision, channels_last):
    device = images.device
    if not made:
        side, as_it_is = images.shape[2], {"image_mean": (0, 0, 0), "image_std": (1, 1, 1)}
        backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=3)
        model = MaskRCNN(backbone, 81, min_size=side, max_size=side, **as_it_is)
        model.load_state_dict(weights)
        model.to(device)
        if channels_last:
            model.to(memory_format=torch.channels_last)
        trained = [p for p in model.parameters() if p.requires_grad]
        made["model"] = model.train()
        made["optimizer"] = torch.optim.SGD(trained, lr=rate, momentum=0.9, weight_decay=1e-4, fused=True)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        losses = made["model"](list(images), targets)
        loss = sum(losses.values())
    loss.backward()
    made["optimizer"].step()
    made["optimizer"].zero_grad(set_to_none=True)
    return [loss.detach()]
"""


class Training:
    """The engine's training on one batch; its weights under torchvision's names."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        sizes = {"batch_size": BATCH, "min_size": SIDE, "max_size": SIDE}
        self.job = job_of("mask_rcnn", "coco", fused=True, precision=PRECISION, **sizes)
        self.batch = self.job.warm_up_batch(ALONE, DEVICE, torch.float32)
        self.state = State(self.job, ALONE)
        (self.network,) = self.state.networks.values()
        for name, module in self.network.named_modules():
            if isinstance(module, FrozenBatchNormAct2d) and name.endswith("bn3"):
                module.weight.fill_(0.2)  # without statistics to divide by, sixteen sums of branches would overflow
        self.network.train()
        self.own_batch = replace(self.batch, images=self.batch.images.to(self.state.dtype))

    def step(self, rate: float = RATE) -> None:
        """One step."""
        self.state.step([self.own_batch], learning_rate=rate)

    def weights(self) -> dict[str, Tensor]:
        """In float32, contiguous; a copy."""
        found = self.network.state_dict()
        return {name: tensor.detach().float().clone().contiguous() for name, tensor in found.items()}

    def regions_with_masks(self) -> int:
        """The regions of a picture that lie on an object, which the mask head sees, on the mean."""
        counted, heads = [], self.network.roi_heads
        plain = heads.sampled

        def sampled(*arguments: Any) -> Any:
            found = plain(*arguments)
            counted.append(int(found[2].positive.sum()))
            return found

        heads.sampled = sampled
        with torch.no_grad(), self.state.autocast():
            self.job.loss(self.network, self.own_batch)
        del heads.sampled
        return round(sum(counted) / BATCH)


def targets_of(batch: Any) -> list[dict[str, Tensor]]:
    """The objects of each picture in torchvision's form; a mask is its box."""
    targets = []
    for boxes, labels in zip(batch.boxes.split(batch.splits), batch.labels.split(batch.splits), strict=True):
        masks = torch.zeros(len(boxes), SIDE, SIDE, dtype=torch.uint8, device=boxes.device)
        for mask, (left, top, right, bottom) in zip(masks, boxes.round().long().tolist(), strict=True):
            mask[top:bottom, left:right] = 1
        targets.append({"boxes": boxes, "labels": labels + 1, "masks": masks})
    return targets


def contestants(training: Training) -> dict[str, Callable]:
    """Steps with the same weights, which hardly change in them."""
    functions: dict[str, Callable] = {OURS: training.step}
    if (peer := other_python.with_torchvision(DEVICE.type)) is not None:
        images = training.batch.images.contiguous()
        arguments = training.weights(), images, targets_of(training.batch), RATE, PRECISION
        for name, channels_last in (("torchvision", False), ("torchvision, channels_last", True)):
            functions[name] = peer.contestant(PEER, *arguments, channels_last)
    return functions


def time_steps(training: Training, when: str, arguments: argparse.Namespace) -> None:
    """Time and print one case; save it on request."""
    functions = contestants(training)
    num_regions = training.regions_with_masks()
    times = harness.time_rounds(functions, num_rounds=arguments.rounds, device=DEVICE.type, num_warm_up=1, ahead=False)
    shape = f"{BATCH} x 3 x {SIDE} x {SIDE}"
    case = f"mask_rcnn coco training step, {shape}, {when}, {PRECISION}, {DEVICE.type}"
    print(harness.as_text(case, times, OURS), flush=True)
    print(f"  the mask head sees {num_regions} regions a picture")
    if arguments.save:
        elsewhere = {name: each.versions for name, each in functions.items() if hasattr(each, "versions")}
        facts = {"versions_elsewhere": elsewhere, "regions_with_masks": num_regions}
        if ON_GPU:
            facts["images_per_s"] = {who: BATCH / harness.timing(values).median_s for who, values in times.items()}
        harness.save("mask_rcnn_step", case, times, OURS, **facts)


def main() -> None:
    """Time, print; save on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15 if ON_GPU else 3)
    parser.add_argument("--steps", type=int, default=20, help="of training before the late steps")
    parser.add_argument("--late", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--save", action="store_true", help="append to bench/results/mask_rcnn_step.jsonl")
    arguments = parser.parse_args()
    if arguments.save and not harness.wait_until_idle(DEVICE.type):
        parser.exit(1, "the machine is busy: nothing was measured\n")
    training = Training()
    time_steps(training, "at the beginning", arguments)
    if arguments.late:
        for _ in range(arguments.steps):
            training.step(RATE * 20)
        time_steps(training, f"after {arguments.steps} steps", arguments)


if __name__ == "__main__":
    main()
