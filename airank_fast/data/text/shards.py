"""Writes and reads HDF5 shards of BERT samples, in the fields and forms of NVIDIA's scripts; checks what it reads.

Both forms have input_ids, segment_ids, masked_lm_positions, masked_lm_ids and next_sentence_labels.
variable  MLPerf's: each row an integer array of its own length (vlen int16, int8, int16, int16; int8 [n])
padded    DeepLearningExamples': [n, max_seq_length] and [n, max_predictions], zeros for padding, and input_mask

h5py is imported when the first shard is opened, as other data sets do not need it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from airank_fast.data.text.samples import Samples
from airank_fast.errors import UserError

FIELDS = ("input_ids", "segment_ids", "masked_lm_positions", "masked_lm_ids", "next_sentence_labels")
FORMS = ("variable", "padded")
_ROWS_AT_ONCE = 4096  # of a shard, which limits the memory needed beside the samples


@dataclass(frozen=True)
class Shard:
    """A shard by its header; its samples have not been read."""

    path: Path
    form: str  # one of FORMS
    num_samples: int


def import_h5py():
    """h5py, which is optional. UserError where it is not installed."""
    try:
        import h5py
    except ImportError:
        raise UserError(
            "data: must have h5py to read and write HDF5 shards, got none (pip install 'airank-fast[wikicorpus]')"
        ) from None
    return h5py


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to, which is renamed to `path` at the end; after an exception `path` is unchanged."""
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_shard(
    path: Path, samples: Samples, *, form: str, max_seq_length: int, max_predictions: int, vocab_size: int
) -> None:
    """Write a shard, whole or not at all; equal samples make equal files. OSError where the disk is full.

    HDF5 builds the file in memory and Python writes it, because a full disk while HDF5 writes ends the process.
    """
    assert form in FORMS, form
    h5py = import_h5py()
    with h5py.File(path.name, "w", driver="core", backing_store=False) as file:
        if form == "padded":
            _write_padded(file, samples.padded(max_seq_length, max_predictions))
        else:
            _write_variable(file, h5py, samples, np.int16 if vocab_size <= 2**15 else np.int32)
        file.flush()
        image = file.id.get_file_image()
    with whole_file(path) as partial:
        partial.write_bytes(image)


def _write_padded(file, fields: dict[str, np.ndarray]) -> None:
    for name, values in fields.items():
        chunks = (min(len(values), 1024), *values.shape[1:]) if len(values) else None
        compression = {"compression": "gzip", "compression_opts": 4} if chunks else {}
        file.create_dataset(name, data=values, chunks=chunks, **compression)


def _write_variable(file, h5py, samples: Samples, ids: type) -> None:
    positions = samples.masked_lm_positions.astype(np.int16)
    _write_rows(file, h5py, "input_ids", samples.input_ids.astype(ids), samples.token_offsets)
    _write_rows(file, h5py, "segment_ids", samples.segment_ids, samples.token_offsets)
    _write_rows(file, h5py, "masked_lm_positions", positions, samples.masked_offsets)
    _write_rows(file, h5py, "masked_lm_ids", samples.masked_lm_ids.astype(ids), samples.masked_offsets)
    file.create_dataset("next_sentence_labels", data=samples.next_sentence_labels)


def _write_rows(file, h5py, name: str, values: np.ndarray, offsets: np.ndarray) -> None:
    dtype = h5py.vlen_dtype(values.dtype)
    rows = np.empty(len(offsets) - 1, dtype)
    for i, (start, end) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)):
        rows[i] = values[start:end]
    dataset = file.create_dataset(name, (len(rows),), dtype=dtype)
    if len(rows):  # `dataset[:] = rows` takes rows of equal lengths for a matrix, and fails
        dataset.id.write(h5py.h5s.ALL, h5py.h5s.ALL, rows)


def open_shard(path: Path):
    """h5py.File for reading. UserError where the file is missing, truncated or not HDF5."""
    try:
        return import_h5py().File(path, "r")
    except FileNotFoundError:
        raise UserError(f"data: must be a shard at {path}, there is none") from None
    except OSError as error:
        raise UserError(f"data: must be a whole HDF5 file, got {path} ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    """The part of h5py's message in parentheses, where it has one."""
    text = str(error)
    return text[text.find("(") + 1 : text.rfind(")")] if "(" in text and ")" in text else text


def inspect_shard(path: Path) -> Shard:
    """Check the header of a shard: fields, integer types, equal lengths. UserError names the one that is wrong."""
    with open_shard(path) as file:
        return _inspect(file, Path(path))


def _inspect(file, path: Path) -> Shard:
    h5py = import_h5py()
    missing = [name for name in FIELDS if name not in file]
    if missing:
        raise UserError(f"data: must have the fields {', '.join(FIELDS)}, {path} has no {', '.join(missing)}")
    if "packed_input_len" in file:
        raise UserError(
            f"data: must have one sample a row, got {path}, whose rows are packed from several "
            "(packed_input_len); give the shards from before packing"
        )
    kinds = {}
    for name in FIELDS:
        of_rows = h5py.check_vlen_dtype(file[name].dtype)
        kinds[name] = "variable" if of_rows is not None else "padded"
        dtype = np.dtype(of_rows) if of_rows is not None else file[name].dtype
        if of_rows is str or of_rows is bytes or dtype.kind not in "iu":
            what = "an object array" if dtype.kind in "OSU" else f"an array of {dtype}"
            raise UserError(f"data: must have integer arrays, {name} of {path} is {what}")
    num = {name: file[name].shape[0] if file[name].ndim else 0 for name in FIELDS}
    if len(set(num.values())) > 1:
        raise UserError(f"data: must have fields of one length in a shard, got {num} in {path}")
    form = kinds["input_ids"]
    required = {name: 1 if form == "variable" or name == FIELDS[-1] else 2 for name in FIELDS}
    got = {name: file[name].ndim for name in FIELDS}
    got[FIELDS[-1]] = 1 if file[FIELDS[-1]].size == num[FIELDS[-1]] else got[FIELDS[-1]]  # [n, 1] is accepted
    if got != required or any(kinds[name] != form for name in FIELDS[:-1]) or kinds[FIELDS[-1]] != "padded":
        raise UserError(f"data: must be a shard in variable or padded form, {path} mixes them")
    if form == "padded" and "input_mask" not in file:
        raise UserError(f"data: must have input_mask in a padded shard, {path} has none")
    return Shard(path, form, num["input_ids"])


def read_shard(path: Path, *, vocab_size: int, max_seq_length: int, rows: np.ndarray | None = None) -> Samples:
    """All samples of a shard, or its rows `rows` (ascending), checked.

    UserError: as `inspect_shard`; ids outside the vocabulary; positions, segments or labels out of range; samples
    longer than max_seq_length, or without a masked token, whose loss is NaN; a truncated file.
    """
    with open_shard(path) as file:
        shard = _inspect(file, Path(path))
        requested = np.arange(shard.num_samples) if rows is None else np.asarray(rows)
        parts = []
        for start in range(0, shard.num_samples, _ROWS_AT_ONCE):
            first, last = np.searchsorted(requested, [start, start + _ROWS_AT_ONCE])
            if first == last:
                continue
            here = slice(start, min(start + _ROWS_AT_ONCE, shard.num_samples))
            try:
                part = _variable(file, here) if shard.form == "variable" else _padded(file, here, path)
            except OSError as error:
                raise UserError(f"data: must be a whole HDF5 file, got {path} ({_reason(error)})") from None
            _check(part, path, start, vocab_size, max_seq_length)
            parts.append(part if last - first == len(part) else part.take(requested[first:last] - start))
    return Samples.concatenate(parts)


def read_counts(path: Path) -> np.ndarray:
    """Tokens and masked tokens of every sample of a shard: int64 [n, 2]. Reads the smallest fields that have them.

    UserError: as `inspect_shard`; a truncated file.
    """
    with open_shard(path) as file:
        shard = _inspect(file, Path(path))
        names = ("segment_ids" if shard.form == "variable" else "input_mask", "masked_lm_positions")
        counts = np.empty((shard.num_samples, len(names)), np.int64)
        for start in range(0, shard.num_samples, _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            try:
                for column, name in enumerate(names):
                    values = file[name][rows]
                    padded = shard.form == "padded"
                    counts[rows, column] = (values != 0).sum(1) if padded else [len(row) for row in values]
            except OSError as error:
                raise UserError(f"data: must be a whole HDF5 file, got {path} ({_reason(error)})") from None
    return counts


def _variable(file, rows: slice) -> Samples:
    def read(name: str, dtype) -> tuple[np.ndarray, np.ndarray]:
        values = file[name][rows]
        lengths = np.fromiter(map(len, values), np.int64, len(values))
        return _cast(np.concatenate(values), dtype), np.concatenate([[0], lengths.cumsum()])

    ids, tokens = read("input_ids", np.int32)
    segments, segment_offsets = read("segment_ids", np.int8)
    positions, masked = read("masked_lm_positions", np.int32)
    originals, original_offsets = read("masked_lm_ids", np.int32)
    if not (np.array_equal(tokens, segment_offsets) and np.array_equal(masked, original_offsets)):
        raise UserError(
            f"data: must have as many segment_ids as input_ids, and masked_lm_ids as masked_lm_positions, in every "
            f"row, {file.filename} has others in rows {rows.start} to {rows.stop - 1}"
        )
    labels = file["next_sentence_labels"][rows].reshape(-1)
    return Samples(ids, segments, tokens, positions, originals, masked, _cast(labels, np.int8))


def _cast(values: np.ndarray, dtype) -> np.ndarray:
    """Saturating, so that a value out of range stays out of range."""
    limits = np.iinfo(dtype)
    if np.iinfo(values.dtype).max > limits.max:
        values = values.clip(max(limits.min, np.iinfo(values.dtype).min), limits.max)
    return values.astype(dtype)


def _padded(file, rows: slice, path: Path) -> Samples:
    ids, segments, positions, originals, mask = (
        file[name][rows] for name in ("input_ids", "segment_ids", "masked_lm_positions", "masked_lm_ids", "input_mask")
    )
    real, masked = mask != 0, positions != 0  # position 0 is [CLS], which is never masked
    for name, flags in (("input_mask", real), ("masked_lm_positions", masked)):
        if (flags[:, 1:] & ~flags[:, :-1]).any():
            raise UserError(f"data: {name} must be filled from the front, in {path} it is not")
    offsets = [np.concatenate([[0], flags.sum(1).cumsum()]) for flags in (real, masked)]
    labels = file["next_sentence_labels"][rows].reshape(-1)
    return Samples(
        _cast(ids[real], np.int32),
        _cast(segments[real], np.int8),
        offsets[0],
        _cast(positions[masked], np.int32),
        _cast(originals[masked], np.int32),
        offsets[1],
        _cast(labels, np.int8),
    )


def _check(samples: Samples, path: Path, first_row: int, vocab_size: int, max_seq_length: int) -> None:
    lengths, positions = samples.lengths, samples.masked_lm_positions
    ends = np.repeat(lengths, samples.num_masked)

    def refuse(bad: np.ndarray, offsets: np.ndarray | None, name: str, required: str, values: np.ndarray) -> None:
        if bad.any():
            at = int(bad.argmax())
            row = at if offsets is None else int(np.searchsorted(offsets, at, side="right")) - 1
            raise UserError(f"data: must have {name} {required}, got {values[at]} in row {first_row + row} of {path}")

    tokens, masked, in_vocabulary = samples.token_offsets, samples.masked_offsets, f"of 0 ... {vocab_size - 1}"
    refuse((lengths < 3) | (lengths > max_seq_length), None, "samples", f"of 3 ... {max_seq_length} tokens", lengths)
    refuse(samples.num_masked < 1, None, "masked tokens,", "at least 1 in each sample", samples.num_masked)
    for name, values, offsets in (
        ("input_ids", samples.input_ids, tokens),
        ("masked_lm_ids", samples.masked_lm_ids, masked),
    ):
        refuse((values < 0) | (values >= vocab_size), offsets, name, in_vocabulary, values)
    refuse((positions < 0) | (positions >= ends), masked, "masked_lm_positions", "within the sample", positions)
    refuse((samples.segment_ids & ~1) != 0, tokens, "segment_ids", "0 or 1", samples.segment_ids)
    refuse(
        (samples.next_sentence_labels & ~1) != 0, None, "next_sentence_labels", "0 or 1", samples.next_sentence_labels
    )
