"""BERT for pre-training: masked language model and next-sentence heads (Devlin et al., 2018), without padding.

Parameter names and the call are those of Hugging Face's ``BertForPreTraining``. Inside, the network runs on the real
tokens of a batch, one sequence behind the other. What follows the last layer's attention runs on those tokens only
that a head reads: the masked ones and the first of each sequence.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from airank_fast.errors import UserError
from airank_fast.models.bert_output import BertForPreTrainingOutput, Config
from airank_fast.models.bert_packing import at_real_tokens, packed, padded, real_tokens
from airank_fast.nn import (
    DropoutAddLayerNorm,
    LayerNorm,
    LinearGELU,
    PackedSequences,
    cross_entropy,
    packed_attention,
)

SIZES = {  # Google's: layers, width (heads of 64, intermediate four times the width)
    "tiny": (2, 128),
    "mini": (4, 256),
    "base": (12, 768),
    "large": (24, 1024),
}


def size(name: str) -> dict[str, int]:
    """The arguments that make one of Google's sizes: tiny, mini, base or large."""
    layers, width = SIZES[name]
    return {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": width // 64,
        "intermediate_size": 4 * width,
    }


class PlainLayerNorm(nn.LayerNorm):
    """Layer normalisation in the weights' dtype; the output has the input's. In torch's own operators, as all Plain."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.layer_norm(x.to(self.weight.dtype), self.normalized_shape, self.weight, self.bias, self.eps)
        return y.to(x.dtype)


class PlainDropoutAddLayerNorm(PlainLayerNorm):
    """``LayerNorm(dropout(x) + residual)``, and with return_sum the sum beside it."""

    def __init__(self, width: int, p: float, eps: float, return_sum: bool = False) -> None:
        super().__init__(width, eps=eps)
        self.p, self.return_sum = p, return_sum

    def forward(self, x: Tensor, residual: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        total = F.dropout(x, self.p, self.training) + residual
        y = super().forward(total)
        return (y, total) if self.return_sum else y


class PlainLinearGELU(nn.Linear):
    """A linear layer and the exact GELU."""

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(super().forward(x))


def _layer_norm(config: dict) -> nn.LayerNorm:
    return (LayerNorm if config["fused"] else PlainLayerNorm)(config["hidden_size"], eps=config["layer_norm_eps"])


def _linear_gelu(config: dict, in_features: int, out_features: int) -> nn.Linear:
    return (LinearGELU if config["fused"] else PlainLinearGELU)(in_features, out_features)


class Embeddings(nn.Module):
    """Sum of word, position and segment embeddings, normalised."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        width = config["hidden_size"]
        self.word_embeddings = nn.Embedding(config["vocab_size"], width, padding_idx=config["pad_token_id"])
        self.position_embeddings = nn.Embedding(config["max_position_embeddings"], width)
        self.token_type_embeddings = nn.Embedding(config["type_vocab_size"], width)
        self.LayerNorm = _layer_norm(config)
        self.dropout = nn.Dropout(config["hidden_dropout_prob"])

    def forward(
        self,
        input_ids: Tensor | None,
        token_type_ids: Tensor,
        position_ids: Tensor,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        words = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        x = words + self.token_type_embeddings(token_type_ids)
        return self.dropout(self.LayerNorm(x + self.position_embeddings(position_ids)))


class SelfAttention(nn.Module):
    """Multi-head attention inside each sequence, tokens [T, width]."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        width = config["hidden_size"]
        self.num_heads = config["num_attention_heads"]
        self.p = config["attention_probs_dropout_prob"]
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor, sequences: PackedSequences) -> Tensor:
        q, k, v = (layer(x).unflatten(1, (self.num_heads, -1)) for layer in (self.query, self.key, self.value))
        return packed_attention(q, k, v, sequences, self.p if self.training else 0.0).flatten(1)


class Output(nn.Module):
    """The end of each half of a layer: linear, dropout, residual, LayerNorm."""

    def __init__(self, config: dict, in_features: int) -> None:
        super().__init__()
        width = config["hidden_size"]
        self.dense = nn.Linear(in_features, width)
        norm = DropoutAddLayerNorm if config["fused"] else PlainDropoutAddLayerNorm
        self.LayerNorm = norm(width, p=config["hidden_dropout_prob"], eps=config["layer_norm_eps"])

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(x), residual)


class Layer(nn.Module):
    """One encoder layer (post-LN)."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        width, inner = config["hidden_size"], config["intermediate_size"]
        self.attention = nn.ModuleDict({"self": SelfAttention(config), "output": Output(config, width)})
        self.intermediate = nn.ModuleDict({"dense": _linear_gelu(config, width, inner)})
        self.output = Output(config, inner)

    def forward(self, x: Tensor, sequences: PackedSequences, rows: Tensor | None = None) -> Tensor:
        """Tokens [T, width] to [T, width], or to those of ``rows`` alone: attention alone needs the other tokens."""
        attended = self.attention["self"](x, sequences)
        if rows is not None:
            attended, x = attended.index_select(0, rows), x.index_select(0, rows)
        x = self.attention["output"](attended, x)
        return self.output(self.intermediate["dense"](x), x)


class BertModel(nn.Module):
    """Embeddings, encoder and, for networks that judge whole sequences, pooler: tokens [T] to states [T, width]."""

    def __init__(self, config: dict, *, has_pooler: bool = True) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        layers = nn.ModuleList(Layer(config) for _ in range(config["num_hidden_layers"]))
        self.encoder = nn.ModuleDict({"layer": layers})
        width = config["hidden_size"]
        self.pooler = nn.ModuleDict({"dense": nn.Linear(width, width)} if has_pooler else {})

    def forward(
        self,
        input_ids: Tensor | None,
        token_type_ids: Tensor,
        position_ids: Tensor,
        sequences: PackedSequences | None,
        inputs_embeds: Tensor | None = None,
        states: list[Tensor] | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """``sequences`` None: there are no tokens. ``states`` gets what the embeddings and each layer give.

        ``rows``: the last layer gives the hidden states of these tokens alone, [len(rows), width].
        """
        x = self.embeddings(input_ids, token_type_ids, position_ids, inputs_embeds)
        linear = self.pooler["dense"] if self.pooler else self.encoder["layer"][0].attention["self"].query
        weight = linear.weight
        if isinstance(weight, Tensor):  # a method, where the layer was quantised
            x = x.to(weight.dtype)  # mixed precision begins behind the embeddings
        last = len(self.encoder["layer"]) - 1
        for index, layer in enumerate(self.encoder["layer"] if sequences is not None else ()):
            if states is not None:
                states.append(x)
            x = layer(x, sequences, rows if index == last else None)
        if states is not None:
            states.append(x)
        return x

    def pooled(self, first: Tensor) -> Tensor:
        """tanh of a linear layer over the first token of each sequence: [sequences, width]."""
        return torch.tanh(self.pooler["dense"](first))


class MaskedLMHead(nn.Module):
    """From hidden states to logits over the vocabulary; its matrix is that of the word embeddings.

    The product is over the vocabulary rounded up to a multiple of 8, as matrix units want it. The rows added have
    a bias of -inf: they get no probability and no gradient, and change no result.
    """

    def __init__(self, config: dict) -> None:
        super().__init__()
        width = config["hidden_size"]
        dense, norm = _linear_gelu(config, width, width), _layer_norm(config)
        self.transform = nn.ModuleDict({"dense": dense, "LayerNorm": norm})
        self.bias = nn.Parameter(torch.zeros(config["vocab_size"]))

    def forward(self, x: Tensor, embeddings: Tensor) -> Tensor:
        x = self.transform["LayerNorm"](self.transform["dense"](x))
        missing = -len(embeddings) % 8
        weight = F.pad(embeddings.to(x.dtype), (0, 0, 0, missing)) if missing else embeddings.to(x.dtype)
        bias = F.pad(self.bias, (0, missing), value=float("-inf")).to(x.dtype)
        return F.linear(x, weight, bias)


class BertNetwork(nn.Module):
    """The encoder with heads, which a subclass adds; arguments and their defaults are transformers.BertConfig's.

    fused: use airank_fast.nn's operators; without, the same network in torch's own.
    """

    has_pooler = True

    def __init__(
        self,
        vocab_size: int = 30522,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        intermediate_size: int = 3072,
        *,
        hidden_dropout_prob: float = 0.1,
        attention_probs_dropout_prob: float = 0.1,
        max_position_embeddings: int = 512,
        type_vocab_size: int = 2,
        initializer_range: float = 0.02,
        layer_norm_eps: float = 1e-12,
        pad_token_id: int = 0,
        fused: bool = True,
    ) -> None:
        super().__init__()
        config = Config({name: value for name, value in locals().items() if name not in ("self", "__class__")})
        if hidden_size % num_attention_heads:
            raise UserError(
                f"bert: hidden_size must be a multiple of num_attention_heads = {num_attention_heads}, "
                f"got {hidden_size}"
            )
        self.config = config
        self.bert = BertModel(config, has_pooler=self.has_pooler)
        self.add_heads(config)
        self.apply(self._initialise)
        self.register_load_state_dict_pre_hook(_from_hugging_face)

    def add_heads(self, config: dict) -> None:
        """Make the modules behind the encoder."""
        raise NotImplementedError

    def logits(self, x: Tensor) -> Tensor:
        """The outputs of the head that predicts tokens, of their hidden states [n, width]."""
        raise NotImplementedError

    def _initialise(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config["initializer_range"])
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx].detach())


class BertForPreTraining(BertNetwork):
    """BERT with both pre-training heads.

    336,226,108 parameters with ``**size("large")`` and the default vocabulary of 30522. `load_state_dict` takes a
    state dict of transformers, old or new, as it is; ours loads there, the tied decoder being left out as in its files.
    """

    def add_heads(self, config: dict) -> None:
        """The masked language model's, and that of next sentences."""
        heads = {"predictions": MaskedLMHead(config), "seq_relationship": nn.Linear(config["hidden_size"], 2)}
        self.cls = nn.ModuleDict(heads)

    def logits(self, x: Tensor) -> Tensor:
        """Hidden states [n, width] to logits [n, vocabulary]."""
        return self.cls["predictions"](x, self.bert.embeddings.word_embeddings.weight)[:, : self.config["vocab_size"]]

    @torch.no_grad()
    def start_positions_as_sinusoids(self, rms: float) -> None:
        """Begin with the position embeddings of the Transformer (Vaswani et al., 2017), of this root mean square.

        From random ones a short run cannot learn who stands next to whom: each position must find that out for itself.
        """
        table = self.bert.embeddings.position_embeddings.weight
        num, width = table.shape
        angles = torch.arange(num)[:, None] * 10_000.0 ** (-torch.arange(width // 2) / (width // 2))
        table.copy_(torch.cat([angles.sin(), angles.cos()], 1) * (rms * 2**0.5))

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        next_sentence_label: Tensor | None = None,
        *,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        sequences: PackedSequences | None = None,
        masked_positions: Tensor | None = None,
        masked_lm_weight: float = 1.0,
    ) -> BertForPreTrainingOutput | tuple:
        """Hugging Face's call, or the same batch without padding.

        Padded: input_ids, attention_mask (1 at real tokens), token_type_ids, position_ids and labels are [B, L],
        next_sentence_label [B]; labels are -100 where nothing is predicted. inputs_embeds [B, L, width] stand in for
        input_ids. Without labels prediction_logits are [B, L, vocabulary], 0 at padding, as are hidden states.

        Unpadded, with ``sequences``: input_ids, token_type_ids and position_ids are [T], the tokens of all sequences;
        masked_positions [M] are the places in them to predict and labels [M] what stands there (without them: logits
        of all T). Nothing here waits for the device.

        The loss is the mean cross entropy over the labels, float32 or float64, times masked_lm_weight, plus that over
        next_sentence_label; either may be left out. ``return_dict=False`` gives a tuple, output_hidden_states the
        hidden states beside the rest.

        Where it is not Hugging Face's: labels at padding are refused, since nothing is computed there. The next
        sentence is judged by a row's first real token, where Hugging Face takes column 0: with padding on the left
        that is a padding token, and the logits differ. A row without a real token counts as its first token alone.
        Attention probabilities are never stored, so output_attentions is refused. torch.export takes the call with
        ``sequences`` or without a mask; with a mask or with padded labels shapes depend on values, and it is refused.

        Raises:
            UserError: one of the above, and shapes that do not fit.
        """
        if (input_ids is None) == (inputs_embeds is None):
            got = "neither" if input_ids is None else "both"
            raise UserError(f"bert: one of input_ids and inputs_embeds must be given, got {got}")
        if output_attentions:
            raise UserError("bert: output_attentions must be False, got True")
        shape = (input_ids if inputs_embeds is None else inputs_embeds[..., 0]).shape
        device = (input_ids if inputs_embeds is None else inputs_embeds).device
        if token_type_ids is None:
            token_type_ids = torch.zeros(shape, dtype=torch.int64, device=device)
        real = None
        if sequences is None:
            if torch.compiler.is_exporting() and not (attention_mask is None and labels is None):
                raise UserError(
                    "bert: attention_mask and labels must be None for torch.export without sequences, got one"
                )
            if position_ids is None:
                position_ids = torch.arange(shape[1], device=device)[None]
            real = real_tokens(shape, attention_mask)
            if labels is not None:
                labels, masked_positions = at_real_tokens(labels, real, shape)
            input_ids, token_type_ids, position_ids, inputs_embeds = (
                None if tensor is None else packed(tensor.expand(*shape, *tensor.shape[2:]), real)
                for tensor in (input_ids, token_type_ids, position_ids, inputs_embeds)
            )
            # with a mask the shapes depend on values: the host must know them
            lengths = [shape[1]] * shape[0] if real is None else real.sum(1).tolist()
            sequences = PackedSequences(lengths, device) if shape.numel() else None
        states: list[Tensor] | None = [] if output_hidden_states else None
        rows = None
        if masked_positions is not None and sequences is not None and states is None and self.bert.encoder["layer"]:
            rows = torch.cat([masked_positions, sequences.offsets[:-1]])
        x = self.bert(input_ids, token_type_ids, position_ids, sequences, inputs_embeds, states, rows)
        if rows is not None:
            at_masked, first = x[: len(masked_positions)], x[len(masked_positions) :]
        else:
            at_masked = x if masked_positions is None else x[masked_positions]
            first = x if sequences is None else x[sequences.offsets[:-1]]
        output = self._heads(at_masked, first, labels, next_sentence_label, masked_lm_weight)
        if len(shape) == 2 and labels is None:
            output.prediction_logits = padded(output.prediction_logits, real, shape)
        if states is not None:
            output.hidden_states = tuple(padded(x, real, shape) if len(shape) == 2 else x for x in states)
        return output.to_tuple() if return_dict is False else output

    def _heads(self, at_masked, first, labels, next_sentence_label, masked_lm_weight) -> BertForPreTrainingOutput:
        is_next = self.cls["seq_relationship"](self.bert.pooled(first))
        logits = self.cls["predictions"](at_masked, self.bert.embeddings.word_embeddings.weight)
        losses = []
        if labels is not None:
            losses.append(self._cross_entropy(logits, labels) * masked_lm_weight)
        if next_sentence_label is not None:
            losses.append(self._cross_entropy(is_next, next_sentence_label))
        loss = sum(losses) if losses else None
        return BertForPreTrainingOutput(loss, logits[:, : self.config["vocab_size"]], is_next)

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean over the rows, float32 or float64."""
        if self.config["fused"]:
            return cross_entropy(logits, labels)
        return F.cross_entropy(_at_least_float32(logits), labels)


def _from_hugging_face(module: nn.Module, state_dict: dict, prefix: str, *_) -> None:
    """Drop what a state dict of transformers says twice or derives, and rename what old ones call otherwise."""
    decoder_bias = f"{prefix}cls.predictions.decoder.bias"
    if decoder_bias in state_dict:
        state_dict.setdefault(f"{prefix}cls.predictions.bias", state_dict[decoder_bias])
    unused = "predictions.decoder.weight", "predictions.decoder.bias", "embeddings.position_ids"
    without = () if module.has_pooler else (f"{prefix}bert.pooler.",)
    for name in list(state_dict):
        if not name.startswith(prefix):
            continue
        if name.startswith(without) or name.endswith(unused):
            del state_dict[name]
        elif name.endswith(("LayerNorm.gamma", "LayerNorm.beta")):
            new = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
            state_dict[new] = state_dict.pop(name)


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
