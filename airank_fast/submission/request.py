"""What a submission is built from, and the parts that every format's tree has: code, manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from airank_fast.errors import UserError
from airank_fast.record import source
from airank_fast.rules.findings import Finding
from airank_fast.submission import texts
from airank_fast.submission.candidates import Candidate
from airank_fast.submission.privacy import shorten
from airank_fast.submission.system import facts_of_run, is_same_machine
from airank_fast.submission.tree import Tree

ReportWriter = Callable[[str, list[Candidate], bool], dict[str, str | bytes]]
"""(title, runs, is it a rehearsal) -> file name -> content."""

# What must be alike in all runs of a package, because one description stands for them.
_ONE_SYSTEM = ("submitter", "system_name", "division", "status", "host_processor_model_name", "accelerator_model_name",
               "framework")  # fmt: skip


def markdown_report(title: str, runs: list[Candidate], is_rehearsal: bool) -> dict[str, str | bytes]:
    """The report where no other writer is given: one Markdown file."""
    return {"report.md": texts.report(title, runs, is_rehearsal)}


@dataclass(frozen=True, kw_only=True)
class Request:
    """Runs, and what is known about them besides."""

    candidates: list[Candidate]
    given: dict[str, str] = field(default_factory=dict)  # see system.given_fields
    here: dict = field(default_factory=dict)  # the facts of this machine
    runs_were_here: bool = False  # the packager's word for it
    allowed: list[Finding] = field(default_factory=list)  # errors that are let through
    is_rehearsal: bool = False
    write_report: ReportWriter = markdown_report

    def facts(self) -> tuple[dict, dict]:
        """(what the runs say of their system, what this machine adds if it is the one); UserError if runs differ.

        Of several sizes, the counts of nodes and accelerators are those of the largest run.
        """
        told = [
            (one.cards or 0, facts_of_run(one.run.first("system"), one.config), one)
            for one in self.candidates
        ]
        found: dict = {}
        for _, facts, one in sorted(told, key=lambda item: item[0]):
            for name in _ONE_SYSTEM:
                if name not in self.given and name in found and facts.get(name, found[name]) != found[name]:
                    raise UserError(f"{one.log}: {name} {found[name]!r} is required as in the other runs, "
                                    f"got {facts[name]!r}")  # fmt: skip
            found |= facts
        return found, self.here if self.runs_were_here or is_same_machine(found, self.here) else {}

    def first_line(self) -> str | None:
        """What is put before a log of a rehearsal: readers of every format pass over it."""
        return f"# {texts.BANNER}" if self.is_rehearsal else None


def add_code(tree: Tree, folder: str, title: str, runs: list[Candidate], request: Request) -> None:
    """Add README, commands, recipes and the source code under `folder`."""
    readme = texts.code_readme(title, runs, source.identity(), "source/", request.allowed, request.is_rehearsal)
    tree.add(f"{folder}/README.md", readme)
    if script := texts.script(runs, request.is_rehearsal):
        tree.add(f"{folder}/run_and_time.sh", script)
    for number, one in enumerate(runs):
        recipe = {"rehearsal": texts.BANNER} if request.is_rehearsal else {}
        tree.add_json(f"{folder}/recipes/run_{number}.json", recipe | texts.recipe_of(one))
    for name, path in source.files():
        tree.copy(f"{folder}/source/{name}", path)


def manifest(form: str, logs: Iterable[tuple[str, Candidate]], request: Request) -> dict:
    """manifest.json: what the package is, which logs it holds with their figures, and what was let through."""
    entries = []
    for name, one in logs:
        summary = one.run.summary
        entries.append({
            "log": name,
            "benchmark": one.benchmark,
            "cards": one.cards,
            "seed": one.config.get("seed"),
            "status": summary["status"],
            "total_time_s": summary["total_time"],
        })  # fmt: skip
    return {
        "format": form,
        **({"rehearsal": texts.BANNER} if request.is_rehearsal else {}),
        "made_by": source.identity(),
        "runs": entries,
        "allowed_errors": [
            {"rule": one.rule, "log": shorten(one.path), "line": one.line, "found": shorten(one.found),
             "required": one.required}
            for one in request.allowed
        ],  # fmt: skip
    }
