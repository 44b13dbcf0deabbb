"""Subwords of both languages of a translation: byte-pair encoding by SentencePiece, with fairseq's special tokens.

SentencePiece keeps white space as a character, so that decoding gives the text back, and its training depends on the
text alone. Characters of the training text that are too rare, and those that it lacks, are UNK.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from airank_fast.errors import UserError, require

BOS, PAD, EOS, UNK = range(4)


def import_sentencepiece() -> Any:
    """sentencepiece, which is optional. UserError where it is not installed."""
    try:
        import sentencepiece
    except ImportError:
        raise UserError(
            "subwords: must have the package sentencepiece, got none (pip install 'airank-fast[translation]')"
        ) from None
    return sentencepiece


class Subwords:
    """A vocabulary of subwords; `model` is the content of SentencePiece's file."""

    def __init__(self, model: bytes, name: str = "subwords") -> None:
        what = "a SentencePiece model with the special tokens bos 0, pad 1, eos 2, unk 3"
        try:
            self._processor = import_sentencepiece().SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise UserError(f"{name}: must be {what}, got another file ({error})") from None
        found = [getattr(self._processor, f"{each}_id")() for each in ("bos", "pad", "eos", "unk")]
        require(found == [BOS, PAD, EOS, UNK], name, what, found)
        self.model = model

    @staticmethod
    def learn(lines: Iterable[str], size: int, *, coverage: float = 1.0, name: str = "--vocab-size") -> Subwords:
        """The subwords of a text, `size` with the four special tokens; the same text gives the same ones.

        coverage: the share of the text's characters that its alphabet has. UserError, under `name`, for a size that is
        too small for the alphabet, or too large for the text.
        """
        out = io.BytesIO()
        try:
            import_sentencepiece().SentencePieceTrainer.train(
                sentence_iterator=iter(lines),
                model_writer=out,
                model_type="bpe",
                vocab_size=size,
                character_coverage=coverage,
                bos_id=BOS,
                pad_id=PAD,
                eos_id=EOS,
                unk_id=UNK,
                normalization_rule_name="identity",
                num_threads=1,
                minloglevel=2,
            )
        except RuntimeError as error:
            if most := re.search(r"value <= (\d+)", str(error)):
                raise UserError(f"{name}: must be at most {most[1]}, which the text has, got {size}") from None
            if least := re.search(r"required_chars\. \d+ vs (\d+)", str(error)):
                raise UserError(f"{name}: must be at least {least[1]}, for the text's alphabet, got {size}") from None
            raise
        return Subwords(out.getvalue())

    @staticmethod
    def read(path: Path) -> Subwords:
        """The subwords of SentencePiece's file; UserError for another file, or none."""
        require(path.is_file(), str(path), "a SentencePiece model", "no file")
        return Subwords(path.read_bytes(), str(path))

    def __len__(self) -> int:
        return self._processor.get_piece_size()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The numbers of each text's subwords, without special tokens; [] for a text without any character."""
        return self._processor.encode(list(texts), num_threads=1)

    def decode(self, numbers: Sequence[Sequence[int]]) -> list[str]:
        """The text of each list of subwords; special tokens but UNK, and numbers beyond the last one, have none."""
        return self._processor.decode([[n for n in each if n < len(self)] for each in numbers])
