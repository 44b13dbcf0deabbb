"""Write docs/tasks.md, the tasks and their targets, from airank_fast/tasks; `--check` only compares.

python bench/tasks.py [--check]
"""

from __future__ import annotations

import sys

import tables

from airank_fast.tasks import Task, all_tasks

PAGE = tables.ROOT / "docs" / "tasks.md"
TOP = """# Tasks

`python bench/tasks.py` writes this page from `airank_fast/tasks`, one file a task. A blank target is a row that the
rule book leaves blank; a dash means that the rule book does not have the task. A target with several metrics is reached
by one evaluation that has all of them. [adding_a_task.md](adding_a_task.md) describes how to add a task.

"""
BOOKS = {
    "AI-Rank 2020-12": "airank 2020-12",
    "AI-Rank 2021-05": "airank 2021-05",
    "MLPerf": "mlperf",
    "FlagPerf": "flagperf",
}


def page() -> str:
    """The whole page."""
    header = ["task", "title", "data set", "unit", "evaluated in", *BOOKS, "trained here"]
    rows = [header, ["---"] * len(header), *(row(task) for task in all_tasks())]
    sources = {target.source for task in all_tasks() for target in task.targets.values()}
    listed = "".join(f"- {source}\n" for source in sorted(sources))
    return TOP + "".join(f"| {' | '.join(cells)} |\n" for cells in rows) + "\nSources of the targets:\n\n" + listed


def row(task: Task) -> list[str]:
    """The cells of a task."""
    targets = [target_text(task, book) for book in BOOKS.values()]
    trained = (tables.ROOT / "airank_fast" / "recipes" / f"{task.name}.py").exists()
    facts = [f"`{task.name}`", f"{task.title['en']}, {task.model}", task.data_set or "-", task.unit, task.counted_in]
    return [*facts, *targets, "yes" if trained else "not yet"]


def target_text(task: Task, column: str) -> str:
    """The targets of a rule book, in each version that the task names: `0.7: bleu 25.00`."""
    found = [(key, target) for key, target in task.targets.items() if key == column or key.startswith(f"{column} ")]
    texts = []
    for key, target in found:
        version = key.removeprefix(column).strip()
        values = [f"{name} {format(value, task.metric(name).format)}" for name, value in target.values.items()]
        texts.append(f"{version}: " * bool(version) + ", ".join(values))
    return "; ".join(texts) if found else "-"


def main() -> int:
    new = page()
    if "--check" in sys.argv:
        return int(not PAGE.exists() or PAGE.read_text(encoding="utf-8") != new)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
