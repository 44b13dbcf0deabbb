"""The system that a run was made on: runs of two systems never form one result."""

from __future__ import annotations

from dataclasses import astuple, dataclass

from airank_fast.record.events import dictionary
from airank_fast.record.foreign.read import Run


@dataclass(frozen=True)
class System:
    """The submitter of a system, its name, number of nodes and accelerator; None for what the run does not state."""

    organization: str | None = None
    name: str | None = None
    nodes: int | None = None
    accelerator: str | None = None

    def __str__(self) -> str:
        nodes = None if self.nodes is None else f"{self.nodes} node{'s' * (self.nodes != 1)}"
        parts = (self.organization, self.name, nodes, self.accelerator)
        return " ".join(part for part in parts if part) or "a system without a name"

    @property
    def order(self) -> tuple[str, ...]:
        """The sort key of systems."""
        return tuple(str(part) for part in astuple(self))


UNSTATED = System()


def system_of(run: Run) -> System:
    """The system of a run: MLPerf's submission_org and submission_platform, nodes, and the name of the devices."""
    config, system = run.first("run_config"), run.first("system")
    submission, stated = dictionary(config.get("submission")), {**dictionary(config.get("system")), **system}
    devices = config.get("devices")
    names = sorted({str(name) for name in devices}) if isinstance(devices, list) else []
    nodes = stated.get("number_of_nodes", dictionary(config.get("reported")).get("number_of_nodes"))
    return System(
        _text(submission.get("org")),
        _text(submission.get("platform")),
        int(nodes) if str(nodes).isdecimal() else None,
        ", ".join(names) or _text(stated.get("accelerator_name") or stated.get("accelerator_model_name")),
    )


def _text(value: object) -> str | None:
    return value.strip() or None if isinstance(value, str) else None
