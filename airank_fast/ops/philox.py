"""Philox4x32-10 in plain torch, for the references of ops with random numbers: csrc/philox.h."""

from __future__ import annotations

import torch
from torch import Tensor

_LOW = 0xFFFFFFFF


def philox(key: Tensor, stream: Tensor, counter: Tensor) -> Tensor:
    """Four 32-bit numbers for each counter: int64 [*counter.shape, 4].

    Args:
        key, stream: int64 scalars, the key and the upper half of the counter.
        counter: int64, the lower half.
    """
    key0, key1, c2, c3 = key & _LOW, (key >> 32) & _LOW, stream & _LOW, (stream >> 32) & _LOW
    c0, c1 = counter & _LOW, (counter >> 32) & _LOW
    for _ in range(10):
        product0, product1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57  # modulo 2^64
        c0, c1 = ((product1 >> 32) & _LOW) ^ c1 ^ key0, product1 & _LOW
        c2, c3 = ((product0 >> 32) & _LOW) ^ c3 ^ key1, product0 & _LOW
        key0, key1 = (key0 + 0x9E3779B9) & _LOW, (key1 + 0xBB67AE85) & _LOW
    return torch.stack([word.expand_as(counter) for word in (c0, c1, c2, c3)], -1)
