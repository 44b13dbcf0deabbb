"""Adam of a network whose tables may have sparse gradients."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from airank_fast.nn import SparseTable, SparseTableBag
from airank_fast.optim import CombinedOptimizer, FusedAdam, SparseAdam


def lazy_adam(
    model: nn.Module,
    params: Iterable[nn.Parameter],
    device: torch.device,
    *,
    epsilon: float,
    betas: tuple[float, float] = (0.9, 0.999),
) -> torch.optim.Optimizer:
    """FusedAdam of these weights of the model, and lazy Adam of those that are its sparse tables.

    The learning rates are tensors on the device, 0 at first.
    """
    params = list(params)
    modules = (module for module in model.modules() if isinstance(module, (SparseTable, SparseTableBag)))
    tables = {id(module.weight) for module in modules if module.sparse}
    sparse, dense = ([p for p in params if (id(p) in tables) == is_table] for is_table in (True, False))
    lr = torch.zeros((), dtype=torch.float32, device=device)
    adam = FusedAdam(dense, lr, betas, epsilon)
    return CombinedOptimizer(SparseAdam(sparse, lr.clone(), betas, epsilon), adam) if sparse else adam
