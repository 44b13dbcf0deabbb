"""Text files -> encoded sentences for Word2Vec, in two passes of worker processes; see airank_fast.prepare.

DIR/manifest.json           options, counts and checksums
DIR/counts/00001.txt        the words of an input file, each with its count
DIR/vocab.txt               the words of the vocabulary with their counts, the most frequent first
DIR/train/00001.words.npy   the sentences of an input file, one behind the other: int32, numbers of vocab.txt
DIR/train/00001.lengths.npy the words of each sentence, int32

An interrupted preparation goes on with the first file that is not whole.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from airank_fast.data.manifest import Manifest, checksum, entry
from airank_fast.data.text.shards import whole_file
from airank_fast.data.text.words import KIND, Text, Vocabulary, encode, read_counts, text_files, write_counts
from airank_fast.errors import UserError
from airank_fast.sources.workers import ordered_map


@dataclass(frozen=True)
class Plan:
    """All that the data depends on, beside the text. See the options of `prepare word2vec`."""

    min_count: int
    vocab_size: int
    lowercase: bool
    skip_corrupt: bool


def prepare(plan: Plan, path: Path, root: Path, num_workers: int) -> Manifest:
    """Run all stages that are not done yet; returns the finished manifest.

    UserError: a file that is not text, a text of less than two words, or a directory of another preparation.
    """
    files = text_files(path)
    manifest = _open(root, asdict(plan) | {"input": {file.name: file.stat().st_size for file in files}})
    text = Text(path, plan.lowercase, plan.skip_corrupt)
    numbered = [(f"{number:05}", file) for number, file in enumerate(files, 1)]
    for folder in ("counts", "train"):
        (root / folder).mkdir(exist_ok=True)
    count = partial(_count, root=root, text=text)
    left = [part for part in numbered if not manifest.has(root, f"counts/{part[0]}.txt")]
    _run(manifest, root, "count words", count, left, num_workers)
    if not manifest.has(root, "vocab.txt"):
        _vocabulary(manifest, root, plan, str(path))
    vocabulary = read_counts(root / "vocab.txt")
    number = partial(_encode, root=root, text=text, vocabulary=vocabulary)
    left = [part for part in numbered if not manifest.has(root, f"train/{part[0]}.lengths.npy")]
    _run(manifest, root, "encode", number, left, num_workers)
    entries = [manifest.files[name] for name in manifest.names("train") if name.endswith(".lengths.npy")]
    totals = {name: sum(entry[name] for entry in entries) for name in ("words", "sentences")}
    manifest.stages["sentences"] = {"done": True, **totals}
    manifest.save(root)
    return manifest


def _open(root: Path, options: dict) -> Manifest:
    root.mkdir(parents=True, exist_ok=True)
    manifest = Manifest.begin(root, KIND, options)
    for name, value in options.items():
        if manifest.options.get(name) != value:
            what = "the same text" if name == "input" else f"--{name.replace('_', '-')} {manifest.options.get(name)}"
            got = "another one" if name == "input" else value
            raise UserError(
                f"--output: must be a new directory, or with {what}, with which {root} was begun, got {got}"
            )
    return manifest


def _run(manifest: Manifest, root: Path, title: str, function, left: list, num_workers: int) -> None:
    """Make what is left, and enter each in the manifest as soon as it is whole."""
    for entries in tqdm(ordered_map(function, left, num_workers), title, len(left), unit="file", disable=None):
        manifest.files |= entries
        manifest.save(root)


def _count(part: tuple[str, Path], root: Path, text: Text) -> dict[str, dict]:
    number, file = part
    counts: Counter[str] = Counter()
    corrupt: list[tuple[str, str]] = []
    for sentence in text.sentences(corrupt.append, [file]):
        counts.update(sentence)
    name = f"counts/{number}.txt"
    write_counts(root / name, sorted(counts.items()))
    return {name: entry(root, name, words=sum(counts.values()), left_out=corrupt)}


def _vocabulary(manifest: Manifest, root: Path, plan: Plan, name: str) -> None:
    counts: Counter[str] = Counter()
    for part in manifest.names("counts"):
        found = read_counts(root / part)
        counts.update(dict(zip(found.words, found.counts.tolist(), strict=True)))
    vocabulary = Vocabulary.most_frequent(counts, least=plan.min_count, most=plan.vocab_size, name=name)
    write_counts(root / "vocab.txt", zip(vocabulary.words, vocabulary.counts.tolist(), strict=True))
    manifest.add(root, "vocab.txt", words=len(vocabulary.words))
    read = sum(manifest.files[part]["words"] for part in manifest.names("counts"))
    manifest.stages["vocabulary"] = {"done": True, "words": len(vocabulary.words), "read": read}
    manifest.save(root)


def _encode(part: tuple[str, Path], root: Path, text: Text, vocabulary: Vocabulary) -> dict[str, dict]:
    number, file = part
    corpus = encode(text.sentences(lambda where: None, [file]), vocabulary)
    arrays = {"words": corpus.words, "lengths": np.diff(corpus.offsets).astype(np.int32)}
    entries: dict[str, dict] = {}
    for kind, array in arrays.items():
        name = f"train/{number}.{kind}.npy"
        with whole_file(root / name) as partial_path, open(partial_path, "wb") as out:
            np.save(out, array)
        counts = {"words": len(corpus.words), "sentences": corpus.num_sentences} if kind == "lengths" else {}
        entries[name] = entry(root, name, **counts)
    return entries


def verify(manifest: Manifest, root: Path, num_workers: int) -> tuple[list[str], list[str]]:
    """(a summary, problems): checksums of all files, words by count, numbers of the vocabulary, duplicate files."""
    stages = manifest.stages
    problems = manifest.unfinished("vocabulary", "sentences")
    names = [name for name in manifest.files if not name.startswith("counts/") or (root / name).exists()]
    check = partial(_check, root=root, manifest=manifest)
    for found in tqdm(ordered_map(check, names, num_workers), "verify", len(names), unit="file", disable=None):
        problems += found
    problems += manifest.unlisted(root, "train")
    words = (name for name in manifest.names("train") if name.endswith(".words.npy"))
    problems += manifest.copies(words, "sha256", "sentences")
    read, kept = stages.get("vocabulary", {}), stages.get("sentences", {})
    left_out = sum(len(manifest.files[name]["left_out"]) for name in manifest.names("counts"))
    summary = [
        f"text       {read.get('read', 0):>15,} words, {left_out:,} lines left out",
        f"vocabulary {read.get('words', 0):>15,}",
        f"sentences  {kept.get('sentences', 0):>15,} of {kept.get('words', 0):,} words of the vocabulary",
    ]
    return summary, problems


def _check(name: str, root: Path, manifest: Manifest) -> list[str]:
    path, listed = root / name, manifest.files[name]
    if not path.is_file():
        return [f"{name}: missing"]
    if path.stat().st_size != listed["bytes"] or checksum(path) != listed["sha256"]:
        return [f"{name}: must have sha256 {listed['sha256']}, got another: the file was changed"]
    if not name.endswith(".words.npy"):
        return []
    words, size = np.load(path, mmap_mode="r"), manifest.files["vocab.txt"]["words"]
    outside = len(words) and (words.min() < 0 or words.max() >= size)
    of_lengths = int(np.load(path.with_name(path.name.replace(".words.", ".lengths.")), mmap_mode="r").sum())
    problems = [f"{name}: must have words of the vocabulary of {size}, got others"] if outside else []
    wrong = f"{name}: must have {of_lengths} words, by the lengths beside it, got {len(words)}"
    return problems + ([wrong] if of_lengths != len(words) else [])
