"""BERT's training step against Hugging Face's, with torch's AdamW and SDPA: sequences/s and real tokens/s.

    python bench/bert.py [--size large] [--layers N] [--cases s128 s512] [--precisions fp32 bf16] [--rounds N]
                         [--compile] [--save]
    python bench/bert.py --attention

Peers, in the same run, on the same sequences and in turns: Hugging Face's BertForPreTraining, for bf16 under autocast,
padded to the longest sequence of the batch, eager and (--compile) under torch.compile. airank_fast is the engine's
TrainingStep with the recipe's model and FusedLAMB, which does more than AdamW. Dropout is 0.1 for all; 15 % of the
tokens are masked. Without --precisions: fp32, and bf16 where --amp chooses it; on a GPU bf16 alone.

    s128    every sequence full, 128 tokens
    s512    up to 512 tokens: one sequence in ten is full, the others' lengths are uniform from 5 to 511, 283 on
            average. Wikipedia's samples average about half of 512: sentence pairs fill it unless the document ends
            before, and one in ten has a shorter random length. The lengths are drawn once, from a fixed seed.

On a CPU the network has --layers layers (default 2 there), as all layers take the same time. --attention times
implementations of attention over sequences of several lengths, from which `packed_attention` was chosen.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import replace
from functools import partial

import harness
import torch
from torch.nn import functional as F

from airank_fast.data.text.tokens import TokenBatch
from airank_fast.engine import weights
from airank_fast.engine.precision import amp_choice
from airank_fast.engine.step import TrainingStep
from airank_fast.models import bert as network
from airank_fast.nn import PackedSequences, packed_attention
from airank_fast.nn.packed_attention import _written_out
from airank_fast.recipes import bert

CASES = {"s128": (128, 16), "s512": (512, 8)}  # longest sequence, batch on a CPU
CUDA_BATCHES = {"s128": 256, "s512": 64}
VOCAB_SIZE = 30522


def lengths_of(case: str, batch_size: int) -> list[int]:
    """Tokens of each sequence, short ones first."""
    longest, draw = CASES[case][0], random.Random(0)
    if case == "s128":
        return [longest] * batch_size
    return sorted(longest if draw.random() < 0.1 else draw.randint(5, longest - 1) for _ in range(batch_size))


def made_up(lengths: list[int], device: torch.device) -> tuple[TokenBatch, dict]:
    """The same batch without padding and padded."""
    generator = torch.Generator().manual_seed(0)
    real = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids = torch.randint(1000, VOCAB_SIZE, real.shape, generator=generator) * real
    masked = (torch.rand(real.shape, generator=generator) < 0.15) & real
    masked[:, 0] = True
    labels = torch.where(masked, ids, -100)
    is_next = torch.randint(2, (len(lengths),), generator=generator)
    types = torch.zeros_like(ids)
    packed = TokenBatch(
        input_ids=ids[real],
        token_type_ids=types[real],
        position_ids=torch.cat([torch.arange(length) for length in lengths]),
        masked_positions=masked[real].nonzero()[:, 0],
        labels=labels[real & masked],
        next_sentence_label=is_next,
        lengths=lengths,
    )
    for name, tensor in vars(packed).items():
        if isinstance(tensor, torch.Tensor):
            setattr(packed, name, tensor.to(device))
    padded = {"input_ids": ids, "token_type_ids": types, "labels": labels, "next_sentence_label": is_next}
    if not real.all():
        padded["attention_mask"] = real.long()
    return packed, {name: tensor.to(device) for name, tensor in padded.items()}


def recipe_of(size: str, layers: int | None, dropout: float, precision: str) -> tuple[bert.Job, dict]:
    recipe = replace(bert.MLPERF, size=size, dropout=dropout, precision=precision)
    config = network.size(size) | ({"num_hidden_layers": layers} if layers else {})
    config |= {"vocab_size": VOCAB_SIZE, "hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return bert.Job(recipe, bert.Options()), config


def our_step(job: bert.Job, config: dict, device: torch.device):
    model = weights.apply(network.BertForPreTraining(**config), job.recipe.precision, device)
    scaler = torch.amp.GradScaler(device.type, enabled=False)
    training_step = TrainingStep(job.updates({"model": model}, device), {"model": model}, scaler)
    return lambda packed: training_step([packed], learning_rate=1e-4), model


def their_step(config: dict, device: torch.device, compiled: bool, precision: str):
    import transformers

    model = transformers.BertForPreTraining(transformers.BertConfig(**config, attn_implementation="sdpa")).to(device)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    forward = harness.compiled(model) if compiled else model

    def step(padded) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = forward(**padded).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    return step, model


def check(size: str, device: torch.device, precision: str) -> None:
    """From the same weights and without dropout both must give the same loss to the precision's rounding."""
    job, config = recipe_of(size, 2, 0.0, precision)
    _, theirs = their_step(config, device, False, precision)
    ours = network.BertForPreTraining(**config)
    ours.load_state_dict(theirs.state_dict())
    ours = weights.apply(ours, precision, device)
    packed, padded = made_up(lengths_of("s512", 4), device)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        expected = theirs(**padded).loss
    rtol = 2e-3 if precision == "bf16" else 1e-5
    torch.testing.assert_close(job.loss(ours, packed), expected.float(), rtol=rtol, atol=0)


def bench_step(case: str, arguments, device: torch.device, precision: str) -> None:
    batch_size = arguments.batch_size or (CUDA_BATCHES[case] if device.type == "cuda" else CASES[case][1])
    lengths = lengths_of(case, batch_size)
    packed, padded = made_up(lengths, device)
    job, config = recipe_of(arguments.size, arguments.layers, 0.1, precision)
    steps = {"airank_fast": partial(our_step(job, config, device)[0], packed)}
    steps["transformers eager"] = partial(their_step(config, device, False, precision)[0], padded)
    if arguments.compile:
        steps["transformers compiled"] = partial(their_step(config, device, True, precision)[0], padded)
    times = harness.time_rounds(steps, num_rounds=arguments.rounds, device=device.type, num_warm_up=2, ahead=False)
    medians = {name: harness.timing(values).median_s for name, values in times.items()}
    sequences = {name: batch_size / median for name, median in medians.items()}
    tokens = {name: sum(lengths) / median for name, median in medians.items()}
    shape = f"{config['num_hidden_layers']} layers of {config['hidden_size']}"
    what = f"BERT training step, {shape}, {case}, batch {batch_size}, {sum(lengths)} tokens, {precision}, {device.type}"
    if arguments.save:
        facts = {"sequences_per_s": sequences, "tokens_per_s": tokens, "lengths": lengths}
        harness.save("bert", what, times, "airank_fast", **facts)
    print(harness.as_text(what, times, "airank_fast"))
    print("  sequences/s: " + ", ".join(f"{name} {rate:.2f}" for name, rate in sequences.items()))
    print("  tokens/s: " + ", ".join(f"{name} {rate:.0f}" for name, rate in tokens.items()))


def bench_attention(device: torch.device, dropout_p: float, num_rounds: int) -> None:
    """Implementations of attention on one layer's heads of BERT-large, forward and backward."""
    lengths = lengths_of("s512", 8)
    total, longest = sum(lengths), max(lengths)
    sequences = PackedSequences(lengths, device)
    qkv = [torch.randn(total, 16, 64, device=device, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    grad = torch.randn(total, 16, 64, device=device, dtype=torch.bfloat16)
    real = (torch.arange(longest) < torch.tensor(lengths)[:, None]).to(device)
    places = real.flatten().nonzero()[:, 0]

    def padded() -> torch.Tensor:
        room = [t.new_zeros(real.numel(), 16, 64).index_copy(0, places, t).unflatten(0, real.shape) for t in qkv]
        mask = torch.zeros_like(real, dtype=torch.bfloat16).masked_fill(~real, float("-inf"))[:, None, None]
        y = F.scaled_dot_product_attention(
            *(t.transpose(1, 2) for t in room), attn_mask=mask.expand(-1, 1, longest, -1), dropout_p=dropout_p
        )
        return y.transpose(1, 2).flatten(0, 1)[places]

    def jagged() -> torch.Tensor:
        limits = {"min_seqlen": min(lengths), "max_seqlen": longest}
        rows = (torch.nested.nested_tensor_from_jagged(t, sequences.offsets, **limits).transpose(1, 2) for t in qkv)
        return F.scaled_dot_product_attention(*rows, dropout_p=dropout_p).transpose(1, 2).values()

    def runs(attend) -> torch.Tensor:
        parts = zip(*(t.split(lengths) for t in qkv), strict=True)
        by_head = ([t[None].transpose(1, 2) for t in part] for part in parts)
        return torch.cat([attend(*part, dropout_p=dropout_p).transpose(1, 2)[0] for part in by_head])

    ways = {
        "packed_attention": lambda: packed_attention(*qkv, sequences, dropout_p),
        "SDPA, one by one": lambda: runs(F.scaled_dot_product_attention),
        "written out, one by one": lambda: runs(_written_out),
        "SDPA, padded and masked": padded,
        "SDPA, jagged": jagged,
    }
    if dropout_p == 0:
        for name, way in ways.items():
            torch.testing.assert_close(way(), ways["packed_attention"](), rtol=0.05, atol=0.05, msg=name)
    contestants = {name: partial(lambda way: way().backward(grad), way) for name, way in ways.items()}
    times = harness.time_rounds(contestants, num_rounds=num_rounds, device=device.type, num_warm_up=1)
    case = f"attention, 16 heads of 64, lengths {lengths}, dropout {dropout_p}, bf16, {device.type}"
    print(harness.as_text(case, times, "packed_attention"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(network.SIZES), default="large")
    parser.add_argument("--layers", type=int, help="default: 2 on a CPU, all on a GPU")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--precisions", nargs="+", choices=["fp32", "bf16"])
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compile", action="store_true", help="torch.compile as a further peer (slow to start)")
    parser.add_argument("--attention", action="store_true", help="time ways to attend instead")
    parser.add_argument("--save", action="store_true", help="append to bench/results")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    arguments.layers = arguments.layers or (2 if device.type == "cpu" else None)
    torch.manual_seed(0)
    if arguments.attention:
        for dropout_p in (0.0, 0.1):
            bench_attention(device, dropout_p, arguments.rounds)
        return
    native = amp_choice(device).precision == "bf16"
    usual = ["bf16"] if device.type == "cuda" else ["fp32", "bf16"] if native else ["fp32"]
    for precision in arguments.precisions or usual:
        check(arguments.size, device, precision)
        for case in arguments.cases:
            bench_step(case, arguments, device, precision)


if __name__ == "__main__":
    main()
