"""The texts of a submission: how to run the code, how to get the data, and the results."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from airank_fast.record.events import dictionary
from airank_fast.rules.findings import Finding
from airank_fast.submission.candidates import Candidate
from airank_fast.submission.privacy import shorten, shorten_all

BANNER = (
    "REHEARSAL (演练): made on an ordinary machine with embedded data to try out a submission; no result. "
    "演练产物，不是成绩，不得作为提交。"
)
_DATA = {
    "resnet": """ImageNet 2012 (ILSVRC2012): 1,281,167 training and 50,000 validation images in 1000 classes. An account
at <https://image-net.org> gives access to ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and
ILSVRC2012_devkit_t12.tar.gz. Unpacked and checked with

    python -m airank_fast.prepare imagenet --train TAR --val TAR --devkit TAR --output DIR
    python -m airank_fast.prepare --verify DIR

into DIR/train/<class>/*.JPEG and DIR/val/<class>/*.JPEG. Decoding, cropping and flipping happen during the run.
""",
    "bert": """The English Wikipedia (MLPerf: the dump of 2020-01-01), as shards of masked samples. Shards that the
scripts of NVIDIA and MLPerf write are read as they are; made anew from a dump and checked with

    python -m airank_fast.prepare wikicorpus --input DUMP.xml.bz2 --output DIR --vocab vocab.txt
    python -m airank_fast.prepare --verify DIR

""",
}
INSTALL = """## Install

With PyTorch in the environment, in the folder of the source:

    python -m pip install --no-build-isolation .
    python -m airank_fast.info
"""
_EMBEDDED = {
    "digits": "The embedded data set of handwritten digits, which comes with the package; nothing is downloaded.\n",
    "pydoc": "The documentation that comes with Python, read from the installed Python; nothing is downloaded.\n",
}


def banner(is_rehearsal: bool) -> str:
    """The lines that open a Markdown file of a rehearsal; "" in a real one."""
    return f"> **{BANNER}**\n\n" if is_rehearsal else ""


def command_of(one: Candidate) -> str:
    """The command that made the run, ready for a shell, home folders shortened; "" where the run has none."""
    arguments, ranks = one.config.get("command"), one.cards or 1
    if not isinstance(arguments, list) or not arguments:
        return ""
    nodes = one.system.get("number_of_nodes")
    nodes = nodes if type(nodes) is int and 0 < nodes <= ranks else 1
    launcher = ["python"]
    if ranks > 1:
        launcher = ["torchrun", *([f"--nnodes={nodes}"] if nodes > 1 else []), f"--nproc-per-node={ranks // nodes}"]
    return shorten(shlex.join([*launcher, "-m", "airank_fast.train", *map(str, arguments[1:])]))


def script(runs: Iterable[Candidate], is_rehearsal: bool) -> str:
    """A shell script with the exact commands of all runs; "" where no run has its own."""
    commands = [command for one in runs if (command := command_of(one))]
    if not commands:
        return ""
    head = ["#!/bin/sh", "# The commands that made these runs; home folders are shortened to ~."]
    return "\n".join([*head, *([f"# {BANNER}"] if is_rehearsal else []), "set -e", *commands]) + "\n"


def recipe_of(one: Candidate) -> dict:
    """The settings that decided what the run computed."""
    config = one.config
    names = ("benchmark", "recipe", "seed", "precision", "target", "world_size", "global_batch_size", "reported")
    return shorten_all({name: config[name] for name in names if config.get(name) not in (None, {})})


def code_readme(
    title: str, runs: list[Candidate], source: dict | None, findings: list[Finding], is_rehearsal: bool
) -> str:
    """README.md of an implementation: its source, installation, data, commands and checks.

    `source` is the identity of our source code; None if another program made the runs.
    """
    commands = "\n".join(f"    {command}" for command in dict.fromkeys(map(command_of, runs)) if command)
    recorded = sorted({version_of(one.source) for one in runs if one.source})
    parts = [
        banner(is_rehearsal) + f"# {title}\n",
        f"{version_of(source) if source else 'The program that made the runs'}: its source is in `source/`, the "
        "settings of each run in `recipes/`.",
        *([f"The runs recorded of their own source: {'; '.join(recorded)}."] if recorded else []),
        *([INSTALL] if source else []),
        "## Data\n\n" + data_text(runs),
        "## Run\n\n"
        + (commands or "The logs do not have the commands that made them; see `source/`.")
        + ("\n\nThe same, as a script: `run_and_time.sh`." if commands else ""),
        "## Check\n\n    python -m airank_fast.verify LOG...\n    python -m airank_fast.package --check DIR",
        *([findings_text(findings)] if findings else []),
    ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def version_of(source: dict) -> str:
    """The name, version and commit of source code, and how many files differ from the commit."""
    changed = f" with {source['modified']} files changed" if source.get("modified") not in (None, "0") else ""
    commit = f", commit {source['commit']}" if "commit" in source else ""
    return f"{source.get('name', '')} {source.get('version', '')}{commit}{changed}"


def findings_text(findings: list[Finding]) -> str:
    """A section with the errors that the packager allowed."""
    lines = [
        f"- `{finding.rule}`, {shorten(finding.path)}: {shorten(finding.found)}; {finding.required}"
        for finding in findings
    ]
    return f"## Packaged with --allow-errors\n\nThe rules refuse these {len(lines)} points:\n\n" + "\n".join(lines)


def data_text(runs: list[Candidate]) -> str:
    """How to get and prepare the data of one benchmark, with sizes and checksums as the runs saw them."""
    recipe = dictionary(runs[0].config.get("recipe")).get("name")
    text = _EMBEDDED.get(str(recipe)) or _DATA.get(runs[0].mlperf_name, "")
    seen = {}
    for one in runs:
        data = {**{k: v for k, v in one.config.items() if k.endswith("_samples")}, **one.run.first("data")}
        names = ("train_samples", "eval_samples", "classes", "checksum")
        seen.setdefault(tuple((name, str(data[name])) for name in names if data.get(name) not in (None, "none")), None)
    lines = [", ".join(f"{name} {value}" for name, value in facts) for facts in seen if facts]
    return text + ("\nAs the runs read it: " + "; ".join(lines) + ".\n" if lines else "")


def data_readme(title: str, runs: list[Candidate], is_rehearsal: bool) -> str:
    """README.md of a data folder."""
    return banner(is_rehearsal) + f"# {title}: data\n\n{data_text(runs)}"


def report(title: str, runs: list[Candidate], is_rehearsal: bool) -> str:
    """A summary of the runs in Markdown: the command of each and its figures."""
    rows = ["| run | seed | cards | precision | status | minutes | best accuracy | samples/s |", "|---" * 8 + "|"]
    for number, one in enumerate(runs):
        summary, seed = one.run.summary, one.config.get("seed")
        cells = [
            number,
            seed,
            one.cards,
            summary["precision"],
            summary["status"],
            _number(_minutes(one), 4),
            _number(summary["best_accuracy"], 4),
            _number(summary["avg_ips"], 1),
        ]
        rows.append("| " + " | ".join("-" if cell is None else str(cell) for cell in cells) + " |")
    head = banner(is_rehearsal) + f"# {title}: 测试&复现报告 / test and reproduction report\n\n"
    commands = [f"    {command}" for command in dict.fromkeys(map(command_of, runs)) if command]
    return head + "\n".join(rows) + "\n" + ("\nReproduce with\n\n" + "\n".join(commands) + "\n" if commands else "")


def _minutes(one: Candidate) -> float | None:
    seconds = one.run.summary["total_time"]
    return None if seconds is None else seconds / 60


def _number(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:.{digits}f}"
