"""Judges the compliance tests of a scenario, and takes their verdicts anew from the logs.

TEST01 compares answers that a performance run logged with those of the accuracy run; TEST04 issues one sample again and
again, which must not be faster; TEST05, of round 4.0, takes other seeds. Each test is a performance run of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from airank_fast.errors import UserError
from airank_fast.numeric import is_number
from airank_fast.record.formats.loadgen import ACCURACY, DETAIL, SUMMARY, Answers, Detail, read_accuracy, read_detail
from airank_fast.record.lines import Lines
from airank_fast.rules.findings import Finding
from airank_fast.rules.inference_profiles import PROFILES
from airank_fast.rules.mlperf_inference import log, rules
from airank_fast.rules.mlperf_inference.files import strays
from airank_fast.rules.mlperf_inference.judge import Context, Judge
from airank_fast.rules.mlperf_inference.performance import result_of

THRESHOLDS = {"TEST01": 0.10, "TEST04": 0.10, "TEST05": 0.05}
_OF_SHORT_LATENCIES = 0.20  # at most 0.2 ms of a single stream, 1.6 ms of several
_SHORT_NS = {"SingleStream": 200_000, "MultiStream": 1_600_000}
PERFORMANCE_VERDICT, ACCURACY_VERDICT = "verify_performance.txt", "verify_accuracy.txt"
_DETERMINISM = ("baseline_accuracy.txt", "compliance_accuracy.txt")  # of a system whose answers differ from run to run
_SCORE = re.compile(r"(reference|test) score = ([\d.eE+-]{1,30})")


def judge_test(
    folder: Path, test: str, measured: tuple[Path, Detail], context: Context, answers: Path
) -> Iterator[Finding]:
    """The findings about a compliance test.

    `measured` is the log of the scenario's performance run, `answers` the accuracy log of its accuracy run.
    """
    rule = rules.OF_TEST[test]
    if not folder.is_dir():
        yield rules.COMPLIANCE.broken(str(folder), None, f"no {test}", "it is required of this benchmark")
        return
    path = folder / "performance" / "run_1" / DETAIL
    for file in (path, path.with_name(SUMMARY), folder / PERFORMANCE_VERDICT):
        if not file.is_file():
            yield rules.COMPLIANCE.broken(str(file), None, "no such file", f"it is required of {test}")
    yield from _strays(folder, test)
    yield from _verdict(folder / PERFORMANCE_VERDICT, test)
    if path.is_file():
        detail, of_test = read_detail(Lines(path)), replace(context, test=test)
        yield from log.judge(path, detail, of_test)
        yield from log.beside(path.parent, detail)
        one, other = Judge(measured[0], measured[1], context), Judge(path, detail, of_test)
        yield from _compare(folder, test, one, other)
    if test == "TEST01":
        yield from _judge_answers(folder, answers, context)
    elif (folder / ACCURACY_VERDICT).is_file():
        yield rule.broken(str(folder / ACCURACY_VERDICT), None, "an accuracy verdict", f"{test} has none")


def _strays(folder: Path, test: str) -> Iterator[Finding]:
    """Files that a test does not have, such as the audit.config that an older LoadGen takes settings from."""
    yield from strays(folder, (PERFORMANCE_VERDICT, ACCURACY_VERDICT), rules.OPTIONAL_FILES)
    yield from strays(folder / "performance" / "run_1", rules.PERFORMANCE_FILES, rules.OPTIONAL_FILES)
    if test == "TEST01":
        yield from strays(folder / "accuracy", (ACCURACY, "accuracy.txt"), (*_DETERMINISM, *rules.OPTIONAL_FILES))


def _verdict(path: Path, test: str) -> Iterator[Finding]:
    if not path.is_file():
        return
    texts = [line.strip() for line in Lines(path)]
    if not any(text.startswith("TEST PASS") for text in texts) or any("TEST FAIL" in text for text in texts):
        yield rules.OF_TEST[test].broken(str(path), None, "no TEST PASS, or TEST FAIL", "TEST PASS is required")


def passes(test: str, scenario: str, reference: float, score: float) -> bool:
    """Whether the result of a compliance test is near enough to the performance run's: samples/s, queries/s or ns."""
    threshold = THRESHOLDS[test]
    if reference <= _SHORT_NS.get(scenario, 0):
        threshold = _OF_SHORT_LATENCIES
    is_not_higher, is_not_lower = score < reference * (1 + threshold), score > reference * (1 - threshold)
    if test == "TEST04":  # faster alone is forbidden
        return is_not_higher if rules.RESULTS[scenario][1] == "up" else is_not_lower
    return is_not_higher and is_not_lower


def _compare(folder: Path, test: str, measured: Judge, tested: Judge) -> Iterator[Finding]:
    """The results of both runs, and the scores that the verdict's text states."""
    rule, path = rules.OF_TEST[test], folder / PERFORMANCE_VERDICT
    scenario = measured.scenario_name
    if scenario is None or tested.scenario_name != scenario:
        found = f"scenario {tested.value('effective_scenario')!r}"
        yield rule.broken(tested.path, None, found, f"{scenario}, of the performance run, is required")
        return
    reference, score = result_of(measured), result_of(tested)
    if not reference or not score:
        return  # reported as missing
    if not passes(test, scenario, reference, score):
        required = f"{reference:g} of the performance run, within the test's bound, is required"
        yield rule.broken(tested.path, None, f"{rules.RESULTS[scenario][0]} {score:g}", required)
    if path.is_file():
        stated = {match[1]: match[2] for line in Lines(path) if (match := _SCORE.match(line.strip()))}
        for name, judged in (("reference", measured), ("test", tested)):
            if name in stated and not _is_score(stated[name], judged):
                found, required = f"{name} score = {stated[name]}", f"{result_of(judged):g}, of its log, is required"
                yield rule.broken(str(path), None, found, required)


def _is_score(text: str, judged: Judge) -> bool:
    try:
        stated = float(text)
    except ValueError:
        return False
    # MLPerf's script takes Server's completed rate from the summary.
    known = [result_of(judged), judged.value("result_completed_samples_per_sec")]
    return any(is_number(each) and abs(stated - each) <= max(1e-4 * abs(each), 0.0051) for each in known)


def _judge_answers(folder: Path, answers: Path, context: Context) -> Iterator[Finding]:
    """TEST01: the answers logged while it measured against those of the accuracy run, all bytes of each."""
    verdict = folder / ACCURACY_VERDICT
    if not verdict.is_file():
        yield rules.COMPLIANCE.broken(str(verdict), None, "no such file", "it is required of TEST01")
        return
    texts = [line.strip() for line in Lines(verdict)]
    says_pass = "TEST PASS" in texts
    logged = next(
        (path for path in (folder / "accuracy" / ACCURACY, folder / "performance/run_1" / ACCURACY) if path.is_file()),
        None,
    )
    if logged is None:
        yield rules.COMPLIANCE.broken(
            str(folder / "accuracy" / ACCURACY), None, "no such file", "it is required of TEST01"
        )
    text = folder / "accuracy" / "accuracy.txt"
    if context.profile is PROFILES["v4.0"] and not text.is_file():
        yield rules.COMPLIANCE.broken(str(text), None, "no such file", "it is required of TEST01")
    differing = _differing(logged, answers) if logged else None
    if differing is None:
        found = "no sample in both accuracy logs, as far as they are there"
        yield rules.NOT_CHECKED.broken(str(verdict), None, found, "the whole logs would be needed")
    elif differing and says_pass:
        found = (
            f"TEST PASS, and {len(differing)} samples with another answer than in the accuracy run: {differing[0]} ..."
        )
        yield rules.TEST01.broken(str(verdict), None, found, "the same answers are required")
    for line in texts:
        if says_pass and re.fullmatch(r"num_perf_log_data_mismatch = 0*[1-9]\d*", line):
            yield rules.TEST01.broken(str(verdict), None, f"TEST PASS, and {line}", "no mismatch is required")
    if not says_pass:
        yield from _nondeterministic(folder / "accuracy", verdict, context)


def _differing(logged: Path, answers: Path) -> list[int] | None:
    """The samples whose answers differ; None if no sample stands in both logs."""
    try:
        tested, known = (read_accuracy(Lines(path)) if path.is_file() else Answers() for path in (logged, answers))
    except UserError:
        return None
    common = tested.data.keys() & known.data.keys()
    if not common:
        return None
    differing = {index for index in common if tested.data[index].lower() != known.data[index].lower()}
    return sorted(differing | set(tested.changed))


_ACCURACY = re.compile(r"""accuracy=(\d{1,3}(?:\.\d+)?)%|["']f1["']: (\d{1,3}(?:\.\d+)?)""")


def _nondeterministic(folder: Path, verdict: Path, context: Context) -> Iterator[Finding]:
    """Answers may differ from run to run if accuracies of the same samples agree within 1 % (bert-99.9: 0.1 %)."""
    values = []
    for name in _DETERMINISM:
        path = folder / name
        match = (
            next((found for line in Lines(path) if (found := _ACCURACY.search(line))), None) if path.is_file() else None
        )
        if match is None:
            required = "TEST PASS, or baseline_accuracy.txt and compliance_accuracy.txt, is required"
            yield rules.TEST01.broken(str(verdict), None, f"no TEST PASS, and no accuracy in {name}", required)
            return
        values.append(float(match[1] or match[2]))
    baseline, tested = values
    most = 1 - context.benchmark.factor if context.benchmark else 0.01
    if not tested or abs(1 - baseline / tested) > most + 1e-12:
        found, required = (
            f"accuracy {tested:g} with {baseline:g} of the accuracy run",
            f"a difference of at most {most:.1%}",
        )
        yield rules.TEST01.broken(str(folder / "compliance_accuracy.txt"), None, found, f"{required} is required")
