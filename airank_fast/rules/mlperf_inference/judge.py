"""Collects the findings about one LoadGen test, each with the severity that its place gives it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from airank_fast.numeric import is_number
from airank_fast.record.formats.loadgen import Detail
from airank_fast.rules.findings import ERROR, WARNING, Finding, Rule
from airank_fast.rules.inference_profiles import Profile, Scenario, scenario_of
from airank_fast.rules.mlperf_inference import rules
from airank_fast.rules.mlperf_inference.rules import Benchmark

_LARGEST = 1e24  # beyond any figure of a test: products of two stay floats
_MOST_QUERIES = 10**9


@dataclass(frozen=True)
class Context:
    """What a test is judged by. `profile` None: its seeds are of no round; `benchmark` None: it is not known.

    `test` is performance, accuracy, TEST01, TEST04 or TEST05.
    """

    profile: Profile | None = None
    benchmark: Benchmark | None = None
    test: str = "performance"
    is_submission: bool = False
    is_rehearsal: bool = False
    is_closed: bool = True

    def severity(self, rule: Rule) -> str:
        """The severity of breaking a rule: what only a submission requires is a warning elsewhere."""
        of_size = rule.name in rules.OF_SIZE and (self.is_rehearsal or not self.is_submission)
        of_round = rule.name in rules.OF_ROUND and not self.is_submission
        return WARNING if rule.severity == ERROR and (of_size or of_round) else rule.severity


class Judge:
    """The log of one test, and the findings about it."""

    def __init__(self, path: Path, detail: Detail, context: Context):
        self.path, self.detail, self.context = str(path), detail, context
        self.findings: list[Finding] = []
        self._mistyped: set[str] = set()  # keys whose value is reported

    def find(self, rule: Rule, key: str | int | None, found: str, required: str, severity: str | None = None) -> None:
        """Adds a finding at the line of a key of the log, or at a line."""
        line = self.detail.line(key) if isinstance(key, str) else key
        severity = severity or self.context.severity(rule)
        self.findings.append(rule.broken(self.path, line, found, required, severity))

    def require(self, condition: bool, rule: Rule, key: str, required: str, severity: str | None = None) -> None:
        """Adds a finding unless the condition holds: the key and its value, and what is required."""
        if not condition:
            self.find(rule, key, f"{key} {short(self.detail.value(key))}", f"{required} is required", severity)

    def value(self, key: str) -> object:
        """The value of a key; None if the log has none."""
        return self.detail.value(key)

    def number(self, key: str) -> float | None:
        """The value of a key that must be a number; None if it is missing or no number, which is a finding."""
        value = self.detail.value(key)
        if is_number(value, _LARGEST):
            return value
        if key in self.detail.values:
            self._mistype(key, "a number is required")
        return None

    def count(self, key: str) -> int | None:
        """The value of a key that must be a whole number from 0 to 10^9; None otherwise, which is a finding."""
        value = self.number(key)
        if value is None or (value == int(value) and 0 <= value <= _MOST_QUERIES):
            return None if value is None else int(value)
        self._mistype(key, f"a whole number up to {_MOST_QUERIES:.0e} is required")
        return None

    def _mistype(self, key: str, required: str) -> None:
        if key not in self._mistyped:
            self._mistyped.add(key)
            self.find(rules.RECORD, key, f"{key} {short(self.detail.value(key))}", required)

    @property
    def scenario_name(self) -> str | None:
        """The scenario that ran, by LoadGen's name; None if the log names none that is known."""
        name = self.detail.value("effective_scenario")
        return name if isinstance(name, str) and name in rules.OURS else None

    @property
    def scenario(self) -> Scenario | None:
        """What the round requires of the scenario that ran; None if one of them is not known."""
        profile, benchmark, name = self.context.profile, self.context.benchmark, self.scenario_name
        if profile is None or name is None:
            return None
        return scenario_of(profile, rules.OURS[name], benchmark.task if benchmark else "")

    @property
    def is_performance(self) -> bool:
        """Whether the test measures: all but an accuracy run."""
        return self.context.test != "accuracy"


def short(value: object) -> str:
    """A value in at most 80 characters, for a message."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    return repr(value)[:80]
