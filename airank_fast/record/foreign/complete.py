"""Fills in fields that another program's log omits but that follow from the fields it has.

With the samples of an epoch and the global batch size, an epoch is a number of samples and of steps; between two
evaluations lies a block of training; with its length an evaluation has a begin; a run that reached its target is a
success. Nothing else is added. The log is read twice, `Outline` first, then `complete`, so that only its evaluations
are held in memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise

from airank_fast import tasks
from airank_fast.errors import UserError
from airank_fast.numeric import is_float
from airank_fast.record.events import Event, dictionary
from airank_fast.record.metrics import goal, reaches
from airank_fast.tasks import Task, fraction

MIN_T, MAX_T = -6e10, 2.5e11  # unix seconds that are a date
# What a user may state of a run beside the fields of run_config; in a log, events carry it.
MOMENTS = ("init_s", "eval_s", "cache_clear")

_COUNTS = ("step", "samples", "epoch", "first_epoch", "epoch_count", "first_step", "num_steps", "correct", "counted")
_COUNTS += ("used_bytes", "total_bytes")
_LISTS = ("core_s", "wait_s", "h2d_s", "measure_s", "loss", "lr", "per_rank")
_POSITIVE = ("world_size", "global_batch_size", "gradient_accumulation_steps", "train_samples", "eval_samples")
_POSITIVE += ("samples_per_epoch",)
_WHOLE = {*_COUNTS, *_POSITIVE, "seed"}
REQUIRED = {  # what metrics.py reads of completed events
    "steps": ("first_step", "num_steps", "samples", "core_s"),
    "epoch_stop": ("epoch", "samples"),
    "eval_stop": ("accuracy",),
    "memory": ("used_bytes", "total_bytes"),
}
REQUIRED_OF_OURS = REQUIRED | {  # and of those that this project's recorder wrote
    "block_stop": ("step", "samples"),
    "epoch_stop": ("epoch", "step", "samples"),
    "eval_stop": ("epoch", "step", "samples", "accuracy"),
    "resume": ("step", "samples"),
}


def checked(event: Event, required: Mapping[str, tuple[str, ...]] | None = None) -> Event:
    """The event, when its fields have the types that figures are made from.

    `required` has the fields that a kind must have (REQUIRED, REQUIRED_OF_OURS); without it any may be missing.
    UserError with the kind, field and value.
    """
    event = with_whole_counts(event)
    kind = event["kind"]
    if not isinstance(kind, str):  # a kind called nan is read as the number
        raise UserError(f"an event: must be a kind that is a word, got {_short(kind)}")
    if not MIN_T < event["t"] < MAX_T:
        raise UserError(f"{kind}: must be a time that is a date, got {_short(event['t'])}")
    for name in (required or {}).get(kind, ()):
        if event.get(name) is None:
            raise UserError(f"{kind}: must have {name}, got none")
    for name, value in event.items():
        if value is None or name in ("t", "kind"):
            continue
        if name in _COUNTS and not (is_float(value) and abs(value) < 1 << 63):
            raise UserError(f"{kind}: {name} must be a number, got {_short(value)}")
        if name == "accuracy" and not is_float(value):
            raise UserError(f"{kind}: {name} must be a number, got {_short(value)}")
        if name in _LISTS and not (isinstance(value, list) and all(map(is_float, value))):
            raise UserError(f"{kind}: {name} must be a list of numbers, got {_short(value)}")
        if name.endswith("_s") and isinstance(value, list) and not all(abs(item) < MAX_T for item in value):
            raise UserError(f"{kind}: {name} must be a list of seconds, got {_short(value)}")
    if kind == "run_config":
        check_config(event)
    if kind == "run_stop" and event.get("status") not in (None, "success", "aborted"):
        return {**event, "status": "aborted", "detail": f"status {_short(event['status'])}"}
    return event


def with_whole_counts(event: Event) -> Event:
    """The event with its counts as whole numbers, also those that a log writes as 3001600.0."""
    floats = [name for name, value in event.items() if type(value) is float and name in _WHOLE]
    return event | {name: int(event[name]) for name in floats if event[name].is_integer()}


def check_config(config: dict) -> None:
    """UserError where a field of run_config has another type than figures are made from."""
    for name in _POSITIVE:
        value = config.get(name)
        if value is not None and not (type(value) is int and 0 < value < 1 << 53):
            raise UserError(f"{name}: must be a whole number above 0, got {_short(value)}")
    for name in ("target", "warmup_epochs_excluded"):
        if config.get(name) is not None and not is_float(config[name]):
            raise UserError(f"{name}: must be a number, got {_short(config[name])}")
    for name in ("submission", "reported", "options", "recipe"):
        if not isinstance(config.get(name) or {}, dict):
            raise UserError(f"{name}: must have names with values, got {_short(config[name])}")
    for name in ("benchmark", "unit", "precision"):
        if not isinstance(config.get(name) or "", str):
            raise UserError(f"{name}: must be a word, got {_short(config[name])}")
    if not isinstance(config.get("devices") or [], list):
        raise UserError(f"devices: must be a list of names, got {_short(config['devices'])}")


class Outline:
    """A first reading: the configuration, gathered from all over the log, and its evaluations.

    `given` holds fields of run_config, MOMENTS and `system` that the log may lack; the log's own come first.
    `counts_samples`: what the log calls epochs of BERT are samples (MLPerf).
    """

    def __init__(self, events: Iterable[Event], given: dict | None = None, counts_samples: bool = False):
        self.config: dict = {}
        self.kinds: set[str] = set()
        self.evaluations: list[Event] = []
        self.first_t: float | None = None
        self.run_start_t: float | None = None
        for event in map(checked, events):
            self.first_t = event["t"] if self.first_t is None else self.first_t
            self.kinds.add(event["kind"])
            if event["kind"] == "run_config":
                _merge(self.config, event)
            elif event["kind"] == "run_start" and self.run_start_t is None:
                self.run_start_t = event["t"]
            elif event["kind"] == "eval_stop":
                self.evaluations.append(event)
        given = dict(given or {})
        self.moments = {name: given.pop(name) for name in MOMENTS if name in given}
        self.system = given.pop("system", {})
        if given.get("benchmark") and tasks.of(self.config) is None:
            self.config.pop("benchmark", None)  # a name that no task has, such as that of a network
        _merge(self.config, with_whole_counts(given))
        check_config(self.config)
        task = tasks.of(self.config)
        if task is not None:
            self.config.setdefault("unit", task.unit)
        self.notes: list[str] = []  # how the log was read where it is not in the usual units
        self.counts_samples = counts_samples and task is not None and task.counted_in == "samples"
        self.counts_epochs = self.counts_samples and self._counts_epochs()
        self._set_unit()
        self.trained_samples = self._trained_samples(task) if self.counts_epochs else None
        self.evaluations = [self.place(event) for event in self.evaluations]

    def _set_unit(self) -> None:
        """Find accuracies, and a target, that are in per cent."""
        metric = tasks.headline(self.config)
        unstated = [event for event in self.evaluations if event.get("unit") == "unstated"]
        metric = tasks.Metric("accuracy") if unstated else metric  # a fraction, or that in per cent
        self.is_per_cent = metric.is_per_cent(event["accuracy"] for event in self.evaluations if "accuracy" in event)
        if unstated and not self.is_per_cent:
            got = f"got {unstated[0]['accuracy']:g} without a unit"
            raise UserError(f"accuracy: must be stated to be in percent or a fraction (--accuracy-unit), {got}")
        if self.is_per_cent:
            self.notes.append("accuracies above 1 are read as per cent, all of this log's; the rules require fractions")
        target = self.config.get("target")
        if target is not None and metric.is_per_cent([target]):
            self.config["target"] = fraction(target)
            self.notes.append(f"a target of {target:g} is read as per cent; the rules require a fraction")

    def _counts_epochs(self) -> bool:
        """Whether a log whose epoch_num must be samples counts epochs: it never comes to the samples of one step."""
        points = [event["epoch"] for event in self.evaluations if event.get("epoch") is not None]
        if any(event.get("samples", event.get("epoch")) != event.get("epoch") for event in self.evaluations):
            return False  # the samples stand beside it
        return 0 < max(points, default=0) < (self.config.get("global_batch_size") or 1000)

    def _trained_samples(self, task: Task) -> int | None:
        """The samples at the last evaluation of a log that counts epochs, where its train_samples are that; else None.

        mlperf-logging's RCP checker reads them so with --bert_train_samples. A train_samples that is the size of the
        data set is of no use: the log does not state at which part of it an evaluation was made.
        """
        trained, batch = self.config.get("train_samples"), self.config.get("global_batch_size") or 1
        is_trained = trained is not None and batch <= trained < (task.least_samples or math.inf)
        where = (
            f"train_samples, {trained:,}, are read as those trained"
            if is_trained
            else "the samples trained are not in the log"
        )
        self.notes.append(f"epoch_num counts epochs where the samples trained are required; {where}")
        return trained if is_trained else None

    def place(self, event: Event) -> Event:
        """The event with its samples, epoch and step where they follow, and its accuracy in the task's unit."""
        if self.is_per_cent and event["kind"] == "eval_stop":
            quality = {name: fraction(value) for name, value in dictionary(event.get("quality")).items()}
            event = {**event, "accuracy": fraction(event["accuracy"]), **({"quality": quality} if quality else {})}
            event.pop("unit", None)
        if self.counts_epochs:
            return {name: value for name, value in event.items() if name != "samples"}
        if self.counts_samples and event.get("epoch") is not None:
            samples = event.get("samples", event["epoch"])
            event = {**event, "samples": int(samples) if samples == int(samples) else samples, "epoch": None}
        batch = self.config.get("global_batch_size")
        per_epoch = self.config.get("samples_per_epoch") or self.config.get("train_samples")
        epoch, samples = event.get("epoch"), event.get("samples")
        if samples is None and epoch is not None and per_epoch:
            samples = round(epoch * per_epoch)
        elif samples is None and event.get("step") is not None and batch:
            samples = round(event["step"] * batch)
        elif epoch is None and samples is not None and per_epoch:
            epoch = int(samples // per_epoch)
        step = event.get("step")
        if step is None and samples is not None and batch:
            step = math.ceil(samples / batch)
        found = {"epoch": epoch, "samples": samples, "step": step}
        rest = {name: value for name, value in event.items() if name not in found}
        return rest | {name: value for name, value in found.items() if value is not None}

    def after_epochs(self, num_before: float, count: float) -> Event:
        """The field of an event `count` epochs after the first `num_before`; samples, where epochs count them."""
        if not self.counts_samples:
            return {"epoch": num_before + count}
        batch = self.config.get("global_batch_size") or 1000
        return {"samples": num_before + 1 + count} if count >= batch and not self.counts_epochs else {}


def complete(events: Iterable[Event], outline: Outline) -> Iterator[Event]:
    """A second reading: the events with what `outline` adds to them, ordered by time where the log is."""
    before, after = _added(outline)
    yield from _opening(outline)
    last_t, count, reached, block = -math.inf, 0, False, {}
    for event in map(checked, events):
        kind = event["kind"]
        if kind == "run_config":
            continue
        if kind == "figure":  # stated after the fact, in some logs with a time before it
            event = {**event, "t": max(event["t"], last_t)}
        elif kind in ("eval_start", "eval_stop", "epoch_stop"):
            event = outline.place(event)
        elif kind in ("block_start", "block_stop"):
            block = event if kind == "block_start" else block
            event = _block(event, block, outline)
        elif kind == "run_stop":
            event = _ended(event, outline, reached)
        if kind == "eval_stop" and count + 1 == len(outline.evaluations) and outline.trained_samples:
            event = {**event, "samples": outline.trained_samples}
        if kind == "eval_stop":
            reached = reached or reaches(outline.config, event)
        pending = before[count] if count < len(before) else []
        while pending and kind != "run_start" and (kind == "eval_stop" or pending[0]["t"] <= event["t"]):
            added = pending.pop(0)
            yield {**added, "t": max(added["t"], last_t)}
        if not _is_unplaced(event):
            yield event
        last_t = max(last_t, event["t"])
        if kind in ("run_start", "eval_stop"):
            count += kind == "eval_stop"
            yield from ({**added, "t": event["t"]} for added in after.pop(count, ()))


def _ended(stop: Event, outline: Outline, reached: bool) -> Event:
    """The end of the run, with its status where the log does not state it and the target decides it."""
    if stop.get("status") is not None or not goal(outline.config) or not outline.evaluations:
        return stop
    ending = {"status": "success", "reason": "target"} if reached else {"status": "aborted", "reason": "epochs"}
    return stop | ending


def _is_unplaced(event: Event) -> bool:
    """Whether the end of an epoch or a block has no number of samples, so that no figure can use it."""
    if event["kind"] == "epoch_stop":
        return event.get("samples") is None or event.get("epoch") is None
    return event["kind"] == "block_stop" and event.get("samples") is None


def _added(outline: Outline) -> tuple[list[list[Event]], dict[int, list[Event]]]:
    """The events to add before each evaluation, and {count: those right after so many evaluations, 0: run_start}."""
    before: list[list[Event]] = [[] for _ in outline.evaluations]
    after: dict[int, list[Event]] = {}
    has_blocks = bool({"block_start", "block_stop"} & outline.kinds)
    has_starts = "eval_start" in outline.kinds
    has_epochs = "epoch_stop" in outline.kinds
    seconds = outline.moments.get("eval_s")
    for index, (old, new) in enumerate(pairwise([{}, *outline.evaluations])):
        duration_s = new.get("duration_s", seconds)
        t = new["t"] - (duration_s or 0.0)
        where = {name: new[name] for name in ("epoch", "step", "samples") if name in new}
        trained = new.get("samples", 0) > old.get("samples", 0)
        if not has_blocks and trained:
            after[index] = [_block_start(old, new, outline.counts_samples)]
            before[index].append({"t": t, "kind": "block_stop", "step": new.get("step"), "samples": new["samples"]})
        if not has_epochs and "samples" in new and new.get("epoch", 0) > old.get("epoch", 0):
            before[index].append({"t": t, "kind": "epoch_stop", **where})
        if not has_starts and duration_s is not None:
            before[index].append({"t": t, "kind": "eval_start", **where})
    return before, after


def _block_start(old: Event, new: Event, counts_samples: bool) -> Event:
    block = {"kind": "block_start", "step": old.get("step", 0), "samples": old.get("samples", 0)}
    first, last = old.get("epoch", 0), new.get("epoch", 0)
    if not counts_samples and last > first:
        block |= {"first_epoch": first + 1, "epoch_count": last - first}
    return block


def _block(event: Event, start: Event, outline: Outline) -> Event:
    """A block of the log's own: the samples at its begin or end follow from the epochs that its start or its end
    states. Some ends repeat the first epoch alone."""
    first, count = (event.get(name, start.get(name)) for name in ("first_epoch", "epoch_count"))
    if event["kind"] == "block_start":
        count = 0
    if event.get("samples") is None and first is not None and count is not None:
        event = {**event, **outline.after_epochs(first - 1, count)}
    placed = outline.place(event)
    return {"step": None, **{name: value for name, value in placed.items() if name != "epoch"}}


def _opening(outline: Outline) -> Iterator[Event]:
    """The configuration, between the start of the process and the initialisation where the user states those."""
    moments = outline.moments
    if outline.first_t is None:
        return
    t = outline.first_t
    if outline.run_start_t is not None:
        t = min(t, outline.run_start_t - moments.get("init_s", 0.0))
    if "init_s" in moments and "process_start" not in outline.kinds:
        yield {"t": t, "kind": "process_start"}
    if outline.config:
        yield {"t": t, "kind": "run_config", **outline.config}
    yield from ({"t": t, "kind": "warning", "message": note} for note in outline.notes)
    if outline.system and "system" not in outline.kinds:
        yield {"t": t, "kind": "system", **outline.system}
    if "cache_clear" in moments and "cache_clear" not in outline.kinds:
        yield {"t": t, "kind": "cache_clear", "value": moments["cache_clear"]}
    if "init_s" in moments and "init_start" not in outline.kinds and outline.run_start_t is not None:
        yield {"t": t, "kind": "init_start"}
        yield {"t": outline.run_start_t, "kind": "init_stop"}


def _merge(config: dict, more: dict) -> None:
    """Add what `config` does not hold yet; names with values are merged by name."""
    for name, value in more.items():
        if name in ("t", "kind") or value is None:
            continue
        if isinstance(value, dict) and isinstance(config.get(name, {}), dict):
            config[name] = {**value, **config.get(name, {})}
        else:
            config.setdefault(name, value)


def _short(value) -> str:
    return repr(value)[:60]
