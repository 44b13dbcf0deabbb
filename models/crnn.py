"""CRNN: convolutions over a line of text, two LSTMs along it, and at each step the classes of CTC.

Shi, Bai and Yao, "An End-to-End Trainable Neural Network for Image-based Sequence Recognition", 2015. Parameter names
and shapes are those of meijieru/crnn.pytorch, so that its checkpoints load with ``load_state_dict``; class 0 is CTC's
blank, as there.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from airank_fast.models.resnet import PlainBatchNormAct2d
from airank_fast.nn import BatchNormAct2d, PatchConv2d

HEIGHT = 32  # of a line, in pixels
CHANNELS = (1, 2, 4, 4, 8, 8, 8)  # of the convolutions, as multiples of the first one's
NORMALISED = (2, 4, 6)  # convolutions with a batch norm behind
POOLING = {  # behind convolutions 0, 1, 3, 5: kernel, stride, padding
    0: (2, 2, 0),
    1: (2, 2, 0),
    3: ((2, 2), (2, 1), (0, 1)),
    5: ((2, 2), (2, 1), (0, 1)),
}


def num_steps(width: int) -> int:
    """Steps of the output for a picture of this width: 26 for 100 pixels."""
    return width // 4 + 1


class BidirectionalLSTM(nn.Module):
    """An LSTM in both directions and a linear layer over their outputs: [T, b, inputs] -> [T, b, outputs]."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.rnn = nn.LSTM(inputs, hidden, bidirectional=True)
        self.embedding = nn.Linear(2 * hidden, outputs)
        # torch's own initial weights shrink the features from layer to layer: CTC writes blanks alone for epochs.
        for name, parameter in self.rnn.named_parameters():
            for of_gate in parameter.detach().chunk(4):
                if name.startswith("weight"):
                    (nn.init.xavier_uniform_ if "_ih_" in name else nn.init.orthogonal_)(of_gate)
                else:
                    nn.init.zeros_(of_gate)
        nn.init.xavier_uniform_(self.embedding.weight)
        nn.init.zeros_(self.embedding.bias)

    def forward(self, x: Tensor) -> Tensor:
        """In the dtype of the linear layer; the LSTM computes in that of its weights, also under autocast."""
        with torch.autocast(x.device.type, enabled=False):  # oneDNN has no LSTM in 16 bits on every processor
            outputs, _ = self.rnn(x.to(self.rnn.weight_hh_l0.dtype))
        return self.embedding(outputs.to(self.embedding.weight.dtype))


class CRNN(nn.Module):
    """Input: float [b, in_channels, 32, W], W at least 4. Output: logits [T, b, num_classes], with T = W // 4 + 1.

    The biases in front of batch norms are kept for checkpoints, and are not trained.

    Args:
        num_classes: with the blank; 37 in crnn.pytorch.
        width: channels of the first convolution; the widest have eight times as many.
        hidden: width of the LSTMs, in each direction.
        fused: use airank_fast.nn's convolutions and batch norm, and pool before the ReLU, which is the same; without,
            torch's own.
    """

    def __init__(
        self, num_classes: int, *, in_channels: int = 1, width: int = 64, hidden: int = 256, fused: bool = True
    ) -> None:
        super().__init__()
        batch_norm_act = BatchNormAct2d if fused else PlainBatchNormAct2d
        self.cnn = nn.Sequential()
        for index, factor in enumerate(CHANNELS):
            out_channels = factor * width
            kernel, padding = (2, 0) if index == len(CHANNELS) - 1 else (3, 1)
            convolution = (PatchConv2d if fused else nn.Conv2d)(in_channels, out_channels, kernel, 1, padding)
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            nn.init.zeros_(convolution.bias)
            self.cnn.add_module(f"conv{index}", convolution)
            behind: list[tuple[str, nn.Module]] = [(f"relu{index}", nn.ReLU(inplace=True))]
            if index in NORMALISED:
                # The batch norm takes a constant out again: Adam would make steps of its gradient's rounding errors.
                convolution.bias.requires_grad_(False)
                behind = [(f"batchnorm{index}", batch_norm_act(out_channels, relu=True))]
            if index in POOLING:
                behind.append((f"pooling{index}", nn.MaxPool2d(*POOLING[index])))
            for name, module in reversed(behind) if fused else behind:  # pooled first, a ReLU has fewer pixels
                self.cnn.add_module(name, module)
            in_channels = out_channels
        self.rnn = nn.Sequential(
            BidirectionalLSTM(in_channels, hidden, hidden), BidirectionalLSTM(hidden, hidden, num_classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        features = self.cnn(images)
        assert features.shape[2] == 1, f"images must be {HEIGHT} pixels high, got {images.shape[2]}"
        return self.rnn(features.squeeze(2).permute(2, 0, 1))


def best_path(logits: Tensor) -> Tensor:
    """CTC's best path of logits [T, b, classes]: int64 [b, T], the class that each step writes, 0 where it writes none.

    A step writes the class of its largest logit, unless that is the blank, 0, or the class of the step before.
    """
    path = logits.argmax(2).T
    repeats = torch.zeros_like(path, dtype=torch.bool)
    repeats[:, 1:] = path[:, 1:] == path[:, :-1]
    return path.masked_fill(repeats, 0)
