"""Checks a prepared data set against its manifest: checksums, counts, duplicates, files that are not in it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from airank_fast.data.manifest import Manifest
from airank_fast.data.text.shards import read_shard
from airank_fast.data.text.wikicorpus import WikiCorpus
from airank_fast.errors import UserError
from airank_fast.sources import cityscapes, coco, criteo, icdar2015, imagenet, kinetics, line_lists, wmt, word_text
from airank_fast.sources.wikicorpus import shard_counts
from airank_fast.sources.workers import ordered_map


class Report(NamedTuple):
    """The result of a verification."""

    lines: list[str]  # a summary of the data set, to be printed
    problems: list[str]  # one line each; none: the data set is sound


def verify(root: Path, *, vocab_size: int | None, max_seq_length: int, num_workers: int) -> Report:
    """Read all of a data set. vocab_size, max_seq_length: for one of other scripts, without a manifest.

    UserError: no directory, or no shards in it.
    """
    if not root.is_dir():
        raise UserError(f"--verify: must be a directory, got {root}, which is not a directory")
    manifest = Manifest.load(root)
    if manifest is None:
        return _foreign(root, vocab_size, max_seq_length, num_workers)
    if manifest.kind == "imagenet":
        return Report(*imagenet.verify(manifest, root, num_workers))
    if manifest.kind == kinetics.KIND:
        return Report(*kinetics.verify(manifest, root, num_workers))
    if manifest.kind == cityscapes.KIND:
        return Report(*cityscapes.verify(manifest, root, num_workers))
    if manifest.kind == icdar2015.KIND:
        return Report(*icdar2015.verify(manifest, root, num_workers))
    if manifest.kind == coco.KIND:
        return Report(*coco.verify(manifest, root, num_workers))
    if manifest.kind == word_text.KIND:
        return Report(*word_text.verify(manifest, root, num_workers))
    if manifest.kind == line_lists.KIND:
        return Report(*line_lists.verify(manifest, root, num_workers))
    if manifest.kind == wmt.KIND:
        return Report(*wmt.verify(manifest, root, num_workers))
    if manifest.kind == "criteo":
        return Report(*criteo.verify(manifest, root))
    problems = manifest.unfinished("documents", "vocabulary", "samples")
    names = list(manifest.files)
    texts = manifest.names("text")
    if texts and not any((root / name).exists() for name in texts):  # deleted to save space; training needs none
        names = [name for name in names if name not in texts]
    with tqdm(total=len(names), unit="file", desc="verify", disable=None) as bar:
        check = partial(_check_file, root=root, manifest=manifest)
        for problem in ordered_map(check, names, num_workers):
            problems += problem
            bar.update()
    problems += manifest.unlisted(root, "train", "eval")
    # Training on copies of samples, in any order, does not converge.
    problems += manifest.copies((*manifest.names("train"), *manifest.names("eval")), "content", "samples")
    problems += _empty(manifest)
    return Report(_summary(manifest), problems)


def _check_file(name: str, root: Path, manifest: Manifest) -> list[str]:
    path, entry = root / name, manifest.files[name]
    changed = manifest.changed(root, name)
    if changed or not name.endswith(".hdf5"):
        return changed
    vocab_size = manifest.stages["vocabulary"]["tokens"]
    try:
        found = shard_counts(read_shard(path, vocab_size=vocab_size, max_seq_length=manifest.options["max_seq_length"]))
    except UserError as error:
        return [f"{name}: {error}"]
    return [f"{name}: must have {key} {entry[key]}, got {value}" for key, value in found.items() if entry[key] != value]


def _empty(manifest: Manifest) -> list[str]:
    problems = [
        f"{name}: no samples"
        for folder in ("train", "eval")
        for name in manifest.names(folder)
        if not manifest.files[name]["samples"]
    ]
    return problems + [f"{folder}: no shards" for folder in ("train", "eval") if not manifest.names(folder)]


def _summary(manifest: Manifest) -> list[str]:
    read, samples = manifest.stages.get("documents", {}), manifest.stages.get("samples", {})
    lines = [
        f"documents  {read.get('documents', 0):>13,}   ({read.get('eval_documents', 0):,} held out, "
        f"{read.get('read', 0):,} read)",
        f"sentences  {read.get('sentences', 0):>13,}",
        f"vocabulary {manifest.stages.get('vocabulary', {}).get('tokens', 0):>13,}",
    ]
    for folder in ("train", "eval"):
        counts = samples.get(folder)
        if counts and counts["samples"]:
            share = counts["unknown_tokens"] / counts["text_tokens"]
            lines.append(
                f"{folder:<10} {counts['samples']:>13,} samples in {len(manifest.names(folder)):,} shards, "
                f"{counts['tokens'] / counts['samples']:.1f} tokens each, "
                f"{counts['masked'] / counts['samples']:.1f} masked, {share:.2%} of the text [UNK]"
            )
    return lines


def _foreign(root: Path, vocab_size: int | None, max_seq_length: int, num_workers: int) -> Report:
    """Shards without a manifest: their content and duplicates, as there are no checksums to compare."""
    if vocab_size is None:
        raise UserError(
            f"--verify: must have a manifest, {root} has none; for shards from other scripts give --vocab-size"
        )
    corpus = WikiCorpus(root, vocab_size=vocab_size, max_seq_length=max_seq_length)
    contents: dict[str, str] = {}
    problems: list[str] = []
    shards = [*corpus.train, *corpus.eval]
    read = partial(_foreign_counts, vocab_size=vocab_size, max_seq_length=max_seq_length)
    paths = [shard.path for shard in shards]
    for path, counts in zip(paths, _progress(ordered_map(read, paths, num_workers), len(paths)), strict=True):
        name = str(path.relative_to(root))
        if isinstance(counts, str):
            problems.append(f"{name}: {counts}")
        elif (other := contents.setdefault(counts["content"], name)) != name:
            problems.append(f"{name}: the same samples as in {other}")
    return Report(
        [
            f"train      {corpus.num_train:>13,} samples in {len(corpus.train):,} shards",
            f"eval       {corpus.num_eval:>13,} samples in {len(corpus.eval):,} shards",
            "no manifest: checksums could not be compared",
        ],
        problems,
    )


def _progress(items: Iterator, total: int) -> Iterator:
    return tqdm(items, total=total, unit="file", desc="verify", disable=None)


def _foreign_counts(path: Path, vocab_size: int, max_seq_length: int) -> dict | str:
    try:
        return shard_counts(read_shard(path, vocab_size=vocab_size, max_seq_length=max_seq_length))
    except UserError as error:
        return str(error)
