"""Optimizers over the fused ops: torch.optim's protocol, one op call per list of parameters."""

from airank_fast.optim.lamb import FusedLAMB
from airank_fast.optim.lars import FusedLARS
from airank_fast.optim.sgd import FusedSGD

__all__ = ["FusedLAMB", "FusedLARS", "FusedSGD"]
