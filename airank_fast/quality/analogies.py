"""The share of analogy questions that word vectors answer, by two rules, which give different numbers.

Both look for the answer to "a is to b as c is to ..." near b - a + c, of vectors of length 1, and match words in lower
case.

AI-Rank's rule, `analogy_accuracy`: of the four nearest words of the whole vocabulary the words of the question are
removed, and the first one that remains is the answer. A word that the vocabulary lacks is <UNK>. Every question counts;
where the vocabulary has no <UNK> either, it is not answered.

The usual rule, `usual_accuracy`, as word2vec.c's compute-accuracy and gensim's evaluate_word_analogies have it: of the
most frequent words, 300,000 or another number, the nearest one that is not in the question is the answer. A question
with any other word is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from airank_fast.errors import require
from airank_fast.quality.sums import Sums

NEAREST = 4  # words that AI-Rank's rule looks at
_SPELLINGS = 8  # words that the usual rule looks at: three may be the question's, and five are what gensim looks at
RULES = ("airank", "usual")


class Answers(NamedTuple):
    """Of b questions, bool [b] each: answered right by AI-Rank's rule; counted and answered right by the usual one."""

    airank: Tensor
    counted: Tensor
    usual: Tensor


def answer(vectors: Tensor, questions: Tensor, first: Tensor, *, unknown: int, restrict: int) -> Answers:
    """Answer questions by both rules.

    vectors: float32 [V, D], of words by falling frequency. questions: int64 [b, 4], numbers of the words; -1 for one
    that the vocabulary lacks. first: int64 [V], for each word that of its first spelling in another case, else its own.
    unknown: the number of <UNK>, -1 for none. restrict: the usual rule is of that many words.
    """
    counted = ((questions >= 0) & (questions < restrict)).all(1)
    questions = torch.where(questions < 0, unknown, questions)
    answered = (questions >= 0).all(1)
    airank, usual = torch.zeros_like(counted), torch.zeros_like(counted)
    ids = questions[answered]
    if len(ids):
        a, b, c = (F.normalize(vectors[ids[:, place]], dim=1) for place in range(3))
        # Scores are divided by the lengths here, which spares a copy of all vectors.
        scores = (b - a + c) @ vectors.T / vectors.norm(dim=1).clamp_min(torch.finfo(vectors.dtype).tiny)
        own = torch.arange(len(vectors), device=vectors.device)
        airank[answered] = _right(scores, ids, own, NEAREST)
        usual[answered] = _right(scores[:, :restrict], ids, first, _SPELLINGS)
    return Answers(airank, counted, usual & counted)


def _right(scores: Tensor, ids: Tensor, first: Tensor, most: int) -> Tensor:
    """Whether of the nearest `most` words the first one outside the question is the fourth: bool [b]."""
    nearest = first[scores.topk(min(most, scores.shape[1])).indices]
    ids = first[ids]
    outside = (nearest[:, :, None] != ids[:, None, :3]).all(2)
    found = nearest.gather(1, outside.int().argmax(1, keepdim=True)).squeeze(1)
    return outside.any(1) & (found == ids[:, 3])


class Analogies(Sums):
    """analogy_accuracy, usual_accuracy, and, by the usual rule, usual_accuracy/SECTION of each section that counts.

    family_accuracy is that of the section `family`.

    Outputs: `Answers`; the batch has `section`, int64 [b]. sections: the names of all sections.
    """

    def __init__(self, sections: Sequence[str]) -> None:
        super().__init__(len(RULES), len(sections), 2)
        self._sections = tuple(sections)
        self.by_section: dict[str, Mapping[str, tuple[int, int]]] = {}

    def amounts(self, outputs: Answers, batch: Any) -> Tensor:
        """(right, counted) of each section, by each rule."""
        everything = torch.ones_like(outputs.airank)
        by_rule = ((outputs.airank, everything), (outputs.usual, outputs.counted))
        columns = torch.stack([torch.stack(pair, 1) for pair in by_rule]).long()
        total = torch.zeros(len(RULES), len(self._sections), 2, dtype=torch.int64, device=columns.device)
        return total.index_add(1, batch.section, columns)

    def compute(self, total: Tensor) -> dict[str, float]:
        """The accuracies; `by_section` has {rule: {section: (right, counted)}}. UserError where no question counts."""
        by_rule = {rule: [(int(right), int(of)) for right, of in rows] for rule, rows in zip(RULES, total, strict=True)}
        self.by_section = {rule: dict(zip(self._sections, rows, strict=True)) for rule, rows in by_rule.items()}
        sums = {rule: tuple(map(sum, zip(*rows, strict=True))) for rule, rows in by_rule.items()}
        for _, counted in sums.values():
            require(counted, "analogy questions", "with words of the vocabulary", "none")
        (right, counted), (usual_right, usual_counted) = (sums[rule] for rule in RULES)
        self.counts = {"correct": right, "counted": counted}
        found = {"analogy_accuracy": right / counted, "usual_accuracy": usual_right / usual_counted}
        sections = {name: right / of for name, (right, of) in self.by_section["usual"].items() if of}
        found |= {"family_accuracy": sections["family"]} if "family" in sections else {}
        return found | {f"usual_accuracy/{name}": value for name, value in sections.items()}
