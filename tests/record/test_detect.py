"""The format of a file is found by what stands in it, behind whatever a launcher puts before each line."""

import pytest

from airank_fast.errors import UserError
from airank_fast.record.foreign.detect import detect

OUTPUT = b"output of a trainer\n" * 200
DLL = b"DLL 2021-03-23 09:24:42.127408 - Epoch: 0  train.loss : 6.5\n"


@pytest.mark.parametrize(
    ("content", "formats"),
    [
        (b"", []),
        (OUTPUT, []),
        (OUTPUT + b"- AI-Rank-log 1558631910.424 test_begin\n", ["airank"]),
        (OUTPUT + b"[1,0]<stdout>:" + DLL, ["dllogger"]),
        (OUTPUT + b'DLLL {"timestamp": "1"}\n', ["dllogger"]),
        (b'{"timestamp": "1", "datetime": "x", "elapsedtime": "1"}\n', ["dllogger"]),
        (OUTPUT + b'[PerfLog] {"event": "TRAIN_START"}\n', ["perflog"]),
        (OUTPUT + b":::MLLOG {}\n" + DLL, ["mlperf", "dllogger"]),
        (b'{"t": 1.5, "kind": "process_start"}\n', ["events"]),
        (OUTPUT + b':::MLLOG {"key": "loadgen_version", "value": "6.0"}\n', ["loadgen"]),
        (b'{"loadgen_version": "6.0"}\n', []),
        ("\ufeffDLL 2021-03-23 09:24:42 - Epoch: 0  a : 1\n".encode("utf-16-le"), ["dllogger"]),
        (b'{\n  "p_whole": 1\n}\n', ["flagperf"]),
        (b"a DLL 32 bits wide\n", []),
        (
            OUTPUT + b"AI-Rank-log 1558631910.4 test_begin\nAI-Rank-log 1558631910.4 warmup_finish\n",
            ["airank_inference"],
        ),
        (b"[ AI-Rank-Log  4/ 7 20:44: 7.914 ]Test begin\n", ["airank_inference"]),
        (b"AI-Rank-log 1.0 eval_accuracy:0.5, total_epoch_cnt:1\nAI-Rank-log 1.0 total_accuracy:0.5\n", ["airank"]),
        (b'{"t": 1, "kind": "process_start"}\n{"t": 2, "kind": "infer_config"}\n', ["inference_events"]),
        (b"| tool | p_infer_whole | *p_infer_core |\n", ["flagperf_inference_table"]),
        (b"Finish Info {'p_inference_whole(qps)': 1391.4}\n", ["flagperf_inference"]),
    ],
)
def test_formats(tmp_path, content, formats):
    path = tmp_path / "log"
    path.write_bytes(content)
    assert detect(path) == formats


def test_a_path_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="a file that can be read, got"):
        detect(tmp_path / "none")
