"""`python -m airank_fast` lists the commands, each with the first line of its module's docstring."""

from __future__ import annotations

import ast
from pathlib import Path

from airank_fast.cli import run_command


def commands() -> dict[str, str]:
    """Name -> first docstring line of each module here that can be run; read from source, not imported."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        runs = any(isinstance(node, ast.If) and "__main__" in ast.unparse(node.test) for node in tree.body)
        if runs and path.name != Path(__file__).name:
            found[path.stem] = (ast.get_docstring(tree) or "").split("\n")[0]
    return found


def main() -> None:
    """Print the list."""
    listed = commands()
    width = max(map(len, listed))
    print("usage: python -m airank_fast.COMMAND [--help]\n\ncommands:")
    for name, line in listed.items():
        print(f"  {name:<{width}}  {line}")


if __name__ == "__main__":
    run_command(main)
