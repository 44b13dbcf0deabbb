"""The text that comes with Python: the language reference and the docstrings of the standard library, as tokens.

English of about a million words that every CPython has: `pydoc_data.topics`, and the docstrings that `ast` finds in the
library's files. A WordPiece vocabulary is trained on it; the tokens are written once, under the user's cache directory,
with the version of Python in the name. About one document in twenty is held out.
"""

from __future__ import annotations

import ast
import hashlib
import os
import platform
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from airank_fast.data.cache import made_once
from airank_fast.data.sampling import Purpose, is_held_out, philox
from airank_fast.errors import UserError

NAME = "Python's language reference and docstrings"
VOCAB_SIZE = 2048
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]  # ids 0 to 4
_FORMAT = 1  # a change of the text or the vocabulary needs another number
_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
_SHORTEST = 40  # characters of a docstring that is taken
_HOLD_OUT = 20  # one document in twenty


@dataclass(frozen=True)
class Text:
    """Tokens of all documents, each followed by [SEP]. train, held_out: uint16 [n]; vocab: the words by their ids."""

    train: np.ndarray
    held_out: np.ndarray
    vocab: list[str]
    source: str

    def checksum(self) -> str:
        """SHA-256 of the tokens of both sides."""
        return hashlib.sha256(self.train.tobytes() + self.held_out.tobytes()).hexdigest()


def load(cache_dir: str | os.PathLike | None = None) -> Text:
    """The text of this Python, gathered and tokenised at the first call.

    cache_dir: default `~/.cache/airank_fast`. UserError: not writable, no tokenizers, or a Python without its sources.
    """
    name = f"pydoc-v{_FORMAT}-{VOCAB_SIZE}-python{platform.python_version()}"
    folder = made_once(name, _write, "embedded text", "--data with a directory of shards", cache_dir)
    vocab = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    train, held_out = (np.load(folder / f"{side}.npy") for side in ("train", "held_out"))
    return Text(train, held_out, vocab, f"{NAME}, {platform.python_version()}")


def _write(folder: Path) -> None:
    vocab, sides = tokenise(*split(documents()))
    (folder / "vocab.txt").write_text("".join(word + "\n" for word in vocab), encoding="utf-8")
    for name, tokens in zip(("train", "held_out"), sides, strict=True):
        np.save(folder / f"{name}.npy", tokens)


def documents() -> list[str]:
    """Topics of the language reference, and one document per module of the library with all its docstrings.

    Equal texts appear once; white space is reduced to single spaces.
    """
    from pydoc_data.topics import topics

    seen: set[str] = set()
    found = [_distinct([text], seen) for _, text in sorted(topics.items())]
    for path in library_files():
        found.append(_distinct(_docstrings(path), seen))
    found = [text for text in found if text]
    if len(found) < 100:
        raise UserError(
            f"embedded text: must have the standard library's sources in {library()}, "
            f"got {len(found)} documents; or pass --data with a directory of shards"
        )
    return found


def library() -> Path:
    """The folder of the standard library."""
    return Path(sysconfig.get_paths()["stdlib"])


def library_files() -> Iterator[Path]:
    """The library's modules by path, without its tests and `pydoc_data.topics`."""
    root = library()
    for path in sorted(root.rglob("*.py")):
        if not _LEFT_OUT.intersection(path.relative_to(root).parts) and path.name != "topics.py":
            yield path


def syntax_tree(path: Path) -> ast.Module | None:
    """The parsed file; None where it cannot be read or is no Python of this version."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return None


def _docstrings(path: Path) -> list[str]:
    tree = syntax_tree(path)
    if tree is None:
        return []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds))
    return [text for text in texts if text and len(text) >= _SHORTEST]


def _distinct(texts: list[str], seen: set[str]) -> str:
    fresh = [text for text in (" ".join(text.split()) for text in texts) if text not in seen]
    seen.update(fresh)
    return "\n".join(dict.fromkeys(fresh))


def split(texts: list[str]) -> tuple[list[str], list[str]]:
    """(train, held out): whole documents, by a hash of each, so that no other document changes sides with it."""
    sides: tuple[list[str], list[str]] = ([], [])
    for text in texts:
        sides[is_held_out(text.encode("utf-8", "replace"), _HOLD_OUT)].append(text)
    return sides


def tokenise(train: list[str], held_out: list[str]) -> tuple[list[str], tuple[np.ndarray, ...]]:
    """A WordPiece vocabulary of VOCAB_SIZE from the training text, and both texts as uint16 tokens."""
    try:
        from tokenizers import BertWordPieceTokenizer
    except ImportError:
        raise UserError(
            "embedded text: must have the package tokenizers, got none (pip install 'airank-fast[wikicorpus]')"
        ) from None
    tokenizer = BertWordPieceTokenizer(lowercase=True)
    tokenizer.train_from_iterator(train, VOCAB_SIZE, special_tokens=SPECIAL_TOKENS, show_progress=False)
    ids = tokenizer.get_vocab()
    separator = [ids["[SEP]"]]
    sides = []
    for texts in (train, held_out):
        encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
        sides.append(np.array([token for one in encoded for token in one.ids + separator], np.uint16))
    return sorted(ids, key=ids.get), tuple(sides)


class Blocks:
    """A text as a source of samples (airank_fast.data.text.tokens): [CLS], a block of it, [SEP]; masked at each use.

    tokens: uint16 [n], a side of Text, cut into blocks of length - 2. mask_rate of a block, at least one token, is
    predicted: 80 % of these are [MASK], 10 % a random word, 10 % unchanged. Masks depend on (seed, position in the
    stream) alone. There are no next-sentence labels. limit: of the number of blocks.
    """

    def __init__(self, tokens: np.ndarray, length: int, *, seed: int, mask_rate: float = 0.15, limit: int = 10**9):
        width = length - 2
        num_blocks = min(limit, len(tokens) // width)
        if not num_blocks:
            raise UserError(f"embedded text: must have a sequence length of at most {len(tokens) + 2}, got {length}")
        self._blocks = tokens[: num_blocks * width].reshape(num_blocks, width).astype(np.int32)
        self._seed, self.num_masked = seed, max(1, round(mask_rate * width))
        self.lengths = np.full(num_blocks, length)

    def take(self, indices: np.ndarray, positions: np.ndarray) -> MaskedBlocks:
        """The blocks with these indices, masked by the draws of these positions of the stream."""
        num, (_, width) = len(indices), self._blocks.shape
        raw = np.stack([self._draws(position) for position in positions.tolist()])
        chosen = np.sort(np.argsort(raw[:, :width], axis=1, kind="stable")[:, : self.num_masked], axis=1) + 1
        kinds, words = np.split(raw[:, width : width + 2 * self.num_masked], 2, axis=1)
        ids = np.full((num, width + 2), SPECIAL_TOKENS.index("[SEP]"), np.int32)
        ids[:, 0] = SPECIAL_TOKENS.index("[CLS]")
        ids[:, 1:-1] = self._blocks[indices]
        rows = np.arange(num)[:, None]
        original = ids[rows, chosen]
        num_special = len(SPECIAL_TOKENS)
        random_word = (words % np.uint64(VOCAB_SIZE - num_special)).astype(np.int32) + num_special
        tenth = kinds % np.uint64(10)
        masked = np.where(tenth == 8, random_word, SPECIAL_TOKENS.index("[MASK]"))
        ids[rows, chosen] = np.where(tenth == 9, original, masked)
        return MaskedBlocks(ids, chosen.astype(np.int32), original)

    def _draws(self, position: int) -> np.ndarray:
        num_words = self._blocks.shape[1] + 2 * self.num_masked
        return philox(self._seed, Purpose.MASKS, (0, position)).random_raw(num_words)


class MaskedBlocks:
    """Masked samples of one length, under the names of airank_fast.data.text.samples.Samples.

    ids [n, length], positions [n, m] within the sample, ascending, and the original ids there [n, m].
    """

    next_sentence_labels: np.ndarray | None = None

    def __init__(self, ids: np.ndarray, positions: np.ndarray, originals: np.ndarray):
        num, length = ids.shape
        self.input_ids, self.segment_ids = ids.ravel(), np.zeros(ids.size, np.int8)
        self.masked_lm_positions, self.masked_lm_ids = positions.ravel(), originals.ravel()
        self.token_offsets = np.arange(num + 1) * length
        self.masked_offsets = np.arange(num + 1) * positions.shape[1]
