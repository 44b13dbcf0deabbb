"""The settings of DSSM: recipes for Python's own library and for a file of pairs, and the command's options.

The code_search recipe reaches its target on two CPU cores; docs/dssm.md has the lexical baseline. No document states
a target for DSSM on the BQ corpus, so that the pairs recipe has none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from airank_fast.errors import require
from airank_fast.recipes.options import Command, CommonRecipe, Request, RunOptions, check_counts, option
from airank_fast.tasks.dssm import TASK

MOST_NEGATIVES = 24  # airank_fast.data.text.query_pairs.MOST_NEGATIVES, which needs numpy


@dataclass(frozen=True, kw_only=True)
class Recipe(CommonRecipe):
    """See CommonRecipe."""

    buckets: int
    """Rows of the table into which letter trigrams are hashed."""
    width: int
    """Width of the table's rows, of the layers and of the vectors."""
    layers: int
    """Layers of a tower above its table."""
    shared: bool
    """Queries and documents go through one tower; --no-shared: through two, which begin as equals."""
    dropout: float
    """Share of a text's trigrams that is dropped in training."""
    scale: float
    """Factor on the cosines in the softmax."""
    negatives: int
    """Sampled documents in a query's softmax, beside its own: of those that the file has with label 0 for the query,
    else of all that do not match it. 0: the documents of the other queries of its group in the batch."""
    candidates: int
    """With --negatives 0: queries in a group. A divisor of the micro-batch of a rank; by default at most that."""
    sparse: bool
    """Adam updates the rows of a batch alone, and others keep their means as they are (lazy Adam); with --no-sparse,
    as with --no-fused, every step updates the whole table."""
    epsilon: float
    """Adam's addend to the root of the mean of squares: a larger one slows down the rows of rare trigrams."""
    epochs: int
    """Train for at most N epochs."""
    warmup_epochs: float
    """Epochs of linear warm-up, before a linear decay to 0."""
    eval_every: int
    """Evaluate every N epochs."""


CODE_SEARCH = Recipe(
    name="code_search",
    buckets=20_000,
    width=512,
    layers=2,
    shared=True,
    dropout=0.3,
    scale=15.0,
    negatives=0,
    candidates=256,
    sparse=True,
    epsilon=1e-8,
    epochs=4,
    warmup_epochs=0.5,
    batch_size=256,
    learning_rate=1e-3,
    eval_every=1,
    eval_batch_size=256,
    target=0.971,
)
RECIPES = {
    recipe.name: recipe
    for recipe in (
        CODE_SEARCH,
        replace(CODE_SEARCH, name="pairs", negatives=1, batch_size=128, candidates=128, epochs=5, target=None),
    )
}


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    """See RunOptions."""

    data: Path | None = None
    """File of lines QUERY TAB DOCUMENT TAB LABEL (1: they match, 0: not), in UTF-8, as the BQ corpus has them.
    Default: docstrings and functions of Python's own library."""
    eval_data: Path | None = None
    """With --data: file of such lines to evaluate on. Default: the lines of one query in ten, which are not trained."""


def defaults(request: Request, world_size: int) -> Recipe:
    """The recipe by data, with groups of at most the micro-batch of a rank."""
    base, given = RECIPES["code_search" if request.options.data is None else "pairs"], request.recipe
    batch_size = given.batch_size if "batch_size" in request.given else base.batch_size
    local = batch_size // max(1, world_size * given.gradient_accumulation_steps)
    return replace(base, candidates=min(base.candidates, local)) if local > 0 else base


def finish(recipe: Recipe, options: Options) -> Recipe:
    """The recipe, checked."""
    check_counts(recipe, ("buckets", "width", "layers", "candidates", "epochs", "eval_every"))
    require(0 <= recipe.dropout < 1, "--dropout", "in [0, 1)", recipe.dropout)
    for name in ("scale", "epsilon"):
        require(getattr(recipe, name) > 0, option(name), "above 0", getattr(recipe, name))
    require(0 <= recipe.negatives <= MOST_NEGATIVES, "--negatives", f"in [0, {MOST_NEGATIVES}]", recipe.negatives)
    require(recipe.negatives or recipe.candidates > 1, "--candidates", "at least 2", recipe.candidates)
    warmup = f"in [0, {recipe.epochs}]"
    require(0 <= recipe.warmup_epochs <= recipe.epochs, "--warmup-epochs", warmup, recipe.warmup_epochs)
    for name in ("eval_data", "skip_corrupt"):
        wrong = getattr(options, name) and options.data is None
        require(not wrong, option(name), "left out without --data", getattr(options, name))
    require(
        not options.cuda_graphs,
        "--cuda-graphs",
        "left out: batches differ in their number of trigrams",
        "--cuda-graphs",
    )
    return recipe


COMMANDS = {
    "dssm": Command(
        text="Train DSSM, two towers over letter trigrams. Without --data: to find functions of Python's own library "
        "by their docstrings, in a minute or two.",
        task=TASK,
        job="airank_fast.recipes.dssm",
        options=Options,
        recipes=RECIPES,
        defaults=defaults,
        finish=finish,
    )
}
