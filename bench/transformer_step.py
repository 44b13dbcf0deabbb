"""The Transformer's training step against Hugging Face's Marian and torch.nn.Transformer: target tokens/s.

    python bench/transformer_step.py [--cases interface base ...] [--precisions fp32 bf16] [--rounds N]
                                     [--no-compile] [--save]
    python bench/transformer_step.py --attention [--rounds N]

Peers, in turns, on the same sentences and of the same size (post-norm, ReLU, dropout 0.1, label smoothing 0.1), padded
to the longest sentence of the batch: transformers' MarianMTModel with SDPA, eager and under torch.compile, and
torch.nn.Transformer, all with torch's fused Adam, for bf16 under autocast. airank_fast is the engine's step of the
recipe's job, with a batch as its reader makes it. Without --precisions: fp32, and bf16 where --amp chooses it; on a GPU
bf16 alone.

    interface                   the recipe of the embedded text, and its first batch of 128 pairs
    base, big                   the paper's sizes, 33,712 subwords; sentences at random, on a CPU about 1,000 target
                                tokens of them, on a GPU 10,240
    base_similar, big_similar   the same with sentences of similar length, as where batches are made of them, so that
                                the peers have little padding

Lengths of base and big are drawn from a log-normal distribution with a mean of 29 subwords: WMT's 4.5 million pairs
have 116 million English words (Luong et al., 2015), which are a few more subwords. The shape is an assumption.
--attention times ways to attend over the sentences of a batch, from which `packed_attention` chooses.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import math
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import harness
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from airank_fast.data.text.translation_batch import Sentences, Share, Side, TranslationBatch, collate, lay_out
from airank_fast.engine.distributed import World
from airank_fast.engine.precision import amp_choice
from airank_fast.engine.state import State
from airank_fast.models.transformer import Transformer, from_public, sinusoids
from airank_fast.nn import PackedSequences, packed_attention
from airank_fast.recipes import transformer

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ALONE = World(0, 1, 0, 1, DEVICE)
CASES = ("interface", "base", "base_similar", "big", "big_similar")
TARGET_TOKENS = {"cpu": 1000, "cuda": 10_240}
POOL = 32  # batches from which one of similar lengths is taken
RATE, IGNORED = 1e-4, -100


def job_of(case: str, precision: str, **changes) -> transformer.Job:
    """The recipe's, but for what Marian has not."""
    recipe = transformer.RECIPES[case.removesuffix("_similar")]
    same = {"pre_norm": False, "attention_dropout": 0.0, "activation_dropout": 0.0}
    return transformer.Job(replace(recipe, precision=precision, **same | changes), transformer.Options())


def batch_of(case: str, job: transformer.Job) -> TranslationBatch:
    """A batch on the device, in the order of the reader's."""
    if case == "interface":
        job.open_data(ALONE, DEVICE, torch.float32)
        batch = next(job.train_batches(0))
        job.close()
        return batch
    pairs = lengths(TARGET_TOKENS[DEVICE.type], similar=case.endswith("similar"))
    draw = np.random.default_rng(0)
    sides = (
        Side.of(draw.integers(4, job.recipe.vocab_size, length - 1).tolist() for length in column)
        for column in zip(*pairs, strict=True)
    )
    return collate(lay_out(Share(np.arange(len(pairs))), Sentences(*sides)), DEVICE)


def lengths(num_target_tokens: int, *, similar: bool) -> list[tuple[int, int]]:
    """Tokens of source and target of pairs that have about so many target tokens."""
    draw, sigma = random.Random(0), 0.6
    pairs: list[tuple[int, int]] = []
    while sum(target for _, target in pairs) < num_target_tokens * (POOL if similar else 1):
        source = draw.lognormvariate(math.log(29) - sigma**2 / 2, sigma)
        pairs.append((max(2, round(source)), max(2, round(source * draw.lognormvariate(0, 0.2)))))
    if similar:
        pairs.sort(key=lambda pair: pair[::-1])
        pairs = pairs[len(pairs) // 2 :]
        totals = itertools.accumulate(target for _, target in pairs)
        pairs = pairs[: 1 + sum(total < num_target_tokens for total in totals)]
    return pairs


def padded(batch: TranslationBatch) -> dict[str, Tensor]:
    """source, its attention mask, previous and labels: int64 [b, longest]; 0 and, as label, IGNORED at padding."""

    def rows(tokens: Tensor, sizes: tuple[int, ...], value: int = 0) -> Tensor:
        return nn.utils.rnn.pad_sequence(tokens.split(sizes), batch_first=True, padding_value=value)

    sources, targets = batch.source_lengths, batch.target_lengths
    return {
        "source": rows(batch.source, sources),
        "real": rows(torch.ones_like(batch.source), sources),
        "previous": rows(batch.previous, targets),
        "labels": rows(batch.target, targets, IGNORED),
    }


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """As torch has it."""
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, label_smoothing=0.1)


def marian(recipe: transformer.Recipe, dropout: float = 0.1) -> nn.Module:
    """MarianMTModel of the recipe's size, from rows to the loss."""
    from transformers import MarianConfig, MarianMTModel

    sides = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in (
            ("layers", recipe.layers),
            ("attention_heads", recipe.heads),
            ("ffn_dim", recipe.inner_width),
        )
    }
    config = MarianConfig(
        **sides,
        vocab_size=recipe.vocab_size,
        d_model=recipe.width,
        activation_function="relu",
        scale_embedding=True,
        dropout=dropout,
        attention_dropout=0.0,
        activation_dropout=0.0,
        pad_token_id=1,
        decoder_start_token_id=2,
        attn_implementation="sdpa",
    )

    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = MarianMTModel(config)

        def forward(self, source: Tensor, real: Tensor, previous: Tensor, labels: Tensor) -> Tensor:
            found = self.network(
                input_ids=source, attention_mask=real, decoder_input_ids=previous, use_cache=False
            ).logits
            return loss_of(found, labels)

    return WithLoss()


class Torchs(nn.Module):
    """torch.nn.Transformer between tied embeddings, from rows to the loss."""

    def __init__(self, recipe: transformer.Recipe) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(recipe.vocab_size, recipe.width)
        nn.init.normal_(self.embeddings.weight, std=recipe.width**-0.5)
        shape = (recipe.width, recipe.heads, recipe.layers, recipe.layers, recipe.inner_width, recipe.dropout)
        self.network = nn.Transformer(*shape, batch_first=True)
        self.dropout = nn.Dropout(recipe.dropout)
        self.register_buffer("positions", sinusoids(512, recipe.width))

    def embedded(self, tokens: Tensor) -> Tensor:
        x = self.embeddings(tokens) * math.sqrt(self.embeddings.embedding_dim)
        return self.dropout(x + self.positions[: tokens.shape[1]])

    def forward(self, source: Tensor, real: Tensor, previous: Tensor, labels: Tensor) -> Tensor:
        later = nn.Transformer.generate_square_subsequent_mask(previous.shape[1], device=previous.device)
        is_padding = torch.zeros(real.shape, device=real.device).masked_fill(real == 0, -math.inf)
        decoded = self.network(
            self.embedded(source),
            self.embedded(previous),
            tgt_mask=later,
            src_key_padding_mask=is_padding,
            memory_key_padding_mask=is_padding,
            tgt_is_causal=True,
        )
        return loss_of(F.linear(decoded, self.embeddings.weight), labels)


def their_step(model: nn.Module, rows: dict[str, Tensor], precision: str, compiled: bool) -> Callable[[], object]:
    """A plain loop."""
    model = model.to(DEVICE).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)
    called = harness.compiled(model) if compiled else model

    def step() -> None:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = called(**rows)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def our_step(job: transformer.Job, batch: TranslationBatch) -> Callable[[], object]:
    """The engine's."""
    state = State(job, ALONE)
    state.networks["model"].train()
    return lambda: state.step([batch], learning_rate=RATE)


def check(job: transformer.Job, batch: TranslationBatch, rows: dict[str, Tensor]) -> None:
    """From the same weights and without dropout both have the same loss."""
    recipe = job.recipe
    reference = marian(recipe, dropout=0.0).to(DEVICE)
    shape = (recipe.vocab_size, recipe.width, recipe.inner_width, recipe.heads, recipe.layers, recipe.layers)
    model = Transformer(*shape, dropout=0.0, marian=True)
    model.load_state_dict(from_public(reference.network.state_dict()))
    with torch.no_grad():
        expected, got = reference(**rows), job.loss(model.to(DEVICE), batch)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=0)


def time_steps(case: str, precision: str, arguments: argparse.Namespace) -> None:
    """Check, time and print one case; save it on request."""
    torch.manual_seed(0)
    job = job_of(case, precision)
    batch = batch_of(case, job)
    rows = padded(batch)
    check(job, batch, rows)
    steps = {"airank_fast": our_step(job, batch)}
    steps["transformers"] = their_step(marian(job.recipe), rows, precision, False)
    steps["torch.nn.Transformer"] = their_step(Torchs(job.recipe), rows, precision, False)
    if arguments.compile:
        steps["transformers, compiled"] = their_step(marian(job.recipe), rows, precision, True)
    times = harness.time_rounds(
        steps, num_rounds=arguments.rounds, device=DEVICE.type, num_warm_up=1 + (DEVICE.type == "cuda"), ahead=False
    )
    real, room = (
        sum(sizes) for sizes in ((len(batch.source), batch.units), (rows["source"].numel(), rows["labels"].numel()))
    )
    what = (
        f"{case}, {batch.num_samples} pairs, {batch.units} target tokens, {1 - real / room:.0%} padding for the others"
    )
    what += f", {precision}, {DEVICE.type}"
    rates = {name: batch.units / harness.timing(values).median_s for name, values in times.items()}
    print(harness.as_text(what, times, "airank_fast"))
    print("  target tokens/s: " + ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items()))
    if arguments.save:
        harness.save("transformer_step", what, times, "airank_fast", target_tokens_per_s=rates)


def time_attention(case: str, rounds: int) -> None:
    """Ways to attend, forward and backward, over the sentences of a batch: encoder's, decoder's, and to the source."""
    module = importlib.import_module("airank_fast.nn.packed_attention")  # nn has a function of this name
    job = job_of(case, "fp32")
    batch, heads = batch_of(case, job), job.recipe.heads
    of_source, of_target = (PackedSequences(sizes, DEVICE) for sizes in (batch.source_lengths, batch.target_lengths))
    ways = {
        "packed_attention": (module._CALL, module._COPIES),
        "a call for each pair of lengths": (0, 0),
        "one padded call": (10**9, -(10**9)),
    }

    def attend(costs: tuple[int, int], qkv: list[Tensor], sequences, dropout_p: float, others: dict) -> None:
        module._CALL, module._COPIES = costs
        packed_attention(*qkv, sequences, dropout_p, **others).sum().backward()

    forms = {
        "self": (of_source, of_source, {}),
        "causal": (of_target, of_target, {"causal": True}),
        "cross": (of_target, of_source, {"key_sequences": of_source}),
    }
    for (form, (queries, keys, others)), dropout_p in itertools.product(forms.items(), (0.0, 0.1)):
        qkv = [
            torch.randn(its.num_tokens, heads, job.recipe.width // heads, device=DEVICE, requires_grad=True)
            for its in (queries, keys, keys)
        ]
        contestants = {name: partial(attend, costs, qkv, queries, dropout_p, others) for name, costs in ways.items()}
        times = harness.time_rounds(contestants, num_rounds=rounds, device=DEVICE.type, num_warm_up=2)
        print(harness.as_text(f"{case}, {form} attention, dropout {dropout_p}", times, "packed_attention"))


def main() -> None:
    """Time, print; save on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = ["interface", "base", "base_similar"] if DEVICE.type == "cpu" else list(CASES)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=usual)
    parser.add_argument("--precisions", nargs="+", choices=["fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="takes minutes")
    parser.add_argument("--attention", action="store_true", help="time ways to attend instead")
    parser.add_argument("--save", action="store_true", help="append to bench/results/transformer_step.jsonl")
    arguments = parser.parse_args()
    if arguments.save and not harness.wait_until_idle(DEVICE.type):
        parser.exit(1, "the machine is busy: nothing was measured\n")
    if arguments.attention:
        for case in arguments.cases:
            time_attention(case, arguments.rounds)
        return
    native = amp_choice(DEVICE).precision == "bf16"
    chosen = ["bf16"] if DEVICE.type == "cuda" else ["fp32", "bf16"] if native else ["fp32"]
    for precision, case in itertools.product(arguments.precisions or chosen, arguments.cases):
        time_steps(case, precision, arguments)


if __name__ == "__main__":
    main()
