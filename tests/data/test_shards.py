"""HDF5 shards: both forms are read as they were written, and every defect is one clear line."""

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest

h5py = pytest.importorskip("h5py")

from data.corpora import MAX_SEQ_LENGTH, VOCAB_SIZE, make_samples, write  # noqa: E402

from airank_fast.data.text.samples import Samples  # noqa: E402
from airank_fast.data.text.shards import inspect_shard, read_shard, whole_file  # noqa: E402
from airank_fast.errors import UserError  # noqa: E402


def read(path, **more) -> Samples:
    return read_shard(path, **{"vocab_size": VOCAB_SIZE, "max_seq_length": MAX_SEQ_LENGTH, **more})


def refusal(call, *arguments, **more) -> str:
    with pytest.raises(UserError) as error:
        call(*arguments, **more)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("form", ["variable", "padded"])
def test_what_is_written_is_read(tmp_path, form):
    samples = make_samples(50)
    path = write(tmp_path / "a.hdf5", samples, form)
    assert (inspect_shard(path).form, inspect_shard(path).num_samples) == (form, 50)
    back = read(path)
    for field in dataclasses.fields(Samples):
        ours = getattr(back, field.name)
        np.testing.assert_array_equal(ours, getattr(samples, field.name))
        assert ours.dtype == getattr(samples, field.name).dtype
    rows = np.array([0, 7, 8, 49])
    assert read(path, rows=rows).digests() == samples.take(rows).digests()
    again = write(tmp_path / "b.hdf5", samples, form)
    assert path.read_bytes() == again.read_bytes()
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["a.hdf5", "b.hdf5"]


def test_fields_are_those_of_nvidias_scripts(tmp_path):
    with h5py.File(write(tmp_path / "variable.hdf5", make_samples(5))) as file:
        kinds = {name: h5py.check_vlen_dtype(file[name].dtype) or file[name].dtype for name in file}
    assert kinds == {
        "input_ids": np.int16,
        "segment_ids": np.int8,
        "masked_lm_positions": np.int16,
        "masked_lm_ids": np.int16,
        "next_sentence_labels": np.int8,
    }
    with h5py.File(write(tmp_path / "wide.hdf5", make_samples(5), vocab_size=2**15 + 1)) as file:
        assert h5py.check_vlen_dtype(file["input_ids"].dtype) == np.int32
    with h5py.File(write(tmp_path / "padded.hdf5", make_samples(5), "padded")) as file:
        assert {name: (file[name].shape, file[name].dtype.name) for name in file} == {
            "input_ids": ((5, 64), "int32"),
            "input_mask": ((5, 64), "int8"),
            "segment_ids": ((5, 64), "int8"),
            "masked_lm_positions": ((5, 10), "int32"),
            "masked_lm_ids": ((5, 10), "int32"),
            "next_sentence_labels": ((5,), "int8"),
        }


def test_a_padded_shard_in_int64_with_labels_in_a_column(tmp_path):
    samples = make_samples(9)
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        for name, values in samples.padded(MAX_SEQ_LENGTH, 20).items():
            file[name] = values.astype(np.int64).reshape(9, -1)
    assert read(tmp_path / "a.hdf5").digests() == samples.digests()


@pytest.mark.parametrize(
    ("field", "row", "change", "message"),
    [
        ("input_ids", 3, 500, "input_ids of 0 ... 499, got 500 in row 3"),
        ("input_ids", 0, -1, "input_ids of 0 ... 499, got -1 in row 0"),
        ("masked_lm_ids", 8, 30000, "masked_lm_ids of 0 ... 499, got 30000 in row 8"),
        ("masked_lm_positions", 5, 64, "masked_lm_positions within the sample, got 64 in row 5"),
        ("segment_ids", 2, 2, "segment_ids 0 or 1, got 2 in row 2"),
        ("next_sentence_labels", 4, 7, "next_sentence_labels 0 or 1, got 7 in row 4"),
    ],
)
@pytest.mark.parametrize("form", ["variable", "padded"])
def test_values_out_of_range(tmp_path, form, field, row, change, message):
    path = write(tmp_path / "a.hdf5", make_samples(9), form)
    with h5py.File(path, "a") as file:
        values = file[field][row]
        if values.ndim:
            values[np.flatnonzero(values)[-1] if field != "segment_ids" else 0] = change
        else:
            values = change
        file[field][row] = values
    assert f"data: must have {message} of {path}" == refusal(read, path)


def test_a_truncated_file(tmp_path):
    path = write(tmp_path / "a.hdf5", make_samples(50))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    assert refusal(inspect_shard, path).startswith(f"data: must be a whole HDF5 file, got {path} (truncated file")
    path.write_bytes(b"")
    assert "a whole HDF5 file" in refusal(inspect_shard, path)
    path.unlink()
    assert refusal(inspect_shard, path) == f"data: must be a shard at {path}, there is none"


def rewritten(path, **changes):
    """The shard with some fields replaced; None removes one."""
    with h5py.File(path, "a") as file:
        for name, values in changes.items():
            if name in file:
                del file[name]
            if values is not None:
                file[name] = values
    return path


def test_fields_that_are_not_what_they_should_be(tmp_path):
    def fresh():
        return write(tmp_path / "a.hdf5", make_samples(6), "padded")

    assert "has no masked_lm_ids" in refusal(inspect_shard, rewritten(fresh(), masked_lm_ids=None))
    text = np.array([b"a"] * 6, dtype=h5py.string_dtype())
    assert "input_ids of" in refusal(inspect_shard, rewritten(fresh(), input_ids=text))
    assert "is an object array" in refusal(inspect_shard, rewritten(fresh(), input_ids=text))
    assert "is an array of float32" in refusal(inspect_shard, rewritten(fresh(), input_ids=np.ones((6, 64), "f4")))
    assert "of one length" in refusal(inspect_shard, rewritten(fresh(), next_sentence_labels=np.zeros(5, "i1")))
    assert "mixes them" in refusal(inspect_shard, rewritten(fresh(), input_ids=np.zeros(6, "i4")))
    assert "input_mask" in refusal(inspect_shard, rewritten(fresh(), input_mask=None))
    packed = refusal(inspect_shard, rewritten(fresh(), packed_input_len=np.zeros((6, 3), "i2")))
    assert "rows are packed" in packed
    mask = np.ones((6, 64), "i1")
    mask[2, 5] = 0
    assert "input_mask must be filled from the front" in refusal(read, rewritten(fresh(), input_mask=mask))
    ragged = write(tmp_path / "b.hdf5", make_samples(6))
    with h5py.File(ragged, "a") as file:
        file["segment_ids"][3] = np.zeros(5, np.int8)
    assert "as many segment_ids as input_ids" in refusal(read, ragged)
    assert "samples of 3 ... 20 tokens" in refusal(read, fresh(), max_seq_length=20)


@pytest.mark.parametrize("form", ["variable", "padded"])
def test_a_sample_without_a_masked_token_is_named(tmp_path, form):
    """Its loss would be 0 / 0, and "loss: got nan" would not name the shard."""
    samples = make_samples(6)
    masked = np.repeat(np.arange(6), samples.num_masked)
    offsets = np.concatenate([[0], np.where(np.arange(6) == 2, 0, samples.num_masked).cumsum()])
    without = dataclasses.replace(
        samples,
        masked_lm_positions=samples.masked_lm_positions[masked != 2],
        masked_lm_ids=samples.masked_lm_ids[masked != 2],
        masked_offsets=offsets,
    )
    path = write(tmp_path / "a.hdf5", without, form)
    expected = f"data: must have masked tokens, at least 1 in each sample, got 0 in row 2 of {path}"
    assert refusal(read, path) == expected


def test_a_disk_that_is_full(tmp_path):
    """HDF5 itself would end the process with a traceback and a segmentation fault."""
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom data.corpora import make_samples, write\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n"
        "try:\n    write(Path(sys.argv[1]), make_samples(500))\nexcept OSError as error:\n    print(error.strerror)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.hdf5")],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "File too large\n", "")
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_whole_or_absent(tmp_path):
    path = tmp_path / "a"
    path.write_text("before")
    with pytest.raises(FileNotFoundError), whole_file(path) as partial:
        (partial.parent / "none" / partial.name).write_text("half")
    with whole_file(path) as partial:
        partial.write_text("after")
        assert path.read_text() == "before"
    assert path.read_text() == "after"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("num", [1, 3])
def test_rows_of_one_length(tmp_path, num):
    """h5py treats a list of equally long rows as a matrix."""
    alike = make_samples(1).take([0] * num)
    assert read(write(tmp_path / "a.hdf5", alike)).digests() == alike.digests()
