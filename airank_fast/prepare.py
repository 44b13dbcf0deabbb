"""Prepare a data set from its publisher's files, or verify one.

python -m airank_fast.prepare wikicorpus --input enwiki-latest-pages-articles.xml.bz2 --output DIR --vocab vocab.txt
python -m airank_fast.prepare wikicorpus --input DIR_OF_TEXT --output DIR --train-vocab 8000 --max-seq-length 128
python -m airank_fast.prepare imagenet --train TAR --val TAR --devkit TAR --output DIR
python -m airank_fast.prepare kinetics --train DIR_OF_TARS --val DIR_OF_TARS --annotations DIR --output DIR
python -m airank_fast.prepare cityscapes --pictures ZIP --labels ZIP --output DIR
python -m airank_fast.prepare word2vec --input DIR_OF_TEXT --output DIR
python -m airank_fast.prepare criteo --input train.txt --output DIR
python -m airank_fast.prepare ocr --train gt.txt --form icdar --output DIR
python -m airank_fast.prepare icdar2015 --training-images ZIP --training-gt ZIP --test-images ZIP --test-gt ZIP ...
python -m airank_fast.prepare coco --train ZIP --val ZIP --annotations ZIP --output DIR
python -m airank_fast.prepare wmt --train TGZ... --test SOURCE TARGET --output DIR
python -m airank_fast.prepare --verify DIR

The same command again resumes one that was interrupted.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from airank_fast.cli import run_command
from airank_fast.data.host import host
from airank_fast.errors import UserError, require
from airank_fast.sources import (
    cityscapes,
    coco,
    criteo,
    icdar2015,
    imagenet,
    kinetics,
    line_lists,
    wikicorpus,
    wmt,
    word_text,
)
from airank_fast.sources.verify import verify

_MAX_PREDICTIONS = {128: 20, 512: 76}  # of NVIDIA's and MLPerf's data sets; else 15 % of the tokens


@dataclass(frozen=True, kw_only=True)
class _Workers:
    workers: int | None = None
    """Processes. Default: the cores."""


@dataclass(frozen=True, kw_only=True)
class WikiCorpus(_Workers):
    """Make HDF5 shards of BERT samples, as NVIDIA's and MLPerf's scripts do, from MediaWiki dumps or text files."""

    input: list[Path]
    """Dumps (*.xml, *.xml.bz2, *.xml.gz), text files, directories of text files."""
    output: Path
    """Directory of the data set."""
    vocab: Path | None = None
    """WordPiece vocabulary, a token a line."""
    train_vocab: int | None = None
    """Train a vocabulary of this size on the text instead."""
    cased: bool = False
    """Keep capitals and accents; must fit the vocabulary."""
    max_seq_length: int = 512
    """Tokens of the longest sample, [CLS] and two [SEP] included."""
    max_predictions: int | None = None
    """Masked tokens of a sample at most. Default: 76 at 512, 20 at 128, else 15 % of --max-seq-length."""
    masked_lm_prob: float = 0.15
    """Share of tokens that are masked."""
    short_seq_prob: float = 0.1
    """Share of documents whose samples are of a random, shorter length."""
    duplicates: int = 10
    """How often each document is made into samples, each time with other masks."""
    eval_fraction: float = 0.01
    """Share of documents that are held out for evaluation."""
    eval_samples: int = 10000
    """Evaluation samples, evenly chosen from those of the documents held out."""
    min_characters: int = 100
    """Documents with less text are left out."""
    text_form: Literal["paragraphs", "sentences"] = "paragraphs"
    """Text files: a document each, with empty lines between paragraphs; or a sentence a line, with empty lines
    between documents."""
    part_mb: float = 4.0
    """Text of a shard, in MB. With 10 duplicates a worker needs about 50 times as much memory, and 300 MB."""
    form: Literal["variable", "padded"] = "variable"
    """MLPerf's form with rows of their own length, or DeepLearningExamples' with padding."""
    seed: int = 0
    """Seed of all random numbers."""

    def run(self) -> int:
        """Prepare; exit status 0."""
        if (self.vocab is None) == (self.train_vocab is None):
            raise UserError(
                "--vocab or --train-vocab: must be one of them, got " + ("both" if self.vocab else "neither")
            )
        require(self.train_vocab is None or self.train_vocab >= 100, "--train-vocab", "at least 100", self.train_vocab)
        require(0 < self.eval_fraction <= 0.5, "--eval-fraction", "above 0, at most 0.5", self.eval_fraction)
        require(self.eval_samples >= 1, "--eval-samples", "at least 1", self.eval_samples)
        require(self.part_mb > 0, "--part-mb", "above 0", self.part_mb)
        predictions = self.max_predictions
        if predictions is None:
            predictions = _MAX_PREDICTIONS.get(self.max_seq_length, max(1, int(self.max_seq_length * 0.15)))
        plan = wikicorpus.Plan(
            train_vocab=self.train_vocab,
            lowercase=not self.cased,
            max_seq_length=self.max_seq_length,
            max_predictions=predictions,
            masked_lm_prob=self.masked_lm_prob,
            short_seq_prob=self.short_seq_prob,
            num_duplicates=self.duplicates,
            eval_fraction=self.eval_fraction,
            num_eval_samples=self.eval_samples,
            min_characters=self.min_characters,
            text_form=self.text_form,
            part_bytes=int(self.part_mb * 1e6),
            form=self.form,
            seed=self.seed,
        )
        plan.check()
        if host is None:
            print(
                "note: airank_fast._host is not built; samples are built in Python, some 90 times slower",
                file=sys.stderr,
            )
        wikicorpus.prepare(plan, self.input, self.vocab, self.output, _workers(self.workers))
        return _verified(Verify(self.output, workers=self.workers))


@dataclass(frozen=True, kw_only=True)
class ImageNet(_Workers):
    """Unpack ILSVRC 2012's tars into train/<class>/ and val/<class>/."""

    train: Path
    """ILSVRC2012_img_train.tar."""
    val: Path
    """ILSVRC2012_img_val.tar."""
    devkit: Path
    """ILSVRC2012_devkit_t12.tar.gz, which has the class of each validation picture."""
    output: Path
    """Directory of the data set."""
    partial: bool = False
    """Accept other numbers of classes and pictures than ImageNet's."""

    def run(self) -> int:
        """Prepare; exit status 0."""
        imagenet.prepare(
            self.train, self.val, self.devkit, self.output, partial_set=self.partial, num_workers=_workers(self.workers)
        )
        return _verified(Verify(self.output, workers=self.workers))


@dataclass(frozen=True, kw_only=True)
class Kinetics(_Workers):
    """Unpack Kinetics-400's tars of videos, as CVDF publishes them, and list their classes."""

    train: Path
    """Directory of part_0.tar.gz to part_241.tar.gz, or one tar."""
    val: Path
    """Directory of part_0.tar.gz to part_19.tar.gz, or one tar."""
    annotations: Path
    """Directory of train.csv and val.csv, which have the class of each video."""
    output: Path
    """Directory of the data set."""
    replacement: Path | None = None
    """replacement_for_corrupted_k400.tgz, whose videos replace those of the same names."""
    partial: bool = False
    """Accept other numbers of classes and videos than Kinetics-400's."""

    def run(self) -> int:
        """Prepare; exit status 0."""
        kinetics.prepare(
            {"train": self.train, "val": self.val, "replacement": self.replacement},
            self.annotations,
            self.output,
            partial_set=self.partial,
            num_workers=_workers(self.workers),
        )
        return _verified(Verify(self.output, workers=self.workers))


@dataclass(frozen=True, kw_only=True)
class Cityscapes(_Workers):
    """Unpack Cityscapes' fine annotations into leftImg8bit/ and gtFine/, for DeepLabv3+ and HRNet."""

    pictures: Path
    """leftImg8bit_trainvaltest.zip."""
    labels: Path
    """gtFine_trainvaltest.zip."""
    output: Path
    """Directory of the data set."""
    partial: bool = False
    """Accept other numbers of pictures than Cityscapes'."""

    def run(self) -> int:
        """Prepare; exit status 0."""
        workers = _workers(self.workers)
        cityscapes.prepare(self.pictures, self.labels, self.output, partial_set=self.partial, num_workers=workers)
        return _verified(Verify(self.output, workers=self.workers))


@dataclass(frozen=True, kw_only=True)
class Word2Vec(_Workers):
    """Encode text for Word2Vec: a directory of files such as the One Billion Word corpus, a sentence a line."""

    input: Path
    """Directory of text files, or one file, in UTF-8."""
    output: Path
    """Directory of the data set."""
    min_count: int = 6
    """Words with fewer occurrences are left out."""
    vocab_size: int = 354_051
    """The vocabulary has that many words at most, the most frequent ones."""
    lowercase: bool = True
    """Words in lower case; --no-lowercase: as the text has them."""
    skip_corrupt: bool = False
    """Leave out lines that are not UTF-8, and count them."""

    def run(self) -> int:
        """Prepare; exit status 0."""
        require(self.min_count >= 1, "--min-count", "at least 1", self.min_count)
        require(self.vocab_size >= 2, "--vocab-size", "at least 2", self.vocab_size)
        plan = word_text.Plan(self.min_count, self.vocab_size, self.lowercase, self.skip_corrupt)
        word_text.prepare(plan, self.input, self.output, _workers(self.workers))
        return _verified(Verify(self.output, workers=self.workers))


@dataclass(frozen=True, kw_only=True)
class Criteo:
    """Make shards of fixed-width rows from the click logs of Criteo's challenge at Kaggle, for Wide&Deep and DeepFM."""

    input: list[Path]
    """dac.tar.gz, or train.txt of it, plain or as gzip; several files are one data set, in their order."""
    output: Path
    """Directory of the data set."""
    partial: bool = False
    """Accept another number of rows than 45,840,617."""
    skip_corrupt: bool = False
    """Leave out bad lines, and list them; without it the first one ends the command."""
    shard_rows: int = criteo.SHARD_ROWS
    """Rows of a shard, which is what training shuffles at once; 160 bytes each."""

    def run(self) -> int:
        """Prepare; exit status 0."""
        most = criteo.MOST_SHARD_ROWS
        require(1 <= self.shard_rows <= most, "--shard-rows", f"in [1, {most}]", self.shard_rows)
        if host is None:
            print(
                "note: airank_fast._host is not built; lines are read in Python, some 100 times slower", file=sys.stderr
            )
        criteo.prepare(
            self.input,
            self.output,
            shard_rows=self.shard_rows,
            partial_set=self.partial,
            skip_corrupt=self.skip_corrupt,
        )
        return _verified(Verify(self.output))


@dataclass(frozen=True, kw_only=True)
class Ocr(_Workers):
    """Make LMDBs of pictures of text lines from a published list, for the recognition of text."""

    train: Path
    """List of the lines to train on, in UTF-8."""
    output: Path
    """Directory of the data set."""
    train_folder: Path | None = None
    """Folder of the pictures of --train. Default: that of the list."""
    val: Path | None = None
    """List of the lines to evaluate on. Default: training holds out one line in ten."""
    val_folder: Path | None = None
    """Folder of the pictures of --val. Default: that of the list."""
    form: line_lists.Form = "tab"
    """tab: PATH TAB TEXT. icdar: PATH, "TEXT", as in ICDAR's gt.txt. mjsynth: PATH NUMBER, where the picture's name
    has the text, as in MJSynth's annotation_train.txt."""
    skip_corrupt: bool = False
    """Leave out lines without a text or without a picture that can be decoded, and list them."""
    part_lines: int = line_lists.PART_LINES
    """Lines of an LMDB."""

    def run(self) -> int:
        """Prepare; exit status 0."""
        require(self.part_lines >= 1, "--part-lines", "at least 1", self.part_lines)
        require(self.val or not self.val_folder, "--val-folder", "left out without --val", self.val_folder)
        sides = {"train": line_lists.Side(self.train, self.train_folder or self.train.parent)}
        if self.val:
            sides["val"] = line_lists.Side(self.val, self.val_folder or self.val.parent)
        line_lists.prepare(
            sides,
            self.output,
            form=self.form,
            skip_corrupt=self.skip_corrupt,
            num_workers=_workers(self.workers),
            part_lines=self.part_lines,
        )
        return _verified(Verify(self.output, workers=self.workers))


@dataclass(frozen=True, kw_only=True)
class Icdar2015(_Workers):
    """Unpack ICDAR 2015's incidental scene text (challenge 4), for text detection."""

    training_images: Path
    """ch4_training_images.zip."""
    training_gt: Path
    """ch4_training_localization_transcription_gt.zip."""
    test_images: Path
    """ch4_test_images.zip."""
    test_gt: Path
    """Challenge4_Test_Task1_GT.zip."""
    output: Path
    """Directory of the data set."""
    partial: bool = False
    """Accept other numbers of pictures than ICDAR's 1,000 and 500."""

    def run(self) -> int:
        """Prepare; exit status 0, or 1 for a data set that is not sound."""
        paths = {"train": (self.training_images, self.training_gt), "val": (self.test_images, self.test_gt)}
        workers = _workers(self.workers)
        icdar2015.prepare(paths, self.output, partial_set=self.partial, num_workers=workers)
        return _verified(Verify(self.output, workers=self.workers))


@dataclass(frozen=True, kw_only=True)
class Coco(_Workers):
    """Unpack COCO 2017 into train2017/, val2017/ and annotations/, for YOLOv3 and Mask R-CNN."""

    train: Path
    """train2017.zip."""
    val: Path
    """val2017.zip."""
    annotations: Path
    """annotations_trainval2017.zip."""
    output: Path
    """Directory of the data set."""
    partial: bool = False
    """Accept other numbers of pictures than COCO's 118,287 and 5,000."""
    skip_corrupt: bool = False
    """Leave out bad annotations, and list them; without it the first one ends the command."""

    def run(self) -> int:
        """Prepare; exit status 0, or 1 for a data set that is not sound."""
        coco.prepare(
            {"train": self.train, "val": self.val},
            self.annotations,
            self.output,
            partial_set=self.partial,
            skip_corrupt=self.skip_corrupt,
            num_workers=_workers(self.workers),
        )
        return _verified(Verify(self.output, workers=self.workers))


@dataclass(frozen=True, kw_only=True)
class Wmt(_Workers, wmt.Plan):
    """Make shards of subwords from WMT's parallel text, or any two text files, for the Transformer."""

    def run(self) -> int:
        """Prepare; exit status 0, or 1 for a data set that is not sound."""
        wmt.prepare(self, _workers(self.workers))
        return _verified(Verify(self.output, workers=self.workers))


@dataclass(frozen=True)
class Verify:
    """Read all of a prepared data set and compare it with its manifest. Exit status 1: it is not sound."""

    directory: tyro.conf.Positional[Path]
    """Directory of the data set."""
    vocab_size: int | None = None
    """Of shards without a manifest, from other scripts: tokens in the vocabulary."""
    max_seq_length: int = 512
    """Of shards without a manifest: tokens of the longest sample."""
    workers: int | None = None
    """Processes. Default: the cores."""

    def run(self) -> int:
        """Verify; exit status 0 or 1."""
        return _verified(self)


COMMANDS = {
    "wikicorpus": WikiCorpus,
    "imagenet": ImageNet,
    "kinetics": Kinetics,
    "cityscapes": Cityscapes,
    "word2vec": Word2Vec,
    "criteo": Criteo,
    "ocr": Ocr,
    "icdar2015": Icdar2015,
    "coco": Coco,
    "wmt": Wmt,
    "verify": Verify,
}


def main() -> int:
    """Run the chosen command."""
    command = parse(sys.argv[1:])
    try:
        return command.run()
    except OSError as error:
        raise UserError(f"files: must be readable and writable, with space on the disk, got {error}") from None


def parse(arguments: list[str]) -> Any:
    """The command with its options, of COMMANDS. `--verify DIR` is `verify DIR`."""
    if arguments[:1] == ["--verify"]:
        arguments = ["verify", *arguments[1:]]
    return tyro.extras.subcommand_cli_from_dict(
        COMMANDS, args=arguments, prog="python -m airank_fast.prepare", description=__doc__
    )


def _verified(options: Verify) -> int:
    report = verify(
        options.directory,
        vocab_size=options.vocab_size,
        max_seq_length=options.max_seq_length,
        num_workers=_workers(options.workers),
    )
    for line in report.lines:
        print(line)
    for problem in report.problems:
        print(f"error: {problem}", file=sys.stderr)
    print(f"{options.directory}: " + (f"{len(report.problems)} problems" if report.problems else "sound"))
    return 1 if report.problems else 0


def _workers(requested: int | None) -> int:
    require(requested is None or requested >= 1, "--workers", "at least 1", requested)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return requested or cores or 1


if __name__ == "__main__":
    run_command(main)
