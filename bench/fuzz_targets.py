"""The targets of fuzzing: all code that reads other people's files. Each target takes the bytes of a file and may raise
UserError, no other error. The parsers of record/formats and the books of rules/verifying.py are found by name, so that
a new one is fuzzed too.
"""

from __future__ import annotations

import atexit
import importlib
import os
import pkgutil
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from airank_fast import tasks
from airank_fast.errors import UserError
from airank_fast.record import formats, inference_logs
from airank_fast.record.foreign.detect import detect
from airank_fast.record.foreign.read import read_run
from airank_fast.record.lines import Lines
from airank_fast.rules import agreement, verifying
from airank_fast.rules.facts import Facts

_READERS = ("read", "parse")  # prefixes of the functions of a format's module that take the lines of a log
_TASK = tasks.find("resnet50")
_FACTS = Facts(profile="2021-05", task=_TASK, target=0.7, samples_per_epoch=1000, warmup_epochs=1, epochs=3)
_SPLIT = b"\n\0airank.log\0\n"  # between the files of a run directory, in one input


def _scratch() -> Path:
    """A directory of this process, in memory where there is one; see `clean_up` for a process that is killed."""
    path = _scratch_of(os.getpid())
    path.mkdir(exist_ok=True)
    atexit.register(clean_up, os.getpid())
    return path


def _scratch_of(pid: int) -> Path:
    memory = Path("/dev/shm")
    return (memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir())) / f"airank-fuzz-{pid}"


def clean_up(pid: int) -> None:
    """Remove the files of a process."""
    shutil.rmtree(_scratch_of(pid), ignore_errors=True)


_DIRECTORY = _scratch()


def _file(content: bytes, name: str = "log") -> Path:
    path = _DIRECTORY / name
    path.write_bytes(content)
    return path


def _use_up(result: object) -> None:
    if isinstance(result, Iterable):
        for _ in result:
            pass


def _reader(function: Callable) -> Callable[[bytes], None]:
    return lambda content: _use_up(function(Lines(_file(content))))


def _book(name: str) -> Callable[[bytes], None]:
    """A book, whatever the content looks like; without facts, and with all of them."""

    def check(content: bytes) -> None:
        path = _file(content)
        for facts in (Facts(), _FACTS):
            _use_up(verifying.in_order(verifying.check_file(path, [name], facts)))

    return check


def _run_directory(content: bytes) -> None:
    events, _, log = content.partition(_SPLIT)
    (_DIRECTORY / "run").mkdir(exist_ok=True)
    _file(events, "run/events.jsonl")
    for name in {*agreement.FILES, *inference_logs.FILES}:
        _file(log, f"run/{name}")
    _use_up(verifying.verify(_DIRECTORY / "run"))


def _targets() -> dict[str, Callable[[bytes], None]]:
    targets = {
        "lines": lambda content: _use_up(Lines(_file(content))),
        "detect": lambda content: _use_up(detect(_file(content))),
        "read_run": lambda content: _use_up(read_run(_file(content)).events),
        "verify": lambda content: _use_up(verifying.verify(_file(content))),
        "run_directory": _run_directory,
    }
    for module_info in pkgutil.iter_modules(formats.__path__):
        module = importlib.import_module(f"{formats.__name__}.{module_info.name}")
        for name, function in vars(module).items():
            if name.startswith(_READERS) and callable(function) and function.__module__ == module.__name__:
                targets[f"{module_info.name}.{name}"] = _reader(function)
    return targets | {f"book.{name}": _book(name) for name in verifying.BOOKS}


TARGETS = _targets()


def run(name: str, content: bytes) -> bool:
    """Call a target with an input; True if it accepts it, False for UserError."""
    try:
        TARGETS[name](content)
    except UserError:
        return False
    return True


SEEDS = [
    b"- AI-Rank-log 1558631910.424 test_begin\n"
    b"- AI-Rank-log 1558631912.424 eval_accuracy:0.16753999888896942, total_epoch_cnt:2\n"
    b"- AI-Rank-log 1558631916.424 eval_accuracy:0.7605400085449219, total_epoch_cnt:4\n"
    b"- AI-Rank-log 1558631918.454 target_quality_time:8.03sec\n"
    b"- AI-Rank-log 1558631922.454 test_finish\n"
    b"- AI-Rank-log 1558631918.454 total_use_time:12.03sec\n"
    b"- AI-Rank-log 1558631918.455 avg_ips:1190images/sec\n",
    "[rank0]: AI-Rank-log 1558631910424 load_data, checksum:c0ffee\r\n"
    "0: AI-Rank-log 1558631910 eval_accuracy：76.05%， total_epoch_cnt:2\r\n".encode(),
    "| 配置 | precision | fix_hp | e2e_time | p_whole | p_train | p_core | acc | mem |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
    "| A100单机8卡（1x8） | fp32 | / | 28661 | 4475 | 4586    | 4659 | 75.0% | 5.8/40.0 |\n".encode(),
    b'{"case": "resnet50", "nnodes": 1, "nproc": 8, "config": "1x8", "precision": "amp", "fix_hp": "/", '
    b'"e2e_time": 28661, "p_whole": 4475, "p_train": 4586, "p_core": 4659, "acc": 0.75, "mem_used": 5.8, '
    b'"mem_total": 40.0}\n',
    b':::MLLOG {"namespace": "", "time_ms": 1700000000000, "event_type": "POINT_IN_TIME", "key": '
    b'"submission_benchmark", "value": "resnet", "metadata": {"file": "a.py", "lineno": 1}}\n'
    b':::MLLOG {"namespace": "", "time_ms": 1700000000001, "event_type": "INTERVAL_START", "key": "run_start", '
    b'"value": null, "metadata": {}}\n'
    b':::MLLOG {"namespace": "", "time_ms": 1700000001000, "event_type": "POINT_IN_TIME", "key": "eval_accuracy", '
    b'"value": 0.76, "metadata": {"epoch_num": 4}}\n'
    b':::MLLOG {"namespace": "", "time_ms": 1700000002000, "event_type": "INTERVAL_END", "key": "run_stop", '
    b'"value": null, "metadata": {"status": "success"}}\n',
    b'[PerfLog] {"event": "FINISHED", "value": {"p_whole": 4475}, "metadata": {"timestamp": 1700000000000}}\n',
    b"DLL 2020-05-05 11:33:07.532000 - Epoch: 0 Iteration: 10  train.loss : 6.9  train.total_ips : 760.1\n",
    b'DLLL {"timestamp": "1588678387.53", "datetime": "2020-05-05 11:33:07", "elapsedtime": "11.2", "type": "LOG", '
    b'"step": [0, 10], "data": {"train.loss": 6.9}}\n',
    b'{"t":1.5,"kind":"process_start","pid":7}\n'
    b'{"t":2,"kind":"run_config","benchmark":"resnet50","precision":"bf16","world_size":1,"global_batch_size":64,'
    b'"unit":"images","target":0.7,"reported":{"opt_base_learning_rate":0.1},"submission":{"org":"x"}}\n'
    b'{"t":3,"kind":"init_start"}\n{"t":4,"kind":"init_stop"}\n{"t":5,"kind":"run_start"}\n'
    b'{"t":5,"kind":"data","train_samples":64,"eval_samples":10,"checksum":"c0ffee"}\n'
    b'{"t":6,"kind":"block_start","step":0,"samples":0,"first_epoch":1,"epoch_count":1}\n'
    b'{"t":7,"kind":"steps","first_step":1,"num_steps":1,"samples":64,"loss":["nan"],"lr":[0.1],"core_s":[0.5],'
    b'"wait_s":[0.1],"h2d_s":[0.1]}\n'
    b'{"t":7,"kind":"epoch_stop","epoch":1,"step":1,"samples":64}\n'
    b'{"t":7,"kind":"block_stop","step":1,"samples":64,"core_s":[0.5],"wait_s":[0.1],"h2d_s":[0.1],"measure_s":[0.0]}\n'
    b'{"t":8,"kind":"eval_start","epoch":1,"step":1,"samples":64}\n'
    b'{"t":9,"kind":"eval_stop","epoch":1,"step":1,"samples":64,"correct":8,"counted":10,"accuracy":0.8}\n'
    b'{"t":10,"kind":"resume","step":1,"samples":64}\n'
    b'{"t":11,"kind":"memory","used_bytes":1,"total_bytes":2,"per_rank":[1]}\n'
    b'{"t":11,"kind":"run_stop","status":"success","reason":"target","detail":""}\n{"t":12,"kind":"process_stop"}\n',
]
_EVENTS = SEEDS[-1]
_AIRANK_INFERENCE = (
    b"AI-Rank-log 1700000000.000 load_data, checksum:c0ffee\n"
    b"AI-Rank-log 1700000000.000 test_begin\n"
    b"- AI-Rank-log 1700000000.000 warmup_begin, warmup_samples:9\n"
    b"AI-Rank-log 1700000001.000 warmup_finish\n"
    b"AI-Rank-log 1700000001.000 sampleid:7, result=true\n"
    b"AI-Rank-log 1700000001.000 target_qps:120.5\n"
    b"AI-Rank-log 1700000001.000 samples_cnt_each_case:2\n"
    b"AI-Rank-log 1700000001.000 latency_case1_begin\n"
    b"AI-Rank-log 1700000001.010 latency_case1_finish\n"
    b"AI-Rank-log 1700000001.020 latency_case2_latency:10.5ms\n"
    b"AI-Rank-log 1700000002.000 total_accuracy:0.76, max_latency:9.5ms, total_samples_cnt:100, max_memory_use:42M\n"
    b"AI-Rank-log 1700000002.000 90th_percentile_latency:10.5ms, min_latency:10ms, max_latency:11ms\n"
    b"AI-Rank-log 1700000002.000 avg_ips:100.0images/sec\n"
    b"AI-Rank-log 1700000002.000 test_end\n"
)
_INFERENCE = (
    b'{"t":1.5,"kind":"process_start","pid":7}\n'
    b'{"t":2,"kind":"infer_config","benchmark":"resnet50","profile":"airank-2021-05","scenarios":["online"],'
    b'"precision":"fp32","data":{"eval_samples":2,"checksum":"c0ffee"},"unit":"images","peak_flops":1e12}\n'
    b'{"t":3,"kind":"model","engine":{"name":"torch","precision":"fp32"},"flops_per_sample":8e9,"file_bytes":9}\n'
    b'{"t":3,"kind":"reference","quality":{"top1":0.5},"correct":1,"counted":2,"source":"torch"}\n'
    b'{"t":3,"kind":"warm_up","times":[[1,0.1]]}\n'
    b'{"t":3,"kind":"accuracy","scenario":"online","quality":{"top1":0.5},"correct":1,"counted":2,"required":0.495,'
    b'"factor":0.99,"reference":0.5,"passed":true,"agreement":1.0,"sample_results":[1,0]}\n'
    b'{"t":4,"kind":"test_start","scenario":"online","mode":"performance","settings":{"target_latency_s":0.1}}\n'
    b'{"t":5,"kind":"queries","scenario":"online","mode":"performance","first":0,"issued_s":[0,0.01],'
    b'"latency_s":[0.01,0.02],"queue_s":[0,0.001],"batch":[1,1],"correct":[1,0]}\n'
    b'{"t":5,"kind":"test_stop","scenario":"online","mode":"performance","valid":true,"reasons":[],'
    b'"metric":{"samples_per_s":66.7,"concurrency":1,"max_latency_s":0.02},"num_queries":2,"num_samples":2,'
    b'"duration_s":0.03,"over_latency":0,"memory":{"total_bytes":9,"run_bytes":3}}\n'
    b'{"t":6,"kind":"run_stop","status":"success","reason":"valid"}\n{"t":7,"kind":"process_stop"}\n'
)
SEEDS += [
    _AIRANK_INFERENCE,
    _INFERENCE,
    _INFERENCE + _SPLIT + _AIRANK_INFERENCE,
    b"[ AI-Rank-Log  4/ 7 20:44: 7.973 ]latency_case1_latency: 47.94 ms\n[ AI-Rank-Log  4/ 7 20:45: 7.476 ]Test end\n",
    "| 推理工具 | precision | bs | e2e_time | p_infer_whole | *p_infer_core | *MFU | acc | mem |\n"
    "| tensorrt | fp16 | 256 | 613.4 | 1391.4 | 12698.7 | 16.8% | 76.2/76.2 | 19.7/40.0 |\n".encode(),
    b"Finish Info {'compiler': 'tensorrt', 'precision': 'fp16', 'batchsize': 256, 'p_inference_whole(qps)': 1391.4}\n",
    _EVENTS + _SPLIT + SEEDS[0],
    _EVENTS + _SPLIT + SEEDS[3],
    SEEDS[0].decode().encode("utf-16"),
    b'{"t":1,"kind":"x","deep":' + b"[" * 3000 + b"\n",
    b'{"p_whole": ' + b"[" * 3000,
]
