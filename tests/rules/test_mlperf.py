"""The book of one MLPerf log: where findings point, files in any state, other divisions, and no traceback."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rules.changes import edit, evaluations_at, key_of, pause_after, value
from rules.mlperf_logs import TOKEN, compliant, decode, encode

from airank_fast.errors import UserError
from airank_fast.record.formats.mlperf import parse
from airank_fast.record.lines import Lines
from airank_fast.rules.findings import ERROR, NOTE, SEVERITIES
from airank_fast.rules.mlperf import order
from airank_fast.rules.mlperf import rules as mlperf_rules
from airank_fast.rules.verifying import verify


def check(path, lines):
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return list(order.check(Lines(path)))


@pytest.mark.parametrize("key", ["global_batch_size", "eval_samples", "cache_clear", "lars_opt_momentum", "seed"])
def test_a_finding_points_at_its_line(tmp_path, key):
    lines = ["other output", *value(key, "x")(compliant("resnet-lars"))]
    (finding,) = check(tmp_path / "log", lines)
    assert key_of(lines[finding.line - 1]) == key
    assert key in finding.found
    assert "'x'" in finding.found
    assert str(finding).startswith(f"{tmp_path / 'log'}:{finding.line}: error: ")


def test_findings_come_in_the_order_of_lines(tmp_path):
    lines = [line for line in compliant("bert") if key_of(line) != "seed"]
    lines = edit("eval_accuracy", lambda record: record.update(value=7), nth=1)(value("eval_samples", 1)(lines))
    findings = check(tmp_path / "log", lines)
    assert [finding.line is None for finding in findings] == [False, False, True]
    assert findings[0].line < findings[1].line


def test_many_alike_are_counted(tmp_path):
    findings = check(tmp_path / "log", [*compliant("bert"), *[f"{TOKEN}{{"] * 1000])
    assert len(findings) == 11
    assert findings[-1].found.endswith("and 989 more like it")


@pytest.mark.parametrize(
    ("change", "rules"),
    [
        (lambda text: text.encode("utf-16"), {"mlperf.encoding"}),
        (lambda text: text.encode("utf-8-sig"), set()),
        (lambda text: text.replace("\n", "\r\n").encode(), set()),
        (lambda text: b"\xe4\n" + text.encode(), set()),
        (lambda text: b"\0" * 4096 + b"\n" + text.encode(), set()),
        (lambda text: text.encode() + b"x" * (3 << 20), set()),
        (lambda text: text.encode()[:-1], set()),
        (lambda text: text.encode()[:-30], {"mlperf.record", "mlperf.required"}),
        (lambda text: text.encode()[1:], set()),
        (lambda text: text.encode()[9:], {"mlperf.required"}),
    ],
)
def test_files_in_any_state(tmp_path, change, rules):
    path = tmp_path / "log"
    path.write_bytes(change("".join(line + "\n" for line in ["", *compliant("resnet-sgd")])))
    assert {finding.rule for finding in order.check(Lines(path))} == rules


def test_the_open_division_is_judged_by_the_common_rules(tmp_path):
    lines = value("submission_division", "open")(value("eval_accuracy", 0.2)(compliant("resnet-lars")))
    findings = check(tmp_path / "log", [line for line in lines if key_of(line) != "lars_opt_momentum"])
    assert [(finding.rule, finding.severity) for finding in findings] == [("mlperf.division", NOTE)]
    assert check(tmp_path / "log", pause_after("init_start", 200)(lines)) == findings[:1]


def test_a_log_of_bert_that_counts_epochs_is_refused_once(tmp_path):
    """Logs of 1.0 count epochs and have two evaluations in one: one finding, not one for each."""
    lines = evaluations_at(1, 2, 3)(compliant("bert"))
    twice = [again for line in lines for again in [line] * (1 + (key_of(line) == "eval_accuracy"))]
    found = [finding for finding in check(tmp_path / "log", twice) if finding.severity == ERROR]
    assert [finding.rule for finding in found] == ["mlperf.evaluation_cadence"]
    assert "BERT's epoch_num counts samples" in found[0].required


def test_other_benchmarks_are_judged_by_the_common_rules(tmp_path):
    findings = check(tmp_path / "log", value("submission_benchmark", "ssd")(compliant("resnet-lars")))
    assert [(finding.rule, finding.severity) for finding in findings] == [("mlperf.division", NOTE)]


def test_what_a_set_is_judged_by(tmp_path):
    path = tmp_path / "result_0.txt"
    path.write_text("\n".join(compliant("bert", seed=5)))
    log = order.read(path)
    assert (log.benchmark.name, log.status, log.converged_at) == ("bert", "success", 2_550_016)
    times = {key_of(line): decode(line)["time_ms"] for line in compliant("bert")}
    assert log.minutes == pytest.approx((times["run_stop"] - times["run_start"]) / 60_000)
    assert [seed for seed, _, _ in log.seeds] == [5]


def test_verify_recognises_the_format(tmp_path):
    path = tmp_path / "log"
    path.write_text("\n".join(value("eval_samples", 1)(compliant("bert"))))
    assert "mlperf.sizes" in {finding.rule for finding in verify(path)}


def test_interval_of_bert():
    """training rules, Quality measure: floor(0.05 (230.23 GBS + 3,000,000)) to 25,000."""
    intervals = {1: 150_000, 448: 150_000, 3072: 175_000, 4608: 200_000, 13_888: 300_000, 16_384: 325_000}
    assert {batch: mlperf_rules.evaluation_interval("bert", batch) for batch in intervals} == intervals


NUMBERS = st.integers() | st.floats() | st.sampled_from([0, 1, 3, 150_000, 1_700_000_000_000, 10**400])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=5) | st.sampled_from(["closed", "open", "bert", "resnet"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)
KEYS = sorted({key_of(line) for name in ("resnet-lars", "resnet-sgd", "bert") for line in compliant(name)})
FIELDS = st.sampled_from(["namespace", "time_ms", "event_type", "key", "value", "metadata"])
METADATA = st.dictionaries(
    st.sampled_from(["epoch_num", "first_epoch_num", "epoch_count", "samples_count", "status", "file", "lineno"]),
    VALUES,
)
EDITS = st.lists(
    st.tuples(st.integers(0, 200), st.just("set"), FIELDS, VALUES)
    | st.tuples(st.integers(0, 200), st.just("metadata"), st.just(None), METADATA)
    | st.tuples(st.integers(0, 200), st.just("key"), st.just(None), st.sampled_from(KEYS))
    | st.tuples(st.integers(0, 200), st.just("move"), st.just(None), st.integers(0, 200))
    | st.tuples(st.integers(0, 200), st.just("cut"), st.just(None), st.integers(0, 300)),
    max_size=8,
)


def apply(lines, edits):
    for number, kind, name, new in edits:
        number %= len(lines)
        if kind == "move":
            lines.insert(new % len(lines), lines.pop(number))
        elif kind == "cut":
            lines[number] = lines[number][:new]
        else:
            try:
                record = decode(lines[number])
            except ValueError:
                continue
            field = {"set": name, "metadata": "metadata", "key": "key"}[kind]
            lines[number] = encode({**record, field: new} if isinstance(record, dict) else record)
    return lines


@given(st.sampled_from(["resnet-lars", "resnet-sgd", "bert"]), EDITS, st.binary(max_size=30), st.integers(0, 20_000))
@settings(max_examples=300, deadline=None)
def test_no_input_raises(tmp_path_factory, name, edits, junk, at):
    path = tmp_path_factory.getbasetemp() / "fuzzed.txt"
    text = "\n".join(apply(compliant(name), edits)).encode()
    path.write_bytes(text[:at] + junk + text[at:])
    for finding in order.check(Lines(path)):
        assert finding.severity in SEVERITIES
        assert len(str(finding)) < 1000
        json.dumps(finding.to_json())
    try:
        for event in parse(Lines(path)):
            assert {"t", "kind"} <= event.keys()
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize("depth", [100, 900, 980, 990, 2000, 100_000])
@pytest.mark.parametrize("key", ["seed", "global_batch_size", "eval_accuracy", "cache_clear"])
def test_values_as_deep_as_can_be(tmp_path, key, depth):
    lines = compliant("resnet-lars")
    deep = "[" * depth + "]" * depth
    at = next(number for number, line in enumerate(lines) if key_of(line) == key)
    changed = lines[at].replace(f'"value": {json.dumps(decode(lines[at])["value"])}', f'"value": {deep}')
    assert ERROR in {
        finding.severity for finding in check(tmp_path / "log", [*lines[:at], changed, changed, *lines[at + 1 :]])
    }
