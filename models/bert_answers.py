"""BERT for extractive question answering (Devlin et al., 2018, section 4.2), without padding.

Parameter names are those of Hugging Face's ``BertForQuestionAnswering``, whose files load as they are, old ones with a
pooler as well.
"""

from __future__ import annotations

from torch import Tensor, nn

from airank_fast.models.bert import BertNetwork
from airank_fast.nn import PackedSequences


class BertForQuestionAnswering(BertNetwork):
    """BERT with a linear layer that scores each token as the first, and as the last, of the answer.

    334,094,338 parameters with ``**size("large")`` and the default vocabulary of 30522.
    """

    has_pooler = False

    def add_heads(self, config: dict) -> None:
        """The linear layer."""
        self.qa_outputs = nn.Linear(config["hidden_size"], 2)

    def logits(self, x: Tensor) -> Tensor:
        """Hidden states [n, width] to the scores of a beginning and of an end, [n, 2]."""
        return self.qa_outputs(x)

    def forward(
        self, input_ids: Tensor, *, token_type_ids: Tensor, position_ids: Tensor, sequences: PackedSequences
    ) -> Tensor:
        """The tokens of all sequences, int64 [T], question before paragraph, to [T, 2]."""
        return self.logits(self.bert(input_ids, token_type_ids, position_ids, sequences))
