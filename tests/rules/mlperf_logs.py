"""Compliant MLPerf logs of made-up runs, written by our own writer: what mutations start from, and sets of them."""

import json

from airank_fast.record.formats.mlperf import MLPerfLog

TOKEN = ":::MLLOG "
LARS = {
    "opt_name": "lars",
    "lars_opt_base_learning_rate": 10.5,
    "lars_opt_end_learning_rate": 0.0001,
    "lars_opt_learning_rate_decay_poly_power": 2,
    "lars_opt_learning_rate_decay_steps": 14523,
    "lars_epsilon": 0,
    "lars_opt_learning_rate_warmup_epochs": 2,
    "lars_opt_momentum": 0.9,
    "lars_opt_weight_decay": 0.00005,
}
SGD = {
    "opt_name": "sgd",
    "sgd_opt_base_learning_rate": 6.4,
    "sgd_opt_end_learning_rate": 0.0001,
    "sgd_opt_learning_rate_decay_poly_power": 2,
    "sgd_opt_learning_rate_decay_steps": 14523,
    "sgd_opt_weight_decay": 0.0001,
    "sgd_opt_momentum": 0.9,
    "model_bn_span": 102,
    "opt_learning_rate_warmup_epochs": 2,
}
LAMB = {
    "opt_base_learning_rate": 0.000425,
    "opt_lamb_epsilon": 1e-6,
    "opt_epsilon": 1e-6,
    "opt_learning_rate_training_steps": 6700,
    "opt_learning_rate_warmup_steps": 0,
    "num_warmup_steps": 0,
    "start_warmup_step": 0,
    "opt_lamb_beta_1": 0.9,
    "opt_lamb_beta_2": 0.999,
    "opt_lamb_weight_decay_rate": 0.01,
}
REPORTED = {"resnet-lars": LARS, "resnet-sgd": SGD, "bert": LAMB}
SUBMISSION = {"org": "Example", "platform": "example-8", "division": "closed", "status": "onprem"}


def resnet_points(num_evaluations=9):
    """(epoch, accuracy) of each evaluation: after epochs 3, 7, 11 ..., the last above the target."""
    points = [(3 + 4 * k, 0.30 + 0.45 * k / num_evaluations) for k in range(num_evaluations)]
    return [*points[:-1], (points[-1][0], 0.7601)]


def bert_points(batch=448, num_evaluations=17):
    """(samples, accuracy) of each evaluation: every 150,000 samples, rounded up to batches."""
    points = [
        (-(-150_000 * k // batch) * batch, 0.45 + 0.26 * k / num_evaluations) for k in range(1, num_evaluations + 1)
    ]
    return [*points[:-1], (points[-1][0], 0.7203)]


def events(name, seed=7, points=None, minute_ms=60.0, **config):
    """The events of a run of `name` (resnet-lars, resnet-sgd, bert)."""
    bert = name == "bert"
    t, happened = 1_700_000_000.0 + 100_000 * seed, []  # one run at a time

    def happens(kind, after_s=0.01, **fields):
        nonlocal t
        t += after_s
        happened.append({"t": round(t, 3), "kind": kind, **fields})

    happens(
        "run_config",
        benchmark="bert_large" if bert else "resnet50",
        seed=seed,
        submission=SUBMISSION,
        reported=REPORTED[name],
        gradient_accumulation_steps=1,
        **{"global_batch_size": 448 if bert else 3264, **config},
    )
    happens("cache_clear", value=True)
    happens("init_start")
    happens("init_stop", after_s=300)
    happens("run_start")
    happens("data", train_samples=156_725_653 if bert else 1_281_167, eval_samples=10_000 if bert else 50_000)
    done = 0
    for at, accuracy in points or (bert_points() if bert else resnet_points()):
        where = {"step": at, "samples": at, "epoch": at}
        first = {} if bert else {"first_epoch": done + 1, "epoch_count": at - done}
        happens("block_start", step=done, samples=done, **first)
        happens("block_stop", after_s=minute_ms, **where)
        happens("eval_start", **where)
        happens("eval_stop", after_s=2, accuracy=accuracy, **where)
        done = at
    happens("run_stop", status="success")
    return happened


def compliant(name, **options):
    """The lines of a log that every checker accepts."""
    log = MLPerfLog()
    return [line for event in events(name, **options) for line in log.feed(event)]


def decode(line):
    """The record of a line."""
    return json.loads(line.partition(TOKEN)[2])


def encode(record):
    """The line of a record."""
    return TOKEN + json.dumps(record)


def official(path):
    """The verdict of the official compliance checker on a log: passes, refuses or crashes."""
    from mlperf_logging.compliance_checker import mlp_compliance

    mlp_compliance.enqueued_configs.clear()  # what a crash before left behind
    checker = mlp_compliance.make_checker("training", "4.0.0", quiet=False, werror=False)
    try:
        valid, *_ = mlp_compliance.main(str(path), "training_4.0.0/common.yaml", checker)
    except Exception:
        return "crashes"
    return "passes" if valid else "refuses"
