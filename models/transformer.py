"""The Transformer for translation (Vaswani et al., 2017), base and big, on sentences without padding.

Parameter names are those of fairseq; `from_public` makes them of a state dict of fairseq or of Hugging Face's Marian.
The tokens of a batch lie one sentence behind the other: encoder, decoder and logits are computed for real tokens alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from airank_fast.errors import UserError, require
from airank_fast.models.bert import PlainDropoutAddLayerNorm, PlainLayerNorm
from airank_fast.nn import DropoutAddLayerNorm, LayerNorm, PackedSequences, packed_attention

SIZES = {"mini": (2, 128, 4), "base": (6, 512, 8), "big": (6, 1024, 16)}  # layers on each side, width, heads
ACTIVATIONS = {"relu": partial(F.relu, inplace=True), "swish": F.silu, "gelu": F.gelu}
FIRST_POSITION = 2  # of fairseq, whose padding token is 1


def size(name: str) -> dict[str, int]:
    """The arguments that make a mini, base or big Transformer, with inner layers of four times the width."""
    layers, width, heads = SIZES[name]
    return {
        "encoder_layers": layers,
        "decoder_layers": layers,
        "width": width,
        "inner_width": 4 * width,
        "num_heads": heads,
    }


def sinusoids(num: int, width: int, *, marian: bool = False) -> Tensor:
    """Embeddings of the first positions, float32 [num, width]: half sines, half cosines.

    fairseq's first position is 2, and its lowest frequency is 1/10000. Marian's first is 0, and its frequencies are
    10000^(-2i / width), which end one step before that.
    """
    half = width // 2
    steps = half if marian else half - 1
    frequencies = torch.exp(torch.arange(half, dtype=torch.float64) * (-math.log(10_000.0) / max(1, steps)))
    first = 0 if marian else FIRST_POSITION
    angles = torch.arange(first, first + num, dtype=torch.float64)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1).float()


class Attention(nn.Module):
    """Multi-head attention over packed tokens [T, width]."""

    def __init__(self, width: int, num_heads: int, p: float) -> None:
        super().__init__()
        self.num_heads, self.p = num_heads, p
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def by_head(self, x: Tensor, *projections: nn.Linear) -> Iterable[Tensor]:
        """The projections of x, [T, heads, d] each, in one product."""
        weight = torch.cat([projection.weight for projection in projections])
        bias = torch.cat([projection.bias for projection in projections])
        return F.linear(x, weight, bias).unflatten(1, (len(projections), self.num_heads, -1)).unbind(1)

    def forward(self, x: Tensor, sequences: PackedSequences, *, causal: bool = False) -> Tensor:
        """Each token attends to those of its sequence; with `causal` to those before it and itself."""
        q, k, v = self.by_head(x, self.q_proj, self.k_proj, self.v_proj)
        p = self.p if self.training else 0.0
        return self.out_proj(packed_attention(q, k, v, sequences, p, causal=causal).flatten(1))

    def attend_to(
        self, encoded: Tensor, encoded_sequences: PackedSequences, x: Tensor, sequences: PackedSequences
    ) -> Tensor:
        """Tokens x [T, width] attend to the encoder's output [S, width] for their sentence."""
        q = self.q_proj(x).unflatten(1, (self.num_heads, -1))
        k, v = self.by_head(encoded, self.k_proj, self.v_proj)
        p = self.p if self.training else 0.0
        return self.out_proj(packed_attention(q, k, v, sequences, p, key_sequences=encoded_sequences).flatten(1))


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward network of two layers; `Stack` runs them with their norms."""

    def __init__(self, norms: Callable[[], nn.LayerNorm], config: dict) -> None:
        super().__init__()
        width, inner_width = config["width"], config["inner_width"]
        self.self_attn = Attention(width, config["num_heads"], config["attention_dropout"])
        self.self_attn_layer_norm = norms()
        self.fc1, self.fc2 = nn.Linear(width, inner_width), nn.Linear(inner_width, width)
        self.final_layer_norm = norms()
        self.activation, self.p = ACTIVATIONS[config["activation"]], config["activation_dropout"]

    def feed_forward(self, x: Tensor) -> Tensor:
        """fc2(activation(fc1(x))), in place where the activation is ReLU."""
        return self.fc2(F.dropout(self.activation(self.fc1(x)), self.p, self.training))


class DecoderLayer(EncoderLayer):
    """Self-attention, attention to the encoder's output, and the feed-forward network."""

    def __init__(self, norms: Callable[[], nn.LayerNorm], config: dict) -> None:
        super().__init__(norms, config)
        self.encoder_attn = Attention(config["width"], config["num_heads"], config["attention_dropout"])
        self.encoder_attn_layer_norm = norms()


class Stack(nn.Module):
    """Layers, and with pre-norm a last `layer_norm`: what encoder and decoder have in common."""

    layer_type: type[EncoderLayer] = EncoderLayer

    def __init__(self, num_layers: int, config: dict) -> None:
        super().__init__()
        width, pre_norm = config["width"], config["pre_norm"]
        add_norm = DropoutAddLayerNorm if config["fused"] else PlainDropoutAddLayerNorm
        norms = partial(add_norm, width, p=config["dropout"], eps=1e-5, return_sum=pre_norm)
        self.layers = nn.ModuleList(self.layer_type(norms, config) for _ in range(num_layers))
        self.layer_norm = None
        if pre_norm:  # each norm has the dropout and the addition of the half layer before it; before the first is none
            self.layers[0].self_attn_layer_norm = (LayerNorm if config["fused"] else PlainLayerNorm)(width)
            self.layer_norm = norms()

    def through(self, x: Tensor, parts: Iterable[tuple[nn.Module, Callable[[Tensor], Tensor]]]) -> Tensor:
        """x [N, width] through half layers, given as (norm, function); with post-norm or pre-norm, and dropout."""
        if self.layer_norm is None:
            for norm, function in parts:
                x = norm(function(x), x)
            return x
        norms, functions = zip(*parts, strict=True)
        normed = norms[0](x)
        for function, norm in zip(functions, (*norms[1:], self.layer_norm), strict=True):
            normed, x = norm(function(normed), x)
        return normed


class Encoder(Stack):
    """The embeddings of all tokens, source, target and output, and the encoder's layers."""

    def __init__(self, vocab_size: int, config: dict) -> None:
        super().__init__(config["encoder_layers"], config)
        self.embed_tokens = nn.Embedding(vocab_size, config["width"])

    def forward(self, x: Tensor, sequences: PackedSequences) -> Tensor:
        """Embedded tokens [S, width] to the encoder's output [S, width]."""
        parts = []
        for layer in self.layers:
            parts.append((layer.self_attn_layer_norm, partial(layer.self_attn, sequences=sequences)))
            parts.append((layer.final_layer_norm, layer.feed_forward))
        return self.through(x, parts)


class OutputProjection(nn.Module):
    """Logits by the embeddings of the tokens; Marian's have a bias."""

    def __init__(self, vocab_size: int, bias: bool) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(vocab_size)) if bias else None

    def forward(self, x: Tensor, embeddings: Tensor) -> Tensor:
        return F.linear(x, embeddings.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


class Decoder(Stack):
    """The decoder's layers and the output."""

    layer_type = DecoderLayer

    def __init__(self, vocab_size: int, config: dict) -> None:
        super().__init__(config["decoder_layers"], config)
        self.output_projection = OutputProjection(vocab_size, bias=config["marian"])

    def forward(
        self,
        x: Tensor,
        attend_to_target: Callable[[DecoderLayer, Tensor], Tensor],
        attend_to_source: Callable[[DecoderLayer, Tensor], Tensor],
    ) -> Tensor:
        """Embedded tokens [T, width] to hidden states [T, width].

        How a layer's tokens [T, width] attend to the target and to the source is the caller's: in training to packed
        sequences, in beam search to cached keys and values.
        """
        parts = []
        for layer in self.layers:
            parts.append((layer.self_attn_layer_norm, partial(attend_to_target, layer)))
            parts.append((layer.encoder_attn_layer_norm, partial(attend_to_source, layer)))
            parts.append((layer.final_layer_norm, layer.feed_forward))
        return self.through(x, parts)


class Transformer(nn.Module):
    """Encoder and decoder with one vocabulary, whose embeddings are the weights of the output too.

    210,874,368 parameters with ``**size("big")`` and MLPerf's vocabulary of 33,708 (post-norm). A vocabulary of a
    multiple of 8 is faster in 16 bits on a GPU; fairseq fills it with tokens that are never seen.

    Args:
        vocab_size: tokens of source and target together.
        width, inner_width, num_heads, encoder_layers, decoder_layers: see `size`.
        pre_norm: normalise before each half of a layer and after the last (fairseq's encoder_normalize_before, which
            its transformer_wmt_en_de_big_t2t has); else after each half, as in the paper.
        dropout: of embeddings and of what each half of a layer adds.
        attention_dropout, activation_dropout: of the probabilities, and behind the activation.
        activation: relu, swish or gelu.
        marian: positions are Marian's (see `sinusoids`), and logits have a bias.
        fused: use airank_fast.nn's norms; without, torch's own operators.

    Raises:
        UserError: a width that is no multiple of num_heads, or odd; an unknown activation.
    """

    def __init__(
        self,
        vocab_size: int,
        width: int = 512,
        inner_width: int = 2048,
        num_heads: int = 8,
        encoder_layers: int = 6,
        decoder_layers: int = 6,
        *,
        pre_norm: bool = False,
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        activation_dropout: float = 0.0,
        activation: str = "relu",
        marian: bool = False,
        fused: bool = True,
    ) -> None:
        super().__init__()
        config = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        require(width % num_heads == 0, "transformer: width", f"a multiple of num_heads = {num_heads}", width)
        require(width % 2 == 0, "transformer: width", "even", width)
        require(activation in ACTIVATIONS, "transformer: activation", " or ".join(ACTIVATIONS), repr(activation))
        self.width, self.marian, self.p = width, marian, dropout
        self.encoder = Encoder(vocab_size, config)
        self.decoder = Decoder(vocab_size, config)
        self._positions = sinusoids(0, width)
        self.apply(self._initialise)

    def _initialise(self, module: nn.Module) -> None:
        """As fairseq: Xavier; for query, key and value by the bounds of the three as one matrix."""
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, Attention):  # after its linear layers
            for projection in (module.q_proj, module.k_proj, module.v_proj):
                nn.init.xavier_uniform_(projection.weight, gain=2**-0.5)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=self.width**-0.5)

    def forward(
        self, source: Tensor, source_sequences: PackedSequences, previous: Tensor, target_sequences: PackedSequences
    ) -> Tensor:
        """Logits of the next token, [T, vocabulary].

        source: int64 [S], the tokens of all source sentences; previous: int64 [T], those of the targets, each shifted
        by one, so that a sentence begins with the token that starts decoding. The logits are in the dtype of the
        linear layers' weights.

        Raises:
            UserError: another number of tokens than the sequences have.
        """
        encoded = self.encode(source, source_sequences)
        return self.logits(self.decode(previous, target_sequences, encoded, source_sequences))

    def encode(self, source: Tensor, source_sequences: PackedSequences) -> Tensor:
        """The encoder's output, [S, width]."""
        return self.encoder(self._embedded("source", source, source_sequences), source_sequences)

    def decode(
        self, previous: Tensor, target_sequences: PackedSequences, encoded: Tensor, source_sequences: PackedSequences
    ) -> Tensor:
        """The decoder's output, [T, width], for the encoder's."""
        return self.decoder(
            self._embedded("previous", previous, target_sequences),
            lambda layer, x: layer.self_attn(x, target_sequences, causal=True),
            lambda layer, x: layer.encoder_attn.attend_to(encoded, source_sequences, x, target_sequences),
        )

    def logits(self, decoded: Tensor) -> Tensor:
        """[N, width] to [N, vocabulary]."""
        return self.decoder.output_projection(decoded, self.encoder.embed_tokens.weight)

    def embed(self, tokens: Tensor, positions: Tensor, num_positions: int) -> Tensor:
        """Tokens int64 [N] at 0-based positions int64 [N], which are below `num_positions`, embedded: [N, width].

        In the dtype of the linear layers' weights, with which mixed precision begins.
        """
        if len(self._positions) < num_positions or self._positions.device != tokens.device:
            num_positions = max(num_positions, 2 * len(self._positions))
            self._positions = sinusoids(num_positions, self.width, marian=self.marian).to(tokens.device)
        embedded = self.encoder.embed_tokens(tokens)
        at = self._positions.to(embedded.dtype).index_select(0, positions)
        x = F.dropout(torch.add(at, embedded, alpha=math.sqrt(self.width)), self.p, self.training)
        return x.to(self.encoder.layers[0].fc1.weight.dtype)

    def _embedded(self, name: str, tokens: Tensor, sequences: PackedSequences) -> Tensor:
        require(
            len(tokens) == sequences.num_tokens, f"transformer: {name}", f"{sequences.num_tokens} tokens", len(tokens)
        )
        begins = sequences.offsets[:-1].repeat_interleave(sequences.offsets.diff(), output_size=len(tokens))
        positions = torch.arange(len(tokens), device=tokens.device) - begins
        return self.embed(tokens, positions, sequences.longest or max(sequences.lengths))


_EMBEDDINGS = (  # the names of the one matrix, fairseq's and Hugging Face's
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
    "decoder.output_projection.weight",
    "shared.weight",
    "lm_head.weight",
)
_DERIVED = (".embed_positions._float_tensor", ".embed_positions.weights", ".version")
_NUMBERED_NORM = re.compile(r"^(encoder|decoder)(\.layers\.\d+)\.layer_norms\.(\d)\.")
_NORMS = {"encoder": ("self_attn", "final"), "decoder": ("self_attn", "encoder_attn", "final")}


def from_public(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under this network's names, of a state dict of fairseq or of Hugging Face's Marian, or of this network.

    Old state dicts of fairseq too, which have query, key and value as one `in_proj`, and the norms of a layer numbered.
    What is derived is dropped.

    Raises:
        UserError: embeddings of source, target and output that are not the same, or positions that were learned.
    """
    found: dict[str, Tensor] = {}
    embeddings: dict[str, Tensor] = {}
    for long_name, tensor in weights.items():
        name = long_name.removeprefix("model.")
        if name in _EMBEDDINGS:
            embeddings[long_name] = tensor
        elif name.endswith(".embed_positions.weight"):
            _check_sinusoids(long_name, tensor)
        elif name.endswith((".in_proj_weight", ".in_proj_bias")):
            attention, _, kind = name.rpartition(".in_proj_")
            for projection, part in zip("qkv", tensor.chunk(3), strict=True):
                found[f"{attention}.{projection}_proj.{kind}"] = part
        elif name == "final_logits_bias":
            found["decoder.output_projection.bias"] = tensor.flatten()
        elif not name.endswith(_DERIVED):
            found[_NUMBERED_NORM.sub(_norm_of, name)] = tensor
    if embeddings:
        first, *others = embeddings
        for other in others:
            same = torch.equal(embeddings[first], embeddings[other])
            require(same, other, f"the same as {first}, as source and target have one vocabulary", "other values")
        found[_EMBEDDINGS[0]] = embeddings[first]
    return found


def _norm_of(numbered: re.Match) -> str:
    side, layer, number = numbered.groups()
    return f"{side}{layer}.{_NORMS[side][int(number)]}_layer_norm."


def _check_sinusoids(name: str, tensor: Tensor) -> None:
    expected = (sinusoids(*tensor.shape, marian=marian) for marian in (True, False))
    if not any(torch.allclose(tensor.float(), table, atol=1e-2) for table in expected):
        raise UserError(f"{name}: must be sinusoidal positions, got others, as of a model that learned them")
