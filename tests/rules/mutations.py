"""Mutations of a compliant MLPerf log: what each does to the lines, whether the rules forbid it, and why."""

from collections.abc import Callable
from dataclasses import dataclass

from rules.mlperf_logs import LAMB, LARS, SGD, TOKEN, decode, encode

Lines = list[str]
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


# How lines are changed


def key_of(line: str) -> str:
    return decode(line)["key"]


def drop(*keys: str) -> Callable[[Lines], Lines]:
    """Without the lines of these keys."""
    return lambda lines: [line for line in lines if key_of(line) not in keys]


def edit(key: str, change: Callable[[dict], object], nth: int | None = None) -> Callable[[Lines], Lines]:
    """With `change` done to the records of a key; `nth` counts them, from the end if negative."""

    def mutate(lines: Lines) -> Lines:
        at = [number for number, line in enumerate(lines) if key_of(line) == key]
        assert at, f"no line {key} to change"
        changed = list(lines)
        for number in at if nth is None else [at[nth]]:
            record = decode(lines[number])
            change(record)
            changed[number] = encode(record)
        return changed

    return mutate


def value(key: str, new: object, nth: int | None = None) -> Callable[[Lines], Lines]:
    """With another value."""
    return edit(key, lambda record: record.update(value=new), nth)


def metadata(key: str, nth: int | None = None, **new: object) -> Callable[[Lines], Lines]:
    """With other metadata."""
    return edit(key, lambda record: record["metadata"].update(new), nth)


def without_metadata(key: str, name: str) -> Callable[[Lines], Lines]:
    """Without one field of the metadata."""
    return edit(key, lambda record: record["metadata"].pop(name))


def later(key: str, by_ms: int, nth: int | None = None) -> Callable[[Lines], Lines]:
    """With another time on these lines alone."""
    return edit(key, lambda record: record.update(time_ms=record["time_ms"] + by_ms), nth)


def move(key: str, other: str, nth: int = 0) -> Callable[[Lines], Lines]:
    """With a line after the (first) line of another key, at that line's time."""

    def mutate(lines: Lines) -> Lines:
        at = [number for number, line in enumerate(lines) if key_of(line) == key][nth]
        rest = lines[:at] + lines[at + 1 :]
        to = next(number for number, line in enumerate(rest) if key_of(line) == other)
        moved = decode(lines[at]) | {"time_ms": decode(rest[to])["time_ms"]}
        return [*rest[: to + 1], encode(moved), *rest[to + 1 :]]

    return mutate


def again(key: str, by_ms: int = 0, **new: object) -> Callable[[Lines], Lines]:
    """With a line a second time at the end of the log, changed."""

    def mutate(lines: Lines) -> Lines:
        record = decode(next(line for line in lines if key_of(line) == key))
        time_ms = decode(lines[-1])["time_ms"] + by_ms
        return [*lines, encode(record | {"time_ms": time_ms} | new)]

    return mutate


def repeat(*keys: str) -> Callable[[Lines], Lines]:
    """With lines written twice, as two ranks do."""
    return lambda lines: [line for line in lines for _ in range(1 + (key_of(line) in keys))]


def insert_after(key: str, *new: str | dict) -> Callable[[Lines], Lines]:
    """With other lines, or records of the same time, after the first of a key."""

    def mutate(lines: Lines) -> Lines:
        at = next(number for number, line in enumerate(lines) if key_of(line) == key)
        time = {"time_ms": decode(lines[at])["time_ms"]}
        texts = [encode({**_RECORD, **time, **text}) if isinstance(text, dict) else text for text in new]
        return [*lines[: at + 1], *texts, *lines[at + 1 :]]

    return mutate


_RECORD = {"namespace": "", "event_type": "POINT_IN_TIME", "value": 1, "metadata": {"file": "x", "lineno": 1}}


def records(change: Callable[[dict], object]) -> Callable[[Lines], Lines]:
    """With `change` done to every record."""

    def mutate(lines: Lines) -> Lines:
        changed = [decode(line) for line in lines]
        for record in changed:
            change(record)
        return [encode(record) for record in changed]

    return mutate


def renumber(number: Callable[[float], float]) -> Callable[[Lines], Lines]:
    """With other numbers of the epochs (BERT: samples) of evaluations and blocks."""

    def change(record: dict) -> None:
        for name in ("epoch_num", "first_epoch_num"):
            if name in record["metadata"]:
                record["metadata"][name] = number(record["metadata"][name])

    return records(change)


def evaluations_at(*points: float) -> Callable[[Lines], Lines]:
    """With evaluations at these points, the last above the target, and one block around each."""

    def mutate(lines: Lines) -> Lines:
        of_run = [
            line for line in lines if key_of(line).startswith(("block", "eval_")) and key_of(line) != "eval_samples"
        ]
        start = next(number for number, line in enumerate(lines) if line is of_run[0])
        num = next(number for number, line in enumerate(of_run[1:], 1) if key_of(line) == "block_start")
        pattern, body, before = of_run[:num], [], 0
        for point in points:
            for line in pattern:
                record = decode(line) | {"time_ms": decode(of_run[0])["time_ms"] + 1000 * len(body)}
                for name, new in (
                    ("epoch_num", point),
                    ("first_epoch_num", before + 1),
                    ("epoch_count", point - before),
                ):
                    record["metadata"] |= {name: new} if name in record["metadata"] else {}
                if record["key"] == "eval_accuracy":
                    record["value"] = 0.77 if point == points[-1] else 0.5
                body.append(encode(record))
            before = point
        return [*lines[:start], *body, *(line for line in lines[start:] if line not in of_run)]

    return mutate


def pause_after(key: str, minutes: float) -> Callable[[Lines], Lines]:
    """With all that comes after the line of a key so much later."""

    def mutate(lines: Lines) -> Lines:
        at = next(number for number, line in enumerate(lines) if key_of(line) == key) + 1
        late = [decode(line) for line in lines[at:]]
        return lines[:at] + [encode(record | {"time_ms": record["time_ms"] + minutes * 60_000}) for record in late]

    return mutate


def seconds(record: dict) -> None:
    record["time_ms"] //= 1000


def then(*mutations: Callable[[Lines], Lines]) -> Callable[[Lines], Lines]:
    """One mutation after the other."""

    def mutate(lines: Lines) -> Lines:
        for mutation in mutations:
            lines = mutation(lines)
        return lines

    return mutate


def cut_record(lines: Lines) -> Lines:
    """The log of a machine that lost power while it wrote a line."""
    return [*lines[: len(lines) // 2], lines[len(lines) // 2][:60]]


def join_records(lines: Lines) -> Lines:
    """init_start and init_stop on one line, as two processes write without a newline."""
    at = next(number for number, line in enumerate(lines) if key_of(line) == "init_start")
    return [*lines[:at], lines[at] + lines[at + 1], *lines[at + 2 :]]


def blocks_to_epochs(lines: Lines) -> Lines:
    """epoch_start and epoch_stop where blocks were."""
    changed, epoch = [], 0
    for record in map(decode, lines):
        if record["key"].startswith("block"):
            epoch += record["key"] == "block_start"
            record["key"] = record["key"].replace("block", "epoch")
            record["metadata"] = {"file": "x", "lineno": 1, "epoch_num": epoch}
        changed.append(encode(record))
    return changed


def glue_token(lines: Lines) -> Lines:
    """:::MLLOG{ where a space should be."""
    return [line.replace(TOKEN, TOKEN.strip()) if key_of(line) == "init_start" else line for line in lines]


def second_accuracy(lines: Lines) -> Lines:
    """A second, lower accuracy of the last evaluation."""
    at = max(number for number, line in enumerate(lines) if key_of(line) == "eval_accuracy")
    return [*lines[: at + 1], encode(decode(lines[at]) | {"value": 0.4}), *lines[at + 1 :]]


def evaluations_last(lines: Lines) -> Lines:
    """Evaluations after all blocks, with the times of the checkpoints."""
    evaluated = [line for line in lines if key_of(line) in ("eval_start", "eval_accuracy", "eval_stop")]
    return [*(line for line in lines[:-1] if line not in evaluated), *evaluated, lines[-1]]


def swap_accuracy(lines: Lines) -> Lines:
    """eval_stop before eval_accuracy, at its time."""
    changed = list(lines)
    for number, line in enumerate(lines[:-1]):
        if key_of(line) == "eval_accuracy":
            changed[number], changed[number + 1] = changed[number + 1], changed[number]
    return changed


def drop_last_block_stop(lines: Lines) -> Lines:
    """A run that ended inside a block."""
    at = max(number for number, line in enumerate(lines) if key_of(line) == "block_stop")
    return lines[:at] + lines[at + 1 :]


# The table

MUTATIONS: list[Mutation] = []


def forbid(name: str, why: str, mutate: Callable[[Lines], Lines], on: tuple[str, ...] = ALL) -> None:
    MUTATIONS.append(Mutation(name, True, why, mutate, on))


def allow(name: str, why: str, mutate: Callable[[Lines], Lines], on: tuple[str, ...] = ALL) -> None:
    MUTATIONS.append(Mutation(name, False, why, mutate, on))


_ONE = "the checker wants one"
for _key in (
    *("submission_benchmark", "submission_org", "submission_platform", "submission_division", "submission_status"),
    *("cache_clear", "init_start", "init_stop", "run_start", "run_stop", "eval_accuracy"),
    *("train_samples", "eval_samples", "global_batch_size", "gradient_accumulation_steps"),
):
    forbid(f"no {_key}", _ONE, drop(_key))
forbid("no blocks", "training must be in blocks or epochs", drop("block_start", "block_stop"))
forbid("no seed", "the package checker wants one of each run", drop("seed"))
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
forbid("run_stop before run_start in time", "time goes on", later("run_stop", -(10**8)))
forbid("clock back by a minute", "time goes on", later("block_start", -60_000, nth=2))
forbid("times in seconds", "milliseconds", records(seconds))
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
forbid("epoch_num counts epochs", "of BERT it counts samples", evaluations_at(*range(1, 17)), ("bert",))
forbid("half a sample", "a whole number", metadata("eval_accuracy", epoch_num=150_080.5, nth=0), ("bert",))

forbid("end rate 0", "0.0001", value("lars_opt_end_learning_rate", 0.0), ("resnet-lars",))
forbid("power 1", "2", value("lars_opt_learning_rate_decay_poly_power", 1), ("resnet-lars",))
forbid("epsilon 1e-6", "0", value("lars_epsilon", 1e-6), ("resnet-lars",))
forbid("weight decay 0.0003", "0.0001 x 2^N", value("lars_opt_weight_decay", 0.0003), ("resnet-lars",))
forbid("weight decay 0", "0.0001 x 2^N", value("lars_opt_weight_decay", 0), ("resnet-lars",))
forbid("momentum 0.95", "0.9 below a batch of 32k", value("lars_opt_momentum", 0.95), ("resnet-lars",))
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
_OTHER = "keys that no rule is about"
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
allow("no warm-up", "from 0", value("opt_learning_rate_warmup_epochs", 0), ("resnet-sgd",))
allow("train_samples to converge", "the rules allow it", value("train_samples", 2_550_016), ("bert",))
allow("no opt_epsilon", "the checker knows opt_lamb_epsilon", drop("opt_epsilon"), ("bert",))
allow("warm-up from step -100", "unconstrained", value("start_warmup_step", -100.0), ("bert",))
allow(
    "evaluations a batch early", "packed batches differ", evaluations_at(*range(149_632, 2_500_000, 149_632)), ("bert",)
)
