"""Darknet's .weights files: reads them into YOLOv3, and writes them.

A file is a header and float32 numbers, little-endian. The header is the version (major, minor, revision as int32) and
the number of pictures seen in training, an int64, or an int32 before version 0.2. For each convolution in the order of
the cfg the biases follow, or the batch norm's biases, scales, means and variances, and then the weights
[out, in, height, width]. A file of the first layers alone, as `darknet partial` makes it (darknet53.conv.74), ends
there.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from airank_fast.errors import UserError, require
from airank_fast.models.yolov3 import Convolution, YOLOv3

_VERSION = struct.Struct("<3i")
_SEEN = struct.Struct("<q"), struct.Struct("<i")  # from version 0.2 on, and before
_WRITTEN = (0, 2, 0)


def read_into(network: YOLOv3, path: Path) -> None:
    """Fill the network, or its backbone alone where the file ends behind that, with the weights of a file.

    UserError for a file that is shorter or longer than either, that has another header, or a number that is not finite.
    """
    where = f"--init-checkpoint {path}"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{where}: must be a readable file of weights, got {error.strerror}") from None
    whole, backbone = (sum(tensor.numel() for tensor in _tensors(part)) for part in (network, network.backbone))
    what = f"a header and {whole} numbers, or {backbone} of the backbone alone"
    require(len(content) >= _VERSION.size, where, what, f"{len(content)} bytes")
    major, minor, revision = _VERSION.unpack_from(content)
    sound = major == 0 and minor in (1, 2)
    require(sound, where, "a .weights file of version 0.1 or 0.2", f"version {major}.{minor}.{revision}")
    start = _VERSION.size + _SEEN[minor < 2].size
    number, rest = divmod(len(content) - start, 4)
    got = f"{number} numbers" + (f" and {rest} bytes" if rest else "")
    require(rest == 0 and number in (whole, backbone), where, what, got)
    numbers = torch.from_numpy(np.frombuffer(content, "<f4", offset=start).astype(np.float32))
    wrong = (~numbers.isfinite()).nonzero()
    if len(wrong):
        place = int(wrong[0])
        raise UserError(f"{where}, number {place + 1}: must be finite, got {numbers[place].item()}")
    with torch.no_grad():
        for tensor in _tensors(network if number == whole else network.backbone):
            part, numbers = numbers.split([tensor.numel(), len(numbers) - tensor.numel()])
            tensor.copy_(part.view(tensor.shape))


def write(network: YOLOv3, path: Path, seen: int, masters: Mapping[Tensor, Tensor] | None = None) -> None:
    """Write the network. UserError where it cannot be written.

    seen: the number of pictures that it was trained on. masters: an optimizer's float32 weights of parameters that are
    in 16 bits.
    """
    tensors = [(masters or {}).get(tensor, tensor) for tensor in _tensors(network)]
    numbers = [tensor.detach().float().cpu().contiguous().numpy().astype("<f4") for tensor in tensors]
    half_done = path.with_name(f".{path.name}.part")
    try:
        with half_done.open("wb") as file:
            file.write(_VERSION.pack(*_WRITTEN) + _SEEN[0].pack(seen))
            file.writelines(part.tobytes() for part in numbers)
        half_done.replace(path)
    except OSError as error:
        raise UserError(f"{path}: must be a file that can be written, got: {error.strerror}") from None


def _tensors(network: nn.Module) -> Iterator[Tensor]:
    """The network's tensors in the order of a file."""
    for module in network.modules():
        if isinstance(module, Convolution):
            norm = module.norm
            statistics = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
            yield from (norm.bias, norm.weight, *statistics, module.conv.weight)
        elif isinstance(module, nn.Conv2d) and module.bias is not None:
            yield from (module.bias, module.weight)
