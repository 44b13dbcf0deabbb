"""The inputs of a submission, and the parts that the trees of every format have: code and manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from airank_fast.errors import UserError
from airank_fast.record import source
from airank_fast.rules.findings import Finding
from airank_fast.submission import texts
from airank_fast.submission.candidates import Candidate
from airank_fast.submission.privacy import shorten_all
from airank_fast.submission.results import Result
from airank_fast.submission.system import facts_of_run, is_same_machine
from airank_fast.submission.tree import Tree
from airank_fast.walk import walk

ReportWriter = Callable[[str, list[Candidate], bool], dict[str, str | bytes]]
"""(title, runs, is it a rehearsal) -> file name -> content."""

# Fields that must be equal in all runs of a package, because it has one description.
_ONE_SYSTEM = (
    "submitter",
    "system_name",
    "division",
    "status",
    "host_processor_model_name",
    "accelerator_model_name",
    "framework",
)


def markdown_report(title: str, runs: list[Candidate], is_rehearsal: bool) -> dict[str, str | bytes]:
    """The report where no other writer is given: one Markdown file."""
    return {"report.md": texts.report(title, runs, is_rehearsal)}


@dataclass(frozen=True, kw_only=True)
class Request:
    """The runs of a submission, with what the packager states about them."""

    candidates: list[Candidate]
    results: dict[str, Result] = field(default_factory=dict)  # MLPerf's; the candidates are their runs
    given: dict[str, str] = field(default_factory=dict)  # see system.given_fields
    here: dict = field(default_factory=dict)  # the facts of this machine
    runs_were_here: bool = False  # --this-machine
    allowed: list[Finding] = field(default_factory=list)  # errors under --allow-errors
    is_rehearsal: bool = False
    code: Path | None = None  # the source of another program's runs
    write_report: ReportWriter = markdown_report

    def facts(self) -> tuple[dict, dict]:
        """(the facts of the runs' system, those of this machine if it ran them, else {}); UserError if runs differ.

        With runs of several sizes, the counts of nodes and accelerators are those of the largest.
        """
        found: dict = {}
        for one in sorted(self.candidates, key=lambda one: one.cards or 0):
            facts = facts_of_run(one.system, one.config)
            for name in _ONE_SYSTEM:
                if name not in self.given and name in found and facts.get(name, found[name]) != found[name]:
                    raise UserError(
                        f"{one.log}: must have {name} {found[name]!r} as in the other runs, got {facts[name]!r}"
                    )
            found |= facts
        return found, self.here if self.runs_were_here or is_same_machine(found, self.here) else {}

    def source(self) -> tuple[dict | None, bool]:
        """(identity of the source that is handed in, whether it is that of the commit, not of the working files).

        The identity is None if another program made the runs.
        """
        if self.code is not None:
            return None, False
        commit = next((one.source["commit"] for one in self.candidates if "commit" in one.source), None)
        if commit is not None and source.has_commit(commit):
            return {**source.identity(), "commit": commit, "modified": "0"}, True
        return source.identity(), False

    def first_line(self) -> str | None:
        """The line before a log of a rehearsal; readers of every format skip it."""
        return f"# {texts.BANNER}" if self.is_rehearsal else None


def add_code(tree: Tree, folder: str, title: str, runs: list[Candidate], request: Request) -> None:
    """Add README, commands, recipes and, under source/, the code that ran."""
    if request.code is None and any(one.run.format != "events" for one in runs):
        raise UserError("--code: must have the source that made the runs for runs without events.jsonl, got none")
    identity, _ = request.source()
    readme = texts.code_readme(title, runs, identity, request.allowed, request.is_rehearsal)
    tree.add(f"{folder}/README.md", readme)
    if script := texts.script(runs, request.is_rehearsal):
        tree.add(f"{folder}/run_and_time.sh", script)
    for number, one in enumerate(runs):
        recipe = {"rehearsal": texts.BANNER} if request.is_rehearsal else {}
        tree.add_json(f"{folder}/recipes/run_{number}.json", recipe | texts.recipe_of(one))
    add_source(tree, f"{folder}/source", request)


def add_source(tree: Tree, folder: str, request: Request, with_hidden: bool = True) -> None:
    """Add the code that ran: `request.code`, else the commit that the runs recorded, else this checkout or package.

    Without `with_hidden` files and folders whose names begin with a dot are left out.
    """
    identity, is_at_commit = request.source()
    found: Iterable[tuple[str, bytes | Path]]
    if request.code is not None:
        found = _files(request.code)
    else:
        found = source.files_of(identity["commit"]) if is_at_commit else source.files()
    for name, content in found:
        if not with_hidden and any(part.startswith(".") for part in name.split("/")):
            continue
        if isinstance(content, bytes):
            tree.add(f"{folder}/{name}", content)
        else:
            tree.copy(f"{folder}/{name}", content)


def _files(root: Path) -> list[tuple[str, Path]]:
    """Every file below a folder except git's own and compiled Python; UserError without one, or for a symbolic link."""
    if not root.is_dir():
        raise UserError(f"--code: must be a directory, got {root}")
    skipped = {".git", "__pycache__"}
    files = []
    for entry in walk(root, lambda entry: entry.name not in skipped):
        if entry.name in skipped:
            continue
        if entry.is_symlink():
            raise UserError(f"--code: must be files without symbolic links, got {entry.path}")
        if entry.is_file():
            files.append((Path(entry.path).relative_to(root).as_posix(), Path(entry.path)))
    if not files:
        raise UserError(f"--code: must be a directory with files, got {root}, which holds none")
    return files


def manifest(form: str, logs: Iterable[tuple[str, Candidate]], request: Request) -> dict:
    """manifest.json: the package's format, its logs with their figures, and the errors that were allowed."""
    entries = []
    for name, one in logs:
        summary = one.run.summary
        entries.append(
            {
                "log": name,
                "benchmark": one.benchmark,
                "cards": one.cards,
                "seed": one.config.get("seed"),
                "status": summary["status"],
                "total_time_s": summary["total_time"],
            }
        )
    return manifest_of(form, entries, request)


def manifest_of(form: str, entries: list[dict], request: Request) -> dict:
    """manifest.json with these entries of logs."""
    return {
        "format": form,
        **({"rehearsal": texts.BANNER} if request.is_rehearsal else {}),
        "made_by": source.identity(),
        "runs": entries,
        "allowed_errors": shorten_all([one.to_json() for one in request.allowed]),
    }
