"""The Transformer: against torch.nn.Transformer and Marian, names of public checkpoints, and no work on padding."""

from __future__ import annotations

import argparse
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from known_weights import fill
from torch import nn

from airank_fast.engine import weights
from airank_fast.errors import UserError
from airank_fast.models.transformer import Transformer, from_public, sinusoids, size
from airank_fast.nn import PackedSequences
from airank_fast.recipes.checkpoints import load_into

MARIAN = Path(__file__).with_name("transformer_marian.npz")
SMALL = {"vocab_size": 37, "width": 16, "inner_width": 24, "num_heads": 2, "encoder_layers": 2, "decoder_layers": 1}
SOURCE, TARGET = PackedSequences([3, 5, 9]), PackedSequences([4, 4, 7])
OF_TORCH = {  # torch.nn.Transformer's names, and fairseq's of before 2019
    "linear1": "fc1",
    "linear2": "fc2",
    "multihead_attn": "encoder_attn",
    "encoder.norm": "encoder.layer_norm",
    "decoder.norm": "decoder.layer_norm",
    "norm1": "self_attn_layer_norm",
    "norm3": "final_layer_norm",
}


def tokens(num: int, seed: int) -> torch.Tensor:
    return torch.randint(3, 37, (num,), generator=torch.Generator().manual_seed(seed))


def batch() -> tuple[torch.Tensor, PackedSequences, torch.Tensor, PackedSequences]:
    return tokens(17, 0), SOURCE, tokens(15, 1), TARGET


def fairseq_name(name: str) -> str:
    for theirs, ours in OF_TORCH.items():
        name = name.replace(theirs, ours)
    return name.replace("norm2", "encoder_attn_layer_norm" if name.startswith("decoder") else "final_layer_norm")


def torchs(pre_norm: bool) -> nn.Transformer:
    """torch's, without the norms that it has at the end of a post-norm network too."""
    torch.manual_seed(0)
    model = nn.Transformer(16, 2, 2, 1, 24, 0.0, batch_first=True, norm_first=pre_norm, dtype=torch.float64)
    if not pre_norm:
        model.encoder.norm = model.decoder.norm = None
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


def padded(x: torch.Tensor, sequences: PackedSequences) -> torch.Tensor:
    return nn.utils.rnn.pad_sequence(x.split(list(sequences.lengths)), batch_first=True)


@pytest.mark.parametrize(("name", "number"), [("base", 61_396_992), ("big", 210_874_368)])
def test_number_of_parameters(name, number):
    """By hand: the embeddings; 4 d^2 + 4 d of an attention, 2 d f + f + d of a feed-forward, 2 d of a norm."""
    with torch.device("meta"):
        model = Transformer(33_708, **size(name))
    assert sum(parameter.numel() for parameter in model.parameters()) == number
    d = size(name)["width"]
    attention, feed_forward, norm = 4 * d * d + 4 * d, 8 * d * d + 5 * d, 2 * d
    assert number == 33_708 * d + 6 * (3 * attention + 2 * feed_forward + 5 * norm)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("pre_norm", [True, False])
def test_outputs_and_gradients_are_those_of_torchs_transformer(pre_norm, fused):
    """Padded there and masked; its names are turned into those of old fairseq, with one `in_proj` of three."""
    reference = torchs(pre_norm)
    model = Transformer(**SMALL, pre_norm=pre_norm, dropout=0.0, fused=fused).double()
    named = {fairseq_name(name): tensor for name, tensor in reference.state_dict().items()}
    missing, unexpected = model.load_state_dict(from_public(named), strict=False)
    assert (missing, unexpected) == (["encoder.embed_tokens.weight"], [])
    source, source_sequences, previous, target_sequences = batch()

    def embedded(x: torch.Tensor, sequences: PackedSequences) -> torch.Tensor:
        positions = sinusoids(9, 16).double()
        at = torch.cat([positions[:length] for length in sequences.lengths])
        return padded(model.encoder.embed_tokens.weight[x] * 4 + at, sequences)

    real = padded(torch.ones_like(previous), target_sequences).bool()
    is_padding = ~padded(torch.ones_like(source), source_sequences).bool()
    expected = reference(
        embedded(source, source_sequences),
        embedded(previous, target_sequences),
        tgt_mask=nn.Transformer.generate_square_subsequent_mask(7, dtype=torch.float64),
        src_key_padding_mask=is_padding.double().masked_fill(is_padding, -torch.inf),
        memory_key_padding_mask=is_padding.double().masked_fill(is_padding, -torch.inf),
    )[real]
    expected = expected @ model.encoder.embed_tokens.weight.T
    got = model(*batch())
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-12)
    factors = torch.randn(got.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    (expected * factors).sum().backward()
    gradients = {fairseq_name(name): p.grad for name, p in reference.named_parameters()}
    embeddings, model.encoder.embed_tokens.weight.grad = model.encoder.embed_tokens.weight.grad, None
    (got * factors).sum().backward()
    gradients = from_public(gradients) | {"encoder.embed_tokens.weight": embeddings}
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")


def test_positions_are_fairseqs_and_marians():
    """fairseq: sin(p / 10000^(i / (half - 1))) from its padding token, 1, on, that is p = 2."""
    ours, half = sinusoids(5, 16), 8
    for position, i in ((0, 0), (3, 2), (4, 7)):
        angle = (position + 2) * np.exp(-i * np.log(10_000) / (half - 1))
        assert ours[position, i].item() == pytest.approx(np.sin(angle), abs=1e-6)
        assert ours[position, half + i].item() == pytest.approx(np.cos(angle), abs=1e-6)
    with np.load(MARIAN) as file:
        torch.testing.assert_close(sinusoids(8, 16, marian=True), torch.from_numpy(file["positions"]))


def of_marian(model: Transformer) -> dict[str, torch.Tensor]:
    """The weights under Hugging Face's names, with what its files have beside them."""
    found = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    embeddings = found.pop("model.encoder.embed_tokens.weight")
    found["final_logits_bias"] = found.pop("model.decoder.output_projection.bias")[None]
    for name in ("model.shared", "model.encoder.embed_tokens", "model.decoder.embed_tokens", "lm_head"):
        found[f"{name}.weight"] = embeddings
    for side in ("encoder", "decoder"):
        found[f"model.{side}.embed_positions.weight"] = sinusoids(32, 16, marian=True)
    return found


def test_logits_are_those_of_marian_with_its_weights(tmp_path):
    """Of transformers 5.24.0's MarianMTModel with `known_weights.fill`'s weights, padded, by its attention masks.

    d_model 16, 2 heads, encoder_ffn_dim and decoder_ffn_dim 24, 2 and 1 layers, activation swish, scale_embedding.
    """
    with np.load(MARIAN) as file:
        expected, source, previous = (torch.from_numpy(file[name]) for name in ("logits", "source", "previous"))
    torch.save(of_marian(fill(Transformer(**SMALL, marian=True))), tmp_path / "pytorch_model.bin")
    model = Transformer(**SMALL, marian=True, activation="swish").eval()
    load_into(model, tmp_path, renamed=from_public)
    torch.testing.assert_close(model(source, SOURCE, previous, TARGET), expected, rtol=1e-5, atol=3e-6)
    with pytest.raises(UserError, match=r"must have weights of this model: decoder.output_projection.bias is not one"):
        load_into(Transformer(**SMALL), tmp_path, renamed=from_public)


def of_fairseq(model: Transformer) -> dict[str, torch.Tensor]:
    """The weights as an old file of fairseq has them."""
    numbered = {"encoder": ["self_attn", "final"], "decoder": ["self_attn", "encoder_attn", "final"]}
    found = {}
    for name, tensor in model.state_dict().items():
        norm = name.split(".")[-2]
        if norm.endswith("_layer_norm"):
            number = numbered[name.partition(".")[0]].index(norm.removesuffix("_layer_norm"))
            name = name.replace(norm, f"layer_norms.{number}")
        attention, _, kind = name.rpartition(".q_proj.")
        if attention:
            parts = [model.state_dict()[f"{attention}.{projection}_proj.{kind}"] for projection in "qkv"]
            found[f"{attention}.in_proj_{kind}"] = torch.cat(parts)
        elif ".k_proj." not in name and ".v_proj." not in name:
            found[name] = tensor
    embeddings = found["encoder.embed_tokens.weight"]
    found |= {"decoder.embed_tokens.weight": embeddings, "decoder.output_projection.weight": embeddings}
    for side in ("encoder", "decoder"):
        found |= {f"{side}.version": torch.ones(1) * 3, f"{side}.embed_positions._float_tensor": torch.ones(1)}
    return found


@pytest.fixture
def meter(monkeypatch):
    """An object of a class of fairseq's, which is not installed."""
    package, module = types.ModuleType("fairseq"), types.ModuleType("fairseq.meters")
    module.AverageMeter = type("AverageMeter", (), {"__module__": "fairseq.meters"})
    monkeypatch.setitem(sys.modules, "fairseq", package)
    monkeypatch.setitem(sys.modules, "fairseq.meters", module)
    made = module.AverageMeter()
    made.sum = 3.0
    return made


def test_a_file_of_fairseq_is_read_with_what_lies_beside_the_weights(tmp_path, meter, monkeypatch):
    model = fill(Transformer(**SMALL, pre_norm=True))
    state = {f"module.{name}": tensor for name, tensor in of_fairseq(model).items()}
    content = {"args": argparse.Namespace(arch="transformer"), "model": state, "extra_state": {"train_meters": meter}}
    torch.save(content, tmp_path / "checkpoint_best.pt")
    monkeypatch.delitem(sys.modules, "fairseq.meters")
    loaded = Transformer(**SMALL, pre_norm=True).eval()
    load_into(loaded, tmp_path / "checkpoint_best.pt", renamed=from_public)
    assert torch.equal(loaded(*batch()), model(*batch()))
    assert from_public(model.state_dict()).keys() == model.state_dict().keys()  # one of this package is left as it is


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"encoder.embed_tokens.weight": (41, 16)}, r"embed_tokens.weight must have shape \[37, 16\], got \[41, 16\]"),
        ({"decoder.embed_tokens.weight": (37, 16)}, "must be the same as encoder.embed_tokens.weight, as source and"),
        (
            {"encoder.embed_positions.weight": (9, 16)},
            "embed_positions.weight: must be sinusoidal positions, got others",
        ),
        ({"encoder.layer_norm.weight": (16,)}, "encoder.layer_norm.weight is not one of its tensors"),
    ],
)
def test_weights_of_another_network_are_named(tmp_path, change, expected):
    state = {"encoder.embed_tokens.weight": torch.zeros(37, 16)} | {n: torch.ones(*s) for n, s in change.items()}
    model = Transformer(**SMALL)
    torch.save(model.state_dict() | state, tmp_path / "other.pt")
    with pytest.raises(UserError, match=expected) as caught:
        load_into(model, tmp_path / "other.pt", renamed=from_public)
    assert "\n" not in str(caught.value)


def test_arguments_that_cannot_be():
    for change, expected in (
        ({"num_heads": 3}, "width: must be a multiple of num_heads = 3, got 16"),
        ({"width": 15, "num_heads": 5}, "width: must be even, got 15"),
        ({"activation": "tanh"}, "activation: must be relu or swish or gelu, got 'tanh'"),
    ):
        with pytest.raises(UserError, match=expected):
            Transformer(**SMALL | change)
    with pytest.raises(UserError, match="transformer: previous: must be 15 tokens, got 14"):
        Transformer(**SMALL)(tokens(17, 0), SOURCE, tokens(14, 0), TARGET)


def test_names_are_fairseqs_and_no_weight_is_there_twice():
    names = set(Transformer(**SMALL | {"encoder_layers": 1}, pre_norm=True).state_dict())
    attentions = {
        "encoder.layers.0": ["self_attn"],
        "decoder.layers.0": ["self_attn", "encoder_attn"],
    }
    expected = {"encoder.embed_tokens.weight"}
    for layer, its in attentions.items():
        linear = [f"{attention}.{name}_proj" for attention in its for name in ("q", "k", "v", "out")] + ["fc1", "fc2"]
        norms = [f"{part}_layer_norm" for part in (*its, "final")]
        expected |= {f"{layer}.{part}.{kind}" for part in (*linear, *norms) for kind in ("weight", "bias")}
    expected |= {f"{side}.layer_norm.{kind}" for side in ("encoder", "decoder") for kind in ("weight", "bias")}
    assert names == expected


@pytest.mark.parametrize("pre_norm", [True, False])
def test_a_sentence_has_the_same_logits_alone_and_none_sees_what_comes_later(pre_norm):
    model = fill(Transformer(**SMALL, pre_norm=pre_norm)).double()
    source, _, previous, _ = batch()
    together = model(source, SOURCE, previous, TARGET).split([4, 4, 7])
    for i, (words, before) in enumerate(zip(source.split([3, 5, 9]), previous.split([4, 4, 7]), strict=True)):
        alone = model(words, PackedSequences([len(words)]), before, PackedSequences([len(before)]))
        torch.testing.assert_close(together[i], alone, rtol=1e-11, atol=1e-12)
    changed = previous.clone()
    changed[-3] += 1
    parts = model(source, SOURCE, changed, TARGET).split([4, 4, 4, 3])
    assert torch.equal(torch.cat(parts[:3]), torch.cat(together)[:12])
    assert not torch.isclose(parts[3], together[2][4:]).all(1).any()


@pytest.mark.parametrize("kind", ["dropout", "attention_dropout", "activation_dropout"])
def test_each_dropout_is_of_training_alone(kind):
    model = Transformer(**SMALL, **{"dropout": 0.0} | {kind: 0.3})
    assert not torch.equal(model(*batch()), model(*batch()))
    model.eval()
    assert torch.equal(model(*batch()), model(*batch()))


def test_in_16_bits_the_layers_are_bfloat16_and_norms_and_embeddings_float32():
    model = fill(Transformer(**SMALL, pre_norm=True))
    expected = model(*batch())
    model = weights.apply(model, "bf16", torch.device("cpu"))
    got = model(*batch())
    assert got.dtype == torch.bfloat16
    assert model.encoder.embed_tokens.weight.dtype == model.encoder.layer_norm.weight.dtype == torch.float32
    assert (got - expected).norm() < 0.03 * expected.norm()
    got.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == p.dtype for p in model.parameters())


def test_the_decoder_runs_with_attention_of_the_callers():
    """As beam search does, a token at a time with its own keys and values; here with those of the training form."""
    model = fill(Transformer(**SMALL, pre_norm=True)).double()
    source, _, previous, _ = batch()
    encoded = model.encode(source, SOURCE)
    positions = torch.cat([torch.arange(length) for length in TARGET.lengths])
    x = model.embed(previous, positions, 7)
    got = model.logits(
        model.decoder(
            x,
            lambda layer, y: layer.self_attn(y, TARGET, causal=True),
            lambda layer, y: layer.encoder_attn.attend_to(encoded, SOURCE, y, TARGET),
        )
    )
    torch.testing.assert_close(got, model(source, SOURCE, previous, TARGET))
