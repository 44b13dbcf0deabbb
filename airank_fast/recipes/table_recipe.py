"""What the recipes of networks on tables share: Wide&Deep's and DeepFM's hyper-parameters, options and checks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airank_fast.errors import require
from airank_fast.recipes.options import CommonRecipe, RunOptions, check_counts


@dataclass(frozen=True, kw_only=True)
class TableRecipe(CommonRecipe):
    """See CommonRecipe."""

    epochs: int
    """Train for at most N epochs."""
    embedding_dim: int
    """Length of a category's embedding."""
    embedding_std: float
    """Standard deviation of the initial embeddings."""
    hidden: str
    """Widths of the hidden layers, as 400-400-400."""
    beta1: float = 0.9
    """Adam's decay of the mean of gradients."""
    beta2: float = 0.999
    """Adam's decay of the mean of their squares."""
    epsilon: float = 1e-8
    """Adam's addend to the root of that mean."""

    @property
    def widths(self) -> list[int]:
        """The widths of the hidden layers."""
        return [int(width) for width in self.hidden.split("-")]


ADULT: dict[str, Any] = {
    "name": "adult",
    "batch_size": 256,
    "epochs": 6,
    "learning_rate": 1e-3,
    "embedding_dim": 8,
    "embedding_std": 0.01,
    "hidden": "256-128",
    "eval_batch_size": 4096,
    "target": 0.928,
}
"""Both tasks' recipe for UCI Adult."""


@dataclass(frozen=True, kw_only=True)
class TableOptions(RunOptions):
    """See RunOptions."""

    data: Path | None = None
    """Not available yet; the default, and the only data set so far, is UCI Adult, which comes with the package."""


def check(recipe: TableRecipe, options: TableOptions) -> None:
    """UserError for a value out of range, or an option that these tasks lack."""
    require(options.data is None, "--data", "left out, as UCI Adult is the only data set so far", options.data)
    what = "left out with --no-fused, as torch's Adam reads its learning rate on the host"
    require(recipe.fused or not options.cuda_graphs, "--cuda-graphs", what, "both options")
    check_counts(recipe, ("epochs", "embedding_dim"))
    sound = re.fullmatch(r"[1-9]\d*(-[1-9]\d*)*", recipe.hidden, re.ASCII)
    require(sound, "--hidden", "widths of at least 1, as 400-400-400", repr(recipe.hidden))
    require(recipe.embedding_std >= 0, "--embedding-std", "at least 0", recipe.embedding_std)
    for name in ("beta1", "beta2"):
        require(0 <= getattr(recipe, name) < 1, f"--{name}", "in [0, 1)", getattr(recipe, name))
    require(recipe.epsilon > 0, "--epsilon", "above 0", recipe.epsilon)
