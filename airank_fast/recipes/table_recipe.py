"""What the recipes of networks on tables share: Wide&Deep's and DeepFM's hyper-parameters, options and checks."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from airank_fast.errors import require
from airank_fast.recipes.options import CommonRecipe, Request, RunOptions, check_betas, check_counts, option


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
    sparse: bool = False
    """Adam updates the rows of a batch alone, and others keep their means as they are (lazy Adam); with --no-sparse,
    or --no-fused, it updates whole tables."""
    table_rows: int = 1_000_001
    """With --data: rows of the one table into which all categories are hashed."""
    scaling: Literal["min-max", "log"] = "min-max"
    """With --data: of the numbers, by the constants of AI-Rank's and PaddleRec's readers, or log(1 + x)."""
    held_out: float = 0.04
    """With --data: share of the rows that are held out, the last ones."""

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
FLIGHTS: dict[str, Any] = {**ADULT, "name": "flights", "epochs": 2, "target": 0.77}
"""The recipe of large tables of ids, which a model learns by heart from its third epoch on."""
AIRANK: dict[str, Any] = {
    "name": "airank",
    "batch_size": 1000,
    "epochs": 5,
    "learning_rate": 1e-4,
    "embedding_dim": 10,
    "hidden": "400-400-400",
    "eval_batch_size": 10_000,
    "sparse": True,
}
"""Criteo in the sizes of AI-Rank's own runs of both tasks, which trained on 44 million rows: 96 % of them."""
PADDLEREC: dict[str, Any] = {
    **AIRANK,
    "name": "paddlerec",
    "batch_size": 512,
    "learning_rate": 1e-3,
    "embedding_dim": 9,
}
"""Criteo in the sizes of PaddleRec's runs on all data."""
_STATE_BYTES = 12  # of a weight: itself and Adam's two means, float32


@dataclass(frozen=True, kw_only=True)
class TableOptions(RunOptions):
    """See RunOptions."""

    data: Path | None = None
    """Directory of Criteo's click logs that `python -m airank_fast.prepare criteo` made. Default: UCI Adult, which
    comes with the package."""
    sizes: Literal["airank", "paddlerec"] | None = None
    """With --data: whose network and hyper-parameters; default: airank."""


def defaults(request: Request, recipes: Mapping[str, Any]) -> Any:
    """The recipe by data and sizes."""
    options = request.options
    if options.data is None:
        require(options.sizes is None, "--sizes", "left out without --data", options.sizes)
        return recipes["adult"]
    return recipes[options.sizes or "airank"]


def check(recipe: TableRecipe, options: TableOptions) -> None:
    """UserError for a value out of range, or an option that these tasks lack."""
    what = "left out with --no-fused, as torch's Adam reads its learning rate on the host"
    require(recipe.fused or not options.cuda_graphs, "--cuda-graphs", what, "both options")
    what = "left out with sparse tables, whose update waits for the device (--no-sparse)"
    require(not (recipe.sparse and options.cuda_graphs), "--cuda-graphs", what, "the option")
    what = "left out, as `airank_fast.prepare criteo` has this option"
    require(not options.skip_corrupt, "--skip-corrupt", what, "the option")
    check_counts(recipe, ("epochs", "embedding_dim", "table_rows"))
    sound = re.fullmatch(r"[1-9]\d*(-[1-9]\d*)*", recipe.hidden, re.ASCII)
    require(sound, "--hidden", "widths of at least 1, as 400-400-400", repr(recipe.hidden))
    require(recipe.embedding_std >= 0, "--embedding-std", "at least 0", recipe.embedding_std)
    check_betas(recipe)
    require(recipe.epsilon > 0, "--epsilon", "above 0", recipe.epsilon)
    if recipe.name in (ADULT["name"], FLIGHTS["name"]):
        require(options.data is None, "--data", f"left out of a run of {recipe.name}", options.data)
        for field in fields(TableRecipe):
            if field.name in ("table_rows", "scaling", "held_out"):
                value = getattr(recipe, field.name)
                require(value == field.default, option(field.name), "left out without --data", value)
    else:
        require(options.data is not None, "--data", f"the data set of a run of {recipe.name}", "none")
        require(0 < recipe.held_out < 1, "--held-out", "in (0, 1)", recipe.held_out)
        _check_memory(recipe)


def _check_memory(recipe: TableRecipe) -> None:
    """UserError for a table that cannot be trained in the memory of this machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    row = _STATE_BYTES * recipe.embedding_dim
    most = min(memory // row, 2**31 - 1)
    reason = f"as a row takes {row} bytes with Adam's state, and memory has {memory / 2**30:.1f} GiB"
    require(recipe.table_rows <= most, "--table-rows", f"at most {most:,}, {reason}", f"{recipe.table_rows:,}")
