"""Compliant logs of MLPerf's benchmarks that have no book here: the common rules judge them, and a note names the book.

Each is made as published logs of its benchmark are: losses above 1, epochs from 0 or in parts, samples instead of
epochs, two metrics, an epoch that ends behind run_stop. The official checker of the round accepts them.
"""

import pytest
from rules.changes import drop, edit, key_of, later, move, value
from rules.mlperf_logs import compliant, decode, encode, official

from airank_fast.record.lines import Lines
from airank_fast.rules.findings import ERROR, NOTE, WARNING
from airank_fast.rules.mlperf import order
from airank_fast.rules.mlperf.result import check_set
from airank_fast.rules.mlperf.rules import BENCHMARKS, NUM_LOGS, OTHER_ROUNDS, WORDS

FACTS = {  # what closed_<benchmark>.yaml of ruleset 4.0.0 requires
    "dlrm_dcnv2": {
        "opt_name": "adagrad",
        "opt_base_learning_rate": 0.0034,
        "opt_adagrad_learning_rate_decay": 0,
        "opt_weight_decay": 0,
        "opt_adagrad_initial_accumulator_value": 0,
        "opt_adagrad_epsilon": 1e-8,
        "opt_learning_rate_warmup_steps": 0,
        "opt_learning_rate_decay_start_step": 0,
        "opt_learning_rate_decay_steps": 0,
        "eval_samples": 89137319,
    },
    "gnn": {"opt_name": "adam", "opt_base_learning_rate": 0.002},
    "gpt3": {
        "max_sequence_length": 2048,
        "opt_name": "adam",
        "opt_base_learning_rate": 2e-5,
        "opt_end_learning_rate": 2e-6,
        "opt_learning_rate_decay_steps": 108600,
        "opt_learning_rate_warmup_steps": 265,
        "opt_learning_rate_decay_schedule": "cosine with linear warmup",
        "opt_adam_beta_1": 0.9,
        "opt_adam_beta_2": 0.95,
        "opt_adam_epsilon": 1e-8,
        "opt_gradient_clip_norm": 1.0,
        "init_checkpoint_step": 4000,
    },
    "llama2_70b_lora": {
        "opt_base_learning_rate": 4e-4,
        "lora_alpha": 32,
        "opt_learning_rate_training_steps": 1024,
        "opt_gradient_clip_norm": 0.3,
        "opt_adamw_weight_decay": 1e-4,
        "lora_rank": 16,
    },
    "ssd": {
        "opt_name": "adam",
        "opt_base_learning_rate": 1e-4,
        "opt_weight_decay": 0,
        "opt_learning_rate_warmup_epochs": 1,
        "opt_learning_rate_warmup_factor": 0.001,
    },
    "stable_diffusion": {
        "opt_name": "adamw",
        "opt_adamw_beta_1": 0.9,
        "opt_adamw_beta_2": 0.999,
        "opt_adamw_epsilon": 1e-8,
        "opt_adamw_weight_decay": 0.01,
        "opt_base_learning_rate": 1e-4,
        "opt_learning_rate_warmup_steps": 1000,
    },
    "unet3d": {
        "opt_name": "sgd",
        "opt_base_learning_rate": 2.0,
        "opt_learning_rate_warmup_epochs": 1000,
        "opt_learning_rate_decay_boundary_epochs": [],
        "opt_learning_rate_decay_factor": 1,
        "opt_weight_decay": 0,
        "train_samples": 168,
        "eval_samples": 42,
        "opt_momentum": 0.9,
        "oversampling": 0.4,
        "training_input_shape": [128, 128, 128],
        "validation_input_shape": [128, 128, 128],
        "validation_overlap": 0.5,
    },
    "maskrcnn": {},  # of earlier rounds; ruleset 4.0.0 has their names alone
    "rnnt": {},
}
OF_ROUND_4_0 = [name for name, facts in FACTS.items() if facts]
ACCURACIES = {
    "dlrm_dcnv2": [0.79, 0.8031],
    "gnn": [0.71, 0.7205],
    "gpt3": [2.75, 2.689],
    "llama2_70b_lora": [1.017, 0.9247],
    "ssd": [0.31, 0.341],
    "stable_diffusion": [135.2, 0.1, 88.1, 0.16],
    "unet3d": [0.9, 0.909],
    "maskrcnn": [{"BBOX": 0.3, "SEGM": 0.3}, {"BBOX": 0.38, "SEGM": 0.342}],
    "rnnt": [4.07, 0.057],
}
NUMBERED = {"dlrm_dcnv2": 0.05, "gnn": 0.05, "gpt3": 0, "ssd": 0, "maskrcnn": 1, "rnnt": 1, "unet3d": 1000}


def log_of(name, seed=7):
    """The lines of a compliant run of a benchmark."""
    lines = drop(*(key for key in map(key_of, compliant("resnet-sgd")) if "opt_" in key or key == "model_bn_span"))(
        value("submission_benchmark", name)(compliant("resnet-sgd", seed=seed, points=[(1, 0.1), (2, 0.2)]))
    )
    metrics = ("FID", "CLIP") if name == "stable_diffusion" else (None,)
    made, accuracies = [], iter(ACCURACIES[name])
    for line in lines:
        record = decode(line)
        key, metadata = record["key"], record["metadata"]
        if key in FACTS[name]:
            record["value"] = FACTS[name][key]
        for field in ("epoch_num", "first_epoch_num"):
            if field in metadata and name in NUMBERED:
                metadata[field] = NUMBERED[name]
            elif field in metadata:
                del metadata[field]
                metadata.pop("epoch_count", None)
                metadata["samples_count"] = 1000
        if key != "eval_accuracy":
            made.append(encode(record))
            continue
        for metric in metrics:
            more = {} if metric is None else {"metric": metric, "samples_count": 512_000 + len(made)}
            if metric == "CLIP":
                more["samples_count"] = decode(made[-1])["metadata"]["samples_count"]
            made.append(encode(record | {"value": next(accuracies), "metadata": metadata | more}))
    at = next(number for number, line in enumerate(made) if key_of(line) == "submission_org")
    present = {key_of(line) for line in made}
    facts = [
        encode(decode(made[at]) | {"key": key, "value": fact})
        for key, fact in FACTS[name].items()
        if key not in present
    ]
    return [*made[: at + 1], *facts, *made[at + 1 :]]


def judged(path, lines):
    path.write_text("".join(line + "\n" for line in lines))
    return list(order.check(Lines(path)))


@pytest.mark.parametrize("name", FACTS)
def test_a_compliant_log_gets_a_note_that_names_the_book(tmp_path, name):
    lines = log_of(name)
    found = judged(tmp_path / "log", lines)
    notes = [finding for finding in found if finding.rule == "mlperf.division"]
    assert [finding.severity for finding in notes] == [NOTE]
    assert f"{name} has no book here" in notes[0].required
    assert {finding.rule for finding in found if finding.severity != NOTE} <= {"mlperf.intervals"}
    assert ERROR not in {finding.severity for finding in found}
    if name in OF_ROUND_4_0:
        assert official(tmp_path / "log") == "passes"


def test_an_epoch_that_ends_behind_run_stop_and_an_evaluation_of_a_checkpoint_later(tmp_path):
    for name, mutate in (
        ("ssd", move("block_stop", "run_stop", nth=-1)),
        ("stable_diffusion", move("eval_accuracy", "run_stop", nth=-1)),
    ):
        assert ERROR not in {finding.severity for finding in judged(tmp_path / "log", mutate(log_of(name)))}


@pytest.mark.parametrize("name", ["retinanet", "rgat", "llama31_405b", "flux1", "minigo"])
def test_a_benchmark_of_another_round(tmp_path, name):
    """Later rounds' logs do without organization, platform and status."""
    lines = value("submission_benchmark", name)(log_of("ssd"))
    found = judged(tmp_path / "log", drop("submission_org", "submission_platform", "submission_status")(lines))
    assert [finding.rule for finding in found if finding.severity != NOTE] == []
    assert any("MLPerf training" in finding.found and name in finding.required for finding in found)


def test_minigo_has_no_data_set(tmp_path):
    """closed_minigo.yaml of 2.1.0 does not require them."""
    lines = drop("train_samples", "eval_samples")(value("submission_benchmark", "minigo")(log_of("ssd")))
    assert ERROR not in {finding.severity for finding in judged(tmp_path / "log", lines)}


def test_times_that_run_back_are_a_question_where_the_book_is_missing(tmp_path):
    """Published logs of dlrm end their epochs 7 s before the line that comes before."""
    lines = later("block_stop", -70_000, nth=1)(log_of("dlrm_dcnv2"))
    found = [finding for finding in judged(tmp_path / "log", lines) if finding.rule == "mlperf.time_order"]
    assert [finding.severity for finding in found] == [WARNING]


@pytest.mark.parametrize(
    ("mutate", "rule"),
    [
        (drop("run_stop"), "required"),
        (drop("submission_org"), "required"),
        (value("cache_clear", False), "cache_clear"),
        (edit("run_start", lambda record: record.update(time_ms=5)), "time_unit"),
        (move("init_stop", "run_start"), "event_order"),
        (move("run_start", "block_start"), "event_order"),
        (edit("block_start", lambda record: record.update(metadata={})), "intervals"),
        (edit("eval_accuracy", lambda record: record.update(metadata={})), "required"),
        (edit("run_stop", lambda record: record["metadata"].pop("status")), "status"),
    ],
)
def test_the_common_rules_hold_for_them_too(tmp_path, mutate, rule):
    found = judged(tmp_path / "log", mutate(log_of("gpt3")))
    assert f"mlperf.{rule}" in {finding.rule for finding in found if finding.severity == ERROR}


def test_a_set_may_fail_as_often_as_its_benchmark_allows(tmp_path):
    for name, most, num in (("ssd", 1, 5), ("unet3d", 4, 40)):
        for failed in (most, most + 1):
            paths = [tmp_path / f"result_{k}.txt" for k in range(num)]
            for k, path in enumerate(paths):
                lines = log_of(name, seed=k)
                if k < failed:
                    lines = edit("run_stop", lambda record: record["metadata"].update(status="aborted"))(lines)
                path.write_text("".join(line + "\n" for line in lines))
            errors = {finding.rule for finding in check_set(paths) if finding.severity == ERROR}
            assert errors == (set() if failed == most else {"mlperf.converged", "mlperf.status"})
        assert "mlperf.num_runs" in {finding.rule for finding in check_set(paths[1:])}


def test_the_numbers_of_logs_are_those_of_the_official_package_checker():
    official_counts = pytest.importorskip("mlperf_logging.benchmark_meta").get_result_file_counts("training")
    assert official_counts == NUM_LOGS
    assert {name: benchmark.num_runs for name, benchmark in BENCHMARKS.items()}.items() <= NUM_LOGS.items()


def test_the_benchmarks_of_other_rounds_are_those_of_the_official_package_checker():
    meta = pytest.importorskip("mlperf_logging.benchmark_meta")
    rounds = meta._ALL_ALLOWED_BENCHMARKS["training"]
    assert {name for names in rounds.values() for name in names} <= set(WORDS["submission_benchmark"])
    for name, text in OTHER_ROUNDS.items():
        of = sorted((round_ for round_, names in rounds.items() if name in names), key=float)
        first, _, last = text.replace(" and later", " to 6.1").replace(" and ", " to ").partition(" to ")
        assert (of[0], of[-1]) == (first, last or first), name
