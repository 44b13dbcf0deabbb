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
from typing import ClassVar, Literal

from airank_fast.data.text import pydoc
from airank_fast.errors import UserError
from airank_fast.models import bert
from airank_fast.recipes import bert_mlperf
from airank_fast.recipes.options import ByRecipe, Precision, RunOptions, check_options, chosen, require

TARGETS = {"mlperf": 0.720, "airank": 0.712, "flagperf": 0.710}
"""Masked-LM accuracy that each benchmark asks of BERT-large on Wikipedia."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what is computed; saved with the run, and enough to repeat it."""

    name: str
    size: str
    vocab_size: int
    sequence_length: int
    dropout: float
    steps: int
    warmup_steps: int
    batch_size: int
    gradient_accumulation_steps: int
    learning_rate: float
    end_learning_rate: float
    decay_power: float
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    max_grad_norm: float
    nvlamb: bool
    eval_every_samples: int
    eval_samples: int
    eval_batch_size: int
    target: float | None
    stop_at_target: bool
    max_position_embeddings: int = 512
    mask_rate: float = 0.15
    sinusoid_rms: float = 0.0
    start_warmup_step: int = 0
    decay_after_warmup: bool = False
    init_checkpoint: str | None = None
    balance_tokens: bool = True
    fused: bool = True
    seed: int = 1
    precision: Precision = "fp32"


MLPERF = Recipe(
    name="mlperf",
    size="large",
    vocab_size=30522,
    sequence_length=512,
    dropout=0.1,
    batch_size=448,
    **bert_mlperf.hyper_parameters(448)._asdict(),
    gradient_accumulation_steps=1,
    end_learning_rate=0.0,
    decay_power=1,
    epsilon=1e-6,
    max_grad_norm=1.0,
    nvlamb=False,
    eval_every_samples=bert_mlperf.evaluation_samples(448),
    eval_samples=10_000,
    eval_batch_size=64,
    target=TARGETS["mlperf"],
    stop_at_target=True,
)

RECIPES = {
    recipe.name: recipe
    for recipe in (
        replace(
            MLPERF,
            name="pydoc",
            size="mini",
            vocab_size=pydoc.VOCAB_SIZE,
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
            eval_every_samples=4000,
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
    """Pre-train BERT. Without --data: on the text that comes with Python, to a masked-LM target."""

    size: ClassVar[str]
    """Which of Google's sizes."""

    data: Path | None = None
    """Directory of shards that `python -m airank_fast.prepare wikicorpus` wrote, or that NVIDIA's scripts did."""
    phase: Literal["1", "2", "mlperf"] | None = None
    """With --data: 1 is 128 tokens from fresh weights, 2 is 512 tokens from phase 1's; default: mlperf, as there."""
    init_checkpoint: ByRecipe[Path] = None
    """Begin with these weights: Hugging Face's names, .safetensors or what torch.save wrote."""
    check_initial: float | None = None
    """Refuse to start unless the initial weights have about this accuracy (0.34085 for MLPerf's checkpoint). This reads
    the evaluation set before the clock starts, which no rule book allows: not for a run that is handed in."""
    rules: Literal["mlperf", "airank", "flagperf"] = "mlperf"
    """Whose target to train to: 0.720, 0.712 or 0.710."""
    target: ByRecipe[float] = None
    """Masked-LM accuracy to reach, a fraction."""
    steps: ByRecipe[int] = None
    """Train for at most N optimizer steps."""
    batch_size: ByRecipe[int] = None
    """Global batch: sequences per optimizer step over all ranks and accumulated micro-batches. With --phase mlperf its
    learning rate, steps, warm-up, betas and weight decay follow it, by MLPerf's reference convergence points."""
    seed: ByRecipe[int] = None
    """Seed of initial weights, sample order, masks and dropout."""
    vocab_size: ByRecipe[int] = None
    """Words in the vocabulary (Google's: 30522)."""
    sequence_length: ByRecipe[int] = None
    """Most tokens in a sequence."""
    mask_rate: ByRecipe[float] = None
    """Share of the embedded text to guess in training (0.15 when it is evaluated); shards have their own."""
    sinusoid_rms: ByRecipe[float] = None
    """Begin with sinusoids of this size as position embeddings; 0: with random ones."""
    dropout: ByRecipe[float] = None
    """Share of hidden values and attention probabilities that is dropped."""
    warmup_steps: ByRecipe[int] = None
    """Steps of linear warm-up."""
    weight_decay: ByRecipe[float] = None
    """LAMB's weight decay; bias and LayerNorm have none."""
    nvlamb: ByRecipe[bool] = None
    """Scale tensors without weight decay by their trust ratio too (NVLAMB)."""
    balance_tokens: bool = True
    """Deal each global batch by length, so that all ranks and micro-batches get nearly as many tokens;
    --no-balance-tokens: in the order of the stream. What is learnt is the same."""
    eval_every_samples: ByRecipe[int] = None
    """Evaluate after every N samples. Default with --data: MLPerf's rule for the global batch."""
    eval_samples: ByRecipe[int] = None
    """Held-out samples to evaluate on, at most."""
    fused: bool = True
    """Use the fused operators; --no-fused runs torch's own, for comparison."""


def _options_of(size: str, text: str) -> type[Options]:
    made = type(f"{size.title()}Options", (Options,), {"__doc__": text, "__module__": __name__, "size": size})
    return dataclass(frozen=True, kw_only=True)(made)


COMMANDS = {
    f"bert-{size}": _options_of(
        size, f"Pre-train BERT-{size} ({layers} layers of {width}). Without --data: on the text that comes with Python."
    )
    for size, (layers, width) in sorted(bert.SIZES.items(), key=lambda item: -item[1][0])
}
"""The options of each command; they differ in their size."""


def resolve(options: Options, world_size: int, amp_precision: Precision) -> Recipe:
    """The recipe that ``options`` name, every default filled in and checked.

    ``amp_precision`` is what --amp means on this device. Raises UserError for settings that cannot be.
    """
    if options.data is None and options.phase is not None:
        raise UserError(f"--phase {options.phase}: --data with a directory of shards is required with it, got none")
    phase = options.phase or "mlperf"
    base = RECIPES["pydoc" if options.data is None else phase if phase == "mlperf" else f"phase{phase}"]
    named = chosen(options, Recipe, amp_precision)
    if base.name in ("mlperf", "phase2"):
        base = replace(base, target=TARGETS[options.rules])
    if base.name == "mlperf" and options.batch_size is not None and options.batch_size >= 1:
        values = bert_mlperf.hyper_parameters(options.batch_size)._asdict()
        base = replace(base, eval_every_samples=bert_mlperf.evaluation_samples(options.batch_size), **values)
    if options.init_checkpoint is not None:
        named["init_checkpoint"] = str(options.init_checkpoint)
    recipe = replace(base, **named)
    if base.name == "pydoc" and recipe.sequence_length > base.max_position_embeddings:
        recipe = replace(recipe, max_position_embeddings=recipe.sequence_length)
    counts = (
        "steps",
        "batch_size",
        "gradient_accumulation_steps",
        "eval_every_samples",
        "eval_samples",
        "eval_batch_size",
    )
    check_options(options, recipe, world_size, counts)
    _check(recipe, options)
    return recipe


def _check(recipe: Recipe, options: Options) -> None:
    require(0 <= recipe.dropout < 1, "dropout", "in [0, 1)", recipe.dropout)
    require(0 < recipe.mask_rate <= 0.9, "mask_rate", "in (0, 0.9]", recipe.mask_rate)
    require(recipe.sinusoid_rms >= 0, "sinusoid_rms", "at least 0", recipe.sinusoid_rms)
    require(recipe.learning_rate >= 0, "learning_rate", "at least 0", recipe.learning_rate)
    require(0 <= recipe.warmup_steps <= recipe.steps, "warmup_steps", f"in [0, {recipe.steps}]", recipe.warmup_steps)
    most = recipe.max_position_embeddings
    require(8 <= recipe.sequence_length <= most, "sequence_length", f"in [8, {most}]", recipe.sequence_length)
    if recipe.name == "pydoc":
        require(
            recipe.vocab_size == pydoc.VOCAB_SIZE, "vocab_size", f"{pydoc.VOCAB_SIZE} without --data", recipe.vocab_size
        )
    else:
        least = len(pydoc.SPECIAL_TOKENS) + 1
        require(recipe.vocab_size >= least, "vocab_size", f"at least {least}", recipe.vocab_size)
    wide = options.cuda_graphs and options.data is not None and recipe.precision not in ("bf16", "fp16")
    require(not wide, "precision", "bf16 or fp16 with --cuda-graphs and --data", recipe.precision)
    expected = options.check_initial
    require(expected is None or 0 <= expected <= 1, "check_initial", "a fraction in [0, 1]", expected)
