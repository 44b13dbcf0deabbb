"""Word2Vec, word vectors by skip-gram, as a job for the engine; see word2vec_options.py for its settings."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from airank_fast import job
from airank_fast.data.prefetch import Batch
from airank_fast.data.sampling import TrainStream, eval_batches
from airank_fast.data.text import analogies, word_vectors, wordnet
from airank_fast.data.text.words import Corpus, SentenceBatch, SentenceReader, Text, Vocabulary, encode, prepared
from airank_fast.errors import require
from airank_fast.job import Networks, Plan, Ranks
from airank_fast.models.word2vec import SkipGram
from airank_fast.nn.skip_gram import negative_table, skip_gram_loss
from airank_fast.optim import SparseSGD
from airank_fast.quality.analogies import Analogies, Answers, answer
from airank_fast.recipes.base_job import BaseJob
from airank_fast.recipes.word2vec_options import RECIPES, Options, Recipe
from airank_fast.tasks.word2vec import TASK

__all__ = ["RECIPES", "Job", "Options", "Recipe"]

NOISE_WORDS = 20  # of a sentence of a warm-up batch
LEAST_RATE = 1e-4  # of the learning rate at the beginning, as word2vec.c


@dataclass
class QuestionBatch(Batch):
    """b analogy questions on the device. questions: int64 [b, 4], see `answer`; section: int64 [b]."""

    questions: Tensor
    section: Tensor

    @property
    def num_samples(self) -> int:
        """Questions in this batch."""
        return len(self.questions)


class Job(BaseJob):
    """Word2Vec as the engine runs it, for one resolved recipe: see airank_fast.job.Job.

    A training sample is a sentence, and throughput counts words. The optimizer's step is what makes the weights those
    that the op has trained word by word; see `skip_gram_loss`.
    """

    task = TASK
    recipe: Recipe
    options: Options

    def __init__(self, recipe: Recipe, options: Options) -> None:
        super().__init__(recipe, options)
        self._negatives = torch.empty(0)
        self._words: list[str] = []
        self._saved_words: list[str] | None = None
        self._questions = analogies.embedded() if options.questions is None else analogies.read(options.questions)

    def build(self) -> dict[str, nn.Module]:
        """The float32 tables with random initial weights, on the CPU."""
        return {"model": SkipGram(self.recipe.vocab_size, self.recipe.dim)}

    def build_optimizer(self, model: nn.Module, device: torch.device) -> SparseSGD:
        """SGD on the rows that the sentences touch."""
        self._vectors, self._contexts = (model.get_parameter(f"{name}.weight") for name in ("syn0", "syn1neg"))
        self._optimizer = SparseSGD(model.parameters(), lr=self.recipe.learning_rate)
        return self._optimizer

    def loss(self, model: nn.Module, batch: SentenceBatch) -> Tensor:
        """Mean over the pairs of a word and its context of -log sigmoid(logit) and the negatives', float32 scalar."""
        recipe = self.recipe
        rate = float(self._optimizer.param_groups[0]["lr"])
        return skip_gram_loss(
            self._vectors,
            self._contexts,
            batch.words,
            batch.offsets,
            self._negatives,
            lr=rate or recipe.learning_rate,  # it is 0 in warm-up
            window=recipe.window,
            num_negatives=recipe.negatives,
            seed=batch.seed,
            threads=recipe.threads,
            unlocked=recipe.unlocked,
            scale=self._num_ranks,
        )

    def predict(self, networks: Networks, batch: QuestionBatch) -> Answers:
        """Whether the questions are answered right, by both rules."""
        vectors = networks["model"].get_parameter("syn0.weight")[: len(self._words)]
        unknown, restrict = self._unknown, self.recipe.restrict_vocab
        return answer(vectors, batch.questions, self._first, unknown=unknown, restrict=restrict)

    def meter(self) -> Analogies:
        """The accuracy by AI-Rank's rule and by the usual one, that of the section `family` alone too."""
        return Analogies(self._questions.sections)

    def open_data(self, ranks: Ranks, device: torch.device, dtype: torch.dtype) -> dict:
        """Read the text and look up the questions' words. Returns the fields of the run's `data` event."""
        recipe = self.recipe
        corpus, source, corrupt = self._read()
        self._words = corpus.vocabulary.words
        if ranks.rank == 0:
            print(f"data: {source}, {len(self._words)} words, {corpus.num_sentences} sentences", file=sys.stderr)
            if corrupt:
                print(f"data: {len(corrupt)} lines are left out", file=sys.stderr)
                print(*(f"data: left out {where} ({why})" for where, why in corrupt), sep="\n", file=sys.stderr)
        is_same = self._saved_words in (None, self._words)
        require(is_same, "--resume", "with the vocabulary of the run", "another one")
        self._look_up(ranks, device)
        counts = np.zeros(recipe.vocab_size, np.int64)
        counts[: len(self._words)] = corpus.vocabulary.counts
        self._negatives = negative_table(torch.from_numpy(counts)).to(device)
        self._device, self._ranks = device, ranks
        self._stream = TrainStream(
            corpus.num_sentences,
            recipe.seed,
            batch_size_local=recipe.micro_batch_size(ranks.size),
            global_batch_size=recipe.batch_size,
            rank=ranks.rank,
            world_size=ranks.size,
        )
        self.reader = SentenceReader(corpus, self._stream, sample=recipe.sample, seed=recipe.seed)
        return {
            "train_samples": corpus.num_sentences,
            "eval_samples": len(self._questions.words),
            "classes": len(self._words),
            "source": source,
            "checksum": corpus.checksum(),
            "reader": self.reader.name,
            "corrupt_files": corrupt,
        }

    def _read(self) -> tuple[Corpus, str, list[tuple[str, str]]]:
        """(the text, its source, lines left out)."""
        recipe, options = self.recipe, self.options
        if options.data is not None:
            made_by = {"min_count": recipe.min_count, "vocab_size": recipe.vocab_size, "lowercase": recipe.lowercase}
            if (encoded := prepared(options.data, **made_by)) is not None:
                return encoded, str(options.data), []
            text = Text(options.data, recipe.lowercase, options.skip_corrupt)
            corpus, corrupt = text.corpus(least=recipe.min_count, most=recipe.vocab_size)
            return corpus, str(options.data), corrupt
        sentences = wordnet.sentences()
        name = f"the embedded text, {wordnet.NAME}"
        vocabulary = Vocabulary.of(sentences, least=recipe.min_count, most=recipe.vocab_size, name=name)
        return encode(sentences, vocabulary), name, []

    def _look_up(self, ranks: Ranks, device: torch.device) -> None:
        """The questions' words in the vocabulary; UserError where no question has known words alone."""
        first = analogies.first_of_each(self._words)
        numbers = analogies.numbers(self._questions, first)
        known = ((numbers >= 0) & (numbers < self.recipe.restrict_vocab)).all(axis=1)
        num = int(known.sum())
        if ranks.rank == 0:
            print(f"data: {num} of {len(numbers)} analogy questions have known words alone", file=sys.stderr)
        what = "with a question whose words are all in the vocabulary"
        require(num, str(self.options.questions or "analogy questions"), what, f"none of {len(numbers)}")
        self._numbers, self._unknown = numbers, analogies.unknown_word(first)
        self._first = torch.tensor([first[word.lower()] for word in self._words], device=device)

    def train_batches(self, first_step: int) -> Iterator[SentenceBatch]:
        """This rank's part of every global batch from ``first_step`` on, without end."""
        assert self.reader is not None, "open_data comes first"
        self.training = self.reader.train(self._device, first_step)
        return self.training

    def eval_batches(self) -> Iterator[QuestionBatch]:
        """This rank's part of the questions, each once; before them rank 0 writes --vectors."""
        ranks, path, size = self._ranks, self.options.vectors, max(1, self.recipe.eval_batch_size // self._ranks.size)
        if path is not None and ranks.rank == 0:
            word_vectors.write(path, self._words, self._vectors[: len(self._words)].detach().cpu().numpy())
        for indices in eval_batches(len(self._numbers), size, ranks.rank, ranks.size):
            numbers, section = self._numbers[indices], self._questions.section[indices]
            yield QuestionBatch(*(torch.from_numpy(part).to(self._device) for part in (numbers, section)))

    def warm_up_batch(self, ranks: Ranks, device: torch.device, dtype: torch.dtype) -> SentenceBatch:
        """Sentences of random words, for warm-up before the clock starts."""
        num, most = self.recipe.micro_batch_size(ranks.size), self.recipe.vocab_size
        self._num_ranks = ranks.size
        self._negatives = negative_table(torch.ones(most)).to(device)
        words = torch.randint(most, (num * NOISE_WORDS,), dtype=torch.int32, device=device)
        offsets = torch.arange(num + 1, device=device) * NOISE_WORDS
        return SentenceBatch(words, offsets, len(words), 0)

    def learning_rate(self, step: int, plan: Plan) -> float:
        """Learning rate of 0-based ``step``: linear in the words before it, to a ten-thousandth, as word2vec.c."""
        assert self.reader is not None, "open_data comes first"
        done = self.reader.words_before(step * self.recipe.batch_size) / (self.recipe.epochs * self.reader.num_words)
        return self.recipe.learning_rate * max(1 - done, LEAST_RATE)

    def reported(self, plan: Plan) -> dict:
        """The optimizer under MLPerf's names; its books have no keys for this task."""
        return {"opt_name": "sgd", "opt_base_learning_rate": self.recipe.learning_rate}

    def state(self) -> dict:
        """The vocabulary in the order of the tables' rows, without which a checkpoint would be numbers alone."""
        return {"words": self._words} if self._words else {}

    def load_state(self, state: Mapping) -> None:
        """The inverse of `state`: `open_data` compares the vocabulary."""
        self._saved_words = state.get("words")


if TYPE_CHECKING:
    _checked: type[job.Job] = Job
