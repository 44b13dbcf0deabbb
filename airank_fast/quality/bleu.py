"""BLEU of a corpus, exact over all ranks, by sacrebleu, as three rule books read it.

| metric | case | words | read so by |
|---|---|---|---|
| bleu | as it is | 13a | sacrebleu and the results of WMT; AI-Rank states BLEU and no more |
| bleu_lowercase | lower | 13a | FlagPerf, by sacrebleu: transformer/pytorch/train/evaluator.py |
| bleu_uncased | lower | t2t | MLPerf 0.6 and 0.7: translation/tensorflow/transformer/compute_bleu.py |

Each is smoothed as NIST's mteval does ("exp"), as all three do. MLPerf's program differs from sacrebleu where nothing
matches or no translation has four words: sacrebleu's value is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from airank_fast.errors import UserError
from airank_fast.quality.records import Column, Records

READINGS = {"bleu": (False, "13a"), "bleu_lowercase": (True, "13a"), "bleu_uncased": (True, "t2t")}
"""Of each metric, whether texts are lower-cased, and the tokens' name in the signature."""

ORDERS = 4  # of n-grams


class Bleu(Records):
    """bleu, bleu_lowercase and bleu_uncased, from 0 to 100. Outputs: the translations of a batch, detokenised texts.

    references: the text of each sample of the evaluation set. The batch has `ids`, the samples' numbers, from which
    their references are found. A sentence's record is ten integers: the lengths of translation and reference in words,
    and for n-grams of one to four words those that match and those of the translation. Sums of these give BLEU, which
    is no mean over sentences: it equals sacrebleu.corpus_bleu of the same texts.

    UserError where the package sacrebleu is missing.
    """

    def __init__(self, references: Sequence[str]) -> None:
        super().__init__()
        self._references = references
        self._scorers = {metric: _scorer(metric) for metric in READINGS}

    def record(self, outputs: Sequence[str], batch: Any) -> tuple[Tensor, dict[str, Column]]:
        """The integers of each sentence, int64 [n, 10], by metric."""
        samples = torch.as_tensor(batch.ids, dtype=torch.int64)
        pairs = [(text, self._references[sample]) for text, sample in zip(outputs, samples.tolist(), strict=True)]
        return samples, {metric: self._statistics(metric, pairs) for metric in READINGS}

    def _statistics(self, metric: str, pairs: Sequence[tuple[str, str]]) -> Tensor:
        scorer, prepared = self._scorers[metric], _t2t_line if READINGS[metric][1] == "t2t" else str
        rows = []
        for text, reference in pairs:
            score = scorer.corpus_score([prepared(text)], [[prepared(reference)]])
            rows.append([score.sys_len, score.ref_len, *score.counts, *score.totals])
        return torch.tensor(rows, dtype=torch.int64).view(-1, 2 + 2 * ORDERS)

    def compute(self, columns: dict[str, np.ndarray]) -> dict[str, float]:
        """Of the sums over all sentences."""
        values = {}
        for metric, scorer in self._scorers.items():
            length, reference_length, *counts = columns[metric].sum(0).tolist()
            score = scorer.compute_bleu(counts[:ORDERS], counts[ORDERS:], length, reference_length, smooth_method="exp")
            values[metric] = float(score.score)
        return values


def signatures() -> dict[str, str]:
    """sacrebleu's signature of each metric, without which a BLEU cannot be compared: nrefs:1|case:mixed|eff:no|..."""
    found = {}
    for metric, (_, tokens) in READINGS.items():
        scorer = _scorer(metric)
        scorer.corpus_score([""], [[""]])  # which counts the references
        signature = scorer.get_signature()
        signature.update("tok", tokens)
        found[metric] = signature.format()
    return found


def _scorer(metric: str) -> Any:
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError:
        raise UserError("BLEU: must have the package sacrebleu, got none (pip install sacrebleu)") from None
    lowercase, tokens = READINGS[metric]
    return BLEU(lowercase=lowercase, tokenize="none" if tokens == "t2t" else tokens, force=True)


def _t2t_line(text: str) -> str:
    """A line in lower case whose words are those of tensor2tensor's bleu_tokenize.

    Punctuation is a word of its own beside a character that is no decimal digit; a symbol is one everywhere.
    """
    import regex  # sacrebleu needs it: unlike re it knows the categories of Unicode

    text = regex.sub(r"([^\d])(\p{P})", r"\1 \2 ", text.lower())
    text = regex.sub(r"(\p{P})([^\d])", r" \1 \2", text)
    return regex.sub(r"(\p{S})", r" \1 ", text)
