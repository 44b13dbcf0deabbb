"""WordPiece by Hugging Face's tokenizers: reads or trains a vocabulary, and turns sentences into token ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from airank_fast.data.text.shards import whole_file
from airank_fast.errors import UserError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_MAX_ALPHABET = 1000  # the most frequent characters


def import_tokenizers():
    """tokenizers, which is optional. UserError where it is not installed."""
    try:
        import tokenizers
    except ImportError:
        raise UserError("vocab: must have tokenizers, got none (pip install 'airank-fast[wikicorpus]')") from None
    return tokenizers


def read_vocabulary(path: Path, name: str = "--vocab") -> list[str]:
    """The tokens of a vocab.txt, by their ids.

    UserError, under `name`: not readable, a token twice, a special token missing.
    """
    try:
        tokens = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{name}: must be a readable vocab.txt, got {path} ({error})") from None
    tokens = [token.rstrip("\r") for token in (tokens if tokens[-1] else tokens[:-1])]
    missing = [token for token in SPECIAL_TOKENS if token not in tokens]
    if missing:
        raise UserError(
            f"{name}: must be a WordPiece vocabulary with {', '.join(SPECIAL_TOKENS)}, "
            f"{path} has no {', '.join(missing)}"
        )
    if tokens[0] != "[PAD]":
        raise UserError(
            f"{name}: must have [PAD] as the first token (shards are padded with 0), {path} begins with {tokens[0]!r}"
        )
    if len(set(tokens)) < len(tokens):
        twice = next(token for i, token in enumerate(tokens) if token in tokens[:i])
        raise UserError(f"{name}: must have different tokens, {path} has {twice!r} twice")
    return tokens


def write_vocabulary(path: Path, tokens: list[str]) -> None:
    """Write a vocab.txt, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text("".join(token + "\n" for token in tokens), encoding="utf-8")


def train_vocabulary(lines: Callable[[], Iterable[str]], size: int, *, lowercase: bool) -> list[str]:
    """A vocabulary of `size` tokens from text; the same for the same text. UserError: the text has too few words.

    lines: called twice. The library numbers the characters within words in the order of a hash table, and chooses
    between equally frequent pairs by these numbers. Passed as special tokens the characters have fixed numbers, so that
    the vocabulary is the same in every run.
    """
    tokenizer = import_tokenizers().BertWordPieceTokenizer(lowercase=lowercase)
    counts: Counter[str] = Counter()
    for line in lines():
        counts.update(tokenizer.normalize(line))
    commonest = sorted((c for c in counts if not c.isspace()), key=lambda c: (-counts[c], c))
    alphabet = sorted(commonest[: min(_MAX_ALPHABET, size // 4)])
    inside = [f"##{c}" for c in alphabet]
    tokenizer.train_from_iterator(
        lines(),
        size,
        special_tokens=[*SPECIAL_TOKENS, *inside],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    ids = tokenizer.get_vocab()
    if len(ids) != size:
        raise UserError(
            f"--train-vocab: must be at most what the text has words for, got {size}; this text makes {len(ids)} tokens"
        )
    return sorted(ids, key=ids.get)


class Tokenizer:
    """Turns sentences into ids, without [CLS] and [SEP]."""

    def __init__(self, tokens: list[str], *, lowercase: bool):
        ids = {token: i for i, token in enumerate(tokens)}
        self.vocab_size, self.unk = len(tokens), ids["[UNK]"]
        self.cls, self.sep, self.mask = (ids[token] for token in ("[CLS]", "[SEP]", "[MASK]"))
        self._tokenizer = import_tokenizers().BertWordPieceTokenizer(ids, lowercase=lowercase)

    def encode(self, sentences: list[str]) -> Iterator[list[int]]:
        """The ids of each sentence; [] for one without a word."""
        return (one.ids for one in self._tokenizer.encode_batch(sentences, add_special_tokens=False))

    def spans(self, texts: list[str]) -> Iterator[tuple[list[int], list[tuple[int, int]]]]:
        """The ids of each text, and where each token begins and ends in it."""
        return ((one.ids, one.offsets) for one in self._tokenizer.encode_batch(texts, add_special_tokens=False))
