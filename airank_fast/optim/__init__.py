"""Optimizers over the fused ops: torch.optim's protocol, one op call per list of parameters."""

from airank_fast.optim.sgd import FusedSGD

__all__ = ["FusedSGD"]
