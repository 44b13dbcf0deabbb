"""TSM: a ResNet over the frames of clips, whose blocks shift some channels to the next and the previous frame.

Parameter names are those of mit-han-lab/temporal-shift-module without DataParallel's prefix "module.", so that its
checkpoints load with `load_state_dict`: base_model.layer1.0.conv1.net.weight, new_fc.weight. Architecture: Lin, Gan and
Han, "TSM: Temporal Shift Module for Efficient Video Understanding", 2018, the residual shift of 1/8 of the channels
each way ("blockres"), over torchvision's ResNet-50.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from airank_fast.models.resnet import Bottleneck, ResNet
from airank_fast.nn import TemporalShift

RESNET50 = (3, 4, 6, 3)


class PlainTemporalShift(nn.Module):
    """`TemporalShift` in torch's own operators: the reference implementation's assignments into zeros."""

    def __init__(self, net: nn.Module, num_segments: int, fold_div: int) -> None:
        super().__init__()
        self.net, self.num_segments, self.fold_div = net, num_segments, fold_div

    def forward(self, x: Tensor) -> Tensor:
        clips = x.unflatten(0, (-1, self.num_segments))
        fold, shifted = x.shape[1] // self.fold_div, torch.zeros_like(clips)
        shifted[:, :-1, :fold] = clips[:, 1:, :fold]
        shifted[:, 1:, fold : 2 * fold] = clips[:, :-1, fold : 2 * fold]
        shifted[:, :, 2 * fold :] = clips[:, :, 2 * fold :]
        return self.net(shifted.flatten(0, 1))


class TSM(nn.Module):
    """A bottleneck ResNet whose blocks begin with a temporal shift; the mean of its frames' logits is the clip's.

    Args:
        num_classes: width of the last layer.
        num_segments: frames of a clip, T.
        blocks, base_width, fused: the ResNet's; see `ResNet`.
        dropout: share of the features that is dropped before the last layer, in training.
        shift_div: one in so many channels comes from the next frame, and one from the previous one.
        shift: without it every frame is judged by itself.

    Input: float ``[N * T, 3, H, W]``, the frames of a clip one behind the other, fastest in channels_last.
    Output: logits ``[N, num_classes]``.
    """

    def __init__(
        self,
        num_classes: int = 400,
        *,
        num_segments: int = 8,
        blocks: tuple[int, int, int, int] = RESNET50,
        base_width: int = 64,
        dropout: float = 0.5,
        shift_div: int = 8,
        shift: bool = True,
        fused: bool = True,
    ) -> None:
        super().__init__()
        self.num_segments = num_segments
        self.base_model = ResNet(blocks, num_classes, base_width=base_width, fused=fused)
        self.new_fc = nn.Linear(self.base_model.fc.in_features, num_classes)
        nn.init.normal_(self.new_fc.weight, std=0.001)
        nn.init.zeros_(self.new_fc.bias)
        self.base_model.fc = nn.Dropout(dropout)
        temporal_shift = TemporalShift if fused else PlainTemporalShift
        for module in self.modules():
            if shift and isinstance(module, Bottleneck):
                module.conv1 = temporal_shift(module.conv1, num_segments, shift_div)

    def from_resnet(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """This network's state of that of a ResNet under torchvision's names, whose last layer, if any, is left out.

        Weights under other names are returned as they are.
        """
        if "conv1.weight" not in weights:
            return weights
        own = self.state_dict()
        found = {name: tensor for name, tensor in own.items() if name.startswith("new_fc.")}
        for name, tensor in weights.items():
            shifted = f"base_model.{name.replace('.conv1.', '.conv1.net.')}"
            if not name.startswith("fc."):
                found[shifted if shifted in own else f"base_model.{name}"] = tensor
        return found

    def forward(self, frames: Tensor) -> Tensor:
        logits = self.new_fc(self.base_model(frames))
        return logits.unflatten(0, (-1, self.num_segments)).mean(1)
