"""FusedSGD's step against torch.optim.SGD's on ResNet-50's parameters; bench/optimizers.py describes cases and peers.

python bench/sgd.py [--save] [--no-compile] [--rounds N] [--device cpu|cuda]
"""

from __future__ import annotations

import optimizers
import torch

from airank_fast.optim import FusedSGD

OPTIONS = {"lr": 1e-4, "momentum": 0.9, "weight_decay": 5e-5}
BENCH = optimizers.Bench("sgd", FusedSGD, torch.optim.SGD, OPTIONS, num_states=1)

if __name__ == "__main__":
    BENCH.run(__doc__)
