"""docs/verify.md names every rule of the books that it describes."""

import re
from pathlib import Path

from airank_fast.rules import (
    agreement,
    airank,
    airank_figures,
    airank_inference,
    events,
    flagperf,
    flagperf_inference,
    inference_events,
    verifying,
)
from airank_fast.rules.findings import Rule
from airank_fast.rules.mlperf_inference import rules as inference_rules

TEXT = (Path(__file__).parents[2] / "docs" / "verify.md").read_text(encoding="utf-8")


def rules_of(module) -> set[str]:
    values = [*vars(module).values(), *getattr(module, "_ODD", {}).values()]
    return {value.name for value in values if isinstance(value, Rule)}


def test_every_rule_is_documented():
    modules = (agreement, airank, airank_figures, airank_inference, events, flagperf, flagperf_inference)
    modules += (inference_events, verifying)
    names = {name for module in modules for name in rules_of(module)} | {f"file.{name}" for name in verifying._ODDITIES}
    assert len(names) > 50
    words = set(re.findall(r"[a-z0-9_]+", TEXT))
    assert [name for name in sorted(names) if name.partition(".")[2] not in words] == []


def test_every_rule_of_inference_is_documented():
    text = (Path(__file__).parents[2] / "docs" / "verify-inference.md").read_text(encoding="utf-8")
    names = {name.partition(".")[2] for name in rules_of(inference_rules)}
    assert len(names) > 40
    assert names - set(re.findall(r"[a-z0-9_]+", text)) == set()
