"""Judges an accuracy run's answers: accuracy.txt, the accuracy log, and its checksum.

accuracy.txt has the line of the benchmark's script, `accuracy=76.100%, good=38050, total=50000` of ResNet-50 and
`{"exact_match": 83.6, "f1": 90.9}` of BERT, and `hash=<sha256 of the whole accuracy log>`. A hand-in has the first and
last 4 kB of that log, so that its checksum can be held against the log only where the whole one lies there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from airank_fast.errors import UserError
from airank_fast.numeric import is_number
from airank_fast.record.events import dictionary
from airank_fast.record.files import sha256
from airank_fast.record.formats.loadgen import ACCURACY, Answers, Detail, read_accuracy
from airank_fast.record.lines import Lines
from airank_fast.rules.findings import Finding, Rule
from airank_fast.rules.inference_profiles import num_issued
from airank_fast.rules.mlperf_inference import rules
from airank_fast.rules.mlperf_inference.judge import Context, short

TEXT = "accuracy.txt"
_COUNTS = re.compile(r"accuracy=(\d{1,3}(?:\.\d+)?)%, good=(\d{1,12}), total=(\d{1,12})")
_HASH = re.compile(r"hash=(.*)")
_MAX_OF_A_RULE = 5
_Find = Callable[[Rule, int | None, str, str], None]


def judge_folder(folder: Path, context: Context, detail: Detail) -> Iterator[Finding]:
    """The findings about the answers in a folder of an accuracy run, whose detail log has the number of samples."""
    text, log = folder / TEXT, folder / ACCURACY
    stated = None
    if text.is_file():
        stated, findings = _read_text(text, context)
        yield from findings
    if log.is_file():
        yield from _judge_log(log, context, detail, stated)


def _read_text(path: Path, context: Context) -> tuple[str | None, list[Finding]]:
    """(the checksum that accuracy.txt states, the findings about the file)."""
    findings: list[Finding] = []

    def find(rule: Rule, line: int | None, found: str, required: str) -> None:
        findings.append(rule.broken(str(path), line, found, required, context.severity(rule)))

    stated, has_metric = None, False
    for number, line in enumerate(Lines(path), 1):
        text = line.strip()
        if match := _HASH.fullmatch(text):
            stated = match[1]
            if not re.fullmatch(r"[0-9a-f]{64}", stated):
                find(rules.HASH, number, f"hash={stated[:70]}", "the sha256 of the whole accuracy log is required")
        elif match := _COUNTS.match(text):
            has_metric = True
            _judge_counts(find, context, number, float(match[1]), int(match[2]), int(match[3]))
        elif text.startswith("{") and "f1" in text:
            has_metric = True
            _judge_f1(find, context, number, text)
    if context.benchmark is not None and not has_metric:
        form = "accuracy=A%, good=N, total=M" if context.benchmark.task == "resnet50" else '{"exact_match": A, "f1": B}'
        find(rules.ACCURACY_TEXT, None, "no accuracy", f"a line {form} is required")
    if stated is None:
        find(rules.HASH, None, "no line hash=", "the sha256 of the whole accuracy log is required")
    return stated, findings


def _judge_counts(find: _Find, context: Context, line: int, per_cent: float, good: int, total: int) -> None:
    if total <= 0 or good > total:
        find(rules.ACCURACY_TEXT, line, f"good={good}, total={total}", "good of at most total, above 0, is required")
        return
    if abs(per_cent - 100 * good / total) > 0.00051:
        required = f"{100 * good / total:.3f} %, good={good} of total={total}, is required"
        find(rules.ACCURACY_TEXT, line, f"accuracy={per_cent:g} %", required)
    benchmark, profile = context.benchmark, context.profile
    if benchmark is None or benchmark.task != "resnet50" or not context.is_closed:
        return
    if total != benchmark.eval_samples:
        find(rules.DATASET, line, f"total={total}", f"{benchmark.eval_samples}, the whole data set, is required")
    bound = benchmark.bound(profile.name) if profile else None
    if bound is not None:
        least = bound.least_correct(total)
        if good < least or per_cent < 100 * bound.required:
            required = f"{least} of {total} ({100 * bound.required:.6g} %: {bound.factor:g} x {bound.reference:g})"
            find(rules.BOUND, line, f"{good} of {total} right ({per_cent:g} %)", f"at least {required} are required")


def _judge_f1(find: _Find, context: Context, line: int, text: str) -> None:
    try:
        values = dictionary(json.loads(text.replace("'", '"')))
    except (ValueError, RecursionError):
        values = {}
    exact, f1 = values.get("exact_match"), values.get("f1")
    if not (is_number(exact) and is_number(f1) and 0 <= exact <= f1 <= 100):
        required = "exact_match and f1 in per cent, exact_match of at most f1, are required"
        find(rules.ACCURACY_TEXT, line, text[:80], required)
        return
    benchmark, profile = context.benchmark, context.profile
    bound = benchmark.bound(profile.name) if benchmark and profile and benchmark.task == "bert_squad" else None
    if bound is not None and context.is_closed and f1 < 100 * bound.required:
        required = f"at least {100 * bound.required:.7g} ({bound.factor:g} x {100 * bound.reference:g}) is required"
        find(rules.BOUND, line, f"f1 {f1:.7g}", required)


def _judge_log(path: Path, context: Context, detail: Detail, stated: str | None) -> Iterator[Finding]:
    try:
        answers = read_accuracy(Lines(path))
    except UserError as error:
        yield rules.ANSWERS.broken(str(path), None, str(error), "an accuracy log that can be read is required")
        return
    yield from judge_answers(path, answers, _num_again(detail))
    size = path.stat().st_size
    if context.is_submission and size > rules.MAX_ACCURACY_LOG_BYTES:
        required = f"at most {rules.MAX_ACCURACY_LOG_BYTES}, its beginning and end, are required"
        yield rules.TRUNCATED.broken(str(path), None, f"{size} bytes", required)
    if answers.is_truncated:
        found = "a truncated log: neither its checksum nor its number of answers can be checked"
        yield rules.NOT_CHECKED.broken(str(path), None, found, "the whole log would be needed")
        return
    if stated is not None and re.fullmatch(r"[0-9a-f]{64}", stated) and (actual := sha256(path)) != stated:
        yield rules.HASH.broken(str(path), None, f"sha256 {actual}", f"{stated}, which {TEXT} states, is required")
    total = detail.value("qsl_reported_total_count")
    if type(total) is int and len(answers.data) != total:
        found = f"answers of {len(answers.data)} samples"
        yield rules.LOST.broken(str(path), None, found, f"one of each of the {total} samples is required")


def _num_again(detail: Detail) -> int:
    """How many samples LoadGen issues again to fill up queries; 0 where the log lacks a number, which is reported."""
    keys = ("qsl_reported_total_count", "effective_samples_per_query", "effective_performance_sample_count")
    numbers = [value for key in keys if type(value := detail.value(key)) is int and value > 0]
    if detail.value("effective_scenario") != "MultiStream" or len(numbers) < len(keys):
        return 0
    total, per_query, loaded = numbers
    return num_issued(total, per_query, min(loaded, total)) - total


def judge_answers(path: Path, answers: Answers, num_again: int = 0) -> Iterator[Finding]:
    """The findings about the entries of an accuracy log, whole or truncated; `num_again` are LoadGen's repetitions."""
    for number, trouble in answers.troubles[:_MAX_OF_A_RULE]:
        yield rules.ANSWERS.broken(str(path), number, trouble, "LoadGen's own entries are required")
    if not answers.is_closed:
        found = "a log that does not end with ]"
        yield rules.ANSWERS.broken(str(path), None, found, "LoadGen's end is required: the log was cut off")
    bad = [index for index, data in answers.data.items() if not re.fullmatch(r"(?:[0-9A-Fa-f]{2})+", data)]
    if bad:
        found = f"answer {short(answers.data[bad[0]])} of sample {bad[0]}"
        yield rules.ANSWERS.broken(str(path), None, found, "bytes as hexadecimal digits are required")
    found_again = len(answers.again)
    if found_again > num_again or (found_again < num_again and not answers.is_truncated):
        found = f"{found_again} samples answered again" + (f", the first is {answers.again[0]}" if found_again else "")
        required = f"{'at most ' if answers.is_truncated else ''}{num_again} are LoadGen's own"
        yield rules.LOST.broken(str(path), None, found, required)
