"""Sentences of words for word vectors: a directory of plain text, its vocabulary, and sub-sampled batches.

    text = read(path)                                       # a sentence a line, words between white space
    reader = SentenceReader(text.corpus(least=5, most=100_000), stream, sample=1e-3)

The order of sentences, the words that sub-sampling leaves out, and the seed of a batch are pure functions of (seed,
position in the stream), see `airank_fast.data.sampling`.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from airank_fast.data.manifest import Manifest
from airank_fast.data.prefetch import Batch, moved
from airank_fast.data.prefetch import prefetch as any_prefetch
from airank_fast.data.sampling import Purpose, TrainStream, philox
from airank_fast.data.text.shards import whole_file
from airank_fast.errors import UserError, require

BLOCK = 4 << 20  # bytes of text that are read at once
KIND = "words"  # of a manifest
LONGEST = 1000  # words of a sentence, as word2vec.c's MAX_SENTENCE_LENGTH; a longer line is cut
_GOLDEN, _MIX_1, _MIX_2 = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """words: by falling count, those of one count in their order as text. counts: int64 [V]."""

    words: list[str]
    counts: np.ndarray

    @staticmethod
    def of(sentences: Iterable[list[str]], *, least: int, most: int, name: str) -> Vocabulary:
        """The most frequent words, at most `most`, of at least `least` occurrences; UserError for less than two."""
        counts: Counter[str] = Counter()
        for sentence in sentences:
            counts.update(sentence)
        return Vocabulary.most_frequent(counts, least=least, most=most, name=name)

    @staticmethod
    def most_frequent(counts: Counter[str], *, least: int, most: int, name: str) -> Vocabulary:
        """See `of`."""
        kept = sorted(((word, n) for word, n in counts.items() if n >= least), key=lambda item: (-item[1], item[0]))
        what = f"text with at least 2 words that occur {least} times" if least > 1 else "text with at least 2 words"
        got = f"{len(kept)} in a text of {sum(counts.values())} words"
        require(len(kept) > 1 and most > 1, name, what, got)
        words, numbers = zip(*kept[:most], strict=True)
        return Vocabulary(list(words), np.array(numbers, np.int64))

    def kept(self, sample: float) -> np.ndarray:
        """word2vec.c's probability that an occurrence stays, float64 [V]: (sqrt(f / sample) + 1) * sample / f.

        f is the word's share of all occurrences; a number above 1 is 1, and sample 0 keeps everything.
        """
        if not sample:
            return np.ones(len(self.counts))
        frequency = self.counts / self.counts.sum()
        return np.minimum(1, (np.sqrt(frequency / sample) + 1) * sample / frequency)


@dataclass(frozen=True, eq=False)
class Corpus:
    """Encoded sentences. words: int32 [N], numbers of the vocabulary; offsets: int64 [S + 1], first 0, last N."""

    vocabulary: Vocabulary
    words: np.ndarray
    offsets: np.ndarray

    @property
    def num_sentences(self) -> int:
        """Sentences with a word of the vocabulary."""
        return len(self.offsets) - 1

    def checksum(self) -> str:
        """SHA-256 of the vocabulary and the sentences."""
        digest = hashlib.sha256("\n".join(self.vocabulary.words).encode("utf-8", "surrogatepass"))
        for part in (self.words, self.offsets):
            digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()


def encode(sentences: Iterable[list[str]], vocabulary: Vocabulary) -> Corpus:
    """The sentences in numbers; words that the vocabulary lacks are left out, and sentences without any other."""
    number = {word: index for index, word in enumerate(vocabulary.words)}
    words, offsets = array("i"), array("q", [0])
    for sentence in sentences:
        words.extend([number[word] for word in sentence if word in number])
        if len(words) > offsets[-1]:
            offsets.append(len(words))
    return Corpus(vocabulary, np.frombuffer(words, np.int32), np.frombuffer(offsets, np.int64))


# -- files of text ----------------------------------------------------------------------------------------------------


def text_files(path: Path) -> list[Path]:
    """The file, or the files of the directory by name, without hidden ones; UserError for none."""
    what = "a text file, or a directory of them"
    require(path.exists(), str(path), what, "no such path")
    if not path.is_dir():
        return [path]
    files = sorted(each for each in path.iterdir() if each.is_file() and not each.name.startswith("."))
    require(files, str(path), what, "a directory without files")
    return files


@dataclass(frozen=True, eq=False)
class Text:
    """A text file, or a directory of them: a sentence a line, in UTF-8 with LF or CRLF, words between white space.

    lowercase: words are in lower case. skip_corrupt: lines that are not UTF-8 are left out, and reported by
    `left_out`; else they are a UserError. A line of more than LONGEST words is cut into several sentences.
    """

    path: Path
    lowercase: bool = True
    skip_corrupt: bool = False

    def corpus(self, *, least: int, most: int) -> tuple[Corpus, list[tuple[str, str]]]:
        """(the encoded text, [(where, why)] of what is left out). The files are read twice."""
        corrupt: list[tuple[str, str]] = []
        vocabulary = Vocabulary.of(self.sentences(corrupt.append), least=least, most=most, name=str(self.path))
        return encode(self.sentences(lambda where: None), vocabulary), corrupt

    def sentences(
        self, left_out: Callable[[tuple[str, str]], object], files: Sequence[Path] = ()
    ) -> Iterator[list[str]]:
        """The words of each sentence of all files, or of these.

        left_out: called with (where, why) for each line that skip_corrupt leaves out.
        """
        for path in files or text_files(self.path):
            for block, first_line in _blocks(path):
                for line in self._decoded(block, path, first_line, left_out).split("\n"):
                    words = line.split()
                    for first in range(0, len(words), LONGEST):
                        yield words[first : first + LONGEST]

    def _decoded(self, block: bytes, path: Path, first_line: int, left_out: Callable) -> str:
        try:
            text = block.decode()
        except UnicodeDecodeError as error:
            if not self.skip_corrupt:
                number = first_line + block.count(b"\n", 0, error.start)
                got = f"byte 0x{block[error.start]:02X} (GBK can be converted by iconv)"
                raise UserError(f"{path}, line {number}: must be UTF-8, got {got}") from None
            lines = []
            for number, line in enumerate(block.split(b"\n"), first_line):
                try:
                    lines.append(line.decode())
                except UnicodeDecodeError as reason:
                    left_out((f"{path}, line {number}", f"must be UTF-8, got byte 0x{line[reason.start]:02X}"))
            text = "\n".join(lines)
        text = text.removeprefix("\ufeff") if first_line == 1 else text
        return text.lower() if self.lowercase else text


def _blocks(path: Path) -> Iterator[tuple[bytes, int]]:
    """(bytes, the number of their first line): whole lines, or the words of a part of a line longer than a block.

    UserError for a block without white space, and for a file that cannot be read.
    """
    rest, line = b"", 1
    try:
        with open(path, "rb") as file:
            while read := file.read(BLOCK):
                block = rest + read
                end = block.rfind(b"\n") + 1
                if not end and len(block) >= BLOCK:
                    end = max(block.rfind(b" "), block.rfind(b"\t")) + 1
                    what = f"text, with words of less than {BLOCK:,} bytes"
                    require(end, f"{path}, line {line}", what, "a longer one")
                rest = block[end:]
                if end:
                    yield block[:end], line
                line += block.count(b"\n", 0, end)
    except OSError as error:
        raise UserError(f"{path}: must be a readable text file, got: {error.strerror}") from None
    if rest:
        yield rest, line


# -- prepared text ----------------------------------------------------------------------------------------------------


def read_counts(path: Path) -> Vocabulary:
    """The words of a file of lines `WORD COUNT`, in its order; UserError for another line."""
    words, counts = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        word, _, count = line.rpartition(" ")
        if line:
            require(word and count.isdigit(), f"{path}, line {number}", "WORD COUNT", repr(line[:40]))
            words.append(word)
            counts.append(int(count))
    return Vocabulary(words, np.array(counts, np.int64))


def write_counts(path: Path, counts: Iterable[tuple[str, int]]) -> None:
    """Write lines `WORD COUNT`, all or none."""
    with whole_file(path) as partial_path, open(partial_path, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{word} {count}\n" for word, count in counts)


def prepared(root: Path, **expected: Any) -> Corpus | None:
    """The corpus that `prepare word2vec` has made in a directory; None for one without a manifest.

    expected: the options of its preparation, by their names. UserError for other ones, and for one that is not whole.
    """
    manifest = Manifest.load(root) if root.is_dir() else None
    if manifest is None:
        return None
    require(manifest.kind == KIND, str(root), "text, or made by prepare word2vec", manifest.kind)
    is_done = manifest.stages.get("sentences", {}).get("done")
    require(is_done, str(root), "a finished preparation", "one that was interrupted (the same command goes on with it)")
    for name, value in expected.items():
        found = manifest.options[name]
        require(found == value, f"--{name.replace('_', '-')}", f"{found}, with which {root} was prepared", value)
    names = [root / name for name in manifest.names("train")]
    try:
        words, lengths = (
            np.concatenate([np.load(name, mmap_mode="r") for name in names if name.name.endswith(f".{kind}.npy")])
            for kind in ("words", "lengths")
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{root}: must be as prepared (prepare --verify {root} checks it), got: {error}") from None
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    require(offsets[-1] == len(words), str(root), f"{offsets[-1]} words, by the lengths of sentences", len(words))
    return Corpus(read_counts(root / "vocab.txt"), words, offsets)


# -- batches ----------------------------------------------------------------------------------------------------------


class Sentences(NamedTuple):
    """Sub-sampled sentences on the host: int32 [n] and int64 [b + 1], the words before sub-sampling, a seed."""

    words: np.ndarray
    offsets: np.ndarray
    num_words: int
    seed: int


@dataclass
class SentenceBatch(Batch):
    """b sub-sampled sentences on the device. words: int32 [n]; offsets: int64 [b + 1].

    num_words: in them before sub-sampling. seed: of the random numbers of a step, another one for each batch.
    """

    words: Tensor
    offsets: Tensor
    num_words: int
    seed: int

    @property
    def num_samples(self) -> int:
        """Sentences in this batch, which may have no word left."""
        return len(self.offsets) - 1

    @property
    def units(self) -> int:
        """Words in this batch before sub-sampling, as word2vec.c and gensim count them."""
        return self.num_words


def collate(sentences: Sentences, device: torch.device | str) -> SentenceBatch:
    """The batch on the device; on CUDA by asynchronous copies from pinned memory."""
    words, offsets = moved((sentences.words, sentences.offsets), device)
    return SentenceBatch(words, offsets, sentences.num_words, sentences.seed)


class SentenceReader:
    """The batches of one rank, by `stream`, over a corpus. sample: see `Vocabulary.kept`; seed: of sub-sampling."""

    name = "sentences"

    def __init__(self, corpus: Corpus, stream: TrainStream, *, sample: float, seed: int) -> None:
        self._corpus, self._stream, self._seed = corpus, stream, seed
        self._lengths = np.diff(corpus.offsets)
        self._kept = corpus.vocabulary.kept(sample).astype(np.float32)
        self._last = 0, 0  # a position of the stream, and the words before it

    def train(self, device: torch.device | str, first_step: int = 0) -> Generator[SentenceBatch, None, None]:
        """Endless micro-batches of this rank, from global step `first_step` (0-based) on."""
        positions = self._stream.positions(first_step)
        return any_prefetch(positions, device, partial(collate, device=device), self.at)

    def at(self, position: int) -> Sentences:
        """The sentences of the local batch at this position of the stream."""
        indices = self._stream.indices(position, self._stream.batch_size_local)
        lengths = self._lengths[indices]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        num_words = int(offsets[-1])
        within = np.arange(num_words) - np.repeat(offsets[:-1], lengths)
        words = self._corpus.words[np.repeat(self._corpus.offsets[indices], lengths) + within]
        keys = philox(self._seed, Purpose.WORDS, (position, 0)).random_raw(4 * len(indices)).reshape(-1, 4)
        kept = _uniform(np.repeat(keys[:, 0], lengths), within) < self._kept[words]
        left = np.concatenate([[0], np.cumsum(kept)])[offsets]
        return Sentences(words[kept], left.astype(np.int64), num_words, int(keys[0, 1].astype(np.int64)))

    def words_before(self, position: int) -> int:
        """Words, before sub-sampling, of all ranks' samples before this position of the stream."""
        num = len(self._lengths)
        begin = position // num * num
        if not begin <= self._last[0] <= position:
            self._last = begin, position // num * self.num_words
        at, words = self._last
        words += int(self._lengths[self._stream.indices(at, position - at)].sum())
        self._last = position, words
        return words

    @property
    def num_words(self) -> int:
        """Words of an epoch."""
        return len(self._corpus.words)

    def close(self) -> None:
        """Nothing runs in the background."""


def _uniform(keys: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Number `index` of the random numbers of a key, in [0, 1), by splitmix64: float32 [n]; keys: uint64 [n]."""
    h = keys + (index.astype(np.uint64) + np.uint64(1)) * _GOLDEN
    h = (h ^ (h >> np.uint64(30))) * _MIX_1
    h = (h ^ (h >> np.uint64(27))) * _MIX_2
    h = h ^ (h >> np.uint64(31))
    return (h >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
