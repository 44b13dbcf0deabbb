"""A figure that a log does not give is absent, with the reason; 0 is only what was counted to be 0."""

import json

import pytest
from commands.inprocess import run

from airank_fast import convert
from airank_fast.record.foreign.read import read_run
from airank_fast.record.settings import parse_settings
from airank_fast.reports import reading

T = 1_700_000_000_000
NO_SAMPLES = "the log does not state how many samples were trained"
RESNET = [(0, "submission_benchmark", "resnet", {}), (0, "global_batch_size", 3200, {})]
RESNET += [(0, "train_samples", 1_281_167.0, {})]


def mlperf_log(path, *records):
    """A log of (milliseconds since T, key, value, metadata); those of a start and an end are intervals."""
    with open(path, "w") as file:
        for ms, key, value, metadata in records:
            kind = {"start": "INTERVAL_START", "stop": "INTERVAL_END"}.get(key.rpartition("_")[2], "POINT_IN_TIME")
            fields = {"namespace": "", "time_ms": T + ms, "event_type": kind, "key": key, "value": value}
            print(":::MLLOG", json.dumps(fields | {"metadata": metadata}), file=file)
    return path


def story(block_start, block_stop, evaluation, facts=RESNET):
    """A run of 1,000 s with one block, which ends before its evaluation does."""
    yield from facts
    yield 0, "run_start", None, {}
    yield 0, "block_start", None, block_start
    yield 900_000, "block_stop", None, block_stop
    yield 900_000, "eval_start", None, evaluation
    yield 1_000_000, "eval_accuracy", 0.5, evaluation
    yield 1_000_000, "run_stop", None, {"status": "success"}


EPOCHS = {"first_epoch_num": 1, "epoch_count": 4}


@pytest.mark.parametrize(
    ("block_start", "block_stop", "evaluation"),
    [
        (EPOCHS, EPOCHS, {"epoch_num": 4}),
        (EPOCHS, {"first_epoch_num": 1}, {}),  # of the block that ends here
        ({"first_epoch_num": 1}, {"first_epoch_num": 1}, {"epoch_num": 4}),  # of its evaluation
        ({}, {}, {"epoch_num": 4, "samples_count": 4 * 1_281_167}),
        ({}, {}, {"samples_count": 4 * 1_281_167}),
        ({}, {"samples_count": 4 * 1_281_167}, {}),
    ],
)
def test_samples_are_taken_from_where_an_mlperf_log_has_them(block_start, block_stop, evaluation, tmp_path):
    found = read_run(mlperf_log(tmp_path / "log", *story(block_start, block_stop, evaluation)))
    samples = 4 * 1_281_167
    assert found.summary["trained_samples"] == samples
    assert (found.summary["p_whole"], found.summary["avg_ips"]) == (samples / 1000, samples / 1000)
    assert found.summary["p_train"] == samples / 900


def test_of_bert_they_are_what_it_counts(tmp_path):
    facts = [(0, "submission_benchmark", "bert", {}), (0, "global_batch_size", 448, {})]
    one = {"first_epoch_num": 1, "epoch_count": 1}
    found = read_run(mlperf_log(tmp_path / "a", *story(one, {"first_epoch_num": 1}, {"epoch_num": 799_502}, facts)))
    assert found.summary["trained_samples"] == 799_502
    both = {"epoch_num": 1, "samples_count": 799_502}
    found = read_run(mlperf_log(tmp_path / "b", *story(one, one, both, facts)))
    assert (found.summary["trained_samples"], found.summary["p_whole"]) == (799_502, 799.502)


def test_steps_and_the_batch_are_samples_too(tmp_path):
    facts = [(0, "submission_benchmark", "stable_diffusion", {}), (0, "global_batch_size", 1024, {})]
    found = read_run(mlperf_log(tmp_path / "log", *story({}, {}, {"step_num": 1000}, facts)))
    assert (found.summary["steps"], found.summary["trained_samples"]) == (1000, 1_024_000)


@pytest.fixture(name="countless")
def countless_fixture(tmp_path):
    """A log from which nobody can tell how many samples were trained."""
    return mlperf_log(tmp_path / "log", *story({"first_epoch_num": 1}, {"first_epoch_num": 1}, {}, RESNET[:2]))


def test_else_they_are_absent_and_the_reason_is_stated(countless):
    found = read_run(countless)
    names = ("trained_samples", "p_whole", "p_train", "p_core", "avg_ips")
    assert [found.summary[name] for name in names] == [None] * 5
    assert {found.absent[name] for name in names} == {NO_SAMPLES}
    assert "samples" in reading.read(countless).missing


def test_in_no_format_is_there_a_0_for_them(countless, tmp_path):
    done = run(convert, countless, "--to", "airank", "--incomplete")
    assert "avg_ips" not in done.stdout
    assert f"note: avg_ips: left out, {NO_SAMPLES}" in done.stderr.splitlines()
    done = run(convert, countless, "--to", "flagperf", "--incomplete")
    figures = json.loads(done.stdout)
    assert [figures[name] for name in ("p_whole", "p_train", "p_core", "e2e_time")] == [None] * 4
    assert f"note: p_whole, p_train, p_core: left out, {NO_SAMPLES}" in done.stderr.splitlines()
    perflog = run(convert, countless, "--to", "perflog", "--incomplete").stdout
    assert "throughput" not in perflog
    events = tmp_path / "events.jsonl"
    assert run(convert, countless, "--to", "events", "--output", events).returncode == 0
    assert read_run(events).summary["avg_ips"] is None


def test_figures_that_an_airank_log_states_are_written_again_with_a_note(tmp_path):
    path = tmp_path / "GPUx8.log"
    t, lines = 1_600_000_000, ["test_begin", "eval_accuracy:0.5, total_epoch_cnt:1", "test_finish"]
    lines += ["total_use_time:2.000sec", "avg_ips:500.000samples/sec"]
    path.write_text("".join(f"- AI-Rank-log {t + number}.000 {line}\n" for number, line in enumerate(lines)))
    done = run(convert, path, "--to", "airank", "--incomplete")
    assert done.stdout.splitlines()[-1].endswith("avg_ips:500.000samples/sec")
    assert "note: avg_ips: as the log states it" in done.stderr.splitlines()


@pytest.mark.parametrize(
    ("settings", "nnodes", "nproc", "config", "fix_hp"),
    [
        ([], None, None, None, "/"),
        (["number_of_nodes=2"], 2, None, None, "/"),
        (["world_size=8"], None, None, None, "bs=400"),
        (["world_size=1"], 1, 1, "1x1", "bs=3200"),
        (["world_size=16", "number_of_nodes=2"], 2, 8, "2x8", "bs=200"),
    ],
)
def test_devices_that_nobody_counted(countless, tmp_path, settings, nnodes, nproc, config, fix_hp):
    words = [word for setting in settings for word in ("--set", setting)]
    figures = json.loads(run(convert, countless, "--to", "flagperf", "--incomplete", *words).stdout)
    assert [figures[name] for name in ("nnodes", "nproc", "config", "fix_hp")] == [nnodes, nproc, config, fix_hp]
    table = tmp_path / "flagperf.md"
    words += ["--set", "accelerator_name=A100", "--output", str(table)]
    assert run(convert, countless, "--to", "flagperf", "--incomplete", *words).returncode == 0
    name = table.read_text(encoding="utf-8").splitlines()[2].split(" | ")[0]
    assert name == (
        "| A100"
        if config is None
        else f"| A100{'单' if nnodes == 1 else '两'}机{'单' if nproc == 1 else nproc}卡（{config}）"
    )


def test_the_name_of_an_airank_log_counts_its_cards(countless, tmp_path):
    path = tmp_path / "GPUx8.log"
    path.write_bytes(countless.read_bytes())
    figures = json.loads(run(convert, path, "--to", "flagperf", "--incomplete", "--set", "number_of_nodes=1").stdout)
    assert (figures["config"], figures["fix_hp"]) == ("1x8", "bs=400")


def test_counts_that_a_log_writes_as_floats_are_counts(tmp_path):
    facts = [(0, "submission_benchmark", "resnet", {}), (0, "seed", 7.0, {}), (0, "eval_samples", 50_000.0, {})]
    facts += [(0, name, 3200.0, {}) for name in ("global_batch_size", "gradient_accumulation_steps")]
    facts += [(0, "train_samples", 1_281_167.0, {})]
    epochs = {"first_epoch_num": 1.0, "epoch_count": 4.0}
    path = mlperf_log(tmp_path / "log", *story(epochs, epochs, {"epoch_num": 4.0}, facts))
    found = read_run(path)
    config = found.first("run_config")
    counts = [config[name] for name in ("seed", "eval_samples", "global_batch_size", "train_samples")]
    counts += [
        found.summary["trained_samples"],
        found.first("eval_stop")["epoch"],
        found.first("block_stop")["samples"],
    ]
    assert counts == [7, 50_000, 3200, 1_281_167, 4 * 1_281_167, 4, 4 * 1_281_167]
    assert {type(count) for count in counts} == {int}
    assert "total_epoch_cnt:4\n" in run(convert, path, "--to", "airank", "--incomplete").stdout
    assert ".0" not in run(convert, path, "--to", "mlperf", "--incomplete").stdout
    assert reading.read(path).config["global_batch_size"] == 3200
    given = parse_settings(["train_samples=3001600.0", "world_size=8.0"])
    assert [str(value) for value in given.values()] == ["3001600", "8"]
