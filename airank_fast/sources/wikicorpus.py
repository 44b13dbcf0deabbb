"""Turns raw text into shards of BERT samples, in stages that can be interrupted: documents, vocabulary, samples.

DIR/text/{train,eval}-00000.txt     one sentence a line, an empty line after each document
DIR/vocab.txt
DIR/train/part-00000.hdf5           the samples of one text part, all duplicates, shuffled
DIR/eval/part-00000.hdf5            of the held-out documents, evenly chosen
DIR/manifest.json                   options, counts and checksums

A part's samples depend on its text, the vocabulary and the options alone; neither the number of workers nor an
interruption changes a byte.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from airank_fast.data.manifest import Manifest, checksum
from airank_fast.data.sampling import Purpose, philox
from airank_fast.data.text import wordpiece
from airank_fast.data.text.samples import Samples
from airank_fast.data.text.sentence_pairs import Documents, PairOptions, build_samples
from airank_fast.data.text.shards import import_h5py, write_shard
from airank_fast.errors import UserError
from airank_fast.sources import documents as text
from airank_fast.sources.wikitext import import_parser
from airank_fast.sources.workers import ordered_map

_MOST_UNK = 0.5  # of the tokens; above it the vocabulary is of another language
_EVAL_BLOCK = 2**32  # larger than the number of any training part: it has other random numbers


@dataclass(frozen=True)
class Plan:
    """All options on which the result depends, besides the inputs and a given vocabulary."""

    train_vocab: int | None
    lowercase: bool
    max_seq_length: int
    max_predictions: int
    masked_lm_prob: float
    short_seq_prob: float
    num_duplicates: int
    eval_fraction: float
    num_eval_samples: int
    min_characters: int
    text_form: str
    part_bytes: int
    form: str
    seed: int

    def pair_options(self, vocab_size: int, cls_id: int, sep_id: int, mask_id: int) -> PairOptions:
        """The options of the samples. UserError: a value out of range."""
        names = ("max_seq_length", "max_predictions", "masked_lm_prob", "short_seq_prob", "num_duplicates", "seed")
        return PairOptions(
            vocab_size=vocab_size,
            cls_id=cls_id,
            sep_id=sep_id,
            mask_id=mask_id,
            **{name: getattr(self, name) for name in names},
        )

    def check(self) -> None:
        """UserError for a value out of range, before any work is done."""
        self.pair_options(0, 0, 0, 0)


def prepare(plan: Plan, inputs: list[Path], vocabulary: Path | None, root: Path, num_workers: int) -> Manifest:
    """Run all stages that are not done yet; returns the finished manifest.

    UserError: bad input, or a directory with a data set from other inputs or options.
    """
    inputs = text.find_inputs(inputs)
    import_h5py()  # a missing library is an error now, not after hours
    wordpiece.import_tokenizers()
    if any(map(text.is_dump, inputs)):
        import_parser()
    given = wordpiece.read_vocabulary(vocabulary) if vocabulary else None
    root.mkdir(parents=True, exist_ok=True)
    manifest = _open(plan, inputs, vocabulary, root)
    text.write_text(
        manifest,
        root,
        inputs,
        min_characters=plan.min_characters,
        eval_fraction=plan.eval_fraction,
        text_form=plan.text_form,
        part_bytes=plan.part_bytes,
        num_workers=num_workers,
    )
    _vocabulary(manifest, root, plan, given)
    _samples(manifest, root, plan, num_workers)
    return manifest


def _open(plan: Plan, inputs: list[Path], vocabulary: Path | None, root: Path) -> Manifest:
    listing = "".join(f"{path.name} {path.stat().st_size}\n" for path in inputs)
    named = f"{len(inputs)} files ({hashlib.sha256(os.fsencode(listing)).hexdigest()[:16]} by names and sizes)"
    options = {**vars(plan), "inputs": named, "vocab_sha256": checksum(vocabulary) if vocabulary else None}
    manifest = Manifest.begin(root, "wikicorpus", options)
    manifest.require_options(root, options)
    return manifest


def _vocabulary(manifest: Manifest, root: Path, plan: Plan, given: list[str] | None) -> None:
    if manifest.has(root, "vocab.txt") and manifest.stages.get("vocabulary", {}).get("done"):
        return
    tokens = given
    if tokens is None:
        names = [name for name in manifest.names("text") if name.startswith("text/train")]

        def lines() -> Iterator[str]:
            return (line for name in names for document in read_text(root / name) for line in document)

        tokens = wordpiece.train_vocabulary(lines, plan.train_vocab, lowercase=plan.lowercase)
    wordpiece.write_vocabulary(root / "vocab.txt", tokens)
    manifest.add(root, "vocab.txt", tokens=len(tokens))
    manifest.stages["vocabulary"] = {"done": True, "tokens": len(tokens), "trained": given is None}
    manifest.save(root)


def read_text(path: Path) -> Iterator[list[str]]:
    """The documents of a text part, as lists of sentences."""
    document: list[str] = []
    with open(path, encoding="utf-8", newline="\n") as file:
        for line in file:
            if line != "\n":
                document.append(line.removesuffix("\n"))
            elif document:
                yield document
                document = []
    if document:
        yield document


class _Block(NamedTuple):
    """The texts of one shard."""

    name: str
    texts: list[str]
    number: int
    root: Path
    plan: Plan


def _samples(manifest: Manifest, root: Path, plan: Plan, num_workers: int) -> None:
    for folder in ("train", "eval"):
        (root / folder).mkdir(exist_ok=True)
        for left in (root / folder).glob("*.partial"):
            left.unlink()
    left = [block for block in _blocks(manifest, root, plan) if not manifest.has(root, block.name)]
    for name in {name for block in left for name in block.texts}:
        if not manifest.has(root, name):
            raise UserError(f"--output: must have the text from the first stage, {root / name} is missing")
    with tqdm(total=len(left), unit="shard", desc="samples", disable=None) as bar:
        for block, counts in zip(left, ordered_map(_build, left, num_workers), strict=True):
            manifest.add(root, block.name, **counts)
            manifest.save(root)
            bar.update()
    totals = {}
    for folder in ("train", "eval"):
        shards = [manifest.files[name] for name in manifest.names(folder)]
        totals[folder] = {
            key: sum(shard[key] for shard in shards)
            for key in ("samples", "tokens", "masked", "random_next", "text_tokens", "unknown_tokens")
        }
    manifest.stages["samples"] = {"done": True, "shards": len(manifest.names("train")), **totals}
    manifest.save(root)


def _blocks(manifest: Manifest, root: Path, plan: Plan) -> list[_Block]:
    """Blocks of training parts, with two documents at least, as samples pair their sentences; then evaluation."""
    names = {
        split: [name for name in manifest.names("text") if name.startswith(f"text/{split}")]
        for split in ("train", "eval")
    }
    groups: list[list[str]] = [[]]
    for name in names["train"]:
        if sum(manifest.files[other]["documents"] for other in groups[-1]) >= 2:
            groups.append([])
        groups[-1].append(name)
    if len(groups) > 1 and sum(manifest.files[other]["documents"] for other in groups[-1]) < 2:
        groups[-2:] = [groups[-2] + groups[-1]]
    blocks = [_Block(f"train/part-{number:05d}.hdf5", group, number, root, plan) for number, group in enumerate(groups)]
    return [*blocks, _Block("eval/part-00000.hdf5", names["eval"], _EVAL_BLOCK, root, plan)]


def _build(block: _Block) -> dict:
    """In a worker: write one shard; returns its counts for the manifest."""
    plan, is_eval = block.plan, block.number == _EVAL_BLOCK
    tokens = wordpiece.read_vocabulary(block.root / "vocab.txt")
    tokenizer = wordpiece.Tokenizer(tokens, lowercase=plan.lowercase)
    documents = _tokenise((document for name in block.texts for document in read_text(block.root / name)), tokenizer)
    unknown = int((documents.tokens == tokenizer.unk).sum())
    if not len(documents) or unknown > _MOST_UNK * len(documents.tokens):
        raise UserError(
            f"--vocab: must be a vocabulary for this text, {unknown:,} of {len(documents.tokens):,} tokens of "
            f"{block.texts[0]} are [UNK]"
        )
    options = plan.pair_options(tokenizer.vocab_size, tokenizer.cls, tokenizer.sep, tokenizer.mask)
    options = replace(options, num_duplicates=1) if is_eval else options
    samples = build_samples(documents, options, block.number)
    if is_eval:
        num = min(len(samples), plan.num_eval_samples)
        samples = samples.take(np.arange(num) * len(samples) // num)
    else:
        keys = philox(plan.seed, Purpose.SHUFFLE, (0, block.number)).random_raw(len(samples))
        samples = samples.take(np.argsort(keys, kind="stable"))
    write_shard(
        block.root / block.name,
        samples,
        form=plan.form,
        max_seq_length=plan.max_seq_length,
        max_predictions=plan.max_predictions,
        vocab_size=tokenizer.vocab_size,
    )
    return {
        **shard_counts(samples),
        "documents": len(documents),
        "text_tokens": len(documents.tokens),
        "unknown_tokens": unknown,
    }


def shard_counts(samples: Samples) -> dict:
    """A shard's content for the manifest: counts, and a checksum that does not depend on the order of the samples."""
    return {
        "samples": len(samples),
        "tokens": len(samples.input_ids),
        "masked": len(samples.masked_lm_ids),
        "random_next": int(samples.next_sentence_labels.sum()),
        "content": f"{sum(samples.digests()) % 2**128:032x}",
    }


def _tokenise(documents: Iterator[list[str]], tokenizer: wordpiece.Tokenizer) -> Documents:
    ids, lengths, num_sentences = [], [], []
    for document in documents:
        encoded = [one for one in tokenizer.encode(document) if one]
        if encoded:
            ids += [np.array(one, np.int32) for one in encoded]
            lengths += map(len, encoded)
            num_sentences.append(len(encoded))
    return Documents(
        np.concatenate(ids) if ids else np.empty(0, np.int32),
        np.cumsum([0, *lengths], dtype=np.int64),
        np.cumsum([0, *num_sentences], dtype=np.int64),
    )
