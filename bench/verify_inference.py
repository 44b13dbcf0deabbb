"""Changed submission trees of MLPerf inference, each judged by airank_fast and by the official checkers of both rounds.

    python bench/verify_inference.py --checkout INFERENCE [--save]

INFERENCE is a git clone of mlcommons/inference with its tag v4.0. The checker of 6.1 is that of its newest commit. Both
are read from the clone with `git show` into a temporary folder, and run in this process; they need pandas and pyyaml.
The changes are those of tests/rules/inference_mutations.py. --save writes bench/results/verify_inference.jsonl and from
it the table of docs/verify-inference.md.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import logging
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from rules.inference_mutations import MUTATIONS  # noqa: E402
from rules.loadgen_logs import write_tree  # noqa: E402

DOCS = ROOT / "docs" / "verify-inference.md"
FOLDER = "tools/submission"
CHECKERS = {"v6.1": ("HEAD", "submission_checker.main"), "v4.0": ("v4.0", "submission_checker")}


def extract(checkout: Path, revision: str, folder: Path) -> None:
    """The Python files of a revision's checker, below a folder."""
    git = ["git", "-C", str(checkout)]
    listed = subprocess.run([*git, "ls-tree", "-r", "--name-only", revision, FOLDER], check=True, capture_output=True)
    for name in listed.stdout.decode().splitlines():
        if name.endswith((".py", "sources_checksums.json")):
            path = folder / Path(name).relative_to(FOLDER)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(
                subprocess.run([*git, "show", f"{revision}:{name}"], check=True, capture_output=True).stdout
            )


def load(folder: Path, module: str):
    """The main function of a checker in a folder."""
    for name in [name for name in sys.modules if name.split(".")[0] in ("submission_checker", "log_parser")]:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(module).main
    finally:
        sys.path.remove(str(folder))


def official(main, tree: Path, round_name: str) -> str:
    """The verdict of a checker on a tree: passes, refuses, or crashes."""
    here, arguments = os.getcwd(), sys.argv
    sys.argv = ["checker", "--input", str(tree), "--version", round_name, "--csv", str(tree.parent / "summary.csv")]
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            status = main()
    except SystemExit as error:
        status = error.code
    except Exception:  # whatever a changed tree makes of it
        return "crashes"
    finally:
        os.chdir(here)
        sys.argv = arguments
    return "refuses" if status else "passes"


def ours(tree: Path) -> list[str]:
    """The rules that airank_fast finds broken, without the prefix."""
    from airank_fast.rules import verifying
    from airank_fast.rules.findings import ERROR

    found = (each.rule for each in verifying.verify(tree) if each.severity == ERROR)
    return list(dict.fromkeys(name.removeprefix("inference.") for name in found))


def judge(round_name: str, main) -> list[dict]:
    """The untouched tree and every change of a round, with the verdicts of both."""
    judged = []
    for mutation in [None, *(each for each in MUTATIONS if round_name in each.rounds)]:
        with tempfile.TemporaryDirectory() as folder:
            tree = Path(folder) / "tree"
            place = write_tree(tree, round_name)
            if mutation:
                mutation.edit(place, round_name)
            name, is_known = (mutation.name, mutation.is_known) if mutation else ("untouched", False)
            verdicts = {"rules": ours(tree), "official": official(main, tree, round_name)}
            judged.append({"round": round_name, "mutation": name, "is_known": is_known, **verdicts})
    return judged


def table(judged: list[dict], commit: str) -> list[str]:
    """The lines of the page: how many each refuses, and the changes with both rounds' verdicts."""
    lines = [
        "| round | forbidden | refused by airank_fast | by the official checker (of these, by a crash) |",
        "| --- " * 4 + "|",
    ]
    for round_name in CHECKERS:
        mine = [each for each in judged if each["round"] == round_name and each["mutation"] != "untouched"]
        verdicts = Counter(each["official"] for each in mine)
        refused = f"{len(mine) - verdicts['passes']} ({verdicts['crashes']})"
        lines.append(f"| {round_name} | {len(mine)} | {sum(bool(each['rules']) for each in mine)} | {refused} |")
    lines += ["", "| change | airank_fast | official 6.1 | official 4.0 |", "| --- " * 4 + "|"]
    for name in dict.fromkeys(each["mutation"] for each in judged):
        of_round = {each["round"]: each for each in judged if each["mutation"] == name}
        rules = ", ".join(dict.fromkeys(rule for each in of_round.values() for rule in each["rules"])) or "accepts"
        verdicts = [of_round[each]["official"] if each in of_round else "" for each in CHECKERS]
        lines.append(f"| {name} | {rules} | {' | '.join(verdicts)} |")
    return [*lines, "", f"`bench/verify_inference.py --save`, commit {commit}."]


def save(judged: list[dict]) -> None:
    """Rewrite bench/results/verify_inference.jsonl, and the table from it."""
    import harness

    (harness.RESULTS / "verify_inference.jsonl").unlink(missing_ok=True)
    for round_name in CHECKERS:
        mine = [each for each in judged if each["round"] == round_name]
        line = harness.append("verify_inference", round_name, judged=mine)
    before, mark, rest = DOCS.read_text(encoding="utf-8").partition("<!-- mutations -->\n")
    after = rest.partition("<!-- end -->")[2]
    text = "\n".join(table(judged, line["commit"]))
    DOCS.write_text(before + mark + text + "\n<!-- end -->" + after, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, required=True, help="a git clone of mlcommons/inference")
    parser.add_argument("--save", action="store_true", help="write bench/results/ and the page")
    options = parser.parse_args()
    judged = []
    for round_name, (revision, module) in CHECKERS.items():
        with tempfile.TemporaryDirectory() as folder:
            extract(options.checkout, revision, Path(folder))
            checker = load(Path(folder), module)
            logging.disable(logging.CRITICAL)
            judged += judge(round_name, checker)
            logging.disable(logging.NOTSET)
    print("\n".join(table(judged, "")[:4]))
    if options.save:
        save(judged)


if __name__ == "__main__":
    main()
