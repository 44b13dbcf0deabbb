"""The settings of text-line recognition: recipes for lines of embedded digits and for a data set of lines.

The digit_lines recipe is for two CPU cores; without clipping, some seeds write blanks alone for epochs. The lines
recipe has the network and the pictures of crnn.pytorch, and batch, rate and optimizer of PaddleOCR's
rec_r34_vd_none_bilstm_ctc; no document states a target.
"""

from __future__ import annotations

import string
from dataclasses import dataclass, replace
from pathlib import Path

from airank_fast.data.text.alphabet import Alphabet, read_alphabet
from airank_fast.errors import require
from airank_fast.recipes.options import Command, CommonRecipe, Request, RunOptions, check_counts
from airank_fast.tasks.ocr import TASK


@dataclass(frozen=True, kw_only=True)
class Recipe(CommonRecipe):
    """See CommonRecipe."""

    init_checkpoint: str | None = None
    """Begin with these weights, of this network for the same alphabet: a checkpoint, or a file of crnn.pytorch's
    names."""
    alphabet: str
    """Characters of the texts. Without capital letters, texts are read and compared in lower case."""
    image_width: int
    """Width to which lines are stretched, in pixels; their height is 32. A quarter of it, and 1, are the steps of the
    network: a longer text cannot be written, and counts as wrong."""
    width: int
    """Channels of the first convolution; the widest have eight times as many."""
    hidden: int
    """Width of the LSTMs, in each direction."""
    epochs: int
    """Train for at most N epochs."""
    warmup_epochs: float
    """Epochs of linear warm-up, before the decay."""
    decay_power: float
    """The learning rate decays to 0 by this power of the remaining steps; 0: it stays."""
    max_grad_norm: float | None
    """Gradients are clipped to this norm, all together; None: as they are."""
    eval_every: int
    """Evaluate every N epochs."""


LINES = Recipe(
    name="lines",
    alphabet=string.digits + string.ascii_lowercase,
    image_width=100,
    width=64,
    hidden=256,
    epochs=72,
    warmup_epochs=0.0,
    decay_power=0.0,
    batch_size=256,
    learning_rate=5e-4,
    max_grad_norm=None,
    eval_every=1,
    eval_batch_size=256,
    target=None,
)
DIGIT_LINES = replace(
    LINES,
    name="digit_lines",
    alphabet=string.digits,
    image_width=64,
    width=8,
    hidden=64,
    epochs=6,
    warmup_epochs=0.5,
    decay_power=1.0,
    batch_size=32,
    learning_rate=6e-3,
    max_grad_norm=1.0,
    eval_batch_size=250,
    target=0.88,
)
RECIPES = {recipe.name: recipe for recipe in (DIGIT_LINES, LINES)}


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    """See RunOptions."""

    data: Path | None = None
    """An LMDB with the keys num-samples, image-000000001, label-000000001, ..., a folder of such, a list of lines PATH
    TAB TEXT, or a folder with one. Default: lines of embedded digits."""
    eval_data: Path | None = None
    """With --data: the same, to evaluate on. Default: one line in ten of --data, which is not trained."""
    alphabet_file: Path | None = None
    """File of the characters of the texts, on one line or on many, in place of --alphabet."""


def defaults(request: Request, world_size: int) -> Recipe:
    """The recipe by data, with the alphabet of a file."""
    options = request.options
    base = RECIPES["digit_lines" if options.data is None else "lines"]
    if options.alphabet_file is None:
        return base
    require("alphabet" not in request.given, "--alphabet-file", "left out with --alphabet", options.alphabet_file)
    return replace(base, alphabet=read_alphabet(options.alphabet_file))


def finish(recipe: Recipe, options: Options) -> Recipe:
    """The recipe, checked."""
    Alphabet(recipe.alphabet)
    check_counts(recipe, ("width", "hidden", "epochs", "eval_every"))
    require(recipe.image_width >= 4, "--image-width", "at least 4 pixels", recipe.image_width)
    require(recipe.decay_power >= 0, "--decay-power", "at least 0", recipe.decay_power)
    norm = recipe.max_grad_norm
    require(norm is None or norm > 0, "--max-grad-norm", "above 0, or None", norm)
    warmup = f"in [0, {recipe.epochs}]"
    require(0 <= recipe.warmup_epochs <= recipe.epochs, "--warmup-epochs", warmup, recipe.warmup_epochs)
    goes_with_data = options.eval_data is None or options.data is not None
    require(goes_with_data, "--eval-data", "left out without --data", options.eval_data)
    require(not options.cuda_graphs, "--cuda-graphs", "left out: batches differ in their texts", "--cuda-graphs")
    return recipe


COMMANDS = {
    "ocr": Command(
        text="Train CRNN to read lines of text, with CTC. Without --data: lines of embedded digits, to their target, "
        "in a minute or two.",
        task=TASK,
        job="airank_fast.recipes.ocr",
        options=Options,
        recipes=RECIPES,
        defaults=defaults,
        finish=finish,
        decides={"alphabet_file": "alphabet"},
    )
}
