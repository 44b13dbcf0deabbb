"""Beam search: the best translations that a Transformer gives, of all sentences of a batch at once.

Keys and values of earlier tokens are cached, those of the source are computed once for each sentence. Beams that go on
move no cache: a sentence's beams attend to all cached tokens of the sentence at once, and a mask hides those of other
histories. Now and then the caches are tidied: finished sentences leave the batch, and so do tokens of no history left.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from airank_fast.errors import require
from airank_fast.models.transformer import DecoderLayer, Transformer
from airank_fast.nn import PackedSequences, cross_entropy

EOS, NEVER = 2, slice(0, 2)  # fairseq's end mark, which also begins a target; its begin mark and padding are no text
PENALTIES: dict[str, Callable[[float, float], float]] = {
    "gnmt": lambda length, power: ((5 + length) / 6) ** power,
    "fairseq": lambda length, power: length**power,
}
"""What the log-probability of a translation of `length` tokens, the end mark among them, is divided by."""

_ROOM = 8  # tokens of a history for which caches have room, until they are tidied
_MANY = 8  # on a CPU they are tidied also when one sentence in so many is finished
_GROUP = 64  # columns of logits of which only the largest is compared with those of other groups


@torch.no_grad()
def beam_search(
    model: Transformer,
    source: Tensor,
    source_sequences: PackedSequences,
    beam: int = 4,
    length_penalty: float = 0.6,
    max_extra: int = 50,
    *,
    penalty: str = "gnmt",
) -> list[list[int]]:
    """The best translation of each sentence, its tokens without the end mark.

    In each step the `beam` best histories that go on are kept. A history ends with the end mark if it then is among the
    `beam` best, as in fairseq and Hugging Face's generate; of those that ended the one with the highest score is the
    translation, the first of equal ones. A sentence is finished when `beam` histories have ended, or when none that
    goes on can reach a higher score. Histories of the same score are in the order of their beams and tokens. The begin
    mark and padding are never chosen, though they count in the softmax.

    model: in evaluation mode; may be under autocast. source: int64 [S], the tokens of all sentences, each with its end
    mark. length_penalty: the power of the length; 0 for none. penalty: "gnmt" (Wu et al., 2016; MLPerf) divides the
    log-probability by ((5 + length) / 6)^power, "fairseq" (and Hugging Face) by length^power. max_extra: a translation
    has at most so many tokens more than its source, neither end mark counted.

    On CUDA the host waits once every 8 tokens, to learn which sentences are finished.

    Raises:
        UserError: a beam, length penalty or max_extra out of range, or an unknown penalty.
    """
    require(beam >= 1, "beam search: beam", "at least 1", beam)
    require(length_penalty >= 0, "beam search: length_penalty", "at least 0", length_penalty)
    require(max_extra >= 0, "beam search: max_extra", "at least 0", max_extra)
    require(penalty in PENALTIES, "beam search: penalty", " or ".join(PENALTIES), repr(penalty))
    assert not model.training, "dropout would make the translations random"

    def divisor(length: int) -> float:
        return PENALTIES[penalty](length, length_penalty)

    search = _Search(model, source, source_sequences, beam, divisor, max_extra)
    while search.open:
        search.step()
    return search.found


class _Cache:
    """Keys [sentences, heads, d, tokens] and values [sentences, heads, tokens, d].

    On a CPU the product of a few queries with keys that lie so is three times as fast.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values

    def room_for(self, num_tokens: int) -> _Cache:
        """One of the same sentences, heads and dtype, with room for these tokens."""
        num, heads, size, _ = self.keys.shape
        return _Cache(
            self.keys.new_empty(num, heads, size, num_tokens), self.keys.new_empty(num, heads, num_tokens, size)
        )

    def write(self, slots: slice, keys: Tensor, values: Tensor) -> None:
        """Put tokens there: [sentences, tokens, heads, d]."""
        self.keys[..., slots], self.values[:, :, slots] = keys.permute(0, 2, 3, 1), values.transpose(1, 2)

    def keep(self, rows: Tensor, num_tokens: int) -> None:
        """The first tokens of these sentences."""
        self.keys = self.keys[..., :num_tokens].index_select(0, rows)
        self.values = self.values[:, :, :num_tokens].index_select(0, rows)

    def gather(self, rows: Tensor, slots: Tensor) -> None:
        """Of each of these sentences the tokens in its row of `slots`."""
        keys, (num_heads, capacity) = self.keys.index_select(0, rows), self.values.shape[1:3]
        self.keys = keys.gather(3, slots[:, None, None].expand(*keys.shape[:3], -1))
        heads = rows[:, None] * num_heads + torch.arange(num_heads, device=rows.device)
        flat = (heads[:, :, None] * capacity + slots[:, None]).flatten()
        self.values = self.values.flatten(0, 2).index_select(0, flat).unflatten(0, (len(rows), num_heads, -1))

    def attended(self, q: Tensor, num_tokens: int, mask: Tensor | None) -> Tensor:
        """softmax(q k + mask) v, [sentences * beam, heads * d], of scaled queries [sentences, beam, heads, d]."""
        num, beam, heads, size = q.shape
        keys, values = self.keys.flatten(0, 1)[..., :num_tokens], self.values.flatten(0, 1)[:, :num_tokens]
        scores = torch.bmm(q.transpose(1, 2).reshape(-1, beam, size), keys).view(num, heads, beam, -1)
        probabilities = (scores if mask is None else scores.add_(mask)).softmax(-1)
        out = torch.bmm(probabilities.flatten(0, 1), values)
        return out.view(num, heads, beam, size).transpose(1, 2).reshape(num * beam, heads * size)


class _Layer:
    """The caches of one decoder layer, and its projections to query, key and value as one, the query scaled."""

    def __init__(self, layer: DecoderLayer, source: _Cache, capacity: int) -> None:
        attention = layer.self_attn
        self.source, self.target = source, source.room_for(capacity)
        self.scale = source.keys.shape[2] ** -0.5
        weight, bias = _joined(attention.q_proj, attention.k_proj, attention.v_proj)
        factor = torch.ones_like(bias)
        factor[: len(bias) // 3] = self.scale
        dtype = source.keys.dtype
        self.weight, self.bias = (weight * factor[:, None]).to(dtype), (bias * factor).to(dtype)


class _Search:
    """A search under way, over the sentences of a batch that are not finished.

    open: their numbers. found: the translations of those that are. Tensors are by open sentence and beam, [n, beam].
    """

    def __init__(
        self,
        model: Transformer,
        source: Tensor,
        sequences: PackedSequences,
        beam: int,
        divisor: Callable[[int], float],
        max_extra: int,
    ) -> None:
        self.model, self.beam, self.divisor = model, beam, divisor
        num, device = len(sequences.lengths), source.device
        self.open = list(range(num))
        self.found: list[list[int]] = [[] for _ in self.open]
        self.source_lengths = list(sequences.lengths)
        self.limits = [length - 1 + max_extra for length in sequences.lengths]
        encoded = model.encode(source, sequences)
        caches = _source_caches(model, encoded, sequences)
        self.layers = {
            layer: _Layer(layer, cache, _ROOM * beam) for layer, cache in zip(model.decoder.layers, caches, strict=True)
        }
        dtype = caches[0].keys.dtype  # 16 bits also under autocast
        self.embeddings = model.encoder.embed_tokens.weight.to(dtype)
        self.source_mask = _padding_mask(sequences, dtype, device)
        self.mask = torch.full((num, 1, beam, _ROOM * beam), -torch.inf, dtype=dtype, device=device)
        self.num_cached = 0  # tokens of a sentence
        self.own = torch.full((beam, beam), -torch.inf, dtype=dtype, device=device).fill_diagonal_(0)
        self.length = 0  # tokens of each history
        self.tokens = torch.full((num, beam), EOS, dtype=torch.int64, device=device)
        self.histories = torch.zeros(num, beam, _ROOM, dtype=torch.int64, device=device)
        self.scores = torch.full(
            (num, beam), -torch.inf, dtype=torch.promote_types(dtype, torch.float32), device=device
        )
        self.scores[:, 0] = 0  # at the beginning all beams are the same one
        self.longest_divisor = self.scores.new_tensor([divisor(limit + 1) for limit in self.limits])
        self.best_score = torch.full_like(self.longest_divisor, -torch.inf)
        self.best = torch.zeros_like(self.histories[:, 0])
        self.best_length = torch.zeros(num, dtype=torch.int64, device=device)
        self.num_ended = torch.zeros_like(self.best_length)
        self.finished = torch.zeros(num, dtype=torch.bool, device=device)

    def step(self) -> None:
        """One token more for each beam."""
        self.mask[..., self._slots] = self.own
        positions = torch.full_like(self.tokens, self.length).flatten()
        x = self.model.embed(self.tokens.flatten(), positions, self.length + 1)
        decoded = self.model.decoder(x, self._attend_to_target, self._attend_to_source)
        decoded = decoded.to(self.embeddings.dtype)  # under autocast norms are in float32
        scores, tokens, parents = self._candidates(self.model.decoder.output_projection(decoded, self.embeddings))
        self._end(scores, tokens, parents)
        self._go_on(scores, tokens, parents)
        self.length += 1
        self.num_cached += self.beam
        highest = self.scores[:, 0] / self.longest_divisor  # as log-probabilities only fall
        self.finished |= ~(highest > self.best_score) | (self.num_ended >= self.beam)
        is_full = self._slots.stop > self.mask.shape[-1] or self.length > max(self.limits)
        if is_full or (self.finished.device.type == "cpu" and _MANY * int(self.finished.sum()) >= len(self.open)):
            self._tidy()

    @property
    def _slots(self) -> slice:
        """Where the cache has the tokens of this step."""
        return slice(self.num_cached, self.num_cached + self.beam)

    def _attend_to_target(self, layer: DecoderLayer, x: Tensor) -> Tensor:
        cached = self.layers[layer]
        projected = F.linear(x, cached.weight, cached.bias)
        q, k, v = projected.view(len(self.open), self.beam, 3, layer.self_attn.num_heads, -1).unbind(2)
        cached.target.write(self._slots, k, v)
        end = self._slots.stop
        return layer.self_attn.out_proj(cached.target.attended(q, end, self.mask[..., :end]))

    def _attend_to_source(self, layer: DecoderLayer, x: Tensor) -> Tensor:
        cached, attention = self.layers[layer], layer.encoder_attn
        q = attention.q_proj(x).mul_(cached.scale).view(len(self.open), self.beam, attention.num_heads, -1)
        return attention.out_proj(cached.source.attended(q, max(self.source_lengths), self.source_mask))

    def _candidates(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(scores, tokens, parents), [n, c] each, of the best histories of one token more, the best first.

        Of each beam so many that `beam` of all go on, whichever end.
        """
        num, beam = self.scores.shape
        first = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
        total = cross_entropy(logits, first, reduction="none") + logits[:, 0]  # log of the sum of exp, in one pass
        logits[:, NEVER] = -torch.inf
        self._end_at_limits(logits)
        per_beam = min(beam + 1, logits.shape[1])
        values, tokens = largest(logits, per_beam)
        scores = (values - total[:, None]).view(num, beam, per_beam) + self.scores[:, :, None]
        scores, order = scores.flatten(1).sort(dim=1, descending=True, stable=True)
        return scores, tokens.reshape(num, -1).gather(1, order), order // per_beam

    def _end_at_limits(self, logits: Tensor) -> None:
        """Leave the end mark alone to the histories that are as long as they may be."""
        longest = [index for index, limit in enumerate(self.limits) if limit == self.length]
        if longest:
            by_beam = logits.view(-1, self.beam, logits.shape[1])
            rows = torch.tensor(longest, device=logits.device)
            ends = by_beam[rows, :, EOS]
            by_beam[rows] = -torch.inf
            by_beam[rows, :, EOS] = ends

    def _end(self, scores: Tensor, tokens: Tensor, parents: Tensor) -> None:
        """Note the best history that ends here, if none was better."""
        ends = (tokens == EOS)[:, : self.beam] & (scores[:, : self.beam] > -torch.inf)
        first = ends.to(torch.int8).argmax(1, keepdim=True)
        score = scores.gather(1, first)[:, 0] / self.divisor(self.length + 1)
        better = ends.any(1) & (score > self.best_score) & ~self.finished
        history = self.histories[torch.arange(len(first), device=first.device), parents.gather(1, first)[:, 0]]
        self.best_score = torch.where(better, score, self.best_score)
        self.best = torch.where(better[:, None], history, self.best)
        self.best_length = self.best_length.masked_fill(better, self.length)
        self.num_ended += ends.sum(1)

    def _go_on(self, scores: Tensor, tokens: Tensor, parents: Tensor) -> None:
        """The best histories that do not end are the beams of the next step."""
        chosen = (tokens == EOS).to(torch.int8).argsort(dim=1, stable=True)[:, : self.beam]
        self.scores, self.tokens, parents = (each.gather(1, chosen) for each in (scores, tokens, parents))
        rows = (parents + self.beam * torch.arange(len(parents), device=parents.device)[:, None]).flatten()
        self.mask = self.mask.flatten(0, 2).index_select(0, rows).view_as(self.mask)
        self.histories = self.histories.flatten(0, 1).index_select(0, rows).view_as(self.histories)
        self.histories[:, :, self.length] = self.tokens

    def _tidy(self) -> None:
        """Let finished sentences go, and cached tokens that are in no history; make room for the next ones."""
        is_used = (self.mask[:, 0, :, : self.num_cached] > -torch.inf).any(1)
        num = len(self.open)
        facts = torch.cat([self.finished, is_used.sum(1)]).tolist()  # in one transfer
        kept = [index for index in range(num) if not facts[index]]
        if len(kept) < num:
            self._leave(kept)
        if not kept:
            return
        rows = torch.tensor(kept, device=self.finished.device)
        self.num_cached = max(facts[num + index] for index in kept)
        slots = is_used.logical_not().to(torch.int8).argsort(dim=1, stable=True)[rows, : self.num_cached]
        slots = F.pad(slots, (0, _ROOM * self.beam))
        self.mask = self.mask.index_select(0, rows).gather(3, slots[:, None, None].expand(-1, 1, self.beam, -1))
        self.mask[..., self.num_cached :] = -torch.inf
        for layer in self.layers.values():
            layer.target.gather(rows, slots)
        more = (0, max(0, self.length + _ROOM - self.best.shape[1]))
        self.histories, self.best = F.pad(self.histories, more), F.pad(self.best, more)

    def _leave(self, kept: list[int]) -> None:
        """Note the translations of all sentences but these, and let them go."""
        best, lengths = self.best.tolist(), self.best_length.tolist()
        for index in set(range(len(self.open))).difference(kept):
            self.found[self.open[index]] = best[index][: lengths[index]]
        for name in ("open", "limits", "source_lengths"):
            setattr(self, name, [getattr(self, name)[index] for index in kept])
        if not kept:
            return
        rows = torch.tensor(kept, device=self.finished.device)
        for name in _BY_SENTENCE:
            setattr(self, name, getattr(self, name).index_select(0, rows))
        longest = max(self.source_lengths)
        if self.source_mask is not None:
            self.source_mask = self.source_mask[..., :longest].index_select(0, rows)
        for layer in self.layers.values():
            layer.source.keep(rows, longest)


_BY_SENTENCE = (
    "tokens",
    "histories",
    "scores",
    "longest_divisor",
    "best_score",
    "best",
    "best_length",
    "num_ended",
    "finished",
)


def largest(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest numbers of each row and their columns, [rows, k] each; of equal ones those of the first columns.

    They are in the k groups of columns with the largest numbers: of a row of 33,708 columns only the 527 largest of
    groups are compared with each other, and then the columns of k groups.
    """
    num = x.shape[1]
    if num <= _GROUP * (k + 1):
        columns = _first_largest(x, k)
        return x.gather(1, columns), columns
    whole = num - num % _GROUP
    of_groups = x[:, :whole].unflatten(1, (-1, _GROUP)).amax(2)
    if whole < num:
        of_groups = torch.cat([of_groups, x[:, whole:].amax(1, keepdim=True)], 1)
    groups = _first_largest(of_groups, k).sort(dim=1).values
    columns = (groups[:, :, None] * _GROUP + torch.arange(_GROUP, device=x.device)).flatten(1)
    inside = x.gather(1, columns.clamp(max=num - 1)).masked_fill(columns >= num, -torch.inf)
    chosen = _first_largest(inside, k)
    return inside.gather(1, chosen), columns.gather(1, chosen)


def _first_largest(x: Tensor, k: int) -> Tensor:
    """The columns of the k largest numbers of each row, the largest first; of equal ones the first columns."""
    if x.dtype == torch.float64:
        return x.sort(dim=1, descending=True, stable=True).indices[:, :k]
    # One integer of number and column, as topk does not say which of equal numbers it takes, and sort is much slower.
    bits = x.float().view(torch.int32)
    order = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # floats are in the order of these integers
    return ((order.long() << 32) - torch.arange(x.shape[1], device=x.device)).topk(k).indices


def _joined(*layers: nn.Linear) -> tuple[Tensor, Tensor]:
    return torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])


def _source_caches(model: Transformer, encoded: Tensor, sequences: PackedSequences) -> list[_Cache]:
    """Keys and values of the source's tokens, for each layer; one product for all, zeros behind each sentence."""
    attentions = [layer.encoder_attn for layer in model.decoder.layers]
    weight, bias = _joined(*(each for attention in attentions for each in (attention.k_proj, attention.v_proj)))
    projected = F.linear(encoded, weight, bias).split(list(sequences.lengths))
    padded = nn.utils.rnn.pad_sequence(projected, batch_first=True)
    by_layer = padded.unflatten(2, (len(attentions), 2, attentions[0].num_heads, -1)).unbind(2)
    return [
        _Cache(keys.permute(0, 2, 3, 1).contiguous(), values.transpose(1, 2).contiguous())
        for keys, values in (each.unbind(2) for each in by_layer)
    ]


def _padding_mask(sequences: PackedSequences, dtype: torch.dtype, device: torch.device) -> Tensor | None:
    """-inf behind each sentence and 0 elsewhere, [sentences, 1, 1, longest]; None where all have the same length."""
    longest = max(sequences.lengths)
    if longest == min(sequences.lengths):
        return None
    is_behind = torch.arange(longest) >= torch.tensor(sequences.lengths)[:, None]
    return torch.zeros(is_behind.shape, dtype=dtype).masked_fill(is_behind, -torch.inf)[:, None, None].to(device)
