"""Mutations of a compliant MLPerf log: what each does to the lines, whether the rules forbid it, and why."""

from collections.abc import Callable
from dataclasses import dataclass

from rules.changes import (
    Lines,
    again,
    blocks_to_epochs,
    cut_record,
    drop,
    drop_last_block_stop,
    edit,
    evaluations_at,
    evaluations_last,
    glue_token,
    insert_after,
    join_records,
    later,
    metadata,
    move,
    pause_after,
    records,
    renumber,
    repeat,
    second_accuracy,
    seconds,
    swap_accuracy,
    then,
    value,
    without_metadata,
    written_late,
)
from rules.mlperf_logs import LAMB, LARS, SGD, TOKEN

RESNET = ("resnet-lars", "resnet-sgd")
ALL = (*RESNET, "bert")
HYPER_PARAMETERS = {"resnet-lars": LARS, "resnet-sgd": SGD, "bert": LAMB}


@dataclass(frozen=True)
class Mutation:
    """`mutate` gives the changed lines; `on` names the logs (see mlperf_logs) that it fits."""

    name: str
    forbidden: bool
    why: str
    mutate: Callable[[Lines], Lines]
    on: tuple[str, ...] = ALL


# The table

MUTATIONS: list[Mutation] = []


def forbid(name: str, why: str, mutate: Callable[[Lines], Lines], on: tuple[str, ...] = ALL) -> None:
    MUTATIONS.append(Mutation(name, True, why, mutate, on))


def allow(name: str, why: str, mutate: Callable[[Lines], Lines], on: tuple[str, ...] = ALL) -> None:
    MUTATIONS.append(Mutation(name, False, why, mutate, on))


_ONE = "the checker requires one"
for _key in (
    *("submission_benchmark", "submission_org", "submission_platform", "submission_division", "submission_status"),
    *("cache_clear", "init_start", "init_stop", "run_start", "run_stop", "eval_accuracy"),
    *("train_samples", "eval_samples", "global_batch_size", "gradient_accumulation_steps"),
):
    forbid(f"no {_key}", _ONE, drop(_key))
forbid("no blocks", "training must be in blocks or epochs", drop("block_start", "block_stop"))
for _name, _keys in HYPER_PARAMETERS.items():
    for _key in _keys:
        if _key != "opt_epsilon":
            forbid(f"no {_key}", _ONE, drop(_key), (_name,))

_START = "the checker's common rules"
forbid("org is empty", _START, value("submission_org", ""))
forbid("status is 'done'", _START, value("submission_status", "done"))
forbid("division is 'Closed'", _START, value("submission_division", "Closed"))
forbid("benchmark is 'resnet50'", _START, value("submission_benchmark", "resnet50"))
forbid(
    "division after init_stop",
    "the checker takes the limit of the initialization from it",
    move("submission_division", "init_stop"),
)
forbid("batch is 0", "above 0", value("global_batch_size", 0))
forbid("batch is true", "a number", value("global_batch_size", True))
forbid("batch is 3264.5", "a whole number", value("global_batch_size", 3264.5))
forbid("two batches", "one value", again("global_batch_size", value=512))
forbid("accumulation steps is a string", "a number", value("gradient_accumulation_steps", "1"))
forbid("train_samples is 5", "the data set is given; BERT's is larger than what was trained", value("train_samples", 5))
forbid("eval_samples is 100", "all of them must be evaluated", value("eval_samples", 100))
forbid("cache_clear is false", "caches must be flushed", value("cache_clear", False))
forbid("cache_clear after run_start", "before the run", move("cache_clear", "run_start"))
forbid("seed is a string", "an integer", value("seed", "one"))
forbid("seed is 0.5", "an integer", value("seed", 0.5))
forbid("seed without file", "the seed checker reads it", without_metadata("seed", "file"))

forbid("initialization of 31 min", "less than 30", pause_after("init_start", 26))
forbid("31 min from init_start to run_start", "after 30 the clock must run", pause_after("init_stop", 26))
forbid("init_stop before init_start", "order", move("init_start", "init_stop"))
forbid("init_stop after run_start", "order", move("init_stop", "run_start"))
forbid("block before run_start", "training is timed", move("run_start", "block_start"))
forbid("run_start twice", "the clock may not be paused", repeat("run_start"))
forbid("run_stop twice", "the clock may not be paused", again("run_stop", by_ms=600_000))
forbid("run_stop before run_start in time", "times that do not run backwards", later("run_stop", -(10**8)))
forbid("clock back by a minute", "times that do not run backwards", later("block_start", -60_000, nth=2))
forbid("times in seconds", "milliseconds", records(seconds))
forbid("run_start at time 0", "the clock", edit("run_start", lambda r: r.update(time_ms=0)))
forbid("block at time 0", "inside the clock", edit("block_start", lambda r: r.update(time_ms=0), nth=1))
forbid("run_stop without status", _START, without_metadata("run_stop", "status"))
forbid("run_stop aborted", "no result, although the target was reached", metadata("run_stop", status="aborted"))
forbid("run_stop 'completed'", "success or aborted", metadata("run_stop", status="completed"))
forbid("accuracy after run_stop", "success only after the target", move("eval_accuracy", "run_stop", nth=-1))
forbid("block after run_stop", "training is timed", again("block_start"))

forbid("target missed", "0.759, 0.720", value("eval_accuracy", 0.71, nth=-1))
forbid("accuracy in per cent", "a fraction", edit("eval_accuracy", lambda r: r.update(value=100 * r["value"])))
forbid("an early accuracy in per cent", "a fraction", value("eval_accuracy", 41.0, nth=1))
forbid("a negative accuracy", "a fraction", value("eval_accuracy", -0.1, nth=1))
forbid("last accuracy NaN", "a number", value("eval_accuracy", float("nan"), nth=-1))
forbid("an early accuracy NaN", "a number", value("eval_accuracy", float("nan"), nth=1))
forbid("accuracy is a string", "a number", value("eval_accuracy", "0.77", nth=-1))
forbid("accuracy without epoch_num", _START, without_metadata("eval_accuracy", "epoch_num"))
forbid("accuracy of epoch 'last'", "a number", metadata("eval_accuracy", epoch_num="last", nth=-1))
forbid("two accuracies of an epoch", "one of them is not true", second_accuracy)
forbid("block without epoch count", _START, edit("block_start", lambda r: r.update(metadata={})))

forbid("evaluation every 5 epochs", "every 4", evaluations_at(3, 8, 13, 18, 23, 28, 33, 38), RESNET)
forbid("evaluation every 2 epochs", "every 4", evaluations_at(*range(2, 37, 2)), RESNET)
forbid("an evaluation left out", "every 4", evaluations_at(3, 7, 15, 19, 23, 27, 31, 35), RESNET)
forbid("first evaluation after epoch 7", "an offset of 0 to 3", evaluations_at(*range(7, 38, 4)), RESNET)
forbid("every epoch near the end", "every 4", evaluations_at(*range(3, 32, 4), 32, 33, 34, 35), RESNET)
forbid("epochs from 0", "from 1", renumber(lambda epoch: epoch - 1), RESNET)
forbid("evaluation every 25,000 samples", "every 150,000", evaluations_at(*range(25_088, 2_500_000, 25_088)), ("bert",))
forbid(
    "evaluation every 300,000 samples", "every 150,000", evaluations_at(*range(300_160, 2_600_000, 300_160)), ("bert",)
)
forbid(
    "first evaluation after 450,000 samples",
    "every 150,000",
    evaluations_at(*range(450_240, 2_600_000, 150_080)),
    ("bert",),
)
forbid(
    "evaluation every 180,000 samples", "every 150,000", evaluations_at(*range(180_096, 2_600_000, 180_096)), ("bert",)
)
forbid("epoch_num counts epochs", "of BERT it counts samples", evaluations_at(*range(1, 17)), ("bert",))
forbid("half a sample", "a whole number", metadata("eval_accuracy", epoch_num=150_080.5, nth=0), ("bert",))

forbid("end rate 0", "0.0001", value("lars_opt_end_learning_rate", 0.0), ("resnet-lars",))
forbid("power 1", "2", value("lars_opt_learning_rate_decay_poly_power", 1), ("resnet-lars",))
forbid("epsilon 1e-6", "0", value("lars_epsilon", 1e-6), ("resnet-lars",))
forbid("weight decay 0.0003", "0.0001 x 2^N", value("lars_opt_weight_decay", 0.0003), ("resnet-lars",))
forbid("weight decay 0", "0.0001 x 2^N", value("lars_opt_weight_decay", 0), ("resnet-lars",))
forbid("momentum 0.95", "0.9 below a batch of 32k", value("lars_opt_momentum", 0.95), ("resnet-lars",))
forbid(
    "momentum 0.95 at 31,744",
    "0.9 below a batch of 32k",
    then(value("lars_opt_momentum", 0.95), value("global_batch_size", 31_744)),
    ("resnet-lars",),
)
forbid("rate NaN", "a number", value("lars_opt_base_learning_rate", float("nan")), ("resnet-lars",))
forbid("rate is a string", "a number", value("lars_opt_base_learning_rate", "10.5"), ("resnet-lars",))
forbid("opt_name adam", "lars or sgd", value("opt_name", "adam"), RESNET)
forbid("rate 6.4005", "0.001 k", value("sgd_opt_base_learning_rate", 6.4005), ("resnet-sgd",))
forbid("end rate 0", "0.0001", value("sgd_opt_end_learning_rate", 0.0), ("resnet-sgd",))
forbid("power 1", "2", value("sgd_opt_learning_rate_decay_poly_power", 1), ("resnet-sgd",))
forbid("momentum 0.1", "0.9", value("sgd_opt_momentum", 0.1), ("resnet-sgd",))
forbid("weight decay 0.0003", "0.0001 x 2^N", value("sgd_opt_weight_decay", 0.0003), ("resnet-sgd",))
forbid("decay steps -1", "from 0", value("sgd_opt_learning_rate_decay_steps", -1), ("resnet-sgd",))
forbid("warm-up 2.5 epochs", "a whole number", value("opt_learning_rate_warmup_epochs", 2.5), ("resnet-sgd",))
forbid("rate NaN", "a number", value("opt_base_learning_rate", float("nan")), ("bert",))
forbid("rate is a string", "a number", value("opt_base_learning_rate", "4e-4"), ("bert",))
forbid("training steps null", "a number", value("opt_learning_rate_training_steps", None), ("bert",))
forbid("two epsilons", "one value", again("opt_lamb_epsilon", value=1e-8), ("bert",))
forbid("opt_name adamw", "lamb", insert_after("seed", {"key": "opt_name", "value": "adamw"}), ("bert",))

forbid("a record cut off", "the run has no end", cut_record)
forbid("a record that is no JSON", "the parser refuses it", insert_after("init_stop", f"{TOKEN}{{oops"))
forbid("two records on a line", "the parser loses the first", join_records)
forbid("no space after :::MLLOG", "the parser passes it over", glue_token)
forbid("no metadata", "the parser needs it", edit("run_start", lambda record: record.pop("metadata")))
forbid("no time", "the parser needs it", edit("run_start", lambda record: record.pop("time_ms")))
forbid("time is a string", "a number", edit("run_start", lambda record: record.update(time_ms=str(record["time_ms"]))))
forbid("nothing", "a log", lambda lines: [f"{TOKEN}"])

allow("unchanged", "compliant", lambda lines: lines)
allow("CRLF", "lines may end so", lambda lines: [f"{line}\r" for line in lines])
allow("a byte order mark", "it is before the first line", lambda lines: ["\ufeff" + lines[0], *lines[1:]])
allow(
    "amid other output",
    "only :::MLLOG is read",
    lambda lines: [text for line in lines for text in ("step 1", f"0: {line}")],
)
allow("progress bar after a record", "a carriage return ends a line", lambda lines: [f"{line}\r 5%" for line in lines])
allow("no newline at the end", "the last record is whole", lambda lines: ["\n".join(lines)])
_OTHER = "keys without a rule"
allow("tracked_stats", _OTHER, insert_after("run_start", {"key": "tracked_stats", "value": {"throughput": 5.0}}))
allow("a key of their own", _OTHER, insert_after("run_start", {"key": "d_batch_size"}))
allow(
    "configuration by two ranks",
    "the same values",
    repeat("global_batch_size", "train_samples", "submission_org", "seed"),
)
allow("two caches cleared", "on two nodes", repeat("cache_clear"))
allow("initialization of two ranks", "from the first on", repeat("init_start"))
allow("clock back by 3 ms", "lines of two processes", later("eval_start", -13, nth=2))
allow("checkpoints evaluated later", "BERT's reference does so", evaluations_last, ("bert",))
allow("preview", "a status", value("submission_status", "preview"))
allow("accuracy after eval_stop", "still while the clock runs", swap_accuracy)
allow("no eval_start", "the checker is content with blocks", drop("eval_start", "eval_stop"))
allow("last block left open", "a run may end inside it", drop_last_block_stop)
allow("epochs for blocks", "one of the two", blocks_to_epochs)
allow("offset 0", "0 to 3", evaluations_at(*range(4, 37, 4)), RESNET)
allow("offset 1", "0 to 3", evaluations_at(*range(1, 38, 4)), RESNET)
allow("weight decay 0.0002", "0.0001 x 2^1", value("lars_opt_weight_decay", 0.0002), ("resnet-lars",))
allow(
    "momentum 0.94 at 32k",
    "free from there on",
    then(value("lars_opt_momentum", 0.94), value("global_batch_size", 32768)),
    ("resnet-lars",),
)
allow(
    "momentum 0.95 at 32,256",
    "32k is 32,000",
    then(value("lars_opt_momentum", 0.95), value("global_batch_size", 32_256)),
    ("resnet-lars",),
)
allow("no seed", "the training rules require one from the 4.1 round on", drop("seed"))
allow("cache_clear is null", "the line states the event", value("cache_clear", None))
allow("cache_clear is 'True'", "the line states the event", value("cache_clear", "True"))
allow(
    "cache_clear at time 0",
    "outside the clock, a shell script wrote it",
    edit("cache_clear", lambda r: r.update(time_ms=0)),
)
allow("cache_clear written late", "another process cleared it in time", written_late("cache_clear", "run_start"))
allow("50,016 evaluated", "'at least as thoroughly': whole batches", value("eval_samples", 50_016), RESNET)
allow("10,240 evaluated", "'at least as thoroughly': whole batches", value("eval_samples", 10_240), ("bert",))
allow("no warm-up", "from 0", value("opt_learning_rate_warmup_epochs", 0), ("resnet-sgd",))
allow("train_samples to converge", "the rules allow it", value("train_samples", 2_550_016), ("bert",))
allow("no opt_epsilon", "the checker reads opt_lamb_epsilon", drop("opt_epsilon"), ("bert",))
allow("warm-up from step -100", "unconstrained", value("start_warmup_step", -100.0), ("bert",))
allow(
    "evaluations a batch early", "packed batches differ", evaluations_at(*range(149_632, 2_500_000, 149_632)), ("bert",)
)
_PUBLISHED = "published results are off by up to a step of the interval's rounding"
allow(
    "first evaluation nine batches late",
    _PUBLISHED,
    evaluations_at(*range(154_048, 2_500_000, 150_080)),
    ("bert",),
)
allow("evaluation every 175,000 samples", _PUBLISHED, evaluations_at(*range(175_168, 2_600_000, 175_168)), ("bert",))
allow(
    "opt_name LAMB",
    "BERT's checker does not look at it",
    insert_after("submission_org", {"key": "opt_name", "value": "LAMB"}),
    ("bert",),
)
