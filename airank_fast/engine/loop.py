"""A run from beginning to end: prepare, train in blocks, evaluate between them, and always close the log.

The order of events is that of a benchmark's clock: model, optimizer and warm-up before ``run_start``; the data set
is first touched after it. Whatever ends the run, its closing events are written with their status.
"""

from __future__ import annotations

import errno
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from airank_fast.engine import checkpoint, precision
from airank_fast.engine.clock import Clock, NanLoss
from airank_fast.engine.distributed import World, is_lost_rank
from airank_fast.engine.graph import CapturedStep
from airank_fast.engine.memory import keep_freed_memory, peak_memory, reset_peak_memory
from airank_fast.engine.plan import Plan, SamplePlan, make_plan
from airank_fast.engine.shutdown import Shutdown, Terminated
from airank_fast.engine.step import TrainingStep
from airank_fast.errors import UserError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
EXIT_REACHED, EXIT_NOT_REACHED = 0, 1
NUM_WARMUP_STEPS = 2
INITIAL_ACCURACY_TOLERANCE = 0.01
READ_BEFORE_THE_CLOCK = (
    "--check-initial reads the evaluation set before run_start; MLPerf and AI-Rank start the clock before the data set "
    "is first touched: leave it out of a run that is handed in"
)


class Trainer:
    """One run of ``job`` on this rank.

    Args:
        job: a benchmark's job (``airank_fast.recipes``).
        options: its RunOptions.
        world: this rank among the ranks.
        log: rank 0's EventLog, None on the other ranks.
        directory: where checkpoints go.
    """

    def __init__(self, job, options, world: World, log, directory: Path) -> None:
        self.job, self.options, self.world, self.log = job, options, world, log
        self.recipe = job.recipe
        self.device = world.device
        self.dtype = precision.DTYPES[self.recipe.precision]
        self.checkpoints = directory / "checkpoints"
        self.progress = {"step": 0, "evaluated_step": 0, "reached": False}
        self.plan: Plan | SamplePlan | None = None
        self.clock: Clock | None = None

    def emit(self, kind: str, **fields) -> None:
        """Write an event, on rank 0."""
        if self.log is not None:
            self.log.emit(kind, **fields)

    def emit_once(self, kind: str, **fields) -> None:
        """Write an event that a run has once, unless the process that this one resumes has written it."""
        if self.log is not None and not any(event["kind"] == kind for event in self.log.history):
            self.log.emit(kind, **fields)

    @property
    def samples(self) -> int:
        """Samples trained so far, over all ranks."""
        return self.progress["step"] * self.recipe.batch_size

    # -- before the clock ---------------------------------------------------------------------------------------

    def announce_resume(self) -> None:
        """Say in the log from where this process goes on; what the last one did after that is superseded."""
        found = checkpoint.newest(self.checkpoints)
        step = checkpoint.step_of(found) if found else 0
        self.emit("resume", step=step, samples=step * self.recipe.batch_size)

    def prepare(self) -> None:
        """Build model and optimizer, load the last checkpoint if there is one, select kernels."""
        if self.options.cuda_graphs and (self.device.type != "cuda" or self.world.size > 1):
            got = f"{self.world.size} of type {self.device.type}"
            raise UserError(f"--cuda-graphs: one CUDA device is required, got {got}")
        if self.device.type == "cpu":
            keep_freed_memory()
        torch.manual_seed(self.recipe.seed)
        model = self.job.build_model()
        initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        self.model = precision.apply(model, self.recipe.precision, self.device)
        self.optimizer = self.job.build_optimizer(self.model, self.device)
        self.scaler = self._fresh_scaler()
        self.step = TrainingStep(self.job, self._parallel(self.model), self.optimizer, self.scaler)
        if self.options.cuda_graphs:
            self.step = CapturedStep(self.step)
        self._warm_up()
        self._load(initial, None)
        if self.options.resume and (found := checkpoint.newest(self.checkpoints)):
            self._load(*checkpoint.load(found, initial))

    def _fresh_scaler(self) -> torch.amp.GradScaler:
        return torch.amp.GradScaler(self.device.type, enabled=self.recipe.precision == "fp16")

    def _parallel(self, model: nn.Module) -> nn.Module:
        if self.world.size == 1:
            return model
        ids = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True)

    def _warm_up(self) -> None:
        """Run steps on noise, so that kernels are selected and optimizer state exists; ``_load`` takes it all back."""
        batch = self.job.made_up_batch(self.world, self.device, self.dtype)
        for _ in range(NUM_WARMUP_STEPS):
            self.step([batch] * self.recipe.gradient_accumulation_steps, learning_rate=0.0)
        reset_peak_memory(self.device)

    def _load(self, weights: dict, state: dict | None) -> None:
        """Put weights and state in place; without a state, that of a run's beginning."""
        precision.load_full_state(self.model, self.optimizer, weights)
        if state is None:
            torch.manual_seed(self.recipe.seed + 1 + self.world.rank)
            self.optimizer.reset_state()
            self.scaler.load_state_dict(self._fresh_scaler().state_dict())
            return
        self.progress = state["progress"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"])
        if "cuda_rng" in state and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)

    def check_initial(self, shutdown: Shutdown) -> None:
        """Where the job expects an accuracy of its initial weights: evaluate them, and refuse others.

        This reads the evaluation set before the clock runs, to keep a run from starting that cannot reach its target;
        the log says so. Under the clock the data set is opened anew.
        """
        expected = self.job.initial_accuracy
        if expected is None or self.progress["step"]:
            return
        self.shutdown = shutdown
        self.emit("warning", message=READ_BEFORE_THE_CLOCK)
        self.job.open_data(self.world, self.device, self.dtype)
        correct, counted = self._count()
        self.job.close()
        accuracy = correct / counted
        if abs(accuracy - expected) > INITIAL_ACCURACY_TOLERANCE:
            raise UserError(
                f"--check-initial: weights with an accuracy within {INITIAL_ACCURACY_TOLERANCE} of {expected} are "
                f"required, got {accuracy:.5f} ({correct} of {counted})"
            )

    # -- under the clock ----------------------------------------------------------------------------------------

    def train(self, shutdown: Shutdown) -> str:
        """Train to the target or through all epochs; returns the reason of the end, "target" or "epochs"."""
        self.shutdown = shutdown
        self.open_data()
        recipe = self.recipe
        batches = self.job.train_batches(self.progress["step"])
        due = [e for e in self.plan.evaluations() if e[1] > self.progress["evaluated_step"]]
        for number, (epoch, stop) in enumerate(due, 1):
            self.train_block(batches, epoch, stop)
            self._evaluate(epoch)
            if self.progress["reached"] and recipe.stop_at_target:
                return "target"
            if number % self.options.checkpoint_every == 0 and stop < self.plan.total_steps:
                self.save()
        return "epochs"

    def open_data(self) -> None:
        """Touch the data set for the first time; from here on the steps of the run are known."""
        batch_size = self.recipe.batch_size
        data = self.job.open_data(self.world, self.device, self.dtype)
        self.plan = make_plan(data["train_samples"], batch_size, self.world.size, **self.job.schedule())
        self._check_same_data(data)
        self.emit_once("data", **data, total_steps=self.plan.total_steps, reported=self.job.reported(self.plan))
        self.clock = Clock(self.emit, self.device, batch_size)

    def _check_same_data(self, data: dict) -> None:
        before = next((e for e in self.log.history if e["kind"] == "data"), data) if self.log is not None else data
        for name in ("train_samples", "eval_samples"):
            if data[name] != before[name]:
                raise UserError(
                    f"--resume: the data set of the run is required, {before[name]} {name}, got {data[name]}"
                )

    def train_block(self, batches, epoch: int, stop: int) -> None:
        """Train up to step ``stop``, where ``epoch`` ends, and report where the time went."""
        if self.progress["step"] == stop:  # resumed between the block and its evaluation
            return
        block = self.plan.block(self.samples, epoch)
        self.emit("block_start", **block, step=self.progress["step"], samples=self.samples)
        self.model.train()
        for step in range(self.progress["step"], stop):
            learning_rate = self.job.learning_rate(step, self.plan)
            parts = self.clock.next_batches(batches, self.recipe.gradient_accumulation_steps)
            self.clock.start()
            loss = self.step(parts, learning_rate)
            self.clock.stop(step + 1, loss, learning_rate, parts)
            self._step_done(step + 1)
        self.clock.finish_block()
        clock = self.clock
        losses, clock.losses = clock.losses, []
        by_rank = self.world.gather([clock.core_s, clock.wait_s, clock.h2d_s, clock.measure_s, *losses])
        spent = {
            name: [round(values[column], 6) for values in by_rank]
            for column, name in enumerate(("core_s", "wait_s", "h2d_s", "measure_s"))
        }
        if self.world.size > 1:  # `steps` events hold rank 0's part of each batch; this is the whole batch's
            spent["loss"] = [sum(step) / len(step) for step in zip(*(values[4:] for values in by_rank), strict=True)]
        self.emit("block_stop", step=self.progress["step"], samples=self.samples, **spent)

    def _step_done(self, step: int) -> None:
        self.progress["step"] = step
        for epoch in self.plan.epochs_ending_at(step):
            self.emit("epoch_stop", epoch=epoch, step=step, samples=self.samples)
        every = self.options.checkpoint_steps
        if every and step % every == 0:
            self.clock.finish_block()
            self.save()
        self._leave_if_asked()

    def _leave_if_asked(self) -> None:
        if self.shutdown.requested and self.world.rank == 0:  # the other ranks leave when it is gone
            raise Terminated

    def _evaluate(self, epoch: int) -> None:
        """Report what is right of the evaluation set, and whether that is the target."""
        step = self.progress["step"]
        self.emit("eval_start", epoch=epoch, step=step, samples=self.samples)
        correct, counted = self._count()
        accuracy = correct / counted
        self.progress["evaluated_step"] = step
        if self.recipe.target is not None and accuracy >= self.recipe.target:
            self.progress["reached"] = True
        self.emit(
            "eval_stop",
            epoch=epoch,
            step=step,
            samples=self.samples,
            correct=correct,
            counted=counted,
            accuracy=accuracy,
        )

    def _count(self) -> tuple[int, int]:
        """(right, counted) labels of the whole evaluation set, each sample once over all ranks."""
        self.world.average_buffers(self.model)
        self.model.eval()
        counts = torch.zeros(2, dtype=torch.int64, device=self.device)
        with torch.inference_mode():
            for batch in self.job.eval_batches():
                counts[0] += self.job.correct(self.model, batch)
                counts[1] += len(batch.labels)
                self._leave_if_asked()
        return tuple(self.world.sum(counts).tolist())

    def save(self, average: bool = True) -> None:
        """Write a checkpoint from rank 0. ``average=False`` leaves out the one collective (other ranks may be gone)."""
        begin = time.perf_counter()
        if average:
            self.world.average_buffers(self.model)
        if self.world.rank != 0:
            return
        state = {
            "progress": self.progress,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        weights = precision.full_state(self.model, self.optimizer)
        path = checkpoint.save(self.checkpoints, self.progress["step"], weights, state)
        duration_s = round(time.perf_counter() - begin, 6)
        self.emit("checkpoint", step=self.progress["step"], path=f"checkpoints/{path.name}", duration_s=duration_s)


def execute(job, options, world: World, log, directory: Path) -> int:
    """Run ``job`` and write its closing events, however it ends; returns the exit status of the process.

    ``log`` is rank 0's EventLog, None on the other ranks. Bad input raises UserError, a defect its own exception,
    both after the closing events.
    """
    trainer = Trainer(job, options, world, log, directory)
    ended = False

    def finish(status: str, reason: str, detail: str = "") -> None:
        nonlocal ended
        if ended:
            return
        ended = True
        try:
            if trainer.clock is not None:
                trainer.clock.flush()
            trainer.emit("memory", **peak_memory(world.device))
            trainer.emit("run_stop", status=status, reason=reason, detail=detail)
        except OSError:
            pass  # no room even for the last words; what is on the disk is whole

    def last_words() -> None:
        finish("aborted", shutdown.reason, f"left after step {trainer.progress['step']}")
        trainer.emit("process_stop")
        if log is not None:
            log.close()

    with Shutdown(last_words) as shutdown:
        try:
            return _run(trainer, shutdown, finish)
        except BaseException as error:
            reason, detail, raised = _explain(error, trainer, shutdown)
            finish("aborted", reason, detail)
            if raised is None:
                return shutdown.exit_status
            if raised is error:
                raise
            raise raised from None
        finally:
            job.close()


def _run(trainer: Trainer, shutdown: Shutdown, finish) -> int:
    if trainer.options.resume:
        trainer.announce_resume()
    trainer.emit_once("init_start")
    trainer.prepare()
    trainer.emit_once("init_stop")
    trainer.world.wait_for_all()
    try:
        trainer.check_initial(shutdown)
        trainer.emit_once("run_start")
        reason = trainer.train(shutdown)
    except Terminated:
        if trainer.clock is not None:  # else in the initial evaluation
            trainer.clock.finish_block()
        trainer.save(average=False)
        finish("aborted", shutdown.reason, f"saved at step {trainer.progress['step']}")
        return shutdown.exit_status
    reached = trainer.progress["reached"] or trainer.recipe.target is None
    finish("success" if reached else "aborted", reason)
    trainer.save()
    return EXIT_REACHED if reached else EXIT_NOT_REACHED


def _explain(error: BaseException, trainer: Trainer, shutdown: Shutdown) -> tuple[str, str, BaseException | None]:
    """What ended the run: (reason, detail, the exception to raise, None to leave with the signal's exit status)."""
    lost = trainer.world.size > 1 and is_lost_rank(error)
    if lost and shutdown.requested:
        return shutdown.reason, "another rank left first", None
    if isinstance(error, UserError):
        return "bad_data", str(error), error
    if isinstance(error, NanLoss):
        return "nan_loss", str(error), UserError(str(error))
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        line = f"{trainer.checkpoints.parent}: room on the disk is required, got: {error.strerror or error}"
        return "disk_full", str(error), UserError(line)
    detail = f"{type(error).__name__}: {error}".split("\n")[0]
    return "rank_lost" if lost else "exception", detail, error
