"""Networks as graphs of tensors, for export: what is exported, its inputs, and how a call of the network becomes them.

Most networks take tensors whose first dimension is the batch. BERT's packed sequences have shapes that depend on
values, which no graph has: its graph takes padded sequences, and what is computed at padding is thrown away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from airank_fast.errors import UserError
from airank_fast.inference.folding import Call, folded
from airank_fast.job import Job, Networks
from airank_fast.models.bert import BertForPreTraining, BertNetwork
from airank_fast.models.bert_output import BertForPreTrainingOutput
from airank_fast.models.dssm import DSSM
from airank_fast.models.mask_rcnn import MaskRCNN


class Graph(NamedTuple):
    """A network as a graph.

    network: called with tensors alone. inputs: their names. dynamic: of each, the names of the dimensions that may have
    any size.
    """

    network: nn.Module
    inputs: tuple[str, ...]
    dynamic: tuple[dict[int, str], ...]


def require_graph(job: Job, networks: Networks) -> None:
    """UserError for a network whose shapes depend on values, or whose inputs are ragged."""
    if any(isinstance(network, MaskRCNN | DSSM) for network in networks.values()):
        raise _no_graph(job)


def _no_graph(job: Job) -> UserError:
    return UserError(
        f"--backend: must be torch for {job.benchmark}, whose network is no graph of tensors, got onnxruntime"
    )


def inputs_of(job: Job, network: nn.Module, call: Call) -> tuple[str, ...]:
    """The names of a graph's inputs; UserError for a network that takes other things than tensors."""
    if isinstance(network, BertNetwork):
        return PaddedBert.INPUTS
    if call.kwargs or not all(isinstance(each, Tensor) for each in call.args):
        raise _no_graph(job)
    return ("input",) if len(call.args) == 1 else tuple(f"input{number}" for number in range(len(call.args)))


def graph_of(job: Job, networks: Networks, call: Call) -> tuple[Graph, int]:
    """(the graph of the job's network, how many of its batch norms are folded).

    It is built with --no-fused, as the fused operators are no part of ONNX, with the parameters of `networks`.
    """
    ((name, network),) = networks.items()
    inputs = inputs_of(job, network, call)
    plain = _twin(job, name, network)
    if isinstance(plain, BertNetwork):
        return Graph(PaddedBert(plain).eval(), inputs, PaddedBert.DYNAMIC), 0
    number = 0
    if any(isinstance(module, nn.Conv2d) for module in plain.modules()):
        plain, number = folded(plain, call)
    return Graph(plain, inputs, tuple({0: "batch"} for _ in inputs)), number


def _twin(job: Job, name: str, network: nn.Module) -> nn.Module:
    """The same network in torch's own operators, on the CPU."""
    own: Any = job
    changes = {"fused": False} | ({"init_checkpoint": None} if hasattr(own.recipe, "init_checkpoint") else {})
    twin = _built(type(own)(replace(own.recipe, **changes), own.options), name)
    twin.load_state_dict({key: tensor.detach().cpu() for key, tensor in network.state_dict().items()})
    return twin.eval().requires_grad_(False)


def _built(job: Any, name: str) -> nn.Module:
    """The network `name`, without using up random numbers of the process."""
    with torch.random.fork_rng(devices=[]):
        return job.build()[name]


def tensor_arguments(call: Call) -> tuple[Tensor, ...]:
    """The tensors of a call of tensors alone."""
    return call.args


def single_result(outputs: list[Tensor]) -> Any:
    """The output of a network that returns a tensor, or the list of those that return several."""
    return outputs[0] if len(outputs) == 1 else outputs


class PaddedBert(nn.Module):
    """BERT over padded sequences, with the parameters of a network of packed ones.

    input_ids, attention_mask (1 at real tokens) and token_type_ids: int64 [B, L]; rows: int64 [M], the places to
    predict among the B * L. Returns the network's logits at these, [M, vocabulary] or [M, 2].
    """

    INPUTS = ("input_ids", "attention_mask", "token_type_ids", "rows")
    DYNAMIC = (*({0: "batch", 1: "length"},) * 3, {0: "rows"})

    def __init__(self, network: BertNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor, rows: Tensor) -> Tensor:
        """See the class."""
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        x = self.network.bert.embeddings(input_ids, token_type_ids, positions)
        mask = (1 - attention_mask[:, None, None].to(x.dtype)) * torch.finfo(x.dtype).min
        for layer in self.network.bert.encoder["layer"]:
            attention = layer.attention["self"]
            q, k, v = (
                linear(x).unflatten(2, (attention.num_heads, -1)).transpose(1, 2)
                for linear in (attention.query, attention.key, attention.value)
            )
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
            x = layer.attention["output"](attended, x)
            x = layer.output(layer.intermediate["dense"](x), x)
        return self.network.logits(x.flatten(0, 1).index_select(0, rows))


def padded_arguments(call: Call) -> tuple[Tensor, ...]:
    """The inputs of `PaddedBert` for a call of a network with packed sequences."""
    (input_ids,), more = call.args, call.kwargs
    lengths = list(more["sequences"].lengths)
    longest = max(lengths)
    starts = torch.arange(len(lengths)) * longest
    places = torch.repeat_interleave(starts, torch.tensor(lengths)) + more["position_ids"]
    shape = len(lengths), longest

    def padded(tokens: Tensor) -> Tensor:
        return tokens.new_zeros(shape).view(-1).index_copy_(0, places, tokens).view(shape)

    mask = padded(torch.ones_like(input_ids))
    rows = places[more["masked_positions"]] if "masked_positions" in more else places
    return padded(input_ids), mask, padded(more["token_type_ids"]), rows


def bert_result(outputs: list[Tensor]) -> BertForPreTrainingOutput:
    """What BertForPreTraining returns, without the judgement of next sentences."""
    return BertForPreTrainingOutput(None, outputs[0], None)


def adapters_of(network: nn.Module) -> tuple[Callable[[Call], tuple[Tensor, ...]], Callable[[list[Tensor]], Any]]:
    """Of a network's graph: what makes its inputs of a call of the network, and of its outputs the network's."""
    if isinstance(network, BertNetwork):
        return padded_arguments, bert_result if isinstance(network, BertForPreTraining) else single_result
    return tensor_arguments, single_result
