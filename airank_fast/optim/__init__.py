"""Optimizers over the fused ops: torch.optim's protocol, one op call per list of parameters."""

from airank_fast.optim.adagrad import FusedAdagrad
from airank_fast.optim.adam import FusedAdam, FusedAdamW
from airank_fast.optim.combined import CombinedOptimizer
from airank_fast.optim.ftrl import FusedFTRL
from airank_fast.optim.lamb import FusedLAMB
from airank_fast.optim.lars import FusedLARS
from airank_fast.optim.sgd import FusedSGD
from airank_fast.optim.sparse_table import SparseAdagrad, SparseAdam, SparseFTRL, SparseRowWiseAdagrad, SparseSGD

__all__ = [
    "CombinedOptimizer",
    "FusedAdagrad",
    "FusedAdam",
    "FusedAdamW",
    "FusedFTRL",
    "FusedLAMB",
    "FusedLARS",
    "FusedSGD",
    "SparseAdagrad",
    "SparseAdam",
    "SparseFTRL",
    "SparseRowWiseAdagrad",
    "SparseSGD",
]
