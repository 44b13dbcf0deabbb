"""Good arguments of the batch_norm ops, and wrong ones with the message for each."""

from __future__ import annotations

import torch

from airank_fast.ops.batch_norm_act import (
    act_reference,
    backward_reference,
    finish_reference,
    moments_reference,
    statistics_reference,
    sums_reference,
)


def nhwc(*shape, dtype=torch.float32, device="cpu", seed=0, mean=0.0, std=1.0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator, dtype=torch.float64) * std + mean
    return values.to(device, dtype).contiguous(memory_format=torch.channels_last)


X, C4 = nhwc(2, 4, 3, 3), torch.ones(4)
STATISTICS = torch.ones(9)
MASK = torch.zeros(3, 4, dtype=torch.uint8)
WRONG = [
    ("act", {"x": torch.ones(2, 4)}, "x must have the 4 dimensions [N, C, H, W], got shape [2, 4]"),
    ("act", {"x": X.long()}, "x must be float32, float64, bfloat16 or float16, got int64"),
    ("act", {"x": torch.ones(2, 4, 3, 3)}, "x must be channels_last without gaps, got strides [36, 9, 3, 1]"),
    (
        "act",
        {"residual": X[:1]},
        "residual must be float32 of shape [2, 4, 3, 3] on cpu like x, got float32 of shape [1, 4, 3, 3] on cpu",
    ),
    (
        "act",
        {"residual": X.half()},
        "residual must be float32 of shape [2, 4, 3, 3] on cpu like x, got float16 of shape [2, 4, 3, 3] on cpu",
    ),
    (
        "act",
        {"residual": torch.ones(2, 4, 3, 3)},
        "residual must be channels_last without gaps like x, got strides [36, 9, 3, 1]",
    ),
    (
        "act",
        {"weight": C4.half()},
        "weight must be contiguous float32 of shape [4] on cpu, got float16 of shape [4] on cpu",
    ),
    (
        "act",
        {"bias": torch.ones(8)[::2]},
        "bias must be contiguous float32 of shape [4] on cpu, got float32 of shape [4] on cpu with strides [2]",
    ),
    (
        "act",
        {"statistics": C4},
        "statistics must be contiguous float32 of shape [9] on cpu, got float32 of shape [4] on cpu",
    ),
    ("act", {"negative_slope": -1.0}, "negative_slope must be at least 0 and finite, got -1"),
    ("act_sums", {"negative_slope": torch.inf}, "negative_slope must be at least 0 and finite, got inf"),
    ("act_backward", {"negative_slope": torch.nan}, "negative_slope must be at least 0 and finite, got nan"),
    ("act", {"negative_slope": 1.0}, "with_mask must be false without an activation, got true"),
    ("act_backward", {"mask": None}, "with_residual must be false without a mask, got true"),
    (
        "act_sums",
        {"dy": X.double()},
        "dy must be float32 of shape [2, 4, 3, 3] on cpu like x, got float64 of shape [2, 4, 3, 3] on cpu",
    ),
    (
        "act_sums",
        {"mask": MASK[:2]},
        "mask must be contiguous uint8 of shape [3, 4] on cpu, got uint8 of shape [2, 4] on cpu",
    ),
    (
        "act_backward",
        {"x": X[:1]},
        "x must be float32 of shape [2, 4, 3, 3] on cpu like dy, got float32 of shape [1, 4, 3, 3] on cpu",
    ),
    (
        "act_backward",
        {"sums": None},
        "x and sums must be given where the statistics have a count, and only there, got one of them",
    ),
    (
        "act_backward",
        {"statistics": STATISTICS[:-1]},
        "x and sums must be given where the statistics have a count, and only there, got both",
    ),
    (
        "act_backward",
        {"sums": C4},
        "sums must be contiguous float32 of shape [2, 4] on cpu, got float32 of shape [4] on cpu",
    ),
    (
        "statistics_",
        {"running_mean": torch.ones(3)},
        "running_mean must be contiguous float32 of shape [4] on cpu, got float32 of shape [3] on cpu",
    ),
    ("statistics_", {"running_var": None}, "running_mean and running_var must be given together, got one of them"),
    (
        "statistics_",
        {"num_batches_tracked": torch.tensor(0.0)},
        "num_batches_tracked must be contiguous int64 of shape [] on cpu, got float32 of shape [] on cpu",
    ),
    (
        "statistics_",
        {"num_batches_tracked": None, "momentum": None},
        "momentum must be given without num_batches_tracked, got neither",
    ),
    ("moments", {"x": torch.ones(4)}, "x must have the 4 dimensions [N, C, H, W], got shape [4]"),
    (
        "finish_",
        {"moments": torch.ones(2, 8)},
        "moments must be contiguous float32 or float64 of shape "
        "[rows, 2 channels + 1], got float32 of shape [2, 8] on cpu",
    ),
]
GOOD = {
    "act": {
        "x": X,
        "residual": X,
        "weight": C4,
        "bias": C4,
        "statistics": STATISTICS,
        "negative_slope": 0.1,
        "with_mask": True,
    },
    "act_sums": {"dy": X, "x": X, "mask": MASK, "statistics": STATISTICS, "negative_slope": 0.1},
    "act_backward": {
        "dy": X,
        "x": X,
        "mask": MASK,
        "weight": C4,
        "statistics": STATISTICS,
        "sums": torch.ones(2, 4),
        "negative_slope": 0.1,
        "with_residual": True,
    },
    "moments": {"x": X},
}
RUNNING = {"running_mean": C4, "running_var": C4, "num_batches_tracked": torch.tensor(0), "momentum": 0.1, "eps": 1e-5}
GOOD |= {"statistics_": {"x": X} | RUNNING, "finish_": {"moments": torch.ones(2, 9)} | RUNNING}
REFERENCES = {
    "act": act_reference,
    "act_sums": sums_reference,
    "act_backward": backward_reference,
    "moments": moments_reference,
    "statistics_": statistics_reference,
    "finish_": finish_reference,
}
