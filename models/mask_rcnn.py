"""Mask R-CNN: a ResNet with a feature pyramid, region proposals, and heads for classes, boxes and masks.

He et al., "Mask R-CNN", 2017. Parameters have the names and shapes of torchvision's ``maskrcnn_resnet50_fpn``, with the
nesting of version 0.13 (``inner_blocks.0.0.weight``) or older (``inner_blocks.0.weight``, as in its file of COCO
weights), so that checkpoints load with ``load_state_dict``.
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn

from airank_fast.models.feature_pyramid import PyramidBackbone
from airank_fast.models.resnet import BasicBlock, Bottleneck, ResNet
from airank_fast.models.roi_heads import Detections, RoIHeads, RoIOptions
from airank_fast.models.rpn import RPN, RPNOptions, Truths
from airank_fast.nn import FrozenBatchNormAct2d, freeze_batch_norm

_FROZEN_FIRST = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")  # parts of the backbone
_FLAT = re.compile(
    r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d+|rpn\.head\.conv|roi_heads\.mask_head\.mask_fcn\d+)\.(weight|bias)"
)


class MaskRCNN(nn.Module):
    """torchvision's ``maskrcnn_resnet50_fpn``, by default; smaller with other arguments.

    Args:
        num_classes: with the background, which is class 0; 91 for torchvision's COCO weights.
        block, blocks, base_width: of the backbone; see `ResNet`.
        channels: of the feature pyramid.
        box_width: of the box head's hidden layers.
        mask_widths: channels of the mask head's convolutions.
        rpn, roi: the constants of proposals and heads.
        frozen_stages: parts of the backbone that are not trained: 0 none, 1 the first convolution, 2 also the first
            stage (torchvision's and detectron2's choice with weights of ImageNet), and so on to 5.
        frozen_norm_eps: the backbone's batch norms are frozen, with this eps: 1e-5 with weights of ImageNet, 0 with
            torchvision's COCO weights, which were trained so. None leaves them to be trained, as without such weights.
        fused: use airank_fast.nn's batch norms and convolutions; without, the backbone in torch's own.

    Raises:
        ValueError: frozen_stages out of range.
    """

    def __init__(
        self,
        num_classes: int = 91,
        *,
        block: type[BasicBlock | Bottleneck] = Bottleneck,
        blocks: tuple[int, int, int, int] = (3, 4, 6, 3),
        base_width: int = 64,
        channels: int = 256,
        box_width: int = 1024,
        mask_widths: tuple[int, ...] = (256, 256, 256, 256),
        rpn: RPNOptions = RPNOptions(),  # noqa: B008 - constants
        roi: RoIOptions = RoIOptions(),  # noqa: B008
        frozen_stages: int = 2,
        frozen_norm_eps: float | None = 1e-5,
        fused: bool = True,
    ) -> None:
        super().__init__()
        if not 0 <= frozen_stages <= 5:
            raise ValueError(f"MaskRCNN: frozen_stages must be from 0 to 5, got {frozen_stages}")
        body = ResNet(blocks, None, block=block, base_width=base_width, fused=fused)
        if frozen_norm_eps is not None:
            freeze_batch_norm(body)
            for module in body.modules():
                if isinstance(module, FrozenBatchNormAct2d):
                    module.eps = frozen_norm_eps
        for name in _FROZEN_FIRST[: frozen_stages + 1] if frozen_stages else ():
            body.get_submodule(name).requires_grad_(False)
        self.backbone = PyramidBackbone(body, channels, fused=fused)
        self.rpn = RPN(channels, rpn, fused=fused)
        self.roi_heads = RoIHeads(channels, num_classes, box_width, mask_widths, roi, fused=fused)
        self.register_load_state_dict_pre_hook(_nest)

    def forward(self, images: Tensor, sizes: Tensor, truths: Truths | None = None) -> dict[str, Tensor] | Detections:
        """The losses where there are truths, the detections where there are none.

        In training nothing waits for the device, and apart from objects per picture all shapes are fixed.

        Args:
            images: float [N, 3, H, W], normalised; fastest in channels_last, with H and W multiples of 32.
            sizes: float32 [N, 2], height and width of the part of each image that its picture fills, from the top left.
            truths: the objects of the pictures.

        Returns:
            float32 scalars "objectness", "rpn_box", "classifier", "box" and "mask", torchvision's five losses, whose
            sum is the loss; or `Detections`.
        """
        levels = self.backbone(images)
        proposals, losses = self.rpn(images, levels, sizes, truths)
        if truths is None:
            return self.roi_heads.detections(levels, proposals, sizes)
        return losses | self.roi_heads.losses(levels, proposals, truths)


def _nest(module: MaskRCNN, state: dict[str, Any], prefix: str, *_: object) -> None:
    """torchvision's names since version 0.13, of older ones."""
    for name in [name for name in state if name.startswith(prefix)]:
        if found := _FLAT.fullmatch(name.removeprefix(prefix)):
            path, kind = found.groups()
            nested = re.sub(r"mask_fcn(\d+)$", lambda number: str(int(number[1]) - 1), path)
            inner = "0.0" if path == "rpn.head.conv" else "0"
            state[f"{prefix}{nested}.{inner}.{kind}"] = state.pop(name)
