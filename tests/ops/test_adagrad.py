"""airank_fast::adagrad_ by the tests of the adaptive optimizers."""

from __future__ import annotations

from typing import ClassVar

import torch
from ops.adaptive import AdaptiveTests

from airank_fast.ops import adagrad_
from airank_fast.ops.adagrad import adagrad_reference


class TestAdagrad(AdaptiveTests):
    name = "adagrad"
    options: ClassVar = {
        "plain": {},
        "decay": {"weight_decay": 0.1},
        "decaying rate": {"lr_decay": 0.5, "eps": 1e-3},
        "maximize": {"maximize": True, "weight_decay": 0.1},
    }
    states: ClassVar = {"sums": "sum"}
    squares = ("sums",)
    torchs = torch.optim.Adagrad
    step = staticmethod(adagrad_)
    reference = staticmethod(adagrad_reference)
