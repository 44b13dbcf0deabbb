"""Valid logs for the tests to break, the published sample, run directories, and a folder that cannot be read."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from record.conftest import tell

from airank_fast import tasks
from airank_fast.record.events import to_line
from airank_fast.record.logs import write_logs
from airank_fast.rules import verifying
from airank_fast.rules.facts import Facts
from airank_fast.rules.findings import Finding

PUBLISHED = """\
- AI-Rank-log 1558631910.424 test_begin
- AI-Rank-log 1558631912.424 eval_accuracy:0.16753999888896942, total_epoch_cnt:2
- AI-Rank-log 1558631913.424 eval_accuracy:0.3207400143146515, total_epoch_cnt:4
- AI-Rank-log 1558631914.424 eval_accuracy:0.4756399989128113, total_epoch_cnt:6
- AI-Rank-log 1558631915.424 eval_accuracy:0.6468799710273743, total_epoch_cnt:8
- AI-Rank-log 1558631916.424 eval_accuracy:0.7605400085449219, total_epoch_cnt:10
- AI-Rank-log 1558631918.454 target_quality_time:8.03sec
- AI-Rank-log 1558631919.424 eval_accuracy:0.8005400085449219, total_epoch_cnt:12
- AI-Rank-log 1558631920.424 eval_accuracy:0.855400085449219, total_epoch_cnt:14
- AI-Rank-log 1558631921.424 eval_accuracy:0.9005400085449219, total_epoch_cnt:16
- AI-Rank-log 1558631922.424 eval_accuracy:0.955400085449219, total_epoch_cnt:18
- AI-Rank-log 1558631922.454 test_finish
- AI-Rank-log 1558631918.454 total_use_time:12.03sec
- AI-Rank-log 1558631918.455 avg_ips:1190images/sec
"""
# The same run, written so that no two of its lines disagree: 5 evaluations, 10 epochs of 1000 images.
GOOD = """\
AI-Rank-log 1558631910.424 test_begin
AI-Rank-log 1558631912.424 eval_accuracy:0.1675, total_epoch_cnt:2
AI-Rank-log 1558631914.424 eval_accuracy:0.4756, total_epoch_cnt:4
AI-Rank-log 1558631916.424 eval_accuracy:0.7605, total_epoch_cnt:6
AI-Rank-log 1558631916.424 target_quality_time:6.000sec
AI-Rank-log 1558631918.424 eval_accuracy:0.7705, total_epoch_cnt:8
AI-Rank-log 1558631920.424 eval_accuracy:0.7605, total_epoch_cnt:10
AI-Rank-log 1558631920.424 test_finish
AI-Rank-log 1558631920.424 total_use_time:10.000sec
AI-Rank-log 1558631920.424 avg_ips:1000.000images/sec
"""
GOOD_FACTS = {
    "profile": "2020-12",
    "model": "resnet50",
    "samples_per_epoch": 1000,
    "warmup_epochs": 0,
}

FLAGPERF_TABLE = """\
### 运行情况

* 通用指标

| 指标名称       | 指标值                  | 特殊说明                              |
| -------------- | ----------------------- | ------------------------------------- |
| 总吞吐量       | p_whole,见“性能指标”    | 实际训练图片数除以总时间(performance_whole) |

* 性能指标

| 配置               | precision | fix_hp | e2e_time | p_whole | p_train | p_core | acc  | mem |
| ------------------ | --------- | ---- | ---- | ---- | ---- | ---- |  ---- | ---- |
| A100单机8卡（1x8） | fp32 | / | 28661 | 4475 | 4586    | 4659 | 75.0% | 5.8/40.0 |
| A100单机8卡（1x8） | fp32 | bs=256,lr=0.8 | 22653    | 5663    | 5866    | 6105   | 73.5% | 28.3/40.0 |
| A100单机单卡（1x1） | fp32 | bs=256,lr=0.8 |  | 782 | 795    | 799 |  | 27.6/40.0 |
| A100两机8卡（2x8） | fp32 | bs=256,lr=0.8 |  | 10576 | 11085    | 11874 | | 27.9/40.0 |
"""


def findings(path: Path, content: str | bytes | None = None, model: str | None = None, **facts) -> list[Finding]:
    """The findings about a file, after this content is written to it."""
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(verifying.verify(path, Facts(task=tasks.find(model), **facts)))


def short(found: list[Finding]) -> list[tuple[str, str, int | None]]:
    """(severity, rule, line) of each."""
    return [(finding.severity, finding.rule, finding.line) for finding in found]


def errors(found: list[Finding]) -> list[tuple[str, int | None]]:
    """(rule, line) of the errors."""
    return [(finding.rule, finding.line) for finding in found if finding.severity == "error"]


def write_run(directory: Path, events=None, **options) -> Path:
    """A run directory with all its files."""
    events = tell("target", **options).events if events is None else events
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "events.jsonl").write_text("".join(to_line(event) + "\n" for event in events))
    write_logs(events, directory)
    return directory


@contextmanager
def unreadable_folder(top: Path) -> Iterator[Path]:
    """A folder below `top` that no user can read, not even root: its path is longer than the system's 4,096 bytes."""
    first = top / ("d" * 100)
    path, parent = top, os.open(top, os.O_RDONLY)

    def descend(name: str) -> None:
        nonlocal path, parent
        path /= name
        os.mkdir(name, dir_fd=parent)
        above, parent = parent, os.open(name, os.O_RDONLY, dir_fd=parent)
        os.close(above)

    while len(os.fsencode(path)) < 3850:  # so that files in the folder above it have paths that can be read
        descend(first.name)
    descend("d" * 250)
    os.close(parent)
    yield path
    subprocess.run(["rm", "-rf", first], check=True)  # pytest's own removal cannot
