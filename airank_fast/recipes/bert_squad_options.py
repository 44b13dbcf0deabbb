"""The settings of BERT that answers questions: its recipe, the options of its commands, and what they resolve to.

The recipe is Google's (Devlin et al., 2018, section 4.2; google-research/bert, README.md, SQuAD 1.1): 24 to 32 windows
of 384 tokens in a batch, two epochs at 3e-5, a tenth of them warm-up. No run on the whole of SQuAD has been made yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from airank_fast.errors import require
from airank_fast.recipes.bert_options import NUM_SPECIAL_TOKENS, SIZES
from airank_fast.recipes.options import (
    Command,
    CommonRecipe,
    Fixed,
    Request,
    RunOptions,
    check_betas,
    check_counts,
    option,
)
from airank_fast.tasks.bert_squad import TASK


@dataclass(frozen=True, kw_only=True)
class Recipe(CommonRecipe):
    """See CommonRecipe. A sample is a question with a window of its paragraph."""

    size: Fixed[str]
    init_checkpoint: str | None = None
    """Begin with these weights: a pre-trained BERT's or a whole network's, Hugging Face's names, .safetensors or what
    torch.save wrote. Without it: with random ones, which learn nothing useful from SQuAD alone."""
    vocab_size: int
    """Lines of the vocabulary (Google's: 30522)."""
    lowercase: bool = True
    """Read text in lower case and without accents, for an uncased vocabulary; --no-lowercase for a cased one."""
    sequence_length: int
    """Most tokens in a sequence."""
    max_position_embeddings: Fixed[int] = 512
    question_length: int = 64
    """Most tokens of a question; a longer one is cut."""
    stride: int = 128
    """Tokens between the beginnings of two windows of a paragraph."""
    dropout: float
    """Share of hidden values and attention probabilities that is dropped."""
    epochs: int
    """Train for N epochs."""
    eval_every: int = 1
    """Evaluate after every N epochs."""
    warmup_epochs: float
    """Epochs of linear warm-up; then the rate decays linearly to 0."""
    beta1: float = 0.9
    """AdamW's decay of the mean of gradients."""
    beta2: float = 0.999
    """AdamW's decay of the mean of their squares."""
    epsilon: float = 1e-6
    """AdamW's addend to the root of that mean."""
    weight_decay: float = 0.01
    """AdamW's weight decay; bias and LayerNorm have none."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm, all together."""


RECIPES = {
    "squad": Recipe(
        name="squad",
        size="large",
        vocab_size=30522,
        sequence_length=384,
        dropout=0.1,
        batch_size=32,
        learning_rate=3e-5,
        epochs=2,
        warmup_epochs=0.2,
        eval_batch_size=64,
        target=None,
    )
}


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    """See RunOptions."""

    data: Path | None = None
    """Directory with SQuAD's train-v1.1.json and dev-v1.1.json, and with the vocabulary of the weights, vocab.txt.
    There is no default. Inference does without train-v1.1.json, unless it calibrates int8."""


def defaults(request: Request, world_size: int) -> Recipe:
    """The only recipe."""
    return RECIPES["squad"]


def finish(recipe: Recipe, options: Options) -> Recipe:
    """The recipe, checked."""
    require(options.data, "--data", "a directory with train-v1.1.json, dev-v1.1.json and vocab.txt", "none")
    check_counts(recipe, ("epochs", "eval_every", "question_length", "stride"))
    most = recipe.max_position_embeddings
    least = recipe.question_length + 8  # [CLS], two [SEP], and some of the paragraph
    what = f"in [{least}, {most}] with --question-length {recipe.question_length}"
    require(least <= recipe.sequence_length <= most, "--sequence-length", what, recipe.sequence_length)
    least = NUM_SPECIAL_TOKENS + 1
    require(recipe.vocab_size >= least, "--vocab-size", f"at least {least}", recipe.vocab_size)
    require(0 <= recipe.dropout < 1, "--dropout", "in [0, 1)", recipe.dropout)
    warmup = f"in [0, {recipe.epochs}]"
    require(0 <= recipe.warmup_epochs <= recipe.epochs, "--warmup-epochs", warmup, recipe.warmup_epochs)
    check_betas(recipe)
    for name in ("epsilon", "max_grad_norm"):
        require(getattr(recipe, name) > 0, option(name), "above 0", getattr(recipe, name))
    require(recipe.weight_decay >= 0, "--weight-decay", "at least 0", recipe.weight_decay)
    return recipe


COMMANDS = {
    f"bert-squad-{size}": Command(
        text=f"Fine-tune BERT-{size} ({layers} layers of {width}) to answer SQuAD's questions; requires --data.",
        task=TASK,
        job="airank_fast.recipes.bert_squad",
        options=Options,
        recipes=RECIPES,
        defaults=defaults,
        finish=finish,
        fixed={"size": size},
    )
    for size, (layers, width) in SIZES.items()
}
"""They differ in the size of the network."""
