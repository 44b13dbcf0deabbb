"""BERT against Hugging Face's: names, results, gradients, checkpoints both ways; and padded against unpadded."""

from __future__ import annotations

import pytest
import torch
from bert_pair import SMALL, ours, padded_batch, theirs, unpadded
from safetensors.torch import load_file, save_file

from airank_fast.errors import UserError
from airank_fast.models import bert

transformers = pytest.importorskip("transformers")


def gradients(model, loss) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_number_of_parameters_of_bert_large():
    with torch.device("meta"):
        model = bert.BertForPreTraining(**bert.size("large"))
    assert sum(parameter.numel() for parameter in model.parameters()) == 336_226_108


@pytest.mark.parametrize(("vocab_size", "fused"), [(101, True), (104, True), (101, False)])
def test_forward_loss_and_gradients_are_hugging_faces_in_float64(vocab_size, fused):
    reference = theirs(vocab_size=vocab_size)
    model, batch = ours(reference, vocab_size=vocab_size, fused=fused), padded_batch()
    expected, got = reference(**batch), model(**batch)
    torch.testing.assert_close(got.loss, expected.loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(got.seq_relationship_logits, expected.seq_relationship_logits, rtol=1e-11, atol=1e-12)
    at_masked = expected.prediction_logits[batch["labels"] != -100]
    torch.testing.assert_close(got.prediction_logits, at_masked, rtol=1e-11, atol=1e-12)
    exact, mine = gradients(reference, expected.loss), gradients(model, got.loss)
    assert mine.keys() == exact.keys()
    for name in exact:
        torch.testing.assert_close(mine[name], exact[name], rtol=1e-9, atol=1e-13, msg=lambda m, n=name: f"{n}: {m}")


def test_behind_the_last_attention_only_the_tokens_are_computed_that_a_head_reads():
    model, batch = ours(theirs()), padded_batch()
    rows = []
    for layer in model.bert.encoder["layer"]:
        layer.intermediate["dense"].register_forward_hook(lambda module, args, output: rows.append(len(args[0])))
    got = model(**batch)
    num_tokens, num_heads_read = int(batch["attention_mask"].sum()), int((batch["labels"] != -100).sum())
    assert rows == [num_tokens] * (len(rows) - 1) + [num_heads_read + len(batch["input_ids"])]
    whole = model(**batch, output_hidden_states=True)  # every token of every layer
    assert rows[-1] == num_tokens
    torch.testing.assert_close(got.prediction_logits, whole.prediction_logits, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(got.seq_relationship_logits, whole.seq_relationship_logits, rtol=1e-12, atol=1e-13)


def test_float32_is_no_farther_from_float64_than_twice_hugging_face():
    exact, reference = theirs(), theirs(torch.float32)
    exact.load_state_dict(reference.state_dict())  # float32 values
    model, batch = ours(reference), padded_batch()
    outputs = {"exact": exact(**batch), "theirs": reference(**batch), "ours": model(**batch)}
    assert outputs["ours"].loss.dtype == torch.float32
    masked = batch["labels"] != -100
    logits = {name: output.prediction_logits for name, output in outputs.items()}
    logits |= {name: logits[name][masked] for name in ("exact", "theirs")}
    error = {name: (logits[name] - logits["exact"]).abs().max().item() for name in ("theirs", "ours")}
    assert error["ours"] <= 2 * error["theirs"]
    eps = torch.finfo(torch.float32).eps
    assert outputs["ours"].loss.item() == pytest.approx(outputs["exact"].loss.item(), rel=8 * eps)
    found = {
        name: gradients(module, outputs[name].loss)
        for name, module in (("exact", exact), ("theirs", reference), ("ours", model))
    }
    largest = max(gradient.norm().item() for gradient in found["exact"].values())  # a key's bias has a gradient of 0
    for name, exact_gradient in found["exact"].items():
        error = {who: (found[who][name] - exact_gradient).norm().item() for who in ("theirs", "ours")}
        assert error["ours"] <= 2 * error["theirs"] + eps * largest, name


def test_without_labels_logits_are_padded_again():
    reference = theirs()
    batch = {name: tensor for name, tensor in padded_batch().items() if name in ("input_ids", "attention_mask")}
    expected, got = reference(**batch), ours(reference)(**batch)
    real = batch["attention_mask"].bool()
    assert got.loss is None
    assert got.prediction_logits.shape == expected.prediction_logits.shape
    torch.testing.assert_close(got.prediction_logits[real], expected.prediction_logits[real], rtol=1e-11, atol=1e-12)
    assert not got.prediction_logits[~real].any()
    whole = {"input_ids": batch["input_ids"]}  # no mask: the padding token is a token like any other
    torch.testing.assert_close(
        ours(reference)(**whole).prediction_logits, reference(**whole).prediction_logits, rtol=1e-11, atol=1e-12
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_padded_and_unpadded_give_the_same_loss_and_gradients(dtype):
    model, batch = ours(theirs(dtype)), padded_batch()
    padded, packed = model(**batch), model(**unpadded(batch))
    assert torch.equal(padded.loss, packed.loss)
    expected, got = gradients(model, padded.loss), gradients(model, model(**unpadded(batch)).loss)
    assert all(torch.equal(got[name], expected[name]) for name in expected)
    order = torch.tensor([3, 0, 4, 1, 2])  # other neighbours, other runs of equal length
    moved = model(**{name: tensor[order] for name, tensor in batch.items()})
    torch.testing.assert_close(moved.loss, padded.loss, rtol=8 * torch.finfo(dtype).eps, atol=0)


def test_dropout_drops_about_its_share_and_only_in_training():
    model = bert.BertForPreTraining(**SMALL | {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1})
    batch = unpadded(padded_batch())
    assert not torch.equal(model(**batch).loss, model(**batch).loss)
    model.eval()
    assert torch.equal(model(**batch).loss, model(**batch).loss)


def test_a_checkpoint_of_hugging_face_goes_in_and_comes_out_equal(tmp_path):
    reference = theirs(torch.float32)
    reference.save_pretrained(tmp_path / "theirs")
    model = bert.BertForPreTraining(**SMALL)
    model.load_state_dict(load_file(tmp_path / "theirs" / "model.safetensors"))
    reference.config.save_pretrained(tmp_path / "ours")
    save_file(model.state_dict(), tmp_path / "ours" / "model.safetensors", metadata={"format": "pt"})
    back, report = transformers.BertForPreTraining.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    for name, tensor in reference.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name


def test_names_of_old_checkpoints_are_understood():
    reference = theirs(torch.float32)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in reference.state_dict().items()
    }
    old["bert.embeddings.position_ids"] = torch.arange(20)[None]
    model = bert.BertForPreTraining(**SMALL)
    model.load_state_dict(old)
    assert torch.equal(model.bert.embeddings.LayerNorm.bias, reference.bert.embeddings.LayerNorm.bias)


def test_wrong_input_is_named():
    model, batch = bert.BertForPreTraining(**SMALL), padded_batch()
    with pytest.raises(UserError, match=r"attention_mask must have the shape of input_ids, \[5, 16\], got \[5, 15\]"):
        model(batch["input_ids"], batch["attention_mask"][:, 1:])
    with pytest.raises(UserError, match="labels must be -100 where attention_mask is 0"):
        model(**batch | {"labels": torch.ones_like(batch["labels"])})
    with pytest.raises(UserError, match=r"labels must have the shape of input_ids, \[5, 16\], got \[5, 15\]"):
        model(batch["input_ids"], labels=batch["labels"][:, 1:])
    with pytest.raises(UserError, match="one of input_ids and inputs_embeds must be given, got neither"):
        model(attention_mask=batch["attention_mask"])
    with pytest.raises(UserError, match="output_attentions must be False, got True"):
        model(batch["input_ids"], output_attentions=True)
    with pytest.raises(UserError, match="hidden_size must be a multiple of num_attention_heads = 5, got 32"):
        bert.BertForPreTraining(**SMALL | {"num_attention_heads": 5})
