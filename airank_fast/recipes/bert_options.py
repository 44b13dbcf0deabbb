"""The settings of BERT pre-training: recipes, the options of its commands, and what they resolve to.

Of the Wikipedia recipes, `mlperf` holds to the reference convergence points of MLPerf's closed division (from its
starting checkpoint; see bert_mlperf.py), `phase1` and `phase2` to the schedule of the LAMB paper (You et al., 2020) as
NVIDIA trains it: DeepLearningExamples, PyTorch/LanguageModeling/BERT, scripts/configs/pretrain_config.sh (batch 8 x
8192, 7038 steps, 6e-3, warm-up 0.2843 of them; then 8 x 4096, 1563, 4e-3, 0.128), schedulers.py (power 0.5). In all
three the decay runs from step 0, also under the warm-up. No run has been made with those yet.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from airank_fast.errors import UserError, require
from airank_fast.recipes import bert_mlperf
from airank_fast.recipes.options import Command, CommonRecipe, Fixed, Request, RunOptions, check_betas, check_counts
from airank_fast.tasks.bert import TASK

SIZES = {"large": (24, 1024), "base": (12, 768), "mini": (4, 256), "tiny": (2, 128)}
"""Layers and width of Google's sizes."""
EMBEDDED_VOCAB_SIZE = 2048
"""Words of the embedded text."""
NUM_SPECIAL_TOKENS = 5


@dataclass(frozen=True, kw_only=True)
class Recipe(CommonRecipe):
    """See CommonRecipe."""

    size: Fixed[str]
    init_checkpoint: str | None = None
    """Begin with these weights: Hugging Face's names, .safetensors or what torch.save wrote."""
    vocab_size: int
    """Words in the vocabulary (Google's: 30522)."""
    sequence_length: int
    """Most tokens in a sequence."""
    max_position_embeddings: Fixed[int] = 512
    mask_rate: float = 0.15
    """Share of the embedded text to guess in training (0.15 when it is evaluated); shards have their own."""
    sinusoid_rms: float = 0.0
    """Begin with sinusoids of this size as position embeddings; 0: with random ones."""
    dropout: float
    """Share of hidden values and attention probabilities that is dropped."""
    balance_tokens: bool = True
    """Deal each global batch by length, so that all ranks and micro-batches get nearly as many tokens;
    --no-balance-tokens: in the order of the stream. What is learnt is the same."""
    steps: int
    """Train for at most N optimizer steps."""
    warmup_steps: int
    """Steps of linear warm-up."""
    start_warmup_step: int = 0
    """Step at which the warm-up begins; below 0: in the middle of it."""
    decay_after_warmup: bool = False
    """Begin the decay when the warm-up is over, instead of under it."""
    end_learning_rate: float
    """Learning rate at the end of the decay."""
    decay_power: float
    """Power of the polynomial decay."""
    beta1: float
    """LAMB's decay of the mean of gradients."""
    beta2: float
    """LAMB's decay of the mean of their squares."""
    epsilon: float
    """LAMB's addend to the root of that mean."""
    weight_decay: float
    """LAMB's weight decay; bias and LayerNorm have none."""
    max_grad_norm: float
    """Gradients are clipped to this norm, all together."""
    nvlamb: bool
    """Scale tensors without weight decay by their trust ratio too (NVLAMB)."""
    eval_every_samples: int
    """Evaluate after every N samples. Default with --data: MLPerf's rule for the global batch."""
    eval_samples: int
    """Held-out samples to evaluate on, at most."""


MLPERF = Recipe(
    name="mlperf",
    size="large",
    vocab_size=30522,
    sequence_length=512,
    dropout=0.1,
    batch_size=448,
    **bert_mlperf.hyper_parameters(448)._asdict(),
    end_learning_rate=0.0,
    decay_power=1,
    epsilon=1e-6,
    max_grad_norm=1.0,
    nvlamb=False,
    eval_every_samples=bert_mlperf.evaluation_samples(448),
    eval_samples=10_000,
    eval_batch_size=64,
    target=TASK.headline_target("mlperf"),
)

RECIPES = {
    recipe.name: recipe
    for recipe in (
        replace(
            MLPERF,
            name="pydoc",
            size="mini",
            vocab_size=EMBEDDED_VOCAB_SIZE,
            sequence_length=64,
            max_position_embeddings=64,
            mask_rate=0.3,
            dropout=0.0,
            sinusoid_rms=0.05,
            steps=2000,
            warmup_steps=200,
            decay_after_warmup=True,
            batch_size=16,
            learning_rate=0.005,
            eval_every_samples=2000,
            eval_samples=1_000_000,  # all there are
            eval_batch_size=64,
            target=0.2,
        ),
        MLPERF,
        replace(
            MLPERF,
            name="phase1",
            sequence_length=128,
            steps=7038,
            warmup_steps=2001,
            batch_size=65536,
            gradient_accumulation_steps=128,
            learning_rate=6e-3,
            decay_power=0.5,
            eval_every_samples=100 * 65536,
            target=None,
        ),
        replace(
            MLPERF,
            name="phase2",
            steps=1563,
            warmup_steps=200,
            batch_size=32768,
            gradient_accumulation_steps=512,
            learning_rate=4e-3,
            decay_power=0.5,
            eval_every_samples=100 * 32768,
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    """See RunOptions."""

    data: Path | None = None
    """Directory of shards that `python -m airank_fast.prepare wikicorpus` wrote, or that NVIDIA's scripts did.
    Default: the text that comes with Python."""
    phase: Literal["1", "2", "mlperf"] | None = None
    """With --data: 1 is 128 tokens from fresh weights, 2 is 512 tokens from phase 1's; default: mlperf, as there, whose
    learning rate, steps, warm-up, betas and weight decay follow the batch by MLPerf's reference convergence points."""
    rules: Literal["mlperf", "airank", "flagperf"] = "mlperf"
    """Whose target to train to: 0.720, 0.712 or 0.710."""
    check_initial: float | None = None
    """Refuse to start unless the initial weights have about this accuracy (0.34085 for MLPerf's checkpoint). This reads
    the evaluation set before the clock starts, which no rule book allows: not for a run that is handed in."""


def defaults(request: Request, world_size: int) -> Recipe:
    """The recipe by data and phase, with the target of a rule book, and MLPerf's values for the given batch."""
    options, given = request.options, request.recipe
    if options.data is None:
        if options.phase is not None:
            raise UserError(f"--data: must be a directory of shards with --phase {options.phase}, got none")
        base = RECIPES["pydoc"]
        longer = "sequence_length" in request.given and given.sequence_length > base.max_position_embeddings
        return replace(base, max_position_embeddings=given.sequence_length) if longer else base
    phase = options.phase or "mlperf"
    base = RECIPES[phase if phase == "mlperf" else f"phase{phase}"]
    if phase != "1":
        base = replace(base, target=TASK.headline_target(options.rules, options.airank_profile))
    if phase == "mlperf" and "batch_size" in request.given and given.batch_size >= 1:
        values = bert_mlperf.hyper_parameters(given.batch_size)._asdict()
        base = replace(base, eval_every_samples=bert_mlperf.evaluation_samples(given.batch_size), **values)
    return base


def finish(recipe: Recipe, options: Options) -> Recipe:
    """The recipe, checked."""
    check_counts(recipe, ("steps", "eval_every_samples", "eval_samples"))
    require(0 <= recipe.dropout < 1, "--dropout", "in [0, 1)", recipe.dropout)
    require(0 < recipe.mask_rate <= 0.9, "--mask-rate", "in (0, 0.9]", recipe.mask_rate)
    steps = f"in [0, {recipe.steps}]"
    require(0 <= recipe.warmup_steps <= recipe.steps, "--warmup-steps", steps, recipe.warmup_steps)
    most = recipe.max_position_embeddings
    require(8 <= recipe.sequence_length <= most, "--sequence-length", f"in [8, {most}]", recipe.sequence_length)
    for name in ("sinusoid_rms", "end_learning_rate", "decay_power", "weight_decay"):
        require(getattr(recipe, name) >= 0, f"--{name.replace('_', '-')}", "at least 0", getattr(recipe, name))
    check_betas(recipe)
    for name in ("epsilon", "max_grad_norm"):
        require(getattr(recipe, name) > 0, f"--{name.replace('_', '-')}", "above 0", getattr(recipe, name))
    if recipe.name == "pydoc":
        what = f"{EMBEDDED_VOCAB_SIZE} without --data"
        require(recipe.vocab_size == EMBEDDED_VOCAB_SIZE, "--vocab-size", what, recipe.vocab_size)
    else:
        least = NUM_SPECIAL_TOKENS + 1
        require(recipe.vocab_size >= least, "--vocab-size", f"at least {least}", recipe.vocab_size)
    embedded = recipe.name == "pydoc"
    require(embedded or options.data is not None, "--data", f"the shards of a {recipe.name} run", "none")
    require(not embedded or options.data is None, "--data", "left out of a run on the embedded text", options.data)
    wide = options.cuda_graphs and options.data is not None and recipe.precision not in ("bf16", "fp16")
    require(not wide, "--precision", "bf16 or fp16 with --cuda-graphs and --data", recipe.precision)
    expected = options.check_initial
    require(expected is None or 0 <= expected <= 1, "--check-initial", "a fraction in [0, 1]", expected)
    return recipe


COMMANDS = {
    f"bert-{size}": Command(
        text=f"Pre-train BERT-{size} ({layers} layers of {width}). Without --data: on the text that comes with Python.",
        task=TASK,
        job="airank_fast.recipes.bert",
        options=Options,
        recipes=RECIPES,
        defaults=defaults,
        finish=finish,
        fixed={"size": size},
        decides={"phase": "name", "rules": "target"},
    )
    for size, (layers, width) in SIZES.items()
}
"""They differ in the size of the network."""
