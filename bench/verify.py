"""Verifying MLPerf logs: a large one against only reading it in time, and changed ones against the official checker.

    python bench/verify.py [--save] [--size-mb N] [--rounds N]
    python bench/verify.py --mutations [--save]

The large log is valid: a run of ResNet-50 whose trainer logs its throughput after every step, as NVIDIA's do after
every epoch. The contestants take turns, each in a process of its own, from its start to its end:

    verify      python -m airank_fast.verify LOG
    json loop   for line in file: json.loads(line), the least that reading the log takes
    official    mlperf-logging's compliance checker, on a log a hundredth the size

Memory is the largest resident size of the process, with the pages of files that it maps.

With --mutations: tests/rules/mutations.py, each judged by the official checker and by airank_fast. --save writes
bench/results/verify_mutations.jsonl and from it the table of docs/verify-mlperf.md.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from rules import mlperf_logs, mutations  # noqa: E402

DOCS = ROOT / "docs" / "verify-mlperf.md"
LOOP = """
import json, sys
token, count = ":::MLLOG ", 0
with open(sys.argv[1], encoding="utf-8") as file:
    for line in file:
        if line.startswith(token):
            json.loads(line[len(token):])
            count += 1
print(count)
"""
OFFICIAL = ["-m", "mlperf_logging.compliance_checker", "--usage", "training", "--ruleset", "4.0.0", "--log_output"]
COMMANDS = {
    "verify": ["-m", "airank_fast.verify"],
    "json loop": ["-c", LOOP],
    "official": [*OFFICIAL, os.devnull],
}


def make_log(path: Path, num_bytes: int) -> int:
    """A valid log of about that size; returns its number of lines."""
    lines = mlperf_logs.compliant("resnet-lars")
    num_blocks = sum('"block_start"' in line for line in lines)
    count = step = 0
    with open(path, "w", encoding="utf-8") as file:
        for line in lines:
            file.write(line + "\n")
            count += 1
            if '"block_start"' not in line:
                continue
            time_ms, stop = mlperf_logs.decode(line)["time_ms"], file.tell() + num_bytes // num_blocks
            while file.tell() < stop:
                block = [stats(time_ms, step + k) for k in range(1000)]
                file.write("".join(block))
                step, count = step + len(block), count + len(block)
    return count


def stats(time_ms: int, step: int) -> str:
    """The line that a trainer logs for a step."""
    throughput = 56_000 + step * 0.7310585786 % 1000
    return (
        f':::MLLOG {{"namespace": "", "time_ms": {time_ms}, "event_type": "POINT_IN_TIME", "key": "tracked_stats", '
        f'"value": {{"throughput": {throughput}}}, "metadata": {{"file": "image_classification/common/fit.py", '
        f'"lineno": 1001, "step": {step}}}}}\n'
    )


def run(name: str, path: Path) -> dict:
    """Seconds and peak resident memory of a contestant on a log."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *COMMANDS[name], str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT
    )
    output = process.stdout.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"{name}: {output}"
    return {"s": seconds, "cpu_s": usage.ru_utime + usage.ru_stime, "peak_mb": usage.ru_maxrss * 1024 / 1e6}


def compare(names: list[str], num_bytes: int, num_rounds: int, folder: Path) -> dict:
    """The medians of each contestant, and how many times as long as the json loop each takes."""
    path = folder / "result_0.txt"
    num_lines = make_log(path, num_bytes)
    rounds = [{name: run(name, path) for name in (names if k % 2 else names[::-1])} for k in range(num_rounds)]
    facts = {"size_mb": path.stat().st_size / 1e6, "num_lines": num_lines, "num_rounds": num_rounds}
    for name in names:
        median = {key: statistics.median(each[name][key] for each in rounds) for key in rounds[0][name]}
        ratio = statistics.median(each[name]["s"] / each["json loop"]["s"] for each in rounds)
        facts[name] = {**median, "times_the_json_loop": ratio}
        print(f"  {name:10} {median['s']:7.2f} s ({ratio:.2f} x the json loop), {median['peak_mb']:.0f} MB at most")
    path.unlink()
    return facts


def judge_mutations() -> list[dict]:
    """Each mutation, with the verdicts of both checkers."""
    from airank_fast.record.lines import Lines
    from airank_fast.rules.findings import ERROR
    from airank_fast.rules.mlperf import order

    logging.disable(logging.CRITICAL)
    judged = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result_0.txt"
        for mutation in mutations.MUTATIONS:
            for name in mutation.on:
                path.write_text("\n".join(mutation.mutate(mlperf_logs.compliant(name))) + "\n", encoding="utf-8")
                errors = [finding.rule for finding in order.check(Lines(path)) if finding.severity == ERROR]
                judged.append(
                    {
                        "log": name,
                        "mutation": mutation.name,
                        "forbidden": mutation.forbidden,
                        "why": mutation.why,
                        "official": mlperf_logs.official(path),
                        "rules": list(dict.fromkeys(errors)),
                    }
                )
    logging.disable(logging.NOTSET)
    return judged


def counts(judged: list[dict]) -> list[dict]:
    """By log: how many mutations the rules forbid and allow, and with how many of these each checker agrees."""
    rows = []
    for name in mutations.ALL:
        mine = [each for each in judged if each["log"] == name]
        forbidden = [each for each in mine if each["forbidden"]]
        allowed = [each for each in mine if not each["forbidden"]]
        rows.append(
            {
                "log": name,
                "forbidden": len(forbidden),
                "caught_by_airank_fast": sum(bool(e["rules"]) for e in forbidden),
                "caught_by_official": sum(e["official"] != "passes" for e in forbidden),
                "crashes_official": sum(e["official"] == "crashes" for e in forbidden),
                "allowed": len(allowed),
                "accepted_by_airank_fast": sum(not e["rules"] for e in allowed),
                "accepted_by_official": sum(e["official"] == "passes" for e in allowed),
            }
        )
    return rows


def write_table(judged: list[dict], commit: str) -> None:
    """Write the numbers of mutations caught, and each mutation, to docs/verify-mlperf.md."""
    lines = [
        "| log | forbidden | caught by airank_fast | by the official checker (of these, by a crash) | allowed | "
        "accepted by airank_fast | by the official checker |",
        "| --- " * 7 + "|",
    ]
    for row in counts(judged):
        official = f"{row['caught_by_official']} ({row['crashes_official']})"
        cells = [row["log"], row["forbidden"], row["caught_by_airank_fast"], official, row["allowed"]]
        cells += [row["accepted_by_airank_fast"], row["accepted_by_official"]]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", "| change | rules | logs | airank_fast | official | because |", "| --- " * 6 + "|"]
    merged: dict[tuple, list[str]] = {}
    for each in judged:
        rules = ", ".join(rule.removeprefix("mlperf.") for rule in each["rules"]) or "accepts"
        forbid = "forbid" if each["forbidden"] else "allow"
        merged.setdefault((each["mutation"], forbid, rules, each["official"], each["why"]), []).append(each["log"])
    for (mutation, forbid, rules, official, why), names in merged.items():
        logs = "all" if len(names) == len(mutations.ALL) else ", ".join(names)
        lines.append(f"| {mutation} | {forbid} | {logs} | {rules} | {official} | {why} |")
    lines += ["", f"mlperf-logging {version('mlperf-logging')}; `bench/verify.py --mutations --save`, commit {commit}."]
    replace_in_docs("mutations", lines)


def save_mutations(judged: list[dict]) -> None:
    """Rewrite bench/results/verify_mutations.jsonl, and the table from it."""
    import harness

    (harness.RESULTS / "verify_mutations.jsonl").unlink(missing_ok=True)
    for row in counts(judged):
        mine = [each for each in judged if each["log"] == row["log"]]
        line = harness.append("verify_mutations", row["log"], **row, judged=mine)
    write_table(judged, line["commit"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="append to bench/results/")
    parser.add_argument("--mutations", action="store_true", help="judge changed logs instead")
    parser.add_argument("--size-mb", type=int, default=1000, help="of the large log")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    if options.mutations:
        judged = judge_mutations()
        print(json.dumps(counts(judged), indent=1))
        if options.save:
            save_mutations(judged)
        return
    names = ["verify", "json loop"]
    sizes = {options.size_mb: names, max(1, options.size_mb // 100): [*names, "official"]}
    measured = {}
    with tempfile.TemporaryDirectory() as folder:
        for size_mb, those in sizes.items():
            print(f"{size_mb} MB")
            rounds = options.rounds if size_mb == options.size_mb else 3
            measured[f"{size_mb} MB"] = compare(those, size_mb * 10**6, rounds, Path(folder))
    if options.save:
        save_speed(measured)


def save_speed(measured: dict[str, dict]) -> None:
    """Append to bench/results/verify.jsonl, and write the table of docs/verify-mlperf.md."""
    import harness  # not before: a child process counts the memory of its parent at the fork

    lines = ["| log | | time | of the json loop | memory |", "| --- " * 5 + "|"]
    for case, facts in measured.items():
        line = harness.append("verify", case, **facts)
        for name in (name for name in COMMANDS if name in facts):
            cells = [f"{facts['size_mb']:.0f} MB, {facts['num_lines']} lines", name, f"{facts[name]['s']:.2f} s"]
            cells += [f"{facts[name]['times_the_json_loop']:.2f}", f"{facts[name]['peak_mb']:.0f} MB"]
            lines.append(f"| {' | '.join(cells)} |")
    where = f"{line['machine']['devices'][-1]}; Python {sys.version.split()[0]}"
    lines += ["", f"{where}; `bench/verify.py --save`, commit {line['commit']}."]
    replace_in_docs("speed", lines)


def replace_in_docs(name: str, lines: list[str]) -> None:
    """Put lines between the marks of docs/verify-mlperf.md."""
    before, mark, rest = DOCS.read_text(encoding="utf-8").partition(f"<!-- {name} -->\n")
    after = rest.partition("<!-- end -->")[2]
    DOCS.write_text(before + mark + "\n".join(lines) + "\n<!-- end -->" + after, encoding="utf-8")


if __name__ == "__main__":
    main()
