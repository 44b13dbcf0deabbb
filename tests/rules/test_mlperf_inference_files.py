"""What lies in the folders of MLPerf's tests: every answer that LoadGen asks for and no other, and no file too many."""

import pytest
from rules.loadgen_logs import LoadGenTest, answer_lines, record, write_test, write_tree

from airank_fast.rules import verifying
from airank_fast.rules.findings import ERROR


def errors(path):
    return {finding.rule for finding in verifying.verify(path) if finding.severity == ERROR}


@pytest.mark.parametrize(
    ("total", "loaded", "again"),
    [(90, 90, 6), (96, 96, 0), (41, 30, 7), (3, 1024, 5), (2048, 1024, 0), (60, 20, 12)],
)
def test_loadgen_fills_up_the_last_query_of_each_part_that_it_loads(tmp_path, total, loaded, again):
    """90 samples in queries of 8 are 12 queries, the last of which has 2 of them and 6 again."""
    changes = {"qsl_reported_total_count": total, "effective_performance_sample_count": loaded}
    write_test(tmp_path, LoadGenTest("MultiStream", "accuracy", changes=changes))
    for num_entries in range(total + again - 1, total + again + 2):
        lines = answer_lines(index % total for index in range(num_entries))
        (tmp_path / "mlperf_log_accuracy.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")
        assert errors(tmp_path) == (set() if num_entries == total + again else {"inference.lost_samples"}), num_entries


@pytest.mark.parametrize(
    "place", ["TEST04/audit.config", "TEST01/performance/run_1/audit.config", "TEST01/accuracy/predictions.npz"]
)
def test_a_file_that_a_compliance_test_does_not_have(tmp_path, place):
    organization = write_tree(tmp_path, scenarios=("SingleStream", "MultiStream", "Offline"))
    (organization / "results/machine/resnet/Offline" / place).write_text("*.*.min_duration = 7\n")
    assert errors(tmp_path) == {"inference.stray"}


@pytest.mark.parametrize(
    ("folder", "test", "rule"),
    [("performance", "TEST04", "inference.issue"), ("performance", "accuracy", "inference.mode")],
)
def test_a_log_that_is_of_another_test_than_its_folder(tmp_path, folder, test, rule):
    """A performance run that issues one sample again and again is none, though it is a sound TEST04."""
    log = LoadGenTest("Offline", test)
    write_test(tmp_path / "loadgen/offline" / folder, log)
    write_test(tmp_path / "alone", log)
    assert errors(tmp_path / "alone") == set()
    assert rule in errors(tmp_path / "loadgen")


@pytest.mark.parametrize(("test", "found"), [("accuracy", set()), ("performance", {"inference.once"})])
def test_an_accuracy_run_generates_the_queries_of_each_part_that_it_loads(tmp_path, test, found):
    """ImageNet is loaded in 49 parts of 1,024 pictures; a performance run loads one."""
    more = [record("generated_query_count", 106, 5.0), record("generated_query_count", 106, 6.0)]
    write_test(tmp_path, LoadGenTest("SingleStream", test, more=more))
    assert errors(tmp_path) == found


def test_loadgens_advice_is_not_passed_on(tmp_path):
    advice = "Increase expected QPS so the loadgen pre-generates a larger (coalesced) query."
    changes = {"result_validity": "INVALID", "result_min_duration_met": False, "result_invalid_reason": advice}
    write_test(tmp_path, LoadGenTest("Offline", changes=changes))
    found = [str(finding) for finding in verifying.verify(tmp_path)]
    assert any("result_min_duration_met False; true is required" in each for each in found)
    assert not any("QPS" in each for each in found)
