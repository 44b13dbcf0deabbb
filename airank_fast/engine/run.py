"""A run from beginning to end: build, warm up, train, and always close the log.

The order of events is that of a benchmark's clock: networks, optimizers and warm-up come before ``run_start``; the data
set is first touched after it. The closing events are always written, with the status of the run.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Protocol

from airank_fast.engine import checkpoint
from airank_fast.engine.clock import NanLoss
from airank_fast.engine.distributed import World, is_lost_rank
from airank_fast.engine.examples import write_examples
from airank_fast.engine.journal import Journal
from airank_fast.engine.memory import peak_memory
from airank_fast.engine.shutdown import Shutdown, Terminated
from airank_fast.engine.state import State
from airank_fast.engine.training import Cadence, Trainer, evaluate, save
from airank_fast.errors import UserError
from airank_fast.job import Job
from airank_fast.record.events import EventLog

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
EXIT_REACHED, EXIT_NOT_REACHED = 0, 1
INITIAL_ACCURACY_TOLERANCE = 0.01
READ_BEFORE_THE_CLOCK = (
    "--check-initial reads the evaluation set before run_start; MLPerf and AI-Rank start the clock before the data set "
    "is first touched: leave it out of a run that is handed in"
)


class Options(Cadence, Protocol):
    """The options that a run reads."""

    @property
    def resume(self) -> bool: ...
    @property
    def cuda_graphs(self) -> bool: ...
    @property
    def data(self) -> Path | None: ...
    @property
    def examples(self) -> bool: ...


def execute(job: Job, options: Options, world: World, log: EventLog | None, directory: Path) -> int:
    """Run ``job`` and write its closing events, however it ends; returns the exit status of the process.

    ``log`` is rank 0's EventLog, None on the other ranks; checkpoints go below ``directory``. Bad input raises
    UserError, a defect its own exception, both after the closing events.
    """
    run = Run(job, options, world, Journal(log), directory)
    with run.shutdown:
        try:
            return run.go()
        except BaseException as error:
            reason, detail, raised = _explain(error, run)
            run.finish("aborted", reason, detail)
            if raised is None:
                return run.shutdown.exit_status
            if raised is error:
                raise
            raise raised from None
        finally:
            job.close()


class Run:
    """The stages of a run, and its end. ``trainer`` exists from the first touch of the data set on."""

    def __init__(self, job: Job, options: Options, world: World, journal: Journal, directory: Path) -> None:
        self.job, self.options, self.world = job, options, world
        self.journal, self.directory = journal, directory
        self.trainer: Trainer | None = None
        self.shutdown = Shutdown(self.close_log)
        self._ended = False

    def go(self) -> int:
        """All stages; returns the exit status."""
        found = self._checkpoint() if self.options.resume else None
        self.journal.emit_once("init_start")
        state = State(self.job, self.world, cuda_graphs=self.options.cuda_graphs, found=found)
        self.journal.emit_once("init_stop")
        self.world.wait_for_all()
        try:
            self._check_initial(state)
            self.journal.emit_once("run_start")
            self.trainer = Trainer(state, self.options, self.journal, self.directory, self.leave_if_requested)
            reason = self.trainer.train()
        except Terminated:
            self._leave(state)
            return self.shutdown.exit_status
        except UserError:  # bad data, between two steps: what was trained is not lost
            if self.trainer is not None and self.step:
                self._save_alone(state)
            raise
        reached = state.progress["reached"] or not self.job.target
        self.finish("success" if reached else "aborted", reason)
        save(state, self.journal, self.directory)
        if self.options.examples or self.options.data is None:
            write_examples(state, self.journal, self.directory)
        return EXIT_REACHED if reached else EXIT_NOT_REACHED

    def _checkpoint(self) -> Path | None:
        """The checkpoint to resume from, with its event: it supersedes what the last process did after it."""
        found = checkpoint.newest(self.directory / "checkpoints")
        step = checkpoint.step_of(found) if found else 0
        self.journal.emit("resume", step=step, samples=step * self.job.recipe.batch_size)
        return found

    def _check_initial(self, state: State) -> None:
        """Evaluate the initial weights where the job expects an accuracy of them; UserError for another one.

        A run that cannot reach its target ends here. The evaluation set is read before the clock starts, about which
        the log has a warning; under the clock the data set is opened again.
        """
        expected = self.job.initial_accuracy
        if expected is None or state.progress["step"]:
            return

        self.journal.emit("warning", message=READ_BEFORE_THE_CLOCK)
        self.job.open_data(self.world, state.device, state.dtype)
        quality, counts = evaluate(state, self.leave_if_requested)
        self.job.close()
        accuracy = quality[self.job.task.headline.name]
        if abs(accuracy - expected) > INITIAL_ACCURACY_TOLERANCE:
            of = " ({correct} of {counted})".format(**counts) if counts else ""
            raise UserError(
                f"--check-initial: must have weights with an accuracy within {INITIAL_ACCURACY_TOLERANCE} of "
                f"{expected}, got {accuracy:.5f}{of}"
            )

    def leave_if_requested(self) -> None:
        """Raise Terminated after a signal, on rank 0; the other ranks end when it is gone."""
        if self.shutdown.requested and self.world.rank == 0:
            raise Terminated

    def _leave(self, state: State) -> None:
        """Save and close the log."""
        self._save_alone(state)
        self.finish("aborted", self.shutdown.reason, f"saved at step {state.progress['step']}")

    def _save_alone(self, state: State) -> None:
        """Save from this rank alone, as the others may be gone."""
        if self.trainer is not None:  # else in the initial evaluation
            self.trainer.clock.finish_block()
        save(state, self.journal, self.directory, together=False)

    @property
    def step(self) -> int:
        """Steps that training has completed."""
        return self.trainer.state.progress["step"] if self.trainer else 0

    def finish(self, status: str, reason: str, detail: str = "") -> None:
        """Write the closing events, once."""
        if self._ended:
            return
        self._ended = True
        try:
            if self.trainer is not None:
                self.trainer.clock.flush()
            self.journal.emit("memory", **peak_memory(self.world.device))
            self.journal.emit("run_stop", status=status, reason=reason, detail=detail)
        except OSError:
            pass  # no space for the closing events; the log without them is readable

    def close_log(self) -> None:
        """Close the log of a run that hangs."""
        self.finish("aborted", self.shutdown.reason, f"left after step {self.step}")
        self.journal.emit("process_stop")
        self.journal.close()


def _explain(error: BaseException, run: Run) -> tuple[str, str, BaseException | None]:
    """What ended the run: (reason, detail, the exception to raise; None to exit with the signal's status)."""
    lost = run.world.size > 1 and is_lost_rank(error)
    if lost and run.shutdown.requested:
        return run.shutdown.reason, "another rank left first", None
    if isinstance(error, UserError):
        return "bad_data", str(error), error
    if isinstance(error, NanLoss):
        return "nan_loss", str(error), UserError(str(error))
    if isinstance(error, OSError) and (error.errno in DISK_FULL or _is_inside(run.directory, error.filename)):
        name = error.filename or run.directory
        line = f"{name}: must be readable and writable, got: {error.strerror or error}"
        return "disk_full" if error.errno in DISK_FULL else "exception", str(error), UserError(line)
    detail = f"{type(error).__name__}: {error}".split("\n")[0]
    return "rank_lost" if lost else "exception", detail, error


def _is_inside(directory: Path, name: object) -> bool:
    return isinstance(name, str | Path) and Path(name).absolute().is_relative_to(directory.absolute())
