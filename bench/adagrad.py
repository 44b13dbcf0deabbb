"""FusedAdagrad's step against torch.optim.Adagrad's on ResNet-50's parameters; bench/optimizers.py describes the cases.

python bench/adagrad.py [--save] [--no-compile] [--rounds N] [--device cpu|cuda]
"""

from __future__ import annotations

import optimizers
import torch

from airank_fast.optim import FusedAdagrad

OPTIONS = {"lr": 1e-4, "weight_decay": 1e-5, "eps": 1e-10}
BENCH = optimizers.Bench("adagrad", FusedAdagrad, torch.optim.Adagrad, OPTIONS, num_states=1)

if __name__ == "__main__":
    BENCH.run(__doc__)
