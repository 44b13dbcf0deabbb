"""FusedAdamW's step against torch.optim.AdamW's on ResNet-50's parameters; bench/optimizers.py describes the cases.

python bench/adam.py [--save] [--no-compile] [--rounds N] [--device cpu|cuda]
"""

from __future__ import annotations

import optimizers
import torch

from airank_fast.optim import FusedAdamW

OPTIONS = {"lr": 1e-4, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
BENCH = optimizers.Bench("adam", FusedAdamW, torch.optim.AdamW, OPTIONS, num_states=2)

if __name__ == "__main__":
    BENCH.run(__doc__)
