"""python -m airank_fast.score: which runs a path holds, and which of them form a set."""

import gzip
import json

import pytest
from commands.inprocess import run
from rules.mlperf_runs import Runs
from rules.samples import unreadable_folder

from airank_fast import score as command


def score(*arguments):
    return run(command, *arguments)


def sets_of(*arguments):
    return json.loads(score(*arguments, "--json").stdout)["mlperf"]


def logs(folder, minutes=13.66, converged_at=36, benchmark="resnet50", count=5, **submission):
    """A set of logs whose submission_* are these."""
    folder.mkdir(parents=True)
    paths = Runs(folder).write(benchmark, [minutes + n / 100 for n in range(count)], [converged_at] * count)
    for path in paths:
        text = path.read_text()
        for was, key in (("Example", "org"), ("example-8", "platform"), ("closed", "division")):
            text = text.replace(f'"value": "{was}"', f'"value": "{submission.get(key, was)}"')
        path.write_text(text)
    return paths


@pytest.mark.parametrize("other", [{"platform": "example-64"}, {"org": "Another"}, {"division": "open"}, {}])
def test_a_set_is_one_system_and_one_folder_of_results(tmp_path, other):
    logs(tmp_path / "A" / "resnet", 2.66, **other)
    logs(tmp_path / "B" / "resnet", 13.66)
    done = score(tmp_path / "A" / "resnet", tmp_path / "B" / "resnet", "--rules", "mlperf")
    assert "result: 2.680 minutes" in done.stdout
    assert "result: 13.680 minutes" in done.stdout
    assert done.stdout.count("MLPerf resnet on ") == 2
    assert "(2 sets of resnet; a score takes one; runs of bert missing: 10)" in done.stdout
    assert done.returncode == 0
    assert len(sets_of(tmp_path)) == 2


def test_runs_of_two_systems_in_one_folder_are_two_sets(tmp_path):
    three = logs(tmp_path / "A", 2.66, count=3, platform="example-64")
    paths = [path.rename(tmp_path / f"a{n}.txt") for n, path in enumerate(three)]
    paths += [path.rename(tmp_path / f"b{n}.txt") for n, path in enumerate(logs(tmp_path / "B", count=3))]
    found = sets_of(*paths)
    assert [len(each["runs"]) for each in found] == [3, 3]
    assert {each["runs"][0]["system"]["name"] for each in found} == {"example-8", "example-64"}
    assert score(*paths).returncode == 1


def test_ai_ranks_rows_are_of_one_system_too(tmp_path):
    paths = [*logs(tmp_path / "A", 2.66, platform="example-64"), *logs(tmp_path / "B", 13.66)]
    done = score("--rules", "airank", *paths)
    rows = json.loads(score("--rules", "airank", *paths, "--json").stdout)["airank"]["rows"]
    assert [(row["hardware"]["name"], row["num_runs"]) for row in rows] == [("example-64", 5), ("example-8", 5)]
    assert "Example example-64" in done.stdout


def test_the_open_division_has_no_reference_points(tmp_path):
    """A set that converges after 30 epochs is sooner than the closed division's reference at its least."""
    points = ("--rcp", "resnet=40.0,35.0", "--rules", "mlperf")
    closed = score(*logs(tmp_path / "closed", 31.06, 30), *points)
    assert "sooner than the reference's minimum 35" in closed.stdout
    assert closed.returncode == 1
    opened = score(*logs(tmp_path / "open", 31.06, 30, division="open"), *points)
    assert "result: 31.080 minutes\n" in opened.stdout
    assert "the open division has no reference points" in opened.stdout
    assert opened.returncode == 0


def test_nor_do_those_of_mlperf_logging_count(tmp_path):
    pytest.importorskip("mlperf_logging")
    (closed,) = sets_of(*logs(tmp_path / "closed", converged_at=30))
    assert closed["reference"] is not None
    (opened,) = sets_of(*logs(tmp_path / "open", converged_at=30, division="open"))
    assert (opened["reference"], opened["scaling"], opened["valid"]) == (None, 1.0, True)


def test_a_folder_stands_for_the_logs_below_it(tmp_path):
    paths = logs(tmp_path / "deep" / "er" / "logs")
    (tmp_path / "deep" / "train.py").write_text("print(':::MLLOG {}')\n")
    (tmp_path / "deep" / "notes.md").write_text("no log\n")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "result_0.txt").write_text(paths[0].read_text())
    assert score(tmp_path).stdout == score(*paths).stdout
    assert score(tmp_path, paths[0]).stdout == score(*paths).stdout  # named twice, counted once


def test_compressed_logs_are_named(tmp_path):
    paths = logs(tmp_path / "logs")
    packed = tmp_path / "logs" / "result_5.txt.zst"
    packed.write_bytes(b"\x28\xb5\x2f\xfd")
    assert f"note: {packed}: a compressed file, which was not read" in score(tmp_path).stdout
    for path in paths:
        path.unlink()
    refused = score(tmp_path)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "a directory with logs in a recognised format, got none in it, 1 compressed files" in refused.stderr
    assert "a log as text, got a compressed file" in score(packed).stderr


def test_packed_logs_are_read(tmp_path):
    paths = logs(tmp_path / "text")
    minutes = score(*paths, "--json").stdout
    for path in paths:
        packed = tmp_path / "packed" / f"{path.name}.gz"
        packed.parent.mkdir(exist_ok=True)
        packed.write_bytes(gzip.compress(path.read_bytes()))
    found = [
        json.loads(text)["mlperf"][0]["minutes"] for text in (minutes, score(tmp_path / "packed", "--json").stdout)
    ]
    assert found[0] == found[1]
    assert found[0] is not None
    packed.write_bytes(packed.read_bytes()[:-20])
    assert f"note: {packed}: must be a log as text" in score(tmp_path / "packed").stdout


def test_an_invalid_set_makes_no_score(tmp_path):
    paths = logs(tmp_path / "resnet")
    paths[1].write_text(paths[1].read_text().replace('"value": 1001', '"value": 1000'))
    done = score(*paths, "--b-minutes", "16.882", "--rules", "mlperf")
    assert "have the same seed: 1000" in done.stdout
    assert "GP2BM: no score (the set of resnet is not valid)" in done.stdout
    assert done.returncode == 1


def test_bert_logs_that_count_epochs_make_no_score(tmp_path):
    """Where nothing states the samples, the set cannot be compared with the reference."""
    paths = logs(tmp_path / "bert", 16.8, 1, "bert_large", 10)
    done = score(*paths, "--r-minutes", "28.685", "--rules", "mlperf")
    assert "epoch_num counts epochs" in done.stdout
    assert "after 1 samples" not in done.stdout
    assert "does not state after how many samples it converged" in done.stdout
    assert "GP2BM: no score (the set of bert is not valid)" in done.stdout
    assert done.returncode == 1


def test_bert_logs_that_count_epochs_and_state_the_samples_trained(tmp_path):
    paths = logs(tmp_path / "bert", 16.8, 1, "bert_large", 10)
    for path in paths:
        path.write_text(path.read_text().replace("156725653", "2500000.0"))
    (result,) = sets_of(*paths)
    assert (result["converged_at"], result["scaling"], result["valid"]) == (2_500_000, 1.0, True)
    assert result["minutes"] == pytest.approx(16.845)


def test_an_unreadable_folder_is_named_and_the_other_logs_are_scored(tmp_path):
    paths = logs(tmp_path / "logs")
    with unreadable_folder(tmp_path) as folder:
        done = score(tmp_path)
        refused = score(tmp_path / folder.relative_to(tmp_path).parts[0])
    assert f"left out: {folder}: must be a directory that can be read, got File name too long" in done.stdout
    assert done.stdout.partition("MLPerf")[2] == score(*paths).stdout.partition("MLPerf")[2]
    assert done.returncode == 1
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "got File name too long" in refused.stderr


def test_a_broken_log_in_a_folder_is_named_and_one_that_is_given_is_refused(tmp_path):
    paths = logs(tmp_path / "resnet", count=6)
    paths[2].write_text(paths[2].read_text().replace('"time_ms": ', '"time_ms": "x", "was": '))
    done = score(tmp_path, "--rules", "mlperf")
    assert f"note: left out: {paths[2]}: line 1: time_ms in milliseconds is required" in done.stdout
    assert "result: 13.687 minutes\n" in done.stdout
    assert done.returncode == 1  # though the set is whole
    assert score(*paths).returncode == 2
    for path in paths:
        path.write_text(paths[2].read_text())
    assert (score(tmp_path).returncode, score(tmp_path).stdout) == (2, "")
