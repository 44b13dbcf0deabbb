"""The settings of Word2Vec: recipes for WordNet's glosses and the One Billion Word corpus, and the command's options.

The glosses recipe reaches its target on two CPU cores; docs/word2vec.md has its figures. The one_billion_word recipe
has the sizes and the target of AI-Rank, and word2vec.c's learning rate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from airank_fast.errors import require
from airank_fast.recipes.options import Command, CommonRecipe, Request, RunOptions, check_counts
from airank_fast.tasks.word2vec import TASK


@dataclass(frozen=True, kw_only=True)
class Recipe(CommonRecipe):
    """See CommonRecipe. A sample is a sentence."""

    vocab_size: int
    """Rows of the tables: the vocabulary has that many words at most, the most frequent ones."""
    min_count: int
    """Words with fewer occurrences are left out of the text."""
    lowercase: bool
    """Words in lower case; --no-lowercase: as the text has them."""
    dim: int
    """Width of the vectors."""
    window: int
    """Words on each side of a word that predict it, at most: each time a number from 1 to this is drawn."""
    negatives: int
    """Random words that a word must score below its context, drawn by their count to the power of 0.75."""
    sample: float
    """Sub-sampling: words above this share of the text are dropped at random, by word2vec.c's formula; 0: none."""
    threads: int
    """Parts of a micro-batch that are trained at the same time, from the same weights; their changes are added up.
    The result depends on this number. 0: two; on a GPU one for each of its multiprocessors, and --unlocked."""
    unlocked: bool
    """The threads share one copy of the weights, without locks: faster, but no two runs are the same."""
    restrict_vocab: int
    """Most frequent words that count for usual_accuracy; word2vec.c and gensim have the same setting."""
    epochs: int
    """Train for at most N epochs. The learning rate falls linearly over their words, to a ten-thousandth."""
    eval_every: int
    """Evaluate every N epochs."""


GLOSSES = Recipe(
    name="glosses",
    vocab_size=13_412,
    min_count=5,
    lowercase=True,
    dim=100,
    window=3,
    negatives=10,
    sample=1e-4,
    threads=0,
    unlocked=False,
    restrict_vocab=300_000,
    epochs=20,
    batch_size=4096,
    learning_rate=0.025,
    eval_every=1,
    eval_batch_size=512,
    target={"family_accuracy": 0.45, "usual_accuracy": 0.07},
)
RECIPES = {
    recipe.name: recipe
    for recipe in (
        GLOSSES,
        replace(
            GLOSSES,
            name="one_billion_word",
            vocab_size=354_051,
            min_count=6,
            dim=300,
            window=5,
            negatives=5,
            sample=1e-3,
            epochs=5,
            batch_size=8192,
            target=0.6,
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    """See RunOptions."""

    data: Path | None = None
    """Directory of text files, or one file: a sentence a line, words between white space, in UTF-8, as the One Billion
    Word corpus has them. Default: glosses of WordNet, which come with the package."""
    questions: Path | None = None
    """File of analogy questions in the form of word2vec's questions-words.txt. Default: that file itself."""
    vectors: Path | None = None
    """Write the word vectors to this file at each evaluation, in word2vec's format: binary for *.bin, else text."""


def defaults(request: Request, world_size: int) -> Recipe:
    """The recipe by data."""
    return RECIPES["glosses" if request.options.data is None else "one_billion_word"]


def finish(recipe: Recipe, options: Options) -> Recipe:
    """The recipe, checked and with a number of threads instead of 0."""
    check_counts(recipe, ("min_count", "dim", "window", "restrict_vocab", "epochs", "eval_every"))
    require(recipe.threads >= 0, "--threads", "at least 0", recipe.threads)
    require(recipe.vocab_size >= 2, "--vocab-size", "at least 2", recipe.vocab_size)
    require(recipe.negatives >= 0, "--negatives", "at least 0", recipe.negatives)
    require(0 <= recipe.sample < 1, "--sample", "in [0, 1)", recipe.sample)
    require(recipe.learning_rate > 0, "--learning-rate", "above 0", recipe.learning_rate)
    if options.amp:
        recipe = replace(recipe, precision="fp32")
    is_fp32 = recipe.precision == "fp32"
    require(is_fp32, "--precision", "fp32: the tables have no 16-bit arithmetic", recipe.precision)
    require(recipe.fused, "--no-fused", "left out: torch has no module of skip-gram", "--no-fused")
    parts = recipe.gradient_accumulation_steps
    require(parts == 1, "--gradient-accumulation-steps", "1: a batch is trained word by word", parts)
    if options.data is None:
        most = GLOSSES.vocab_size
        require(recipe.vocab_size <= most, "--vocab-size", f"at most {most} without --data", recipe.vocab_size)
        require(not options.skip_corrupt, "--skip-corrupt", "left out without --data", options.skip_corrupt)
    cuda_graphs = options.cuda_graphs
    require(not cuda_graphs, "--cuda-graphs", "left out: batches differ in their number of words", "--cuda-graphs")
    if recipe.threads:
        return recipe
    threads, unlocked = usual_threads(options.device)
    return replace(recipe, threads=threads, unlocked=recipe.unlocked or unlocked)


def usual_threads(device: str) -> tuple[int, bool]:
    """(number of threads, whether they share one copy) on a device, "auto", "cpu" or "cuda", of this machine.

    On a GPU a part is a block of threads, and waits for memory at every window, so that it takes many parts to use the
    device. With a copy for each, the rows of frequent words would move too far, by up to their number. In one copy a
    window misses the windows that are trained beside it, and no others: as few as can be with a part on every
    multiprocessor.
    """
    import torch

    if device == "cpu" or not torch.cuda.is_available():
        return 2, False
    return torch.cuda.get_device_properties("cuda").multi_processor_count, True


COMMANDS = {
    "word2vec": Command(
        text="Train Word2Vec, skip-gram with negative sampling. Without --data: on glosses of WordNet, in a minute or "
        "two, evaluated by analogies.",
        task=TASK,
        job="airank_fast.recipes.word2vec",
        options=Options,
        recipes=RECIPES,
        defaults=defaults,
        finish=finish,
    )
}
