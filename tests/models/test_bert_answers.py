"""BERT for questions against Hugging Face's BertForQuestionAnswering: results, gradients, names."""

from __future__ import annotations

import pytest
import torch
from bert_pair import LENGTHS, SMALL, padded_batch, unpadded

from airank_fast.models import bert
from airank_fast.models.bert_answers import BertForQuestionAnswering

transformers = pytest.importorskip("transformers")


def theirs(dtype=torch.float64) -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.BertConfig(**SMALL, attn_implementation="eager")
    model = transformers.BertForQuestionAnswering(config).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def packed() -> dict:
    names = ("input_ids", "token_type_ids", "position_ids", "sequences")
    return {name: value for name, value in unpadded(padded_batch()).items() if name in names}


@pytest.mark.parametrize("fused", [True, False])
def test_scores_and_gradients_are_hugging_faces(fused):
    reference = theirs()
    model = BertForQuestionAnswering(**SMALL, fused=fused).double()
    model.load_state_dict(reference.state_dict())
    batch = {name: padded_batch()[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    output = reference(**batch)
    real = batch["attention_mask"].bool()
    expected = torch.stack([output.start_logits, output.end_logits], 2)[real]
    got = model(**packed())
    assert got.shape == (sum(LENGTHS), 2)
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-12)
    weights = torch.randn(got.shape, dtype=got.dtype, generator=torch.Generator().manual_seed(2))
    (expected * weights).sum().backward()
    (got * weights).sum().backward()
    exact = dict(reference.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, exact[name].grad, rtol=1e-9, atol=1e-13)


def test_names_are_hugging_faces_and_old_poolers_are_left_out():
    model, reference = BertForQuestionAnswering(**SMALL), theirs(torch.float32)
    assert model.state_dict().keys() == reference.state_dict().keys()
    old = reference.state_dict() | {
        "bert.pooler.dense.weight": torch.zeros(32, 32),
        "bert.pooler.dense.bias": torch.zeros(32),
        "bert.embeddings.position_ids": torch.arange(20)[None],
    }
    model.load_state_dict(old)
    assert torch.equal(model.qa_outputs.bias, reference.qa_outputs.bias)


def test_number_of_parameters_of_bert_large():
    with torch.device("meta"):
        model = BertForQuestionAnswering(**bert.size("large"))
        reference = transformers.BertForQuestionAnswering(
            transformers.BertConfig(**bert.size("large"), attn_implementation="eager")
        )
    number = sum(parameter.numel() for parameter in model.parameters())
    assert number == sum(parameter.numel() for parameter in reference.parameters()) == 334_094_338
