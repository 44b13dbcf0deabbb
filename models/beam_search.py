"""Beam search: the best translations that a Transformer gives, of all sentences of a batch at once.

Keys and values of earlier tokens are cached, those of the source are computed once for each sentence. Beams that go on
move no cache: a sentence's beams attend to all cached tokens of the sentence at once, and a mask hides those of other
histories. A sentence that is finished leaves the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from airank_fast.errors import require
from airank_fast.models.transformer import Attention, DecoderLayer, Transformer
from airank_fast.nn import PackedSequences, cross_entropy

EOS, NEVER = 2, slice(0, 2)  # fairseq's end mark, which also begins a target; its begin mark and padding are no text
PENALTIES: dict[str, Callable[[float, float], float]] = {
    "gnmt": lambda length, power: ((5 + length) / 6) ** power,
    "fairseq": lambda length, power: length**power,
}
"""What the log-probability of a translation of `length` tokens, the end mark among them, is divided by."""

_CHECK_EVERY = 4  # tokens; on CUDA, where the host waits for the device to learn which sentences are finished
_ROOM = 16  # tokens by which caches grow
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

    On CUDA the host waits once every 4 tokens, to learn which sentences are finished.

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
    """Of one decoder layer: keys and values [2, sentences, heads, tokens, d] of targets and sources.

    The target's tokens are those of all beams of a sentence, step by step.
    """

    def __init__(self, layer: DecoderLayer, source: Tensor, num: int, dtype: torch.dtype) -> None:
        attention = layer.self_attn
        weight, bias = _joined(attention.q_proj, attention.k_proj, attention.v_proj)
        self.weight, self.bias = weight.to(dtype), bias.to(dtype)
        self.source = source
        self.target = source.new_empty(2, num, source.shape[2], 0, source.shape[4])

    def keep(self, sentences: Tensor) -> None:
        """Drop all other sentences."""
        self.source, self.target = (each.index_select(1, sentences) for each in (self.source, self.target))


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
        self.limits = [length - 1 + max_extra for length in sequences.lengths]
        encoded = model.encode(source, sequences)
        dtype = model.decoder.layers[0].self_attn.q_proj(encoded[:1]).dtype  # 16 bits also under autocast
        self.embeddings = model.encoder.embed_tokens.weight.to(dtype)
        self.caches = {}
        for layer, projected in zip(model.decoder.layers, _project(model, encoded), strict=True):
            self.caches[layer] = _Cache(layer, _padded(projected, sequences, layer.encoder_attn.num_heads), num, dtype)
        self.source_mask = _padding_mask(sequences, dtype, device)
        self.mask = torch.empty(num, 1, beam, 0, dtype=dtype, device=device)
        self.own = torch.full((beam, beam), -torch.inf, dtype=dtype, device=device).fill_diagonal_(0)
        self.length = 0  # tokens of each history
        self.tokens = torch.full((num, beam), EOS, dtype=torch.int64, device=device)
        self.histories = torch.zeros(num, beam, 0, dtype=torch.int64, device=device)
        self.scores = torch.full(
            (num, beam), -torch.inf, dtype=torch.promote_types(dtype, torch.float32), device=device
        )
        self.scores[:, 0] = 0  # at the beginning all beams are the same one
        self.longest_divisor = self.scores.new_tensor([divisor(limit + 1) for limit in self.limits])
        self.best_score = torch.full_like(self.longest_divisor, -torch.inf)
        self.best = torch.zeros(num, 0, dtype=torch.int64, device=device)
        self.best_length = torch.zeros(num, dtype=torch.int64, device=device)
        self.num_ended = torch.zeros_like(self.best_length)
        self.finished = torch.zeros(num, dtype=torch.bool, device=device)

    def step(self) -> None:
        """One token more for each beam."""
        self._make_room()
        self.mask[..., self._slots] = self.own
        positions = torch.full_like(self.tokens, self.length).flatten()
        x = self.model.embed(self.tokens.flatten(), positions, self.length + 1)
        decoded = self.model.decoder(x, self._attend_to_target, self._attend_to_source)
        scores, tokens, parents = self._candidates(self.model.decoder.output_projection(decoded, self.embeddings))
        self._end(scores, tokens, parents)
        self._go_on(scores, tokens, parents)
        self.length += 1
        highest = self.scores[:, 0] / self.longest_divisor  # as log-probabilities only fall
        self.finished |= ~(highest > self.best_score) | (self.num_ended >= self.beam)
        if self.tokens.device.type == "cpu" or not self.length % _CHECK_EVERY or self.length > max(self.limits):
            self._leave()

    @property
    def _slots(self) -> slice:
        """Where the cache has the tokens of this step."""
        return slice(self.length * self.beam, (self.length + 1) * self.beam)

    def _make_room(self) -> None:
        if self._slots.stop <= self.mask.shape[-1]:
            return
        self.mask = F.pad(self.mask, (0, _ROOM * self.beam), value=-torch.inf)
        self.histories, self.best = F.pad(self.histories, (0, _ROOM)), F.pad(self.best, (0, _ROOM))
        for cache in self.caches.values():
            cache.target = F.pad(cache.target, (0, 0, 0, _ROOM * self.beam))

    def _attend_to_target(self, layer: DecoderLayer, x: Tensor) -> Tensor:
        cache, attention = self.caches[layer], layer.self_attn
        projected = F.linear(x, cache.weight, cache.bias)
        by_head = projected.view(len(self.open), self.beam, 3, attention.num_heads, -1)
        q, *keys_and_values = by_head.permute(2, 0, 3, 1, 4)
        cache.target[:, :, :, self._slots] = torch.stack(keys_and_values)
        keys, values = cache.target[:, :, :, : self._slots.stop]
        return _attended(attention, q, keys, values, self.mask[..., : self._slots.stop])

    def _attend_to_source(self, layer: DecoderLayer, x: Tensor) -> Tensor:
        attention = layer.encoder_attn
        q = attention.q_proj(x).view(len(self.open), self.beam, attention.num_heads, -1).transpose(1, 2)
        return _attended(attention, q, *self.caches[layer].source, self.source_mask)

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

    def _leave(self) -> None:
        """Take finished sentences out of the batch."""
        finished = self.finished.tolist()
        if not any(finished):
            return
        best, lengths = self.best.tolist(), self.best_length.tolist()
        for index, sentence in enumerate(self.open):
            if finished[index]:
                self.found[sentence] = best[index][: lengths[index]]
        kept = [index for index, is_finished in enumerate(finished) if not is_finished]
        self.open, self.limits = [self.open[index] for index in kept], [self.limits[index] for index in kept]
        rows = torch.tensor(kept, dtype=torch.int64, device=self.finished.device)
        for name in _BY_SENTENCE:
            setattr(self, name, getattr(self, name).index_select(0, rows))
        if self.source_mask is not None:
            self.source_mask = self.source_mask.index_select(0, rows)
        for cache in self.caches.values():
            cache.keep(rows)


_BY_SENTENCE = (
    "mask",
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


def _project(model: Transformer, encoded: Tensor) -> Sequence[Tensor]:
    """Keys and values of the source's tokens, [S, 2 * width], for each layer; one product for all."""
    attentions = [layer.encoder_attn for layer in model.decoder.layers]
    weight, bias = _joined(*(each for attention in attentions for each in (attention.k_proj, attention.v_proj)))
    return F.linear(encoded, weight, bias).chunk(len(attentions), 1)


def _padded(projected: Tensor, sequences: PackedSequences, num_heads: int) -> Tensor:
    """Keys and values [S, 2 * width] as [2, sentences, heads, longest, d], zeros behind each sentence."""
    parts = projected.split(list(sequences.lengths))
    padded = nn.utils.rnn.pad_sequence(parts, batch_first=True)
    return padded.unflatten(2, (2, num_heads, -1)).permute(2, 0, 3, 1, 4).contiguous()


def _padding_mask(sequences: PackedSequences, dtype: torch.dtype, device: torch.device) -> Tensor | None:
    """-inf behind each sentence and 0 elsewhere, [sentences, 1, 1, longest]; None where all have the same length."""
    longest = max(sequences.lengths)
    if longest == min(sequences.lengths):
        return None
    is_behind = torch.arange(longest) >= torch.tensor(sequences.lengths)[:, None]
    return torch.zeros(is_behind.shape, dtype=dtype).masked_fill(is_behind, -torch.inf)[:, None, None].to(device)


def _attended(attention: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The output of attention, [rows, width], of queries [n, heads, beam, d]."""
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return attention.out_proj(attended.transpose(1, 2).flatten(2).flatten(0, 1))
