"""A small BERT of Hugging Face and of airank_fast with the same weights, and a batch for both, padded and unpadded."""

from __future__ import annotations

import pytest
import torch

from airank_fast.models import bert
from airank_fast.nn import PackedSequences

transformers = pytest.importorskip("transformers")

SMALL = {
    "vocab_size": 101,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 20,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
LENGTHS = (7, 16, 1, 16, 12)


def theirs(dtype=torch.float64, **changes) -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.BertConfig(**SMALL | changes, attn_implementation="eager")
    model = transformers.BertForPreTraining(config).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():  # initial biases are 0, and LayerNorm's weights 1
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def ours(model: torch.nn.Module, **changes) -> bert.BertForPreTraining:
    made = bert.BertForPreTraining(**SMALL | changes).to(next(model.parameters()).dtype)
    made.load_state_dict(model.state_dict())
    return made


def padded_batch(seed: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (len(LENGTHS), max(LENGTHS))
    mask = (torch.arange(shape[1]) < torch.tensor(LENGTHS)[:, None]).long()
    input_ids = torch.randint(1, SMALL["vocab_size"], shape, generator=generator) * mask
    chosen = (torch.rand(shape, generator=generator) < 0.3) & mask.bool()
    chosen[:, 0] = True
    return {
        "input_ids": input_ids,
        "attention_mask": mask,
        "token_type_ids": torch.randint(0, 2, shape, generator=generator) * mask,
        "labels": torch.where(chosen, torch.randint(1, SMALL["vocab_size"], shape, generator=generator), -100),
        "next_sentence_label": torch.randint(0, 2, shape[:1], generator=generator),
    }


def unpadded(batch: dict[str, torch.Tensor]) -> dict:
    """The same batch as the recipe makes it: real tokens alone."""
    real = batch["attention_mask"].bool()
    labels = batch["labels"][real]
    masked = (labels != -100).nonzero()[:, 0]
    return {
        "input_ids": batch["input_ids"][real],
        "token_type_ids": batch["token_type_ids"][real],
        "position_ids": torch.cat([torch.arange(length) for length in LENGTHS]),
        "sequences": PackedSequences(LENGTHS),
        "masked_positions": masked,
        "labels": labels[masked],
        "next_sentence_label": batch["next_sentence_label"],
    }
