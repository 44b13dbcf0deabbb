"""The curves of a run for TensorBoard: loss, learning rate, step time and accuracy over steps.

Needs the `tensorboard` package, and neither torch nor TensorFlow.
"""

import os

from airank_fast.errors import UserError
from airank_fast.record.events import Event, dictionary

_CURVES = (
    ("loss", "train/loss"),
    ("lr", "train/learning_rate"),
    ("core_s", "time/step_s"),
    ("wait_s", "time/wait_s"),
)


class TensorBoard:
    """A subscriber of the event log that writes event files into `directory`.

    UserError when `tensorboard` is not installed.
    """

    def __init__(self, directory: str | os.PathLike):
        try:
            from tensorboard.compat.proto import event_pb2
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError:
            raise UserError("tensorboard: must have the package `tensorboard`, got none installed") from None
        self._proto = event_pb2
        self._writer = EventFileWriter(os.fspath(directory))

    def __call__(self, event: Event) -> None:
        handle = getattr(self, "_on_" + event["kind"], None)
        if handle is not None:
            handle(event)

    def close(self) -> None:
        self._writer.close()

    def _on_steps(self, event: Event) -> None:
        curves = [(event.get(name), tag) for name, tag in _CURVES]
        curves += [(values, f"train/loss/{name}") for name, values in dictionary(event.get("losses")).items()]
        for values, tag in curves:
            for index, value in enumerate(values or ()):
                self._scalar(event["t"], event["first_step"] + index, tag, value)

    def _on_eval_stop(self, event: Event) -> None:
        found = {"accuracy": event["accuracy"], **dictionary(event.get("quality"))}
        for name, value in found.items():
            self._scalar(event["t"], event["step"], f"eval/{name}", value)

    def _on_resume(self, event: Event) -> None:
        """Make TensorBoard forget what an earlier process drew past this step."""
        start = self._proto.SessionLog(status=self._proto.SessionLog.START)
        self._writer.add_event(self._proto.Event(wall_time=event["t"], step=event["step"] + 1, session_log=start))

    def _on_run_stop(self, _) -> None:
        self._writer.flush()

    def _scalar(self, t: float, step: int, tag: str, value: float) -> None:
        record = self._proto.Event(wall_time=t, step=step)
        record.summary.value.add(tag=tag, simple_value=value)
        self._writer.add_event(record)
