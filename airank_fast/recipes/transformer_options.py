"""The settings of the Transformer: recipes for the embedded interface text and for WMT, and the command's options.

The interface recipe reaches its target on two CPU cores; docs/transformer.md has its figures. Of the WMT recipes, with
which no run has been made yet, `base` is the paper's (Vaswani et al., 2017), and `big` is AI-Rank's, that of
DeepLearningExamples, PyTorch/Translation/Transformer (transformer_wmt_en_de_big_t2t).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from airank_fast.errors import require
from airank_fast.recipes.options import Command, CommonRecipe, Request, RunOptions, check_counts, option
from airank_fast.tasks.transformer import TASK

PAIR_TOKENS = 32
"""Tokens for which a pair of WMT counts where --max-tokens decides the batch size."""


@dataclass(frozen=True, kw_only=True)
class Recipe(CommonRecipe):
    """See CommonRecipe. A sample is a sentence with its translation; throughput counts target tokens."""

    init_checkpoint: str | None = None
    """Begin with these weights: fairseq's or Hugging Face Marian's names, .safetensors or what torch.save wrote."""
    vocab_size: int
    """Subwords of both languages together, a multiple of 8."""
    layers: int
    """Layers of the encoder, and of the decoder."""
    width: int
    """Width of embeddings and layers."""
    inner_width: int
    """Width inside the feed-forward networks."""
    heads: int
    """Heads of attention."""
    pre_norm: bool
    """Normalise before each half of a layer, and after the last; --no-pre-norm: after each half, as in the paper."""
    dropout: float
    """Share of embeddings, and of what each half of a layer adds, that is dropped."""
    attention_dropout: float
    """Share of attention probabilities that is dropped."""
    activation_dropout: float
    """Share of the values inside the feed-forward networks that is dropped."""
    activation: Literal["relu", "swish", "gelu"] = "relu"
    """Of the feed-forward networks."""
    marian: bool = False
    """Positions, and a bias of the logits, as Hugging Face's Marian has them, for its weights."""
    label_smoothing: float = 0.1
    """Share of the probability that the loss spreads evenly over the vocabulary."""
    max_tokens: int
    """Source tokens, and target tokens, of a micro-batch at most. Where --batch-size is not given, WMT's batch has
    32 tokens a pair of it for each rank and accumulated micro-batch."""
    max_length: int
    """Longest sentence in subwords; longer ones are left out of training, and counted."""
    beta1: float = 0.9
    """Adam's decay of the mean gradient."""
    beta2: float
    """Adam's decay of the mean squared gradient."""
    epsilon: float = 1e-9
    """Adam's addend to the root of the mean of squares."""
    epochs: int
    """Train for at most N epochs."""
    warmup_steps: int
    """Steps of linear warm-up; then the learning rate falls with the root of the step."""
    eval_every: int
    """Evaluate every N epochs."""
    average_checkpoints: int = 1
    """Evaluate with the mean weights of the last N checkpoints, the present ones among them."""
    beam: int = 4
    """Hypotheses of a sentence that beam search keeps."""
    length_penalty: float = 0.6
    """Exponent of the length penalty in beam search; 0: none."""
    max_extra: int = 50
    """A translation has at most this many subwords more than its source."""


INTERFACE = Recipe(
    name="interface",
    vocab_size=2000,
    layers=2,
    width=128,
    inner_width=512,
    heads=4,
    pre_norm=True,
    dropout=0.1,
    attention_dropout=0.0,
    activation_dropout=0.0,
    max_tokens=4096,
    max_length=100,
    beta2=0.98,
    epochs=12,
    warmup_steps=200,
    batch_size=128,
    learning_rate=4e-3,
    eval_every=1,
    eval_batch_size=128,
    target=36.0,
)
BASE = replace(
    INTERFACE,
    name="base",
    vocab_size=33_712,
    layers=6,
    width=512,
    inner_width=2048,
    heads=8,
    pre_norm=False,
    max_tokens=5120,
    max_length=256,
    epochs=30,
    warmup_steps=4000,
    batch_size=160,
    learning_rate=7e-4,
    target=25.0,
)
BIG = replace(
    BASE,
    name="big",
    width=1024,
    inner_width=4096,
    heads=16,
    pre_norm=True,
    attention_dropout=0.1,
    activation_dropout=0.1,
    beta2=0.997,
    learning_rate=6e-4,
)
RECIPES = {recipe.name: recipe for recipe in (INTERFACE, BASE, BIG)}


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    """See RunOptions."""

    data: Path | None = None
    """Directory that `prepare wmt` has made, or with text files, a sentence a line in UTF-8, such as train.en,
    train.de, test.en and test.de. Default: Home Assistant's interface text, English to Spanish, which comes with the
    package."""
    source_language: str = "en"
    """With text files: the ending of the names of the source's files."""
    target_language: str = "de"
    """With text files: the ending of the names of the target's files."""
    split: Literal["text", "component"] = "text"
    """Without --data: what is held out, texts, or components of Home Assistant with all their texts."""
    recipe: Literal["auto", "interface", "base", "big"] = "auto"
    """Start from these settings; auto: interface without --data, else big."""


def defaults(request: Request, world_size: int) -> Recipe:
    """The recipe by data; WMT's batch by the tokens, ranks and accumulated micro-batches."""
    options, given = request.options, request.recipe
    name = options.recipe
    if name == "auto":
        name = "interface" if options.data is None else "big"
    base = RECIPES[name]
    if name == "interface":
        return base
    max_tokens = given.max_tokens if "max_tokens" in request.given else base.max_tokens
    parts = world_size * max(1, given.gradient_accumulation_steps)
    return replace(base, batch_size=parts * max(1, max_tokens // PAIR_TOKENS))


def finish(recipe: Recipe, options: Options) -> Recipe:
    """The recipe, checked."""
    counts = ("layers", "width", "inner_width", "heads", "max_tokens", "epochs", "warmup_steps", "eval_every", "beam")
    check_counts(recipe, (*counts, "average_checkpoints"))
    require(recipe.vocab_size >= 8 and recipe.vocab_size % 8 == 0, "--vocab-size", "a multiple of 8", recipe.vocab_size)
    require(recipe.max_length >= 2, "--max-length", "at least 2", recipe.max_length)
    for name in ("dropout", "attention_dropout", "activation_dropout", "label_smoothing", "beta1", "beta2"):
        require(0 <= getattr(recipe, name) < 1, option(name), "in [0, 1)", getattr(recipe, name))
    for name in ("length_penalty", "max_extra"):
        require(getattr(recipe, name) >= 0, option(name), "at least 0", getattr(recipe, name))
    require(recipe.epsilon > 0, "--epsilon", "above 0", recipe.epsilon)
    require(options.data is not None or not options.skip_corrupt, "--skip-corrupt", "left out without --data", True)
    require(options.data is None or options.split == "text", "--split", "left out with --data", options.split)
    cuda_graphs = "left out: batches differ in their number of tokens"
    require(not options.cuda_graphs, "--cuda-graphs", cuda_graphs, "--cuda-graphs")
    return recipe


COMMANDS = {
    "transformer": Command(
        text="Train a Transformer to translate, evaluated by beam search and BLEU. Without --data: a small one on "
        "interface text, English to Spanish, to its target, in a few minutes.",
        task=TASK,
        job="airank_fast.recipes.transformer",
        options=Options,
        recipes=RECIPES,
        defaults=defaults,
        finish=finish,
        decides={"recipe": "name"},
    )
}
