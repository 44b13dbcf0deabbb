"""Beam search against all translations there are, against a search without cache, and against itself in other batches.

In float64, so that the order of scores does not depend on rounding.
"""

from __future__ import annotations

import itertools

import pytest
import torch

from airank_fast.engine.precision import DTYPES
from airank_fast.engine.weights import narrow
from airank_fast.errors import UserError
from airank_fast.models.beam_search import EOS, PENALTIES, beam_search, largest
from airank_fast.models.transformer import Transformer
from airank_fast.nn import PackedSequences

VOCAB, UNK = 9, 3
WORDS = range(UNK, VOCAB)
SOURCES = [[5, 3, 8, 4, EOS], [UNK, EOS], [7, 7, 4, EOS], [UNK, UNK, UNK, EOS], [EOS], [6, 5, EOS]]


def network(seed: int = 0, vocab: int = VOCAB, **options) -> Transformer:
    """A tiny one whose translations are of several lengths."""
    torch.manual_seed(seed)
    options = {"fused": False, **options}
    model = Transformer(vocab, 16, 32, 2, encoder_layers=1, decoder_layers=2, **options).double().eval()
    for name, parameter in model.named_parameters():
        parameter.data.normal_(std=1.5 if "layer_norm.weight" in name else 0.8 if "embed" in name else 0.5)
    return model.requires_grad_(False)


def packed(sentences) -> tuple[torch.Tensor, PackedSequences]:
    return torch.tensor([token for sentence in sentences for token in sentence]), PackedSequences(
        [len(each) for each in sentences]
    )


def log_probabilities(model, source, histories) -> torch.Tensor:
    """Of the token after each history, [histories, vocabulary]; by the network's own call, without a cache."""
    previous, sequences = packed([[EOS, *history] for history in histories])
    logits = model(*packed([source] * len(histories)), previous, sequences)
    return logits[sequences.offsets[1:] - 1].log_softmax(1)


def search_without_cache(model, source, beam, power, max_extra, penalty) -> list[int]:
    """The definition, one sentence, until `beam` histories have ended."""
    limit, going, ended = len(source) - 1 + max_extra, [(0.0, [])], []
    for length in range(limit + 1):
        log_p = log_probabilities(model, source, [history for _, history in going]).tolist()
        tokens = [EOS] if length == limit else [EOS, *WORDS]
        candidates = [(-score - log_p[i][t], i, t) for i, (score, _) in enumerate(going) for t in tokens]
        candidates.sort()
        divisor = PENALTIES[penalty](length + 1, power)
        ended += [(-minus / divisor, going[i][1]) for minus, i, t in candidates[:beam] if t == EOS]
        going = [(-minus, [*going[i][1], t]) for minus, i, t in candidates if t != EOS][:beam]
        if len(ended) >= beam:
            break
    return max(ended, key=lambda each: each[0])[1]


@pytest.mark.parametrize(("penalty", "power"), [("gnmt", 0.6), ("fairseq", 1.0), ("gnmt", 0.0)])
def test_with_all_beams_the_best_of_all_translations_is_found(penalty, power):
    model, source = network(seed=3, vocab=6), [4, 5, EOS]
    histories = [list(each) for length in range(4) for each in itertools.product(range(UNK, 6), repeat=length)]
    scores = dict.fromkeys(map(tuple, histories), 0.0)
    log_p = {tuple(h): row for h, row in zip(histories, log_probabilities(model, source, histories), strict=True)}
    for history in scores:
        steps = [log_p[history[:i]][token] for i, token in enumerate((*history, EOS))]
        scores[history] = float(sum(steps)) / PENALTIES[penalty](len(steps), power)
    best = max(scores, key=scores.get)
    found = beam_search(model, *packed([source]), beam=len(scores), length_penalty=power, max_extra=1, penalty=penalty)
    assert found == [list(best)]


@pytest.mark.parametrize(
    "options", [{"seed": 2}, {"pre_norm": True}, {"marian": True, "activation": "swish", "seed": 1}]
)
@pytest.mark.parametrize(("beam", "penalty", "power"), [(1, "gnmt", 0.6), (2, "fairseq", 1.0), (4, "gnmt", 0.6)])
def test_a_batch_gives_what_each_sentence_gives_without_cache(options, beam, penalty, power):
    model = network(**options)
    found = beam_search(model, *packed(SOURCES), beam, power, max_extra=6, penalty=penalty)
    assert found == [search_without_cache(model, source, beam, power, 6, penalty) for source in SOURCES]
    assert len(set(map(len, found))) > 2


@pytest.mark.gpu
def test_a_gpu_finds_the_same():
    model, (source, sequences) = network(seed=2), packed(SOURCES)
    expected = beam_search(model, source, sequences, max_extra=20)
    on_gpu = PackedSequences(sequences.lengths, "cuda")
    assert beam_search(model.cuda(), source.cuda(), on_gpu, max_extra=20) == expected


def test_one_beam_is_greedy():
    model = network(seed=1)
    for source, found in zip(SOURCES, beam_search(model, *packed(SOURCES), beam=1, max_extra=20), strict=True):
        history: list[int] = []
        while len(history) < len(source) - 1 + 20:
            row = log_probabilities(model, source, [history])[0]
            row[:EOS] = -torch.inf
            if (token := int(row.argmax())) == EOS:
                break
            history.append(token)
        assert found == history


def test_a_translation_has_max_extra_tokens_more_at_most():
    model = network(seed=1, marian=True)
    model.decoder.output_projection.bias.data[EOS] = -100
    found = beam_search(model, *packed(SOURCES), max_extra=3)
    assert [len(each) for each in found] == [len(source) - 1 + 3 for source in SOURCES]
    assert beam_search(model, *packed([[EOS]]), max_extra=0) == [[]]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "bf16 weights"])
def test_padding_and_other_sentences_change_no_score(precision):
    """What is masked is never NaN, and has no weight: long neighbours leave a short sentence's translation alone."""
    model, dtype = network(seed=2, fused=True).float(), DTYPES[precision[:4]]
    if precision.endswith("weights"):
        narrow(model, precision[:4])
    with torch.autocast("cpu", dtype, enabled=precision in ("bf16", "fp16")):
        alone = [beam_search(model, *packed([source]), max_extra=8)[0] for source in SOURCES]
        together = beam_search(model, *packed([*SOURCES, [4] * 40]), max_extra=8)[: len(SOURCES)]
    assert sum(a == b for a, b in zip(alone, together, strict=True)) >= len(SOURCES) - (precision != "fp32")
    assert all(token in WORDS for each in together for token in each)


def test_equal_scores_are_in_the_order_of_tokens():
    model = network()
    for parameter in model.parameters():
        parameter.data.zero_()
    assert beam_search(model, *packed(SOURCES), beam=3, max_extra=1, length_penalty=0) == [[]] * len(SOURCES)
    model = network(marian=True)
    for parameter in model.parameters():
        parameter.data.zero_()
    model.decoder.output_projection.bias.data[EOS] = -1
    found = beam_search(model, *packed([[5, EOS]]), beam=3, max_extra=1, length_penalty=3.0)
    assert found == [[UNK, UNK]]


@pytest.mark.parametrize("columns", [3, 64, 300, 333, 1000])
@pytest.mark.parametrize("k", [1, 3])
def test_largest(columns, k):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 40, (7, columns), generator=generator).float()  # with many that are equal
    x[0] = -torch.inf
    values, found = largest(x, k)
    expected = x.sort(dim=1, descending=True, stable=True)
    assert torch.equal(values, expected.values[:, :k])
    assert torch.equal(found, expected.indices[:, :k])


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"beam": 0}, "beam search: beam: must be at least 1, got 0"),
        ({"length_penalty": -0.1}, "length_penalty: must be at least 0, got -0.1"),
        ({"max_extra": -1}, "max_extra: must be at least 0, got -1"),
        ({"penalty": "hf"}, "penalty: must be gnmt or fairseq, got 'hf'"),
    ],
)
def test_bad_options(options, line):
    with pytest.raises(UserError, match=line):
        beam_search(network(), *packed(SOURCES), **options)
