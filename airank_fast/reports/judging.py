"""The findings of the rule books about a run, for a report: counted, with the graver ones in a bounded table."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from airank_fast import tasks
from airank_fast.errors import UserError
from airank_fast.record.events import Event
from airank_fast.reports.cleaning import clean, number
from airank_fast.rules import verifying
from airank_fast.rules.facts import Facts
from airank_fast.rules.findings import ERROR, SEVERITIES, WARNING, Finding

MAX_ROWS = 20  # of a run
_MAX_TEXT = 400


@dataclass(frozen=True)
class ShownFinding:
    """A finding in a report: severity, place in the run, what was found and is required, and the rule."""

    severity: str
    place: str
    text: str
    rule: str


@dataclass
class Verdict:
    """Findings about a run: how many of each severity, errors and then warnings up to MAX_ROWS, and how many more."""

    counts: dict[str, int] = field(default_factory=dict)
    rows: list[ShownFinding] = field(default_factory=list)
    has_rules: bool = True  # a rule book covers the format

    @property
    def num_more(self) -> int:
        return self.counts.get(ERROR, 0) + self.counts.get(WARNING, 0) - len(self.rows)


def judge(path: Path, config: Event, given: dict) -> Verdict:
    """The findings about the run at `path`, whose run_config is `config`; `given` are the user's facts about it."""
    facts = Facts(
        task=None if tasks.is_smaller(config.get("benchmark")) else tasks.of(config),
        target=number(given.get("target")),
        target_source="--set target",
        samples_per_epoch=given.get("samples_per_epoch"),
        warmup_epochs=given.get("warmup_epochs_excluded"),
    )
    counts: Counter[str] = Counter()
    kept: dict[str, list[Finding]] = {ERROR: [], WARNING: []}
    try:
        for finding in verifying.verify(path, facts):
            counts[finding.severity] += 1
            if len(kept.get(finding.severity, ())) < MAX_ROWS:
                kept.setdefault(finding.severity, []).append(finding)
    except UserError:
        return Verdict(has_rules=False)
    rows = [_shown(finding, path) for finding in [*kept[ERROR], *kept[WARNING]][:MAX_ROWS]]
    return Verdict({severity: counts[severity] for severity in SEVERITIES}, rows)


def _shown(finding: Finding, path: Path) -> ShownFinding:
    place = Path(finding.path)
    name = place.relative_to(path).as_posix() if path.is_dir() and place.is_relative_to(path) else place.name
    line = "" if finding.line is None else f":{finding.line}"
    return ShownFinding(
        finding.severity,
        clean(name, 200) + line,
        clean(f"{finding.found}; {finding.required}", _MAX_TEXT),
        finding.rule,
    )
