"""Checks the values of an MLPerf log: submission, sizes, hyper-parameters, seeds, evaluations and their cadence."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from airank_fast.rules.findings import ERROR, NOTE, WARNING, Rule
from airank_fast.rules.mlperf import rules
from airank_fast.rules.mlperf.log import Evaluation, Log
from airank_fast.rules.mlperf.rules import Benchmark, Requirement, is_number, is_whole, short

MAX_EVALUATIONS = 10_000  # that are kept; a run has tens
Find = Callable[..., None]  # find(rule, line, found, required, severity=None)


def judge_values(log: Log, find: Find) -> None:
    """Checks the values that appear once: submission, sizes, hyper-parameters, seeds."""
    _judge_submission(log, find)
    benchmark = log.benchmark
    if log.value("submission_division") == "open":
        find(
            rules.DIVISION,
            log.values["submission_division"][1],
            "division open",
            "checked by the common rules alone: this book is for the closed division",
        )
    elif benchmark is None:
        if log.lacks_book:
            name = log.value("submission_benchmark")
            find(
                rules.DIVISION,
                log.values["submission_benchmark"][1],
                f"benchmark {name}" + (f", of MLPerf training {log.other_round}" if log.other_round else ""),
                f"checked by the common rules alone: {name} has no book here, only resnet and bert",
            )
    else:
        _judge_sizes(log, benchmark, find)
        _judge_hyper_parameters(log, benchmark, find)
        _judge_seeds(log, find)


def _judge_submission(log: Log, find: Find) -> None:
    for key in rules.SUBMISSION_KEYS:
        if key not in log.values:
            continue
        value, line = log.values[key]
        words = rules.WORDS.get(key)
        if not isinstance(value, str) or not value.strip() or (words and value not in words):
            find(rules.SUBMISSION, line, f"{key} {short(value)}", " or ".join(words) if words else "a name")


def _judge(log: Log, required: dict[str, Requirement], find: Find, rule: Rule) -> None:
    """Checks that each key is present and its value meets the requirement."""
    missing = [f"{key} ({each.text})" for key, each in required.items() if key not in log.values]
    if missing:
        find(rules.REQUIRED, None, f"no line {', '.join(missing)}", "each of them")
    for key, each in required.items():
        if key in log.values and not each.holds(log.value(key)):
            find(rule, log.values[key][1], f"{key} {short(log.value(key))}", each.text)


def _judge_sizes(log: Log, benchmark: Benchmark, find: Find) -> None:
    _judge(log, rules.SIZE_KEYS, find, rules.SIZES)
    for key, size in (("train_samples", benchmark.train_samples), ("eval_samples", benchmark.eval_samples)):
        if key not in log.values:
            continue  # reported as missing
        value, line = log.values[key]
        if key == "eval_samples" and is_whole(value) and value > size:  # padded batches
            required = f"{size}; more of them are 'at least as thorough' if none counts twice"
            find(rules.SIZES, line, f"{key} {short(value)}", required, WARNING)
        elif not is_whole(value) or value <= 0 or (size is not None and value != size):
            find(rules.SIZES, line, f"{key} {short(value)}", f"{size}" if size else "a whole number above 0")
    samples, trained = log.value("train_samples"), log.converged_at
    if benchmark.counts_samples and is_whole(samples) and trained is not None and 0 < samples < trained:
        find(
            rules.SIZES,
            log.values["train_samples"][1],
            f"train_samples {samples:.0f} of a run that trained {trained:.0f}",
            "the size of the data set, or the samples to converge",
        )


def _judge_hyper_parameters(log: Log, benchmark: Benchmark, find: Find) -> None:
    name = log.value("opt_name")
    if "opt_name" not in log.values:
        name = benchmark.default_optimizer
        if name is None:
            find(rules.REQUIRED, None, "no line opt_name", " or ".join(benchmark.optimizers))
    elif not isinstance(name, str) or name not in benchmark.optimizers:
        line, required = log.values["opt_name"][1], " or ".join(benchmark.optimizers)
        # BERT's checker ignores opt_name.
        is_same = bool(benchmark.default_optimizer) and str(name).lower() == benchmark.default_optimizer
        find(rules.HYPERPARAMETER, line, f"opt_name {short(name)}", required, WARNING if is_same else None)
        name = benchmark.default_optimizer if is_same else None
    keys = benchmark.optimizers.get(name, {})
    _judge(log, keys, find, rules.HYPERPARAMETER)
    for key, likely in rules.PLAUSIBLE.items():
        if key in keys and is_number(log.value(key)) and not likely.holds(log.value(key)):
            line = log.values[key][1]
            find(rules.HYPERPARAMETER, line, f"{key} {short(log.value(key))}", likely.text, WARNING)
    batch, momentum = log.value("global_batch_size"), log.value("lars_opt_momentum")
    if name == "lars" and is_number(batch) and batch < rules.LARGE_BATCH and is_number(momentum) and momentum != 0.9:
        find(
            rules.HYPERPARAMETER,
            log.values["lars_opt_momentum"][1],
            f"lars_opt_momentum {momentum:g} at a batch of {batch:.10g}",
            "0.9 below a batch of 32k",
        )
    for key, other in rules.SAME[benchmark.name]:
        _judge_same(log, key, other, find)
    others = tuple(f"{other}_" for other in benchmark.optimizers if other != name)
    found = sorted(key for key in log.values if others and key.startswith(others))
    if name and found:
        find(
            rules.OTHER_OPTIMIZER,
            min(log.values[key][1] for key in found),
            ", ".join(found),
            f"the lines of {name} alone",
        )


def _judge_same(log: Log, key: str, other: str, find: Find) -> None:
    if key in log.values and other not in log.values:
        if key == "opt_lamb_epsilon":  # the other keys are required themselves
            find(rules.HYPERPARAMETER, None, f"no line {other}", f"{key} under its name in the rules", WARNING)
    elif key in log.values and short(log.value(key)) != short(log.value(other)):
        find(
            rules.HYPERPARAMETER,
            log.values[other][1],
            f"{other} {short(log.value(other))}",
            f"{short(log.value(key))} as {key}: two names for one thing",
            WARNING,
        )


def _judge_seeds(log: Log, find: Find) -> None:
    if not log.seeds:
        required = "an integer: from the 4.1 round on the training rules (Random numbers) require one of each run"
        find(rules.SEED, None, "no line seed", required, WARNING)
    for value, metadata, line in log.seeds:
        if type(value) is not int:
            severity = WARNING if _is_integer_text(value) else ERROR
            find(rules.SEED, line, f"seed {short(value)}", "an integer", severity)
        if not {"file", "lineno"} <= metadata.keys():
            find(rules.SEED, line, "a seed without metadata file and lineno", "both: the seed checker reads them")
    if len({short(value) for value, _, _ in log.seeds}) > 1:
        find(rules.SEED, log.seeds[1][2], f"{len(log.seeds)} seeds", "one: the seed checker warns", WARNING)


def _is_integer_text(value: object) -> bool:
    try:
        return isinstance(value, (str, float)) and float(value) == int(value)
    except (ValueError, OverflowError):
        return False


def judge_evaluations(log: Log, find: Find) -> None:
    """Checks accuracies, epoch numbers, the target and the cadence."""
    benchmark = log.closed
    for evaluation in log.evaluations:
        _judge_accuracy(evaluation, find)
        _judge_epoch(evaluation, benchmark, find)
    if benchmark is None or not log.evaluations:
        return
    reached = next((e for e in log.evaluations if e.reaches(benchmark.target)), None)
    if reached is None:
        best = max((e.accuracy for e in log.evaluations if is_number(e.accuracy)), default="none")
        find(rules.TARGET, log.evaluations[-1].line, f"best accuracy {best}", f"{benchmark.target:.3f} to pass")
    elif reached is not log.evaluations[-1]:
        find(
            rules.EVALUATION,
            log.evaluations[-1].line,
            f"an evaluation after the target was reached in line {reached.line}",
            "run_stop may follow at once; the RCP checker counts up to the last evaluation",
            NOTE,
        )
    points = [e for e in log.evaluations if is_number(e.epoch)]
    if benchmark.counts_samples:
        _judge_start(points, find)
        _judge_sample_cadence(log, [e for e in points if e.epoch > 0], find)
    else:
        _judge_epoch_cadence([e for e in points if e.epoch >= 1], find)


def _judge_accuracy(evaluation: Evaluation, find: Find) -> None:
    accuracy = evaluation.accuracy
    if not is_number(accuracy):
        find(rules.ACCURACY, evaluation.line, f"eval_accuracy {short(accuracy)}", "a number")
    elif not 0 <= accuracy < 1:
        hint = "a fraction from 0, below 1" + (", not per cent" if 1 < accuracy <= 100 else "")
        find(rules.ACCURACY, evaluation.line, f"eval_accuracy {accuracy:g}", hint)


def _judge_epoch(evaluation: Evaluation, benchmark: Benchmark | None, find: Find) -> None:
    epoch = evaluation.epoch
    if epoch is None:
        if benchmark is not None or evaluation.samples_count is None:
            rule = rules.REQUIRED if benchmark is None else rules.ACCURACY
            find(rule, evaluation.line, "eval_accuracy without metadata.epoch_num", "epoch_num")
    elif not is_number(epoch):
        find(rules.EPOCHS, evaluation.line, f"epoch_num {short(epoch)}", "a number")
    elif benchmark is not None and benchmark.counts_samples:
        if not is_whole(epoch) or epoch < 0:
            find(rules.EPOCHS, evaluation.line, f"epoch_num {epoch:.10g}", "a whole number of samples")
    elif benchmark is not None and epoch < 1:
        find(rules.EPOCHS, evaluation.line, f"eval_accuracy of epoch {epoch:.10g}", "epochs are numbered from 1")


def _distinct(points: list[Evaluation], find: Find) -> Iterator[Evaluation]:
    """The evaluations without repetitions of the previous epoch_num, which are reported."""
    last = None
    for point in points:
        if last is not None and point.epoch == last.epoch:
            same = point.accuracy == last.accuracy
            find(
                rules.ONCE,
                point.line,
                f"a second eval_accuracy of epoch_num {point.epoch:.10g}",
                "one",
                WARNING if same else ERROR,
            )
            continue
        last = point
        yield point


def _judge_epoch_cadence(points: list[Evaluation], find: Find) -> None:
    last = None
    for point in _distinct(points, find):
        if last is None and not (point.epoch <= 4 and is_whole(point.epoch)):
            find(rules.CADENCE, point.line, f"first evaluation after epoch {point.epoch:.10g}", "epoch 1, 2, 3 or 4")
        elif last is not None and point.epoch != last + 4:
            find(
                rules.CADENCE,
                point.line,
                f"evaluations after epochs {last:.10g} and {point.epoch:.10g}",
                f"every 4: {last + 4:.10g}",
            )
        last = point.epoch


def _judge_sample_cadence(log: Log, points: list[Evaluation], find: Find) -> None:
    """Checks each gap between evaluations against the interval.

    The rules allow rounding up to a batch, and packing makes batches uneven: gaps less than two batches off are
    accepted. Published closed results are off by up to 25,000 samples, one step of the formula's rounding; up to that
    a gap is a warning, beyond it an error.
    """
    batch = log.value("global_batch_size")
    if not is_whole(batch) or batch <= 0:
        return
    if points and all(point.epoch < batch for point in points):
        found = f"epoch_num {points[-1].epoch:.10g} of the last evaluation, less than a batch of {batch:.10g}"
        find(rules.CADENCE, points[-1].line, found, "the number of samples trained: BERT's epoch_num counts samples")
        return
    interval, last = rules.evaluation_interval("bert", batch), 0
    for point in _distinct(points, find):
        gap, last = point.epoch - last, point.epoch
        if abs(gap - interval) >= 2 * batch:
            severity = ERROR if abs(gap - interval) >= rules.ROUNDING + 2 * batch else WARNING
            find(
                rules.CADENCE,
                point.line,
                f"an evaluation after {gap:.10g} samples, {(gap - interval) / batch:+.1f} batches off",
                f"every {interval} samples at a batch of {batch:.10g}",
                severity,
            )


def _judge_start(points: list[Evaluation], find: Find) -> None:
    """Checks the first accuracy of BERT, which starts from a checkpoint of accuracy 0.34085."""
    first = points[0] if points else None
    if first is None or not is_number(first.accuracy):
        return
    start = rules.BERT_STARTING_ACCURACY
    if first.epoch == 0 and abs(first.accuracy - start) > 0.01:
        find(rules.STARTING_POINT, first.line, f"accuracy {first.accuracy:g} before training", f"about {start}")
    elif first.accuracy < start - 0.01:
        find(
            rules.STARTING_POINT,
            first.line,
            f"first accuracy {first.accuracy:g}",
            f"above {start}, the accuracy of the starting checkpoint",
        )
