"""Findings: each states one broken rule of a rule book, its place and its source."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

ERROR, WARNING, NOTE = "error", "warning", "note"
SEVERITIES = (ERROR, WARNING, NOTE)  # the rules refuse it; a reviewer will object; for information


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule of a book: a stable name (`mlperf.time_order`), the severity of a violation, and its source
    (document and section)."""

    name: str
    severity: str
    source: str

    def broken(self, path: str, line: int | None, found: str, required: str, severity: str | None = None) -> Finding:
        """A finding that this rule is broken at `path`:`line` (None: the file as a whole)."""
        return Finding(severity or self.severity, path, line, self.name, self.source, found, required)


@dataclass(frozen=True)
class Finding:
    """One broken rule at one place: what was found there, and what is required."""

    severity: str
    path: str
    line: int | None
    rule: str
    source: str
    found: str
    required: str

    def __str__(self) -> str:
        place = self.path if self.line is None else f"{self.path}:{self.line}"
        return f"{place}: {self.severity}: {self.found}; {self.required} [{self.rule}: {self.source}]"

    def to_json(self) -> dict:
        """The fields by their names."""
        return asdict(self)


def worst(findings: Iterable[Finding]) -> str | None:
    """The gravest severity among the findings; None if there are none."""
    found = {finding.severity for finding in findings}
    return next((severity for severity in SEVERITIES if severity in found), None)
