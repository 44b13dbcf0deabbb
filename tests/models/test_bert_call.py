"""BERT called as Hugging Face's is: outputs by name and number, hidden states, embeddings, odd batches, tools."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from bert_pair import SMALL, ours, padded_batch, theirs, unpadded
from torch import nn

from airank_fast.errors import UserError
from airank_fast.models import bert

transformers = pytest.importorskip("transformers")
CLOSE = {"rtol": 1e-11, "atol": 1e-12}


@pytest.fixture(scope="module")
def reference():
    return theirs()


@pytest.fixture(scope="module")
def model(reference):
    return ours(reference)


def inputs(batch):
    return {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}


@pytest.mark.parametrize("with_labels", [True, False])
def test_outputs_are_read_by_attribute_name_and_number(reference, model, with_labels):
    batch = padded_batch() if with_labels else inputs(padded_batch())
    expected, out = reference(**batch), model(**batch)
    assert list(out) == list(out.keys()) == list(expected)
    assert len(out) == len(expected) == len(out.to_tuple())
    for number, (name, value) in enumerate(out.items()):
        assert out[name] is value is out[number] is getattr(out, name) is out.values()[number]
    assert [t.shape for t in out[1:]] == [t.shape for t in out.to_tuple()[1:]]
    with pytest.raises(KeyError):
        out["attentions"]
    as_tuple = model(**batch, return_dict=False)
    assert type(as_tuple) is tuple
    assert all(torch.equal(a, b) for a, b in zip(as_tuple, out.to_tuple(), strict=True))
    assert model(**batch, return_dict=True).keys() == out.keys()


def test_hidden_states_are_hugging_faces_at_real_tokens(reference, model):
    batch = padded_batch()
    real = batch["attention_mask"].bool()
    expected = reference(**inputs(batch), output_hidden_states=True).hidden_states
    got = model(**inputs(batch), output_hidden_states=True).hidden_states
    assert len(got) == len(expected) == SMALL["num_hidden_layers"] + 1
    for ours_, theirs_ in zip(got, expected, strict=True):
        torch.testing.assert_close(ours_[real], theirs_[real], **CLOSE)
        assert not ours_[~real].any()
    packed = model(**unpadded(batch), output_hidden_states=True).hidden_states
    assert all(torch.equal(a, b[real]) for a, b in zip(packed, got, strict=True))
    assert model(**batch).hidden_states is None


def test_embeddings_stand_in_for_token_numbers(reference, model):
    batch = padded_batch()
    embeds = model.bert.embeddings.word_embeddings(batch.pop("input_ids")).detach()
    expected, got = reference(inputs_embeds=embeds, **batch), model(inputs_embeds=embeds, **batch)
    torch.testing.assert_close(got.loss, expected.loss, rtol=1e-12, atol=0)
    ids = padded_batch()["input_ids"]
    with pytest.raises(UserError, match="one of input_ids and inputs_embeds must be given, got both"):
        model(ids, inputs_embeds=embeds)
    # the fifth of Hugging Face's arguments
    by_place = model(None, batch["attention_mask"], batch["token_type_ids"], None, embeds, batch["labels"])
    assert torch.equal(by_place.prediction_logits, got.prediction_logits)


def test_an_empty_batch_gives_empty_logits_and_no_gradient(model):
    batch = {name: tensor[:0] for name, tensor in padded_batch().items()}
    got = model(**inputs(batch))
    assert got.prediction_logits.shape == (0, 16, SMALL["vocab_size"])
    assert got.seq_relationship_logits.shape == (0, 2)
    assert model(**batch).loss.isnan()  # the mean of nothing, as torch's cross entropy has it
    model.zero_grad()
    got.prediction_logits.sum().backward()
    assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)


def test_a_row_without_real_tokens_is_its_first_token_and_leaves_the_others_alone(model):
    batch = inputs(padded_batch())
    expected = model(**batch)
    batch["attention_mask"] = batch["attention_mask"].clone()
    batch["attention_mask"][1] = 0
    got = model(**batch)
    others = [0, 2, 3, 4]
    torch.testing.assert_close(got.prediction_logits[others], expected.prediction_logits[others], **CLOSE)
    torch.testing.assert_close(got.seq_relationship_logits[others], expected.seq_relationship_logits[others], **CLOSE)
    alone = model(batch["input_ids"][1:2, :1], token_type_ids=batch["token_type_ids"][1:2, :1])
    torch.testing.assert_close(got.prediction_logits[1:2, :1], alone.prediction_logits, **CLOSE)
    assert not got.prediction_logits[1, 1:].any()


def test_padding_on_the_left_is_judged_by_the_first_real_token(model):
    batch = inputs(padded_batch())
    lengths = batch["attention_mask"].sum(1)
    positions = torch.arange(16)
    expected = model(**batch, position_ids=positions[None])
    moved = {
        name: torch.stack([row.roll(16 - int(n)) for row, n in zip(t, lengths, strict=True)])
        for name, t in batch.items()
    }
    moved["position_ids"] = torch.stack([positions.roll(16 - int(n)) for n in lengths])
    torch.testing.assert_close(model(**moved).seq_relationship_logits, expected.seq_relationship_logits, **CLOSE)


def test_the_configuration_is_read_by_name_and_by_attribute(model):
    config = model.config
    assert config.hidden_size == config["hidden_size"] == 32
    assert config.model_type == "bert"
    assert config.use_cache is False
    assert json.loads(config.to_json_string()) == config.to_dict() == dict(config)
    assert not hasattr(config, "no_such_option")
    assert copy.deepcopy(model).config == config
    assert bert.BertForPreTraining(**config).config == config


def test_dynamic_quantisation_keeps_the_logits(reference):
    small = ours(theirs(torch.float32), fused=False).eval()
    quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(small), {nn.Linear}, dtype=torch.qint8)
    batch = inputs(padded_batch())
    expected, got = small(**batch).seq_relationship_logits, quantised(**batch).seq_relationship_logits
    assert not torch.equal(got, expected)
    torch.testing.assert_close(got, expected, rtol=0, atol=0.2)


@pytest.mark.parametrize("fused", [True, False])
def test_export_without_a_mask_and_its_refusal_with_one(reference, fused):
    small, batch = ours(reference, fused=fused).eval(), padded_batch()
    arguments = {"input_ids": batch["input_ids"], "token_type_ids": batch["token_type_ids"]}
    program = torch.export.export(small, (), arguments, strict=False)
    expected, got = small(**arguments), program.module()(**arguments)
    torch.testing.assert_close(got.prediction_logits, expected.prediction_logits, **CLOSE)
    with pytest.raises(UserError, match="attention_mask and labels must be None for torch"):
        torch.export.export(small, (), inputs(batch), strict=False)


def test_transformers_trainer_trains_and_evaluates_it(tmp_path):
    pytest.importorskip("accelerate")
    batch = padded_batch()
    rows = [{name: tensor[i] for name, tensor in batch.items()} for i in range(5)]
    arguments = transformers.TrainingArguments(
        tmp_path,
        max_steps=3,
        report_to=[],
        per_device_train_batch_size=5,
        learning_rate=1e-2,
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        label_names=["labels", "next_sentence_label"],
        per_device_eval_batch_size=5,
    )
    small = bert.BertForPreTraining(**SMALL)
    trainer = transformers.Trainer(small, arguments, train_dataset=rows, eval_dataset=rows)
    before = trainer.evaluate()["eval_loss"]
    assert before == pytest.approx(small.eval()(**batch).loss.item(), rel=1e-5)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before
