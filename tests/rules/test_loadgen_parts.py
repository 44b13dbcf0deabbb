"""An accuracy run over more samples than LoadGen loads at a time repeats some lines; a performance run does not."""

import pytest
from rules.loadgen_logs import LoadGenTest, record, whole_log, write_test

from airank_fast.rules import verifying


@pytest.mark.parametrize(("mode", "severity"), [("accuracy", None), ("performance", "error")])
@pytest.mark.parametrize("round_name", ["v6.1", "v4.0"])
def test_lines_about_each_part_of_the_set(tmp_path, round_name, mode, severity):
    parts = [record("generated_query_count", count, 100.0 + count) for count in (1024, 976)]
    write_test(tmp_path, LoadGenTest("SingleStream", mode, round_name, more=parts))
    (tmp_path / "mlperf_log_accuracy.json").write_text(whole_log(400))
    found = [each for each in verifying.verify(tmp_path / "mlperf_log_detail.txt") if each.rule == "inference.once"]
    assert {each.severity for each in found} == ({severity} if severity else set())
