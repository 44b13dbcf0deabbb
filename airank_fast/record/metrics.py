"""The figures of a run, as pure functions of its events.

With N the samples trained (global, without padding; of a task whose throughput counts another thing, those things)
and times in seconds:

    e2e_time    from the start of the process to its end
    total_time  T, from run_start to run_stop
    p_whole     N / T
    p_train     N / (T - time in evaluations)
    p_core      N / (time from 'the batch is on the device' to 'the optimizer is done', summed over steps; the
                largest over ranks)
    time2train  from run_start to the end of the first evaluation that has the whole target
    avg_ips     (N - N at the end of the warm-up epochs) / (run_stop - end of the warm-up epochs)

A rate is a total over a total, never a mean of rates. A log that was cut off is read as if the run had ended
with its last event. After a resume, time counts whatever it was spent on (the pause, work that had to be done
again), samples count once, and the run is not comparable.

A figure that the events do not give is None, never a sum over nothing; `Tally.absent` has the reasons.
"""

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence

from airank_fast import tasks
from airank_fast.numeric import is_float
from airank_fast.record.events import Event, Repeated

GIB = 2**30
STARVED = 0.2
"""Steps that wait for data for a larger share of the time outside evaluations are said to, in a note."""


def summarize(events: Iterable[Event]) -> dict:
    """Every figure of a run, at any moment of it; None where the events do not give one.

    Keys: benchmark, task (the facts that the run carries), units_per_sample (None where throughput counts samples),
    status (success | aborted | unfinished), reason, detail, comparable, world_size, precision, unit,
    target, e2e_time, total_time, time2train, trained_samples, epochs (completed), steps, evaluations, best_accuracy,
    final_accuracy (of the headline metric), quality (of the last evaluation), p_whole, p_train, p_core, avg_ips,
    avg_ips_warmup_epochs (those that it really leaves out: 0 if the run ended in them), evaluation_s, core_s,
    data_wait_s, h2d_s, measure_s (the largest over ranks), step_time_p50, step_time_p95, step_time_p99 (s, rank 0),
    mem_used_gib, mem_total_gib, num_resumes, notes.
    """
    tally = Tally()
    for event in events:
        tally.feed(event)
    return tally.summary()


class Tally:
    """Follows a run event by event; `summary()` may be called at any moment."""

    def __init__(self):
        self.config: Event = {}
        self.system: Event = {}
        self.data: Event = {}
        self.first_t: float | None = None
        self.last_t: float | None = None
        self.run_start_t: float | None = None
        self.run_stop: Event | None = None
        self.memory = (0, 0)
        self.num_resumes = 0
        self.is_ours = False  # of this project's recorder, which leaves nothing out: a sum over nothing is 0
        self.steps = 0
        self.samples = 0
        self.units_per_sample: float | None = None
        self._first_samples = 0  # of this process
        self._kinds: set[str] = set()
        self._counts_samples = self._counts_steps = False
        self.evaluations: list[Event] = []
        self._num_judged, self._reached = 0, None  # of the evaluations, so that each is judged once
        self.epochs: list[Event] = []
        self.evaluation_s = 0.0
        self._evaluation_t: float | None = None
        self._is_repeated = Repeated()
        self._clocks = _StepClocks()
        self._step_times: list[tuple[int, array]] = []  # (first step, seconds of each)

    def feed(self, event: Event) -> None:
        handle = getattr(self, "_on_" + event["kind"], None)
        if self.first_t is None:
            self.first_t = event["t"]
        self._kinds.add(event["kind"])
        if event["kind"] != "block_start":  # it only states where counting begins
            self._counts_samples = self._counts_samples or event.get("samples") is not None
            self._counts_steps = self._counts_steps or event.get("step", event.get("first_step")) is not None
        if handle is not None:
            handle(event)
        self.last_t = event["t"]

    def _on_process_start(self, event) -> None:
        self.is_ours = self.is_ours or event.get("pid") is not None
        self._clocks.next_process()
        self._end_evaluation(self.last_t)  # of a process that was killed inside one

    def _on_run_config(self, event) -> None:
        self.config = self.config or event
        self._num_judged, self._reached = 0, None

    def _on_system(self, event) -> None:
        self.system = self.system or event

    def _on_data(self, event) -> None:
        self.data = self.data or event

    def _on_run_start(self, event) -> None:
        if self.run_start_t is None:
            self.run_start_t = event["t"]

    def _on_run_stop(self, event) -> None:
        self.run_stop = event
        self._end_evaluation(event["t"])

    def _on_resume(self, event) -> None:
        self._is_repeated(event)
        self._clocks.next_process()
        self._end_evaluation(self.last_t)
        self.num_resumes += 1
        self.run_stop = None
        step = event.get("step")
        if step is None:  # another program's log may not state it
            return
        self.steps, self.samples = step, event["samples"]
        self._first_samples = self.samples
        self.evaluations = [old for old in self.evaluations if old["step"] <= step]
        self._num_judged, self._reached = 0, None
        self.epochs = [old for old in self.epochs if old["step"] <= step]
        kept = [(first, times[: max(0, step - first + 1)]) for first, times in self._step_times]
        self._step_times = [(first, times) for first, times in kept if times]

    def _on_steps(self, event) -> None:
        self.steps = event["first_step"] + event["num_steps"] - 1
        self.samples += event["samples"]
        self._clocks.steps(event)
        self._step_times.append((event["first_step"], array("d", event["core_s"])))

    def _on_block_stop(self, event) -> None:
        step, samples = event.get("step"), event.get("samples")  # another program's log may carry neither
        self.steps, self.samples = max(self.steps, step or 0), max(self.samples, samples or 0)
        if event.get("units") and self.samples > self._first_samples:
            self.units_per_sample = sum(event["units"]) / (self.samples - self._first_samples)
        self._clocks.block(event)

    def _on_epoch_stop(self, event) -> None:
        if not self.epochs or event["epoch"] > self.epochs[-1]["epoch"]:
            self.epochs.append(event)

    def _on_eval_start(self, event) -> None:
        self._evaluation_t = event["t"]

    def _on_eval_stop(self, event) -> None:
        self._end_evaluation(event["t"])
        if not self._is_repeated(event):
            self.evaluations.append(event)
            self.samples = max(self.samples, event.get("samples") or 0)  # of a log whose blocks do not state them
            self.steps = max(self.steps, event.get("step") or 0)

    def _on_memory(self, event) -> None:
        used_bytes = max([event["used_bytes"], *(event.get("per_rank") or [])])
        self.memory = max(self.memory[0], used_bytes), event["total_bytes"]

    def _end_evaluation(self, t: float | None) -> None:
        if self._evaluation_t is not None:
            self.evaluation_s += t - self._evaluation_t
            self._evaluation_t = None

    # figures that the log formats read while the run goes on

    @property
    def target(self) -> float | None:
        return self.config.get("target")

    @property
    def unit(self) -> str:
        return self.config.get("unit") or "samples"

    @property
    def metric(self) -> tasks.Metric:
        """The metric that the run calls its accuracy."""
        return tasks.headline(self.config)

    def reached(self) -> Event | None:
        """The first evaluation that has the whole target."""
        while self._reached is None and self._num_judged < len(self.evaluations):
            stop = self.evaluations[self._num_judged]
            self._num_judged += 1
            self._reached = stop if reaches(self.config, stop) else None
        return self._reached

    def end_t(self) -> float | None:
        """When the run ended; of one without an end, the time of its last event."""
        return self.run_stop["t"] if self.run_stop else self.last_t

    def avg_ips(self) -> tuple[float | None, int]:
        """(samples/s after the warm-up epochs, the number of epochs left out)."""
        if self.run_start_t is None or "avg_ips" in self.absent():
            return None, 0
        num_excluded = self.config.get("warmup_epochs_excluded") or 0
        warmup = next((stop for stop in self.epochs if stop["epoch"] == num_excluded), None)
        if warmup is not None:
            rate = self._rate(self.samples - warmup["samples"], self.end_t() - warmup["t"])
            if rate and rate > 0:  # a log may be cut off before the steps that an epoch_stop counts
                return rate, num_excluded
        return self._rate(self.samples, self.end_t() - self.run_start_t), 0

    def _rate(self, samples: int, seconds: float | None) -> float | None:
        """Throughput in its unit a second; None without time."""
        if seconds is None or not seconds > 0:
            return None
        return samples / seconds * (1 if self.units_per_sample is None else self.units_per_sample)

    def absent(self) -> dict[str, str]:
        """Figures that another program's log does not give, each with the reason; a sum over nothing would be 0."""
        if self.is_ours:
            return {}
        found = {}
        if not self._counts_samples:
            reason = "the log does not state how many samples were trained"
            found |= dict.fromkeys(("trained_samples", "p_whole", "p_train", "p_core", "avg_ips"), reason)
        if not self._counts_steps:
            found["steps"] = "the log does not count steps"
        if "epoch_stop" not in self._kinds:
            found["epochs"] = "the log does not state where epochs end"
        if "eval_stop" in self._kinds and "eval_start" not in self._kinds:
            reason = "the log does not state when its evaluations begin"
            found = dict.fromkeys(("p_train", "evaluation_s"), reason) | found
        if "process_start" not in self._kinds:
            found["e2e_time"] = "the log does not state when the process started"
        if "steps" not in self._kinds:
            reason = "the log does not state where the time of its steps went"
            found = dict.fromkeys(("p_core", *_StepClocks.NAMES), reason) | found
            found["data_wait_s"] = found.pop("wait_s")
        return found

    def summary(self) -> dict:
        config, stop, notes = self.config, self.run_stop, []
        total_s = None if self.run_start_t is None else self.end_t() - self.run_start_t
        open_s = 0.0 if self._evaluation_t is None else self.last_t - self._evaluation_t
        evaluation_s = self.evaluation_s + open_s
        train_s = None if total_s is None else total_s - evaluation_s
        clocks = self._clocks.totals()
        core_s = clocks["core_s"]
        if train_s is not None and core_s > train_s:
            # Ranks leave a collective at different moments: another rank's steps may end in rank 0's evaluation.
            notes.append(f"core_s is limited to the {train_s:.6f} s outside evaluations, got {core_s:.6f} s")
            core_s = train_s
        if train_s and clocks["wait_s"] > STARVED * train_s:
            share = clocks["wait_s"] / train_s
            notes.append(
                f"steps waited for data for {share:.0%} of the {train_s:.1f} s outside evaluations: more --workers on "
                "cores of their own, or a faster disk, would shorten that"
            )
        if self.num_resumes:
            notes.append("resumed: the clock went on while the run was down, so it is not comparable")
        reached = self.reached()
        accuracies = [event["accuracy"] for event in self.evaluations]
        finite = [accuracy for accuracy in accuracies if not math.isnan(accuracy)]
        avg_ips, warmup_epochs = self.avg_ips()
        step_times = sorted(time for _, times in self._step_times for time in times)
        figures = {
            "benchmark": config.get("benchmark"),
            "task": config.get("task"),
            "status": stop.get("status") if stop else "unfinished",
            "reason": stop.get("reason") if stop else None,
            "detail": stop.get("detail") if stop else None,
            "comparable": self.num_resumes == 0,
            "world_size": config.get("world_size"),
            "precision": config.get("precision"),
            "unit": self.unit,
            "target": self.target,
            "e2e_time": None if self.first_t is None else self.last_t - self.first_t,
            "total_time": total_s,
            "time2train": reached["t"] - self.run_start_t if reached and total_s is not None else None,
            "trained_samples": self.samples,
            "units_per_sample": self.units_per_sample,
            "epochs": self.epochs[-1]["epoch"] if self.epochs else 0,
            "steps": self.steps,
            "evaluations": len(accuracies),
            "best_accuracy": self.metric.best(finite),
            "final_accuracy": accuracies[-1] if accuracies else None,
            "quality": qualities(self.evaluations[-1], self.metric) if self.evaluations else {},
            "p_whole": self._rate(self.samples, total_s),
            "p_train": self._rate(self.samples, train_s),
            "p_core": self._rate(self.samples, core_s),
            "avg_ips": avg_ips,
            "avg_ips_warmup_epochs": warmup_epochs,
            "evaluation_s": evaluation_s,
            "core_s": core_s,
            "data_wait_s": clocks["wait_s"],
            "h2d_s": clocks["h2d_s"],
            "measure_s": clocks["measure_s"],
            "step_time_p50": percentile(step_times, 50),
            "step_time_p95": percentile(step_times, 95),
            "step_time_p99": percentile(step_times, 99),
            "mem_used_gib": self.memory[0] / GIB if self.memory[1] else None,
            "mem_total_gib": self.memory[1] / GIB if self.memory[1] else None,
            "num_resumes": self.num_resumes,
            "notes": notes,
        }
        return figures | dict.fromkeys(self.absent(), None)


class _StepClocks:
    """Adds up the clocks of the steps over ranks and processes.

    A block_stop carries every rank's sums since its process began; the `steps` events after it are rank 0's,
    for the part that was not collected. A process adds the largest rank's sum and that part.
    """

    NAMES = ("core_s", "wait_s", "h2d_s", "measure_s")

    def __init__(self):
        self._earlier, self._block, self._tail = (dict.fromkeys(self.NAMES, 0.0) for _ in range(3))

    def steps(self, event: Event) -> None:
        for name in self.NAMES:
            self._tail[name] += math.fsum(event.get(name) or ())

    def block(self, event: Event) -> None:
        self._block = {name: max(event.get(name) or [0.0]) for name in self.NAMES}
        self._tail = dict.fromkeys(self.NAMES, 0.0)

    def next_process(self) -> None:
        self._earlier = self.totals()
        self._block, self._tail = (dict.fromkeys(self.NAMES, 0.0) for _ in range(2))

    def totals(self) -> dict[str, float]:
        return {name: self._earlier[name] + self._block[name] + self._tail[name] for name in self.NAMES}


def goal(config: Mapping) -> Mapping[str, float]:
    """The target of a run, which one evaluation must have whole: {metric: value}; {} without a target."""
    stated = tasks.target_of_facts(config.get("task"))
    return stated or ({} if config.get("target") is None else {tasks.headline(config).name: config["target"]})


def reaches(config: Mapping, evaluation: Event) -> bool:
    """Whether an evaluation has the whole target of the run."""
    metric = tasks.headline(config)
    task = tasks.of(config) or tasks.Task(name="", model="", title={}, metrics=(metric,))
    return task.reached(qualities(evaluation, metric), goal(config))


def qualities(evaluation: Event, metric: tasks.Metric) -> dict[str, float]:
    """Every metric of an evaluation; its accuracy is that of the headline metric."""
    stated = evaluation.get("quality")
    found = stated if isinstance(stated, Mapping) else {}
    numbers = {name: value for name, value in found.items() if is_float(value)}
    return numbers | {metric.name: evaluation["accuracy"]}


def percentile(ascending: Sequence[float], percent: float) -> float | None:
    """The value below which `percent` of the values lie, linear between neighbours (as numpy's default)."""
    if not ascending:
        return None
    at = (len(ascending) - 1) * percent / 100
    low = math.floor(at)
    high = min(low + 1, len(ascending) - 1)
    return ascending[low] + (ascending[high] - ascending[low]) * (at - low)
