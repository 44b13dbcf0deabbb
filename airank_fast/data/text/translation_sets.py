"""The data sets of a translation run: the embedded text, a directory of text files, or one that `prepare wmt` made.

prepared    manifest.json, subwords.model, train/*.{source,target}.{tokens,lengths}.npy, test.{source,target}.txt
text files  train.en, train.de, test.en, test.de: a sentence a line; subwords are learned when they are opened
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from airank_fast.data.manifest import Manifest
from airank_fast.data.text import home_assistant
from airank_fast.data.text.translation_batch import Sentences, Side
from airank_fast.data.text.translation_pairs import Pair, read_pairs
from airank_fast.data.text.translation_subwords import UNK, Subwords
from airank_fast.errors import UserError, require

KIND = "translation"  # of a manifest
SUBWORDS = "subwords.model"
LANGUAGES = ("source", "target")
_MOST_LISTED = 20


@dataclass(frozen=True, eq=False)
class TranslationSets:
    """What is trained and evaluated on.

    held_out_pairs: the texts of `held_out`. corrupt: (where, why) of lines left out. notes: lines for the user.
    """

    train: Sentences
    held_out: Sentences
    held_out_pairs: list[Pair]
    subwords: Subwords
    source: str
    corrupt: list[tuple[str, str]]
    notes: list[str]

    @staticmethod
    def open(
        data: Path | None,
        source_language: str,
        target_language: str,
        *,
        split: home_assistant.Split = "text",
        vocab_size: int,
        max_length: int,
        skip_corrupt: bool,
    ) -> TranslationSets:
        """The sets of a directory, or with None the embedded ones.

        vocab_size: of the subwords, filled up to a multiple of 8. max_length: tokens of a sentence at most; longer ones
        are left out of training, with a note. UserError for a longer one to evaluate, bad lines without skip_corrupt,
        and a preparation that does not fit or is not finished.
        """
        corrupt: list[tuple[str, str]] = []
        if data is None:
            train_pairs, pairs = home_assistant.load(split)
            source = f"{home_assistant.NAME}, split by {split}"
            name = f"{source}, held out"
        else:
            require(data.is_dir(), str(data), "a directory", "a file" if data.exists() else "none")
            source = str(data)
            if (manifest := Manifest.load(data)) is not None:
                subwords, encoded = _prepared(data, manifest, vocab_size)
                pairs = read_pairs(*(data / f"test.{side}.txt" for side in LANGUAGES))[0]
                return _closed(encoded, pairs, subwords, source, corrupt, max_length, f"{data}, test")
            languages = source_language, target_language
            train_pairs, corrupt = read_pairs(
                *(data / f"train.{each}" for each in languages), skip_corrupt=skip_corrupt
            )
            pairs, more = read_pairs(*(data / f"test.{each}" for each in languages), skip_corrupt=skip_corrupt)
            corrupt, name = corrupt + more, f"{data}, test.{source_language} and test.{target_language}"
        subwords = Subwords.learn((text for pair in train_pairs for text in pair), vocab_size)
        return _closed(Sentences.encode(train_pairs, subwords), pairs, subwords, source, corrupt, max_length, name)


def _closed(
    encoded: Sentences,
    pairs: list[Pair],
    subwords: Subwords,
    source: str,
    corrupt: list[tuple[str, str]],
    max_length: int,
    name: str,
) -> TranslationSets:
    """The sets of encoded training pairs and of pairs to evaluate, called `name`, with what is left out."""
    train, too_long, unknown = encoded.without(max_length)
    require(len(train), source, f"a training pair of at most {max_length} subwords", f"none of {len(encoded)}")
    held_out = Sentences.encode(pairs, subwords)
    at, longest = int(held_out.longest.argmax()), int(held_out.longest.max())
    what = f"at most --max-length {max_length} subwords"
    require(longest <= max_length, f"{name}, sentence {at + 1}", what, longest)
    notes = [f"{source}: {len(train):,} pairs, {len(held_out):,} held out, {len(subwords):,} subwords"]
    why_long = f"have more than {max_length} subwords (--max-length)"
    left_out = [(too_long, why_long), (unknown, "have a sentence of only unknown words")]
    notes += [f"left out {number} of {len(encoded)} training pairs, which {why}" for number, why in left_out if number]
    for what, sentences in (("training", train), ("held-out", held_out)):
        if number := sum(int((side.tokens == UNK).sum()) for side in (sentences.source, sentences.target)):
            notes.append(f"{number} subwords of the {what} pairs are unknown")
    if corrupt:
        notes.append(f"{len(corrupt)} lines are left out")
        notes += [f"left out {where} ({why})" for where, why in corrupt[:_MOST_LISTED]]
    return TranslationSets(train, held_out, pairs, subwords, source, corrupt, notes)


def _prepared(root: Path, manifest: Manifest, vocab_size: int) -> tuple[Subwords, Sentences]:
    """Subwords and training pairs of a preparation; UserError for another one, or one that is not finished."""
    require(manifest.kind == KIND, str(root), "text files, or made by prepare wmt", manifest.kind)
    done = manifest.stages.get("pairs", {}).get("done")
    require(done, str(root), "a finished preparation", "one that was interrupted (the same command goes on with it)")
    subwords = Subwords.read(root / SUBWORDS)
    rows = -(-len(subwords) // 8) * 8
    require(rows == vocab_size, "--vocab-size", f"{rows}, for the {len(subwords)} subwords of {root}", vocab_size)
    sides = []
    for side in LANGUAGES:
        try:
            tokens, lengths = (
                np.concatenate(
                    [np.load(root / name) for name in manifest.names("train") if name.endswith(f".{side}.{kind}.npy")]
                )
                for kind in ("tokens", "lengths")
            )
        except (OSError, ValueError) as error:
            raise UserError(f"{root}: must be as prepared (prepare --verify {root} checks it), got: {error}") from None
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        require(offsets[-1] == len(tokens), str(root), f"{offsets[-1]} tokens, by the lengths", len(tokens))
        sides.append(Side(tokens, offsets))
    return subwords, Sentences(*sides)
