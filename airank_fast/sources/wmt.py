"""WMT's parallel text as published, or any two text files -> shards of subwords; see `airank_fast.prepare wmt`.

DIR/manifest.json                    options, counts and checksums
DIR/text/001-00001.source.txt        100,000 pairs of a corpus, a sentence a line; .target.txt likewise
DIR/subwords.model                   SentencePiece's file, learned on both languages
DIR/train/001-00001.source.tokens.npy, .lengths.npy, .target...   the same pairs in subwords, without the filtered ones
DIR/test.source.txt, test.target.txt the sentences to evaluate

A corpus is a pair of files whose names differ in the language at their end, plain or in .gz or .xz, or such a pair in a
tar, as training-parallel-europarl-v7.tgz has them. An interrupted preparation goes on with the first corpus, and then
the first shard, that is not whole. Text is read line by line, so that memory does not grow with it.
"""

from __future__ import annotations

import contextlib
import gzip
import html
import lzma
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from airank_fast.data.manifest import Manifest, entry
from airank_fast.data.text.shards import whole_file
from airank_fast.data.text.translation_batch import Sentences
from airank_fast.data.text.translation_pairs import Names, Pair, aligned_lines, parse
from airank_fast.data.text.translation_sets import KIND, LANGUAGES, SUBWORDS
from airank_fast.data.text.translation_subwords import UNK, Subwords, import_sentencepiece
from airank_fast.errors import UserError, require
from airank_fast.sources.tars import BROKEN, members, open_tar, reason
from airank_fast.sources.workers import ordered_map

COVERAGE = 0.9995  # of the characters, as SentencePiece's default
SHARD_PAIRS = 100_000
_OPENERS: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open}
_BROKEN = (*BROKEN, lzma.LZMAError)
_SEGMENT = re.compile(r"<seg\b[^>]*>(.*?)</seg>", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that the data depends on. See the options of `prepare wmt`."""

    train: list[Path]
    """Tars such as training-parallel-europarl-v7.tgz, and text files (.en, .en.gz, .en.xz) beside which the files of
    the other language lie."""
    test: tuple[Path, Path]
    """Source and target of the sentences to evaluate: text files, or .sgm as newstest2014-deen-src.en.sgm."""
    output: Path
    """Directory of the data set."""
    source_language: str = "en"
    """Ending of the names of the source's files."""
    target_language: str = "de"
    """Ending of the names of the target's files."""
    vocab_size: int = 33_708
    """Subwords of both languages together."""
    subword_pairs: int = 1_000_000
    """Pairs, evenly chosen, of which subwords are learned at most; they are in memory at once."""
    max_length: int = 250
    """Pairs with a longer sentence, in subwords, are left out of training."""
    max_ratio: float = 1.5
    """Pairs are left out of training if one sentence has more than this times the subwords of the other."""
    skip_corrupt: bool = False
    """Leave out lines that are not UTF-8 or have more than 64 KiB, and list them."""
    shard_pairs: int = SHARD_PAIRS
    """Pairs of a shard."""


class Corpus(NamedTuple):
    """A number, a name, and the files of source and target."""

    number: str
    name: str
    files: tuple[Path, Path]


def prepare(plan: Plan, num_workers: int) -> Manifest:
    """Run all stages that are not done yet; returns the finished manifest.

    UserError: a bad line without skip_corrupt, files of different numbers of lines, a broken archive, a directory of
    another preparation.
    """
    for name, least in (("vocab_size", 8), ("subword_pairs", 1), ("max_length", 1), ("shard_pairs", 1)):
        require(getattr(plan, name) >= least, f"--{name.replace('_', '-')}", f"at least {least}", getattr(plan, name))
    import_sentencepiece()
    require(plan.max_ratio >= 1, "--max-ratio", "at least 1", plan.max_ratio)
    root = plan.output
    root.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {
        name: getattr(plan, name)
        for name in ("source_language", "target_language", "vocab_size", "subword_pairs", "max_length")
    }
    options |= {"max_ratio": plan.max_ratio, "skip_corrupt": plan.skip_corrupt, "shard_pairs": plan.shard_pairs}
    for path in (*plan.train, *plan.test):
        require(path.is_file(), str(path), "a tar, or a text file", "no file")
    files = [*plan.test, *(file for path in plan.train for file in _of_both_languages(path, plan) or (path,))]
    sizes = {path.name: path.stat().st_size for path in files}
    manifest = Manifest.begin(root, KIND, {**options, "input": sizes})
    manifest.require_options(root, options)
    same = manifest.options["input"] == sizes
    require(same, "--output", f"a new directory, or with the text with which {root} was begun", "another text")
    for folder in ("text", "train"):
        (root / folder).mkdir(exist_ok=True)
    _test(manifest, plan)
    if not manifest.stages.get("text", {}).get("done"):
        _text(manifest, plan, num_workers)
    if not manifest.has(root, SUBWORDS):
        _subwords(manifest, plan)
    _pairs(manifest, plan, num_workers)
    return manifest


# -- sentences to evaluate --------------------------------------------------------------------------------------------


def _test(manifest: Manifest, plan: Plan) -> None:
    if all(manifest.has(plan.output, f"test.{side}.txt") for side in LANGUAGES):
        return
    sides = [_sentences(path) for path in plan.test]
    what = f"as many sentences as {plan.test[0]}, {len(sides[0])}"
    require(len(sides[0]) == len(sides[1]) > 0, str(plan.test[1]), what, len(sides[1]))
    for path, lines in zip(plan.test, sides, strict=True):
        for number, line in enumerate(lines, 1):
            require(line.strip(), f"{path}, sentence {number}", "a sentence", "an empty one")
    for side, lines in zip(LANGUAGES, sides, strict=True):
        _write(manifest, plan.output, f"test.{side}.txt", lines)
    manifest.save(plan.output)


def _sentences(path: Path) -> list[str]:
    """The sentences of a text file, or of SGML as WMT publishes its test sets."""
    with contextlib.closing(_Opened(path)) as file:
        content = file.read()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {number}: must be UTF-8, got byte 0x{content[error.start]:02X}") from None
    if ".sgm" in path.suffixes:
        return [" ".join(html.unescape(found).split()) for found in _SEGMENT.findall(text)]
    return [line.strip() for line in text.removesuffix("\n").split("\n")]


# -- text -------------------------------------------------------------------------------------------------------------


def _text(manifest: Manifest, plan: Plan, num_workers: int) -> None:
    """Every corpus as shards of text. Lines that are empty on either side are left out, and counted."""
    root = plan.output
    counts = manifest.stages.setdefault("text", {"done": False, "corpora": {}})
    corpora = _corpora(plan)
    left = [corpus for corpus in corpora if corpus.name not in counts["corpora"]]
    make = partial(_shards, root=root, plan=plan)
    for name, found, entries in tqdm(
        ordered_map(make, left, num_workers), "text", len(left), unit="corpus", disable=None
    ):
        manifest.files |= entries
        counts["corpora"][name] = found
        manifest.save(root)
    kept = sum(found["pairs"] for found in counts["corpora"].values())
    require(kept, "--train", f"pairs of files .{plan.source_language} and .{plan.target_language}", "no pair of lines")
    counts["done"] = True
    manifest.save(root)
    shutil.rmtree(root / "raw", ignore_errors=True)


def _corpora(plan: Plan) -> list[Corpus]:
    """The corpora of all inputs; those of tars are unpacked below DIR/raw, where they are not yet."""
    found: dict[str, tuple[Path, Path]] = {}
    for path in plan.train:
        files = _of_both_languages(path, plan)
        if files is None:
            of_path = _unpacked(path, plan.output / "raw", _endings(plan))
        else:
            packed = files[0].suffix if files[0].suffix in _OPENERS else ""
            of_path = {files[0].name.removesuffix(packed).removesuffix(_endings(plan)[0]): files}
        for name, files in of_path.items():
            require(found.get(name, files) == files, str(path), "of corpora with other names than the others", name)
        found |= of_path
    numbered = enumerate(sorted(found.items()), 1)
    return [Corpus(f"{number:03}", name, files) for number, (name, files) in numbered]


def _endings(plan: Plan) -> tuple[str, str]:
    return f".{plan.source_language}", f".{plan.target_language}"


def _of_both_languages(path: Path, plan: Plan) -> tuple[Path, Path] | None:
    """The files of source and target, one of which is at the path; None for a tar."""
    plain = path.with_suffix("") if path.suffix in _OPENERS else path
    packed = path.name.removeprefix(plain.name)
    if plain.suffix not in _endings(plan):
        return None
    source, target = (plain.with_suffix(f"{ending}{packed}") for ending in _endings(plan))
    for file in (source, target):
        require(file.is_file(), str(path), f"beside {file.name}, the other language", "no such file")
    return source, target


def _unpacked(path: Path, raw: Path, endings: tuple[str, str]) -> dict[str, tuple[Path, Path]]:
    """{name: files} of the corpora in a tar that have both languages; unpacked into a folder of its own."""
    folder = raw / path.name
    if not folder.exists():
        partial_folder = raw / f"{path.name}.partial"
        shutil.rmtree(partial_folder, ignore_errors=True)
        partial_folder.mkdir(parents=True)
        with open_tar(path, "--train") as tar:
            for member in members(tar, path, "--train"):
                name = PurePosixPath(member.name).name  # a path in the archive may lead out of the folder
                if member.isfile() and name.endswith(endings):
                    try:
                        with tar.extractfile(member) as inside, open(partial_folder / name, "wb") as out:
                            shutil.copyfileobj(inside, out)
                    except BROKEN as error:
                        raise UserError(f"--train: must be a whole tar, {path} is not ({reason(error)})") from None
        partial_folder.rename(folder)
    stems = {file.name.removesuffix(endings[0]) for file in folder.iterdir() if file.name.endswith(endings[0])}
    pairs = {stem: tuple(folder / f"{stem}{ending}" for ending in endings) for stem in sorted(stems)}
    pairs = {stem: files for stem, files in pairs.items() if files[1].is_file()}
    require(pairs, str(path), f"a tar with text files of one name in {endings[0]} and {endings[1]}", "none")
    return pairs


def _shards(corpus: Corpus, root: Path, plan: Plan) -> tuple[str, dict[str, Any], dict[str, dict]]:
    """(the corpus's name, its counts, the entries of its shards)."""
    counts: dict[str, Any] = {"read": 0, "empty": 0, "pairs": 0, "left_out": []}
    pairs = _kept(corpus, counts, skip_corrupt=plan.skip_corrupt)
    manifest, number = Manifest(KIND), 0
    while shard := list(islice(pairs, plan.shard_pairs)):
        number += 1
        counts["pairs"] += len(shard)
        for side, lines in zip(LANGUAGES, zip(*shard, strict=True), strict=True):
            _write(manifest, root, f"text/{corpus.number}-{number:05}.{side}.txt", lines)
    return corpus.name, counts, manifest.files


def _kept(corpus: Corpus, counts: dict[str, Any], *, skip_corrupt: bool) -> Iterator[Pair]:
    names = Names(*map(str, corpus.files))
    with contextlib.closing(_Opened(corpus.files[0])) as source, contextlib.closing(_Opened(corpus.files[1])) as target:
        for number, lines in aligned_lines(source, target, names):
            counts["read"] += 1
            try:
                pair = parse(lines, number, names, may_be_empty=True)
            except UserError as error:
                if not skip_corrupt:
                    raise UserError(f"{error}; --skip-corrupt leaves such lines out") from None
                counts["left_out"].append(str(error))
                continue
            if all(pair):
                yield pair
            else:
                counts["empty"] += 1


class _Opened:
    """A file, unpacked; UserError with its name where it is broken."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = self._named(_OPENERS.get(path.suffix, open), path, "rb")

    def readline(self, size: int) -> bytes:
        return self._named(self._file.readline, size)

    def read(self) -> bytes:
        return self._named(self._file.read)

    def close(self) -> None:
        self._file.close()

    def _named(self, function: Callable, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except _BROKEN as error:
            raise UserError(f"{self._path}: must be a whole, readable file, got: {reason(error)}") from None


def _write(manifest: Manifest, root: Path, name: str, lines: Any) -> None:
    with whole_file(root / name) as path, open(path, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)
    manifest.add(root, name, pairs=len(lines))


# -- subwords ---------------------------------------------------------------------------------------------------------


def _read(root: Path, shard: str) -> list[Pair]:
    """The pairs of a shard of text."""
    sides = ((root / f"text/{shard}.{side}.txt").read_bytes().decode().split("\n")[:-1] for side in LANGUAGES)
    return [Pair(*texts) for texts in zip(*sides, strict=True)]


def _names(manifest: Manifest) -> list[str]:
    return [
        PurePosixPath(name).name.removesuffix(".source.txt") for name in manifest.names("text") if ".source." in name
    ]


def _subwords(manifest: Manifest, plan: Plan) -> None:
    """Learn them on every n-th pair."""
    root = plan.output
    shards = _names(manifest)
    total = sum(manifest.files[f"text/{shard}.source.txt"]["pairs"] for shard in shards)
    step = -(-total // plan.subword_pairs)
    pairs = islice((pair for shard in shards for pair in _read(root, shard)), 0, None, step)
    subwords = Subwords.learn((text for pair in pairs for text in pair), plan.vocab_size, coverage=COVERAGE)
    with whole_file(root / SUBWORDS) as path:
        path.write_bytes(subwords.model)
    manifest.add(root, SUBWORDS, subwords=len(subwords), pairs=-(-total // step))
    manifest.save(root)


def _pairs(manifest: Manifest, plan: Plan, num_workers: int) -> None:
    """Every shard in subwords, without pairs that are too long or too different in length."""
    root = plan.output
    left = [shard for shard in _names(manifest) if not manifest.has(root, f"train/{shard}.target.lengths.npy")]
    make = partial(_encode, root=root, plan=plan)
    for entries in tqdm(ordered_map(make, left, num_workers), "encode", len(left), unit="shard", disable=None):
        manifest.files |= entries
        manifest.save(root)
    manifest.stages["pairs"] = {"done": True, **_totals(manifest)}
    manifest.save(root)
    require(manifest.stages["pairs"]["pairs"], "--train", "pairs within --max-length and --max-ratio", "none")


def _encode(shard: str, root: Path, plan: Plan) -> dict[str, dict]:
    encoded = Sentences.encode(_read(root, shard), Subwords.read(root / SUBWORDS))
    lengths = np.stack([encoded.source.lengths, encoded.target.lengths]) - 1  # without EOS
    is_long = lengths.max(0) > plan.max_length
    is_uneven = ~is_long & (lengths.max(0) > plan.max_ratio * lengths.min(0))
    kept = encoded.take(np.flatnonzero(~(is_long | is_uneven)))
    entries = {}
    for side, part in zip(LANGUAGES, (kept.source, kept.target), strict=True):
        kind = np.uint16 if plan.vocab_size <= 1 << 16 else np.int32
        for what, array in (("tokens", part.tokens.astype(kind)), ("lengths", part.lengths.astype(np.int32))):
            name = f"train/{shard}.{side}.{what}.npy"
            with whole_file(root / name) as path, open(path, "wb") as file:
                np.save(file, array)
            entries[name] = entry(root, name)
        unknown = int((part.tokens == UNK).sum())
        entries[f"train/{shard}.{side}.tokens.npy"] |= {"tokens": len(part.tokens), "unknown": unknown}
    counts = {"pairs": len(kept), "too_long": int(is_long.sum()), "uneven": int(is_uneven.sum())}
    entries[f"train/{shard}.source.tokens.npy"] |= counts
    return entries


def _totals(manifest: Manifest) -> dict[str, int]:
    entries = [manifest.files[name] for name in manifest.names("train")]
    names = ("pairs", "too_long", "uneven", "tokens", "unknown")
    return {name: sum(each.get(name, 0) for each in entries) for name in names}


# -- verification -----------------------------------------------------------------------------------------------------


def verify(manifest: Manifest, root: Path, num_workers: int) -> tuple[list[str], list[str]]:
    """(a summary, problems): checksums of all files, tokens by lengths and vocabulary, copies, files not entered."""
    problems = manifest.unfinished("text", "pairs")
    texts = manifest.names("text")
    is_there = any((root / name).exists() for name in texts)  # training needs none
    names = [name for name in manifest.files if is_there or name not in texts]
    check = partial(_check, root=root, manifest=manifest)
    for found in tqdm(ordered_map(check, names, num_workers), "verify", len(names), unit="file", disable=None):
        problems += found
    problems += manifest.unlisted(root, "train")
    problems += manifest.copies((name for name in manifest.names("train") if ".tokens." in name), "sha256", "sentences")
    summary = []
    for name, found in manifest.stages.get("text", {}).get("corpora", {}).items():
        left_out = f"{found['empty']:,} empty, {len(found['left_out']):,} left out"
        summary.append(f"corpus   {found['read']:>12,} lines of {name}: {left_out}")
    done = manifest.stages.get("pairs", {})
    count = {name: done.get(name, 0) for name in ("pairs", "too_long", "uneven", "tokens", "unknown")}
    filtered = f"{count['too_long']:,} too long and {count['uneven']:,} too different in length left out"
    summary.append(f"train    {count['pairs']:>12,} pairs, {filtered}")
    share = count["unknown"] / max(1, count["tokens"])
    number = manifest.files.get(SUBWORDS, {}).get("subwords", 0)
    summary.append(f"subwords {number:>12,}; {count['tokens']:,} tokens, {share:.4%} unknown")
    summary.append(f"test     {manifest.files.get('test.source.txt', {}).get('pairs', 0):>12,} pairs")
    return summary, problems


def _check(name: str, root: Path, manifest: Manifest) -> list[str]:
    problems = manifest.changed(root, name)
    lengths = root / name.replace(".tokens.", ".lengths.")
    if problems or not name.endswith(".tokens.npy") or not lengths.is_file():  # which is a problem of its own
        return problems
    tokens, expected = np.load(root / name, mmap_mode="r"), int(np.load(lengths).sum())
    number = manifest.files[SUBWORDS]["subwords"]
    if len(tokens) != expected:
        problems.append(f"{name}: must have {expected} tokens, by the lengths beside it, got {len(tokens)}")
    if len(tokens) and tokens.max() >= number:
        problems.append(f"{name}: must have numbers of the {number} subwords, got {tokens.max()}")
    return problems
