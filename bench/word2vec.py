"""One epoch of word2vec, skip-gram with 5 negatives, against gensim on the same corpus with the same settings.

    python bench/word2vec.py [--save] [--device cpu|cuda] [--rounds N] [--words N] [--threads N]

The corpus is made here: sentences of 20 words, Zipf-distributed over a vocabulary of 30,000, half of a sentence's words
from the one of 100 topics that the sentence has. An epoch is timed with all that a training does for it: sub-sampling,
draws, training, and for airank_fast the update with the deltas that `skip_gram` returns. gensim reads the text from a
file, its fastest way, or from lists of words in memory; airank_fast has the words as numbers, as after `prepare
word2vec`. Words are counted before sub-sampling, as gensim and word2vec.c do. The quality, after one epoch from random
vectors, is the share of the 3,000 most frequent words whose nearest neighbour among them is of their topic. gensim's is
higher from a file with two workers (99 %) than with one or from lists (97 %).

Where there is a GPU it is the default device. The text and the tables of airank_fast are there, and its parts are those
of a training run; gensim, which has no code for GPUs, runs beside it on all processors.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import harness
import numpy as np
import torch
from torch import Tensor

from airank_fast.ops import skip_gram, sparse_table_update_
from airank_fast.ops.skip_gram import negative_table
from airank_fast.recipes.word2vec_options import usual_threads

OURS, FROM_FILE, FROM_LISTS = "skip_gram", "gensim from a file", "gensim from lists"
ROWS, TOPICS, SENTENCE, JUDGED = 30_000, 100, 20, 3_000
WINDOW, NEGATIVES, SAMPLE, LR, LAST_LR = 5, 5, 1e-3, 0.025, 1e-4
BATCH = 100_000  # words before sub-sampling
DIMS = (100, 300)


def corpus(num_words: int) -> np.ndarray:
    """Word numbers, int32 [sentences, SENTENCE], the topic of a word is its number mod TOPICS."""
    rng = np.random.default_rng(0)
    sentences = num_words // SENTENCE
    weights = 1 / (np.arange(ROWS) + 2.7)
    shares = np.cumsum(weights / weights.sum())
    words = np.searchsorted(shares, rng.random((sentences, SENTENCE))).clip(max=ROWS - 1)
    topics = rng.integers(TOPICS, size=(sentences, 1))
    of_topic = np.minimum(words // TOPICS * TOPICS + topics, ROWS - 1)
    return np.where(rng.random(words.shape) < 0.5, of_topic, words).astype(np.int32)


class Ours:
    """The tables and the loop over batches."""

    def __init__(self, sentences: np.ndarray, dim: int, threads: int, device: str) -> None:
        generator = torch.Generator().manual_seed(1)
        self.input = ((torch.rand(ROWS, dim, generator=generator) - 0.5) / dim).to(device)
        self.output = torch.zeros(ROWS, dim, device=device)
        self.words, self.epochs = torch.from_numpy(sentences.ravel()).to(device), 0
        self.threads, self.unlocked = usual_threads(device) if device == "cuda" else (threads, threads > 1)
        counts = torch.bincount(self.words, minlength=ROWS)
        self.negatives = negative_table(counts).to(device)
        ratio = SAMPLE * len(self.words) / counts.double()
        self.kept = (ratio.sqrt() + ratio).float()  # word2vec.c's probability to keep a word
        self.step = torch.ones((), device=device)

    def epoch(self) -> None:
        """Train on all sentences once."""
        self.epochs += 1
        device = self.words.device
        generator = torch.Generator(device).manual_seed(self.epochs)
        for first in range(0, len(self.words), BATCH):
            words = self.words[first : first + BATCH]
            kept = torch.rand(len(words), generator=generator, device=device) < self.kept[words]
            sizes = kept.view(-1, SENTENCE).sum(1)
            offsets = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
            lr = max(LAST_LR, LR * (1 - first / len(self.words)))
            result = skip_gram(
                self.input,
                self.output,
                words[kept],
                offsets,
                self.negatives,
                lr=lr,
                window=WINDOW,
                num_negatives=NEGATIVES,
                seed=self.epochs << 32 | first // BATCH,
                threads=self.threads,
                unlocked=self.unlocked,
            )
            rate = torch.tensor(lr, device=device)
            for table, rows, deltas in (
                (self.input, result.input_rows, result.input_deltas),
                (self.output, result.output_rows, result.output_deltas),
            ):
                sparse_table_update_(table, [], None, rows, deltas, rate, self.step, rule="sgd")

    def vectors(self) -> Tensor:
        """The most frequent words' vectors, by number."""
        return self.input[:JUDGED].cpu()


class Gensim:
    """gensim's Word2Vec; `corpus` is its argument corpus_file or corpus_iterable, by name."""

    def __init__(self, corpus: dict[str, object], dim: int, threads: int) -> None:
        from gensim.models import Word2Vec

        options = {"window": WINDOW, "negative": NEGATIVES, "sample": SAMPLE, "alpha": LR, "min_alpha": LAST_LR}
        self.model = Word2Vec(vector_size=dim, sg=1, min_count=1, workers=threads, seed=1, **options)
        self.corpus = corpus
        self.model.build_vocab(**corpus)

    def epoch(self) -> None:
        """Train on all sentences once."""
        counts = {"total_examples": self.model.corpus_count, "total_words": self.model.corpus_total_words}
        self.model.train(**self.corpus, epochs=1, **counts)

    def vectors(self) -> Tensor:
        """The most frequent words' vectors, by number."""
        return torch.from_numpy(np.stack([self.model.wv[str(word)] for word in range(JUDGED)]))


def quality(vectors: Tensor) -> float:
    """The share of the words whose nearest neighbour is of their topic."""
    unit = torch.nn.functional.normalize(vectors.float())
    likeness = (unit @ unit.T).fill_diagonal_(-2)
    topics = torch.arange(JUDGED) % TOPICS
    return float((topics[likeness.argmax(1)] == topics).float().mean())


def main() -> None:
    """Time, judge, print; save on request."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    usual = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=usual, choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--words", type=int, default=2_000_000)
    parser.add_argument("--threads", type=int, help="of the CPU; 2, and beside a GPU all processors")
    parser.add_argument("--save", action="store_true", help="append the results to bench/results/word2vec.jsonl")
    options = parser.parse_args()
    device = options.device
    threads = options.threads or (2 if device == "cpu" else os.cpu_count() or 1)
    if options.save and not harness.wait_until_idle(device):
        parser.exit(1, "the machine is busy: nothing was measured\n")
    torch.set_num_threads(threads)
    sentences = corpus(options.words)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "corpus.txt"
        lists = [[str(word) for word in sentence] for sentence in sentences.tolist()]
        path.write_text("".join(" ".join(sentence) + "\n" for sentence in lists))
        for dim in DIMS:
            contestants: dict[str, Ours | Gensim] = {OURS: Ours(sentences, dim, threads, device)}
            if harness.is_there("gensim"):
                contestants[FROM_FILE] = Gensim({"corpus_file": str(path)}, dim, threads)
                contestants[FROM_LISTS] = Gensim({"corpus_iterable": lists}, dim, threads)
            reached = {}
            for name, contestant in contestants.items():
                contestant.epoch()
                reached[name] = quality(contestant.vectors())
            epochs: dict[str, Callable[[], None]] = {name: c.epoch for name, c in contestants.items()}
            times = harness.time_rounds(epochs, num_rounds=options.rounds, device=device, num_warm_up=0, ahead=False)
            case = f"dim {dim}, {sentences.size} words, {threads} threads, float32, {device}"
            print(harness.as_text(case, times, OURS))
            rates = {name: sentences.size / harness.timing(values).median_s for name, values in times.items()}
            for name, rate in rates.items():
                print(f"  {name:24} {rate:12,.0f} words/s   same topic after one epoch {reached[name]:.2%}")
            if options.save:
                facts = {"words_per_s": rates, "quality": reached}
                harness.save("word2vec", case, times, OURS, **facts)


if __name__ == "__main__":
    main()
